"""A mount that asks the shards of a volume over their sockets, in a process of its own.

That is `python -m siltstone.mount_process HOME DIRECTORY OPTIONS` (mount_process.py).
"""

from __future__ import annotations

import functools

import trio

from siltstone.child import ENDED_EARLY, ask_to_stop, start_child, wait_ready
from siltstone.core.caller import Caller
from siltstone.core.opening import SHUTDOWN_SECONDS
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.disk_readers import disk_access
from siltstone.engine.disk.system import SystemRandom
from siltstone.errors import Refused, Unavailable
from siltstone.fuse.mount import UNMOUNT_SECONDS, serve_mount
from siltstone.fuse.options import parse_options
from siltstone.home import Home
from siltstone.meta.shards.map import MapView
from siltstone.mounts import source_of
from siltstone.ports import Clock
from siltstone.shard_service import link_to

TIMEOUT_SECONDS_MAX = 1.0
"""How long the kernel may keep names and attributes of such a mount: the news that a shard has when it dies is lost,
and the kernel cannot be told to forget all names."""

HEARD_SECONDS = 10.0
"""How long a mount waits for the word of all shards before it is shown; one that has just died delays it so long."""

END_SECONDS = UNMOUNT_SECONDS + SHUTDOWN_SECONDS + 10
"""How long the process of a mount may take to its end."""


async def serve_sharded_mount(
    home: Home,
    partitions: MapView,
    clock: Clock,
    beside: trio.Nursery,
    directory: str,
    options: str,
    *,
    task_status: trio.TaskStatus[str],
) -> None:
    """A mount over all shards. ``beside``: a nursery that lives longer than the mount, for what it asks by."""
    random = SystemRandom()
    caller = Caller(partitions, functools.partial(link_to, home, clock), clock, random)
    tree = ShardedVolume(caller, partitions, clock, disk_access(home, clock, random))
    links = trio.CancelScope()

    async def keep_links() -> None:
        with links:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.run)
                nursery.start_soon(tree.run)

    # Beside the mount, not in it: when that is closed the kernel writes back, and needs answers.
    beside.start_soon(keep_links)
    try:
        with trio.move_on_after(HEARD_SECONDS):
            await tree.wait_heard()
        await serve_mount(
            tree,
            directory,
            options=parse_options(options).limited(TIMEOUT_SECONDS_MAX),
            source=source_of(home),
            task_status=task_status,
        )
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(SHUTDOWN_SECONDS):
            await tree.sync()
        links.cancel()


async def keep_mount_process(home: Home, directory: str, options: str, *, task_status: trio.TaskStatus[str]) -> None:
    """The same in a process of its own, until its mount is gone; on cancel it is told to unmount.

    Raises Refused with the process's own words when it could not mount, Unavailable when it died.
    """
    process = await start_child("siltstone.mount_process", str(home.path), directory, options)
    try:
        failure = await wait_ready(process)
        if failure:
            await process.wait()
            raise Unavailable(f"{failure} (see {home.log_file})") if failure == ENDED_EARLY else Refused(failure)
        task_status.started(directory)
        status = await process.wait()
        if status != 0:
            raise Unavailable(f"its process {process.pid} ended with status {status}")
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(END_SECONDS):
            await ask_to_stop(process)
            await process.wait()
        process.kill()
