"""The process of one shard, which the owner of the volume starts: `python -m siltstone.shard_process HOME SHARD`.

How it begins and ends: see child.py. The lock of the shard keeps two lives from writing the same log: a new one waits
until the old is gone with all its threads.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial

import trio

from siltstone.child import serve_child
from siltstone.engine.disk.system import SystemClock, TrioWorkers
from siltstone.home import Home, Ownership
from siltstone.loop_delay import LoopDelay
from siltstone.owner import metadata, open_here, opened_disks
from siltstone.shard_lock import hold_shard
from siltstone.shard_service import ShardService
from siltstone.types import ShardId
from siltstone.watchdog import Watchdog


def main(arguments: list[str]) -> int:
    """Serve until told to stop; the exit status."""
    home, shard = Home(arguments[0]), ShardId(int(arguments[1]))
    return serve_child(f"shard {shard}", partial(_serve, home, shard))


async def _serve(home: Home, shard: ShardId, stopping: trio.Event) -> None:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
