"""How many files a process may have open: as many as it is allowed to ask for."""

from __future__ import annotations

import resource
from contextlib import suppress


def raise_file_limit() -> int:
    """Raise the soft limit to the hard one: connections, and the files of disks, are more than the usual 1,024. The
    limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # not allowed after all: the soft one holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
