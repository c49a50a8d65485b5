"""Carry out recovery: find the log on the disks, read it from ``applied_lsn`` on, mend its replicas, end it.

What is decided is decided in chain.py (which files are the log) and scan.py (which frames are in them); this reads,
hands frames on, and writes. Nothing here is remembered but on the disks: a crash in the middle is recovered from alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from siltstone.engine.format.frame import FRAME_HEADER_BYTES, Frame, volume_seed
from siltstone.engine.format.segment import (
    LOG_PREFIX,
    SEGMENT_HEADER_BYTES,
    Ancestor,
    SegmentName,
    parse_lineage,
    parse_segment_header,
    parse_segment_name,
    segment_name,
)
from siltstone.engine.log.chain import ChainPlan, FoundSegment, Link, plan_chain
from siltstone.engine.log.files import SegmentFiles
from siltstone.engine.log.scan import Mend, Place, Window, durable_lsn_noted_in, scan_window
from siltstone.engine.log.segment import Segment, SegmentEvent
from siltstone.errors import DiskError, DiskMissing, LogDamaged, TooFewDisks
from siltstone.limits import FRAME_BYTES_MAX, MIB, ROW_BYTES
from siltstone.ports import DiskRead, DiskWrite, Lane
from siltstone.types import DiskId, Lsn

READ_BYTES = 4 * MIB
"""The log is read in pieces of this, from all replicas side by side."""


class Recovered(NamedTuple):
    """The log as it was found and mended: closed segments, oldest first, whole up to ``end`` on ``minimum`` disks.

    ``head_epoch``: of the newest segment that was established, be it void.
    """

    segments: list[Segment]
    end: Lsn
    mended_bytes: int
    head_epoch: int


async def recover_segments(
    files: SegmentFiles, *, replicas: int, minimum: int, applied_lsn: Lsn, on_frame: Callable[[Frame], None]
) -> Recovered:
    """Find and mend the log; ``on_frame`` gets, in order, every frame that ends after ``applied_lsn``.

    Raises TooFewDisks when so many disks are missing that the newest part of the log may be on none of the others, or
    when its tail cannot be had on ``minimum`` disks; LogDamaged when something that was durable is not there.
    """
    found: list[FoundSegment] = []
    seen: set[DiskId] = set()
    for disk_id in files.pool.up():
        try:
            found += await _find_on(files, disk_id)
            seen.add(disk_id)
        except DiskError as error:
            files.pool.report(error)
    _require_enough_disks(files, seen, replicas, minimum)
    plan = plan_chain(found, applied_lsn)
    files.epoch = plan.epoch_seen
    scanner = _Scanner(files, plan, applied_lsn, on_frame)
    segments: list[Segment] = []
    end = applied_lsn
    for link in plan.links:
        if link.end is not None and link.end <= applied_lsn:
            segment = _segment(link, link.end, list(link.whole))
            await _complete(files, segment, link, replicas)
            segments.append(segment)
            continue
        end, disks = await scanner.scan(link)
        disks = [disk_id for disk_id in disks if disk_id in link.whole]
        if end > link.start:
            segment = _segment(link, end, disks)
            await _secure(files, segment, minimum)
            await _complete(files, segment, link, replicas)
            segments.append(segment)
    return Recovered(segments, end, scanner.mended_bytes, plan.links[-1].epoch)


async def make_room(files: SegmentFiles, recovered: Recovered) -> None:
    """Give back what the log's files hold in vain, when a full disk has no room for a new segment.

    Each life leaves a segment, and one that ends soon leaves it nearly empty: a volume that crashes again and again
    would run out of room for the next. What was superseded is deleted. Of all the rest, the last head and attempts at
    newer ones included, only the room behind what counts goes: their names and headers bear witness until there is a
    new head.
    """
    ends = {segment.name: segment.offset_of(segment.end) for segment in recovered.segments}
    for disk_id in files.pool.up():
        disk = files.pool.disk(disk_id)
        try:
            for name in await files.strays(disk_id, recovered.segments, recovered.head_epoch):
                await disk.delete(name)
            for entry in await disk.list(LOG_PREFIX):
                if parse_segment_name(entry.name) is None:
                    continue
                offset = -(-ends.get(entry.name, SEGMENT_HEADER_BYTES) // ROW_BYTES) * ROW_BYTES
                if offset < entry.size:
                    await disk.punch(entry.name, offset, entry.size - offset)
        except DiskError as error:
            files.pool.report(error)


def ancestors_of(segments: Sequence[Segment]) -> list[Ancestor]:
    """The lineage of a segment that comes after these."""
    return [Ancestor(segment.start, segment.end, segment.epoch) for segment in segments]


def _require_enough_disks(files: SegmentFiles, seen: set[DiskId], replicas: int, minimum: int) -> None:
    """With as many disks missing as there are replicas, the newest part of the log may be on none of the others."""
    statuses = files.pool.status()
    missing = [status.disk_id for status in statuses if status.disk_id not in seen]
    if len(missing) >= replicas or len(seen) < minimum:
        raise TooFewDisks(
            f"disks {', '.join(map(str, missing))} of {len(statuses)} are missing; with {replicas} copies of the log "
            f"at most {min(replicas - 1, len(statuses) - minimum)} may be: bring them back"
        )


async def _find_on(files: SegmentFiles, disk_id: DiskId) -> list[FoundSegment]:
    await files.adopt_free(disk_id)
    disk = files.pool.disk(disk_id)
    entries = [(entry, parse_segment_name(entry.name)) for entry in await disk.list(LOG_PREFIX)]
    named = [(entry, name) for entry, name in entries if name is not None]
    size = SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES
    reads = [DiskRead(disk, entry.name, 0, size) for entry, _name in named]
    found: list[FoundSegment] = []
    for (entry, name), result in zip(named, await files.pool.fanout.read(reads, Lane.BULK), strict=True):
        page = result
        if isinstance(page, DiskError):
            files.pool.report(page)
            (page,) = await files.pool.fanout.read([DiskRead(disk, entry.name, 0, size)], Lane.BULK)
        if isinstance(page, DiskMissing):
            raise page
        found.append(_found(files, disk_id, name, entry.size, None if isinstance(page, DiskError) else page))
    return found


def _found(
    files: SegmentFiles, disk_id: DiskId, name: SegmentName, file_bytes: int, readable: bytes | None
) -> FoundSegment:
    page = readable or b""
    header = parse_segment_header(page)
    if header is not None and (header.volume_uuid, header.start, header.epoch) != (files.volume_uuid, *name):
        header = None
    window = Window(name.start, [page[SEGMENT_HEADER_BYTES:]])
    place = Place(name.epoch, Lsn(name.start + FRAME_BYTES_MAX), volume_seed(files.volume_uuid))
    first = scan_window(window, place)
    return FoundSegment(
        disk_id=disk_id,
        name=name,
        file_bytes=file_bytes,
        header=header,
        lineage=parse_lineage(page) if header is not None else None,
        is_readable=readable is not None,
        has_frame=bool(first.frames) or first.wanted_bytes > FRAME_HEADER_BYTES,
    )


def _segment(link: Link, end: Lsn, disks: list[DiskId]) -> Segment:
    """A segment from an earlier life: closed, and taken for punched, since nobody knows (so it is not recycled)."""
    segment = Segment(start=link.start, end=end, epoch=link.epoch, disks=disks, segment_bytes=link.file_bytes)
    segment.happen(SegmentEvent.CLOSE)
    segment.marked_lsn = link.marked_lsn
    segment.was_punched = True
    return segment


async def _secure(files: SegmentFiles, segment: Segment, minimum: int) -> None:
    """Have a segment that was just mended on ``minimum`` disks, and marked whole there."""
    segment.disks = await files.mark(segment, segment.end)
    while len(segment.disks) < minimum:
        targets = files.pool.choose(1, exclude=segment.disks)
        if not targets or not segment.disks:
            raise TooFewDisks(f"log segment {segment.name} must be on {minimum} disks before anything else")
        try:
            await files.copy(segment, targets[0])
            segment.disks.append(targets[0])
        except DiskError as error:
            files.pool.report(error)
            raise TooFewDisks(f"log segment {segment.name} cannot be copied: {error}") from error


async def _complete(files: SegmentFiles, segment: Segment, link: Link, replicas: int) -> None:
    """Write the replicas anew for which nobody vouches, as far as copies lack: a crash in the middle of marking leaves
    one that is vouched for, and two good ones that would be strays. Until others were made that one would be all."""
    for disk_id in link.disks:
        if len(segment.disks) >= replicas or not any(map(files.pool.is_up, segment.disks)):
            return
        if disk_id not in segment.disks and files.pool.is_placeable(disk_id):
            try:
                await files.copy(segment, disk_id)
                segment.disks.append(disk_id)
            except DiskError as error:
                files.pool.report(error)


class _Scanner:
    """Reads links frame by frame and mends their replicas."""

    def __init__(
        self, files: SegmentFiles, plan: ChainPlan, applied_lsn: Lsn, on_frame: Callable[[Frame], None]
    ) -> None:
        self._files = files
        self._durable_lsn = plan.durable_lsn
        self._applied_lsn = applied_lsn
        self._on_frame = on_frame
        self._seed = volume_seed(files.volume_uuid)
        self.mended_bytes = 0

    async def scan(self, link: Link) -> tuple[Lsn, list[DiskId]]:
        """Where the link ends, and the disks that hold all of it that was read. Raises LogDamaged."""
        limit = Lsn(link.start + link.file_bytes - SEGMENT_HEADER_BYTES) if link.end is None else link.end
        place = Place(link.epoch, limit, self._seed)
        disks = list(link.disks)
        position = await self._first_position(link, disks, place)
        size, was_careful = READ_BYTES, False
        while position < limit:
            images = await self._read(link, disks, position, min(size, limit - position))
            scan = scan_window(Window(position, images), place)
            for frame in scan.frames:
                if frame.end_lsn > self._applied_lsn:
                    self._on_frame(frame)
            await self._mend(link, disks, scan.mends)
            if scan.end > position:
                position, size, was_careful = scan.end, READ_BYTES, False
            elif scan.wanted_bytes > size:
                size = scan.wanted_bytes
            elif None in images and not was_careful:
                # One unreadable sector fails a whole piece: look at no more than the frame itself.
                size, was_careful = FRAME_HEADER_BYTES, True
            else:
                break
        if position < (self._durable_lsn if link.end is None else link.end):
            raise self._damage(link, position)
        if link.end is None:
            await self._require_torn_tail(link, disks, place, position)
        return position, disks

    async def _first_position(self, link: Link, disks: list[DiskId], place: Place) -> Lsn:
        """Where to start reading: at ``applied_lsn`` if the log provably reaches it, else at the last mark before."""
        applied = self._applied_lsn
        if applied <= link.start:
            return link.start
        if link.end is not None or applied <= link.marked_lsn:
            return applied
        size = min(FRAME_HEADER_BYTES, place.end - applied)
        if size == FRAME_HEADER_BYTES:
            scan = scan_window(Window(applied, await self._read(link, disks, applied, size)), place)
            if scan.frames or scan.wanted_bytes > size:
                return applied
        return link.marked_lsn

    async def _require_torn_tail(self, link: Link, disks: list[DiskId], place: Place, end: Lsn) -> None:
        """Raise LogDamaged if a frame past ``end`` bears witness that more than that was durable.

        The witness of a frame that was durable is the next write's first frame, and a write is no longer than a frame
        may be: what lies further need not be read.
        """
        position = end
        stop = min(place.end, end + FRAME_BYTES_MAX + FRAME_HEADER_BYTES)
        while position + FRAME_HEADER_BYTES <= stop:
            size = min(READ_BYTES, stop - position)
            images = await self._read(link, disks, position, size)
            if durable_lsn_noted_in(Window(position, images), place) > end:
                raise self._damage(link, end)
            position = Lsn(position + size - FRAME_HEADER_BYTES + 8) if position + size < stop else Lsn(stop)

    async def _read(self, link: Link, disks: Sequence[DiskId], lsn: Lsn, size: int) -> list[bytes | None]:
        pool = self._files.pool
        name, offset = segment_name(link.start, link.epoch), SEGMENT_HEADER_BYTES + lsn - link.start
        up = [disk_id for disk_id in disks if pool.is_up(disk_id)]
        reads = [DiskRead(pool.disk(disk_id), name, offset, size) for disk_id in up]
        results = dict(zip(up, await pool.fanout.read(reads, Lane.BULK), strict=True))
        for result in results.values():
            if isinstance(result, DiskError):
                pool.report(result)
        images = [results.get(disk_id) for disk_id in disks]
        return [None if isinstance(image, DiskError) else image for image in images]

    async def _mend(self, link: Link, disks: list[DiskId], mends: Sequence[Mend]) -> None:
        """Write what replicas lack; a disk that cannot take it is no disk of this segment any more."""
        pool = self._files.pool
        name = segment_name(link.start, link.epoch)
        lost: set[DiskId] = set()
        for mend in mends:
            disk_id = disks[mend.replica]
            if disk_id in lost or not pool.is_up(disk_id):
                lost.add(disk_id)
                continue
            offset = SEGMENT_HEADER_BYTES + mend.lsn - link.start
            write = DiskWrite(pool.disk(disk_id), name, offset, [mend.data])
            (error,) = await pool.fanout.write_durable([write], Lane.BACKGROUND)
            self.mended_bytes += len(mend.data)
            if error is not None:
                pool.report(error)
                lost.add(disk_id)
        disks[:] = [disk_id for disk_id in disks if disk_id not in lost]

    def _damage(self, link: Link, lsn: Lsn) -> LogDamaged | TooFewDisks:
        """What to raise when the log ends at ``lsn`` though it was durable further."""
        name = segment_name(link.start, link.epoch)
        lost = [disk_id for disk_id in link.disks if not self._files.pool.is_up(disk_id)]
        if lost:
            return TooFewDisks(f"disks {', '.join(map(str, lost))} went away while {name} was read (LSN {lsn})")
        return LogDamaged(
            lsn,
            f"the log is damaged at LSN {lsn}: no sound frame there in {name} on disks "
            f"{', '.join(map(str, link.disks))}, and it was durable further; bring back disks that are missing",
        )
