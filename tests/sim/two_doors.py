"""A volume with a bucket in simulation, of one process or of shards: as the S3 door sees it, and as a mount does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio

from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.core.tree import Tree
from siltstone.core.volume import Volume
from sim.clock import autojump
from sim.metadata import check_metadata
from sim.randomness import SimRandom
from sim.shard_volumes import SimShardVolumes
from sim.volume import SimVolume, small_config

AnyStore = ObjectStore | ShardedObjects


class Counts(NamedTuple):
    """What there is in a volume."""

    inodes: int
    file_bytes: int
    stripes: int
    orphans: int


class Sim(NamedTuple):
    """The same volume as a mount sees it, and as it is inside."""

    tree: Tree
    volumes: Callable[[], list[Volume]]

    async def counts(self) -> Counts:
        """All shards together, when what was let go of has been purged."""
        await trio.sleep(30)
        found = [volume.status() for volume in self.volumes()]
        return Counts(
            sum(status.inodes for status in found),
            sum(status.file_bytes for status in found),
            sum(status.stripes for status in found),
            sum(status.orphans for status in found),
        )


Body = Callable[[AnyStore, Sim], Awaitable[None]]


def in_simulation(shards: int, body: Body, seed: int = 0) -> None:
    """Run ``body`` on a fresh volume with a bucket, and check the volume afterwards."""
    trio.run(_in_one_process if shards == 1 else partial(_in_shards, shards), body, seed, clock=autojump())


async def _in_one_process(body: Body, seed: int) -> None:
    world = SimVolume(small_config(), seed=seed)
    await world.create()
    async with world.opened() as volume:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        await body(store, Sim(volume, lambda: [volume]))
        await trio.sleep(5)
        findings = await fsck(volume, deep=True)
        assert not findings, "\n".join(map(str, findings))


async def _in_shards(shards: int, body: Body, seed: int) -> None:
    world = SimShardVolumes(shards, seed=seed)
    await world.create()
    async with trio.open_nursery() as nursery:
        await world.start(nursery)
        door, mount = world.front_end(1, nursery), world.front_end(2, nursery)
        store = ShardedObjects(door.calls, door.tree, world.partitions, SimRandom(seed))
        await store.create_bucket("bucket", owner="me")
        await body(store, Sim(mount.tree, lambda: list(world.volumes.values())))
        await world.wait_quiet()
        problems = list(check_metadata(world.reader()))
        assert not problems, "\n".join(map(str, problems))
        nursery.cancel_scope.cancel()
