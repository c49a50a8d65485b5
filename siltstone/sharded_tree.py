"""The tree of a volume of several shards, for work that the owner's process does itself, as a front-end of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import trio

from siltstone.core.caller import Caller
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.engine.disk.system import SystemRandom
from siltstone.home import Home
from siltstone.meta.shards.map import MapView
from siltstone.ports import Clock
from siltstone.shard_service import link_to

HEARD_SECONDS = 10.0
"""How long the word of all shards is waited for: only then is what is made without a name held."""


@contextlib.asynccontextmanager
async def sharded_tree(home: Home, partitions: MapView, clock: Clock) -> AsyncIterator[tuple[Caller, ShardedVolume]]:
    """The way to the shards, and the tree by it, for as long as the context lasts."""
    caller = Caller(partitions, partial(link_to, home, clock), clock, SystemRandom(), hears=False)
    tree = ShardedVolume(caller, partitions, clock)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        nursery.start_soon(tree.run)
        with trio.move_on_after(HEARD_SECONDS):
            await tree.wait_heard()
        try:
            yield caller, tree
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # out here it does not arrive in a group
