"""What waits to be moved off lost and draining disks, in the order of need, as slabs and disks change.

A change of the disks looks at the slabs with a unit on those that matter; a slab that changes is looked at alone. So a
rebuild of many slabs costs no more for each of them than one of few.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Set

from siltstone.core.move_plan import Move, SlabView, moves_of, urgency_of
from siltstone.types import DiskId, SlabId

_Place = tuple[int, SlabId, int]
"""Urgency, slab, unit: the order in which units move."""


class MoveQueue:
    """The moves of all slabs that it is told of. Iterates over those that have a disk to go to."""

    def __init__(self) -> None:
        self._lost: Set[DiskId] = frozenset()
        self._draining: Set[DiskId] = frozenset()
        self._takers: Set[DiskId] = frozenset()
        self._of_slab: dict[SlabId, tuple[list[_Place], list[Move]]] = {}
        self._order: list[_Place] = []
        self._sources: Counter[DiskId] = Counter()
        self._stranded: set[SlabId] = set()
        self.size = 0
        """Bytes of the chunk files that are to move."""
        self.stranded_count = 0
        """Of the moves, those that no disk can take: each has a unit of the same slab."""

    def __len__(self) -> int:
        return self._sources.total()

    def __iter__(self) -> Iterator[Move]:
        for _, slab_id, unit in self._order:
            yield next(move for move in self._of_slab[slab_id][1] if move.unit == unit)

    def has_move(self, slab_id: SlabId, unit: int) -> bool:
        """Whether a unit is to move."""
        return slab_id in self._of_slab and any(move.unit == unit for move in self._of_slab[slab_id][1])

    @property
    def disks(self) -> tuple[Set[DiskId], Set[DiskId], Set[DiskId]]:
        """What ``set_disks`` was told last: lost, draining, takers."""
        return self._lost, self._draining, self._takers

    @property
    def sources(self) -> list[DiskId]:
        """The disks that units are to leave, sorted."""
        return sorted(self._sources)

    @property
    def stranded(self) -> Set[SlabId]:
        """Slabs with a unit that is to move and no other disk that could take it."""
        return self._stranded

    def set_disks(
        self, lost: Set[DiskId], draining: Set[DiskId], takers: Set[DiskId], slabs: Iterable[SlabView]
    ) -> None:
        """Other disks are lost, draining, or take new files. ``slabs``: all with a unit on one of the first two."""
        self._lost, self._draining, self._takers = lost, draining, takers
        self._of_slab.clear()
        self._sources.clear()
        self._stranded.clear()
        self.size = self.stranded_count = 0
        for view in slabs:
            self._add(view)
        self._order = sorted(place for places, _ in self._of_slab.values() for place in places)

    def put(self, view: SlabView) -> None:
        """A slab has come, or its units lie elsewhere."""
        self.remove(view.slab_id)
        for place in self._add(view):
            insort(self._order, place)

    def remove(self, slab_id: SlabId) -> None:
        """A slab has gone, if it was there."""
        places, moves = self._of_slab.pop(slab_id, ([], []))
        for place in places:
            del self._order[bisect_left(self._order, place)]
        for move in moves:
            self._sources[move.source] -= 1
            if not self._sources[move.source]:
                del self._sources[move.source]
            self.size -= move.size
            self.stranded_count -= not move.targets
        self._stranded.discard(slab_id)

    def _add(self, view: SlabView) -> list[_Place]:
        """Count the moves of a slab; the places of those that can be made."""
        moves = moves_of(view, lost=self._lost, draining=self._draining, takers=self._takers)
        if not moves:
            return []
        places = [(urgency_of(move, view, self._lost), view.slab_id, move.unit) for move in moves if move.targets]
        self._of_slab[view.slab_id] = places, moves
        for move in moves:
            self._sources[move.source] += 1
            self.size += move.size
            self.stranded_count += not move.targets
        if len(places) < len(moves):
            self._stranded.add(view.slab_id)
        return places
