"""Room of stripes: what there is, what is used and what is left, in bytes.

Each slab that changes is noted, and only those are looked at again when somebody asks: asking costs the same for any
number of slabs. What the disks have free is as the pool saw it last, less what was taken since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.layout import Slab
from siltstone.engine.stripe.slab import SlabState
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId, SlabId


class _Counted(NamedTuple):
    """What one slab adds to StripeSpace. Only a slab that takes stripes has free rows."""

    suspect: int = 0
    raw: int = 0
    raw_used: int = 0
    raw_free: int = 0
    raw_punched: int = 0
    data: int = 0
    data_free: int = 0
    data_ready: int = 0
    """Of that, what has blocks behind its parity as well."""


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


def data_chunks_in(chunks: Sequence[int], data_units: int, parity_units: int) -> int:
    """Data chunks of the slabs that disks have room for, each for so many chunks: as wide as can be, then narrower.

    A slab takes a chunk of as many different disks as it has units, so room on few disks is of no use.
    """
    units = data_units + parity_units
    low, high = 0, sum(chunks) // units
    while low < high:  # the most slabs of full width: none can take more than one chunk of a disk
        slabs = (low + high + 1) // 2
        low, high = (slabs, high) if sum(min(slabs, count) for count in chunks) >= slabs * units else (low, slabs - 1)
    left = sorted(chunks, reverse=True)
    taken, wanted = 0, low * units
    for index, count in enumerate(left):
        step = min(low, count, wanted - taken)
        left[index] -= step
        taken += step
    data, left = low * data_units, sorted(left, reverse=True)
    for width in range(min(units, len(left)), parity_units, -1):
        data += (left[width - 1] - (left[width] if width < len(left) else 0)) * (width - parity_units)
    return data


_NOTHING = _Counted()


class SpaceCount:
    """Counts the room in slabs and in what the disks have free.

    ``slabs``: all there are, as they are kept by their owner, who tells which have changed. ``layout``: what a new slab
    of full width would be, but for its disks.
    """

    def __init__(self, pool: Pool, slabs: Mapping[SlabId, SlabState], layout: Slab, *, reserve_bytes: int) -> None:
        self._pool = pool
        self._slabs = slabs
        self._layout = layout
        self.reserve_bytes = reserve_bytes
        """What new slabs leave free on each disk."""
        self._changed: set[SlabId] = set()
        self._counted: dict[SlabId, _Counted] = {}
        self._total = _NOTHING
        pool.subscribe(self._note_disk)

    def note(self, slab_id: SlabId) -> None:
        """A slab has come, changed or gone."""
        self._changed.add(slab_id)

    def space(self) -> StripeSpace:
        """Room now; the disks' as the pool saw it last."""
        self._count()
        suspect, raw, raw_used, raw_free, raw_punched, data, data_free, _ = self._total
        total, free_of = self._disk_bytes(self.reserve_bytes)
        free = sum(left for left, _ in free_of.values())
        k, units = self._layout.data_units, self._layout.data_units + self._layout.parity_units
        # Free rows that were punched take their room from the disks again; of the rest only whole slabs are of use.
        for_rows = min(free, raw_punched)
        file_bytes = self._layout.raw_bytes // units  # on average: those of data are shorter, and every disk has both
        chunks: list[int] = []
        for left, disks in free_of.values():
            count = (left - left * for_rows // free) // file_bytes if free else 0
            chunks += [(count + index) // disks for index in range(disks)]
        for_slabs = data_chunks_in(chunks, k, self._layout.parity_units) * self._layout.data_rows * ROW_BYTES
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
            reserve_bytes=self.reserve_bytes,
        )

    def writable_bytes(self, rows_reserve: int, slabs_reserve: int, *, files: int, file_bytes: int) -> int:
        """What can be written for sure while rows leave so much free on each disk, and new slabs so much, once so many
        files of ``file_bytes`` have been made where most is free.

        Other than ``usable_free_bytes`` it takes into account that a row takes its room from k + m disks: what one of
        them has alone is of no use.
        """
        self._count()
        k, units = self._layout.data_units, self._layout.data_units + self._layout.parity_units
        free = list(self.free_by_disk().values())
        if not free:
            return 0
        for _ in range(files):
            most = max(free)
            if most - file_bytes < rows_reserve:
                return 0  # not even these
            free[free.index(most)] -= file_bytes
        ready = self._total.data_ready
        unready = self._total.data_free - ready + self._total.raw_punched * k // units
        rows = min(unready, self._data_pieces([left - rows_reserve for left in free], ROW_BYTES) * ROW_BYTES)
        taken = rows * units // (k * len(free))
        slabs = self._data_pieces([left - taken - slabs_reserve for left in free], self._layout.chunk_bytes)
        return ready + rows + slabs * self._layout.data_rows * ROW_BYTES

    def free_by_disk(self) -> dict[DiskId, int]:
        """What each disk that takes new data has free, as the pool saw it last, less what was taken since. Disks on one
        device have equal parts of it."""
        _, free_of = self._disk_bytes(0)
        found: dict[DiskId, int] = {}
        for status in self._pool.status():
            if status.space is not None and self._pool.is_placeable(status.disk_id):
                left, disks = free_of[status.space.device]
                found[status.disk_id] = left // disks
        return found

    def _data_pieces(self, free: Sequence[int], size: int) -> int:
        """How many data units of ``size`` bytes fit, with their parity, into what disks have free."""
        pieces = [max(0, left) // size for left in free]
        return data_chunks_in(pieces, self._layout.data_units, self._layout.parity_units)

    def _count(self) -> None:
        """Bring the totals up to date: what has changed since the last call is looked at, never all slabs."""
        if not self._changed:
            return
        total = list(self._total)
        for slab_id in self._changed:
            state = self._slabs.get(slab_id)
            found = _Counted() if state is None else self._counted_of(state)
            before = self._counted.pop(slab_id, _NOTHING)
            if state is not None:
                self._counted[slab_id] = found
            for index, (old, new) in enumerate(zip(before, found, strict=True)):
                total[index] += new - old
        self._changed.clear()
        self._total = _Counted(*total)

    def recount(self) -> StripeSpace:
        """What ``space`` tells, from a look at every slab: the check of its totals."""
        self._changed.update(self._slabs)
        self._counted.clear()
        self._total = _NOTHING
        return self.space()

    def _counted_of(self, state: SlabState) -> _Counted:
        takes_stripes = all(map(self._pool.is_placeable, state.slab.disks)) and not state.is_shunned
        return _Counted(
            suspect=int(state.is_suspect),
            raw=state.slab.raw_bytes,
            raw_used=state.raw(state.data.used, state.parity.used),
            raw_free=state.raw(state.data.backed_free, state.parity.backed_free) if takes_stripes else 0,
            raw_punched=state.raw(state.data.punched_free, state.parity.punched_free) if takes_stripes else 0,
            data=state.slab.data_bytes,
            data_free=state.data.backed_free * ROW_BYTES * state.slab.data_units if takes_stripes else 0,
            data_ready=state.backed_free * ROW_BYTES * state.slab.data_units if takes_stripes else 0,
        )

    def _note_disk(self, _disk_id: DiskId, _is_up: bool) -> None:
        """Which slabs take stripes may be different now."""
        self._changed.update(self._slabs)

    def _disk_bytes(self, reserve: int) -> tuple[int, dict[int, tuple[int, int]]]:
        """Bytes in all, and for each device what is free above the reserve of its disks and how many these are."""
        total: dict[int, int] = {}
        free: dict[int, int] = {}
        taken: dict[int, int] = {}
        disks: dict[int, int] = {}
        for status in self._pool.status():
            space = status.space
            if space is None:
                continue
            taken[space.device] = taken.get(space.device, 0) + status.taken_bytes
            if self._pool.is_placeable(status.disk_id):
                total[space.device] = space.total_bytes
                free[space.device] = min(free.get(space.device, space.free_bytes), space.free_bytes)
                disks[space.device] = disks.get(space.device, 0) + 1
        for device, count in disks.items():
            free[device] -= taken[device] + count * reserve
        return sum(total.values()), {device: (max(0, left), disks[device]) for device, left in free.items()}
