"""Moving one unit of a slab to another disk: copied or computed, made durable, recorded; only then its old file goes.

The slab is claimed and closed by the caller (core/mover.py). One batch puts the other disk into the slab's record: a
crash before it leaves a stray file, one after it the move. Rows that no stripe has are not copied.
"""

from __future__ import annotations

import msgspec
import trio

from siltstone.core.ledger import Ledger
from siltstone.core.move_plan import Move
from siltstone.core.pace import WINDOWS_ALONE, Pace
from siltstone.core.windows import window_from
from siltstone.engine.pool import DiskRole
from siltstone.engine.stripe.layout import Slab
from siltstone.errors import DiskError, Unavailable
from siltstone.limits import ROW_BYTES
from siltstone.meta import space
from siltstone.types import DiskId, SlabId, make_stripe_id, row_of, slab_of


class UnitMover:
    """Carries out moves of units of a volume's slabs, several side by side."""

    def __init__(self, ledger: Ledger, pace: Pace) -> None:
        self._ledger = ledger
        self._slabs = ledger.stripes.slabs
        self._pool = ledger.pool
        self._pace = pace
        self._begun_moves = 0
        self._done: dict[SlabId, int] = {}
        self.finished_bytes = 0
        """Of the chunk files that were filled; whoever begins a round of moves sets it back."""
        self.unreadable_stripes = 0
        """Of the last unit: those of which too few units were left to compute it."""

    @property
    def unfinished_bytes(self) -> int:
        """How far the chunk files have come that are being filled now."""
        return sum(self._done.values())

    async def carry_out(self, move: Move, target: DiskId) -> bool:
        """Move a unit whose new file was begun; durable on return, and the old file is to be forgotten then. False if
        the slab is gone. Raises what kept it from being moved: it is where it was, and the new file is gone."""
        self._done[move.slab_id] = 0
        moved: Slab | None = None
        try:
            await self._fill(move, target)
            moved = await self._record(move, target)
            if moved is not None:
                # Only then is the old file nobody's: a source that returns meanwhile would drop it as a stray, and a
                # crash could bring back the record that counts on it.
                await self._ledger.sync()
        finally:
            done = self._done.pop(move.slab_id)
            self.finished_bytes += done if moved is not None else 0
            with trio.CancelScope(shield=True):
                await self._slabs.moves.end(move.slab_id, moved=moved)
        return moved is not None

    async def _fill(self, move: Move, target: DiskId) -> None:
        """Fill the new chunk file with the units of living stripes; durable on return."""
        self._begun_moves += 1
        number = self._begun_moves
        cursor = make_stripe_id(move.slab_id, 0)
        is_done = False
        failures: list[DiskError] = []
        unreadable = unflushed = 0
        hopes: set[DiskId] = set()

        async def work() -> None:
            nonlocal cursor, is_done, unreadable, unflushed
            while True:
                async with self._pace.window(number):
                    if is_done or failures:
                        return
                    # What is looked up in the fence stays in place until it is left: stripes may die, their rows wait.
                    era = self._pace.enter_fence()
                    try:
                        window = window_from(self._ledger.store, cursor)
                        if not window.addresses or slab_of(window.addresses[0].stripe_id) != move.slab_id:
                            is_done = True
                            return
                        rows = row_of(window.cursor) - row_of(cursor)
                        cursor = window.cursor
                        away = self._hopes(move)
                        copied = await self._ledger.stripes.copy_unit(window.addresses, move.unit, target)
                        if copied.unreadable:
                            # One that has come back by now may have been missing all the same.
                            hopes.update(away, self._hopes(move))
                        unflushed += copied.written_bytes
                        if unflushed >= self._pace.flush_bytes:
                            unflushed = 0
                            await self._ledger.stripes.flush_unit(move.slab_id, move.unit, target)
                    except DiskError as error:
                        failures.append(error)
                        return
                    finally:
                        self._ledger.fence.leave(era)
                self._done[move.slab_id] += rows * ROW_BYTES
                unreadable += len(copied.unreadable)
                await self._pace.wait_for_budget(copied.written_bytes)

        async with trio.open_nursery() as nursery:
            for _ in range(WINDOWS_ALONE):
                nursery.start_soon(work)
        if failures:
            raise failures[0]
        self.unreadable_stripes = unreadable
        if hopes:
            # One may come back with what is missing. Until then the old file must be there, if it is the source, and
            # else its unit is to be computed: left out now it would be missing for ever, and nobody would know.
            disks = " or ".join(map(str, sorted(hopes)))
            raise Unavailable(
                f"{unreadable} stripes of slab {move.slab_id} cannot be read from the disks that are up, and unit "
                f"{move.unit} stays on disk {move.source}: bring disk {disks} back, or declare what is gone lost"
            )
        await self._ledger.stripes.flush_unit(move.slab_id, move.unit, target)
        self._done[move.slab_id] = move.size

    def _hopes(self, move: Move) -> list[DiskId]:
        """The disks whose return may bring back what a unit cannot be computed without."""
        roles = {disk.disk_id: disk.role for disk in self._pool.status()}
        return [
            disk_id
            for disk_id in sorted(self._slabs.get(move.slab_id).slab.disks)
            if roles.get(disk_id, DiskRole.LOST) is not DiskRole.LOST
            and (disk_id == move.source or not self._pool.is_up(disk_id))
        ]

    async def _record(self, move: Move, target: DiskId) -> Slab | None:
        """Commit the slab's record with the new disk; None if the slab is gone. Nothing is awaited after the commit."""
        await self._ledger.admit()
        self._pool.disk(target)  # else the source, which is about to be dropped, may be all that there is
        slab = space.get_slab(self._ledger.store, move.slab_id)
        if slab is None:
            return None
        assert slab.disks[move.unit] == move.source, "a slab was moved by two"
        disks = list(slab.disks)
        disks[move.unit] = target
        moved = msgspec.structs.replace(slab, disks=tuple(disks))
        transaction = self._ledger.begin()
        space.put_slab(transaction, move.slab_id, moved)
        self._ledger.commit(transaction)
        self._pace.note_own_commit()
        self._ledger.forget_slab(move.slab_id)
        return moved

    async def forget_source(self, move: Move) -> None:
        """Delete the old chunk file when nobody reads it any more; the record that it has moved is durable."""
        await self._ledger.fence.wait_past(self._ledger.fence.advance())
        await self._slabs.moves.drop_source(move.slab_id, move.unit, move.source)
