"""Owning a volume: the lock, the disks with the check that they are ours, the metadata, the open volume, the keys."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import trio

from siltstone.config import DAY_SECONDS, DiskConfig, VolumeConfig
from siltstone.core.administration import Administration
from siltstone.core.all_shards import AllShards
from siltstone.core.opening import ONLY_SHARD, create_volume, open_volume
from siltstone.core.resizing import Resizer
from siltstone.core.status_sum import sum_of_statuses
from siltstone.core.superblocks import superblock_of
from siltstone.core.volume import Volume
from siltstone.disk_directories import DiskDirectories
from siltstone.disk_keeping import DiskKeeping
from siltstone.engine.disk.directory import IN_USE
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.parts import part_folder
from siltstone.engine.disk.prefixed import PrefixedDisk, PrefixedFanout
from siltstone.engine.disk.superblocks import is_in_use, read_superblock
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.engine.format.label import Label
from siltstone.engine.format.superblock import Superblock
from siltstone.engine.labels import Labels, newest_label, read_label
from siltstone.engine.pool import Pool
from siltstone.errors import ConfigInvalid, DiskError, FormatInvalid, TooFewDisks, Unavailable, VolumeBusy
from siltstone.ground import LocalGround
from siltstone.home import Home, Ownership, sync_directory
from siltstone.in_time import in_time
from siltstone.keys import KeyRing
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.meta.store.port import Backing
from siltstone.placing import Placer
from siltstone.ports import Disk, Fanout
from siltstone.roster import check_roster
from siltstone.settings import Settings, label_of, shares_of
from siltstone.shard_lock import wait_shards_free
from siltstone.shard_service import ShardService
from siltstone.shards import Shards, running_shards
from siltstone.types import DiskId, ShardId

T = TypeVar("T")

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
        local_disks: Sequence[LocalDisk],
        shards: Shards,
        own_shard: ShardService,
        all_shards: AllShards,
    ) -> None:
        """``local_disks``: those that were opened, also such that the volume does not have any more. ``ground`` and
        ``resizer`` are made here: where shards come and go."""
        self.home = home
        self.shards = shards
        self.own_shard = own_shard
        self.all_shards = all_shards
        self.config = config
        self.volume = volume
        self.clock = clock
        self.workers = workers
        self.clones = 0
        """Clones under way that no shard may come to meanwhile."""
        self._local_disks = local_disks
        self.keys = KeyRing.load(home.keys_file)
        self.disks = DiskKeeping(self, all_shards, DiskDirectories(home, clock), clock)
        self._saving = threading.Lock()
        self.ground = LocalGround(self)
        self.resizer = Resizer(self.ground, all_shards, shards.partitions, clock)

    def change_config(self, edit: Callable[[VolumeConfig], VolumeConfig]) -> None:
        """Let the settings be what ``edit`` makes of them, durably in HOME; with nothing changed if it raises.

        The disks get them within a second, or when ``publish`` returns.

        Blocks for a small write. One at a time and each from what the one before left: commands change them in a
        thread, and meanwhile the mover makes a member of a new disk, in the loop.
        """
        with self._saving:
            changed = msgspec.structs.replace(edit(self.config), serial=self.config.serial + 1)
            self.home.save_config(changed)
            self.config = changed

    async def save(self, edit: Callable[[VolumeConfig], VolumeConfig]) -> None:
        """Change the settings, and have them on the disks on return."""
        await trio.to_thread.run_sync(self.change_config, edit)
        await self.publish()

    def label(self) -> Label:
        """What the disks should say of the volume now."""
        return label_of(Settings(config=self.config, keys=self.keys.stored()))

    def shares(self, disks: Sequence[DiskId], reached: int) -> Mapping[DiskId, bytes]:
        """What each of these disks is to have of the key of the secrets, of which so many get it now: as many as are
        left when the volume loses as many as it can."""
        return shares_of(self.keys.vault, disks, reached - self.config.parity_units)

    async def publish(self) -> None:
        """Have the settings and keys on all disks that are up, before something relies on them."""
        try:
            await self.volume.labels.publish(self.label())
        except TooFewDisks as error:
            logger.warning("the disks do not have the newest settings: %s", error)  # tried again each second

    @property
    def local_disks(self) -> list[LocalDisk]:
        """The disks of the volume, as this process has them."""
        known = {disk.disk_id for disk in self.config.disks}
        return [disk for disk in self._local_disks if disk.disk_id in known]

    async def status(self) -> dict[str, Any]:
        """The volume's status, with what this process adds to it; as JSON has it. A shard that gives no answer is left
        out of the sums, and a warning says so."""
        statuses = await self.all_shards.statuses()
        volume: dict[str, Any] = msgspec.to_builtins(sum_of_statuses(self.config, statuses))
        volume["warnings"] += [
            f"shard {shard} gives no answer: what it has is not in these sums"
            for shard in self.all_shards.shards
            if shard not in statuses
        ]
        if self.config.lifecycle_day != DAY_SECONDS:
            volume["warnings"].append(
                f"a day of lifecycle rules is {self.config.lifecycle_day:g} s here: for tests only"
            )
        shown = {
            "home": str(self.home.path),
            "code": f"{self.config.data_units}+{self.config.parity_units}",
            "disk_paths": {str(disk.disk_id): disk.path for disk in self.config.disks},
            "process": {"pid": os.getpid(), "resident_bytes": resident_bytes()},
            "volume": volume,
            "meta": self.shards.status(),
        }
        if len(self.all_shards.shards) > 1:
            shown["volumes"] = {str(shard): msgspec.to_builtins(status) for shard, status in statuses.items()}
        return shown


@contextlib.asynccontextmanager
async def open_owner(home: Home) -> AsyncIterator[Owner]:
    """Own the volume and have it open. Everything is durable and let go of when the context has ended.

    Raises ConfigInvalid, VolumeBusy, ForeignDisk, TooFewDisks, Corrupt, each with what to do; Unavailable when a
    shard's process does not start.
    """
    config = home.load_config()
    with home.owned() as ownership:
        async with open_owned(home, config, ownership) as owner:
            yield owner


@contextlib.asynccontextmanager
async def open_owned(home: Home, config: VolumeConfig, ownership: Ownership) -> AsyncIterator[Owner]:
    """The same of a volume that is owned already; ``config`` is what HOME has."""
    await trio.to_thread.run_sync(wait_shards_free, home, range(1, max(config.shards, config.shards_void)))
    found = await _look_at_disks(config)
    for warning in check_roster(config, found):
        logger.warning(warning)
    clock, workers = SystemClock(), TrioWorkers()
    async with opened_disks(config, ownership) as disks:
        config = await _compare_with_labels(home, config, disks)
        own_shard = ShardService(home, config, ONLY_SHARD)
        with metadata(str(home.meta), config, ownership=ownership) as backing:
            join = own_shard.join if config.shards > 1 else own_shard.join_later
            async with (
                open_here(config, disks, backing, clock, workers, join=join) as volume,
                running_shards(home, config, own_shard, clock) as shards,
            ):
                own = own_shard.side.administration if config.shards > 1 else Administration(volume)
                others = {shard: process.asked for shard, process in shards.processes.items()}
                all_shards = shards.asked = AllShards(own, others, clock)
                owner = Owner(home, config, volume, clock, workers, disks, shards, own_shard, all_shards)
                volume.labels.split_by(owner.shares)
                await owner.publish()
                volume.labels.follow(lambda: owner.config.serial, owner.label)
                async with _upkeep(owner):
                    yield owner


@contextlib.asynccontextmanager
async def _upkeep(owner: Owner) -> AsyncIterator[None]:
    """Shards follow what the settings say of disks, and partitions go where they should, for as long as the context
    lasts."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.disks.run)
        _place(owner, nursery)
        try:
            yield
        except BaseException as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # out here it does not arrive in a group


def _place(owner: Owner, nursery: trio.Nursery) -> None:
    shards = owner.shards
    placer = shards.placer = Placer(
        owner.all_shards, shards.partitions, owner.clock, shards.loads, owner.ground, owner.resizer
    )
    nursery.start_soon(placer.run)
    nursery.start_soon(placer.tidy)


async def lay_volume(home: Home, config: VolumeConfig, formatted: list[str]) -> None:
    """Make the disks and an empty volume on them. ``formatted`` gets the path of each disk as soon as it is one."""
    created_ns = SystemClock().now_ns()
    for disk in config.disks:
        await format_disk(disk.path, superblock_of(config, disk, created_ns=created_ns))
        formatted.append(disk.path)
    for shard in map(ShardId, range(config.shards)):
        await lay_shard(home, config, shard)


async def lay_shard(home: Home, config: VolumeConfig, shard: ShardId) -> None:
    """Make an empty shard of a volume, durably."""
    async with opened_disks(config, Ownership(), shard) as disks:
        with metadata(str(home.shard_meta(shard)), config, create=True) as backing:
            await create_volume(
                config,
                disks=part_of_disks(disks, shard),
                fanout=fanout_of(shard),
                backing=backing,
                clock=SystemClock(),
                random=SystemRandom(),
                shard=shard,
            )
        if shard != ONLY_SHARD:
            for folder in (home.shard(shard), home.shards):
                sync_directory(folder)
            return
        pool = Pool(disks, LocalFanout(), SystemRandom(), SystemClock())
        await Labels(pool, minimum=config.log_copies_min).publish(label_of(Settings(config=config, keys=())))


async def _compare_with_labels(home: Home, config: VolumeConfig, disks: Sequence[LocalDisk]) -> VolumeConfig:
    """The settings in HOME, which decide. With a higher serial number if those on the disks are others.

    Raises ConfigInvalid when those on the disks are newer: another HOME has owned the volume meanwhile.
    """
    newest = newest_label(await read_labels(disks))
    if newest is None or newest.volume_uuid != UUID(config.uuid).bytes or newest.serial < config.serial:
        return config
    if newest.serial > config.serial:
        raise ConfigInvalid(
            f"{home.path} is older than its disks say (settings {config.serial}, they have {newest.serial}): the "
            "volume was imported elsewhere, or this is a backup; import it from its disks into an empty HOME"
        )
    keys = KeyRing.load(home.keys_file)
    keys.seal()
    if label_of(Settings(config=config, keys=keys.stored())).text == newest.text:
        return config
    # Somebody edited volume.json, or changed keys while nobody owned the volume.
    changed = msgspec.structs.replace(config, serial=config.serial + 1)
    await trio.to_thread.run_sync(home.save_config, changed)
    return changed


async def read_labels(disks: Sequence[LocalDisk]) -> list[Label]:
    """The labels on these disks; those that cannot be read have none."""
    labels: list[Label] = []

    async def look(disk: LocalDisk) -> None:
        with contextlib.suppress(DiskError):
            label = await read_label(disk)
            if label is not None:
                labels.append(label)

    async with trio.open_nursery() as nursery:
        for disk in disks:
            nursery.start_soon(look, disk)
    return labels


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _look_at(path: str) -> Superblock:
    superblock = read_superblock(path)
    if is_in_use(path):
        raise VolumeBusy(f"{path}: {IN_USE}; does it serve the volume from another HOME, or from one that was lost?", 0)
    return superblock


async def _look_at_disks(config: VolumeConfig) -> dict[int, Superblock | str]:
    """Raises VolumeBusy when another process uses one of them."""
    found: dict[int, Superblock | str] = {}
    busy: list[VolumeBusy] = []

    async def look(disk: DiskConfig) -> None:
        try:
            found[disk.disk_id] = await in_time(disk.path, config.disk_timeout, _look_at, disk.path)
        except VolumeBusy as error:
            busy.append(error)
        except (FormatInvalid, Unavailable) as error:
            found[disk.disk_id] = str(error)
        except OSError as error:
            found[disk.disk_id] = f"{error.strerror} (not mounted?)"

    async with trio.open_nursery() as nursery:
        for disk in config.disks:
            nursery.start_soon(look, disk)
    if busy:
        raise busy[0]
    return found


def local_disk(
    config: VolumeConfig, disk: DiskConfig, shard: ShardId = ONLY_SHARD, *, is_shared: bool = False
) -> LocalDisk:
    """The implementation of a disk in the settings, for the process of a shard. ``is_shared``: with processes that have
    come since."""
    return LocalDisk(
        DiskId(disk.disk_id),
        disk.path,
        UUID(disk.uuid).bytes,
        disk.bytes_max,
        part=shard if is_shared or config.shards > 1 else None,
        limit_seconds=config.disk_timeout,
    )


def open_here(
    config: VolumeConfig,
    disks: list[LocalDisk],
    backing: Backing,
    clock: SystemClock,
    workers: TrioWorkers,
    *,
    shard: ShardId = ONLY_SHARD,
    join: Callable[[Volume, trio.Nursery], object] | None = None,
) -> contextlib.AbstractAsyncContextManager[Volume]:
    """``open_volume`` on this machine: its clock, its randomness, its threads, and a shard's part of the disks.

    ``disks``: those that are added later come to it, so that whoever closes these closes them.
    """

    def open_disk(disk: DiskConfig) -> Disk:
        added = local_disk(config, disk, shard, is_shared=any(known.is_shared for known in disks))
        disks.append(added)
        (part,) = part_of_disks([added], shard)
        return part

    return open_volume(
        config,
        disks=part_of_disks(disks, shard),
        fanout=fanout_of(shard),
        backing=backing,
        clock=clock,
        random=SystemRandom(),
        workers=workers,
        shard=shard,
        join=join,
        open_disk=open_disk,
    )


def part_of_disks(disks: Sequence[LocalDisk], shard: ShardId) -> Sequence[Disk]:
    """A shard's part of each disk."""
    return [PrefixedDisk(disk, part_folder(shard)) for disk in disks] if shard else disks


def fanout_of(shard: ShardId) -> Fanout:
    """The fan-out for those."""
    return PrefixedFanout(LocalFanout()) if shard else LocalFanout()


@contextlib.asynccontextmanager
async def opened_disks(
    config: VolumeConfig, ownership: Ownership, shard: ShardId = ONLY_SHARD
) -> AsyncIterator[list[LocalDisk]]:
    """The disks in the settings, for the process of a shard; closed when the context ends. If one hangs, the ownership
    lasts."""
    disks = [local_disk(config, disk, shard) for disk in config.disks]
    try:
        yield disks
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for disk in disks:
                    nursery.start_soon(disk.close)
        for disk in disks:
            if disk.is_stuck:
                # Another process that opened the volume now could be overtaken by what is written late.
                logger.warning("disk %d hangs: this process owns the volume until it is gone", disk.disk_id)
                ownership.keep()


@contextlib.contextmanager
def metadata(
    path: str, config: VolumeConfig, *, create: bool = False, ownership: Ownership | None = None
) -> Iterator[LmdbBacking]:
    """The metadata store in a directory, closed when the context ends. If its disk hangs, the ownership lasts."""
    if create:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    backing = LmdbBacking(path, bytes_max=config.lmdb_bytes_max, create=create)
    try:
        yield backing
    finally:
        backing.close()
        if backing.is_stuck and ownership is not None:
            # Another process that opened the volume now could be overtaken by what is written late.
            logger.warning("%s: its disk hangs: this process owns the volume until it is gone", path)
            ownership.keep()
