"""Side-by-side operations on simulated disks, as tasks."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from siltstone.errors import DiskError
from siltstone.ports import DiskRead, DiskWrite, Lane


class SimFanout:
    """The Fanout port: one task an operation, so that the scheduler's seed decides who goes first.

    Cancelled before it began, or not at all: as with threads that are at work.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.reads = 0

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane) -> list[DiskError | None]:
        """Write and flush each."""
        await trio.lowlevel.checkpoint()
        self.writes += len(writes)
        results: list[DiskError | None] = [None] * len(writes)

        async def carry_out(index: int, write: DiskWrite) -> None:
            try:
                await write.disk.write(write.name, write.offset, write.buffers)
                await write.disk.flush(write.name)
            except DiskError as error:
                results[index] = error

        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for index, write in enumerate(writes):
                    nursery.start_soon(carry_out, index, write)
        return results

    async def read(self, reads: Sequence[DiskRead], lane: Lane) -> list[bytes | DiskError]:
        """Read each."""
        await trio.lowlevel.checkpoint()
        self.reads += len(reads)
        results: list[bytes | DiskError] = [b""] * len(reads)

        async def carry_out(index: int, read: DiskRead) -> None:
            try:
                results[index] = await read.disk.read(read.name, read.offset, read.size)
            except DiskError as error:
                results[index] = error

        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for index, read in enumerate(reads):
                    nursery.start_soon(carry_out, index, read)
        return results
