"""A process that the owner of a volume starts and keeps (siltstone/supervisor.py): how it begins and ends.

It prints ``ready``, or ``failed`` and why. ``stop`` on its standard input ends it in order. The end of that input is
the death of the owner: then it leaves at once, whatever it is doing, for the next owner starts its own.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

import trio

from siltstone.failure import describe
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS

ORPHANED_STATUS = 3

logger = logging.getLogger("siltstone")


def serve_child(name: str, serve: Callable[[trio.Event], Awaitable[None]]) -> int:
    """Serve until told to stop, which sets the event; the exit status. ``name`` begins each line of the log output."""
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {name}: %(message)s", level=logging.INFO, stream=sys.stderr)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    # Ctrl-C and a signal to the whole group are for the owner, who ends this in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        trio.run(_serve, serve)
    except (Exception, BaseExceptionGroup) as error:
        print("failed " + describe(error), flush=True)
        logger.error("ends: %s", describe(error), exc_info=bool(os.environ.get("SILTSTONE_TRACEBACK")))
        return 1
    return 0


async def _serve(serve: Callable[[trio.Event], Awaitable[None]]) -> None:
    stopping = trio.Event()
    _watch_owner(trio.lowlevel.current_trio_token(), stopping)
    await serve(stopping)


def _watch_owner(token: trio.lowlevel.TrioToken, stopping: trio.Event) -> None:
    """A thread, since the loop may be busy, or stuck, when the owner dies."""

    def watch() -> None:
        while os.read(0, 64):
            token.run_sync_soon(stopping.set)
        os._exit(ORPHANED_STATUS)

    threading.Thread(target=watch, name="owner", daemon=True).start()
