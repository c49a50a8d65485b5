"""Processes that the owner of a volume starts and that end with it: shards, and mounts beside the first.

A child prints ``ready``, or ``failed`` and why. It has a pipe from its owner as standard input: a line on it ends the
child in order, and so does, at once, the death of the owner, which closes the pipe.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import trio

from siltstone.errors import Unavailable

ORPHANED_STATUS = 3

ENDED_EARLY = "it ended before it served"


async def start_child(module: str, *arguments: str) -> trio.Process:
    """Start one. What it logs goes where the owner's log output goes. Raises Unavailable."""
    # -P: a directory called siltstone where the user happens to stand is not the package.
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        return await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )
    except OSError as error:
        raise Unavailable(f"no process can be started: {error.strerror}") from error


async def wait_ready(process: trio.Process) -> str:
    """Return when a child serves, with nothing, or has failed, with why (ENDED_EARLY if it did not say)."""
    assert process.stdout is not None
    received = b""
    async with process.stdout:
        while b"\n" not in received:
            piece = await process.stdout.receive_some(65536)
            if not piece:
                break
            received += piece
    word, _, rest = received.decode(errors="replace").partition("\n")[0].partition(" ")
    return "" if word == "ready" else rest or ENDED_EARLY


async def ask_to_stop(process: trio.Process) -> None:
    """Have a child end in order."""
    assert process.stdin is not None
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it has just died
        await process.stdin.send_all(b"stop\n")


def watch_owner(token: trio.lowlevel.TrioToken, stopping: trio.Event) -> None:
    """In a child: hear what the owner says. A thread, since the loop may be busy, or stuck, when the owner dies."""

    def watch() -> None:
        while os.read(0, 64):
            with contextlib.suppress(trio.RunFinishedError):  # it is at its end by itself
                token.run_sync_soon(stopping.set)
        os._exit(ORPHANED_STATUS)

    threading.Thread(target=watch, name="owner", daemon=True).start()
