"""Whether the disks at a volume's paths are the volume's disks, each in its place. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.engine.format.superblock import Superblock
from siltstone.errors import ForeignDisk, TooFewDisks

Found = Mapping[int, Superblock | str]
"""By slot: the superblock at its path, or why there is none."""


def check_roster(config: VolumeConfig, found: Found) -> list[str]:
    """A sentence for each disk that is missing.

    Raises ForeignDisk for one that is not the volume's or not in its place, TooFewDisks when more are missing than the
    erasure code allows. A disk that was declared lost may be missing, or anything else in its place.
    """
    missing = []
    lost = []
    for disk in config.disks:
        superblock = found[disk.disk_id]
        if disk.role == "lost":
            lost.append(f"disk {disk.disk_id} was declared lost; what it held is being rebuilt on others")
            continue
        if isinstance(superblock, str):
            missing.append(f"disk {disk.disk_id} is missing: {disk.path}: {superblock}")
        else:
            _check_disk(config, found, disk, superblock)
    if len(missing) > config.parity_units:
        raise TooFewDisks(
            f"{len(missing)} of {len(config.disks)} disks are missing, at most {config.parity_units} may be: "
            + "; ".join(missing)
        )
    return missing + lost


def _check_disk(config: VolumeConfig, found: Found, disk: DiskConfig, superblock: Superblock) -> None:
    if superblock.volume_uuid != UUID(config.uuid).bytes:
        other = UUID(bytes=superblock.volume_uuid)
        raise ForeignDisk(f"{disk.path} is a disk of another volume ({other}), not disk {disk.disk_id} of this one")
    if superblock.disk_uuid == UUID(disk.uuid).bytes:
        return
    owner = next((other for other in config.disks if UUID(other.uuid).bytes == superblock.disk_uuid), None)
    if owner is None:
        raise ForeignDisk(f"{disk.path} is a disk of this volume that its settings do not know (disk {disk.disk_id})")
    at_its_place = found[owner.disk_id]
    if isinstance(at_its_place, Superblock) and at_its_place.disk_uuid == superblock.disk_uuid:
        raise ForeignDisk(f"{disk.path} and {owner.path} are the same disk, or one is a copy (disk {owner.disk_id})")
    raise ForeignDisk(
        f"{disk.path} holds disk {owner.disk_id}, which belongs at {owner.path}: were disks swapped? "
        "Mount each at its own place"
    )
