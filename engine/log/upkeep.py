"""What happens to segments that take no more frames: mark, re-replicate, punch, retire; and files written ahead.

One of these at a time (a lock), so that a file is never recycled under another's hands. Disk failures are reported to
the pool and leave the upkeep *behind*: it is tried again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from siltstone.engine.format.segment import Ancestor
from siltstone.engine.log.files import SegmentFiles
from siltstone.engine.log.scrub import LogChecked, check_frames, check_header
from siltstone.engine.log.segment import Segment, SegmentEvent, SegmentState
from siltstone.errors import DiskError
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId, Lsn


class Upkeep:
    """Keeps ``sealed``, the log's own list of sealed segments, in order. ``wanted`` is set when there may be work."""

    def __init__(self, files: SegmentFiles, sealed: list[Segment], *, replicas: int) -> None:
        self._files = files
        self._pool = files.pool
        self._sealed = sealed
        self._replicas = replicas
        self._lock = trio.Lock()
        self._is_closed = False
        self._leaving: tuple[Segment, list[DiskId]] | None = None
        """A retired segment, and the disks that still have its file."""
        self.wanted = trio.Event()
        self.is_behind = False
        self.has_standby = self.has_tried_standby = False

    def close(self) -> None:
        """Begin nothing any more."""
        self._is_closed = True

    async def mark(self, segment: Segment, lsn: Lsn) -> None:
        """Note that a segment is durable up to ``lsn``, if that is news."""
        async with self._lock:
            if lsn > segment.marked_lsn and lsn <= segment.end:
                await self._files.mark(segment, lsn)

    async def heal(self, active: Segment) -> None:
        """Recycle strays, mark what is sealed, and copy what has too few copies on disks that are up."""
        async with self._lock:
            self.is_behind = False
            await self._recycle_strays(active)
            for segment in list(self._sealed):
                if self._is_closed:
                    return
                if segment.marked_lsn < segment.end:
                    await self._files.mark(segment, segment.end)
                if not segment.is_trimmed:
                    await self._trim(segment)
                await self._replicate(segment)

    async def delete_free(self, disks: Iterable[DiskId]) -> None:
        """Delete the files that wait on these disks."""
        async with self._lock:
            for disk_id in disks:
                try:
                    await self._files.delete_free(disk_id)
                except DiskError as error:
                    self._pool.report(error)

    async def prepare_standby(self) -> None:
        """Have the files of the next segment written ahead. Not under the lock: nobody waits for the zeros."""
        if not self._is_closed:
            self.has_tried_standby = True
            self.has_standby = await self._files.prepare_standby(self._replicas)

    def forget_standby(self) -> None:
        """The files written ahead are in use, or the disks are not the same: try again."""
        self.has_standby = self.has_tried_standby = False
        self.wanted.set()

    async def retire(self, start: Lsn) -> None:
        """Forget a sealed segment and recycle its files."""
        async with self._lock:
            segment = next(segment for segment in self._sealed if segment.start == start)
            segment.happen(SegmentEvent.RETIRE)
            self._sealed.remove(segment)
            leaving = [disk_id for disk_id in segment.disks if self._pool.is_up(disk_id)]
            self._leaving = segment, leaving
            try:
                await segment.wait_unread()
                while leaving:
                    # From here on the file is in the hand of who recycles it.
                    await self._files.release(leaving.pop(), segment.name, is_recyclable=not segment.was_punched)
            finally:
                self._leaving = None

    def file_bytes(self, active: Segment) -> int:
        """What the log's files take on disks that are in full service, those that wait to be used included."""
        disks = set(self._pool.placeable())
        held = [(segment, segment.disks) for segment in (*self._sealed, active)]
        if self._leaving is not None:
            held.append(self._leaving)
        in_segments = sum(segment.file_bytes * len(disks.intersection(where)) for segment, where in held)
        return in_segments + self._files.bytes_on(disks)

    async def punch(self, start: Lsn, end: Lsn) -> None:
        """Give back whole pages inside [start, end) of sealed segments, on the disks that are up."""
        async with self._lock:
            for segment in self._sealed:
                first = max(start, segment.start)
                last = min(end, segment.end)
                if first >= last:
                    continue
                offset = -(-segment.offset_of(Lsn(first)) // ROW_BYTES) * ROW_BYTES
                stop = segment.offset_of(Lsn(last)) // ROW_BYTES * ROW_BYTES
                if offset < stop:
                    await self._punch_file(segment, offset, stop - offset)

    async def check_header(self, segment: Segment, ancestors: Sequence[Ancestor]) -> dict[DiskId, bool]:
        """Mend the header pages of a segment: whether that worked, by disk in which one was wrong."""
        async with self._lock:
            return {} if segment.state is SegmentState.RETIRED else await check_header(self._files, segment, ancestors)

    async def check_frames(self, segment: Segment, lsn: Lsn) -> LogChecked | None:
        """Compare the replicas of a piece of a segment and mend them; None if it was retired.

        A replica whose file is missing is not counted on any more: the upkeep makes another copy.
        """
        async with self._lock:
            if segment.state is SegmentState.RETIRED:
                return None
            checked = await check_frames(self._files, segment, lsn)
            missing = checked.replicas.missing
            whole = [disk_id for disk_id in segment.disks if disk_id not in missing]
            if missing and segment.is_sealed and whole:
                segment.disks = whole
                self.wanted.set()
            return checked

    async def _trim(self, segment: Segment) -> None:
        """Give back what a segment that ended early never used, unless it is so little that recycling pays more."""
        segment.is_trimmed = True
        offset = -(-segment.offset_of(segment.end) // ROW_BYTES) * ROW_BYTES
        if offset < segment.segment_bytes // 2:
            await self._punch_file(segment, offset, segment.segment_bytes - offset)

    async def _punch_file(self, segment: Segment, offset: int, size: int) -> None:
        segment.was_punched = True
        for disk_id in segment.disks:
            try:
                await self._pool.disk(disk_id).punch(segment.name, offset, size)
            except DiskError as error:
                self._pool.report(error)

    async def _recycle_strays(self, active: Segment) -> None:
        """Files of earlier epochs than the open segment's that nobody counts on: what a disk held while it was away.

        Files of later epochs may be about to become the next segment.
        """
        for disk_id in self._pool.up():
            try:
                await self._files.adopt_free(disk_id)
                names = await self._files.strays(disk_id, self._sealed, active.epoch)
            except DiskError as error:
                self._pool.report(error)
                self.is_behind = True
                continue
            for name in names:
                await self._files.release(disk_id, name, is_recyclable=False)

    async def _replicate(self, segment: Segment) -> None:
        readable = any(map(self._pool.is_up, segment.disks))
        up = [disk_id for disk_id in segment.disks if self._pool.is_placeable(disk_id)]
        lacking = self._replicas - len(up)
        if lacking <= 0:
            # A copy too many, on a disk that is being drained, is a stray from here on.
            segment.disks = [disk_id for disk_id in segment.disks if disk_id in up or not self._pool.is_up(disk_id)]
            return
        if not readable:
            return
        for target in self._pool.choose(lacking, exclude=segment.disks):
            try:
                await self._files.copy(segment, target)
            except DiskError as error:
                self._pool.report(error)
                self.is_behind = True
                return
            up.append(target)
            segment.disks.append(target)
        if len(up) >= self._replicas:
            # What is on the disks that are away is not counted on from here: when they return it is a stray.
            segment.disks = [disk_id for disk_id in segment.disks if disk_id in up]
