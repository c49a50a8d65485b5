"""Read what batches say back out of the log: the bodies of frames, without their payload."""

from __future__ import annotations

from siltstone.engine.format.frame import Frame
from siltstone.engine.log.scan import Place, Window, scan_window
from siltstone.engine.log.segment import Segment
from siltstone.engine.log.sound import read_sound
from siltstone.engine.pool import Pool
from siltstone.errors import DiskError, LogDamaged
from siltstone.limits import KIB
from siltstone.ports import DiskRead, Lane
from siltstone.types import DiskId, Lsn

READ_BYTES = 256 * KIB
"""Some milliseconds of the loop's time, if all of it is small frames."""


async def frames_from(pool: Pool, segment: Segment, lsn: Lsn, seed: int) -> list[Frame]:
    """Some frames of a sealed segment, the first at ``lsn``. From one replica as long as that has them whole.

    Raises LogDamaged if no replica that can be read has the first.
    """
    assert segment.start <= lsn < segment.end
    place = Place(segment.epoch, segment.end, seed)
    for disk_id in segment.disks:
        frames = await _frames_on(pool, disk_id, segment, lsn, place)
        if frames:
            return frames
    try:
        data = await read_sound(pool, segment, lsn, seed)
    except DiskError as error:
        pool.report(error)
        raise LogDamaged(lsn, f"the log from LSN {lsn} on cannot be read from any disk: {error}") from error
    frames = scan_window(Window(lsn, [data]), place).frames
    if not frames:
        raise LogDamaged(lsn, f"the frame of the log at LSN {lsn} is whole on no disk that is up")
    return frames


async def _frames_on(pool: Pool, disk_id: DiskId, segment: Segment, lsn: Lsn, place: Place) -> list[Frame]:
    """What one replica has there; nothing if it cannot be read or the first frame is not whole."""
    size = min(READ_BYTES, segment.end - lsn)
    while pool.is_up(disk_id):
        read = DiskRead(pool.disk(disk_id), segment.name, segment.offset_of(lsn), size)
        (data,) = await pool.fanout.read([read], Lane.BULK)
        if isinstance(data, DiskError):
            pool.report(data)
            break
        scan = scan_window(Window(lsn, [data]), place)
        if scan.frames or scan.wanted_bytes <= size:
            return scan.frames
        size = scan.wanted_bytes
    return []
