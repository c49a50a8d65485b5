"""Which disks belong to a volume: they are added, drained, declared lost, replaced and removed while it is in use.

The settings in HOME say what each disk is to the volume, and are written before anything is done about it, so that a
restart goes on where it was; what lies where is in the slabs' records alone. A new disk is formatted first: a crash
before it stands in the settings leaves a directory that may be added again. What has to hold is asked of all shards
(docs/decisions/0020).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.forfeit import Forfeit, Stand, sum_of_forfeits
from siltstone.core.status_sum import sum_of_statuses
from siltstone.core.types import ProgressListener
from siltstone.disk_keeping import DiskKeeping, with_role
from siltstone.engine.pool import DiskRole
from siltstone.errors import NotFound, Refused
from siltstone.progress import format_bytes
from siltstone.types import ShardId


class Membership:
    """The disks of an open volume. One change at a time; waiting for data to move is not a change."""

    def __init__(self, keeping: DiskKeeping) -> None:
        self._keeping = keeping
        self._all_shards = keeping.all_shards

    @property
    def _config(self) -> VolumeConfig:
        return self._keeping.settings.config

    # --- looking ---------------------------------------------------------------------------------------------------

    async def shown(self) -> list[dict[str, Any]]:
        """Every disk, as `disk list` shows it."""
        counts = (await self._all_shards.ask("chunk_files")).values()
        seen = {disk.disk_id: disk for disk in sum_of_statuses(self._config, await self._all_shards.statuses()).disks}
        return [
            msgspec.structs.asdict(seen[disk.disk_id])
            | {
                "path": disk.path,
                "role": disk.role,
                "chunk_files": sum(count.get(disk.disk_id, 0) for count in counts),
            }
            for disk in self._config.disks
            if disk.disk_id in seen
        ]

    def _find(self, disk_id: int) -> DiskConfig:
        for disk in self._config.disks:
            if disk.disk_id == disk_id:
                return disk
        known = ", ".join(str(disk.disk_id) for disk in self._config.disks)
        raise NotFound(f"the volume has no disk {disk_id}; it has {known}")

    async def _up_somewhere(self) -> set[int]:
        """The disks that some shard may use."""
        return set().union(*(await self._all_shards.ask("disks_up")).values())

    # --- changing --------------------------------------------------------------------------------------------------

    async def add(self, path: str, bytes_max: int = 0) -> int:
        """Make a directory (``path`` is absolute) a disk of the volume and use it; returns its id.

        Raises ConfigInvalid, with nothing changed.
        """
        async with self._keeping.changing:
            config, directories = self._config, self._keeping.directories
            up = await self._up_somewhere()
            away = [disk.disk_id for disk in config.disks if disk.disk_id not in up]
            await directories.check(config, path, bytes_max, away)
            disk_id = max([config.next_disk_id, *(disk.disk_id + 1 for disk in config.disks)])
            disk = DiskConfig(disk_id=disk_id, path=path, uuid=uuid.uuid4().hex, bytes_max=bytes_max, role="new")

            def with_disk(config: VolumeConfig) -> VolumeConfig:
                return msgspec.structs.replace(config, disks=(*config.disks, disk), next_disk_id=disk_id + 1)

            changed = with_disk(config)
            changed.check()
            await directories.format(changed, disk)
            await self._keeping.change(with_disk)
            return disk_id

    async def start_drain(self, disk_id: int) -> None:
        """Let a disk's data be moved to others. Raises Refused when too few would stay."""
        async with self._keeping.changing:
            disk = self._find(disk_id)
            if disk.role != DiskRole.LOST.value:
                self._check_staying(disk_id, "drained")
                await self._set_role(disk_id, DiskRole.DRAINING)

    async def cancel_drain(self, disk_id: int) -> None:
        """Let a draining or lost disk be a member again; what was moved already stays where it is."""
        async with self._keeping.changing:
            disk = self._find(disk_id)
            if disk.role not in (DiskRole.DRAINING.value, DiskRole.LOST.value):
                raise Refused(f"disk {disk_id} is not being drained")
            await self._set_role(disk_id, DiskRole.MEMBER)

    async def declare_lost(self, disk_id: int, *, accept_loss: bool = False) -> None:
        """Never use a disk again, and rebuild at once what it held; nothing if it was declared lost before.

        Raises Refused when too few disks would stay, or, unless ``accept_loss``, when something could not be read any
        more.
        """
        async with self._keeping.changing:
            disk = self._find(disk_id)
            if disk.role != DiskRole.LOST.value:
                self._check_staying(disk_id, "given up")
                await self._check_dispensable(disk_id, accept_loss=accept_loss)
                await self._set_role(disk_id, DiskRole.LOST)

    async def wait_drained(self, disk_id: int, progress: ProgressListener) -> None:
        """Return when a draining or lost disk holds nothing that the volume needs."""
        self._find(disk_id)
        await self._keeping.carry()
        await self._all_shards.ask("drain", disk_id, progress=progress)

    async def remove(self, disk_id: int) -> None:
        """Let go of a disk that holds nothing; its directory is empty then. Raises Refused when it holds something."""
        async with self._keeping.changing:
            disk = self._find(disk_id)
            if disk.role not in (DiskRole.DRAINING.value, DiskRole.LOST.value):
                raise Refused(
                    f"disk {disk_id} is in use: drain it first (siltstone disk drain HOME {disk_id}), or, if it is "
                    "gone for good, say --lost"
                )
            await self._keeping.carry()
            if not all((await self._all_shards.ask("release_disk", disk_id)).values()):
                raise Refused(
                    f"disk {disk_id} still has data that is not on other disks; wait for it with: siltstone disk drain "
                    f"HOME {disk_id}"
                )

            def without_disk(config: VolumeConfig) -> VolumeConfig:
                return msgspec.structs.replace(
                    config,
                    disks=tuple(other for other in config.disks if other.disk_id != disk_id),
                    leaving=(*config.leaving, disk),
                    next_disk_id=max(config.next_disk_id, disk_id + 1),
                )

            await self._keeping.change(without_disk)
            await self._keeping.let_go()

    async def replace(self, disk_id: int, path: str, progress: ProgressListener, *, accept_loss: bool = False) -> int:
        """Put a new disk in the place of another, which is read as long as it can be; returns the new id.

        Raises as ``add`` and, if the old disk is away, as ``declare_lost`` does.
        """
        old = self._find(disk_id)
        is_given_up = old.role == DiskRole.LOST.value
        if not is_given_up and disk_id not in await self._up_somewhere():
            await self._check_dispensable(disk_id, accept_loss=accept_loss)  # before a disk is added
        new_id = await self.add(path, old.bytes_max)
        if disk_id in await self._up_somewhere():
            await self.start_drain(disk_id)
        else:
            await self.declare_lost(disk_id, accept_loss=accept_loss)
        await self.wait_drained(disk_id, progress)
        await self.remove(disk_id)
        return new_id

    # --- inside ----------------------------------------------------------------------------------------------------

    def _check_staying(self, disk_id: int, what: str) -> None:
        config = self._config
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

    async def _check_dispensable(self, disk_id: int, *, accept_loss: bool) -> None:
        """Raise Refused when something could not be read without a disk, or the volume not be opened."""
        stands: Mapping[ShardId, Stand] = await self._all_shards.ask("stand", disk_id)
        is_up = any(stand.is_up for stand in stands.values())
        away = max((stand.away for stand in stands.values() if stand.is_up), key=len, default=())
        if is_up and len(away) + 1 >= self._config.log_replicas:
            rest = f" with {_named(away)} away, too," if away else ""
            hope = f"remove those that are rebuilt (siltstone disk remove HOME {away[0]}), or " if away else ""
            raise Refused(
                f"disk {disk_id} cannot be given up now:{rest} the volume could not be opened again, since the newest "
                f"part of the log may be on no other disk; {hope}move the data while it can be read: siltstone disk "
                f"drain HOME {disk_id}"
            )
        forfeit = sum_of_forfeits([stand.forfeit for stand in stands.values()])
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

    async def _set_role(self, disk_id: int, role: DiskRole) -> None:
        await self._keeping.change(lambda config: with_role(config, disk_id, role))


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
