"""Bringing a volume back from its disks alone, when HOME is lost: found and checked first, then all is made or nothing.

Each shard's metadata is loaded from its snapshots, and its log run over that. Then the settings are written, without
which there is no volume in HOME and the import can be done again, and the volume is opened as after a crash, and
closed. See docs/decisions/0020.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
import trio

from siltstone.birth import check_home
from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.opening import run_log, snapshot_files
from siltstone.core.restore import restore
from siltstone.core.status_sum import sum_of_statuses
from siltstone.core.types import ProgressListener
from siltstone.disk_directories import check_apart
from siltstone.engine.disk.directory import IN_USE
from siltstone.engine.disk.local import LocalDisk
from siltstone.engine.disk.superblocks import is_in_use, read_superblock
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.engine.format.superblock import Superblock
from siltstone.engine.labels import newest_label
from siltstone.engine.pool import DiskRole, Pool
from siltstone.errors import (
    ConfigInvalid,
    Corrupt,
    ForeignDisk,
    FormatInvalid,
    LogDamaged,
    TooFewDisks,
    Unavailable,
    VolumeBusy,
)
from siltstone.home import Home, Ownership, sync_directory
from siltstone.in_time import in_time
from siltstone.keys import AccessKey, KeyRing, opened_key
from siltstone.limits import DISK_TIMEOUT_SECONDS
from siltstone.owner import fanout_of, metadata, open_owned, opened_disks, part_of_disks, read_labels
from siltstone.settings import Settings, settings_in, vault_of
from siltstone.types import DiskId, ShardId
from siltstone.vault import Vault

SETTLED_SECONDS = 60.0
"""How long the end is waited for of what was under way over several shards."""


class ImportPlan(NamedTuple):
    """What was found on the disks. ``missing``: disks of the volume that are not there, in words."""

    settings: Settings
    missing: tuple[str, ...]
    vault: Vault | None = None
    keys: Sequence[AccessKey] = ()
    """With their secrets."""


class ShardImport(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded of one shard."""

    snapshot_lsn: int
    """Where the full snapshot begins that was loaded; 0: there was none, or none was needed."""
    increments: int
    applied_lsn: int
    """Up to here the snapshots led;"""
    log_lsn: int
    """and up to here the log."""
    entries: int
    """Keys and batches that were loaded."""


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did."""

    volume: str
    """Its uuid."""
    disks: int
    missing: list[str]
    damaged: list[str]
    """Snapshots that could not be read; others were used."""
    shards: list[ShardImport]
    is_settled: bool
    """Nothing over several shards was under way any more when the import ended; what is, goes on when the volume is
    opened."""
    inodes: int
    file_bytes: int
    keys: int
    """Access keys of the S3 door."""


async def plan_import(home: Home, paths: Sequence[Path]) -> ImportPlan:
    """Look at the directories (absolute paths) and decide; changes nothing.

    Raises ConfigInvalid, ForeignDisk, VolumeBusy, TooFewDisks, Unavailable, each with what to do.
    """
    check_home(home, paths)
    check_apart(home.path, paths)
    superblocks = {path: await in_time(str(path), DISK_TIMEOUT_SECONDS, _look_at, path) for path in paths}
    _check_one_volume(superblocks)
    settings, vault, keys = await _settings_on(superblocks)
    return _plan(home, settings, superblocks)._replace(vault=vault, keys=keys)


async def import_volume(home: Home, plan: ImportPlan, progress: ProgressListener) -> ImportReport:
    """Make HOME from the disks. If anything fails, what was made is taken away again."""
    made_home = not home.path.exists()
    try:
        home.path.mkdir(parents=True, exist_ok=True)
        with home.owned() as ownership:
            await trio.to_thread.run_sync(_begin, home)
            report = await _fill(home, plan, ownership, progress)
            home.importing.unlink()
            sync_directory(home.path.parent)
            return report
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_take_away, home, made_home)
        if isinstance(error, OSError):
            raise Unavailable(f"cannot import the volume: {error.filename}: {error.strerror}") from error
        raise


# --- looking ----------------------------------------------------------------------------------------------------------


def _look_at(path: Path) -> Superblock:
    try:
        superblock = read_superblock(path)
        if is_in_use(path):
            raise VolumeBusy(f"{path}: {IN_USE}; end it first: is a volume still served whose HOME was lost?", 0)
    except FileNotFoundError as error:
        what = "holds no disk of a volume (it has no superblock)" if path.is_dir() else "does not exist"
        raise ConfigInvalid(f"{path} {what}; is it mounted?") from error
    except NotADirectoryError as error:
        raise ConfigInvalid(f"{path} is not a directory") from error
    except OSError as error:
        raise Unavailable(f"cannot read the superblock of {path}: {error.strerror}") from error
    except FormatInvalid as error:
        raise ConfigInvalid(f"{path}: {error}; leave this disk out, if enough others are there") from error
    return superblock


def _check_one_volume(superblocks: Mapping[Path, Superblock]) -> None:
    first, *_ = superblocks
    seen: dict[bytes, Path] = {}
    for path, superblock in superblocks.items():
        if superblock.volume_uuid != superblocks[first].volume_uuid:
            ours, other = UUID(bytes=superblocks[first].volume_uuid), UUID(bytes=superblock.volume_uuid)
            raise ForeignDisk(f"{path} is a disk of another volume ({other}) than {first} ({ours})")
        if superblock.disk_uuid in seen:
            raise ForeignDisk(f"{path} and {seen[superblock.disk_uuid]} are the same disk, or one is a copy")
        seen[superblock.disk_uuid] = path


async def _settings_on(superblocks: Mapping[Path, Superblock]) -> tuple[Settings, Vault | None, list[AccessKey]]:
    """The newest settings that any of the disks has, and the access keys with their secrets."""
    disks = [
        LocalDisk(superblock.disk_id, path, superblock.disk_uuid, limit_seconds=DISK_TIMEOUT_SECONDS)
        for path, superblock in superblocks.items()
    ]
    try:
        labels = await read_labels(disks)
    finally:
        with trio.CancelScope(shield=True):
            for disk in disks:
                await disk.close()
    label = newest_label(labels)
    if label is None:
        raise ConfigInvalid(
            "none of the disks has the settings of its volume (a sound file `label`): give more of its disks; a volume "
            "that was never open since siltstone keeps labels cannot be imported"
        )
    settings = settings_in(label)
    if any(superblock.volume_uuid != label.volume_uuid for superblock in superblocks.values()):
        raise ForeignDisk("the label of a disk is of another volume than its superblock")
    vault = vault_of(labels)
    try:
        return settings, vault, [opened_key(key, vault) for key in settings.keys]
    except ConfigInvalid as error:
        raise TooFewDisks(
            "the disks that are given do not have enough of the key which the secrets of S3 access keys are encrypted "
            "under: give more of the volume's disks"
        ) from error


def _plan(home: Home, settings: Settings, superblocks: Mapping[Path, Superblock]) -> ImportPlan:
    found = {superblock.disk_uuid: path for path, superblock in superblocks.items()}
    known = {UUID(disk.uuid).bytes: disk for disk in settings.config.disks}
    for uuid, path in found.items():
        disk = known.get(uuid)
        if disk is None:
            number = superblocks[path].disk_id
            raise ForeignDisk(f"{path} (disk {number}) does not belong to the volume any more; leave it out")
        if disk.role == "lost":
            raise ForeignDisk(f"{path} (disk {disk.disk_id}) was declared lost and may be out of date; leave it out")
    disks: list[DiskConfig] = []
    missing: list[str] = []
    for uuid, disk in known.items():
        if uuid in found:
            disks.append(msgspec.structs.replace(disk, path=str(found[uuid])))
            continue
        if disk.role != "lost":
            missing.append(f"disk {disk.disk_id} (it was at {disk.path})")
        # Another may be mounted where it was; a path that nobody has is as good.
        is_taken = Path(disk.path) in found.values()
        path_ = str(home.path / "missing" / f"disk{disk.disk_id}") if is_taken else disk.path
        disks.append(msgspec.structs.replace(disk, path=path_))
    parity_units = settings.config.parity_units
    if len(missing) > parity_units:
        raise TooFewDisks(
            f"{len(missing)} of the volume's {len(known)} disks are not given, at most {parity_units} may be missing: "
            f"{', '.join(missing)}"
        )
    config = msgspec.structs.replace(settings.config, disks=tuple(disks), serial=settings.config.serial + 1)
    config.check()
    return ImportPlan(Settings(config=config, keys=settings.keys), tuple(missing))


# --- making -----------------------------------------------------------------------------------------------------------


def _begin(home: Home) -> None:
    """What a killed import left goes, and what this one leaves is known for that."""
    _clear(home)
    home.importing.touch()
    sync_directory(home.path)


async def _fill(home: Home, plan: ImportPlan, ownership: Ownership, progress: ProgressListener) -> ImportReport:
    """Load the metadata, write the settings, and open the volume once, which ends what a crash left under way."""
    config, damaged = plan.settings.config, list[str]()
    restored = [
        await _restore_shard(home, config, ShardId(shard), ownership, damaged, progress)
        for shard in range(config.shards)
    ]
    if plan.keys:
        KeyRing(home.keys_file, {}, plan.vault).put_back(plan.keys)
    home.save_config(config)
    async with open_owned(home, config, ownership) as owner:
        is_settled = False
        with trio.move_on_after(SETTLED_SECONDS):
            await owner.all_shards.ask("wait_transactions")
            is_settled = True
        if damaged:
            await owner.all_shards.ask("scrub_snapshots")
        status = sum_of_statuses(config, await owner.all_shards.ask("status"))
        return ImportReport(
            volume=config.uuid,
            disks=len(config.disks),
            missing=list(plan.missing),
            damaged=damaged,
            shards=restored,
            is_settled=is_settled,
            inodes=status.inodes,
            file_bytes=status.file_bytes,
            keys=sum(not key.is_server for key in plan.settings.keys),
        )


async def _restore_shard(
    home: Home,
    config: VolumeConfig,
    shard: ShardId,
    ownership: Ownership,
    damaged: list[str],
    progress: ProgressListener,
) -> ShardImport:
    """Fill the metadata store of a shard from its part of the disks. ``damaged``: gets the snapshots that cannot be
    read.

    Raises Corrupt, TooFewDisks, ...
    """
    of_shard = f"shard {shard}: " if config.shards > 1 else ""
    random, workers = SystemRandom(), TrioWorkers()
    async with opened_disks(config, ownership, shard) as disks:
        with metadata(str(home.shard_meta(shard)), config, create=True) as backing:
            roles = {DiskId(disk.disk_id): DiskRole(disk.role) for disk in config.disks}
            pool = Pool(part_of_disks(disks, shard), fanout_of(shard), random, SystemClock(), roles)
            await pool.probe()
            files = snapshot_files(config, pool, random, workers)
            restored = await restore(files, backing, lambda text: damaged.append(of_shard + text), progress)
            try:
                log_lsn = await run_log(config, pool, backing, SystemClock())
            except LogDamaged as error:
                raise Corrupt(
                    f"{of_shard}the snapshots lead up to LSN {restored.applied_lsn}, and the log does not go on there: "
                    f"{error}; give all disks that there are"
                ) from error
            if log_lsn < restored.end:
                raise Corrupt(
                    f"{of_shard}the log ends at LSN {log_lsn}, and the snapshot that was loaded needs it up to "
                    f"{restored.end}"
                )
    return ShardImport(
        snapshot_lsn=0 if restored.full is None else restored.full.name.start,
        increments=restored.increments,
        applied_lsn=restored.applied_lsn,
        log_lsn=log_lsn,
        entries=restored.entries,
    )


def _take_away(home: Home, made_home: bool) -> None:
    _clear(home)
    home.lock_file.unlink(missing_ok=True)
    if made_home and home.path.is_dir() and not any(home.path.iterdir()):
        home.path.rmdir()


def _clear(home: Home) -> None:
    for path in home.made_by_import:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
