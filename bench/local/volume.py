"""A new volume on directories of this machine, for benches that look inside it while it works."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import trio

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.opening import create_volume, open_volume
from siltstone.core.superblocks import superblock_of
from siltstone.core.volume import Volume
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.types import DiskId


def disk_config(folder: Path, disk_id: int, bytes_max: int = 0) -> DiskConfig:
    """The settings of a disk in a folder; ``bytes_max``: how much of the device it may take, 0 for all."""
    return DiskConfig(disk_id=disk_id, path=str(folder / f"disk{disk_id}"), uuid=uuid.uuid4().hex, bytes_max=bytes_max)


async def make_disk(config: VolumeConfig, disk: DiskConfig) -> LocalDisk:
    """Format a directory."""
    await format_disk(disk.path, superblock_of(config, disk, created_ns=0))
    return LocalDisk(DiskId(disk.disk_id), disk.path, UUID(disk.uuid).bytes, disk.bytes_max)


@asynccontextmanager
async def opened(folder: Path, config: VolumeConfig) -> AsyncIterator[tuple[Volume, list[LocalDisk]]]:
    """A new volume with these settings. Disks that are added to the list are closed with the others."""
    config.check()
    disks = [await make_disk(config, disk) for disk in config.disks]
    backing = LmdbBacking(str(folder / "meta"), bytes_max=1 << 34, create=True)
    clock, randomness = SystemClock(), SystemRandom()
    members: Sequence[LocalDisk] = list(disks)
    try:
        await create_volume(
            config, disks=members, fanout=LocalFanout(), backing=backing, clock=clock, random=randomness
        )
        async with open_volume(
            config,
            disks=members,
            fanout=LocalFanout(),
            backing=backing,
            clock=clock,
            random=randomness,
            workers=TrioWorkers(),
        ) as volume:
            yield volume, disks
    finally:
        with trio.CancelScope(shield=True):
            for disk in disks:
                await disk.close()
        backing.close()
