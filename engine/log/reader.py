"""Read durable payload from the replicas of a segment, and mend those that differ.

The log cannot tell sound payload from damage without reading whole frames; whoever asks for bytes knows their checksum.
A replica that is late is left to itself while the next one is asked, and whichever is right first is taken
(docs/decisions/0007).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import trio

from siltstone.engine.fetch import Fetch
from siltstone.engine.log.segment import Segment
from siltstone.engine.pool import Pool
from siltstone.errors import Corrupt, DiskMissing, TooFewDisks
from siltstone.ports import DiskRead, DiskWrite
from siltstone.types import DiskId, Lsn


class ReplicaReader:
    """Reads from the disks of a segment. ``mended_bytes`` counts what was written back."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.mended_bytes = 0
        self.hedged_reads = 0
        """Replicas that were asked because others were late."""

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
        pace = self._pool.pace
        wrong: list[DiskId] = []
        todo = sorted(segment.disks, key=pace.is_stalled)
        patience = pace.patience_seconds(tuple(todo[1:]))
        asked: dict[DiskId, Fetch] = {}
        is_due = True
        pace.earn()
        with ExitStack() as reads:
            while todo or asked:
                if todo and is_due:
                    disk_id = todo.pop(0)
                    asked[disk_id] = reads.enter_context(self._ask(segment, disk_id, offset, size))
                await _wait_for_one(list(asked.values()), patience if todo else float("inf"))
                answered = [disk_id for disk_id, fetch in asked.items() if fetch.is_whole]
                for disk_id in answered:
                    data = asked.pop(disk_id).outcome(0)
                    if not isinstance(data, bytes):
                        continue
                    if verify(data):
                        await self._mend(segment, wrong, offset, data)
                        return data
                    wrong.append(disk_id)
                if answered:
                    is_due = True
                else:
                    is_due = pace.spend()
                    self.hedged_reads += is_due
        if wrong:
            raise Corrupt(f"{size} bytes at LSN {lsn} match their checksum on none of disks {wrong} ({segment.name})")
        raise TooFewDisks(f"no disk with LSN {lsn} of the log is up (disks {segment.disks})")

    def _ask(self, segment: Segment, disk_id: DiskId, offset: int, size: int) -> Fetch:
        """Begin to read a replica."""
        fetch = Fetch(self._pool, 1)
        try:
            disk = self._pool.disk(disk_id)
        except DiskMissing as error:
            fetch.have(0, error)
            return fetch
        fetch.want(0)
        fetch.begin([DiskRead(disk, segment.name, offset, size)])
        return fetch

    async def _mend(self, segment: Segment, wrong: Sequence[DiskId], offset: int, data: bytes) -> None:
        up = [disk_id for disk_id in wrong if self._pool.is_up(disk_id)]
        if not up:
            return
        writes = [DiskWrite(self._pool.disk(disk_id), segment.name, offset, [data]) for disk_id in up]
        await self._pool.write_durable(writes)
        self.mended_bytes += len(data) * len(up)


async def _wait_for_one(fetches: Sequence[Fetch], seconds: float) -> None:
    """Return when one of some reads has an answer, or when the time is up."""

    async def wait(fetch: Fetch, scope: trio.CancelScope) -> None:
        await fetch.wait()
        scope.cancel()

    with trio.move_on_after(seconds):
        if len(fetches) == 1:
            await fetches[0].wait()
            return
        async with trio.open_nursery() as nursery:
            for fetch in fetches:
                nursery.start_soon(wait, fetch, nursery.cancel_scope)
