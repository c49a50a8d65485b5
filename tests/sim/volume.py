"""A whole volume in simulation: disks, backing, clock and randomness on one seed, through crashes."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import msgspec

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.opening import create_volume, open_volume, snapshot_files
from siltstone.core.restore import Restored, restore
from siltstone.core.superblocks import superblock_of
from siltstone.core.volume import Volume
from siltstone.engine.format.label import Label
from siltstone.engine.format.superblock import pack_superblock
from siltstone.engine.labels import newest_label, read_label
from siltstone.engine.pool import DiskRole, Pool
from siltstone.errors import DiskError
from siltstone.limits import KIB, MIB
from siltstone.types import DiskId
from sim.backing import SimBacking
from sim.clock import SimClock
from sim.disk import Operation, SimDisk
from sim.fanout import SimFanout
from sim.randomness import SimRandom
from sim.workers import SimWorkers

UNCOUNTED = {"probe", "space"}
"""Operations that change nothing and that nobody waits for: a countdown passes over them."""


def disk_config(disk_id: DiskId) -> DiskConfig:
    """The settings of a disk."""
    return DiskConfig(disk_id=disk_id, path=f"disk{disk_id}", uuid=str(UUID(int=disk_id)))


def small_config(*, disk_count: int = 6, data_units: int = 4, parity_units: int = 2) -> VolumeConfig:
    """A geometry in which everything that is large in life happens in a few megabytes."""
    return VolumeConfig(
        uuid=str(UUID(int=7)),
        data_units=data_units,
        parity_units=parity_units,
        disks=tuple(disk_config(DiskId(index)) for index in range(disk_count)),
        log_replicas=min(3, disk_count),
        chunk_bytes=256 * KIB,
        segment_bytes=1 * MIB,
        dirty_bytes_max=2 * MIB,
        log_bytes_low=1 * MIB,
        log_bytes_high=8 * MIB,
        disk_timeout=10.0,
        snapshot_bytes_min=4 * KIB,
    )


@dataclass(eq=False)
class Strike:
    """Something that happens when so many more operations have begun."""

    operations: int
    act: Operation


class SimVolume:
    """The world of a volume, and the volume in it while it is open. The world outlives crashes."""

    def __init__(self, config: VolumeConfig, *, seed: int = 0, capacity_bytes: int = 64 * MIB) -> None:
        # Volumes of earlier examples are reference cycles that hold tens of megabytes of disks in few objects, so the
        # collector would not come for them: a run of some hundred examples took 10 GB.
        gc.collect()
        self.config = config
        self.random = SimRandom(seed)
        self.clock = SimClock()
        self.capacity_bytes = capacity_bytes
        self.disks = [
            SimDisk(
                DiskId(disk.disk_id),
                capacity_bytes=capacity_bytes,
                cache_random=SimRandom(seed + disk.disk_id),
                limit_seconds=config.disk_timeout,
            )
            for disk in config.disks
        ]
        for disk in self.disks:
            disk.on_operation = self._note_operation
        self.backing = SimBacking()
        self.serial = 0
        self.damaged: list[str] = []
        """What was said of snapshots that could not be read when HOME was lost."""
        self.operations = 0
        """Operations begun so far on all disks together, but for the UNCOUNTED."""
        self.is_off = False
        self.on_power_lost: Callable[[], None] = _nothing
        """Called in the middle of the operation that the power is lost in; must not block."""
        self._strikes: list[Strike] = []

    async def create(self) -> None:
        """Make the volume."""
        for disk, disk_config in zip(self.disks, self.config.disks, strict=True):
            disk.format(pack_superblock(superblock_of(self.config, disk_config, created_ns=0)))
        await create_volume(
            self.config,
            disks=self.disks,
            fanout=SimFanout(),
            backing=self.backing,
            clock=self.clock,
            random=self.random,
        )

    def make_disk(self) -> SimDisk:
        """Another disk, empty and formatted, that is not in the settings yet."""
        disk = self.new_disk(DiskId(len(self.disks)))
        disk.format(self.superblock(disk.disk_id))
        self.disks.append(disk)
        return disk

    def new_disk(self, disk_id: DiskId) -> SimDisk:
        """Another disk, empty, that belongs to nobody yet."""
        disk = SimDisk(
            disk_id,
            capacity_bytes=self.capacity_bytes,
            cache_random=SimRandom(disk_id),
            limit_seconds=self.config.disk_timeout,
        )
        disk.on_operation = self._note_operation
        return disk

    def superblock(self, disk_id: DiskId) -> bytes:
        """What a disk that is added later says of itself."""
        return pack_superblock(superblock_of(self.config, disk_config(disk_id), created_ns=0))

    def set_role(self, disk_id: DiskId, role: str | None) -> None:
        """Write a disk's role into the settings; with None, take the disk out of them."""
        disks = {disk.disk_id: disk for disk in self.config.disks}
        disks.pop(disk_id, None)
        if role is not None:
            disks[disk_id] = msgspec.structs.replace(disk_config(disk_id), role=role)
        self.config = msgspec.structs.replace(self.config, disks=tuple(disks[number] for number in sorted(disks)))
        self.serial += 1

    def label(self) -> Label:
        """What the disks should say of the volume."""
        return Label(UUID(self.config.uuid).bytes, self.serial, msgspec.json.encode(self.config))

    async def publish(self, volume: Volume) -> None:
        """Have the settings on the disks, as the owner of a volume does when they change."""
        self.serial += 1
        await volume.labels.publish(self.label())

    async def lose_home(self) -> Restored:
        """All that is known of the volume is what its disks say: take settings and metadata from there."""
        labels: list[Label | None] = []
        for disk in self.disks:
            with suppress(DiskError):
                labels.append(await read_label(disk))
        label = newest_label(labels)
        assert label is not None, "no disk has a label"
        self.config = msgspec.json.decode(label.text, type=VolumeConfig)
        self.serial = label.serial
        self.backing = SimBacking()
        disks = [self.disks[disk.disk_id] for disk in self.config.disks]
        roles = {DiskId(disk.disk_id): DiskRole(disk.role) for disk in self.config.disks}
        pool = Pool(disks, SimFanout(), self.random, self.clock, roles)
        await pool.probe()
        files = snapshot_files(self.config, pool, self.random, SimWorkers())
        return await restore(files, self.backing, self.damaged.append)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Volume]:
        """The volume, opened."""
        async with open_volume(
            self.config,
            disks=[self.disks[disk.disk_id] for disk in self.config.disks],
            fanout=SimFanout(),
            backing=self.backing,
            clock=self.clock,
            random=self.random,
            workers=SimWorkers(),
        ) as volume:
            await self.publish(volume)
            volume.labels.follow(lambda: self.serial, self.label)
            yield volume

    def strike_after(self, operations: int, act: Operation) -> None:
        """Call ``act`` right before the operation that begins after so many others, on whatever disk it is."""
        self._strikes.append(Strike(operations, act))

    def disarm(self) -> None:
        """Forget the strikes that have not come yet."""
        self._strikes.clear()

    def power_off(self) -> None:
        """Stop every disk where it is; nothing that runs changes them any more."""
        self.is_off = True
        self.disarm()
        for disk in self.disks:
            disk.power_off()
        self.on_power_lost()

    def after_crash(self) -> None:
        """What a power loss leaves on the disks, decided by the seed, ready to be opened again."""
        self.is_off = False
        for disk in self.disks:
            disk.crash(self.random)
            disk.reopen()

    def after_kill(self) -> None:
        """What the death of the process leaves on the disks: all that was written, flushed or not."""
        self.is_off = False
        for disk in self.disks:
            disk.turn_on()
            disk.reopen()

    def _note_operation(self, disk: SimDisk, operation: str, name: str) -> None:
        if operation in UNCOUNTED:
            return
        self.operations += 1
        due = [strike for strike in self._strikes if strike.operations <= 0]
        for strike in self._strikes:
            strike.operations -= 1
        for strike in due:
            if strike in self._strikes:
                self._strikes.remove(strike)
                strike.act(disk, operation, name)


def _nothing() -> None:
    """Nobody wants to know."""
