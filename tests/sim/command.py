"""The command, as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 60.0


def siltstone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-P", "-m", "siltstone", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def succeed(*arguments: str | Path) -> str:
    """Run a command that must work; what it printed."""
    done = siltstone(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def started(command: list[str | Path], ready: str) -> subprocess.Popen[str]:
    """A process in the background that has said that it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(ready)
    return process
