"""A volume of several shards in simulation: whole engines on parts of the same disks, and memory streams in between.

The processes of the shards can die and come back; the disks and the metadata outlive them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import NamedTuple
from uuid import UUID

import msgspec
import trio
from trio.testing import memory_stream_pair

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.all_shards import AllShards
from siltstone.core.caller import Caller
from siltstone.core.check.findings import Finding
from siltstone.core.disk_access import DiskAccess
from siltstone.core.opening import create_volume, open_volume, run_log, snapshot_files
from siltstone.core.orders import FarShard
from siltstone.core.restore import restore
from siltstone.core.shard import Shard
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.superblocks import superblock_of
from siltstone.core.volume import Volume
from siltstone.disk_keeping import DiskKeeping, Edit
from siltstone.engine.disk.parts import part_folder
from siltstone.engine.disk.prefixed import PrefixedDisk, PrefixedFanout
from siltstone.engine.format.label import Label
from siltstone.engine.format.superblock import pack_superblock
from siltstone.engine.labels import newest_label, read_label
from siltstone.engine.pool import DiskRole, Pool
from siltstone.errors import DiskError, SiltstoneError, TooFewDisks, Unavailable
from siltstone.limits import MIB
from siltstone.meta.shards.handover import lenders, placements_of
from siltstone.meta.shards.link import Link
from siltstone.meta.shards.map import MapView, PartitionMap, even_map, map_of
from siltstone.meta.shards.peers import LinkedPeers
from siltstone.meta.shards.service import serve
from siltstone.ports import Disk, Fanout
from siltstone.types import DiskId, PartitionId, ShardId
from sim.all_records import AllRecords, newest
from sim.backing import SimBacking
from sim.fanout import SimFanout
from sim.randomness import SimRandom
from sim.reader_disk import ReaderDisk
from sim.volume import SimVolume, small_config
from sim.workers import SimWorkers

TRIP_SECONDS = 0.003
"""The longest that a request or its answer is on the way."""


class FrontEnd(NamedTuple):
    """A way to the shards, and the tree by it."""

    calls: Caller
    tree: ShardedVolume
    disks: dict[DiskId, ReaderDisk]
    """As it reads them."""
    access: DiskAccess


class SimShardVolumes:
    """The disks and what outlives the processes; ``shards`` of them may be open."""

    def __init__(
        self,
        shards: int = 2,
        *,
        seed: int = 0,
        config: VolumeConfig | None = None,
        capacity_bytes: int = 64 * MIB,
    ) -> None:
        self._chance = random.Random(seed)
        config = config or small_config()
        self.config = msgspec.structs.replace(config, shards=shards, **even_map(shards).settings)
        self.world = SimVolume(self.config, capacity_bytes=capacity_bytes)
        for disk in self.world.disks:
            disk.is_shared = True
        self.shards = [ShardId(shard) for shard in range(shards)]
        self.backings = {shard: SimBacking() for shard in self.shards}
        self.serving: dict[ShardId, tuple[Shard, trio.Nursery]] = {}
        self.volumes: dict[ShardId, Volume] = {}
        self._scopes: dict[ShardId, trio.CancelScope] = {}
        self._far: dict[ShardId, FarShard] = {}
        self.damaged: list[str] = []
        """What was said of snapshots that could not be read in an import."""
        self.restored_from_snapshots = 0
        self.emptied: set[int] = set()
        """Disks that were removed."""
        self.is_losing_answers = False
        """Requests of front-ends are carried out, and none of them hears of it."""
        self.answers_lost = trio.Event()

    def disks(self, shard: ShardId) -> list[Disk]:
        """A shard's part of each disk."""
        return [self.part_of(disk, shard) for disk in self.config.disks]

    def part_of(self, disk: DiskConfig, shard: ShardId) -> Disk:
        """A shard's part of a disk."""
        whole = self.world.disks[disk.disk_id]
        return PrefixedDisk(whole, part_folder(shard)) if shard else whole

    def fanout(self, shard: ShardId) -> Fanout:
        """The fan-out for those."""
        return PrefixedFanout(SimFanout()) if shard else SimFanout()

    def partitions(self) -> PartitionMap:
        """Who has what."""
        first = map_of(self.config)
        known = [first.moved(placements_of(volume.ledger.store)) for volume in self.volumes.values()]
        return newest([first, *known])

    async def give(self, partition: PartitionId, to: ShardId) -> bool:
        """Have a partition go to a shard; whether it did."""
        giver = self.partitions().owner(partition)
        if giver not in self.serving or giver == to:
            return False
        served, nursery = self.serving[giver]
        said: list[bool] = []
        over = trio.Event()

        async def give() -> None:
            try:
                await served.give(partition, to)
                said.append(True)
            except SiltstoneError:
                said.append(False)
            over.set()

        nursery.start_soon(give)
        with trio.move_on_after(5):
            await over.wait()
        return said == [True]

    async def create(self) -> None:
        """Make the volume."""
        for disk, disk_config in zip(self.world.disks, self.config.disks, strict=True):
            disk.format(pack_superblock(superblock_of(self.config, disk_config, created_ns=0)))
        for shard in self.shards:
            await self.lay(self.config, shard)

    async def lay(self, config: VolumeConfig, shard: ShardId) -> None:
        """Make an empty shard."""
        self.backings[shard] = SimBacking()
        await create_volume(
            config,
            disks=self.disks(shard),
            fanout=self.fanout(shard),
            backing=self.backings[shard],
            clock=self.world.clock,
            random=self.world.random,
            shard=shard,
        )

    def opened(
        self, shard: ShardId, join: Callable[[Volume, trio.Nursery], object] | None = None
    ) -> AbstractAsyncContextManager[Volume]:
        """A shard's volume, opened; without ``join`` it has nobody to talk to."""
        return open_volume(
            self.config,
            disks=self.disks(shard),
            fanout=self.fanout(shard),
            backing=self.backings[shard],
            clock=self.world.clock,
            random=self.world.random,
            workers=SimWorkers(),
            shard=shard,
            join=join,
            open_disk=lambda disk: self.part_of(disk, shard),
        )

    def make_link(self, shard: ShardId, *, is_for_front_end: bool = False) -> Link:
        """A connection to a shard, whenever it lives."""

        async def connect() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if shard not in self.serving:
                raise Unavailable("nobody listens")
            near, far = memory_stream_pair()
            served, nursery = self.serving[shard]

            async def serve_it() -> None:
                async with served.connected() as carry_out:

                    async def handle(payload: bytes) -> bytes:
                        await trio.sleep(self._chance.random() * TRIP_SECONDS)
                        answer = await carry_out(payload)
                        await trio.sleep(self._chance.random() * TRIP_SECONDS)
                        if self.is_losing_answers and is_for_front_end:
                            self.answers_lost.set()
                            await trio.sleep_forever()
                        return answer

                    await serve(far, handle)

            nursery.start_soon(serve_it)
            return near

        return Link(f"shard {shard}", connect, self.world.clock)

    async def start(self, nursery: trio.Nursery) -> None:
        """Begin the first lives, in a nursery."""
        self._nursery = nursery
        for shard in self.shards:
            await self.begin(shard)

    async def begin(self, shard: ShardId) -> None:
        """Begin a life of a shard's process."""
        self._scopes[shard] = await self._nursery.start(self._live, shard)

    async def end(self, shard: ShardId) -> None:
        """Kill a shard's process."""
        self._scopes.pop(shard).cancel()
        while shard in self.serving:  # noqa: ASYNC110
            await trio.sleep(0.001)

    async def restart(self, shard: ShardId) -> None:
        """Kill a shard's process, and start it again after a while."""
        self._scopes[shard].cancel()
        await trio.sleep(0.2)
        self._scopes[shard] = await self._nursery.start(self._live, shard)

    async def lose_power(self) -> None:
        """All processes end, and with them what was not flushed; call ``start_again`` then."""
        for scope in self._scopes.values():
            scope.cancel()
        for disk in self.world.disks:
            disk.power_off()
        await trio.sleep(0.2)
        self.world.after_crash()

    async def start_again(self) -> None:
        """Begin other lives of all."""
        async with trio.open_nursery() as nursery:
            for shard in self.shards:
                nursery.start_soon(self._start_again, shard)

    async def _start_again(self, shard: ShardId) -> None:
        self._scopes[shard] = await self._nursery.start(self._live, shard)

    async def import_from_disks(self) -> None:
        """Make HOME anew from what is on the disks that are there, as `siltstone import` does. Nobody is alive."""
        labels: list[Label | None] = []
        for disk in self.world.disks:
            with suppress(DiskError):
                labels.append(await read_label(disk))
        label = newest_label(labels)
        assert label is not None, "no disk has a label"
        self.config = msgspec.json.decode(label.text, type=VolumeConfig)
        roles = {DiskId(disk.disk_id): DiskRole(disk.role) for disk in self.config.disks}
        for shard in self.shards:
            self.backings[shard] = SimBacking()
            pool = Pool(self.disks(shard), self.fanout(shard), self.world.random, self.world.clock, roles)
            await pool.probe()
            files = snapshot_files(self.config, pool, self.world.random, SimWorkers())
            restored = await restore(files, self.backings[shard], self.damaged.append)
            self.restored_from_snapshots += bool(restored.applied_lsn)
            assert await run_log(self.config, pool, self.backings[shard], self.world.clock) >= restored.end

    async def _live(self, shard: ShardId, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """One life of a shard's process. It ends without being told: nothing more is written."""
        with trio.CancelScope() as scope:

            def join(volume: Volume, nursery: trio.Nursery) -> None:
                peers = LinkedPeers(self.make_link)
                nursery.start_soon(peers.run)
                side = Shard(shard, volume, self.view(shard), peers, nursery, forget_peer=peers.forget)
                self.serving[shard] = side, nursery

            async with self.opened(shard, join) as volume:
                self.volumes[shard] = volume
                task_status.started(scope)
                try:
                    await trio.sleep_forever()
                finally:
                    del self.serving[shard], self.volumes[shard]
        self.backings[shard] = self.backings[shard].crash()

    def caller(self, seed: int = 0) -> Caller:
        """A front-end."""
        make_link = partial(self.make_link, is_for_front_end=True)
        return Caller(self.view(), make_link, self.world.clock, SimRandom(seed))

    def view(self, shard: ShardId | None = None) -> MapView:
        """What somebody who begins knows of where partitions are: where they were in the beginning."""
        return MapView(map_of(self.config), shard)

    def front_end(self, seed: int, nursery: trio.Nursery) -> FrontEnd:
        """A front-end that runs in a nursery."""
        calls = self.caller(seed)
        nursery.start_soon(calls.run)
        disks: dict[DiskId, ReaderDisk] = {}

        async def find() -> dict[DiskId, Disk]:
            for disk in self.world.disks:
                if disk.disk_id not in disks:
                    disks[disk.disk_id] = ReaderDisk(disk)
            return {**disks}

        access = DiskAccess(find, SimFanout(), SimRandom(seed), self.world.clock)
        tree = ShardedVolume(calls, calls.partitions, self.world.clock, access)
        nursery.start_soon(tree.run)
        return FrontEnd(calls, tree, disks, access)

    def all_shards(self) -> AllShards:
        """What the owner has, in whose process is shard 0."""
        others = {shard: self.far(shard) for shard in self.shards[1:]}
        return AllShards(self.serving[self.shards[0]][0].administration, others, self.world.clock)

    def far(self, shard: ShardId) -> FarShard:
        """A shard, as the owner asks it."""
        if shard not in self._far:
            link = self.make_link(shard)
            self._nursery.start_soon(link.run)
            self._far[shard] = FarShard(link, self.world.clock)
        return self._far[shard]

    def label(self) -> Label:
        """What the disks should say of the volume."""
        return Label(UUID(self.config.uuid).bytes, self.config.serial, msgspec.json.encode(self.config))

    async def save(self, edit: Edit) -> None:
        """Change the settings, as the owner does: see disk_keeping.Settings. Dies with the owner."""
        owner = self.volumes[self.shards[0]]
        self.config = msgspec.structs.replace(edit(self.config), serial=self.config.serial + 1)
        with suppress(TooFewDisks):
            await owner.labels.publish(self.label())

    def keeping(self) -> DiskKeeping:
        """What the owner has of disks, while it lives."""
        return DiskKeeping(self, self.all_shards(), SimDirectories(self), self.world.clock)

    async def fsck(self, *, deep: bool = False) -> list[Finding]:
        """What fsck finds, as the owner runs it."""
        return await self.all_shards().fsck(deep=deep, progress=None)

    async def wait_quiet(self) -> None:
        """Return when every transaction is over everywhere, and every orphan purged."""
        while True:
            loads = [served.load() for served, _ in self.serving.values()]
            left = sum(load.prepared + load.unsettled for load in loads)
            if not left and not any(len(volume.orphans) for volume in self.volumes.values()):
                return
            await trio.sleep(0.1)

    async def wait_brought(self) -> None:
        """Return when no partition is on its way, and no shard has bytes (any more) of what is another's."""
        while True:
            is_moving = any(served.moving for served, _ in self.serving.values())
            if not is_moving and not any(lenders(volume.ledger.store) for volume in self.volumes.values()):
                return
            await trio.sleep(1)

    def reader(self) -> AllRecords:
        """The records of all shards together."""
        return AllRecords(self.partitions(), {shard: volume.ledger.store for shard, volume in self.volumes.items()})


class SimDirectories:
    """See disk_keeping.Directories: what is not a disk yet is empty."""

    def __init__(self, volumes: SimShardVolumes) -> None:
        self._volumes = volumes

    async def check(self, config: VolumeConfig, path: str, bytes_max: int, away: Collection[int]) -> None:
        """Everything can become a disk."""
        await trio.lowlevel.checkpoint()

    async def format(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """Make a disk."""
        await trio.lowlevel.checkpoint()
        disks = self._volumes.world.disks
        if disk.disk_id == len(disks):  # or a crash came behind this
            disks.append(self._volumes.world.new_disk(DiskId(disk.disk_id)))
        disks[disk.disk_id].is_shared = True
        disks[disk.disk_id].format(pack_superblock(superblock_of(config, disk, created_ns=0)))

    async def empty(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """Nothing is left on it."""
        await trio.lowlevel.checkpoint()
        self._volumes.world.disks[disk.disk_id].wipe()
        self._volumes.emptied.add(disk.disk_id)
