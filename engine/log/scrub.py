"""Compare the replicas of a segment frame by frame, and mend those that differ; likewise its header page.

A frame counts as sound when any replica has it whole. Where none has, either its payload was punched out because nobody
refers to it, or it is lost: the log cannot tell, so that is for the caller to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from siltstone.engine.format.frame import FRAME_HEADER_BYTES
from siltstone.engine.format.segment import (
    SECTOR_BYTES,
    SEGMENT_HEADER_BYTES,
    Ancestor,
    pack_lineage,
    parse_lineage,
    parse_segment_header,
)
from siltstone.engine.log.files import SegmentFiles
from siltstone.engine.log.scan import Place, Scan, Window, next_header, scan_window
from siltstone.engine.log.segment import Segment
from siltstone.engine.replicas import ReplicasChecked
from siltstone.errors import DiskError, FileMissing
from siltstone.limits import MIB
from siltstone.ports import DiskRead, DiskWrite, Lane
from siltstone.types import DiskId, Lsn

READ_BYTES = 1 * MIB
"""The replicas are read in pieces of this; one whose first frame is longer is read again as long as the frame is."""


class LostFrames(NamedTuple):
    """[start, end) of the log, where no replica that is up has a whole frame."""

    start: Lsn
    end: Lsn


class LogChecked(NamedTuple):
    """What a look at a piece of a segment found. ``end``: where to go on."""

    end: Lsn
    replicas: ReplicasChecked
    lost: LostFrames | None


async def check_frames(files: SegmentFiles, segment: Segment, lsn: Lsn) -> LogChecked:
    """Look at the frames of a segment from ``lsn`` on, up to its durable end; the caller keeps its files in place."""
    assert segment.start <= lsn < segment.end
    end = segment.end
    place = Place(segment.epoch, end, files.seed)
    disks = [disk_id for disk_id in segment.disks if files.pool.is_up(disk_id)]
    size = min(READ_BYTES, end - lsn)
    while True:
        images, missing = await _read(files, segment, disks, lsn, size)
        window = Window(lsn, images)
        scan = scan_window(window, place)
        if scan.frames or not (scan.wanted_bytes > size):
            break
        size = scan.wanted_bytes
    read_bytes = dict.fromkeys(disks, size)
    if scan.frames:
        mended, unmended = await _mend(files, segment, disks, scan, place, lsn)
        for disk_id in missing:
            unmended.pop(disk_id, None)  # a matter of copies, not of bytes
        return LogChecked(scan.end, ReplicasChecked(read_bytes, mended, unmended, missing), None)
    header = next_header(window, lsn, place)
    if header is not None:
        at = header.lsn if header.lsn > lsn else Lsn(lsn + header.size)
    else:
        # A header may begin in the last bytes of the piece and be cut off.
        at = end if lsn + size >= end else Lsn(lsn + size - FRAME_HEADER_BYTES)
    return LogChecked(at, ReplicasChecked(read_bytes, missing=missing), LostFrames(lsn, at))


async def check_header(files: SegmentFiles, segment: Segment, ancestors: Sequence[Ancestor]) -> dict[DiskId, bool]:
    """Look at the header page on each disk, and write it anew where it is not sound: whether that worked, by disk.

    ``ancestors``: what the lineage should name if none is sound. Nobody may mark the segment meanwhile.
    """
    disks = [disk_id for disk_id in segment.disks if files.pool.is_up(disk_id)]
    reads = [DiskRead(files.pool.disk(disk_id), segment.name, 0, SEGMENT_HEADER_BYTES) for disk_id in disks]
    pages = dict(zip(disks, await files.pool.fanout.read(reads, Lane.BULK) if reads else (), strict=True))
    lineages = [page[SECTOR_BYTES:] for page in pages.values() if isinstance(page, bytes) and parse_lineage(page)]
    lineage = lineages[0] if lineages else pack_lineage(ancestors)
    wrong = [disk_id for disk_id, page in pages.items() if not _is_sound(files, segment, page, lineage)]
    if not wrong:
        return {}
    for disk_id in wrong:
        page = pages[disk_id]
        if isinstance(page, DiskError):
            files.pool.report(page)
    return await files.write_header_page(segment, wrong, lineage)


def _is_sound(files: SegmentFiles, segment: Segment, page: bytes | DiskError, lineage: bytes) -> bool:
    if isinstance(page, DiskError):
        return isinstance(page, FileMissing)  # a matter of copies, not of this page
    header = parse_segment_header(page)
    return (
        header is not None
        and header.is_established
        and (header.volume_uuid, header.start, header.epoch) == (files.volume_uuid, segment.start, segment.epoch)
        and parse_lineage(page) == parse_lineage(page[:SECTOR_BYTES] + lineage)
    )


async def _read(
    files: SegmentFiles, segment: Segment, disks: Sequence[DiskId], lsn: Lsn, size: int
) -> tuple[list[bytes | None], set[DiskId]]:
    """The same range from each disk, None where it cannot be read; and the disks that do not have the file."""
    up = [disk_id for disk_id in disks if files.pool.is_up(disk_id)]
    reads = [DiskRead(files.pool.disk(disk_id), segment.name, segment.offset_of(lsn), size) for disk_id in up]
    results = dict(zip(up, await files.pool.fanout.read(reads, Lane.BULK) if reads else (), strict=True))
    for result in results.values():
        if isinstance(result, DiskError):
            files.pool.report(result)
    images = [results.get(disk_id) for disk_id in disks]
    missing = {disk_id for disk_id, result in results.items() if isinstance(result, FileMissing)}
    return [image if isinstance(image, bytes) else None for image in images], missing


async def _mend(
    files: SegmentFiles, segment: Segment, disks: Sequence[DiskId], scan: Scan, place: Place, lsn: Lsn
) -> tuple[dict[DiskId, int], dict[DiskId, int]]:
    """Write what replicas lack, and look again: mended and unmended bytes, by disk."""
    wrong: dict[DiskId, int] = {}
    for mend in scan.mends:
        wrong[disks[mend.replica]] = wrong.get(disks[mend.replica], 0) + len(mend.data)
    writes = [
        DiskWrite(files.pool.disk(disks[mend.replica]), segment.name, segment.offset_of(mend.lsn), [mend.data])
        for mend in scan.mends
        if files.pool.is_up(disks[mend.replica])
    ]
    if not writes:
        return {}, wrong
    for error in await files.pool.fanout.write_durable(writes, Lane.BACKGROUND):
        if error is not None:
            files.pool.report(error)
    images, _ = await _read(files, segment, disks, lsn, scan.end - lsn)
    again = scan_window(Window(lsn, images), place)
    still = {disks[mend.replica] for mend in again.mends}
    mended = {disk_id: size for disk_id, size in wrong.items() if disk_id not in still}
    return mended, {disk_id: size for disk_id, size in wrong.items() if disk_id in still}
