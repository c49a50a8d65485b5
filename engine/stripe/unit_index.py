"""Which slabs have a unit on each disk, and which are of what shape.

Kept as slabs come, move and go, so that nobody who asks has to look at all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set

from siltstone.engine.stripe.layout import Slab
from siltstone.types import DiskId, SlabId

_NONE: Set[SlabId] = frozenset()


class UnitIndex:
    """An index of slabs, which are kept by their owner: it tells of each that comes, moves or goes."""

    def __init__(self) -> None:
        self._on: dict[DiskId, set[SlabId]] = {}
        self._shapes: dict[tuple[int, int], set[SlabId]] = {}
        self._listeners: list[Callable[[SlabId], None]] = []

    def subscribe(self, listener: Callable[[SlabId], None]) -> None:
        """Be told of each slab whose units lie elsewhere, or count for something else, than before."""
        self._listeners.append(listener)

    def note(self, slab_id: SlabId) -> None:
        """A slab has changed."""
        for listener in self._listeners:
            listener(slab_id)

    def add(self, slab_id: SlabId, slab: Slab) -> None:
        """A slab has come."""
        for disk_id in slab.disks:
            self._on.setdefault(disk_id, set()).add(slab_id)
        self._shapes.setdefault((slab.data_units, slab.parity_units), set()).add(slab_id)
        self.note(slab_id)

    def remove(self, slab_id: SlabId, slab: Slab) -> None:
        """A slab, which was of this kind, has gone."""
        for disk_id in slab.disks:
            self._on[disk_id].remove(slab_id)
            if not self._on[disk_id]:
                del self._on[disk_id]
        self._shapes[slab.data_units, slab.parity_units].remove(slab_id)
        self.note(slab_id)

    def is_of(self, slabs: Iterable[tuple[SlabId, Slab]]) -> bool:
        """Whether it is the index of these slabs: the check of what is kept here."""
        anew = UnitIndex()
        for slab_id, slab in slabs:
            anew.add(slab_id, slab)
        shapes = {shape: slab_ids for shape, slab_ids in self._shapes.items() if slab_ids}
        return (self._on, shapes) == (anew._on, anew._shapes)

    def on(self, disk_id: DiskId) -> Set[SlabId]:
        """The slabs that have a unit on a disk, or should have."""
        return self._on.get(disk_id, _NONE)

    def disks(self) -> Set[DiskId]:
        """The disks that any slab has a unit on."""
        return self._on.keys()

    def narrower(self, data_units: int, parity_units: int) -> Iterator[SlabId]:
        """The slabs with fewer data units, or fewer parity units, than these. Await nothing between two of them."""
        for (data, parity), slab_ids in self._shapes.items():
            if data < data_units or parity < parity_units:
                yield from slab_ids
