"""A segment of the log in memory, and the table of its life.

A segment is the file that holds log positions [start, end) on each of its disks. Frames go only into the OPEN one. When
it is full, a disk of it fails, or somebody asks, it is SEALING: it takes no more, but its end is a fact only when the
next segment, which starts there, is durable. Then it is SEALED, and at last RETIRED when nobody needs what is in it. A
segment in which nothing was acknowledged is void: the next one starts where it did, and it is retired at once.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import trio

from siltstone.engine.format.segment import SEGMENT_HEADER_BYTES, segment_name
from siltstone.types import DiskId, Lsn


class SegmentState(enum.Enum):
    """Where a segment is in its life."""

    OPEN = "open"
    SEALING = "sealing"
    SEALED = "sealed"
    RETIRED = "retired"


class SegmentEvent(enum.Enum):
    """What happens to a segment."""

    CLOSE = "close"
    SUCCEED = "succeed"
    VOID = "void"
    RETIRE = "retire"


TRANSITIONS: dict[tuple[SegmentState, SegmentEvent], SegmentState] = {
    (SegmentState.OPEN, SegmentEvent.CLOSE): SegmentState.SEALING,
    (SegmentState.SEALING, SegmentEvent.CLOSE): SegmentState.SEALING,
    (SegmentState.SEALING, SegmentEvent.SUCCEED): SegmentState.SEALED,
    (SegmentState.SEALING, SegmentEvent.VOID): SegmentState.RETIRED,
    (SegmentState.SEALED, SegmentEvent.RETIRE): SegmentState.RETIRED,
}


class SegmentStatus(NamedTuple):
    """A segment as others see it. ``end`` of one that is not sealed is how far it is durable now."""

    start: Lsn
    end: Lsn
    sealed: bool
    disks: tuple[DiskId, ...]
    epoch: int


class Segment:
    """One segment. ``disks`` are those whose replica is known to hold all that was acknowledged in it.

    ``is_written``: its files were written all over before, so that what goes in is durable fast. ``was_punched``: they
    may have holes, and are no good for another segment. ``is_trimmed``: its unused tail was given back, if large.
    """

    def __init__(self, *, start: Lsn, end: Lsn, epoch: int, disks: list[DiskId], segment_bytes: int) -> None:
        assert start <= end
        assert segment_bytes > SEGMENT_HEADER_BYTES
        self.start = start
        self.end = end
        self.epoch = epoch
        self.disks = disks
        self.segment_bytes = segment_bytes
        self.name = segment_name(start, epoch)
        self.state = SegmentState.OPEN
        self.marked_lsn = start
        self.was_punched = False
        self.is_trimmed = False
        self.is_written = True
        self._readers = 0
        self._unread = trio.Event()

    def __enter__(self) -> None:
        """Keep the file from being recycled while the body of the ``with`` reads it."""
        self._readers += 1

    def __exit__(self, *_error: object) -> None:
        self._readers -= 1
        if not self._readers:
            self._unread.set()

    async def wait_unread(self) -> None:
        """Return when nobody reads the file."""
        while self._readers:
            self._unread = trio.Event()
            await self._unread.wait()

    def happen(self, event: SegmentEvent) -> None:
        """Take one step of the table; a step that is not in it is a bug."""
        assert (self.state, event) in TRANSITIONS, f"{self.name}: {event.value} while {self.state.value}"
        self.state = TRANSITIONS[self.state, event]

    @property
    def limit(self) -> Lsn:
        """The LSN that the file has no more room for."""
        return Lsn(self.start + self.segment_bytes - SEGMENT_HEADER_BYTES)

    @property
    def file_bytes(self) -> int:
        """What each of its files takes on a disk."""
        return self.offset_of(self.end) if self.was_punched else self.segment_bytes

    @property
    def is_sealed(self) -> bool:
        """Whether the end is final."""
        return self.state is SegmentState.SEALED

    def offset_of(self, lsn: Lsn) -> int:
        """Where a log position is in the file."""
        assert self.start <= lsn <= self.limit
        return SEGMENT_HEADER_BYTES + lsn - self.start

    def status(self) -> SegmentStatus:
        """A frozen picture."""
        return SegmentStatus(self.start, self.end, self.is_sealed, tuple(self.disks), self.epoch)
