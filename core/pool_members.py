"""Which disks the pool of an open volume, or of a shard of one, has: those that the settings say, whenever they change.

Settings are followed as often as somebody says what they are; older ones than are known change nothing. So nobody has
to remember who was told what: a process that begins reads the settings, and one that lives is told until it has heard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.mover import Mover
from siltstone.core.scrub import Scrubber
from siltstone.core.superblocks import superblock_of
from siltstone.engine.format.superblock import pack_superblock
from siltstone.engine.pool import DiskRole, Pool
from siltstone.ports import Clock, Disk
from siltstone.types import DiskId

OpenDisk = Callable[[DiskConfig], Disk]
"""The disk that the settings mean, or the shard's part of it; nothing is asked of it yet."""


class PoolMembers:
    """Keeps a pool to the settings. ``config``: what the volume was opened with."""

    def __init__(
        self,
        config: VolumeConfig,
        pool: Pool,
        scrubber: Scrubber,
        mover: Mover,
        clock: Clock,
        open_disk: OpenDisk | None,
    ) -> None:
        self._config = config
        self._pool = pool
        self._scrubber = scrubber
        self._clock = clock
        self._open_disk = open_disk
        self._following = trio.Lock()
        self._level: set[DiskId] = set()
        mover.on_role(self._note_role)

    @property
    def level(self) -> list[DiskId]:
        """New disks that have their share of what is here: to this pool they are members like others already."""
        return sorted(self._level)

    async def follow(self, serial: int, disks: Sequence[DiskConfig]) -> None:
        """Make the pool what the settings of this serial number say; nothing, if newer ones were followed before.

        A disk that they let go of holds nothing here; it is closed on return.
        """
        async with self._following:
            if serial <= self._config.serial:
                return
            config = msgspec.structs.replace(self._config, disks=tuple(disks), serial=serial)
            known = {status.disk_id: status.role for status in self._pool.status()}
            for disk in disks:
                disk_id, role = DiskId(disk.disk_id), DiskRole(disk.role)
                if disk_id not in known:
                    self._add(config, disk, role)
                elif not (role is DiskRole.NEW and disk_id in self._level):
                    self._level.discard(disk_id)
                    self._pool.set_role(disk_id, role)
            for disk_id in known.keys() - {disk.disk_id for disk in disks}:
                await self._remove(disk_id)
            self._config = config  # last: who is cut short is told again

    def _add(self, config: VolumeConfig, disk: DiskConfig, role: DiskRole) -> None:
        assert self._open_disk is not None, "whoever opened this volume does not let it have other disks"
        superblock = superblock_of(config, disk, created_ns=self._clock.now_ns())
        self._scrubber.expect_superblock(DiskId(disk.disk_id), pack_superblock(superblock))
        self._pool.add(self._open_disk(disk), role)

    async def _remove(self, disk_id: DiskId) -> None:
        self._level.discard(disk_id)
        self._scrubber.forget_superblock(disk_id)
        await self._pool.remove(disk_id).close()

    def _note_role(self, disk_id: DiskId, role: DiskRole) -> None:
        if role is DiskRole.MEMBER:
            self._level.add(disk_id)
