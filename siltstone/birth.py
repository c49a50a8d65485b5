"""How a volume comes to be: what the disks allow is planned and checked first, then all is made or nothing is."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from siltstone.config import DAY_SECONDS, DiskConfig, VolumeConfig
from siltstone.disk_directories import check_apart, existing, room_for_disk
from siltstone.errors import ConfigInvalid, Unavailable
from siltstone.geometry import DISK_BYTES_MIN, Code, code_for, log_replicas_for, sizes_for
from siltstone.home import Home, sync_directory
from siltstone.in_time import in_time
from siltstone.limits import DISK_TIMEOUT_SECONDS, MIB, SHARDS_MAX
from siltstone.meta.shards.map import even_map
from siltstone.owner import lay_volume

DISKS_DEFAULT = 6
DISKS_FOR_PROTECTION = 3
OF_THE_FILESYSTEM = {"lost+found"}
"""What an empty filesystem has in its top directory."""


class Plan(NamedTuple):
    """What is to be made, and what the person who asked should know."""

    config: VolumeConfig
    code: Code
    code_was_chosen: bool
    new_directories: tuple[Path, ...]
    warnings: tuple[str, ...]


async def check_answers(home: Home, disks: Sequence[str], *, limit_seconds: float = DISK_TIMEOUT_SECONDS) -> None:
    """Raise Unavailable for a directory that gives no answer: what plans a volume would wait for it for ever."""
    silent: list[Unavailable] = []

    async def look(path: Path) -> None:
        try:
            await in_time(str(path), limit_seconds, _look, path)
        except Unavailable as error:
            silent.append(error)

    async with trio.open_nursery() as nursery:
        for path in (home.path, *map(Path, disks)):
            nursery.start_soon(look, path)
    if silent:
        raise silent[0]


def plan_volume(
    home: Home,
    disks: Sequence[str],
    *,
    code: Code | None,
    bytes_max: int,
    few_disks_allowed: bool,
    shards: int = 1,
    lifecycle_day: float = DAY_SECONDS,
) -> Plan:
    """Settings for a new volume; looks at the directories and changes nothing. Raises ConfigInvalid."""
    paths = [Path(os.path.abspath(disk)) for disk in disks]
    if not paths:
        paths = [home.disks / f"disk{index}" for index in range(DISKS_DEFAULT)]
    check_home(home, paths)
    _check_disks(home, paths)
    if len(paths) < DISKS_FOR_PROTECTION and not few_disks_allowed:
        raise ConfigInvalid(
            f"a volume of {len(paths)} has little or no protection; give three disks or more, or say --force-single"
        )
    chosen = code_for(len(paths)) if code is None else code
    replicas = log_replicas_for(chosen, len(paths))
    devices = [_device(path) for path in paths]
    room = min(room_for_disk(path) // devices.count(device) for path, device in zip(paths, devices, strict=True))
    if bytes_max and bytes_max > room:
        raise ConfigInvalid(f"--disk-size {bytes_max}: the smallest disk has room for {room} bytes only")
    if not 1 <= shards <= SHARDS_MAX:
        raise ConfigInvalid(f"--shards {shards}: want 1 to {SHARDS_MAX}")
    # Each shard has a log and slabs of its own on all disks.
    if shards > 1 and (bytes_max or room) // shards < DISK_BYTES_MIN:
        raise ConfigInvalid(
            f"--shards {shards}: the smallest disk has {(bytes_max or room) // shards} bytes for each, want at least "
            f"{DISK_BYTES_MIN // MIB} MiB; give larger disks or fewer shards"
        )
    sizes = sizes_for((bytes_max or room) // shards, len(paths), replicas)
    config = VolumeConfig(
        uuid=uuid.uuid4().hex,
        data_units=chosen.data_units,
        parity_units=chosen.parity_units,
        disks=tuple(
            DiskConfig(disk_id=index, path=str(path), uuid=uuid.uuid4().hex, bytes_max=bytes_max)
            for index, path in enumerate(paths)
        ),
        log_replicas=replicas,
        segment_bytes=sizes.segment_bytes,
        chunk_bytes=sizes.chunk_bytes,
        log_bytes_high=sizes.log_bytes_high,
        log_bytes_low=sizes.log_bytes_low,
        lifecycle_day=lifecycle_day,
        shards=shards,
        partition_owners=even_map(shards).settings["partition_owners"] if shards > 1 else "",
    )
    config.check()
    return Plan(
        config=config,
        code=chosen,
        code_was_chosen=code is None,
        new_directories=tuple(path for path in paths if not path.exists()),
        warnings=_warnings(disks, devices, chosen),
    )


async def make_volume(home: Home, plan: Plan) -> None:
    """Make HOME, the disks and the empty volume. If anything fails, what was made is taken away again."""
    made_home = not home.path.exists()
    formatted: list[str] = []
    try:
        home.path.mkdir(parents=True, exist_ok=True)
        with home.owned():
            for path in plan.new_directories:
                path.mkdir(parents=path.is_relative_to(home.disks))
            await lay_volume(home, plan.config, formatted)
            home.save_config(plan.config)  # last: without it there is no volume
            sync_directory(home.path.parent)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_take_away, home, plan, formatted, made_home)
        if isinstance(error, OSError):
            raise Unavailable(f"cannot make the volume: {error.filename}: {error.strerror}") from error
        raise


def check_home(home: Home, disks: Sequence[Path]) -> None:
    """Whether HOME can become a volume's; blocks. Raises ConfigInvalid."""
    if home.volume_file.exists():
        raise ConfigInvalid(f"{home.path} holds a volume already")
    if not home.path.exists():
        return
    if not home.path.is_dir():
        raise ConfigInvalid(f"{home.path} is not a directory")
    left = {"lock", *OF_THE_FILESYSTEM}
    if home.importing.exists():
        left |= {path.name for path in home.made_by_import}
    for entry in home.path.iterdir():
        # These may be left from an attempt that failed; a disk may have been made inside HOME by hand.
        if entry.name not in left and not any(disk.is_relative_to(entry) for disk in disks):
            raise ConfigInvalid(f"{home.path} is not empty ({entry.name}); a volume wants an empty or new directory")


def _check_disks(home: Home, disks: Sequence[Path]) -> None:
    check_apart(home.path, disks)
    for index, path in enumerate(Path(os.path.realpath(disk)) for disk in disks):
        if not path.exists():
            if not path.parent.is_dir() and not disks[index].is_relative_to(home.disks):
                raise ConfigInvalid(f"disk {disks[index]} does not exist, and neither does the directory above it")
            continue
        if not path.is_dir():
            raise ConfigInvalid(f"disk {disks[index]} is not a directory")
        if (path / "superblock").exists():
            raise ConfigInvalid(f"disk {disks[index]} belongs to a volume already (it has a superblock)")
        found = sorted(entry.name for entry in path.iterdir() if entry.name not in OF_THE_FILESYSTEM)
        if found:
            raise ConfigInvalid(f"disk {disks[index]} is not empty ({found[0]})")


def _look(path: Path) -> None:
    with suppress(OSError):  # that it is there and may be read is asked by whoever needs it
        os.listdir(existing(path))


def _device(path: Path) -> int:
    return existing(path).stat().st_dev


def _warnings(disks: Sequence[str], devices: Sequence[int], code: Code) -> tuple[str, ...]:
    warnings = []
    shared = len(devices) - len(set(devices))
    if not disks:
        warnings.append(
            f"the {DISKS_DEFAULT} disks are directories on one device: good to try things out, no protection against "
            "losing that device; give --disk for each real disk"
        )
    elif shared and len(devices) > 1:
        warnings.append(f"{shared + 1} of the disks share a device with another: losing it loses all that are on it")
    if not code.parity_units:
        warnings.append("no parity: losing a disk loses data")
    return tuple(warnings)


def _take_away(home: Home, plan: Plan, formatted: Sequence[str], made_home: bool) -> None:
    for disk in formatted:  # these were empty before
        for entry in Path(disk).iterdir():
            if entry.name not in OF_THE_FILESYSTEM:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for directory in (*plan.new_directories, home.meta, home.shards):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (home.volume_file, home.lock_file):
        file.unlink(missing_ok=True)
    if home.disks.is_dir() and not any(home.disks.iterdir()):
        home.disks.rmdir()
    if made_home and home.path.is_dir() and not any(home.path.iterdir()):
        home.path.rmdir()
