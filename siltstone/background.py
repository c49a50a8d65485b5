"""Starting the owner of a volume in the background: a process of its own that outlives the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from siltstone.errors import Refused, Unavailable
from siltstone.home import Home


def start_owner(home: Home, doors: Sequence[str]) -> list[str]:
    """Start `siltstone serve HOME` with these options and return the lines of its doors when all are ready.

    What it logs goes to HOME/daemon.log. Raises Refused with its own words when it could not start; then it has ended.
    """
    # -P: a directory called siltstone where the user happens to stand is not the package.
    command = [sys.executable, "-P", "-m", "siltstone", "serve", str(home.path), *doors, "--detached"]
    try:
        with home.log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
    except OSError as error:
        raise Unavailable(f"cannot write {home.log_file}: {error.strerror}") from error
    assert process.stdout is not None
    lines: list[str] = []
    with process.stdout:
        try:
            for line in process.stdout:
                word, _, rest = line.strip().partition(" ")
                if word == "failed":
                    raise Refused(rest)
                if word == "ready" and not rest:
                    return lines
                lines.append(line.strip())
        except KeyboardInterrupt:
            process.terminate()
            raise
    status = process.wait()
    raise Unavailable(f"the process that was to serve {home.path} ended with status {status}: see {home.log_file}")
