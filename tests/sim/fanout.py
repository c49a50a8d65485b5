"""Side-by-side operations on simulated disks, as tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from siltstone.errors import DiskError
from siltstone.ports import DiskPunch, DiskRead, DiskWrite, Lane

Operation = TypeVar("Operation", DiskPunch, DiskRead, DiskWrite)
Answer = TypeVar("Answer")


class SimReading:
    """The Reading port: one task a read, which lives on when nobody waits."""

    def __init__(self, reads: Sequence[DiskRead]) -> None:
        self._results: list[bytes | Exception | None] = [None] * len(reads)
        self._seconds = [0.0] * len(reads)
        self._started = trio.current_time()
        self._answered = 0
        self._changed = trio.Event()
        self._on_late: Callable[[int], None] | None = None
        for index, read in enumerate(reads):
            trio.lowlevel.spawn_system_task(self._carry_out, index, read)

    def result(self, index: int) -> bytes | DiskError | None:
        """What a read gave; None as long as there is no answer."""
        result = self._results[index]
        if isinstance(result, Exception) and not isinstance(result, DiskError):
            raise result
        return result

    def seconds(self, index: int) -> float:
        """How long an answer took."""
        assert self._results[index] is not None
        return self._seconds[index]

    async def wait(self, count: int) -> None:
        """Return when so many have answers."""
        assert count <= len(self._results)
        await trio.lowlevel.checkpoint()
        while self._answered < count:
            await self._changed.wait()

    def leave(self, on_late: Callable[[int], None]) -> None:
        """Wait no more; ``on_late`` gets the index of each answer from now on."""
        self._on_late = on_late

    async def _carry_out(self, index: int, read: DiskRead) -> None:
        try:
            self._results[index] = await read.disk.read(read.name, read.offset, read.size)
        except Exception as error:
            self._results[index] = error
        self._seconds[index] = trio.current_time() - self._started
        self._answered += 1
        self._changed.set()
        self._changed = trio.Event()
        if self._on_late is not None:
            self._on_late(index)


class SimFanout:
    """The Fanout port: one task an operation, so that the scheduler's seed decides who goes first.

    Cancelled before it began, or not at all: as with threads that are at work.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.reads = 0
        self.punches = 0

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane) -> list[DiskError | None]:
        """Write and flush each."""
        await trio.lowlevel.checkpoint()
        self.writes += len(writes)

        async def carry_out(write: DiskWrite) -> None:
            await write.disk.write(write.name, write.offset, write.buffers)
            await write.disk.flush(write.name)

        return await _side_by_side(carry_out, writes)

    async def punch(self, punches: Sequence[DiskPunch]) -> list[DiskError | None]:
        """Punch each, place by place."""
        await trio.lowlevel.checkpoint()
        self.punches += len(punches)

        async def carry_out(punch: DiskPunch) -> None:
            for offset, size in punch.ranges:
                await punch.disk.punch(punch.name, offset, size)

        return await _side_by_side(carry_out, punches)

    def start_read(self, reads: Sequence[DiskRead], lane: Lane) -> SimReading:
        """Begin to read each."""
        self.reads += len(reads)
        return SimReading(reads)

    async def read(self, reads: Sequence[DiskRead], lane: Lane) -> list[bytes | DiskError]:
        """Read each."""
        await trio.lowlevel.checkpoint()
        self.reads += len(reads)

        async def carry_out(read: DiskRead) -> bytes:
            return await read.disk.read(read.name, read.offset, read.size)

        return await _side_by_side(carry_out, reads)


async def _side_by_side(
    carry_out: Callable[[Operation], Awaitable[Answer]], operations: Sequence[Operation]
) -> list[Answer | DiskError]:
    """What each of these gave, or its error; none is cancelled once they have begun."""
    results: dict[int, Answer | DiskError] = {}

    async def note(index: int, operation: Operation) -> None:
        try:
            results[index] = await carry_out(operation)
        except DiskError as error:
            results[index] = error

    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for index, operation in enumerate(operations):
                nursery.start_soon(note, index, operation)
    return [results[index] for index in range(len(operations))]
