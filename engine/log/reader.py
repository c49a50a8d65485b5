"""Read durable payload from the replicas of a segment, and mend those that differ.

The log cannot tell sound payload from damage without reading whole frames; whoever asks for bytes knows their checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from siltstone.engine.log.segment import Segment
from siltstone.engine.pool import Pool
from siltstone.errors import Corrupt, DiskError, TooFewDisks
from siltstone.ports import DiskWrite
from siltstone.types import DiskId, Lsn


class ReplicaReader:
    """Reads from the disks of a segment in turn. ``mended_bytes`` counts what was written back."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.mended_bytes = 0

    def read_nowait(self, segment: Segment, lsn: Lsn, size: int) -> bytes | None:
        """The bytes on the first disk that is up, if its cache has them. Not verified."""
        for disk_id in segment.disks:
            if self._pool.is_up(disk_id):
                return self._pool.disk(disk_id).read_nowait(segment.name, segment.offset_of(lsn), size)
        return None

    async def read(self, segment: Segment, lsn: Lsn, size: int, verify: Callable[[bytes], bool]) -> bytes:
        """The bytes of the first replica that ``verify`` accepts; those refused before it are mended.

        The file is not recycled meanwhile. Raises Corrupt if replicas can be read and none is accepted, TooFewDisks if
        none can be read.
        """
        with segment:
            return await self._read(segment, lsn, size, verify)

    async def _read(self, segment: Segment, lsn: Lsn, size: int, verify: Callable[[bytes], bool]) -> bytes:
        offset = segment.offset_of(lsn)
        wrong: list[DiskId] = []
        for disk_id in list(segment.disks):
            try:
                data = await self._pool.disk(disk_id).read(segment.name, offset, size)
            except DiskError as error:
                self._pool.report(error)
                continue
            if verify(data):
                await self._mend(segment, wrong, offset, data)
                return data
            wrong.append(disk_id)
        if wrong:
            raise Corrupt(f"{size} bytes at LSN {lsn} match their checksum on none of disks {wrong} ({segment.name})")
        raise TooFewDisks(f"no disk with LSN {lsn} of the log is up (disks {segment.disks})")

    async def _mend(self, segment: Segment, wrong: Sequence[DiskId], offset: int, data: bytes) -> None:
        up = [disk_id for disk_id in wrong if self._pool.is_up(disk_id)]
        if not up:
            return
        writes = [DiskWrite(self._pool.disk(disk_id), segment.name, offset, [data]) for disk_id in up]
        await self._pool.write_durable(writes)
        self.mended_bytes += len(data) * len(up)
