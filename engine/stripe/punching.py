"""Punching: the blocks behind free rows go back to the disks.

Which slabs have such rows is noted as they come free, and nobody looks at the others. Some slabs are punched at once:
each file is one job of its disk, however many places in it, and whoever asked is woken once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.layout import chunk_name
from siltstone.engine.stripe.slab import Backing, Rows, SlabPhase, SlabState
from siltstone.errors import DiskMissing
from siltstone.limits import MIB, ROW_BYTES
from siltstone.ports import DiskPunch
from siltstone.types import SlabId

BATCH_BYTES = 8 * MIB
"""Raw bytes that are punched at once, and that nobody can take meanwhile; the free rows of one slab always are."""

BATCH_SLABS = 64
"""Slabs that are punched at once: bounds the files that are opened, and the time until others get to the disks."""


class _Held(NamedTuple):
    """Rows that nobody takes until they are punched, in the data chunks of a slab or in its parity chunks."""

    state: SlabState
    rows: Rows
    units: range
    row: int
    row_count: int
    is_backed: bool

    @property
    def raw_bytes(self) -> int:
        """In all chunks."""
        return len(self.units) * self.row_count * ROW_BYTES


class Puncher:
    """Punches free rows of slabs, which are kept by their owner; ``note_changed`` tells it which have changed."""

    def __init__(
        self, pool: Pool, slabs: Mapping[SlabId, SlabState], note_changed: Callable[[SlabState], None]
    ) -> None:
        self._pool = pool
        self._slabs = slabs
        self._note_changed = note_changed
        self._idle: dict[SlabId, None] = {}
        """Slabs that may have rows to punch, those that have waited longest first."""
        self._unknown: dict[SlabId, None] = {}
        """Of those, the ones with rows that were found free at opening."""
        self._lock = trio.Lock()

    @property
    def has_idle(self) -> bool:
        """Whether there may be anything to punch."""
        return bool(self._idle)

    @property
    def has_unknown(self) -> bool:
        """Whether there may be rows that were found free at opening and of which nobody knows what is behind them."""
        return bool(self._unknown)

    def note_free(self, slab_id: SlabId) -> None:
        """Rows of a slab have come free."""
        self._idle[slab_id] = None

    def note_opened(self, slab_id: SlabId) -> None:
        """A slab was found at opening."""
        self._idle[slab_id] = self._unknown[slab_id] = None

    def forget(self, slab_id: SlabId) -> None:
        """A slab has gone."""
        self._idle.pop(slab_id, None)
        self._unknown.pop(slab_id, None)

    async def punch(self, bytes_max: int | None = None) -> int:
        """Punch the free rows that were written before, or of which nobody knows; raw bytes punched.

        ``bytes_max``: stop when so much was punched, or a little more.
        """
        punched = 0
        slabs_left = len(self._idle)  # those that get rows to punch meanwhile are for the next time
        while slabs_left > 0 and self._idle and (bytes_max is None or punched < bytes_max):
            batch_bytes = BATCH_BYTES if bytes_max is None else min(BATCH_BYTES, bytes_max - punched)
            async with self._lock:
                held: list[_Held] = []
                slabs = size = 0
                while self._idle and slabs < min(BATCH_SLABS, slabs_left) and size < batch_bytes:
                    slab_id = next(iter(self._idle))
                    self.forget(slab_id)
                    found = self._hold(slab_id, {Backing.PRESENT, Backing.UNKNOWN})
                    held += found
                    slabs, size = slabs + 1, size + sum(item.raw_bytes for item in found)
                slabs_left -= slabs
                punched += await self._punch(held)
        return punched

    async def punch_unknown(self) -> int:
        """Punch the rows that were found free at opening, whatever is behind them; raw bytes punched. What others are
        punching when it is called is free again on return."""
        punched = 0
        async with self._lock:
            while self._unknown:
                held: list[_Held] = []
                for slab_id in list(islice(self._unknown, BATCH_SLABS)):
                    del self._unknown[slab_id]
                    held += self._hold(slab_id, {Backing.UNKNOWN})
                punched += await self._punch(held)
        return punched

    @property
    def is_punching(self) -> bool:
        """Whether rows are held."""
        return self._lock.locked()

    def _hold(self, slab_id: SlabId, backings: set[Backing]) -> list[_Held]:
        state = self._slabs[slab_id]
        if state.phase is not SlabPhase.OPEN:
            return []
        held: list[_Held] = []
        data = range(state.slab.data_units)
        for rows, units in ((state.data, data), (state.parity, range(len(data), state.units))):
            for row, count in rows.free_runs(backings):
                held.append(_Held(state, rows, units, row, count, rows.is_backed(row, count)))
                rows.allocator.take_at(row, count)
        self._note_changed(state)
        return held

    async def _punch(self, held: list[_Held]) -> int:
        """Punch rows that are held, and let go of them."""
        if not held:
            return 0
        ranges: dict[tuple[SlabId, int], list[tuple[int, int]]] = {}
        for state, _, units, row, count, _ in held:
            for unit in units:
                ranges.setdefault((state.slab_id, unit), []).append((row * ROW_BYTES, count * ROW_BYTES))
        punches: dict[tuple[SlabId, int], DiskPunch] = {}
        for (slab_id, unit), places in ranges.items():
            try:
                disk = self._pool.disk(self._slabs[slab_id].slab.disks[unit])
            except DiskMissing:
                continue
            punches[slab_id, unit] = DiskPunch(disk, chunk_name(slab_id, unit), places)
        try:
            errors = dict(zip(punches, await self._pool.punch(list(punches.values())), strict=True))
            return self._count(held, {file for file, error in errors.items() if error is None})
        finally:
            for state, rows, _, row, count, _ in held:
                rows.set_backing(row, count, Backing.PUNCHED)
                rows.allocator.give_back(row, count)
                self._note_changed(state)

    def _count(self, held: list[_Held], punched: set[tuple[SlabId, int]]) -> int:
        """The raw bytes that were given back; tells the pool of those that surely took room."""
        total = 0
        for state, _, units, _, count, is_backed in held:
            for unit in units:
                if (state.slab_id, unit) in punched:
                    total += count * ROW_BYTES
                    if is_backed:
                        self._pool.note_taken(state.slab.disks[unit], -count * ROW_BYTES)
        return total
