"""Reading units of stripes where somebody else, who has their records, has said that they lie.

What is not at hand, right and in time is not had here at all: who has the records reads around it, mends it and counts
it. So nothing is decoded here, and nothing written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import trio

from siltstone.engine.fetch import Fetch
from siltstone.engine.pace import STALL_SECONDS
from siltstone.engine.pool import Pool
from siltstone.engine.stripe.checksum import is_intact
from siltstone.errors import DiskError
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.ports import DiskRead
from siltstone.types import DiskId


class UnitRun(msgspec.Struct, frozen=True, array_like=True):
    """Whole checksum blocks of one unit of a stripe: ``size`` bytes at ``offset`` of a file of a disk, and the xxh3-64
    of each block."""

    disk_id: int
    name: str
    offset: int
    size: int
    checksums: bytes


class RunPart(NamedTuple):
    """Bytes [low, high) of a run; whole blocks of it."""

    run: UnitRun
    low: int
    high: int


def part_around(run: UnitRun, low: int, high: int) -> RunPart:
    """The blocks that hold bytes [low, high) of a run."""
    assert 0 <= low < high <= run.size
    first = low - low % CHECKSUM_BLOCK_BYTES
    return RunPart(run, first, min(run.size, -(-high // CHECKSUM_BLOCK_BYTES) * CHECKSUM_BLOCK_BYTES))


class DirectReader:
    """Reads runs from the disks of a pool, which is this process's own view of them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pace = pool.pace
        self.read_bytes = 0
        self.failed = 0
        """Reads that somebody else had to do, for whatever reason."""
        self.late = 0
        """Of these, because a disk was late."""

    async def read(self, parts: Sequence[RunPart]) -> list[bytes] | None:
        """Parts, in order, each as its checksums say; None if one of them cannot be had so, or not in time."""
        found = [self._nowait(part) for part in parts]
        if None in found:
            found = await self._wait_for(parts, found)
        result: list[bytes] = []
        for part, data in zip(parts, found, strict=True):
            if data is None or not is_intact(data, part.run.checksums, part.low // CHECKSUM_BLOCK_BYTES):
                self.failed += 1
                return None
            result.append(data)
        self.read_bytes += sum(map(len, result))
        return result

    def _nowait(self, part: RunPart) -> bytes | None:
        disk_id = DiskId(part.run.disk_id)
        if not self._pool.is_up(disk_id):
            return None
        disk = self._pool.disk(disk_id)
        return disk.read_nowait(part.run.name, part.run.offset + part.low, part.high - part.low)

    async def _wait_for(self, parts: Sequence[RunPart], at_hand: Sequence[bytes | None]) -> list[bytes | None]:
        """What is at hand and what the disks give; None where they give nothing, or are late."""
        reads: list[DiskRead] = []
        with Fetch(self._pool, len(parts)) as fetch:
            for index, (part, data) in enumerate(zip(parts, at_hand, strict=True)):
                disk_id = DiskId(part.run.disk_id)
                if data is not None:
                    fetch.have(index, data)
                elif not self._pool.is_up(disk_id) or self._pace.is_stalled(disk_id):
                    return list(at_hand)
                else:
                    run = part.run
                    size = part.high - part.low
                    reads.append(DiskRead(self._pool.disk(disk_id), run.name, run.offset + part.low, size))
                    fetch.want(index)
            fetch.begin(reads)
            self._pace.earn()
            with trio.move_on_after(self._patience_seconds({read.disk.disk_id for read in reads})):
                await fetch.wait()
            if not fetch.is_whole and not self._pace.spend():
                # Where all is slow, whom we would ask is no faster; but a disk that hangs is not waited for.
                with trio.move_on_after(STALL_SECONDS):
                    await fetch.wait()
            if not fetch.is_whole:
                self.late += 1
            outcomes = [fetch.outcome(index) for index in range(len(parts))]
        return [None if isinstance(outcome, DiskError) else outcome for outcome in outcomes]

    def _patience_seconds(self, disks: set[DiskId]) -> float:
        up = self._pool.up()
        others = tuple(disk_id for disk_id in up if disk_id not in disks)
        return self._pace.patience_seconds(others or tuple(up))
