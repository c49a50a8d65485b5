"""Operations on several local disks side by side, with one wakeup of the caller.

The jobs go straight into the disks' lanes: a task for each, or a hop through trio's threads, costs twice the time of
a durable write of 4 KiB (measured: 560-740 us against 280-310).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import trio

from siltstone.engine.disk.completion import Completion
from siltstone.engine.disk.local import LocalDisk
from siltstone.engine.disk.reading import LocalReading
from siltstone.errors import DiskError
from siltstone.ports import DiskPunch, DiskRead, DiskWrite, Lane

AnyOperation = TypeVar("AnyOperation", DiskPunch, DiskRead, DiskWrite)


class LocalFanout:
    """The Fanout port for LocalDisks. Cancelled before anything has begun, or not at all."""

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane) -> list[DiskError | None]:
        """Write and flush each; None or the error of each, in order. The buffers must not change meanwhile."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not writes:
            return []
        # All is checked before anything starts: from then on this task must wait.
        assert all(write.offset >= 0 for write in writes)
        by_disk = _by_disk(writes)
        completion: Completion[DiskError | BaseException | None] = Completion(len(writes))
        for disk, jobs in by_disk.items():
            disk.submit_writes(completion, jobs, lane)
        return _errors(await completion.wait())

    async def punch(self, punches: Sequence[DiskPunch]) -> list[DiskError | None]:
        """Give back the space of each; None or the error of each, in order."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not punches:
            return []
        by_disk = _by_disk(punches)
        completion: Completion[DiskError | BaseException | None] = Completion(len(punches))
        for disk, jobs in by_disk.items():
            disk.submit_punches(completion, jobs)
        return _errors(await completion.wait())

    async def read(self, reads: Sequence[DiskRead], lane: Lane) -> list[bytes | DiskError]:
        """Read each; the bytes or the error of each, in order. Reads have threads of their own in either lane."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not reads:
            return []
        assert all(read.offset >= 0 and read.size >= 0 for read in reads)
        by_disk = _by_disk(reads)
        completion: Completion[bytes | DiskError | BaseException] = Completion(len(reads))
        for disk, jobs in by_disk.items():
            disk.submit_reads(completion, jobs)
        results: list[bytes | DiskError] = []
        for result in await completion.wait():
            if not isinstance(result, bytes | DiskError):
                raise result
            results.append(result)
        return results

    def start_read(self, reads: Sequence[DiskRead], lane: Lane) -> LocalReading:
        """Begin to read each; nobody has to wait for the end."""
        assert all(read.offset >= 0 and read.size >= 0 for read in reads)
        by_disk = _by_disk(reads)
        reading = LocalReading(len(reads))
        for disk, jobs in by_disk.items():
            disk.submit_reads(reading, jobs)
        return reading


def _errors(results: Sequence[DiskError | BaseException | None]) -> list[DiskError | None]:
    """The results of threads; raises what is no error of a disk."""
    errors: list[DiskError | None] = []
    for result in results:
        if result is not None and not isinstance(result, DiskError):
            raise result
        errors.append(result)
    return errors


def _by_disk(operations: Sequence[AnyOperation]) -> dict[LocalDisk, list[tuple[int, AnyOperation]]]:
    """Operations with their indexes, by disk: a thread is woken once for all that it gets."""
    by_disk: dict[LocalDisk, list[tuple[int, AnyOperation]]] = {}
    for index, operation in enumerate(operations):
        disk = operation.disk
        assert isinstance(disk, LocalDisk)
        assert not disk.is_closed
        by_disk.setdefault(disk, []).append((index, operation))
    return by_disk
