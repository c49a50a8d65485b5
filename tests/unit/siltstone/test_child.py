"""How a process that the owner starts begins and ends, with real processes that serve nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from siltstone.child import ORPHANED_STATUS

PATIENCE_SECONDS = 60

WAITS = """
import sys, trio
from siltstone.child import serve_child
async def serve(stopping):
    print("ready", flush=True)
    await stopping.wait()
sys.exit(serve_child("child", serve))
"""

FAILS = """
import sys
from siltstone.child import serve_child
from siltstone.errors import Unavailable
async def serve(stopping):
    raise Unavailable("no such luck")
sys.exit(serve_child("child", serve))
"""

IS_STUCK = """
import sys, time
from siltstone.child import serve_child
async def serve(stopping):
    print("ready", flush=True)
    time.sleep(1000)
sys.exit(serve_child("child", serve))
"""

ENDS_SLOWLY = """
import sys, time
from siltstone.child import serve_child
async def serve(stopping):
    pass
status = serve_child("child", serve)
print("ready", flush=True)
time.sleep(1)
sys.exit(status)
"""


@contextmanager
def child(program: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], word: str) -> tuple[int, str]:
    """Say a last word, and close the pipe only when the process has ended; its status and its log output."""
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(word)
    process.stdin.flush()
    status = process.wait(PATIENCE_SECONDS)
    return status, process.stderr.read()


@pytest.mark.parametrize("program", [WAITS, ENDS_SLOWLY], ids=["serving", "at its end already"])
def test_one_that_is_told_to_stop_ends_without_a_word(program: str) -> None:
    with child(program) as process:
        assert end(process, "stop\n") == (0, "")


@pytest.mark.parametrize("program", [WAITS, IS_STUCK], ids=["serving", "stuck"])
def test_one_whose_owner_is_gone_leaves_at_once(program: str) -> None:
    with child(program) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == ORPHANED_STATUS


def test_one_that_fails_says_why_and_logs_it() -> None:
    with child(FAILS) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() == "failed no such luck\n"
        assert process.wait(PATIENCE_SECONDS) == 1
        assert "ERROR child: ends: no such luck" in process.stderr.read()
