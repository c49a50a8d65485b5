"""Which slabs have free rows: an index by how many neighbouring ones, and by how many with blocks behind them.

Its owner tells of each slab that changes. Where the longest runs are is kept at once, for every write asks; the rest
when somebody asks, which is when the disks are full.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from siltstone.engine.stripe.slab import SlabState
from siltstone.types import SlabId


class _Backed(NamedTuple):
    """Sorted so that the last is the widest, and of those the one with most."""

    data_units: int
    rows: int
    slab_id: SlabId


class Rooms:
    """The free rows of slabs of up to ``data_units`` data units, which are kept by their owner."""

    def __init__(self, slabs: Mapping[SlabId, SlabState], data_units: int) -> None:
        self._slabs = slabs
        # For each number of data units (largest free run, slab id), sorted.
        self._runs: dict[int, list[tuple[int, SlabId]]] = {width: [] for width in range(1, data_units + 1)}
        self._largest: dict[SlabId, tuple[int, int]] = {}  # (data units, largest free run) of those in ``_runs``
        self._backed: list[_Backed] = []
        self._backed_of: dict[SlabId, _Backed] = {}
        self._changed: set[SlabId] = set()

    def note(self, state: SlabState, largest: int) -> None:
        """A slab has come, changed or gone; ``largest``: the longest stripe that may be placed there, in rows."""
        slab_id = state.slab_id
        self._changed.add(slab_id)
        before = self._largest.get(slab_id)
        now = (state.slab.data_units, largest) if largest else None
        if now == before:
            return
        if before is not None:
            runs = self._runs[before[0]]
            del runs[bisect_left(runs, (before[1], slab_id))]
            del self._largest[slab_id]
        if now is not None:
            insort(self._runs[now[0]], (largest, slab_id))
            self._largest[slab_id] = now

    def shortest_first(self, data_units: int, rows: int) -> Iterator[SlabState]:
        """Slabs of so many data units with so many neighbouring rows, those with just enough first. Change nothing
        between two of them."""
        runs = self._runs[data_units]
        for index in range(bisect_left(runs, (rows, SlabId(-1))), len(runs)):
            yield self._slabs[runs[index][1]]

    def longest_first(self, data_units: int) -> Iterator[SlabState]:
        """Slabs of so many data units, those with most neighbouring rows first. Change nothing between two of them."""
        for _, slab_id in reversed(self._runs[data_units]):
            yield self._slabs[slab_id]

    def most_backed_first(self) -> Iterator[SlabState]:
        """Slabs with rows that can be written without new room on the disks, the widest first, and of those the ones
        with most. Change nothing between two of them."""
        for slab_id in self._changed:
            before = self._backed_of.pop(slab_id, None)
            if before is not None:
                del self._backed[bisect_left(self._backed, before)]
            if slab_id in self._largest:
                state = self._slabs[slab_id]
                if rows := state.backed_free:
                    now = self._backed_of[slab_id] = _Backed(state.slab.data_units, rows, slab_id)
                    insort(self._backed, now)
        self._changed.clear()
        for backed in reversed(self._backed):
            yield self._slabs[backed.slab_id]
