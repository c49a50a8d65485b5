"""A volume that gets shards, and gives them back, by what its shards are measured to do (``siltstone meta auto``).

Front-ends make real calls; a shard's processor is busy for a time with each, and is metered as a process is.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise

import msgspec
import trio

from siltstone.core.sharded_volume import ShardedVolume
from siltstone.placing import LOOK_SECONDS, Placer, ShardLoad
from siltstone.supervisor import Meter
from siltstone.types import ROOT_INO, Ino, ShardId
from sim.clock import autojump
from sim.growing import SimOwner
from sim.shard_volumes import SimShardVolumes

CALL_SECONDS = 0.15
"""What a call takes of a shard's processor."""

FOREVER = 1 << 30
DIRECTORIES = 40
SECONDS = {"grow_seconds": 30.0, "shrink_seconds": 60.0}
SETTLED_SECONDS = 40.0
"""When a change of the load is decided, and carried out, at the latest after the time that it must last for."""


class Controlled:
    """A volume with the controller of an owner, and the load on it: ``processors`` that all calls together take."""

    def __init__(self, world: SimShardVolumes, tree: ShardedVolume, nursery: trio.Nursery) -> None:
        self.processors = 0.0
        self.counts = [1]
        """How many shards there were, one after the other."""
        self.owner = SimOwner(world, random.Random(1), list, [FOREVER])
        self._world = world
        self._tree = tree
        self._nursery = nursery
        self._meters: dict[ShardId, Meter] = {}
        owner = self.owner
        all_shards = owner.ground.shards
        self.placer = Placer(
            all_shards, owner.partitions, world.world.clock, self._loads, owner.ground, owner.resizer, processors=8
        )

    async def start(self) -> None:
        """Begin to work."""
        owner_of = {"mode": 0o755, "uid": 0, "gid": 0}
        found = [await self._tree.mkdir(ROOT_INO, b"%d" % number, **owner_of) for number in range(DIRECTORIES)]
        for work in (self.placer.run, self.placer.tidy, self._measure):
            self._nursery.start_soon(work)
        self._nursery.start_soon(self._call, [attributes.ino for attributes in found])

    async def last(self, seconds: float, processors: float) -> int:
        """Let the load be so much for so long; how many shards there are then."""
        self.processors = processors
        await trio.sleep(seconds)
        return self.counts[-1]

    def _loads(self) -> Mapping[ShardId, ShardLoad]:
        return {
            shard: ShardLoad(meter.processor_share, meter.partition_calls)
            for shard, meter in self._meters.items()
            if shard in self._world.serving
        }

    async def _measure(self) -> None:
        while True:
            for shard, (served, _) in self._world.serving.items():
                load = served.load()
                meter = self._meters.setdefault(shard, Meter())
                meter.note(load, self._world.world.clock.monotonic_ns(), load.calls * CALL_SECONDS)
            if self._world.config.shards != self.counts[-1]:
                self.counts.append(self._world.config.shards)
            await trio.sleep(LOOK_SECONDS)

    async def _call(self, directories: list[Ino]) -> None:
        number = 0
        while True:
            if not self.processors:
                await trio.sleep(0.1)
                continue
            await trio.sleep(CALL_SECONDS / self.processors)
            number += 1
            self._nursery.start_soon(self._tree.attributes, directories[number % DIRECTORIES])


def run(body: Callable[[Controlled], Awaitable[None]]) -> list[str]:
    """Run it on a new volume of one shard; what was decided, and why."""
    decisions: list[str] = []

    async def main() -> None:
        world = SimShardVolumes(1)
        world.config = msgspec.structs.replace(world.config, shards_max=3, **SECONDS)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            tree = world.front_end(1, nursery).tree
            await tree.wait_heard()
            controlled = Controlled(world, tree, nursery)
            await controlled.start()
            await body(controlled)
            decisions.extend(controlled.placer.decisions)
            assert all(abs(after - before) == 1 for before, after in pairwise(controlled.counts)), controlled.counts
            controlled.processors = 0.0
            await trio.sleep(1)
            assert await world.fsck() == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())
    return decisions


def test_shards_come_with_the_load_and_go_with_it() -> None:
    async def body(controlled: Controlled) -> None:
        grow, shrink = SECONDS["grow_seconds"] + SETTLED_SECONDS, SECONDS["shrink_seconds"] + SETTLED_SECONDS
        assert await controlled.last(grow, 0.95) == 2, "one that is busy is not enough"
        # 0.48 each: neither busy nor idle, so it stays as it is.
        assert await controlled.last(shrink, 0.95) == 2
        assert await controlled.last(grow, 1.8) == 3
        assert await controlled.last(shrink, 0.7) == 2
        assert await controlled.last(shrink, 0.3) == 1
        assert await controlled.last(grow, 0.3) == 1
        assert controlled.counts == [1, 2, 3, 2, 1]

    decisions = run(body)
    assert any("added, there are 2: 1 in use uses 9" in decision for decision in decisions)
    assert any("all 3 together use" in decision for decision in decisions)


def test_a_load_that_does_not_last_changes_nothing_nor_does_one_where_no_more_shards_may_be() -> None:
    async def body(controlled: Controlled) -> None:
        for _ in range(3):
            await controlled.last(SECONDS["grow_seconds"] - 2 * LOOK_SECONDS, 1.0)
            await controlled.last(2 * LOOK_SECONDS, 0.1)
        assert controlled.counts == [1]
        await controlled.owner.ground.save(shards_max=1)
        assert await controlled.last(2 * SECONDS["grow_seconds"], 1.5) == 1

    assert run(body) == []
