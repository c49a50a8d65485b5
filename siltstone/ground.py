"""Where shards come and go on this machine: folders on the disks and in HOME, processes, and the doors of the owner.

The Ground port of core/resizing.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from siltstone.config import VolumeConfig
from siltstone.engine.disk.local import LocalDisk
from siltstone.errors import DiskError, FileMissing, Refused, Unavailable
from siltstone.geometry import DISK_BYTES_MIN
from siltstone.home import sync_directory
from siltstone.limits import MIB, RESERVE_CHUNKS
from siltstone.shard_lock import wait_shards_free
from siltstone.types import ShardId

if TYPE_CHECKING:
    from siltstone.owner import Owner

FILES_MIN = 4
"""A new shard must find room on each disk for its reserve and so many files of its log."""

KEPT_SHARE = 4
"""What all shards keep in reserve may be one part in so many of a disk at the most."""


class Doors(Protocol):
    """The doors of this process."""

    async def follow_shards(self) -> None:
        """See Ground."""

    async def use_shards(self) -> None:
        """See Ground."""

    async def use_volume(self) -> None:
        """See Ground."""


class NoDoors:
    """Of a process that owns the volume for one command."""

    async def follow_shards(self) -> None:
        """See Ground."""

    async def use_shards(self) -> None:
        """See Ground."""

    async def use_volume(self) -> None:
        """See Ground."""


class LocalGround:
    """See the module."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.doors: Doors = NoDoors()
        self.start = owner.shards.start
        self.stop = owner.shards.stop

    @property
    def config(self) -> VolumeConfig:
        """See Ground."""
        return self._owner.config

    async def save(self, **changes: Any) -> None:
        """See Ground."""
        await self._owner.save(lambda config: msgspec.structs.replace(config, **changes))

    def still_disks(self) -> AbstractAsyncContextManager[None]:
        """See Ground."""
        return self._owner.disks.changing

    async def check_room(self, shards: int) -> None:
        """See Ground."""
        if self._owner.clones:
            raise Refused("a clone is under way, which no shard may come to: ask again when it has ended")
        config = self.config
        piece = max(config.chunk_bytes, config.segment_bytes)
        new = shards - config.shards
        for disk in await self._disks():
            space = await disk.space()
            if space.total_bytes // shards < DISK_BYTES_MIN or (
                shards * RESERVE_CHUNKS * piece > space.total_bytes // KEPT_SHARE
            ):
                raise Refused(
                    f"{shards} shards: disk {disk.disk_id} has {space.total_bytes // MIB} MiB, of which each shard "
                    f"keeps {RESERVE_CHUNKS * piece // MIB} MiB free; that is too little for so many"
                )
            if space.free_bytes < (shards * RESERVE_CHUNKS + new * FILES_MIN) * piece:
                raise Refused(
                    f"{shards} shards: disk {disk.disk_id} has {space.free_bytes // MIB} MiB left, too little for "
                    f"{new} more; delete something or add disks"
                )

    async def share_disks(self, *, are_shared: bool) -> None:
        """See Ground."""
        for disk in self._owner.local_disks:
            with suppress(DiskError):  # one that is away opens as what it is by then
                await disk.share(0 if are_shared else None)

    async def wipe(self, shard: ShardId) -> None:
        """See Ground."""
        home, folder = self._owner.home, self._owner.home.shard(shard)
        await trio.to_thread.run_sync(wait_shards_free, home, [shard])
        for disk in await self._disks():
            try:
                await disk.drop_part(shard)
            except FileMissing:
                continue
            except DiskError as error:
                raise Unavailable(f"disk {disk.disk_id}: {error}") from error
        await trio.to_thread.run_sync(_remove, folder)

    async def lay(self, config: VolumeConfig, shard: ShardId) -> None:
        """See Ground."""
        from siltstone.owner import lay_shard

        await lay_shard(self._owner.home, config, shard)

    async def join(self) -> None:
        """See Ground."""
        await self._owner.shards.serve()
        self._owner.all_shards.shards[ShardId(0)] = self._owner.own_shard.side.administration

    async def follow_shards(self) -> None:
        """See Ground."""
        await self.doors.follow_shards()

    async def use_shards(self) -> None:
        """See Ground."""
        await self.doors.use_shards()

    async def use_volume(self) -> None:
        """See Ground."""
        await self.doors.use_volume()

    async def _disks(self) -> Sequence[LocalDisk]:
        """All that are not lost. Raises Unavailable when one is away."""
        lost = {disk.disk_id for disk in self.config.disks if disk.role == "lost"}
        disks = [disk for disk in self._owner.local_disks if disk.disk_id not in lost]
        for disk in disks:
            try:
                await disk.probe()
            except DiskError as error:
                raise Unavailable(
                    f"every disk is needed for that, and one is away: {error}; bring it back, or give it up "
                    "(siltstone disk replace, or disk remove --lost)"
                ) from error
        return disks


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
        sync_directory(folder.parent)
