"""Reading files of shards: long runs of stripes from the disks, by plans of the shard, and everything else through it.

See docs/decisions/0021. A plan is asked for where what is read is large, or goes on where the last read ended. Whatever
cannot be had by it is read by the shard: the whole range, so that it is of one moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Protocol

import trio

from siltstone.core.disk_access import DiskAccess
from siltstone.core.read_plans import LEASE_SECONDS, PLAN_BYTES_MAX, PlannedRun, ReadPlan
from siltstone.core.readings import Reading
from siltstone.core.volume import READ_BYTES_MAX
from siltstone.engine.direct import RunPart, UnitRun, part_around
from siltstone.engine.disk.parts import part_folder
from siltstone.limits import KIB, MIB
from siltstone.meta.shards.messages import PeerLost
from siltstone.ports import Clock
from siltstone.types import DiskId, Ino, ShardId

PLAN_SECONDS = 0.75 * LEASE_SECONDS
"""So long a plan is used, from before it was asked for."""

LARGE_BYTES = 128 * KIB
"""A plan is asked for from here on at once, of less only where it goes on."""

NEAR_BYTES = 2 * MIB
"""What is read so near to where the last read ended goes on there: the kernel reads ahead, side by side."""

TELL_SECONDS = 0.25
"""How long ended plans wait for a question with which to tell of them."""

FILES_MAX = 256
"""Files whose plans are kept."""

_where = attrgetter("at")


class Calls(Protocol):
    """The way to the shards (core/caller.py), as far as it is used here."""

    async def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Have a method carried out by the shard that has the inode which is its first argument."""

    async def end_reads(self, shard: ShardId, leases: list[int]) -> None:
        """Tell a shard of plans that are not used any more. Raises PeerLost."""


class _Plan:
    """A plan that is in use."""

    __slots__ = ("_files", "_plan", "is_over", "readers", "until_ns")

    def __init__(self, plan: ReadPlan, until_ns: int, files: FarFiles) -> None:
        self._plan = plan
        self._files = files
        self.until_ns = until_ns
        self.readers = 0
        self.is_over = False

    def holds(self, start: int, end: int) -> bool:
        """Whether all of a range is in it, as far as the file goes."""
        return self._plan.start <= start <= self._plan.end and (end <= self._plan.end or self._plan.is_to_end)

    def clipped(self, offset: int, size: int) -> int:
        """How much of a range that it holds there is."""
        return min(size, self._plan.end - offset)

    def runs(self, start: int, end: int) -> list[PlannedRun]:
        """The runs that have any byte of a range."""
        runs = self._plan.runs
        first = max(0, bisect_right(runs, start, key=_where) - 1)
        found: list[PlannedRun] = []
        for run in runs[first:]:
            if run.at >= end:
                break
            if run.at + run.size > start:
                found.append(run)
        return found

    def end(self) -> None:
        """Not to be used for further reads; the shard hears of it when those under way are over."""
        if not self.is_over:
            self.is_over = True
            self.left()

    def left(self) -> None:
        """A read is over, or no other will come."""
        if self.is_over and not self.readers:
            self._files.tell_ended(self._plan.shard, self._plan.lease)

    def real_run(self, run: UnitRun) -> UnitRun:
        """The run with the name that its file has on the disk."""
        folder = part_folder(self._plan.shard)
        name = f"{folder}/{run.name}" if folder else run.name
        return UnitRun(run.disk_id, name, run.offset, run.size, run.checksums)


class FarFile:
    """A file that is read, mostly from front to back. To be closed."""

    def __init__(self, ino: Ino, files: FarFiles, reading: Reading | None = None) -> None:
        self._ino = ino
        self._reading = reading
        self._files = files
        self._plan: _Plan | None = None
        self._next = 0
        """Where the last read ended."""
        self._asking = trio.Lock()
        self._is_closed = False

    async def read(self, offset: int, size: int) -> bytes:
        """See Volume.read: the file as it was at some time since the plan that is used was asked for."""
        size = min(size, READ_BYTES_MAX)
        goes_on = abs(offset - self._next) <= NEAR_BYTES
        is_first, self._next = not self._next, offset + size
        plan = self._plan_for(offset, size)
        if plan is None:
            if size < LARGE_BYTES and (is_first or not goes_on):
                return await self._through_shard(offset, size)
            async with self._asking:  # who reads beside us may bring a plan that is ours as well
                plan = self._plan_for(offset, size)
                if plan is None:
                    answer = await self._ask(offset, size, PLAN_BYTES_MAX if goes_on else size)
                    if isinstance(answer, bytes):
                        return answer
                    plan = answer
                plan.readers += 1
        else:
            plan.readers += 1
        try:
            data = await self._files.by_plan(plan, offset, size)
        finally:
            plan.readers -= 1
            plan.left()
        return await self._through_shard(offset, size) if data is None else data

    def close(self) -> None:
        """Its plan is not to be used for further reads."""
        self._is_closed = True
        if self._plan is not None:
            self._plan.end()
            self._plan = None

    async def _through_shard(self, offset: int, size: int) -> bytes:
        return await self._files.through_shard(self._ino, offset, size, self._reading)

    def _plan_for(self, offset: int, size: int) -> _Plan | None:
        plan = self._plan
        if plan is not None and plan.until_ns <= self._files.clock.monotonic_ns():
            plan.end()
            plan = self._plan = None
        return plan if plan is not None and plan.holds(offset, offset + size) else None

    async def _ask(self, offset: int, size: int, ahead: int) -> _Plan | bytes:
        """A plan that holds a range, or its bytes."""
        until_ns = self._files.clock.monotonic_ns() + round(PLAN_SECONDS * 1e9)
        answer = await self._files.ask(self._ino, offset, size, ahead, self._reading)
        if not answer.lease:
            return answer.data
        if self._plan is not None:
            self._plan.end()
        plan = self._plan = _Plan(answer, until_ns, self._files)
        if self._is_closed:
            # For this read alone: what has closed the file meanwhile may have changed it.
            self._plan = None
            plan.is_over = True
        return plan


class FarFiles:
    """All files that a front-end reads. ``disks``: None where it has none, and everything goes through the shards."""

    def __init__(self, calls: Calls, disks: DiskAccess | None, clock: Clock) -> None:
        self._calls = calls
        self._disks = disks
        self.clock = clock
        self._kept: dict[Ino, FarFile] = {}
        self._ended: dict[ShardId, list[int]] = {}
        self._to_tell = trio.Event()

    def open(self, ino: Ino, reading: Reading | None = None) -> FarFile:
        """A file to be read; as the object that was opened, where ``reading`` says which."""
        return FarFile(ino, self, reading)

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """See Volume.read. What is known of the file is kept for the next read, until it is forgotten."""
        if self._disks is None:
            return await self.through_shard(ino, offset, size)
        file = self._kept.pop(ino, None)
        if file is None:
            file = self.open(ino)
            while len(self._kept) >= FILES_MAX:
                self.forget(next(iter(self._kept)))
        self._kept[ino] = file
        return await file.read(offset, size)

    def forget(self, ino: Ino) -> None:
        """A file has changed, or may have: what is read from now on is asked for anew."""
        file = self._kept.pop(ino, None)
        if file is not None:
            file.close()

    def forget_all(self) -> None:
        """Any file may have changed."""
        for ino in list(self._kept):
            self.forget(ino)

    async def run(self) -> None:
        """Tell shards of plans that have ended, for ever; and have the disks watched."""
        async with trio.open_nursery() as nursery:
            if self._disks is not None:
                nursery.start_soon(self._disks.run)
            while True:
                await self._to_tell.wait()
                await self.clock.sleep(TELL_SECONDS)
                self._to_tell = trio.Event()
                for shard in list(self._ended):
                    if ended := self._ended.pop(shard, []):
                        nursery.start_soon(self._tell, shard, ended)

    # --- for files ------------------------------------------------------------------------------------------------

    async def through_shard(self, ino: Ino, offset: int, size: int, reading: Reading | None = None) -> bytes:
        """Bytes that the shard reads."""
        data: bytes
        if reading is None:
            data = await self._calls.call("read", ino, offset, size)
        else:
            data = await self._calls.call("read_object", ino, offset, size, reading)
        return data

    async def ask(self, ino: Ino, offset: int, size: int, ahead: int, reading: Reading | None) -> ReadPlan:
        """A plan for a range, or its bytes."""
        if self._disks is None:
            return ReadPlan(await self.through_shard(ino, offset, size, reading))
        answer: ReadPlan = await self._calls.call("plan_read", ino, offset, size, ahead, reading)
        return answer

    async def by_plan(self, plan: _Plan, offset: int, size: int) -> bytes | None:
        """Bytes as a plan says where they are; None if they cannot be had so."""
        assert self._disks is not None
        size = plan.clipped(offset, size)
        runs = plan.runs(offset, offset + size)
        if not all(self._disks.has(DiskId(planned.run.disk_id)) for planned in runs):
            return None
        parts: list[RunPart] = []
        for planned in runs:
            low, high = max(planned.at, offset), min(planned.at + planned.size, offset + size)
            first = planned.skip - planned.at
            parts.append(part_around(plan.real_run(planned.run), first + low, first + high))
        found = await self._disks.reader.read(parts)
        return None if found is None else _assembled(runs, parts, found, offset, size)

    def tell_ended(self, shard: ShardId, lease: int) -> None:
        """A plan is not used any more."""
        self._ended.setdefault(shard, []).append(lease)
        self._to_tell.set()

    async def _tell(self, shard: ShardId, ended: list[int]) -> None:
        try:
            await self._calls.end_reads(shard, ended)
        except PeerLost:
            return  # with the connection all leases have ended


def _assembled(
    runs: Sequence[PlannedRun], parts: Sequence[RunPart], found: Sequence[bytes], offset: int, size: int
) -> bytes:
    """``size`` bytes of a file at ``offset``, out of the parts that were read; what no run has is zeros."""
    pieces: list[bytes | memoryview] = []
    at = offset
    for planned, part, data in zip(runs, parts, found, strict=True):
        low, high = max(planned.at, offset), min(planned.at + planned.size, offset + size)
        if low > at:
            pieces.append(bytes(low - at))
        first = planned.skip + low - planned.at - part.low
        whole = first == 0 and high - low == len(data)
        pieces.append(data if whole else memoryview(data)[first : first + high - low])
        at = high
    if at < offset + size:
        pieces.append(bytes(offset + size - at))
    return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)
