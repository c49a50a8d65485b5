"""The slabs of a volume: which there are, whose their rows are, and how a slab comes and goes.

Rows change hands in plain methods, so taking (row_placer.py) and giving back are atomic between tasks; only the making
of files waits. The record of a slab is written by whoever commits the first stripe in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.allocate import RowAllocator, allocator_of
from siltstone.engine.stripe.chunk_files import ChunkFiles
from siltstone.engine.stripe.disk_room import DiskRoom
from siltstone.engine.stripe.layout import (
    Slab,
    Stripe,
    parity_row_of,
    spare_rows_of,
)
from siltstone.engine.stripe.punching import Puncher
from siltstone.engine.stripe.rooms import Rooms
from siltstone.engine.stripe.slab import (
    Backing,
    Placement,
    Rows,
    SlabPhase,
    SlabState,
)
from siltstone.engine.stripe.space import SpaceCount
from siltstone.engine.stripe.unit_index import UnitIndex
from siltstone.engine.stripe.unit_moves import UnitMoves
from siltstone.errors import Corrupt, DiskError, TooFewDisks
from siltstone.limits import (
    RESERVE_CHUNKS,
    ROW_BYTES,
    UNIT_BYTES_MAX,
)
from siltstone.types import DiskId, SlabId, StripeId, row_of, slab_of


class Slabs:
    """All slabs of a volume.

    ``reserve_bytes``: what a new slab leaves free on every disk, see RESERVE_CHUNKS.
    """

    def __init__(
        self, pool: Pool, *, data_units: int, parity_units: int, chunk_bytes: int, reserve_bytes: int | None = None
    ) -> None:
        assert data_units >= 1 and parity_units >= 0
        assert chunk_bytes % ROW_BYTES == 0 and 0 < chunk_bytes // ROW_BYTES <= 1 << 16
        self._pool = pool
        self.data_units = data_units
        self._parity_units = parity_units
        self.chunk_bytes = chunk_bytes
        """Length of a chunk file of parity, of new slabs; those of data are a little shorter."""
        self.spare_rows = spare_rows_of(chunk_bytes)
        """Rows of parity chunks of new slabs that are there for new parity when all others are taken."""
        reserve_bytes = RESERVE_CHUNKS * chunk_bytes if reserve_bytes is None else reserve_bytes
        self._slabs: dict[SlabId, SlabState] = {}
        self._next_id = SlabId(1)
        self.rooms = Rooms(self._slabs, data_units)
        layout = Slab(data_units, parity_units, chunk_bytes, (), self.spare_rows)
        self._space = SpaceCount(pool, self._slabs, layout, reserve_bytes=reserve_bytes)
        self.disk_room = DiskRoom(pool, self._space, chunk_bytes=chunk_bytes, reserve_bytes=reserve_bytes)
        self._files = ChunkFiles(pool)
        self.units = UnitIndex()
        self.moves = UnitMoves(self._files, self._slabs, self.units, self.note_changed)
        self.puncher = Puncher(pool, self._slabs, self.note_changed)
        self._empty: dict[SlabId, None] = {}
        self._shunned: set[SlabId] = set()
        self.space, self.recount = self._space.space, self._space.recount
        self._creating = trio.Lock()
        self._created = 0

    # --- what there is --------------------------------------------------------------------------------------------

    def load(self, slabs: Iterable[tuple[SlabId, Slab]], stripes: Iterable[tuple[StripeId, Stripe]]) -> None:
        """Take over the records of an opened volume: free is what no stripe has."""
        assert not self._slabs
        records = dict(slabs)
        data: dict[SlabId, list[tuple[int, int]]] = {slab_id: [] for slab_id in records}
        parity: dict[SlabId, list[tuple[int, int]]] = {slab_id: [] for slab_id in records}
        for stripe_id, stripe in stripes:
            slab_id = slab_of(stripe_id)
            if slab_id not in records:
                raise Corrupt(f"stripe {stripe_id:x} has a record, its slab {slab_id} has none; run fsck")
            data[slab_id].append((row_of(stripe_id), stripe.rows))
            parity[slab_id].append((parity_row_of(stripe_id, stripe), stripe.rows))
        for slab_id, slab in records.items():
            data_rows = _found_rows(slab.data_rows, data[slab_id])
            parity_rows = _found_rows(slab.parity_rows, parity[slab_id])
            state = self._slabs[slab_id] = SlabState(slab_id, slab, data_rows, parity_rows, SlabPhase.OPEN)
            self.note_changed(state)
            self.puncher.note_opened(slab_id)
            self.units.add(slab_id, slab)
            self._next_id = SlabId(max(self._next_id, slab_id + 1))

    def get(self, slab_id: SlabId) -> SlabState:
        """The state of a slab that exists."""
        return self._slabs[slab_id]

    @property
    def stripe_bytes_max(self) -> int:
        """The longest stripe: it fits a slab of any width, down to one data unit."""
        return min(self.data_units * UNIT_BYTES_MAX, self.chunk_bytes - self.spare_rows * ROW_BYTES)

    # --- rows -----------------------------------------------------------------------------------------------------

    def give_back(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """Make the rows of a stripe free: from now on others may be written there."""
        state = self._slabs[slab_of(stripe_id)]
        state.give_back(stripe_id, stripe)
        self.puncher.note_free(state.slab_id)
        self.note_changed(state)

    def takes_fills(self, slab_id: SlabId) -> bool:
        """Whether holes in a slab may be filled now: all its disks are in full service."""
        state = self._slabs.get(slab_id)
        if state is None or state.phase is not SlabPhase.OPEN or state.is_closed or state.is_shunned:
            return False
        return self.is_placeable(state.slab)

    def take_parity(self, slab_id: SlabId, rows: int) -> int | None:
        """Take rows of the parity chunks alone, for new parity of a stripe; None when there are none, or when the slab
        does not take writes."""
        if not self.takes_fills(slab_id):
            return None
        state = self._slabs[slab_id]
        row = state.parity.allocator.take(rows)
        self.note_changed(state)
        return row

    def note_parity_written(self, slab_id: SlabId, row: int, rows: int) -> None:
        """Note that there are blocks behind these parity rows."""
        self._space.note(slab_id)
        self._slabs[slab_id].parity.set_backing(row, rows, Backing.PRESENT)

    def note_written(self, placement: Placement) -> None:
        """Note that the rows of a stripe were written: there are blocks behind them, and the slab takes writes."""
        state = placement.state
        self._space.note(state.slab_id)
        for disk_id in placement.unbacked_disks():
            self._pool.note_taken(disk_id, placement.stripe.unit_bytes)
        row, parity_row = row_of(placement.stripe_id), parity_row_of(placement.stripe_id, placement.stripe)
        state.data.set_backing(row, placement.stripe.rows, Backing.PRESENT)
        state.parity.set_backing(parity_row, placement.stripe.rows, Backing.PRESENT)
        state.is_suspect = False

    def suspect(self, slab_id: SlabId) -> None:
        """A write failed in a slab although its disk answers: others are tried first until one succeeds there."""
        self._space.note(slab_id)
        self._slabs[slab_id].is_suspect = True

    def give_back_parity(self, slab_id: SlabId, row: int, rows: int) -> None:
        """Make rows of the parity chunks free."""
        state = self._slabs[slab_id]
        state.parity.allocator.give_back(row, rows)
        self.puncher.note_free(slab_id)
        self.note_changed(state)

    def abandon(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """Make rows free that were taken for a stripe which was never committed."""
        self._slabs[slab_of(stripe_id)].end_placement()
        self.give_back(stripe_id, stripe)

    def note_committed(self, stripe_id: StripeId) -> None:
        """Note that a batch with the stripe's record was committed, and with it that of its slab."""
        state = self._slabs[slab_of(stripe_id)]
        state.end_placement()
        if not state.is_recorded:
            state.is_recorded = True
            self.units.note(state.slab_id)

    def is_placeable(self, slab: Slab) -> bool:
        """Whether new stripes may go to all disks of a slab."""
        return all(map(self._pool.is_placeable, slab.disks))

    def note_changed(self, state: SlabState) -> None:
        """Keep the index of rooms, and the totals, in step with a slab whose rows or phase changed."""
        self._space.note(state.slab_id)
        largest = state.largest if state.phase is SlabPhase.OPEN and not state.is_closed and not state.is_shunned else 0
        if state.slab.parity_units != self._parity_units or state.slab.data_units > self.data_units:
            largest = 0  # a code that is not written any more
        self.rooms.note(state, largest)
        if state.phase is SlabPhase.OPEN and state.is_empty:
            self._empty[state.slab_id] = None
        else:
            self._empty.pop(state.slab_id, None)

    # --- slabs come -----------------------------------------------------------------------------------------------

    def check_disks(self) -> None:
        """Raise TooFewDisks if a slab of one data unit cannot be had."""
        self.width_now()

    def width_now(self) -> int:
        """How many data units new slabs can have. Raises TooFewDisks if not even one."""
        up = len(self._pool.placeable())
        width = min(self.data_units, up - self._parity_units)
        if width < 1:
            raise TooFewDisks(
                f"{up} disks are up; a stripe with {self._parity_units} parity units needs {self._parity_units + 1}"
            )
        return width

    async def create(self, width: int, *, use_reserve: bool) -> bool:
        """Make a slab of ``width`` data units; False when too few disks have room for a chunk and the reserve.

        One at a time: whoever waited meanwhile returns True without making another, and looks for rows again.
        """
        before = self._created
        async with self._creating:
            if self._created != before:
                return True
            failed: set[DiskId] = set()
            while True:
                up = [disk_id for disk_id in self._pool.placeable() if disk_id not in failed]
                units = width + self._parity_units
                if len(up) < units:
                    return False
                candidates = self._pool.choose(len(up), exclude=tuple(failed))
                reserve = self.disk_room.reserve(use_reserve)
                disks = await self.disk_room.disks_with_room(candidates, self.chunk_bytes, reserve)
                if len(disks) < units:
                    return False
                slab = Slab(width, self._parity_units, self.chunk_bytes, tuple(disks[:units]), self.spare_rows)
                errors = await self._create_chunks(slab)
                if not errors:
                    self._created += 1
                    return True
                # A disk that fails in here is left out of this slab, so the loop ends.
                failed.update(error.disk_id for error in errors)

    async def _create_chunks(self, slab: Slab) -> list[DiskError]:
        """Make the chunk files, or none of them. The slab is known before its first file is, so none is a stray."""
        slab_id = self._next_id
        self._next_id = SlabId(slab_id + 1)
        data, parity = Rows(RowAllocator(slab.data_rows)), Rows(RowAllocator(slab.parity_rows))
        state = SlabState(slab_id, slab, data, parity, SlabPhase.CREATING)
        self._slabs[slab_id] = state
        self._space.note(slab_id)
        self.units.add(slab_id, slab)
        with trio.CancelScope(shield=True):  # half a slab must not stay behind
            errors = await self._files.create(slab_id, slab)
            if errors:
                await self._files.delete_all(slab_id, slab)
                self._forget(slab_id)
                for unit, disk_id in enumerate(slab.disks):
                    self._pool.note_taken(disk_id, -slab.file_bytes(unit))
                return errors
        state.enter(SlabPhase.OPEN)
        self.note_changed(state)
        return []

    async def damaged_chunks(self) -> list[tuple[SlabId, int]]:
        """Chunk files, by slab and unit, that are missing or short on disks that are up."""
        before = {slab_id: state for slab_id, state in self._slabs.items() if state.phase is SlabPhase.OPEN}
        sizes: dict[DiskId, dict[tuple[SlabId, int], int]] = {}
        for disk_id in self._pool.up():
            files = await self._files.found_on(disk_id)
            if files is not None:
                sizes[disk_id] = {(file.slab_id, file.unit): file.size for file in files}
        return [
            (slab_id, unit)
            for slab_id, state in before.items()
            if state.phase is SlabPhase.OPEN
            for unit, disk_id in enumerate(state.slab.disks)
            if disk_id in sizes and sizes[disk_id].get((slab_id, unit), 0) < state.slab.file_bytes(unit)
        ]

    async def recreate_unit(self, slab_id: SlabId, unit: int) -> bool:
        """Make a chunk file whole that is missing or short, on a disk that is up; False if there is nothing to do.

        It holds zeros where it held nothing: the units of living stripes in it are to be mended. Raises DiskError.
        """
        state = self._slabs.get(slab_id)
        if state is None or state.phase is not SlabPhase.OPEN:
            return False
        return await self._files.make_whole(slab_id, state.slab, unit)

    @property
    def parity_units(self) -> int:
        """Of new slabs."""
        return self._parity_units

    def shun(self, slab_id: SlabId, *, is_shunned: bool) -> None:
        """Place no stripe in a slab any more, or again."""
        state = self._slabs[slab_id]
        state.is_shunned = is_shunned
        (self._shunned.add if is_shunned else self._shunned.discard)(slab_id)
        self.note_changed(state)

    def shunned(self) -> list[SlabId]:
        """The slabs in which no stripe is placed any more."""
        return list(self._shunned)

    # --- what those need who move units -------------------------------------------------------------------------------

    def units_of(self, disk_id: DiskId) -> int:
        """How many chunk files a disk has, or should have."""
        return len(self.units.on(disk_id))

    def is_indexed(self) -> bool:
        """Whether a look at every slab finds the units where the index has them."""
        return self.units.is_of((slab_id, state.slab) for slab_id, state in self._slabs.items())

    def recorded(self, slab_id: SlabId) -> SlabState | None:
        """A slab that holds stripes or may, and has a record; None if it is not so."""
        state = self._slabs.get(slab_id)
        return state if state is not None and state.phase is SlabPhase.OPEN and state.is_recorded else None

    def open_slabs(self) -> Iterator[SlabState]:
        """Every slab that holds stripes or may."""
        return (state for state in self._slabs.values() if state.phase is SlabPhase.OPEN)

    # --- slabs go -------------------------------------------------------------------------------------------------

    def take_empty(self, keep: int) -> list[SlabId]:
        """Retire the slabs in which nothing is stored but ``keep`` of them: no stripe is placed there any more.

        Those with a disk that takes nothing new all go: nobody would write there, and a lost disk would count as one
        that still holds something.
        """
        empty = [state for state in map(self._slabs.__getitem__, self._empty) if not state.is_closed]
        of_use = [state for state in empty if self.is_placeable(state.slab)]
        # What stays is what new stripes want: wide, and healthy.
        of_use.sort(key=lambda state: (not state.is_suspect, state.slab.data_units, -state.slab_id))
        kept = of_use[max(0, len(of_use) - keep) :]
        retired = [state for state in empty if state not in kept]
        for state in retired:
            state.enter(SlabPhase.RETIRED)
            self.note_changed(state)
            self.units.note(state.slab_id)
        return [state.slab_id for state in retired]

    async def drop(self, slab_id: SlabId) -> None:
        """Delete the chunk files of a slab from ``take_empty``, whose record is durably gone.

        What cannot be deleted (a disk is away) is a stray when the disk returns.
        """
        state = self._slabs[slab_id]
        assert state.phase is SlabPhase.RETIRED
        with trio.CancelScope(shield=True):
            deleted = await self._files.delete_all(slab_id, state.slab)
            self._forget(slab_id)
        for unit in deleted:
            rows = state.data if unit < state.slab.data_units else state.parity
            self._pool.note_taken(state.slab.disks[unit], -(rows.count - rows.punched_free) * ROW_BYTES)

    def _forget(self, slab_id: SlabId) -> None:
        state = self._slabs.pop(slab_id)
        self._space.note(slab_id)
        self._shunned.discard(slab_id)
        self._empty.pop(slab_id, None)
        self.puncher.forget(slab_id)
        self.units.remove(slab_id, state.slab)

    async def collect_strays(self) -> int:
        """Delete chunk files that no slab owns, on the disks that are up; how many there were. After ``load``."""
        count = 0
        for disk_id in self._pool.up():
            for slab_id, unit, _ in await self._files.found_on(disk_id) or ():
                # Numbers only grow past everything seen, so a stray's name is never given to a new chunk meanwhile.
                self._next_id = SlabId(max(self._next_id, slab_id + 1))
                state = self._slabs.get(slab_id)
                if state is None or not _belongs(state, unit, disk_id):
                    count += await self._files.delete(slab_id, unit, disk_id)
        return count


def _belongs(state: SlabState, unit: int, disk_id: DiskId) -> bool:
    """Whether a disk holds, or is getting, a unit of a slab."""
    return (unit < state.units and state.slab.disks[unit] == disk_id) or state.incoming == (unit, disk_id)


def _found_rows(rows: int, taken: Iterable[tuple[int, int]]) -> Rows:
    """The rows of an opened volume: nobody noted what is behind the free ones."""
    allocator = allocator_of(rows, taken)
    found = Rows(allocator)
    for start, length in [*allocator.runs(), (allocator.fresh, rows - allocator.fresh)]:
        found.set_backing(start, length, Backing.UNKNOWN)
    return found
