"""The directories that become disks of a volume, and those that were its disks. Blocking, but for DiskDirectories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.superblocks import superblock_of
from siltstone.engine.disk.local import format_disk
from siltstone.engine.disk.parts import USAGE_NAME, is_part_folder
from siltstone.engine.disk.superblocks import read_superblock
from siltstone.engine.format.superblock import SUPERBLOCK_NAME
from siltstone.errors import ConfigInvalid, FormatInvalid, Unavailable
from siltstone.home import Home
from siltstone.in_time import in_time
from siltstone.ports import Clock

FILES_OF_A_DISK = ("log", "slab", "snapshot", "label", "probation", USAGE_NAME)


class DiskDirectories:
    """Those of a volume on this machine."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock

    async def check(self, config: VolumeConfig, path: str, bytes_max: int, away: Collection[int]) -> None:
        """Whether a directory (an absolute path) can become a disk; takes away the superblock of an attempt that a
        crash cut short. Raises ConfigInvalid, Unavailable.

        ``away``: disks that are not looked at, for one that hangs would hold up what is to replace it.
        """
        directory = Path(path)
        assert directory.is_absolute()
        unseen = [Path(disk.path) for disk in config.disks if disk.disk_id in away]
        if any(directory.is_relative_to(other) or other.is_relative_to(directory) for other in unseen):
            raise ConfigInvalid(f"{path} is, or is inside, or holds, a disk of the volume that is away")
        arguments = self._home.path, config, directory, bytes_max, unseen
        await in_time(path, config.disk_timeout, _check_directory, *arguments)

    async def format(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """Make a directory a disk, durably. Raises ConfigInvalid."""
        await format_disk(disk.path, superblock_of(config, disk, created_ns=self._clock.now_ns()))

    async def empty(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """Make a removed disk an empty directory, if it answers."""
        with suppress(Unavailable):  # what hangs keeps what it has
            await in_time(disk.path, config.disk_timeout, _empty_directory, disk)


def _check_directory(home: Path, config: VolumeConfig, path: Path, bytes_max: int, away: Collection[Path]) -> None:
    """Whether a directory can become a disk; takes away the superblock of an attempt that a crash cut short."""
    check_new_disk(home, [other for disk in config.disks if (other := Path(disk.path)) not in away], path)
    try:
        found = read_superblock(path)
    except FileNotFoundError:
        pass
    except (OSError, FormatInvalid) as error:
        raise ConfigInvalid(f"{path} cannot become a disk: its superblock cannot be read ({error})") from error
    else:
        names = {entry.name for entry in path.iterdir()} - {SUPERBLOCK_NAME, "lost+found"}
        is_known = any(UUID(disk.uuid).bytes == found.disk_uuid for disk in config.disks)
        if found.volume_uuid != UUID(config.uuid).bytes or is_known or names:
            raise ConfigInvalid(f"{path} belongs to a volume already (it has a superblock)")
        (path / SUPERBLOCK_NAME).unlink()
    room = room_for_disk(path)
    if bytes_max > room:
        raise ConfigInvalid(f"--size {bytes_max}: {path} has room for {room} bytes only")
    least = min((disk.bytes_max for disk in config.disks if disk.bytes_max), default=0)
    if (bytes_max or room) < max(config.shards * 4 * config.chunk_bytes, least // 4):
        raise ConfigInvalid(f"{path} has room for {bytes_max or room} bytes, too little for a disk of this volume")


def _empty_directory(disk: DiskConfig) -> None:
    """Make a removed disk an empty directory; whatever is not the disk's own stays, and so does another disk."""
    path = Path(disk.path)
    try:
        if read_superblock(path).disk_uuid != UUID(disk.uuid).bytes:
            return
        (path / SUPERBLOCK_NAME).unlink()
    except (OSError, FormatInvalid):
        return
    for entry in [*path.iterdir()]:
        if entry.name not in FILES_OF_A_DISK and not is_part_folder(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def check_apart(home: Path, disks: Sequence[Path]) -> None:
    """Disks are different directories, none in another, and HOME is in none of them."""
    real = [Path(os.path.realpath(disk)) for disk in disks]
    for index, path in enumerate(real):
        if path in real[:index]:
            raise ConfigInvalid(f"the same disk is given twice: {disks[index]}")
        inside = next((other for other in real if other != path and path.is_relative_to(other)), None)
        if inside is not None:
            raise ConfigInvalid(f"disk {disks[index]} is inside disk {inside}: two disks must not share a directory")
        if Path(os.path.realpath(home)).is_relative_to(path):
            raise ConfigInvalid(f"HOME {home} is inside disk {disks[index]}; keep it apart")


def check_new_disk(home: Path, others: Sequence[Path], disk: Path) -> None:
    """Whether a directory may be a disk beside others; blocks. Raises ConfigInvalid. Says nothing of what is in it."""
    check_apart(home, [*others, disk])
    if not disk.exists() and not disk.parent.is_dir():
        raise ConfigInvalid(f"disk {disk} does not exist, and neither does the directory above it")
    if disk.exists() and not disk.is_dir():
        raise ConfigInvalid(f"disk {disk} is not a directory")


def room_for_disk(disk: Path) -> int:
    """Bytes that a directory, or the one that it would be made in, has room for; blocks."""
    space = os.statvfs(existing(disk))
    return space.f_bavail * space.f_frsize


def existing(path: Path) -> Path:
    """A directory, or the nearest above it that is there; blocks."""
    while not path.exists():
        path = path.parent
    return path
