"""Which snapshots lead to the present state, which are not needed any more, and when a new one is due. Pure.

A *base* is where a restore may begin: a full snapshot, or the empty volume at LSN 0. From it increments lead on
without a gap; where they end the log must go on. Two bases are kept, so that the newest may be rotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from siltstone.engine.format.snapshot import SnapshotKind
from siltstone.engine.snapshot.copies import Snapshot
from siltstone.types import Lsn

INCREMENTS_MAX = 64
"""More increments since the last full snapshot make another due, however short they are."""

GROWTH_SHARE = 2
"""A full snapshot is due when increments since the last one are longer than one part in so many of it."""


OVERDUE_PERCENT = 50
"""While a full snapshot is taken increments may get so much longer, or more, than what made it due: room is held back
for that, and to keep to it the snapshot takes less and less rest."""


class Base(NamedTuple):
    """A place where a restore may begin, and how far increments lead from there. The empty volume has no ``full``."""

    start: Lsn
    full: Snapshot | None
    covered: Lsn


class SnapshotPlan(NamedTuple):
    """``bases``: those that the log goes on from, newest first, two at the most. What is before ``covered`` the log
    need not hold. ``droppable``: nobody needs them, if ``bases`` can be read."""

    bases: tuple[Base, ...]
    covered: Lsn
    droppable: tuple[Snapshot, ...]
    increments: tuple[Snapshot, ...]
    """Since the newest base."""

    def is_full_due(self, bytes_min: int) -> bool:
        """Whether a full snapshot should be taken."""
        if not self.bases:
            return True
        newest = self.bases[0]
        if newest.full is not None and len(self.bases) == 1:
            return True
        size = 0 if newest.full is None else newest.full.size
        grown = sum(increment.size for increment in self.increments)
        return grown > increment_bytes_max(size, bytes_min) or len(self.increments) > INCREMENTS_MAX

    def rest_share(self, bytes_min: int) -> float:
        """What part of its rests a full snapshot that is being taken may have: all (1) as long as increments are no
        more than makes it due, none (0) when they are OVERDUE_PERCENT more."""
        newest = self.bases[0].full if self.bases else None
        bytes_max = increment_bytes_max(0 if newest is None else newest.size, bytes_min)
        grown = sum(increment.size for increment in self.increments) / bytes_max
        over = max(grown, len(self.increments) / INCREMENTS_MAX) - 1
        return min(1.0, max(0.0, 1 - over * 100 / OVERDUE_PERCENT))


def increment_bytes_max(full_bytes: int, bytes_min: int) -> int:
    """How long increments since a full snapshot of ``full_bytes`` may get before another is due."""
    return max(bytes_min, full_bytes // GROWTH_SHARE)


def bases_of(usable: Iterable[Snapshot]) -> list[Base]:
    """All bases, newest first."""
    snapshots = list(usable)
    increments = sorted(
        (snapshot for snapshot in snapshots if snapshot.name.kind is SnapshotKind.INCREMENT),
        key=lambda increment: (increment.name.start, increment.name.end),
    )
    fulls = [snapshot for snapshot in snapshots if snapshot.name.kind is SnapshotKind.FULL]
    fulls.sort(key=lambda full: (full.name.start, full.name.end), reverse=True)
    return [
        *(Base(full.name.start, full, _covered(full.name.start, increments)) for full in fulls),
        Base(Lsn(0), None, _covered(Lsn(0), increments)),
    ]


def chain_of(usable: Iterable[Snapshot], start: Lsn) -> list[Snapshot]:
    """The increments that lead on from ``start``, in order."""
    chain: list[Snapshot] = []
    lsn = start
    increments = [snapshot for snapshot in usable if snapshot.name.kind is SnapshotKind.INCREMENT]
    for increment in sorted(increments, key=lambda increment: (increment.name.start, increment.name.end)):
        if increment.name.start <= lsn < increment.name.end:
            chain.append(increment)
            lsn = increment.name.end
    return chain


def plan_snapshots(
    snapshots: Sequence[Snapshot], usable: Sequence[Snapshot], log_start: Lsn, kept_from: Lsn | None = None
) -> SnapshotPlan:
    """``usable``: those of the snapshots that are on enough disks and not rotten. ``log_start``: the log has everything
    from there on. ``kept_from``: increments that end behind this are kept in any case."""
    connected = [base for base in bases_of(usable) if base.covered >= log_start][:2]
    if not connected:
        return SnapshotPlan((), Lsn(0), (), ())
    newest, oldest = connected[0], connected[-1]
    increments = tuple(
        snapshot
        for snapshot in usable
        if snapshot.name.kind is SnapshotKind.INCREMENT and snapshot.name.end > newest.start
    )
    return SnapshotPlan(
        bases=tuple(connected),
        # What the older one needs is enough for the newer.
        covered=oldest.covered,
        droppable=tuple(
            snapshot
            for snapshot in snapshots
            if _is_droppable(snapshot, connected, usable)
            and (kept_from is None or not _is_sound_increment(snapshot) or snapshot.name.end <= kept_from)
        ),
        increments=increments,
    )


def _is_sound_increment(snapshot: Snapshot) -> bool:
    return snapshot.name.kind is SnapshotKind.INCREMENT and not snapshot.is_rotten


def kept_since(increments: Iterable[Snapshot], *, created_ns: int, bytes_max: int) -> Lsn | None:
    """Where the newest increments begin that were made since a time and are no longer than that together; None if there
    are none."""
    start: Lsn | None = None
    size = 0
    for increment in sorted(increments, key=lambda item: item.name.end, reverse=True):
        size += increment.size
        if increment.created_ns < created_ns or size > bytes_max:
            break
        start = increment.name.start
    return start


def _is_droppable(snapshot: Snapshot, bases: Sequence[Base], usable: Sequence[Snapshot]) -> bool:
    oldest = bases[-1]
    if snapshot.name.kind is SnapshotKind.INCREMENT:
        return snapshot.name.end <= oldest.start
    if any(base.full is snapshot for base in bases):
        return False
    # One on too few disks may be of use when others return, unless it is older than what is kept; one that rots is not.
    return snapshot.name.start <= oldest.start or snapshot.is_rotten or snapshot in usable


def _covered(start: Lsn, increments: Sequence[Snapshot]) -> Lsn:
    chain = chain_of(increments, start)
    return chain[-1].name.end if chain else start
