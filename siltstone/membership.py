"""Which disks belong to a volume: they are added, drained, declared lost, replaced and removed while it is in use.

The settings in HOME say what each disk is to the volume, and are written before anything is done about it, so that a
restart goes on where it was; what lies where is in the slabs' records alone. A new disk is formatted first: a crash
before it stands in the settings leaves a directory that may be added again.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import trio

from siltstone.birth import check_new_disk, room_for_disk
from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.forfeit import Forfeit, forfeit_of
from siltstone.core.superblocks import superblock_of
from siltstone.core.types import ProgressListener
from siltstone.engine.disk.local import format_disk
from siltstone.engine.disk.parts import USAGE_NAME
from siltstone.engine.disk.superblocks import read_superblock
from siltstone.engine.format.superblock import SUPERBLOCK_NAME, pack_superblock
from siltstone.engine.pool import DiskRole, DiskStatus
from siltstone.errors import ConfigInvalid, FormatInvalid, NotFound, Refused, Unavailable
from siltstone.owner import Owner, in_time, local_disk
from siltstone.progress import format_bytes
from siltstone.types import DiskId

FILES_OF_A_DISK = ("log", "slab", "snapshot", "label", "probation", USAGE_NAME)


class Membership:
    """The disks of an open volume. One change at a time; waiting for data to move is not a change."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._volume = owner.volume
        self._pool = owner.volume.ledger.pool

    # --- looking ---------------------------------------------------------------------------------------------------

    def shown(self) -> list[dict[str, Any]]:
        """Every disk, as `disk list` shows it."""
        slabs = self._volume.ledger.stripes.slabs
        status = {disk.disk_id: disk for disk in self._pool.status()}
        shown: list[dict[str, Any]] = []
        for disk in self._disks:
            disk_id = DiskId(disk.disk_id)
            shown.append(_shown(disk, status[disk_id], slabs.units_of(disk_id)))
        return shown

    @property
    def _disks(self) -> tuple[DiskConfig, ...]:
        return self._owner.config.disks

    def _find(self, disk_id: int) -> DiskConfig:
        for disk in self._disks:
            if disk.disk_id == disk_id:
                return disk
        known = ", ".join(str(disk.disk_id) for disk in self._disks)
        raise NotFound(f"the volume has no disk {disk_id}; it has {known}")

    # --- changing --------------------------------------------------------------------------------------------------

    async def add(self, path: str, bytes_max: int = 0) -> int:
        """Make a directory (``path`` is absolute) a disk of the volume and use it; returns its id.

        Raises ConfigInvalid, with nothing changed.
        """
        async with self._owner.changing:
            config = self._owner.config
            directory = Path(path)
            assert directory.is_absolute()
            limit = config.disk_timeout
            # Those that are away are not looked at: one that hangs would hold up what is to replace it.
            away = [Path(disk.path) for disk in config.disks if not self._pool.is_up(DiskId(disk.disk_id))]
            if any(directory.is_relative_to(other) or other.is_relative_to(directory) for other in away):
                raise ConfigInvalid(f"{path} is, or is inside, or holds, a disk of the volume that is away")
            arguments = self._owner.home.path, config, directory, bytes_max, away
            await in_time(path, limit, _check_directory, *arguments)
            disk_id = max([config.next_disk_id, *(disk.disk_id + 1 for disk in config.disks)])
            disk = DiskConfig(
                disk_id=disk_id, path=str(directory), uuid=uuid.uuid4().hex, bytes_max=bytes_max, role="new"
            )

            def with_disk(config: VolumeConfig) -> VolumeConfig:
                return msgspec.structs.replace(config, disks=(*config.disks, disk), next_disk_id=disk_id + 1)

            changed = with_disk(config)
            changed.check()
            superblock = superblock_of(changed, disk, created_ns=self._owner.clock.now_ns())
            await format_disk(disk.path, superblock)
            await trio.to_thread.run_sync(self._owner.change_config, with_disk)
            await self._owner.publish()  # nothing may be on a disk that nobody would look for
            local = local_disk(changed, disk)
            self._owner.disks.append(local)
            self._volume.scrubber.expect_superblock(DiskId(disk_id), pack_superblock(superblock))
            self._pool.add(local, DiskRole.NEW)
            return disk_id

    async def start_drain(self, disk_id: int) -> None:
        """Let a disk's data be moved to others. Raises Refused when too few would stay."""
        async with self._owner.changing:
            disk = self._find(disk_id)
            if disk.role != DiskRole.LOST.value:
                self._check_staying(disk_id, "drained")
                await self._set_role(disk, DiskRole.DRAINING)

    async def cancel_drain(self, disk_id: int) -> None:
        """Let a draining or lost disk be a member again; what was moved already stays where it is."""
        async with self._owner.changing:
            disk = self._find(disk_id)
            if disk.role not in (DiskRole.DRAINING.value, DiskRole.LOST.value):
                raise Refused(f"disk {disk_id} is not being drained")
            await self._set_role(disk, DiskRole.MEMBER)

    async def declare_lost(self, disk_id: int, *, accept_loss: bool = False) -> None:
        """Never use a disk again, and rebuild at once what it held; nothing if it was declared lost before.

        Raises Refused when too few disks would stay, or, unless ``accept_loss``, when something could not be read any
        more.
        """
        async with self._owner.changing:
            disk = self._find(disk_id)
            if disk.role != DiskRole.LOST.value:
                self._check_staying(disk_id, "given up")
                self._check_dispensable(disk_id, accept_loss=accept_loss)
                await self._set_role(disk, DiskRole.LOST)

    async def wait_drained(self, disk_id: int, progress: ProgressListener) -> None:
        """Return when a draining or lost disk holds nothing that the volume needs."""
        self._find(disk_id)
        await self._volume.mover.drain(DiskId(disk_id), progress)

    async def remove(self, disk_id: int) -> None:
        """Let go of a disk that holds nothing; its directory is empty then. Raises Refused when it holds something."""
        async with self._owner.changing:
            disk = self._find(disk_id)
            if disk.role not in (DiskRole.DRAINING.value, DiskRole.LOST.value):
                raise Refused(
                    f"disk {disk_id} is in use: drain it first (siltstone disk drain HOME {disk_id}), or, if it is "
                    "gone for good, say --lost"
                )
            if not self._volume.mover.is_drained(DiskId(disk_id)):
                raise Refused(
                    f"disk {disk_id} still has data that is not on other disks; wait for it with: siltstone disk drain "
                    f"HOME {disk_id}"
                )
            await self._volume.ledger.sync()  # the disk must not be asked for after a crash

            def without_disk(config: VolumeConfig) -> VolumeConfig:
                rest = tuple(other for other in config.disks if other.disk_id != disk_id)
                next_disk_id = max(config.next_disk_id, disk_id + 1)
                return msgspec.structs.replace(config, disks=rest, next_disk_id=next_disk_id)

            await trio.to_thread.run_sync(self._owner.change_config, without_disk)
            await self._owner.publish()
            self._volume.scrubber.forget_superblock(DiskId(disk_id))
            local = self._pool.remove(DiskId(disk_id))
            self._owner.disks = [other for other in self._owner.disks if other is not local]
            await local.close()
            with suppress(Unavailable):  # what hangs keeps what it has
                await in_time(disk.path, self._owner.config.disk_timeout, _empty_directory, disk)

    async def replace(self, disk_id: int, path: str, progress: ProgressListener, *, accept_loss: bool = False) -> int:
        """Put a new disk in the place of another, which is read as long as it can be; returns the new id.

        Raises as ``add`` and, if the old disk is away, as ``declare_lost`` does.
        """
        old = self._find(disk_id)
        is_given_up = old.role == DiskRole.LOST.value
        if not is_given_up and not self._pool.is_up(DiskId(disk_id)):
            self._check_dispensable(disk_id, accept_loss=accept_loss)  # before a disk is added
        new_id = await self.add(path, old.bytes_max)
        if self._pool.is_up(DiskId(disk_id)):
            await self.start_drain(disk_id)
        else:
            await self.declare_lost(disk_id, accept_loss=accept_loss)
        await self.wait_drained(disk_id, progress)
        await self.remove(disk_id)
        return new_id

    # --- inside ----------------------------------------------------------------------------------------------------

    def _check_staying(self, disk_id: int, what: str) -> None:
        config = self._owner.config
        staying = [
            disk
            for disk in config.disks
            if disk.disk_id != disk_id and disk.role in (DiskRole.MEMBER.value, DiskRole.NEW.value)
        ]
        needed = max(config.data_units + config.parity_units, config.log_replicas)
        if len(staying) < needed:
            raise Refused(
                f"disk {disk_id} cannot be {what}: {len(staying)} disks would stay, the volume needs {needed}; add one "
                f"first (siltstone disk add HOME DIR), or replace it (siltstone disk replace HOME {disk_id} DIR)"
            )

    def _check_dispensable(self, disk_id: int, *, accept_loss: bool) -> None:
        """Raise Refused when something could not be read without a disk, or the volume not be opened."""
        ledger = self._volume.ledger
        is_up = self._pool.is_up(DiskId(disk_id))
        away = [other.disk_id for other in self._pool.status() if not self._pool.is_up(other.disk_id)]
        if is_up and len(away) + 1 >= ledger.log.replicas:
            rest = f" with {_named(away)} away, too," if away else ""
            hope = f"remove those that are rebuilt (siltstone disk remove HOME {away[0]}), or " if away else ""
            raise Refused(
                f"disk {disk_id} cannot be given up now:{rest} the volume could not be opened again, since the newest "
                f"part of the log may be on no other disk; {hope}move the data while it can be read: siltstone disk "
                f"drain HOME {disk_id}"
            )
        snapshots = self._volume.snapshots.files.snapshots
        forfeit = forfeit_of(DiskId(disk_id), self._pool, ledger.stripes.slabs, ledger.log.segments(), snapshots)
        if forfeit.is_nothing or accept_loss:
            return
        others = f" with {_named(forfeit.away)} away, too," if forfeit.away else ""
        if is_up:
            hope = "move the data while it can be read: siltstone disk drain HOME " + str(disk_id)
            if forfeit.away:
                hope = f"wait until what {_named(forfeit.away)} held is rebuilt (siltstone rebuild HOME), or {hope}"
        else:
            hope = f"bring {_named([disk_id, *forfeit.away], 'or')} back"
        raise Refused(
            f"disk {disk_id} cannot be given up now:{others} {_described(forfeit)} would be lost; {hope} "
            "(--accept-loss gives up what cannot be read)"
        )

    async def _set_role(self, disk: DiskConfig, role: DiskRole) -> None:
        await trio.to_thread.run_sync(self._owner.remember_role, DiskId(disk.disk_id), role)
        self._pool.set_role(DiskId(disk.disk_id), role)


def _named(disk_ids: Sequence[int], word: str = "and") -> str:
    if len(disk_ids) == 1:
        return f"disk {disk_ids[0]}"
    return f"disks {', '.join(map(str, disk_ids[:-1]))} {word} {disk_ids[-1]}"


def _described(forfeit: Forfeit) -> str:
    parts: list[str] = []
    if forfeit.stripe_bytes:
        parts.append(f"{format_bytes(forfeit.stripe_bytes)} in stripes")
    if forfeit.log_bytes:
        parts.append(f"{format_bytes(forfeit.log_bytes)} of the log")
    if forfeit.snapshots:
        parts.append(f"{forfeit.snapshots} snapshots of the metadata")
    return " and ".join(parts)


def _shown(disk: DiskConfig, status: DiskStatus, units: int) -> dict[str, Any]:
    space = status.space
    return {
        "disk_id": disk.disk_id,
        "path": disk.path,
        "state": status.state.value,
        "role": status.role.value,
        "reason": status.reason,
        "since_ns": status.since_ns,
        "total_bytes": 0 if space is None else space.total_bytes,
        "free_bytes": 0 if space is None else space.free_bytes,
        "chunk_files": units,
        "errors": status.errors,
        "mismatches": status.mismatches,
    }


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
    if (bytes_max or room) < max(4 * config.chunk_bytes, least // 4):
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
    for name in FILES_OF_A_DISK:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
