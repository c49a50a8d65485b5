"""The slabs of a volume: where there is room, and how a slab comes and goes.

Rows change hands in plain methods, so taking and giving back are atomic between tasks; only the making of files waits.
The record of a slab is written by whoever commits the first stripe in it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.allocate import RowAllocator, allocator_of
from siltstone.engine.stripe.chunk_files import ChunkFiles
from siltstone.engine.stripe.layout import (
    Slab,
    Stripe,
    parity_row_of,
    spare_rows_of,
    unit_bytes_for,
)
from siltstone.engine.stripe.slab import (
    Backing,
    Placement,
    Rows,
    SlabPhase,
    SlabState,
    take_backed_placement,
    take_placement,
)
from siltstone.engine.stripe.space import SpaceCount
from siltstone.engine.stripe.unit_index import UnitIndex
from siltstone.engine.stripe.unit_moves import UnitMoves
from siltstone.errors import Corrupt, DiskError, NoSpace, TooFewDisks
from siltstone.limits import (
    RESERVE_CHUNKS,
    RESERVE_CHUNKS_FOR_LOG,
    RESERVE_CHUNKS_FOR_SETTLE,
    ROW_BYTES,
    UNIT_BYTES_MAX,
)
from siltstone.types import DiskId, SlabId, StripeId, row_of, slab_of

BACKED_SLABS_MAX = 64
"""Slabs whose rows are looked at one by one for some that need no room on the disks."""


AMPLE_CHUNKS = 8
"""So many chunks more than is needed nobody takes unseen in the second until disks are looked at again: what this
process takes meanwhile is counted at once."""


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
        self._reserve_bytes_alone = RESERVE_CHUNKS * chunk_bytes if reserve_bytes is None else reserve_bytes
        self._reserve_bytes = self._reserve_bytes_alone
        self._held_back_bytes = 0
        self._slabs: dict[SlabId, SlabState] = {}
        self._next_id = SlabId(1)
        # For each number of data units the OPEN slabs with free rows, as sorted (largest free run, slab id).
        self._rooms: dict[int, list[tuple[int, SlabId]]] = {width: [] for width in range(1, data_units + 1)}
        layout = Slab(data_units, parity_units, chunk_bytes, (), self.spare_rows)
        self._space = SpaceCount(pool, self._slabs, layout, reserve_bytes=self._reserve_bytes)
        self._files = ChunkFiles(pool)
        self.units = UnitIndex()
        self.moves = UnitMoves(self._files, self._slabs, self.units, self._index)
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
            self._index(state)
            self.units.add(slab_id, slab)
            self._next_id = SlabId(max(self._next_id, slab_id + 1))

    def get(self, slab_id: SlabId) -> SlabState:
        """The state of a slab that exists."""
        return self._slabs[slab_id]

    def hold_back(self, size: int) -> None:
        """Leave so much more room free on each disk, for what is not in slabs."""
        self._held_back_bytes = size
        self._space.reserve_bytes = self._reserve(False)

    def share_reserve(self, engines: int) -> None:
        """So many engines take room on the same disks, and each must be able to count on its reserve."""
        self._reserve_bytes = engines * self._reserve_bytes_alone
        self._space.reserve_bytes = self._reserve(False)

    @property
    def stripe_bytes_max(self) -> int:
        """The longest stripe: it fits a slab of any width, down to one data unit."""
        return min(self.data_units * UNIT_BYTES_MAX, self.chunk_bytes - self.spare_rows * ROW_BYTES)

    # --- rows -----------------------------------------------------------------------------------------------------

    async def place(
        self, sizes: Sequence[int], avoid: set[SlabId], *, written: int, use_reserve: bool
    ) -> list[list[Placement]]:
        """Take rows for runs of so many data bytes, on disks that are all up; makes slabs when there is no room.

        Widest first: slabs of full width, new ones, then narrower ones. A run is cut only where no slab has so many
        neighbouring rows. Slabs in ``avoid`` are left out. With ``use_reserve`` less may be left free, which is for
        what makes room (settle, relocation). The caller gives the rows back or commits stripes there. Raises
        TooFewDisks, or NoSpace with nothing taken.
        """
        placed = await self._place(sizes, set(avoid), written, use_reserve=use_reserve)
        if placed is None and await self.punch_free({Backing.UNKNOWN}):
            # Nobody knows whether rows found free at open take room. Once punched they do, and that room is free.
            placed = await self._place(sizes, set(avoid), written, use_reserve=use_reserve)
        if placed is None:
            placed = self._place_backed(sizes, avoid, written)
        if placed is None:
            raise NoSpace(
                f"no room for {sum(sizes)} bytes: no slab on healthy disks has it, and a new one would leave less than "
                f"{self._reserve(use_reserve)} bytes on a disk; delete something or add disks"
            )
        return placed

    async def _place(
        self, sizes: Sequence[int], avoid: set[SlabId], written: int, *, use_reserve: bool
    ) -> list[list[Placement]] | None:
        while True:
            placed: list[list[Placement]] = [[] for _ in sizes]
            try:
                for size, placements in zip(sizes, placed, strict=True):
                    if not await self._place_run(size, placements, avoid, written, use_reserve=use_reserve):
                        self._give_back_all(placed)
                        return None
                denied = await self._without_room(placed, use_reserve=use_reserve)
            except BaseException:
                self._give_back_all(placed)
                raise
            if not denied:
                return placed
            self._give_back_all(placed)
            avoid |= denied

    def _place_backed(self, sizes: Sequence[int], avoid: set[SlabId], written: int) -> list[list[Placement]] | None:
        """Take rows that need no room on the disks, wherever they are: what is left when all others do, for want of it.

        Looks at rows one by one, so only at the slabs that have most.
        """
        placed: list[list[Placement]] = [[] for _ in sizes]
        open_slabs = (state for state in self.open_slabs() if state.indexed and state.slab_id not in avoid)
        of_use = (state for state in open_slabs if state.backed_free and self._is_placeable(state.slab))
        states = nlargest(BACKED_SLABS_MAX, of_use, key=lambda state: (state.slab.data_units, state.backed_free))
        for size, placements in zip(sizes, placed, strict=True):
            left = size
            while left:
                found = next(filter(None, (take_backed_placement(state, left, written) for state in states)), None)
                if found is None:
                    self._give_back_all(placed)
                    return None
                placements.append(found)
                self._index(found.state)
                left -= found.stripe.data_bytes
        return placed

    async def _place_run(
        self, size: int, placements: list[Placement], avoid: set[SlabId], written: int, *, use_reserve: bool
    ) -> bool:
        """Take rows for one run: whole if that can be, else in pieces. False when there are too few."""
        width_max = self.width_now()
        for is_last_resort in (False, True):
            for width in range(width_max, 0, -1):
                rows = unit_bytes_for(size, width) // ROW_BYTES
                state = self._with_room(rows, width, avoid, is_last_resort=is_last_resort)
                while state is None and not is_last_resort and await self._create(width, use_reserve=use_reserve):
                    state = self._with_room(rows, width, avoid, is_last_resort=is_last_resort)
                if state is None:
                    state = self._roomiest(width, avoid, is_last_resort=is_last_resort)
                while state is not None:
                    piece = min(size, state.largest * width * ROW_BYTES)
                    placements.append(take_placement(state, piece, unit_bytes_for(piece, width), written))
                    self._index(state)
                    size -= piece
                    if not size:
                        return True
                    state = self._roomiest(width, avoid, is_last_resort=is_last_resort)
        return False

    def give_back(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """Make the rows of a stripe free: from now on others may be written there."""
        state = self._slabs[slab_of(stripe_id)]
        state.give_back(stripe_id, stripe)
        self._index(state)

    def takes_fills(self, slab_id: SlabId) -> bool:
        """Whether holes in a slab may be filled now: all its disks are in full service."""
        state = self._slabs.get(slab_id)
        if state is None or state.phase is not SlabPhase.OPEN or state.is_closed or state.is_shunned:
            return False
        return self._is_placeable(state.slab)

    def take_parity(self, slab_id: SlabId, rows: int) -> int | None:
        """Take rows of the parity chunks alone, for new parity of a stripe; None when there are none, or when the slab
        does not take writes."""
        if not self.takes_fills(slab_id):
            return None
        state = self._slabs[slab_id]
        row = state.parity.allocator.take(rows)
        self._index(state)
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
        self._index(state)

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

    def _give_back_all(self, placed: Iterable[Iterable[Placement]]) -> None:
        for placements in placed:
            for placement in placements:
                self.abandon(placement.stripe_id, placement.stripe)

    def _with_room(self, rows: int, width: int, avoid: set[SlabId], *, is_last_resort: bool) -> SlabState | None:
        """The slab whose longest run is the shortest one that is long enough."""
        rooms = self._rooms[width]
        for index in range(bisect_left(rooms, (rows, SlabId(-1))), len(rooms)):
            state = self._slabs[rooms[index][1]]
            if self._takes_stripes(state, avoid, is_last_resort=is_last_resort):
                return state
        return None

    def _roomiest(self, width: int, avoid: set[SlabId], *, is_last_resort: bool) -> SlabState | None:
        """The slab with the longest run."""
        for _, slab_id in reversed(self._rooms[width]):
            state = self._slabs[slab_id]
            if self._takes_stripes(state, avoid, is_last_resort=is_last_resort):
                return state
        return None

    def _takes_stripes(self, state: SlabState, avoid: set[SlabId], *, is_last_resort: bool) -> bool:
        is_avoided = state.slab_id in avoid or (state.is_suspect and not is_last_resort)
        return not is_avoided and self._is_placeable(state.slab)

    def _is_placeable(self, slab: Slab) -> bool:
        return all(map(self._pool.is_placeable, slab.disks))

    def _index(self, state: SlabState) -> None:
        """Keep the index of rooms, and the totals, in step with a slab whose rows or phase changed."""
        self._space.note(state.slab_id)
        largest = state.largest if state.phase is SlabPhase.OPEN and not state.is_closed and not state.is_shunned else 0
        if state.slab.parity_units != self._parity_units or state.slab.data_units > self.data_units:
            largest = 0  # a code that is not written any more
        if largest == state.indexed:
            return
        if state.indexed:
            rooms = self._rooms[state.slab.data_units]
            del rooms[bisect_left(rooms, (state.indexed, state.slab_id))]
        if largest:
            insort(self._rooms[state.slab.data_units], (largest, state.slab_id))
        state.indexed = largest

    async def _without_room(self, placed: Iterable[Iterable[Placement]], *, use_reserve: bool) -> set[SlabId]:
        """The slabs whose rows cannot be written without eating into the reserve; rows with blocks behind them always
        can. With ``use_reserve`` much of it may be eaten, the room for the next snapshot included: see
        RESERVE_CHUNKS_FOR_SETTLE."""
        reserve = self._settle_reserve() if use_reserve else self._reserve(False)
        unbacked: dict[SlabId, dict[DiskId, int]] = {}
        for placements in placed:
            for placement in placements:
                sizes = unbacked.setdefault(placement.state.slab_id, {})
                for disk_id in placement.unbacked_disks():
                    sizes[disk_id] = sizes.get(disk_id, 0) + placement.stripe.unit_bytes
        without: set[SlabId] = set()
        for slab_id, sizes in unbacked.items():
            if sizes and len(await self._disks_with_room(sizes, max(sizes.values()), reserve)) < len(sizes):
                without.add(slab_id)
        return without

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

    def _reserve(self, use_reserve: bool) -> int:
        reserve = self._reserve_bytes * RESERVE_CHUNKS_FOR_LOG // RESERVE_CHUNKS if use_reserve else self._reserve_bytes
        return reserve + self._held_back_bytes

    def _settle_reserve(self) -> int:
        return self._reserve_bytes * RESERVE_CHUNKS_FOR_SETTLE // RESERVE_CHUNKS

    def settle_free_bytes(self, *, files: int, file_bytes: int) -> int:
        """What settling could write to stripes if so many files of ``file_bytes`` had been made on the disks that have
        most free; the part of the reserve that it may use included."""
        return self._space.writable_bytes(
            self._settle_reserve(), self._reserve(True), files=files, file_bytes=file_bytes
        )

    def short_disks(self) -> list[DiskId]:
        """Disks that have less free than what settle and relocation leave for the log when they make a slab."""
        reserve = self._reserve_bytes * RESERVE_CHUNKS_FOR_LOG // RESERVE_CHUNKS
        return [disk_id for disk_id, free_bytes in self._space.free_by_disk().items() if free_bytes < reserve]

    async def _create(self, width: int, *, use_reserve: bool) -> bool:
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
                disks = await self._disks_with_room(candidates, self.chunk_bytes, self._reserve(use_reserve))
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
        self._index(state)
        return []

    async def _disks_with_room(self, candidates: Iterable[DiskId], size: int, reserve: int) -> list[DiskId]:
        """Those of the candidates, in order, that can each take ``size`` bytes and keep ``reserve``.

        Disks on one device share its room: each of them counts with what it takes and with its own reserve. Where
        there is much more room than that, as the pool saw it last, the disks are not asked: each call is a thread's.
        """
        candidates = list(candidates)
        known = self._space.free_by_disk()
        ample = reserve + size + AMPLE_CHUNKS * self.chunk_bytes
        if all(known.get(disk_id, 0) >= ample for disk_id in candidates):
            return candidates
        spaces = {}
        for disk_id in candidates:
            try:
                spaces[disk_id] = await self._pool.disk(disk_id).space()
            except DiskError as error:
                self._pool.report(error)
        needed: dict[int, int] = {}
        for space in spaces.values():
            needed[space.device] = needed.get(space.device, 0) + reserve
        found: list[DiskId] = []
        for disk_id, space in spaces.items():
            if space.free_bytes >= needed[space.device] + size:
                needed[space.device] += size
                found.append(disk_id)
        return found

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
        self._index(state)

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

    async def has_room(
        self, disk_id: DiskId, size: int, *, use_reserve: bool = False, use_held_back: bool = False
    ) -> bool:
        """Whether a disk can take a file of ``size`` bytes and keep the reserve; with ``use_reserve`` only what the log
        needs of it, and nothing for settle; with ``use_held_back`` nothing of what is held back besides."""
        reserve = self._reserve(use_reserve) - (self._held_back_bytes if use_held_back else 0)
        return bool(await self._disks_with_room([disk_id], size, reserve))

    def takes_chunk(self, disk_id: DiskId) -> bool:
        """Whether a disk, as the pool saw it last, has room for a chunk file above the reserve."""
        return self._space.free_by_disk().get(disk_id, 0) >= self.chunk_bytes + self._reserve(False)

    # --- slabs go -------------------------------------------------------------------------------------------------

    def take_empty(self, keep: int) -> list[SlabId]:
        """Retire the slabs in which nothing is stored but ``keep`` of them: no stripe is placed there any more.

        Those with a disk that takes nothing new all go: nobody would write there, and a lost disk would count as one
        that still holds something.
        """
        empty = [state for state in self._slabs.values() if self._is_empty(state)]
        of_use = [state for state in empty if self._is_placeable(state.slab)]
        # What stays is what new stripes want: wide, and healthy.
        of_use.sort(key=lambda state: (not state.is_suspect, state.slab.data_units, -state.slab_id))
        kept = of_use[max(0, len(of_use) - keep) :]
        retired = [state for state in empty if state not in kept]
        for state in retired:
            state.enter(SlabPhase.RETIRED)
            self._index(state)
            self.units.note(state.slab_id)
        return [state.slab_id for state in retired]

    def _is_empty(self, state: SlabState) -> bool:
        return state.phase is SlabPhase.OPEN and state.is_empty and not state.is_closed

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

    async def punch_free(self, backings: set[Backing]) -> int:
        """Give back the blocks behind free rows that have one of these backings (see ``free_runs``); raw bytes punched.

        The rows are held while they are punched, so that nothing is written there meanwhile.
        """
        punched = 0
        for state in list(self.open_slabs()):
            data = range(state.slab.data_units)
            punched += await self._punch_rows(state, state.data, data, backings)
            punched += await self._punch_rows(state, state.parity, range(len(data), state.units), backings)
        return punched

    async def _punch_rows(self, state: SlabState, rows: Rows, units: range, backings: set[Backing]) -> int:
        punched = 0
        for start, count in rows.free_runs(backings):
            if state.phase is not SlabPhase.OPEN or not rows.allocator.is_free(start, count):
                continue  # it was taken, or the slab retired, while others were punched
            rows.allocator.take_at(start, count)
            self._index(state)
            is_backed = rows.is_backed(start, count)
            with trio.CancelScope(shield=True):
                punched += await self._files.punch(state.slab_id, state.slab, units, start, count, is_backed=is_backed)
            rows.set_backing(start, count, Backing.PUNCHED)
            rows.allocator.give_back(start, count)
            self._index(state)
            await trio.lowlevel.checkpoint()
        return punched


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
