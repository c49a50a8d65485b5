"""What a shard tells front-ends that read the disks themselves: where the bytes of a file are, and how long they stay
there (docs/decisions/0021).

A plan is a read in the fence until the front-end has ended it, for LEASE_SECONDS at the most. Leases are not what keeps
strange bytes from being given out, the checksums in the plan are: so they may end early.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import trio

from siltstone.core.ledger import Ledger
from siltstone.core.readings import Reading, Readings
from siltstone.core.reclaim import ReadFence
from siltstone.core.volume import READ_BYTES_MAX, Volume
from siltstone.engine.direct import UnitRun
from siltstone.limits import KIB, MIB
from siltstone.meta import extents, inodes
from siltstone.meta.records import Extent, Place
from siltstone.ports import Clock
from siltstone.types import Ino, ShardId, StripeId

LEASE_SECONDS = 2.0

LEASES_MAX = 4096
"""More are not given at a time."""

PLAN_BYTES_MAX = 16 * MIB
"""So far ahead of what is asked for now a plan goes at the most."""

EXTENT_BYTES_MIN = 64 * KIB
"""Shorter extents are read by the shard: what a plan says of one costs as much as a few of its bytes."""


class PlannedRun(msgspec.Struct, frozen=True, array_like=True):
    """``size`` bytes of a file from ``at`` on: those of a run after ``skip`` of it. Names are those of the shard's part
    of the disk."""

    at: int
    size: int
    skip: int
    run: UnitRun


class ReadPlan(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that were asked for; or, where ``lease`` is not 0, where bytes [start, end) of the file are. What no run
    has of them is zeros."""

    data: bytes
    shard: ShardId = ShardId(0)
    lease: int = 0
    start: int = 0
    end: int = 0
    is_to_end: bool = False
    """Whether the file ends there."""
    runs: list[PlannedRun] = []


class _Lease(NamedTuple):
    client: object
    era: int
    until_ns: int


class Leases:
    """The leases that a shard has given, in the order of their ends."""

    def __init__(self, fence: ReadFence, clock: Clock) -> None:
        self._fence = fence
        self._clock = clock
        self._held: dict[int, _Lease] = {}
        self._last = 0
        self._granted = trio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def grant(self, client: object) -> int:
        """A lease for a front-end, from now on; its number."""
        until_ns = self._clock.monotonic_ns() + round(LEASE_SECONDS * 1e9)
        self._last += 1
        self._held[self._last] = _Lease(client, self._fence.enter(leased=True), until_ns)
        self._granted.set()
        return self._last

    def end(self, client: object, numbers: Iterable[int]) -> None:
        """A front-end has done with some of its leases. Those that have ended already, or are others', are left."""
        for number in numbers:
            lease = self._held.get(number)
            if lease is not None and lease.client == client:
                self._end(number)

    def end_of(self, client: object) -> None:
        """A front-end is gone."""
        self.end(client, list(self._held))

    def end_all(self) -> None:
        """Somebody needs the room."""
        for number in list(self._held):
            self._end(number)

    async def run(self) -> None:
        """End leases whose time is over, for ever."""
        while True:
            if not self._held:
                self._granted = trio.Event()
                await self._granted.wait()
            await self._clock.sleep(LEASE_SECONDS / 8)
            now_ns = self._clock.monotonic_ns()
            for number in [number for number, lease in self._held.items() if lease.until_ns <= now_ns]:
                self._end(number)

    def _end(self, number: int) -> None:
        self._fence.leave(self._held.pop(number).era, leased=True)


class ReadPlans:
    """The side of the shard."""

    def __init__(self, volume: Volume, shard: ShardId, readings: Readings) -> None:
        self._volume = volume
        self._readings = readings
        self._ledger: Ledger = volume.ledger
        self._shard = shard
        self.leases = Leases(self._ledger.fence, self._ledger.clock)

    async def run(self) -> None:
        """End all leases whenever somebody needs room, for ever."""
        while True:
            await self._ledger.reclaimer.hurried.wait()
            self.leases.end_all()

    async def plan_read(
        self,
        ino: Ino,
        offset: int,
        size: int,
        ahead: int,
        reading: Reading | None = None,
        *,
        origin: object = None,
    ) -> ReadPlan:
        """Up to ``size`` bytes at ``offset``, or where they are, and up to ``ahead`` bytes from there on. Raises as
        Volume.read. ``reading``: of which opening of an object; raises ObjectChanged."""
        if reading is not None:
            self._readings.check(ino, reading)
        if self._volume.rates.limits(ino):
            return ReadPlan(await self._volume.read(ino, offset, size))
        plan = self._plan(ino, offset, size, ahead, origin)
        return ReadPlan(await self.read_object(ino, offset, size, reading)) if plan is None else plan

    async def read_object(self, ino: Ino, offset: int, size: int, reading: Reading | None) -> bytes:
        """The same bytes from here."""
        data = await self._volume.read(ino, offset, size)
        if reading is not None:
            self._readings.check(ino, reading)
        return data

    def _plan(self, ino: Ino, offset: int, size: int, ahead: int, client: object) -> ReadPlan | None:
        """Plain: what is looked up is of one moment, and leased in the same turn."""
        if ino in self._volume.write_back.files or self._ledger.waiting_for_room or len(self.leases) >= LEASES_MAX:
            return None
        inode = inodes.get_inode(self._ledger.store, ino)
        size = min(size, READ_BYTES_MAX, inode.size - offset)
        if offset < 0 or size < EXTENT_BYTES_MIN or not inode.is_file:
            return None
        runs: list[PlannedRun] = []
        end = self._add_runs(runs, ino, offset, offset + size)
        if end < offset + size or not runs:
            return None
        ahead = min(ahead, PLAN_BYTES_MAX, inode.size - offset)
        if ahead > size:
            end = self._add_runs(runs, ino, end, offset + ahead)
        return ReadPlan(b"", self._shard, self.leases.grant(client), offset, end, end == inode.size, runs)

    def _add_runs(self, runs: list[PlannedRun], ino: Ino, start: int, end: int) -> int:
        """Add the runs that have a range of a file; how far that goes before there is something else."""
        for at, extent in extents.find(self._ledger.store, ino, start, end):
            low, high = max(at, start), min(at + extent.length, end)
            found = self._runs_of(extent, low, low - at, high - low)
            if found is None:
                return low
            runs += found
        return end

    def _runs_of(self, extent: Extent, at: int, offset: int, size: int) -> list[PlannedRun] | None:
        if extent.place != Place.STRIPE or extent.length < EXTENT_BYTES_MIN:
            return None
        stripe_id = StripeId(extent.address)
        info = self._ledger.stripe_info(stripe_id)
        placed = self._ledger.stripes.runs(
            info.slab, stripe_id, info.stripe, info.checksums, extent.skip + offset, size
        )
        if placed is None:
            return None
        found: list[PlannedRun] = []
        for run, skip, length in placed:
            found.append(PlannedRun(at, length, skip, run))
            at += length
        return found
