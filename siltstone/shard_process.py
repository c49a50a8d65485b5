"""The process of one shard, which the owner of the volume starts: `python -m siltstone.shard_process HOME SHARD`.

It hears of the owner as any child does (children.py), and leaves at once when that dies, whatever it is doing, for the
next owner starts its own. The lock of the shard keeps two lives from writing the same log: a new one waits until the
old is gone with all its threads.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys

import trio

from siltstone.children import watch_owner
from siltstone.engine.disk.system import SystemClock, TrioWorkers
from siltstone.failure import describe
from siltstone.home import Home, Ownership
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS
from siltstone.owner import metadata, open_here, opened_disks
from siltstone.shard_lock import hold_shard
from siltstone.shard_service import ShardService
from siltstone.types import ShardId

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
    watch_owner(trio.lowlevel.current_trio_token(), stopping)
    config = home.load_config()
    await trio.to_thread.run_sync(hold_shard, home, shard)
    # A disk that hangs keeps the process, and with it the lock: there is nothing else to keep.
    async with opened_disks(config, Ownership(), shard) as disks:
        with metadata(str(home.shard_meta(shard)), config) as backing:
            service = ShardService(home, config, shard)
            opening = open_here(config, disks, backing, SystemClock(), TrioWorkers(), shard=shard, join=service.join)
            async with opening, service.serving():
                gc.collect()
                gc.freeze()  # see the daemon
                print("ready", flush=True)
                await stopping.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
