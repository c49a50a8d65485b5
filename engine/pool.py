"""The disks of a volume: which are up, why the others are not, and which to take for something new.

Whoever sees a disk fail reports it here; a watcher probes every disk each second. State changes follow the table
NEXT_STATE and are told to subscribers at once, inside the call that found out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import trio

from siltstone.errors import DiskError, DiskFull, DiskMissing, FileMissing
from siltstone.ports import Clock, Disk, DiskSpace, Fanout, Random
from siltstone.types import Buffer, DiskId

PROBE_SECONDS = 1.0

ERRORS_MAX = 3
"""So many errors condemn a disk; every sound probe forgives one, so a rare unreadable sector does not."""

PROBATION_PROBES = 10
"""A failed disk is taken back after so many sound probes in a row, each with a durable write."""

PROBATION_NAME = "probation"
"""The file that those writes go to."""

TIE_SHARES = 64
"""Free space that differs by less than this share of a disk counts as equal, so that not all new files go to one disk
whose neighbours are a few bytes fuller."""


class DiskState(enum.Enum):
    """Where a disk stands."""

    UP = "up"
    MISSING = "missing"
    FAILED = "failed"


class DiskEvent(enum.Enum):
    """What happens to a disk."""

    VANISHED = "an operation or a probe raised DiskMissing"
    BROKE = "too many errors"
    FOUND = "a probe found it again"
    PROVED = "it stood its probation"


NEXT_STATE: dict[tuple[DiskState, DiskEvent], DiskState] = {
    (DiskState.UP, DiskEvent.VANISHED): DiskState.MISSING,
    (DiskState.UP, DiskEvent.BROKE): DiskState.FAILED,
    (DiskState.MISSING, DiskEvent.FOUND): DiskState.UP,
    (DiskState.FAILED, DiskEvent.VANISHED): DiskState.MISSING,
    (DiskState.FAILED, DiskEvent.PROVED): DiskState.UP,
}
"""States x events. What is not listed changes nothing."""


class DiskStatus(NamedTuple):
    """A disk as ``status`` shows it. ``reason`` is empty while it is up; ``space`` is as last probed, None before."""

    disk_id: DiskId
    state: DiskState
    reason: str
    space: DiskSpace | None
    errors: int
    """All errors reported, FileMissing and DiskFull left out."""
    mismatches: int
    """How often it returned bytes that did not match their checksum, without an error."""


class _Member:
    """A disk and what is known of it."""

    __slots__ = ("disk", "errors", "mismatches", "probes_passed", "reason", "space", "state", "weight")

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.state = DiskState.UP
        self.reason = ""
        self.space: DiskSpace | None = None
        self.errors = 0
        self.mismatches = 0
        self.weight = 0
        self.probes_passed = 0


class Pool:
    """The disks of a volume. They count as up until something else is seen; ``probe`` before relying on it."""

    def __init__(self, disks: Sequence[Disk], fanout: Fanout, random: Random) -> None:
        self._members = {disk.disk_id: _Member(disk) for disk in disks}
        assert len(self._members) == len(disks), "two disks have one id"
        self._fanout = fanout
        self._random = random
        self._subscribers: list[Callable[[DiskId, bool], None]] = []

    @property
    def fanout(self) -> Fanout:
        """For operations on several disks at once."""
        return self._fanout

    def disk(self, disk_id: DiskId) -> Disk:
        """A disk that is up; raises DiskMissing for one that is not, or that the pool never had."""
        member = self._members.get(disk_id)
        if member is None:
            raise DiskMissing(disk_id, "use", "disk", "it is not in this pool")
        if member.state is not DiskState.UP:
            raise DiskMissing(disk_id, "use", "disk", member.reason)
        return member.disk

    def is_up(self, disk_id: DiskId) -> bool:
        """Whether a disk may be used."""
        member = self._members.get(disk_id)
        return member is not None and member.state is DiskState.UP

    def up(self) -> list[DiskId]:
        """The disks that may be used, in order."""
        return sorted(disk_id for disk_id, member in self._members.items() if member.state is DiskState.UP)

    def status(self) -> list[DiskStatus]:
        """Every disk, in order."""
        return [
            DiskStatus(disk_id, member.state, member.reason, member.space, member.errors, member.mismatches)
            for disk_id, member in sorted(self._members.items())
        ]

    def choose(self, count: int, exclude: Collection[DiskId] = ()) -> list[DiskId]:
        """Up to ``count`` disks that are up, most free space first (as last probed), ties by random."""
        candidates = [disk_id for disk_id in self.up() if disk_id not in exclude]
        shuffled = [candidates.pop(self._random.below(len(candidates))) for _ in range(len(candidates))]
        shuffled.sort(key=lambda disk_id: -_free_steps(self._members[disk_id].space))
        return shuffled[:count]

    def subscribe(self, callback: Callable[[DiskId, bool], None]) -> None:
        """``callback(disk_id, is_up)`` after each change; it must neither block nor raise."""
        self._subscribers.append(callback)

    def report(self, error: DiskError) -> None:
        """Take note of a failure. A missing file or a full disk says nothing against the disk.

        Of a disk that is not up only probes are believed: what ``disk`` raises for it may be reported, too.
        """
        member = self._members.get(error.disk_id)
        if member is not None and member.state is DiskState.UP:
            self._note(member, error)

    def report_mismatch(self, disk_id: DiskId) -> None:
        """Take note of bytes that a disk returned without an error and that do not match their checksum."""
        member = self._members.get(disk_id)
        if member is not None:
            member.mismatches += 1

    def _note(self, member: _Member, error: DiskError) -> None:
        if isinstance(error, FileMissing | DiskFull):
            return
        member.probes_passed = 0
        if isinstance(error, DiskMissing):
            self._enter(member, DiskEvent.VANISHED, str(error))
            return
        member.errors += 1
        member.weight = min(member.weight + 1, ERRORS_MAX)
        if member.weight == ERRORS_MAX:
            self._enter(member, DiskEvent.BROKE, str(error))

    async def probe(self) -> None:
        """Look at every disk once, side by side: after it, states and free space are fresh."""
        async with trio.open_nursery() as nursery:
            for member in self._members.values():
                nursery.start_soon(self._probe, member)

    async def restore_superblock(self, disk_id: DiskId, data: Buffer, witnesses: Sequence[str]) -> bool:
        """Write the superblock of a disk, up or not, if there is none that is sound; whether that was so.

        ``witnesses``: files that tell that the right directory is there (Disk.restore_superblock). Raises DiskError.
        """
        member = self._members[disk_id]
        was_written = await member.disk.restore_superblock(data, witnesses)
        if was_written:
            await self._probe(member)
        return was_written

    async def watch(self, clock: Clock) -> None:
        """Probe for ever. A disk that hangs holds up nobody but itself."""
        async with trio.open_nursery() as nursery:
            for member in self._members.values():
                nursery.start_soon(self._watch, member, clock)

    async def _watch(self, member: _Member, clock: Clock) -> None:
        while True:
            await self._probe(member)
            await clock.sleep(PROBE_SECONDS)

    async def _probe(self, member: _Member) -> None:
        try:
            await member.disk.probe()
            if member.state is DiskState.FAILED:
                await self._try_write(member.disk)
            space = await member.disk.space()
        except DiskError as error:
            self._note(member, error)
            return
        member.space = space
        member.weight = max(0, member.weight - 1)
        if member.state is DiskState.FAILED:
            member.probes_passed += 1
            if member.probes_passed >= PROBATION_PROBES:
                self._enter(member, DiskEvent.PROVED, "")
        else:
            self._enter(member, DiskEvent.FOUND, "")

    async def _try_write(self, disk: Disk) -> None:
        try:
            await disk.replace(PROBATION_NAME, self._random.bytes(16))
        except DiskFull:
            return  # it answers; that it is full is no fault

    def _enter(self, member: _Member, event: DiskEvent, reason: str) -> None:
        state = NEXT_STATE.get((member.state, event))
        if state is None:
            return
        was_up = member.state is DiskState.UP
        member.state = state
        member.reason = reason
        member.probes_passed = 0
        if state is DiskState.UP:
            member.weight = 0
        if was_up != (state is DiskState.UP):
            for callback in list(self._subscribers):
                callback(member.disk.disk_id, state is DiskState.UP)


def _free_steps(space: DiskSpace | None) -> int:
    """Free space in coarse steps, within which disks count as equally free."""
    if space is None or space.total_bytes <= 0:
        return 0
    return space.free_bytes // max(1, space.total_bytes // TIE_SHARES)
