"""Owning a volume: the lock, the disks with the check that they are ours, the metadata, the open volume, the keys."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import msgspec
import trio

from siltstone.config import VolumeConfig
from siltstone.core.opening import create_volume, open_volume
from siltstone.core.superblocks import superblock_of
from siltstone.core.volume import Volume
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.superblocks import read_superblock
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.engine.format.superblock import Superblock
from siltstone.engine.pool import DiskRole
from siltstone.errors import FormatInvalid
from siltstone.home import Home
from siltstone.keys import KeyRing
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.roster import check_roster
from siltstone.types import DiskId

logger = logging.getLogger("siltstone")


class Owner:
    """An open volume and what belongs to it."""

    def __init__(
        self,
        home: Home,
        config: VolumeConfig,
        volume: Volume,
        clock: SystemClock,
        workers: TrioWorkers,
        disks: list[LocalDisk],
    ) -> None:
        self.home = home
        self.disks = disks
        self.changing = trio.Lock()
        """Held while the membership of disks changes."""
        self.config = config
        self.volume = volume
        self.clock = clock
        self.workers = workers
        self.keys = KeyRing.load(home.keys_file)

    def remember_role(self, disk_id: DiskId, role: DiskRole) -> None:
        """Write down what a disk is to the volume from now on. Blocks for a small write."""
        disks = tuple(
            msgspec.structs.replace(disk, role=role.value) if disk.disk_id == disk_id else disk
            for disk in self.config.disks
        )
        changed = msgspec.structs.replace(self.config, disks=disks)
        self.home.save_config(changed)
        self.config = changed

    def status(self) -> dict[str, Any]:
        """The volume's status, with what this process adds to it; as JSON has it."""
        return {
            "home": str(self.home.path),
            "code": f"{self.config.data_units}+{self.config.parity_units}",
            "disk_paths": {str(disk.disk_id): disk.path for disk in self.config.disks},
            "process": {"pid": os.getpid(), "resident_bytes": resident_bytes()},
            "volume": msgspec.to_builtins(self.volume.status()),
        }


@contextlib.asynccontextmanager
async def open_owner(home: Home) -> AsyncIterator[Owner]:
    """Own the volume and have it open. Everything is durable and let go of when the context has ended.

    Raises ConfigInvalid, VolumeBusy, ForeignDisk, TooFewDisks, Corrupt, each with what to do.
    """
    config = home.load_config()
    with home.owned():
        found = await trio.to_thread.run_sync(_look_at_disks, config)
        for warning in check_roster(config, found):
            logger.warning(warning)
        clock, random, workers = SystemClock(), SystemRandom(), TrioWorkers()
        async with _opened_disks(config) as disks:
            with _metadata(home, config) as backing:
                async with open_volume(
                    config,
                    disks=disks,
                    fanout=LocalFanout(),
                    backing=backing,
                    clock=clock,
                    random=random,
                    workers=workers,
                ) as volume:
                    owner = Owner(home, config, volume, clock, workers, disks)
                    volume.mover.on_role(owner.remember_role)
                    yield owner
                    disks[:] = owner.disks


async def lay_volume(home: Home, config: VolumeConfig, formatted: list[str]) -> None:
    """Make the disks and an empty volume on them. ``formatted`` gets the path of each disk as soon as it is one."""
    created_ns = SystemClock().now_ns()
    for disk in config.disks:
        await format_disk(disk.path, superblock_of(config, disk, created_ns=created_ns))
        formatted.append(disk.path)
    async with _opened_disks(config) as disks:
        with _metadata(home, config, create=True) as backing:
            await create_volume(
                config,
                disks=disks,
                fanout=LocalFanout(),
                backing=backing,
                clock=SystemClock(),
                random=SystemRandom(),
            )


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _look_at_disks(config: VolumeConfig) -> dict[int, Superblock | str]:
    found: dict[int, Superblock | str] = {}
    for disk in config.disks:
        try:
            found[disk.disk_id] = read_superblock(disk.path)
        except FormatInvalid as error:
            found[disk.disk_id] = str(error)
        except OSError as error:
            found[disk.disk_id] = f"{error.strerror} (not mounted?)"
    return found


@contextlib.asynccontextmanager
async def _opened_disks(config: VolumeConfig) -> AsyncIterator[list[LocalDisk]]:
    disks = [LocalDisk(DiskId(disk.disk_id), disk.path, UUID(disk.uuid).bytes, disk.bytes_max) for disk in config.disks]
    try:
        yield disks
    finally:
        with trio.CancelScope(shield=True):
            for disk in disks:
                await disk.close()


@contextlib.contextmanager
def _metadata(home: Home, config: VolumeConfig, *, create: bool = False) -> Iterator[LmdbBacking]:
    backing = LmdbBacking(str(home.meta), bytes_max=config.lmdb_bytes_max, create=create)
    try:
        yield backing
    finally:
        backing.close()
