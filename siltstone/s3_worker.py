"""A worker of the S3 door, which the owner of the volume starts: `python -m siltstone.s3_worker HOME OPTIONS`.

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
from siltstone.s3_options import S3Options
from siltstone.s3gw.tls import Tls
from siltstone.sharded_s3 import serve_sharded_s3


class _Worker:
    def __init__(self, home: Home, options: S3Options) -> None:
        self._home = home
        self._options = options
        self._tls: Tls | None = None

    def reload(self) -> None:
        """Read the certificate again."""
        if self._tls is not None:
            self._tls.reload()

    async def serve(self, stopping: trio.Event) -> None:
        """Serve until ``stopping``."""
        home = self._home
        config = home.load_config()
        partitions = MapView(map_of(config))
        keys = FollowedKeys(home.keys_file)
        self._tls = self._options.make_tls()
        async with trio.open_nursery() as nursery:
            serve_door = partial(
                serve_sharded_s3,
                home,
                partitions,
                keys,
                self._options,
                tls=self._tls,
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


def main(arguments: list[str]) -> int:
    """Serve until told to stop; the exit status."""
    worker = _Worker(Home(arguments[0]), S3Options.of_json(arguments[1]))
    return serve_child("s3 worker", worker.serve, {"reload": worker.reload})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
