"""What slabs may take of the disks: what is free, less what is left for the log, for settling and for others."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.space import SpaceCount
from siltstone.errors import DiskError
from siltstone.limits import RESERVE_CHUNKS, RESERVE_CHUNKS_FOR_LOG, RESERVE_CHUNKS_FOR_SETTLE
from siltstone.ports import DiskSpace
from siltstone.types import DiskId

AMPLE_CHUNKS = 8
"""So many chunks more than is needed nobody takes unseen in the second until disks are looked at again: what this
process takes meanwhile is counted at once."""


class DiskRoom:
    """The room of a pool's disks for chunk files of ``chunk_bytes``.

    ``reserve_bytes``: what a new slab leaves free on every disk, see RESERVE_CHUNKS.
    """

    def __init__(self, pool: Pool, space: SpaceCount, *, chunk_bytes: int, reserve_bytes: int) -> None:
        self._pool = pool
        self._space = space
        self._chunk_bytes = chunk_bytes
        self._reserve_bytes_alone = reserve_bytes
        self._reserve_bytes = reserve_bytes
        self._held_back_bytes = 0
        self._refused_bytes = 0
        """What somebody wanted on a disk beyond that, and was refused since ``missing_bytes`` was asked."""

    def hold_back(self, size: int) -> None:
        """Leave so much more room free on each disk, for what is not in slabs."""
        self._held_back_bytes = size
        self._space.reserve_bytes = self.reserve(False)

    def share_reserve(self, engines: int) -> None:
        """So many engines take room on the same disks, and each must be able to count on its reserve."""
        self._reserve_bytes = engines * self._reserve_bytes_alone
        self._space.reserve_bytes = self.reserve(False)

    def reserve(self, use_reserve: bool) -> int:
        """What a new slab leaves free on each disk; with ``use_reserve`` one that is made to make room."""
        return (self._reserve_for_log() if use_reserve else self._reserve_bytes) + self._held_back_bytes

    def rows_reserve(self, use_reserve: bool) -> int:
        """What writing rows of a slab that is there leaves free. With ``use_reserve`` much of it may be eaten, the room
        for the next snapshot included: see RESERVE_CHUNKS_FOR_SETTLE."""
        return self._reserve_for_settle() if use_reserve else self.reserve(False)

    def _reserve_for_log(self) -> int:
        return self._reserve_bytes * RESERVE_CHUNKS_FOR_LOG // RESERVE_CHUNKS

    def _reserve_for_settle(self) -> int:
        return self._reserve_bytes * RESERVE_CHUNKS_FOR_SETTLE // RESERVE_CHUNKS

    def settle_free_bytes(self, *, files: int, file_bytes: int) -> int:
        """What settling could write to stripes if so many files of ``file_bytes`` had been made on the disks that have
        most free; the part of the reserve that it may use included."""
        return self._space.writable_bytes(
            self._reserve_for_settle(), self.reserve(True), files=files, file_bytes=file_bytes
        )

    def short_disks(self) -> list[DiskId]:
        """Disks that have less free than what settle and relocation leave for the log when they make a slab."""
        reserve = self._reserve_for_log()
        return [disk_id for disk_id, free_bytes in self._space.free_by_disk().items() if free_bytes < reserve]

    def missing_bytes(self, *, files: int, file_bytes: int) -> int:
        """What all disks together have less free than they should: the reserve, room for so many files of
        ``file_bytes`` in even parts beside what settling leaves free, and room for what was refused since the last
        call. As the pool saw it last."""
        free = self._space.free_by_disk()
        wanted, self._refused_bytes = self.reserve(False) + self._refused_bytes, 0
        if free:
            wanted = max(wanted, self._reserve_for_settle() + -(-files // len(free)) * file_bytes)
        return sum(max(0, wanted - free_bytes) for free_bytes in free.values())

    def takes_chunk(self, disk_id: DiskId) -> bool:
        """Whether a disk, as the pool saw it last, has room for a chunk file above the reserve."""
        takes = self._space.free_by_disk().get(disk_id, 0) >= self._chunk_bytes + self.reserve(False)
        if not takes:
            self._refused_bytes = max(self._refused_bytes, self._chunk_bytes)
        return takes

    async def has_room(
        self, disk_id: DiskId, size: int, *, use_reserve: bool = False, use_held_back: bool = False
    ) -> bool:
        """Whether a disk can take a file of ``size`` bytes and keep the reserve; with ``use_reserve`` only what the log
        needs of it, and nothing for settle; with ``use_held_back`` nothing of what is held back besides."""
        reserve = self.reserve(use_reserve) - (self._held_back_bytes if use_held_back else 0)
        return bool(await self.disks_with_room([disk_id], size, reserve))

    async def disks_with_room(self, candidates: Iterable[DiskId], size: int, reserve: int) -> list[DiskId]:
        """Those of the candidates, in order, that can each take ``size`` bytes and keep ``reserve``.

        Disks on one device share its room: each of them counts with what it takes and with its own reserve. Where
        there is much more room than that, as the pool saw it last, the disks are not asked: each call is a thread's.
        """
        candidates = list(candidates)
        known = self._space.free_by_disk()
        ample = reserve + size + AMPLE_CHUNKS * self._chunk_bytes
        if all(known.get(disk_id, 0) >= ample for disk_id in candidates):
            return candidates
        spaces = await self._ask(candidates)
        needed: dict[int, int] = {}
        for space in spaces.values():
            needed[space.device] = needed.get(space.device, 0) + reserve
        found: list[DiskId] = []
        for disk_id in filter(spaces.__contains__, candidates):
            space = spaces[disk_id]
            if space.free_bytes >= needed[space.device] + size:
                needed[space.device] += size
                found.append(disk_id)
        if len(found) < len(spaces):
            self._refused_bytes = max(self._refused_bytes, size)
        return found

    async def _ask(self, disk_ids: Iterable[DiskId]) -> dict[DiskId, DiskSpace]:
        """The room of disks now, asked side by side; those that give no answer are left out."""
        spaces: dict[DiskId, DiskSpace] = {}

        async def ask(disk_id: DiskId) -> None:
            try:
                spaces[disk_id] = await self._pool.disk(disk_id).space()
            except DiskError as error:
                self._pool.report(error)

        async with trio.open_nursery() as nursery:
            for disk_id in disk_ids:
                nursery.start_soon(ask, disk_id)
        return spaces
