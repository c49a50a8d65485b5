"""The process of one shard, which the owner of the volume starts: `python -m siltstone.shard_process HOME SHARD`.

It prints ``ready``, or ``failed`` and why. ``stop`` on its standard input ends it in order. The end of that input is
the death of the owner: then it leaves at once, whatever it is doing, for the next owner starts its own. The lock of the
shard keeps two lives from writing the same log: a new one waits until the old is gone with all its threads.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading

import trio

from siltstone.engine.disk.system import SystemClock, TrioWorkers
from siltstone.failure import describe
from siltstone.home import Home, Ownership
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS, LoopDelay
from siltstone.owner import metadata, open_here, opened_disks
from siltstone.shard_lock import hold_shard
from siltstone.shard_service import ShardService
from siltstone.types import ShardId
from siltstone.watchdog import Watchdog

ORPHANED_STATUS = 3

logger = logging.getLogger("siltstone.shards")


def main(arguments: list[str]) -> int:
    """Serve until told to stop; the exit status."""
    home, shard = Home(arguments[0]), ShardId(int(arguments[1]))
    logging.basicConfig(
        format=f"%(asctime)s %(levelname)s shard {shard}: %(message)s", level=logging.INFO, stream=sys.stderr
    )
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    # Ctrl-C and a signal to the whole group are for the owner, who ends this in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        trio.run(_serve, home, shard)
    except (Exception, BaseExceptionGroup) as error:
        print("failed " + describe(error), flush=True)
        logger.error("ends: %s", describe(error), exc_info=bool(os.environ.get("SILTSTONE_TRACEBACK")))
        return 1
    return 0


async def _serve(home: Home, shard: ShardId) -> None:
    stopping = trio.Event()
    _watch_owner(trio.lowlevel.current_trio_token(), stopping)
    config = home.load_config()
    await trio.to_thread.run_sync(hold_shard, home, shard)
    # A disk that hangs keeps the process, and with it the lock: there is nothing else to keep.
    async with opened_disks(config, Ownership(), shard) as disks:
        with metadata(str(home.shard_meta(shard)), config) as backing:
            service = ShardService(home, config, shard)
            opening = open_here(config, disks, backing, SystemClock(), TrioWorkers(), shard=shard, join=service.join)
            delay = LoopDelay(SystemClock())
            what = f"process {os.getpid()}, shard {shard} of {home.path}"
            async with opening, service.serving(), trio.open_nursery() as nursery:
                gc.collect()
                gc.freeze()  # see the daemon
                nursery.start_soon(delay.run)
                with Watchdog(lambda: delay.beats, what=what, limit_seconds=config.disk_timeout).watching():
                    print("ready", flush=True)
                    await stopping.wait()
                nursery.cancel_scope.cancel()


def _watch_owner(token: trio.lowlevel.TrioToken, stopping: trio.Event) -> None:
    """A thread, since the loop may be busy, or stuck, when the owner dies."""

    def watch() -> None:
        while os.read(0, 64):
            token.run_sync_soon(stopping.set)
        os._exit(ORPHANED_STATUS)

    threading.Thread(target=watch, name="owner", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
