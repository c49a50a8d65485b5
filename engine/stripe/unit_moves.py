"""Moving a unit of a slab to another disk: closed for new stripes, a new file, and open again.

What is written between ``begin`` and ``end`` (engine/stripe/moving.py) and the batch with the slab's new record
(core/mover.py) are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from siltstone.engine.stripe.chunk_files import ChunkFiles
from siltstone.engine.stripe.layout import Slab
from siltstone.engine.stripe.slab import SlabPhase, SlabState
from siltstone.engine.stripe.unit_index import UnitIndex
from siltstone.types import DiskId, SlabId


class UnitMoves:
    """Moves units of ``slabs``, which are kept, with their ``index``, by their owner; ``note_changed`` tells it which
    have changed."""

    def __init__(
        self,
        files: ChunkFiles,
        slabs: Mapping[SlabId, SlabState],
        index: UnitIndex,
        note_changed: Callable[[SlabState], None],
    ) -> None:
        self._files = files
        self._slabs = slabs
        self._unit_index = index
        self._note_changed = note_changed

    async def begin(self, slab_id: SlabId, unit: int, source: DiskId, target: DiskId) -> bool:
        """Close a slab for new stripes and make a chunk file for one of its units on a disk that it does not use.

        Returns when nobody is writing to the slab any more; False if it is gone, nobody may move it now, or its units
        have moved since that was planned. The caller fills the file, and then calls ``end``. Raises DiskError, with
        everything as it was.
        """
        state = self._slabs.get(slab_id)
        if state is None or state.phase is not SlabPhase.OPEN or state.is_closed or not state.is_recorded:
            return False
        if state.slab.disks[unit] != source or target in state.slab.disks:
            return False
        state.is_closed = True
        state.incoming = unit, target
        self._note_changed(state)
        try:
            await self._files.create_anew(slab_id, state.slab, unit, target)
            while state.uncommitted:
                state.all_committed = trio.Event()
                await state.all_committed.wait()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.end(slab_id, moved=None)
            raise
        return True

    async def end(self, slab_id: SlabId, *, moved: Slab | None) -> None:
        """Open the slab again: with its new record, or as it was, without the new file."""
        state = self._slabs[slab_id]
        assert state.incoming is not None
        unit, target = state.incoming
        state.incoming = None
        state.is_closed = False
        if moved is not None:
            before, state.slab = state.slab, moved
            self._unit_index.remove(slab_id, before)
            self._unit_index.add(slab_id, moved)
        self._note_changed(state)
        if moved is None:
            await self._files.delete(slab_id, unit, target)

    async def drop_source(self, slab_id: SlabId, unit: int, disk_id: DiskId) -> None:
        """Delete the file that a unit had before it was moved; what cannot be deleted now is a stray."""
        await self._files.delete(slab_id, unit, disk_id)
