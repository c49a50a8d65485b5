"""Read a segment for copying: frame by frame from whichever replica has each whole, so that rot is not copied along."""

from __future__ import annotations

from siltstone.engine.format.segment import SECTOR_BYTES, SEGMENT_HEADER_BYTES, parse_lineage
from siltstone.engine.log.scan import Place, Scan, Window, scan_window
from siltstone.engine.log.segment import Segment
from siltstone.engine.pool import Pool
from siltstone.errors import DiskError
from siltstone.limits import MIB
from siltstone.ports import DiskRead, DiskWrite, Lane
from siltstone.types import DiskId, Lsn

COPY_STEP_BYTES = 4 * MIB


async def read_sound(pool: Pool, segment: Segment, lsn: Lsn, seed: int) -> bytes:
    """Some bytes of a closed segment from ``lsn`` on; replicas that have a frame of them differently are mended.

    Where there are no frames any more, because payload was punched out, the bytes are as the first replica has them.
    Raises DiskError if no replica can be read.
    """
    assert segment.start <= lsn < segment.end
    size = min(COPY_STEP_BYTES, segment.end - lsn)
    place = Place(segment.epoch, segment.end, seed)
    while True:
        disks = [disk_id for disk_id in segment.disks if pool.is_up(disk_id)]
        images = await _read_images(pool, segment, disks, segment.offset_of(lsn), size)
        readable = [index for index, image in enumerate(images) if image is not None]
        if not readable:
            raise DiskError(segment.disks[0], "read", segment.name, "no replica of the log segment can be read")
        scan = scan_window(Window(lsn, images), place)
        if not scan.frames and scan.wanted_bytes > size:
            size = scan.wanted_bytes
            continue
        image = images[readable[0]]
        assert image is not None
        if not scan.frames:
            return image
        await mend(pool, segment, disks, scan)
        return _whole(image, readable[0], lsn, scan)


async def read_lineage(pool: Pool, segment: Segment) -> bytes:
    """The header page after its first sector, from a replica where it is sound; else zeros, which are no lineage.

    It counts even in a closed segment: that is the head until recovery has established another.
    """
    disks = [disk_id for disk_id in segment.disks if pool.is_up(disk_id)]
    for page in await _read_images(pool, segment, disks, 0, SEGMENT_HEADER_BYTES):
        if page is not None and parse_lineage(page) is not None:
            return page[SECTOR_BYTES:]
    return bytes(SEGMENT_HEADER_BYTES - SECTOR_BYTES)


async def _read_images(pool: Pool, segment: Segment, disks: list[DiskId], offset: int, size: int) -> list[bytes | None]:
    """The same range of the file from disks that are up, side by side; None where it cannot be read."""
    reads = [DiskRead(pool.disk(disk_id), segment.name, offset, size) for disk_id in disks]
    images: list[bytes | None] = []
    for result in await pool.fanout.read(reads, Lane.BULK):
        if isinstance(result, DiskError):
            pool.report(result)
        images.append(None if isinstance(result, DiskError) else result)
    return images


def _whole(image: bytes, replica: int, lsn: Lsn, scan: Scan) -> bytes:
    """The scanned frames: what one replica has, with what it lacks."""
    data = bytearray(image[: scan.end - lsn])
    for mend in scan.mends:
        if mend.replica == replica:
            data[mend.lsn - lsn : mend.lsn - lsn + len(mend.data)] = mend.data
    return bytes(data)


async def mend(pool: Pool, segment: Segment, disks: list[DiskId], scan: Scan) -> None:
    """Write to replicas that are up what they lack or have otherwise."""
    writes = [
        DiskWrite(pool.disk(disks[lack.replica]), segment.name, segment.offset_of(lack.lsn), [lack.data])
        for lack in scan.mends
        if pool.is_up(disks[lack.replica])
    ]
    await pool.write_durable(writes)
