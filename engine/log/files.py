"""The files of the log on the disks: make, recycle, establish, mark and copy them.

A file that waits to become a segment is called ``log/free-...``; its space is written already (it was a segment, or it
was filled with zeros), because overwriting is twice as fast to make durable as writing where nothing ever was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import trio

from siltstone.engine.format.frame import volume_seed
from siltstone.engine.format.segment import (
    LOG_PREFIX,
    SEGMENT_HEADER_BYTES,
    Ancestor,
    SegmentHeader,
    free_name,
    pack_lineage,
    pack_segment_header,
    parse_free_name,
    parse_segment_name,
    segment_name,
)
from siltstone.engine.log.segment import Segment
from siltstone.engine.log.sound import read_lineage, read_sound
from siltstone.engine.pool import Pool
from siltstone.errors import DiskError, TooFewDisks
from siltstone.limits import MIB
from siltstone.ports import DiskWrite, Lane
from siltstone.types import Buffer, DiskId, Lsn

FREE_FILES_MAX = 2
"""Files kept for reuse on one disk; the rest is deleted."""

ZERO_STEP_BYTES = 1 * MIB
"""Zeros are written and flushed in steps, so that an append never waits long behind them."""

_ZEROS = bytes(ZERO_STEP_BYTES)


class SegmentFiles:
    """The log's files. ``epoch`` is the highest that any attempt at a segment has used."""

    def __init__(self, pool: Pool, *, volume_uuid: bytes, segment_bytes: int) -> None:
        assert segment_bytes % SEGMENT_HEADER_BYTES == 0
        self.pool = pool
        self.volume_uuid = volume_uuid
        self.segment_bytes = segment_bytes
        self.epoch = 0
        self.seed = volume_seed(volume_uuid)
        self._free: defaultdict[DiskId, list[str]] = defaultdict(list)
        self._in_hand: set[tuple[DiskId, str]] = set()
        self._serial = 0
        self._standby: list[DiskId] = []

    def bytes_on(self, disks: Collection[DiskId]) -> int:
        """What the files that wait, or are on their way to or from a segment, take on these disks."""
        waiting = sum(len(self._free.get(disk_id, ())) for disk_id in disks)
        return (waiting + sum(disk_id in disks for disk_id, _ in self._in_hand)) * self.segment_bytes

    async def adopt_free(self, disk_id: DiskId) -> None:
        """Know the waiting files that are on a disk from earlier. Raises DiskError."""
        for entry in await self.pool.disk(disk_id).list(LOG_PREFIX):
            serial = parse_free_name(entry.name)
            known = entry.name in self._free[disk_id] or (disk_id, entry.name) in self._in_hand
            if serial is None or known:
                continue
            self._serial = max(self._serial, serial)
            self._free[disk_id].append(entry.name)
            if entry.size != self.segment_bytes or len(self._free[disk_id]) > FREE_FILES_MAX:
                self._free[disk_id].remove(entry.name)
                await self.pool.disk(disk_id).delete(entry.name)

    async def establish(
        self, *, start: Lsn, ancestors: Sequence[Ancestor], replicas: int, minimum: int, exclude: Iterable[DiskId]
    ) -> Segment:
        """Make a segment at ``start`` on ``replicas`` disks, or on ``minimum`` at least; frames may go in on return.

        Everything before ``start`` must be durable. Disks that fail are left out and others tried, each time under a
        new epoch. Raises TooFewDisks.
        """
        failed = set(exclude)
        while True:
            disks = self._choose(replicas, failed)
            if len(disks) < minimum:
                raise TooFewDisks(f"a log segment needs {minimum} disks that work, there are {len(disks)}")
            self.epoch += 1
            name = segment_name(start, self.epoch)
            broken, is_written = await self._name_files(disks, name)
            named = [disk_id for disk_id in disks if disk_id not in broken]
            if not broken:
                lineage = pack_lineage(ancestors)
                broken = await self._write_header(disks, name, start, lineage=lineage, is_established=False)
            if not broken:
                broken = await self._write_header(disks, name, start, lineage=None, is_established=True)
            if not broken:
                segment = Segment(
                    start=start, end=start, epoch=self.epoch, disks=disks, segment_bytes=self.segment_bytes
                )
                segment.is_written = is_written
                self._in_hand.difference_update((disk_id, name) for disk_id in named)
                return segment
            failed |= broken
            self._in_hand.difference_update((disk_id, name) for disk_id in named)
            for disk_id in named:
                await self.release(disk_id, name, is_recyclable=disk_id not in broken)

    async def release(self, disk_id: DiskId, name: str, *, is_recyclable: bool) -> None:
        """Recycle or delete a segment's file. A disk that fails is reported and keeps the file as a stray."""
        try:
            disk = self.pool.disk(disk_id)
            if is_recyclable and len(self._free[disk_id]) < FREE_FILES_MAX:
                free = self._next_free_name()
                self._in_hand.add((disk_id, free))
                try:
                    await disk.rename(name, free)
                finally:
                    self._in_hand.discard((disk_id, free))
                self._free[disk_id].append(free)
            else:
                await disk.delete(name)
                if is_recyclable:  # else it may have had holes
                    self.pool.note_taken(disk_id, -self.segment_bytes)
        except DiskError as error:
            self.pool.report(error)

    async def delete_free(self, disk_id: DiskId) -> None:
        """Delete the files that wait on a disk, but for one that the next segment will take: the room is needed. Raises
        DiskError."""
        while len(self._free[disk_id]) > (disk_id in self._standby):
            name = self._free[disk_id].pop()
            self._in_hand.add((disk_id, name))
            try:
                await self.pool.disk(disk_id).delete(name)
            finally:
                self._in_hand.discard((disk_id, name))
            self.pool.note_taken(disk_id, -self.segment_bytes)

    async def prepare_standby(self, replicas: int) -> bool:
        """Have files written ahead on the disks that the next segment will take; False if a disk failed."""
        if all(map(self.pool.is_placeable, self._standby)) and len(self._standby) == replicas:
            chosen = self._standby
        else:
            chosen = self.pool.choose(replicas)
        for disk_id in chosen:
            try:
                if not self._free[disk_id]:
                    self._put_back(disk_id, await self._create(disk_id, is_zeroed=True))
            except DiskError as error:
                self.pool.report(error)
                return False
        self._standby = list(chosen)
        return len(chosen) == replicas

    async def mark(self, segment: Segment, lsn: Lsn) -> list[DiskId]:
        """Note on a segment's disks that it is durable up to ``lsn``, as it must be; returns those that have it now."""
        assert segment.start <= lsn <= segment.limit
        up = [disk_id for disk_id in segment.disks if self.pool.is_up(disk_id)]
        header = self._header(segment.start, segment.epoch, is_established=True, marked_lsn=lsn)
        writes = [DiskWrite(self.pool.disk(disk_id), segment.name, 0, [header]) for disk_id in up]
        broken = self._broken(up, await self.pool.fanout.write_durable(writes, Lane.LOG))
        if not broken:
            segment.marked_lsn = max(segment.marked_lsn, lsn)
        return [disk_id for disk_id in up if disk_id not in broken]

    async def write_header_page(self, segment: Segment, disks: Sequence[DiskId], lineage: bytes) -> dict[DiskId, bool]:
        """Write the header page of an established segment anew on some of its disks; on which that worked."""
        up = [disk_id for disk_id in disks if self.pool.is_up(disk_id)]
        page = self._header(segment.start, segment.epoch, is_established=True, marked_lsn=segment.marked_lsn) + lineage
        writes = [DiskWrite(self.pool.disk(disk_id), segment.name, 0, [page]) for disk_id in up]
        broken = self._broken(up, await self.pool.fanout.write_durable(writes, Lane.BACKGROUND))
        return {disk_id: disk_id in up and disk_id not in broken for disk_id in disks}

    async def copy(self, segment: Segment, target: DiskId) -> None:
        """Copy a segment that takes no more frames to a further disk, whole and durable on return.

        The file gets its name last, so that half a copy is never taken for one. Raises DiskError if the target fails
        or no replica can be read.
        """
        disk = self.pool.disk(target)
        name, _ = await self._take_free(target)
        try:
            header = self._header(segment.start, segment.epoch, is_established=True, marked_lsn=segment.end)
            await self._write(disk_id=target, name=name, offset=0, data=header + await read_lineage(self.pool, segment))
            lsn = segment.start
            while lsn < segment.end:
                data = await read_sound(self.pool, segment, lsn, self.seed)
                await self._write(disk_id=target, name=name, offset=segment.offset_of(lsn), data=data)
                lsn = Lsn(lsn + len(data))
            await disk.rename(name, segment.name)
        except BaseException:
            self._put_back(target, name)
            raise
        self._in_hand.discard((target, name))

    async def strays(self, disk_id: DiskId, segments: Iterable[Segment], epoch_end: int) -> list[str]:
        """Segment files on a disk, of epochs below ``epoch_end``, that no segment counts on. Raises DiskError."""
        wanted = {segment.name for segment in segments if disk_id in segment.disks}
        entries = await self.pool.disk(disk_id).list(LOG_PREFIX)
        names = [(entry.name, parse_segment_name(entry.name)) for entry in entries]
        return [name for name, parsed in names if parsed and parsed.epoch < epoch_end and name not in wanted]

    def _choose(self, count: int, failed: set[DiskId]) -> list[DiskId]:
        standby, self._standby = self._standby, []
        if len(standby) == count and failed.isdisjoint(standby) and all(map(self.pool.is_placeable, standby)):
            return standby
        return list(self.pool.choose(count, exclude=failed))

    async def _name_files(self, disks: Sequence[DiskId], name: str) -> tuple[set[DiskId], bool]:
        """Give a waiting file on each disk this name; the disks where that failed, and if all files were written.

        The others are in hand under this name until somebody else counts them.
        """
        broken: set[DiskId] = set()
        unwritten: set[DiskId] = set()

        async def name_one(disk_id: DiskId) -> None:
            try:
                free, is_written = await self._take_free(disk_id)
                if not is_written:
                    unwritten.add(disk_id)
                try:
                    await self.pool.disk(disk_id).rename(free, name)
                    self._in_hand.add((disk_id, name))
                finally:
                    self._in_hand.discard((disk_id, free))
            except DiskError as error:
                self.pool.report(error)
                broken.add(disk_id)

        async with trio.open_nursery() as nursery:
            for disk_id in disks:
                nursery.start_soon(name_one, disk_id)
        return broken, not unwritten

    async def _write_header(
        self, disks: Sequence[DiskId], name: str, start: Lsn, *, lineage: bytes | None, is_established: bool
    ) -> set[DiskId]:
        page = self._header(start, self.epoch, is_established=is_established, marked_lsn=start) + (lineage or b"")
        writes = [DiskWrite(self.pool.disk(disk_id), name, 0, [page]) for disk_id in disks if self.pool.is_up(disk_id)]
        if len(writes) < len(disks):
            return {disk_id for disk_id in disks if not self.pool.is_up(disk_id)}
        return self._broken(disks, await self.pool.fanout.write_durable(writes, Lane.LOG))

    def _header(self, start: Lsn, epoch: int, *, is_established: bool, marked_lsn: Lsn) -> bytes:
        return pack_segment_header(
            SegmentHeader(
                volume_uuid=self.volume_uuid,
                epoch=epoch,
                start=start,
                is_established=is_established,
                marked_lsn=marked_lsn,
            )
        )

    def _broken(self, disks: Sequence[DiskId], errors: Sequence[DiskError | None]) -> set[DiskId]:
        assert len(disks) == len(errors)
        for error in errors:
            if error is not None:
                self.pool.report(error)
        return {disk_id for disk_id, error in zip(disks, errors, strict=True) if error is not None}

    async def _take_free(self, disk_id: DiskId) -> tuple[str, bool]:
        """A waiting file, and whether it was written before; a new one, only reserved, if none waits."""
        if self._free[disk_id]:
            name = self._free[disk_id].pop()
            self._in_hand.add((disk_id, name))
            return name, True
        return await self._create(disk_id, is_zeroed=False), False

    def _put_back(self, disk_id: DiskId, name: str) -> None:
        self._in_hand.discard((disk_id, name))
        self._free[disk_id].append(name)

    async def _create(self, disk_id: DiskId, *, is_zeroed: bool) -> str:
        name = self._next_free_name()
        disk = self.pool.disk(disk_id)
        self._in_hand.add((disk_id, name))
        try:
            self.pool.note_taken(disk_id, self.segment_bytes)
            await disk.create(name, self.segment_bytes)
            for offset in range(0, self.segment_bytes if is_zeroed else 0, ZERO_STEP_BYTES):
                step = min(ZERO_STEP_BYTES, self.segment_bytes - offset)
                await self._write(disk_id=disk_id, name=name, offset=offset, data=memoryview(_ZEROS)[:step])
        except BaseException:
            self._in_hand.discard((disk_id, name))
            raise
        return name

    def _next_free_name(self) -> str:
        self._serial += 1
        return free_name(self._serial)

    async def _write(self, *, disk_id: DiskId, name: str, offset: int, data: Buffer) -> None:
        write = DiskWrite(self.pool.disk(disk_id), name, offset, [data])
        (error,) = await self.pool.fanout.write_durable([write], Lane.BACKGROUND)
        if error is not None:
            raise error
