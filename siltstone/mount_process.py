"""The process of a mount beside the first, which the owner of the volume starts: HOME DIRECTORY OPTIONS.

pyfuse3 serves one mount in a process. This one asks the volume's shards, as the mount of a volume of several shards
does, and hears of the owner as any child does (children.py): when that dies it leaves at once, and the mount says
ENOTCONN as one that the owner has served itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

import trio

from siltstone.children import watch_owner
from siltstone.engine.disk.system import SystemClock
from siltstone.failure import describe
from siltstone.home import Home
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS
from siltstone.sharded_mount import serve_sharded_mount

logger = logging.getLogger("siltstone")


def main(arguments: list[str]) -> int:
    """Serve until the mount is gone; the exit status."""
    home, directory, options = arguments
    logging.basicConfig(
        format=f"%(asctime)s %(levelname)s mount {directory}: %(message)s", level=logging.INFO, stream=sys.stderr
    )
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    try:
        trio.run(_serve, Home(home), directory, options)
    except (Exception, BaseExceptionGroup) as error:
        print("failed " + describe(error), flush=True)
        logger.error("ends: %s", describe(error), exc_info=bool(os.environ.get("SILTSTONE_TRACEBACK")))
        return 1
    return 0


async def _serve(home: Home, directory: str, options: str) -> None:
    stopping = trio.Event()
    watch_owner(trio.lowlevel.current_trio_token(), stopping)
    config = home.load_config()
    async with trio.open_nursery() as beside:
        mounted = trio.CancelScope()

        class Ready:
            """What the mount tells when it can be used."""

            def started(self, path: str | None = None) -> None:
                print("ready", flush=True)

        async def end_when_told() -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as arriving:

                async def hear_signals() -> None:
                    await anext(arriving)
                    stopping.set()

                beside.start_soon(hear_signals)
                await stopping.wait()
            mounted.cancel()

        beside.start_soon(end_when_told)
        with mounted:
            await serve_sharded_mount(home, config, SystemClock(), beside, directory, options, task_status=Ready())
        beside.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
