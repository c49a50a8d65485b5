"""A front-end in the owner's process over all shards: what the first has is called, others are asked by sockets."""

from __future__ import annotations

from functools import partial

import trio

from siltstone.core.caller import Caller
from siltstone.core.near import NearCaller
from siltstone.core.opening import ONLY_SHARD, SHUTDOWN_SECONDS
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.core.sharded_volume import Here, ShardedVolume
from siltstone.disk_readers import disk_access
from siltstone.engine.disk.system import SystemRandom
from siltstone.owner import Owner
from siltstone.shard_service import link_to


class NearFront:
    """Works while ``run`` does, in a nursery that outlasts the door: what that ends with needs answers."""

    def __init__(self, owner: Owner, *, hears: bool) -> None:
        """``hears``: whether the door caches what changes."""
        random, partitions = SystemRandom(), owner.shards.partitions
        self._clock = owner.clock
        far = Caller(partitions, partial(link_to, owner.home, owner.clock), owner.clock, random, hears=hears)
        calls = NearCaller(ONLY_SHARD, owner.own_shard.side, owner.volume, far)
        here = Here(ONLY_SHARD, owner.volume, far.client)
        disks = disk_access(owner.home, owner.clock, random)
        self.tree = ShardedVolume(calls, partitions, owner.clock, disks, here=here)
        self.objects = ShardedObjects(calls, self.tree, partitions, random)
        self._run_calls = far.run
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Keep the connections, until ``end``."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_calls)
                nursery.start_soon(self.tree.run)

    async def end(self, *, writes_back: bool) -> None:
        """The door is closed. ``writes_back``: have durable what it wrote, and nobody has been told is."""
        if writes_back:
            with trio.CancelScope(shield=True), trio.move_on_after(SHUTDOWN_SECONDS):
                await self.tree.sync()
        self._scope.cancel()
