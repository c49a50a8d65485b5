"""An S3 door over the shards of a volume, in the process of a worker (siltstone/s3_worker.py)."""

from __future__ import annotations

from functools import partial

import trio

from siltstone.core.caller import Caller
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.disk_readers import disk_access
from siltstone.home import Home
from siltstone.keys import FollowedKeys, KeyRing
from siltstone.meta.shards.map import MapView
from siltstone.ports import Clock, Random, Workers
from siltstone.s3_options import S3Options
from siltstone.s3gw.lifecycle_rules import REAL_DAYS, Calendar
from siltstone.s3gw.server import serve_s3
from siltstone.s3gw.tls import Tls
from siltstone.shard_service import link_to

HEARD_SECONDS = 10.0
"""How long the word of all shards is waited for before connections are taken: only then is what is read held."""


async def serve_sharded_s3(
    home: Home,
    partitions: MapView,
    keys: KeyRing | FollowedKeys,
    options: S3Options,
    *,
    tls: Tls | None,
    shares_port: bool = False,
    clock: Clock,
    random: Random,
    workers: Workers,
    calendar: Calendar = REAL_DAYS,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """``serve_s3`` over all shards, that of this process included."""
    caller = Caller(partitions, partial(link_to, home, clock), clock, random, hears=False)
    tree = ShardedVolume(caller, partitions, clock, disk_access(home, clock, random))
    store = ShardedObjects(caller, tree, partitions, random)
    # The requests that are under way when the door is closed need answers.
    links = trio.CancelScope(shield=True)

    async def keep_links() -> None:
        with links:
            async with trio.open_nursery() as keeping:
                keeping.start_soon(caller.run)
                keeping.start_soon(tree.run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_links)
        try:
            with trio.move_on_after(HEARD_SECONDS):
                await tree.wait_heard()
            await serve_s3(
                store,
                keys.lookup,
                users=keys,
                server=keys,
                calendar=calendar,
                host=options.host,
                port=options.port,
                domains=options.domains,
                tls=tls,
                shares_port=shares_port,
                clock=clock,
                workers=workers,
                random=random,
                task_status=task_status,
            )
        finally:
            links.cancel()
