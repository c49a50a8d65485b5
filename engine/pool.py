"""The disks of a volume: which are up, why the others are not, and which to take for something new.

Whoever sees a disk fail reports it here; a watcher probes every disk each second. A disk's health follows the table
NEXT_HEALTH; its role is given by whoever runs the volume. Changes are told to subscribers at once, inside the call that
found out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import trio

from siltstone.engine.pace import Pace
from siltstone.errors import DiskError, DiskFull, DiskHung, DiskMissing, FileMissing
from siltstone.ports import Clock, Disk, DiskPunch, DiskSpace, DiskWrite, Fanout, Lane, Random
from siltstone.types import Buffer, DiskId

PROBE_SECONDS = 1.0

ERRORS_MAX = 3
"""So many errors condemn a disk; every sound probe forgives one, so a rare unreadable sector does not."""

PROBATION_PROBES = 10
"""A failed disk, one that hung included, is taken back after so many sound probes in a row, each with a durable
write."""

PROBATION_NAME = "probation"
"""The file that those writes go to."""

TIE_SHARES = 64
"""Free space that differs by less than this share of a disk counts as equal, so that not all new files go to one disk
whose neighbours are a few bytes fuller."""


class DiskState(enum.Enum):
    """Where a disk stands, as people see it: its health, and while that is fine its role."""

    UP = "up"
    NEW = "new"
    DRAINING = "draining"
    SUSPECT = "suspect"
    FAILED = "failed"
    MISSING = "missing"


class Health(enum.Enum):
    """What is known of a disk from its answers."""

    SOUND = "sound"
    SUSPECT = "suspect"
    """It erred lately: new data goes to others first."""
    FAILED = "failed"
    MISSING = "missing"


class DiskRole(enum.Enum):
    """What a disk is to the volume."""

    MEMBER = "member"
    NEW = "new"
    """A member that has less than its share: it takes new data first, and gets more from the others."""
    DRAINING = "draining"
    """Its data is moved to others; nothing new goes there."""
    LOST = "lost"
    """Said to be gone for good: it is not used, even if it is there."""


class DiskEvent(enum.Enum):
    """What happens to a disk."""

    ERRED = "an operation failed, or bytes did not match their checksum"
    VANISHED = "an operation or a probe raised DiskMissing"
    BROKE = "too many errors"
    HUNG = "it gave no answer within its time limit"
    FOUND = "a probe found it again"
    CALMED = "sound probes have made up for its errors"
    PROVED = "it stood its probation"


NEXT_HEALTH: dict[tuple[Health, DiskEvent], Health] = {
    (Health.SOUND, DiskEvent.ERRED): Health.SUSPECT,
    (Health.SOUND, DiskEvent.VANISHED): Health.MISSING,
    (Health.SOUND, DiskEvent.HUNG): Health.FAILED,
    (Health.SUSPECT, DiskEvent.VANISHED): Health.MISSING,
    (Health.SUSPECT, DiskEvent.HUNG): Health.FAILED,
    (Health.SUSPECT, DiskEvent.BROKE): Health.FAILED,
    (Health.SUSPECT, DiskEvent.CALMED): Health.SOUND,
    (Health.MISSING, DiskEvent.FOUND): Health.SOUND,
    (Health.MISSING, DiskEvent.HUNG): Health.FAILED,
    (Health.FAILED, DiskEvent.VANISHED): Health.MISSING,
    (Health.FAILED, DiskEvent.PROVED): Health.SOUND,
}
"""Health x events. What is not listed changes nothing."""

_STATE_BY_HEALTH = {
    Health.SUSPECT: DiskState.SUSPECT,
    Health.FAILED: DiskState.FAILED,
    Health.MISSING: DiskState.MISSING,
}
_STATE_BY_ROLE = {
    DiskRole.MEMBER: DiskState.UP,
    DiskRole.NEW: DiskState.NEW,
    DiskRole.DRAINING: DiskState.DRAINING,
    DiskRole.LOST: DiskState.FAILED,
}


class DiskStatus(NamedTuple):
    """A disk as ``status`` shows it. ``reason`` is empty while it is well; ``space`` is as last probed, None before."""

    disk_id: DiskId
    state: DiskState
    role: DiskRole
    reason: str
    since_ns: int
    """When it came into this state, by the wall clock."""
    space: DiskSpace | None
    errors: int
    """All errors reported, FileMissing and DiskFull left out."""
    mismatches: int
    """How often it returned bytes that did not match their checksum, without an error."""
    taken_bytes: int
    """What was taken of its room since that was probed."""


class _Member:
    """A disk and what is known of it."""

    __slots__ = (
        "disk",
        "errors",
        "health",
        "is_watched",
        "mismatches",
        "probes_passed",
        "reason",
        "role",
        "since_ns",
        "space",
        "taken_bytes",
        "weight",
    )

    def __init__(self, disk: Disk, role: DiskRole, now_ns: int) -> None:
        self.disk = disk
        self.health = Health.SOUND
        self.role = role
        self.reason = ""
        self.since_ns = now_ns
        self.space: DiskSpace | None = None
        self.taken_bytes = 0
        self.errors = 0
        self.mismatches = 0
        self.weight = 0
        self.probes_passed = 0
        self.is_watched = False

    @property
    def is_up(self) -> bool:
        """Whether it may be read and written."""
        return self.health in (Health.SOUND, Health.SUSPECT) and self.role is not DiskRole.LOST

    @property
    def is_staying(self) -> bool:
        """Whether what it holds counts in future."""
        return self.is_up and self.role is not DiskRole.DRAINING

    @property
    def state(self) -> DiskState:
        """Health and role in one word."""
        if self.role is DiskRole.LOST:
            return DiskState.FAILED
        return _STATE_BY_HEALTH.get(self.health) or _STATE_BY_ROLE[self.role]


class Pool:
    """The disks of a volume. They count as up until something else is seen; ``probe`` before relying on it.

    ``roles``: those that are not plain members. ``tries_writes``: whether a disk that failed must also take a write
    before it is taken back; not where disks are only read.
    """

    def __init__(
        self,
        disks: Sequence[Disk],
        fanout: Fanout,
        random: Random,
        clock: Clock,
        roles: Mapping[DiskId, DiskRole] | None = None,
        *,
        tries_writes: bool = True,
    ) -> None:
        given = roles or {}
        self._tries_writes = tries_writes
        now_ns = clock.now_ns()
        self._members = {
            disk.disk_id: _Member(disk, given.get(disk.disk_id, DiskRole.MEMBER), now_ns) for disk in disks
        }
        assert len(self._members) == len(disks), "two disks have one id"
        self._fanout = fanout
        self._random = random
        self._clock = clock
        self.pace = Pace(clock)
        """How fast the disks answer reads."""
        self._subscribers: list[Callable[[DiskId, bool], None]] = []
        self._members_changed = trio.Event()

    @property
    def fanout(self) -> Fanout:
        """For operations on several disks at once."""
        return self._fanout

    def disk(self, disk_id: DiskId) -> Disk:
        """A disk that is up; raises DiskMissing for one that is not, or that the pool never had."""
        member = self._members.get(disk_id)
        if member is None:
            raise DiskMissing(disk_id, "use", "disk", "it is not in this pool")
        if not member.is_up:
            raise DiskMissing(disk_id, "use", "disk", member.reason)
        return member.disk

    def is_up(self, disk_id: DiskId) -> bool:
        """Whether a disk may be read and written."""
        member = self._members.get(disk_id)
        return member is not None and member.is_up

    def is_placeable(self, disk_id: DiskId) -> bool:
        """Whether new data may go to a disk, and what it holds counts as a copy that stays."""
        member = self._members.get(disk_id)
        return member is not None and member.is_staying

    def up(self) -> list[DiskId]:
        """The disks that may be used, in order."""
        return sorted(disk_id for disk_id, member in self._members.items() if member.is_up)

    def placeable(self) -> list[DiskId]:
        """The disks that new data may go to, in order."""
        return sorted(disk_id for disk_id, member in self._members.items() if member.is_staying)

    def status(self) -> list[DiskStatus]:
        """Every disk, in order."""
        return [self.status_of(disk_id) for disk_id in sorted(self._members)]

    def status_of(self, disk_id: DiskId) -> DiskStatus:
        """One disk, which must be in the pool."""
        member = self._members[disk_id]
        return DiskStatus(
            disk_id,
            member.state,
            member.role,
            member.reason,
            member.since_ns,
            member.space,
            member.errors,
            member.mismatches,
            member.taken_bytes,
        )

    def choose(self, count: int, exclude: Collection[DiskId] = ()) -> list[DiskId]:
        """Up to ``count`` disks that new data may go to: those beyond suspicion first, new ones before others, then
        most free space (as last probed, less what was taken since), ties by random."""
        candidates = [disk_id for disk_id in self.placeable() if disk_id not in exclude]
        shuffled = [candidates.pop(self._random.below(len(candidates))) for _ in range(len(candidates))]
        shuffled.sort(key=lambda disk_id: _preference(self._members[disk_id]))
        return shuffled[:count]

    # --- who belongs to it ----------------------------------------------------------------------------------------

    def add(self, disk: Disk, role: DiskRole = DiskRole.NEW) -> None:
        """Take a disk in, under an id that the pool never had."""
        assert disk.disk_id not in self._members
        self._members[disk.disk_id] = _Member(disk, role, self._clock.now_ns())
        self._members_changed.set()
        self._tell(disk.disk_id)

    def set_role(self, disk_id: DiskId, role: DiskRole) -> None:
        """Let a disk be something else to the volume from now on."""
        member = self._members[disk_id]
        if member.role is role:
            return
        member.role = role
        member.since_ns = self._clock.now_ns()
        if role is DiskRole.LOST:
            member.reason = "declared lost"
        elif member.health is Health.SOUND:
            member.reason = ""
        self._tell(disk_id)

    def remove(self, disk_id: DiskId) -> Disk:
        """Let go of a disk that holds nothing any more; the caller closes it."""
        member = self._members.pop(disk_id)
        self._tell(disk_id)
        return member.disk

    # --- what happens to them -------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[DiskId, bool], None]) -> None:
        """``callback(disk_id, is_up)`` after each change of what a disk may be used for; it must neither block nor
        raise."""
        self._subscribers.append(callback)

    def report(self, error: DiskError) -> None:
        """Take note of a failure. A missing file or a full disk says nothing against the disk.

        Of a disk that is not up only probes are believed: what ``disk`` raises for it may be reported, too.
        """
        member = self._members.get(error.disk_id)
        if member is not None and member.is_up:
            self._note(member, error)

    def report_mismatch(self, disk_id: DiskId) -> None:
        """Take note of bytes that a disk returned without an error and that do not match their checksum."""
        member = self._members.get(disk_id)
        if member is not None:
            member.mismatches += 1
            if member.is_up:
                # It rots, but it answers: what it returns is checked, so no number of these condemns it.
                member.weight = max(member.weight, 1)
                self._enter(member, DiskEvent.ERRED, f"{member.mismatches} blocks did not match their checksums")

    def _note(self, member: _Member, error: DiskError) -> None:
        if isinstance(error, FileMissing | DiskFull):
            return
        member.probes_passed = 0
        if isinstance(error, DiskHung):
            # Not merely missing: one that hangs again and again must not be waited for each time it answers once.
            member.errors += member.is_up  # probes go on meeting the same silence
            self._enter(member, DiskEvent.HUNG, str(error))
            return
        if isinstance(error, DiskMissing):
            self._enter(member, DiskEvent.VANISHED, str(error))
            return
        member.errors += 1
        member.weight = min(member.weight + 1, ERRORS_MAX)
        self._enter(member, DiskEvent.ERRED, str(error))
        if member.weight == ERRORS_MAX:
            self._enter(member, DiskEvent.BROKE, str(error))

    def note_taken(self, disk_id: DiskId, size: int) -> None:
        """Take note that a new file, or new blocks of one, take room, which is probed only now and then; or (a negative
        size) that they do not, or no more."""
        member = self._members.get(disk_id)
        if member is not None:
            member.taken_bytes += size

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane = Lane.BACKGROUND) -> list[DiskError | None]:
        """Write and flush each, and take note of what fails; in order, None or the error. Cannot be cut short."""
        if not writes:
            return []
        with trio.CancelScope(shield=True):
            errors = await self._fanout.write_durable(writes, lane)
        self._report_all(errors)
        return errors

    async def punch(self, punches: Sequence[DiskPunch]) -> list[DiskError | None]:
        """Give back the room of places in files, and take note of what fails; in order, None or the error. Cannot be
        cut short."""
        with trio.CancelScope(shield=True):
            errors = await self._fanout.punch(punches)
        self._report_all(errors)
        return errors

    def _report_all(self, errors: Iterable[DiskError | None]) -> None:
        for error in errors:
            if error is not None:
                self.report(error)

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
                member.is_watched = False  # whoever watched before has stopped
            while True:
                self._members_changed = trio.Event()
                for member in self._members.values():
                    if not member.is_watched:
                        member.is_watched = True
                        nursery.start_soon(self._watch, member, clock)
                await self._members_changed.wait()

    async def _watch(self, member: _Member, clock: Clock) -> None:
        while self._members.get(member.disk.disk_id) is member:
            await self._probe(member)
            await clock.sleep(PROBE_SECONDS)

    async def _probe(self, member: _Member) -> None:
        if member.role is DiskRole.LOST:
            return
        try:
            await member.disk.probe()
            if member.health is Health.FAILED and self._tries_writes:
                await self._try_write(member.disk)
            taken_bytes = member.taken_bytes
            space = await member.disk.space()
        except DiskError as error:
            self._note(member, error)
            return
        member.space = space
        member.taken_bytes -= taken_bytes
        member.weight = max(0, member.weight - 1)
        if member.health is Health.FAILED:
            member.probes_passed += 1
            if member.probes_passed >= PROBATION_PROBES:
                self._enter(member, DiskEvent.PROVED, "")
        elif member.health is Health.MISSING:
            self._enter(member, DiskEvent.FOUND, "")
        elif not member.weight:
            self._enter(member, DiskEvent.CALMED, "")

    async def _try_write(self, disk: Disk) -> None:
        try:
            await disk.replace(PROBATION_NAME, self._random.bytes(16))
        except DiskFull:
            return  # it answers; that it is full is no fault

    def _enter(self, member: _Member, event: DiskEvent, reason: str) -> None:
        health = NEXT_HEALTH.get((member.health, event))
        if health is None:
            return
        was_up = member.is_up
        member.health = health
        member.reason = reason
        member.since_ns = self._clock.now_ns()
        member.probes_passed = 0
        if health is Health.SOUND:
            member.weight = 0
        if was_up != member.is_up:
            self._tell(member.disk.disk_id)

    def _tell(self, disk_id: DiskId) -> None:
        is_up = self.is_up(disk_id)
        for callback in list(self._subscribers):
            callback(disk_id, is_up)


def _preference(member: _Member) -> tuple[bool, bool, int]:
    return (
        member.health is Health.SUSPECT,
        member.role is not DiskRole.NEW,
        -_free_steps(member.space, member.taken_bytes),
    )


def _free_steps(space: DiskSpace | None, taken_bytes: int) -> int:
    """Free space in coarse steps, within which disks count as equally free."""
    if space is None or space.total_bytes <= 0:
        return 0
    return (space.free_bytes - taken_bytes) // max(1, space.total_bytes // TIE_SHARES)
