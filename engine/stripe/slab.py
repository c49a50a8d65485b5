"""One slab in memory: its record, its free rows, and what may be done with it.

Life of a slab (docs/formats/slab.md): CREATING (its chunk files are being made) -> OPEN (stripes are written to it) ->
RETIRED (empty, its record is being deleted) -> gone. One whose files cannot all be made is gone at once. A slab lost in
a crash between its creation and the batch with its record leaves strays: chunk files that no slab owns.
"""

from __future__ import annotations

import enum
from itertools import groupby
from typing import NamedTuple

import trio

from siltstone.engine.stripe.allocate import RowAllocator
from siltstone.engine.stripe.layout import SAME_ROWS, Slab, Stripe, parity_row_of, unit_bytes_for
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId, SlabId, StripeId, make_stripe_id, row_of


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


class Rows:
    """The rows of the data chunks of a slab, or of its parity chunks: which are free, and what is behind those."""

    def __init__(self, allocator: RowAllocator) -> None:
        self.allocator = allocator
        self._punched = 0
        self._backing = bytearray()  # a Backing for each row; empty as long as all are PRESENT

    @property
    def count(self) -> int:
        """All rows."""
        return self.allocator.rows

    @property
    def used(self) -> int:
        """Rows that are not free."""
        return self.allocator.rows - self.allocator.free

    @property
    def punched_free(self) -> int:
        """Free rows that are known to have no blocks behind them."""
        return min(self._punched, self.allocator.free)

    @property
    def backed_free(self) -> int:
        """Free rows whose writing takes no new room, as far as is known."""
        return self.allocator.free - self.punched_free

    def set_backing(self, row: int, count: int, backing: Backing) -> None:
        """Note what is behind rows."""
        if not self._backing:
            if backing is Backing.PRESENT:
                return
            self._backing = bytearray(self.allocator.rows)
        self._punched -= self._backing.count(Backing.PUNCHED, row, row + count)
        self._punched += count if backing is Backing.PUNCHED else 0
        self._backing[row : row + count] = bytes((backing,)) * count

    def is_backed(self, row: int, count: int) -> bool:
        """Whether writing these rows surely takes no new room on the disks."""
        return not self._backing or self._backing.count(Backing.PRESENT, row, row + count) == count

    def backed_run(self, wanted: int) -> tuple[int, int] | None:
        """A run of free rows with blocks behind them, as (start, length): the shortest of at least ``wanted`` rows,
        else the longest; None if there is none."""
        allocator = self.allocator
        best: tuple[int, int] | None = None
        for start, length in [*allocator.runs(), (allocator.fresh, allocator.rows - allocator.fresh)]:
            at = start
            backing = self._backing[start : start + length] or bytes(length)
            for kind, rows in groupby(backing):
                count = len(list(rows))
                if kind == Backing.PRESENT and (best is None or _is_better(count, best[1], wanted)):
                    best = at, count
                at += count
        return best

    def free_runs(self, backings: set[Backing]) -> list[tuple[int, int]]:
        """The free rows that have one of these backings, as (start, length); PRESENT only where they were used, for
        rows never used are kept for what comes."""
        allocator = self.allocator
        if not self._backing:
            return allocator.runs() if Backing.PRESENT in backings else []
        found: list[tuple[int, int]] = []
        for start, length in [*allocator.runs(), (allocator.fresh, allocator.rows - allocator.fresh)]:
            at = start
            for backing, rows in groupby(self._backing[start : start + length]):
                count = len(list(rows))
                if backing in backings and (at < allocator.fresh or backing != Backing.PRESENT):
                    found.append((at, count))
                at += count
        return found


def _is_better(count: int, best: int, wanted: int) -> bool:
    return best > count >= wanted or (best < wanted and count > best)


class SlabState:
    """A slab that exists or is coming or going."""

    def __init__(self, slab_id: SlabId, slab: Slab, data: Rows, parity: Rows, phase: SlabPhase) -> None:
        assert data.count == slab.data_rows and parity.count == slab.parity_rows
        self.slab_id = slab_id
        self.slab = slab
        self.data = data
        self.parity = parity
        self.phase = phase
        self.is_recorded = phase is SlabPhase.OPEN
        """A batch with the slab's record was committed."""
        self.is_suspect = False
        """A write failed here although the disk answers: other slabs are tried first."""
        self.is_closed = False
        """No stripe is placed here: one of its units is being moved."""
        self.is_shunned = False
        """No stripe is placed here: what it holds goes to slabs of another width."""
        self.incoming: tuple[int, DiskId] | None = None
        """The unit that is being moved, and the disk where its new chunk file is being filled."""
        self.uncommitted = 0
        """Stripes that were placed and that nobody has committed or given back yet."""
        self.all_committed = trio.Event()
        """Set whenever the last of these is."""

    def enter(self, phase: SlabPhase) -> None:
        """Move on in the life of the slab."""
        assert phase in NEXT_PHASES[self.phase]
        self.phase = phase

    def end_placement(self) -> None:
        """A stripe that was placed here was committed, or given back."""
        self.uncommitted -= 1
        if not self.uncommitted:
            self.all_committed.set()

    @property
    def units(self) -> int:
        """Chunk files of the slab."""
        return len(self.slab.disks)

    @property
    def largest(self) -> int:
        """Rows that the longest stripe that fits can have. Its data and its parity may lie in different rows."""
        return min(self.data.allocator.largest, self.parity.allocator.largest)

    @property
    def backed_free(self) -> int:
        """Rows that can be written without new room on the disks, at most: data and parity have as many each."""
        return min(self.data.backed_free, self.parity.backed_free)

    @property
    def is_empty(self) -> bool:
        """Whether no stripe has rows here."""
        return not self.data.used and not self.parity.used

    def raw(self, data_rows: int, parity_rows: int) -> int:
        """Bytes of so many rows in all chunks."""
        return (data_rows * self.slab.data_units + parity_rows * self.slab.parity_units) * ROW_BYTES

    def take(self, rows: int) -> tuple[int, int]:
        """Take rows for a stripe, at most ``largest``: its row and its parity row (SAME_ROWS where that is free)."""
        row = self.data.allocator.take(rows)
        assert row is not None
        return row, self.take_parity(rows, row)

    def take_parity(self, rows: int, row: int) -> int:
        """Take parity rows for data at ``row``, the same if they are free."""
        parity = self.parity.allocator
        if parity.is_free(row, rows):
            parity.take_at(row, rows)
            return SAME_ROWS
        taken = parity.take(rows)
        assert taken is not None
        return taken

    def give_back(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """Make the rows of a stripe free."""
        self.data.allocator.give_back(row_of(stripe_id), stripe.rows)
        self.parity.allocator.give_back(parity_row_of(stripe_id, stripe), stripe.rows)


class Placement(NamedTuple):
    """Rows that were taken for one stripe."""

    state: SlabState
    stripe_id: StripeId
    stripe: Stripe

    def unbacked_disks(self) -> tuple[DiskId, ...]:
        """The disks on which writing it may take new room."""
        row, parity_row = row_of(self.stripe_id), parity_row_of(self.stripe_id, self.stripe)
        rows, slab = self.stripe.rows, self.state.slab
        data = () if self.state.data.is_backed(row, rows) else slab.disks[: slab.data_units]
        parity = () if self.state.parity.is_backed(parity_row, rows) else slab.disks[slab.data_units :]
        return (*data, *parity)


def take_backed_placement(state: SlabState, size: int, written: int) -> Placement | None:
    """Rows of a slab for a stripe of up to ``size`` bytes, all with blocks behind them; None if there are none.

    The longest that fits: callers are after every row that there is.
    """
    wanted = unit_bytes_for(size, state.slab.data_units) // ROW_BYTES
    data, parity = state.data.backed_run(wanted), state.parity.backed_run(wanted)
    if data is None or parity is None:
        return None
    rows = min(wanted, data[1], parity[1])
    row, parity_row = data[0], parity[0]
    state.data.allocator.take_at(row, rows)
    if state.parity.is_backed(row, rows) and state.parity.allocator.is_free(row, rows):
        parity_row = SAME_ROWS
    state.parity.allocator.take_at(row if parity_row == SAME_ROWS else parity_row, rows)
    state.uncommitted += 1
    piece = min(size, rows * ROW_BYTES * state.slab.data_units)
    return Placement(state, make_stripe_id(state.slab_id, row), Stripe(rows * ROW_BYTES, piece, parity_row, written))


def take_placement(state: SlabState, size: int, unit_bytes: int, written: int) -> Placement:
    """Rows of a slab for a stripe of ``size`` bytes; they must fit."""
    row, parity_row = state.take(unit_bytes // ROW_BYTES)
    state.uncommitted += 1
    return Placement(state, make_stripe_id(state.slab_id, row), Stripe(unit_bytes, size, parity_row, written))
