"""One slab in memory: its record, its free rows, and what may be done with it.

Life of a slab (docs/formats/slab.md): CREATING (its chunk files are being made) -> OPEN (stripes are written to it) ->
RETIRED (empty, its record is being deleted) -> gone. One whose files cannot all be made is gone at once. A slab lost in
a crash between its creation and the batch with its record leaves strays: chunk files that no slab owns.
"""

from __future__ import annotations

import enum
from itertools import groupby
from typing import NamedTuple

from siltstone.engine.stripe.allocate import RowAllocator
from siltstone.engine.stripe.layout import Slab
from siltstone.limits import ROW_BYTES
from siltstone.types import SlabId, StripeId, make_stripe_id


class SlabPhase(enum.Enum):
    """Where a slab is in its life."""

    CREATING = "creating"
    OPEN = "open"
    RETIRED = "retired"


NEXT_PHASES = {
    SlabPhase.CREATING: {SlabPhase.OPEN},
    SlabPhase.OPEN: {SlabPhase.RETIRED},
    SlabPhase.RETIRED: set[SlabPhase](),
}


class Backing(enum.IntEnum):
    """What is known of the disk blocks behind a free row."""

    PRESENT = 0
    PUNCHED = 1
    UNKNOWN = 2
    """Free when the volume was opened: punched before or not, nobody noted it."""


class SlabState:
    """A slab that exists or is coming or going."""

    def __init__(self, slab_id: SlabId, slab: Slab, rows: RowAllocator, phase: SlabPhase, *, is_recorded: bool) -> None:
        self.slab_id = slab_id
        self.slab = slab
        self.rows = rows
        self.phase = phase
        self.is_recorded = is_recorded
        """A batch with the slab's record was committed."""
        self.is_suspect = False
        """A write failed here although the disk answers: other slabs are tried first."""
        self.indexed = 0
        """The largest free run, as it stands in the index of rooms."""
        self._punched_rows = 0
        self._backing = bytearray()  # a Backing for each row; empty as long as all are PRESENT

    def enter(self, phase: SlabPhase) -> None:
        """Move on in the life of the slab."""
        assert phase in NEXT_PHASES[self.phase]
        self.phase = phase

    @property
    def units(self) -> int:
        """Chunk files of the slab."""
        return len(self.slab.disks)

    def set_backing(self, row: int, count: int, backing: Backing) -> None:
        """Note what is behind rows."""
        if not self._backing:
            if backing is Backing.PRESENT:
                return
            self._backing = bytearray(self.rows.rows)
        self._punched_rows -= self._backing.count(Backing.PUNCHED, row, row + count)
        self._punched_rows += count if backing is Backing.PUNCHED else 0
        self._backing[row : row + count] = bytes((backing,)) * count

    def is_backed(self, row: int, count: int) -> bool:
        """Whether writing these rows surely takes no new room on the disks."""
        return not self._backing or self._backing.count(Backing.PRESENT, row, row + count) == count

    @property
    def backed_free_rows(self) -> int:
        """Free rows whose writing takes no new room, as far as is known."""
        return max(0, self.rows.free - self._punched_rows)

    def free_runs(self, backings: set[Backing]) -> list[tuple[int, int]]:
        """The free rows that have one of these backings, as (start, length); PRESENT only where they were used, for
        rows never used are kept for what comes."""
        if not self._backing:
            return self.rows.runs() if Backing.PRESENT in backings else []
        found: list[tuple[int, int]] = []
        for start, length in [*self.rows.runs(), (self.rows.fresh, self.rows.rows - self.rows.fresh)]:
            at = start
            for backing, rows in groupby(self._backing[start : start + length]):
                count = len(list(rows))
                if backing in backings and (at < self.rows.fresh or backing != Backing.PRESENT):
                    found.append((at, count))
                at += count
        return found


class Placement(NamedTuple):
    """Rows that were taken for one stripe."""

    state: SlabState
    row: int
    unit_bytes: int

    @property
    def stripe_id(self) -> StripeId:
        """The id of the stripe to be written there."""
        return make_stripe_id(self.state.slab_id, self.row)

    @property
    def rows(self) -> int:
        """Rows taken in each chunk."""
        return self.unit_bytes // ROW_BYTES
