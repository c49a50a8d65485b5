"""A worker of the S3 door, which the owner of the volume starts: `python -m siltstone.s3_worker HOME HOST PORT`.

It serves S3 over the shards of the volume, at a port that it shares with other workers. How it begins and ends: see
child.py.
"""

from __future__ import annotations

import gc
import sys
from functools import partial

import trio

from siltstone.child import serve_child
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.home import Home
from siltstone.keys import FollowedKeys
from siltstone.lifecycle import calendar_of
from siltstone.meta.shards.map import MapView, map_of
from siltstone.sharded_s3 import serve_sharded_s3


def main(arguments: list[str]) -> int:
    """Serve until told to stop; the exit status."""
    home, host, port = Home(arguments[0]), arguments[1], int(arguments[2])
    return serve_child("s3 worker", partial(_serve, home, host, port))


async def _serve(home: Home, host: str, port: int, stopping: trio.Event) -> None:
    config = home.load_config()
    partitions = MapView(map_of(config))
    keys = FollowedKeys(home.keys_file)
    async with trio.open_nursery() as nursery:
        serve_door = partial(
            serve_sharded_s3,
            home,
            partitions,
            keys,
            host=host,
            port=port,
            shares_port=True,
            clock=SystemClock(),
            random=SystemRandom(),
            workers=TrioWorkers(),
            calendar=calendar_of(config),
        )
        await nursery.start(serve_door)
        gc.collect()
        gc.freeze()  # see the daemon
        print("ready", flush=True)
        await stopping.wait()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
