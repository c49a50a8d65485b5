"""The process of a mount beside the first, which the owner of the volume starts: HOME DIRECTORY OPTIONS.

pyfuse3 serves one mount in a process. This one asks the volume's shards, as the mount of a volume of several shards
does. How it begins and ends: see child.py. When the owner dies the mount says ENOTCONN, as one that the owner has
served itself.
"""

from __future__ import annotations

import signal
import sys
from functools import partial

import trio

from siltstone.child import serve_child
from siltstone.engine.disk.system import SystemClock
from siltstone.home import Home
from siltstone.meta.shards.map import MapView, map_of
from siltstone.sharded_mount import serve_sharded_mount


def main(arguments: list[str]) -> int:
    """Serve until the mount is gone; the exit status."""
    home, directory, options = arguments
    return serve_child(f"mount {directory}", partial(_serve, Home(home), directory, options))


class _Ready:
    """What the mount tells when it can be used."""

    def started(self, path: str | None = None) -> None:
        print("ready", flush=True)


async def _serve(home: Home, directory: str, options: str, stopping: trio.Event) -> None:
    partitions = MapView(map_of(home.load_config()))
    mounted = trio.CancelScope()

    async def end_when_told() -> None:
        await stopping.wait()
        mounted.cancel()

    async def hear_signals() -> None:
        # As of any program that serves a mount, they are a wish to unmount. Nobody else hangs on this process.
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as arriving:
            await anext(arriving)
            stopping.set()

    async with trio.open_nursery() as beside:
        beside.start_soon(end_when_told)
        beside.start_soon(hear_signals)
        with mounted:
            await serve_sharded_mount(home, partitions, SystemClock(), beside, directory, options, task_status=_Ready())
        beside.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
