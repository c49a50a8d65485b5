"""The owner of a simulated volume, which gets shards and gives them back, and may be killed between any two steps."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, TypeVar

import msgspec
import trio

from siltstone.config import VolumeConfig
from siltstone.core.all_shards import AllShards
from siltstone.core.resizing import Resizer
from siltstone.engine.disk.parts import part_folder
from siltstone.errors import DiskError, SiltstoneError, Unavailable
from siltstone.meta.shards.map import MapView, map_of
from siltstone.types import PartitionId, ShardId
from sim.shard_volumes import SimShardVolumes

T = TypeVar("T")

AGAIN_SECONDS = 0.3


class OwnerDied(Exception):
    """It was killed here."""


class SimGround:
    """The Ground port. Dies when ``steps_left`` steps were made, before the last or behind it."""

    def __init__(self, world: SimShardVolumes, chance: random.Random, steps_left: int) -> None:
        self.world = world
        self.shards: AllShards
        self.doors: list[Callable[[bool], Awaitable[None]]] = []
        """Told whether there are several shards."""
        self.followers: list[Callable[[], None]] = []
        self.steps: list[str] = []
        self.are_disks_shared = world.config.shards > 1
        self._chance = chance
        self._steps_left = steps_left

    @property
    def config(self) -> VolumeConfig:
        return self.world.config

    async def save(self, **changes: Any) -> None:
        def save() -> None:
            changed = msgspec.structs.replace(self.config, serial=self.config.serial + 1, **changes)
            changed.check()
            self.world.config = changed

        await self._step(f"save {sorted(changes)}", save)

    def still_disks(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def check_room(self, shards: int) -> None:
        for disk in self.world.world.disks:
            await _reached(disk.probe())

    async def share_disks(self, *, are_shared: bool) -> None:
        def share() -> None:
            self.are_disks_shared = are_shared

        await self._step(f"share {are_shared}", share)

    async def wipe(self, shard: ShardId) -> None:
        assert shard >= self.config.shards, "a shard that is in use is wiped"
        assert shard not in self.world.serving
        for disk in self.world.world.disks:
            for entry in await _reached(disk.list(f"{part_folder(shard)}/")):
                await _reached(disk.delete(entry.name))
                await self._step("wipe a file", lambda: None)
        self.world.backings.pop(shard, None)

    async def lay(self, config: VolumeConfig, shard: ShardId) -> None:
        assert self.are_disks_shared
        assert self.config.shards_void > shard >= self.config.shards, "what a crash leaves of it would stay"
        await self.world.lay(config, shard)
        await self._step("lay", lambda: None)

    async def join(self) -> None:
        await trio.lowlevel.checkpoint()

    async def start(self, shard: ShardId) -> None:
        if shard not in self.world.serving:
            await self._step("start", lambda: None)
            await self.world.begin(shard)
        if shard not in self.shards.shards:
            self.shards.shards[shard] = self.world.far(shard)
            self.world.shards = [ShardId(number) for number in range(self.config.shards)]

    async def stop(self, shard: ShardId) -> None:
        assert shard >= self.config.shards
        self.shards.shards.pop(shard)
        await self._step("stop", lambda: None)
        await self.world.end(shard)
        self.world.shards = [ShardId(number) for number in range(self.config.shards)]

    async def follow_shards(self) -> None:
        for follow in self.followers:
            follow()
        await self._step("follow", lambda: None)

    async def use_shards(self) -> None:
        for door in self.doors:
            await door(True)
        await self._step("use shards", lambda: None)

    async def use_volume(self) -> None:
        for door in self.doors:
            await door(False)
        await self._step("use volume", lambda: None)

    async def _step(self, name: str, carry_out: Callable[[], None]) -> None:
        self._steps_left -= 1
        if self._steps_left < 0 or (self._steps_left == 0 and self._chance.random() < 0.5):
            self._steps_left = -1
            raise OwnerDied
        carry_out()
        self.steps.append(name)
        if self._steps_left == 0:
            self._steps_left = -1
            raise OwnerDied
        await trio.sleep(self._chance.random() * 0.003)


async def _reached(done: Awaitable[T]) -> T:
    """What is done on a disk. Raises Unavailable, as the port says, when that is away."""
    try:
        return await done
    except DiskError as error:
        raise Unavailable(str(error)) from error


class SimOwner:
    """Has the volume have so many shards, in as many lives as that takes. ``used``: says which partitions move."""

    def __init__(
        self, world: SimShardVolumes, chance: random.Random, used: Callable[[], list[PartitionId]], lives: list[int]
    ) -> None:
        """``lives``: how many steps the owner makes before it dies; then it lives."""
        self._world = world
        self._chance = chance
        self._used = used
        self._lives = lives
        self.deaths = 0
        self.refusals = 0
        self.begin()

    def begin(self) -> None:
        """A life begins."""
        world = self._world
        steps = self._lives.pop(0) if self._lives else 1 << 30
        self.partitions = MapView(map_of(world.config))
        self.ground = SimGround(world, self._chance, steps)
        self.ground.shards = world.all_shards()
        self.resizer = Resizer(self.ground, self.ground.shards, self.partitions, world.world.clock)

    async def have(self, count: int) -> None:
        """Return when there are so many shards, and partitions are with all of them."""
        while True:
            try:
                await self._have(count)
                return
            except OwnerDied:
                await self._die()

    async def _die(self) -> None:
        """All processes end with the owner; then somebody starts it again."""
        self.deaths += 1
        world = self._world
        for shard in list(world.serving):
            await world.end(shard)
        await trio.sleep(0.1)
        world.shards = [ShardId(number) for number in range(world.config.shards)]
        for shard in world.shards:
            await world.begin(shard)
        self.begin()

    async def _have(self, count: int) -> None:
        while True:
            try:
                await self.resizer.grow(count)
                break
            except Unavailable:  # whoever asked asks again
                self.refusals += 1
                await trio.sleep(AGAIN_SECONDS)
        await self.resizer.look()
        while True:
            for partition in self._used():
                if count > 1 or self.partitions().owner(partition) != 0:
                    await self._move(partition, ShardId(self._chance.randrange(count)))
            strays = [
                PartitionId(partition) for partition, owner in enumerate(self.partitions().owners) if owner >= count
            ]
            for partition in strays:
                await self._move(partition, ShardId(self._chance.randrange(count)))
            if not strays:
                await self.resizer.retire()
                config = self.ground.config
                if config.shards == count and not config.shards_void:
                    return
            await trio.sleep(AGAIN_SECONDS)

    async def _move(self, partition: PartitionId, to: ShardId) -> None:
        owner = self.partitions().owner(partition)
        if owner != to:
            with suppress(SiltstoneError):  # later, then
                placement = await self.ground.shards.shards[owner].ask("give", partition, to)
                self.partitions.learn([placement])
