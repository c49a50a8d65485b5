"""The slabs of a volume: where there is room, and how a slab comes and goes.

Rows change hands in plain methods, so taking and giving back are atomic between tasks; only the making of files waits.
The record of a slab is written by whoever commits the first stripe in it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.allocate import RowAllocator, allocator_of
from siltstone.engine.stripe.layout import CHUNK_PREFIX, Slab, Stripe, chunk_name, parse_chunk_name, unit_bytes_for
from siltstone.engine.stripe.slab import Backing, Placement, SlabPhase, SlabState
from siltstone.errors import Corrupt, DiskError, DiskMissing, FileMissing, NoSpace, TooFewDisks
from siltstone.limits import RESERVE_CHUNKS, RESERVE_CHUNKS_FOR_LOG, ROW_BYTES
from siltstone.types import DiskId, SlabId, StripeId, row_of, slab_of


class StripeSpace(NamedTuple):
    """Room in bytes. ``raw`` counts parity, ``data`` and ``usable`` only what data units hold."""

    slabs: int
    suspect_slabs: int
    raw_bytes: int
    """Chunk files in all."""
    raw_used_bytes: int
    """Rows of stripes in them, padding and parity included."""
    raw_free_bytes: int
    """Free rows in them, on disks that are up, that have blocks behind them."""
    data_bytes: int
    data_free_bytes: int
    usable_total_bytes: int
    """All disks that are up, if they held nothing but stripes of full width."""
    usable_free_bytes: int
    """What can still be written: free rows, and slabs of full width in what the disks have free above the reserve."""
    reserve_bytes: int
    """What new slabs leave free on each disk."""


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
        self._data_units = data_units
        self._parity_units = parity_units
        self._chunk_bytes = chunk_bytes
        self._reserve_bytes = RESERVE_CHUNKS * chunk_bytes if reserve_bytes is None else reserve_bytes
        self._slabs: dict[SlabId, SlabState] = {}
        self._next_id = SlabId(1)
        # For each number of data units the OPEN slabs with free rows, as sorted (largest free run, slab id).
        self._rooms: dict[int, list[tuple[int, SlabId]]] = {width: [] for width in range(1, data_units + 1)}
        self._creating = trio.Lock()
        self._created = 0

    # --- what there is --------------------------------------------------------------------------------------------

    def load(self, slabs: Iterable[tuple[SlabId, Slab]], stripes: Iterable[tuple[StripeId, Stripe]]) -> None:
        """Take over the records of an opened volume: free is what no stripe has."""
        assert not self._slabs
        records = dict(slabs)
        taken: dict[SlabId, list[tuple[int, int]]] = {slab_id: [] for slab_id in records}
        for stripe_id, stripe in stripes:
            if slab_of(stripe_id) not in taken:
                raise Corrupt(f"stripe {stripe_id:x} has a record, its slab {slab_of(stripe_id)} has none; run fsck")
            taken[slab_of(stripe_id)].append((row_of(stripe_id), stripe.rows))
        for slab_id, slab in records.items():
            rows = allocator_of(slab.chunk_bytes // ROW_BYTES, taken[slab_id])
            state = self._slabs[slab_id] = SlabState(slab_id, slab, rows, SlabPhase.OPEN, is_recorded=True)
            for start, length in [*rows.runs(), (rows.fresh, rows.rows - rows.fresh)]:
                state.set_backing(start, length, Backing.UNKNOWN)
            self._index(state)
            self._next_id = SlabId(max(self._next_id, slab_id + 1))

    def get(self, slab_id: SlabId) -> SlabState:
        """The state of a slab that exists."""
        return self._slabs[slab_id]

    def space(self) -> StripeSpace:
        """Room now; the disks' as the pool saw it last."""
        suspect = raw = raw_used = raw_free = raw_punched = data = data_free = 0
        for state in self._slabs.values():
            suspect += state.is_suspect
            raw += state.slab.chunk_bytes * state.units
            raw_used += (state.rows.rows - state.rows.free) * ROW_BYTES * state.units
            data += state.slab.chunk_bytes * state.slab.data_units
            if self._is_up(state.slab):
                backed = state.backed_free_rows
                free = backed * ROW_BYTES
                raw_free += free * state.units
                raw_punched += (state.rows.free - backed) * ROW_BYTES * state.units
                data_free += free * state.slab.data_units
        total, free = self._disk_bytes()
        k, units = self._data_units, self._data_units + self._parity_units
        # Free rows that were punched take their room from the disks again; of the rest only whole slabs are of use.
        for_rows = min(free, raw_punched)
        for_slabs = (free - for_rows) // (self._chunk_bytes * units) * self._chunk_bytes * k
        return StripeSpace(
            slabs=len(self._slabs),
            suspect_slabs=suspect,
            raw_bytes=raw,
            raw_used_bytes=raw_used,
            raw_free_bytes=raw_free,
            data_bytes=data,
            data_free_bytes=data_free,
            usable_total_bytes=total * k // units,
            usable_free_bytes=data_free + for_rows * k // units + for_slabs,
            reserve_bytes=self._reserve_bytes,
        )

    def _disk_bytes(self) -> tuple[int, int]:
        """(total, free above the reserve) of the disks that are up; disks on one device share its room."""
        total: dict[int, int] = {}
        free: dict[int, int] = {}
        for status in self._pool.status():
            space = status.space
            if space is not None and self._pool.is_up(status.disk_id):
                total[space.device] = space.total_bytes
                free[space.device] = free.get(space.device, space.free_bytes) - self._reserve_bytes
        return sum(total.values()), sum(max(0, left) for left in free.values())

    # --- rows -----------------------------------------------------------------------------------------------------

    async def place(self, size: int, avoid: set[SlabId], *, use_reserve: bool) -> Placement:
        """Take rows for a stripe of ``size`` data bytes, on disks that are all up; makes a slab when there is no room.

        Widest first: a slab of full width, a new one, then narrower ones. Slabs in ``avoid`` are left out. With
        ``use_reserve`` a new slab may leave less free, which is for what makes room (settle, rebuild). The caller
        gives the rows back or commits a stripe there. Raises TooFewDisks, or NoSpace with nothing taken.
        """
        placement = await self._place(size, set(avoid), use_reserve=use_reserve)
        if placement is None and await self.punch_free({Backing.UNKNOWN}):
            # Nobody knows whether rows found free at open take room. Once punched they do, and that room is free.
            placement = await self._place(size, set(avoid), use_reserve=use_reserve)
        if placement is None:
            raise NoSpace(
                f"no room for {size} bytes: no slab on healthy disks has it, and a new one would leave less than "
                f"{self._reserve(use_reserve)} bytes on a disk; delete something or add disks"
            )
        return placement

    async def _place(self, size: int, avoid: set[SlabId], *, use_reserve: bool) -> Placement | None:
        width_max = self._width_now()
        for is_last_resort in (False, True):
            for width in range(width_max, 0, -1):
                if size > width * self._chunk_bytes:
                    continue
                while True:
                    placement = self._take(size, width, avoid, is_last_resort=is_last_resort)
                    if placement is None:
                        if is_last_resort or not await self._create(width, use_reserve=use_reserve):
                            break
                    elif await self._is_writable(placement, use_reserve=use_reserve):
                        return placement
                    else:
                        self.give_back(placement.stripe_id, placement.rows)
                        avoid.add(placement.state.slab_id)
        return None

    def give_back(self, stripe_id: StripeId, rows: int) -> None:
        """Make the rows of a stripe free: from now on others may be written there."""
        state = self._slabs[slab_of(stripe_id)]
        state.rows.give_back(row_of(stripe_id), rows)
        self._index(state)

    def note_written(self, placement: Placement) -> None:
        """Note that the rows were written: there are blocks behind them, and the slab takes writes."""
        placement.state.set_backing(placement.row, placement.rows, Backing.PRESENT)
        placement.state.is_suspect = False

    def _take(self, size: int, width: int, avoid: set[SlabId], *, is_last_resort: bool) -> Placement | None:
        unit_bytes = unit_bytes_for(size, width)
        rows = unit_bytes // ROW_BYTES
        rooms = self._rooms[width]
        for index in range(bisect_left(rooms, (rows, SlabId(-1))), len(rooms)):
            state = self._slabs[rooms[index][1]]
            if state.slab_id in avoid or (state.is_suspect and not is_last_resort):
                continue
            if self._is_up(state.slab):
                row = state.rows.take(rows)
                assert row is not None
                self._index(state)
                return Placement(state, row, unit_bytes)
        return None

    def _is_up(self, slab: Slab) -> bool:
        return all(map(self._pool.is_up, slab.disks))

    def _index(self, state: SlabState) -> None:
        """Keep the index of rooms in step with a slab whose rows or phase changed."""
        largest = state.rows.largest if state.phase is SlabPhase.OPEN else 0
        if state.slab.parity_units != self._parity_units or state.slab.data_units > self._data_units:
            largest = 0  # a code that is not written any more
        if largest == state.indexed:
            return
        if state.indexed:
            rooms = self._rooms[state.slab.data_units]
            del rooms[bisect_left(rooms, (state.indexed, state.slab_id))]
        if largest:
            insort(self._rooms[state.slab.data_units], (largest, state.slab_id))
        state.indexed = largest

    async def _is_writable(self, placement: Placement, *, use_reserve: bool) -> bool:
        """Whether the rows can be written without eating into the reserve: rows with blocks behind them always."""
        state = placement.state
        if state.is_backed(placement.row, placement.rows):
            return True
        with_room = await self._disks_with_room(state.slab.disks, placement.unit_bytes, use_reserve=use_reserve)
        return len(with_room) == len(state.slab.disks)

    # --- slabs come -----------------------------------------------------------------------------------------------

    def _width_now(self) -> int:
        up = len(self._pool.up())
        width = min(self._data_units, up - self._parity_units)
        if width < 1:
            raise TooFewDisks(
                f"{up} disks are up; a stripe with {self._parity_units} parity units needs {self._parity_units + 1}"
            )
        return width

    def _reserve(self, use_reserve: bool) -> int:
        return self._reserve_bytes * RESERVE_CHUNKS_FOR_LOG // RESERVE_CHUNKS if use_reserve else self._reserve_bytes

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
                up = [disk_id for disk_id in self._pool.up() if disk_id not in failed]
                units = width + self._parity_units
                if len(up) < units:
                    return False
                candidates = self._pool.choose(len(up), exclude=tuple(failed))
                disks = await self._disks_with_room(candidates, self._chunk_bytes, use_reserve=use_reserve)
                if len(disks) < units:
                    return False
                slab = Slab(width, self._parity_units, self._chunk_bytes, tuple(disks[:units]))
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
        rows = RowAllocator(slab.chunk_bytes // ROW_BYTES)
        state = SlabState(slab_id, slab, rows, SlabPhase.CREATING, is_recorded=False)
        self._slabs[slab_id] = state
        errors: list[DiskError] = []

        async def create(unit: int, disk_id: DiskId) -> None:
            try:
                await self._pool.disk(disk_id).create(chunk_name(slab_id, unit), slab.chunk_bytes)
            except DiskError as error:
                self._pool.report(error)
                errors.append(error)

        with trio.CancelScope(shield=True):  # half a slab must not stay behind
            async with trio.open_nursery() as nursery:
                for unit, disk_id in enumerate(slab.disks):
                    nursery.start_soon(create, unit, disk_id)
            if errors:
                await self._delete_chunks(state)
                del self._slabs[slab_id]
                return errors
        state.enter(SlabPhase.OPEN)
        self._index(state)
        return []

    async def _disks_with_room(self, candidates: Iterable[DiskId], size: int, *, use_reserve: bool) -> list[DiskId]:
        """Those of the candidates, in order, that can each take ``size`` bytes and keep the reserve.

        Disks on one device share its room: each of them counts with what it takes and with its own reserve.
        """
        spaces = {}
        for disk_id in candidates:
            try:
                spaces[disk_id] = await self._pool.disk(disk_id).space()
            except DiskError as error:
                self._pool.report(error)
        needed: dict[int, int] = {}
        for space in spaces.values():
            needed[space.device] = needed.get(space.device, 0) + self._reserve(use_reserve)
        found: list[DiskId] = []
        for disk_id, space in spaces.items():
            if space.free_bytes >= needed[space.device] + size:
                needed[space.device] += size
                found.append(disk_id)
        return found

    # --- slabs go -------------------------------------------------------------------------------------------------

    def take_empty(self, keep: int) -> list[SlabId]:
        """Retire the slabs in which nothing is stored but ``keep`` of them: no stripe is placed there any more."""
        empty = [state for state in self._slabs.values() if self._is_empty(state)]
        # What stays is what new stripes want: wide, and healthy.
        empty.sort(key=lambda state: (not state.is_suspect, state.slab.data_units, -state.slab_id))
        retired = empty[: max(0, len(empty) - keep)]
        for state in retired:
            state.enter(SlabPhase.RETIRED)
            self._index(state)
        return [state.slab_id for state in retired]

    def _is_empty(self, state: SlabState) -> bool:
        return state.phase is SlabPhase.OPEN and state.rows.free == state.rows.rows

    async def drop(self, slab_id: SlabId) -> None:
        """Delete the chunk files of a slab from ``take_empty``, whose record is durably gone.

        What cannot be deleted (a disk is away) is a stray when the disk returns.
        """
        state = self._slabs[slab_id]
        assert state.phase is SlabPhase.RETIRED
        with trio.CancelScope(shield=True):
            await self._delete_chunks(state)
            del self._slabs[slab_id]

    async def _delete_chunks(self, state: SlabState) -> None:
        for unit, disk_id in enumerate(state.slab.disks):
            await self._delete(disk_id, chunk_name(state.slab_id, unit))

    async def _delete(self, disk_id: DiskId, name: str) -> bool:
        try:
            await self._pool.disk(disk_id).delete(name)
        except (DiskMissing, FileMissing):
            return False
        except DiskError as error:
            self._pool.report(error)
            return False
        return True

    async def collect_strays(self) -> int:
        """Delete chunk files that no slab owns, on the disks that are up; how many there were. After ``load``."""
        count = 0
        for disk_id in self._pool.up():
            try:
                entries = await self._pool.disk(disk_id).list(CHUNK_PREFIX)
            except DiskError as error:
                self._pool.report(error)
                continue
            for entry in entries:
                parsed = parse_chunk_name(entry.name)
                if parsed is None:
                    continue
                slab_id, unit = parsed
                # Numbers only grow past everything seen, so a stray's name is never given to a new chunk meanwhile.
                self._next_id = SlabId(max(self._next_id, slab_id + 1))
                state = self._slabs.get(slab_id)
                if state is None or unit >= state.units or state.slab.disks[unit] != disk_id:
                    count += await self._delete(disk_id, entry.name)
        return count

    async def punch_free(self, backings: set[Backing]) -> int:
        """Give back the blocks behind free rows that have one of these backings (see ``free_runs``); raw bytes punched.

        The rows are held while they are punched, so that nothing is written there meanwhile.
        """
        punched = 0
        for state in list(self._open_states()):
            for start, count in state.free_runs(backings):
                if state.phase is not SlabPhase.OPEN or not state.rows.is_free(start, count):
                    continue  # it was taken, or the slab retired, while others were punched
                state.rows.take_at(start, count)
                self._index(state)
                with trio.CancelScope(shield=True):
                    punched += await self._punch(state, start, count)
                state.set_backing(start, count, Backing.PUNCHED)
                state.rows.give_back(start, count)
                self._index(state)
                await trio.lowlevel.checkpoint()
        return punched

    def _open_states(self) -> Iterator[SlabState]:
        return (state for state in self._slabs.values() if state.phase is SlabPhase.OPEN)

    async def _punch(self, state: SlabState, start: int, count: int) -> int:
        punched = 0
        for unit, disk_id in enumerate(state.slab.disks):
            try:
                await self._pool.disk(disk_id).punch(
                    chunk_name(state.slab_id, unit), start * ROW_BYTES, count * ROW_BYTES
                )
                punched += count * ROW_BYTES
            except DiskMissing:
                continue
            except DiskError as error:
                self._pool.report(error)
        return punched
