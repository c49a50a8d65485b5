"""What the superblock of each disk of a volume says, by the volume's settings."""

from __future__ import annotations

from uuid import UUID

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.engine.format.superblock import Superblock
from siltstone.types import DiskId


def superblock_of(config: VolumeConfig, disk: DiskConfig, *, created_ns: int) -> Superblock:
    """The superblock of one of the volume's disks. ``created_ns``: when it is made, or made again."""
    return Superblock(
        volume_uuid=UUID(config.uuid).bytes,
        disk_uuid=UUID(disk.uuid).bytes,
        disk_id=DiskId(disk.disk_id),
        disk_count=len(config.disks),
        data_units=config.data_units,
        parity_units=config.parity_units,
        chunk_bytes=config.chunk_bytes,
        created_ns=created_ns,
    )
