"""Where new stripes go: rows for runs of bytes, in slabs that have room, in new ones, or wherever there are any.

Taking rows is atomic between tasks; only making slabs, and asking disks for their room, waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.layout import unit_bytes_for
from siltstone.engine.stripe.slab import (
    Placement,
    SlabState,
    take_backed_placement,
    take_placement,
)
from siltstone.engine.stripe.slabs import Slabs
from siltstone.errors import NoSpace
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId, SlabId

BACKED_SLABS_MAX = 64
"""Slabs whose rows are looked at one by one for some that need no room on the disks."""


class RowPlacer:
    """Takes rows of the slabs of a pool."""

    def __init__(self, pool: Pool, slabs: Slabs) -> None:
        self._pool = pool
        self._slabs = slabs

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
        if placed is None and (self._slabs.puncher.is_punching or self._slabs.puncher.has_unknown):
            # Nobody knows whether rows found free at open take room. Once punched they do, and that room is free. Rows
            # that were being punched are free again as well.
            await self._slabs.puncher.punch_unknown()
            placed = await self._place(sizes, set(avoid), written, use_reserve=use_reserve)
        if placed is None:
            placed = self._place_backed(sizes, avoid, written)
        if placed is None:
            raise NoSpace(
                f"no room for {sum(sizes)} bytes: no slab on healthy disks has it, and a new one would leave less than "
                f"{self._slabs.disk_room.reserve(use_reserve)} bytes on a disk; delete something or add disks"
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

    async def _place_run(
        self, size: int, placements: list[Placement], avoid: set[SlabId], written: int, *, use_reserve: bool
    ) -> bool:
        """Take rows for one run: whole if that can be, else in pieces. False when there are too few."""
        slabs = self._slabs
        width_max = slabs.width_now()
        for is_last_resort in (False, True):
            for width in range(width_max, 0, -1):
                rows = unit_bytes_for(size, width) // ROW_BYTES
                state = self._with_room(rows, width, avoid, is_last_resort=is_last_resort)
                while state is None and not is_last_resort and await slabs.create(width, use_reserve=use_reserve):
                    state = self._with_room(rows, width, avoid, is_last_resort=is_last_resort)
                if state is None:
                    state = self._roomiest(width, avoid, is_last_resort=is_last_resort)
                while state is not None:
                    piece = min(size, state.largest * width * ROW_BYTES)
                    placements.append(take_placement(state, piece, unit_bytes_for(piece, width), written))
                    slabs.note_changed(state)
                    size -= piece
                    if not size:
                        return True
                    state = self._roomiest(width, avoid, is_last_resort=is_last_resort)
        return False

    def _place_backed(self, sizes: Sequence[int], avoid: set[SlabId], written: int) -> list[list[Placement]] | None:
        """Take rows that need no room on the disks, wherever they are: what is left when all others do, for want of it.

        Looks at rows one by one, so only at the slabs that have most.
        """
        placed: list[list[Placement]] = [[] for _ in sizes]
        states = list(islice(self._backed_slabs(avoid), BACKED_SLABS_MAX))
        states.reverse()  # the best last, so that one in which nothing is left goes cheaply
        for size, placements in zip(sizes, placed, strict=True):
            left = size
            while left:
                found = None
                while states and (found := take_backed_placement(states[-1], left, written)) is None:
                    states.pop()
                if found is None:
                    self._give_back_all(placed)
                    return None
                placements.append(found)
                self._slabs.note_changed(found.state)
                left -= found.stripe.data_bytes
        return placed

    def _backed_slabs(self, avoid: set[SlabId]) -> Iterator[SlabState]:
        for state in self._slabs.rooms.most_backed_first():
            if state.slab_id not in avoid and self._slabs.is_placeable(state.slab):
                yield state

    def _give_back_all(self, placed: Iterable[Iterable[Placement]]) -> None:
        for placements in placed:
            for placement in placements:
                self._slabs.abandon(placement.stripe_id, placement.stripe)

    def _with_room(self, rows: int, width: int, avoid: set[SlabId], *, is_last_resort: bool) -> SlabState | None:
        """The slab whose longest run is the shortest one that is long enough."""
        found = self._slabs.rooms.shortest_first(width, rows)
        return next((state for state in found if self._takes_stripes(state, avoid, is_last_resort)), None)

    def _roomiest(self, width: int, avoid: set[SlabId], *, is_last_resort: bool) -> SlabState | None:
        """The slab with the longest run."""
        found = self._slabs.rooms.longest_first(width)
        return next((state for state in found if self._takes_stripes(state, avoid, is_last_resort)), None)

    def _takes_stripes(self, state: SlabState, avoid: set[SlabId], is_last_resort: bool) -> bool:
        is_avoided = state.slab_id in avoid or (state.is_suspect and not is_last_resort)
        return not is_avoided and self._slabs.is_placeable(state.slab)

    async def _without_room(self, placed: Iterable[Iterable[Placement]], *, use_reserve: bool) -> set[SlabId]:
        """The slabs whose rows cannot be written without eating into the reserve; rows with blocks behind them always
        can."""
        room = self._slabs.disk_room
        reserve = room.rows_reserve(use_reserve)
        unbacked: dict[SlabId, dict[DiskId, int]] = {}
        for placements in placed:
            for placement in placements:
                sizes = unbacked.setdefault(placement.state.slab_id, {})
                for disk_id in placement.unbacked_disks():
                    sizes[disk_id] = sizes.get(disk_id, 0) + placement.stripe.unit_bytes
        without: set[SlabId] = set()
        for slab_id, sizes in unbacked.items():
            if sizes and len(await room.disks_with_room(sizes, max(sizes.values()), reserve)) < len(sizes):
                without.add(slab_id)
        return without
