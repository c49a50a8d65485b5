"""The limit of open files of a process that serves."""

from __future__ import annotations

import resource
import subprocess
import sys

RAISES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from siltstone.file_limit import raise_file_limit
print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run([sys.executable, "-P", "-c", RAISES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(hard)] * 3
