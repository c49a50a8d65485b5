"""Processes that the owner of a volume starts, and that end with it: shards, S3 workers, mounts beside the first.

A child prints ``ready``, or ``failed`` and why. It has a pipe from its owner as standard input: ``stop`` on it ends the
child in order, other words are what a kind of child knows. The end of that input is the death of the owner: then the
child leaves at once, whatever it is doing, for the next owner starts its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping

import trio

from siltstone.errors import Unavailable
from siltstone.failure import describe
from siltstone.file_limit import raise_file_limit
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS

ORPHANED_STATUS = 3

STOP = "stop"
NO_WORDS: Mapping[str, Callable[[], object]] = {}

ENDED_EARLY = "it ended before it served"

logger = logging.getLogger("siltstone")


# --- the owner's side -------------------------------------------------------------------------------------------------


async def start_child(module: str, *arguments: str) -> trio.Process:
    """Start one: ``python -m MODULE ARGUMENTS``. What it logs goes where the owner's log output goes. Raises
    Unavailable."""
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
    await tell_child(process, STOP)


async def tell_child(process: trio.Process, word: str) -> None:
    """Say a word to a child: "stop", or one that it knows."""
    assert process.stdin is not None
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it has just died
        await process.stdin.send_all(word.encode() + b"\n")


# --- the child's side -------------------------------------------------------------------------------------------------


def serve_child(
    name: str, serve: Callable[[trio.Event], Awaitable[None]], words: Mapping[str, Callable[[], object]] = NO_WORDS
) -> int:
    """Serve until told to stop, which sets the event; the exit status. ``name`` begins each line of the log output.
    ``words``: what is called in the loop when the owner says one of them."""
    faulthandler.enable(sys.stderr)
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {name}: %(message)s", level=logging.INFO, stream=sys.stderr)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    raise_file_limit()
    # Ctrl-C and a signal to the whole group are for the owner, who ends this in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        trio.run(_serve, serve, words)
    except (Exception, BaseExceptionGroup) as error:
        print("failed " + describe(error), flush=True)
        logger.error("ends: %s", describe(error), exc_info=bool(os.environ.get("SILTSTONE_TRACEBACK")))
        return 1
    return 0


async def _serve(serve: Callable[[trio.Event], Awaitable[None]], words: Mapping[str, Callable[[], object]]) -> None:
    stopping = trio.Event()
    _watch_owner(trio.lowlevel.current_trio_token(), {**words, STOP: stopping.set})
    await serve(stopping)


def _watch_owner(token: trio.lowlevel.TrioToken, words: Mapping[str, Callable[[], object]]) -> None:
    """A thread, since the loop may be busy, or stuck, when the owner dies."""

    def watch() -> None:
        received = b""
        while more := os.read(0, 64):
            *said, received = (received + more).split(b"\n")
            for word in said:
                if (call := words.get(word.decode(errors="replace"))) is not None:
                    with contextlib.suppress(trio.RunFinishedError):  # it is at its end by itself
                        token.run_sync_soon(call)
        os._exit(ORPHANED_STATUS)

    threading.Thread(target=watch, name="owner", daemon=True).start()
