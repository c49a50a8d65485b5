"""Relocation: living data moves where that makes room, or gives it the width it should have.

Last of the ways to make room, after dead stripes (which are free at once) and filled holes: only when free rows are
scarce, the worn stripes that gain most (core/worn.py), and no faster than a share of what is written anyway, so that it
never becomes a storm. The same moves bring stripes that were written while disks were away to full width, and
those of a slab that lost a disk for which there is no replacement to disks that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec
import trio

from siltstone.core.carrier import MOVE_BYTES, MOVE_REFERENCES, Carrier
from siltstone.core.ledger import Ledger
from siltstone.core.mover import Mover
from siltstone.core.packing import Movable, in_order_of_locality
from siltstone.core.split import Splitter
from siltstone.core.worn import DEAD_SHARE_MIN, use_of
from siltstone.engine.stripe.layout import Slab
from siltstone.engine.stripe.store import Tier
from siltstone.errors import NoSpace, SiltstoneError
from siltstone.limits import KIB, MIB
from siltstone.meta import space
from siltstone.meta.records import Place
from siltstone.types import SlabId, StripeId, make_stripe_id, slab_of

LOOK_SECONDS = 0.25

HURRIED_SECONDS = 0.01
"""The same while writers wait for room, and there was something to move,"""

FUTILE_SECONDS = 0.1
"""or where there was nothing: each look is at all that is worn."""

BLOCKED_NS = 500_000_000
"""After a move that found no room, nothing is tried for so long."""

BANDWIDTH_SHARE = 0.25
"""Relocation may write this part of what everybody else writes to stripes,"""

IDLE_BYTES_PER_SECOND = 8 * MIB
"""and so much when nobody writes."""

CRAMPED_BYTES = 128 * KIB
"""What is moved at once where users have no room left."""

TOKENS_MAX = 8 * MIB


class RelocateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What relocation has done since the volume was opened."""

    relocated_bytes: int
    """Of living data that moved to make room."""
    victims: int
    """Worn stripes that were emptied for that."""
    rewidened_bytes: int
    """Of living data that moved to stripes of another width."""
    split_stripes: int
    """Long worn stripes that became several, so that what is dead in them can be used."""
    split_freed_bytes: int
    """Of rows that came free by that, in data units."""
    last_error: str


class Relocator:
    """Relocates extents of a volume with ``data_units`` data units in a stripe of full width."""

    def __init__(self, ledger: Ledger, carrier: Carrier, mover: Mover, splitter: Splitter, *, data_units: int) -> None:
        self._ledger = ledger
        self._carrier = carrier
        self._mover = mover
        self._splitter = splitter
        self._data_units = data_units
        self._lock = trio.Lock()
        self._tokens = float(TOKENS_MAX)
        self._seen_raw = 0
        self._seen_ns = ledger.clock.monotonic_ns()
        self._blocked_until_ns = 0
        self.relocated_bytes = self.victims = self.rewidened_bytes = 0
        self.last_error = ""

    def status(self) -> RelocateStatus:
        """What was done so far."""
        return RelocateStatus(
            relocated_bytes=self.relocated_bytes,
            victims=self.victims,
            rewidened_bytes=self.rewidened_bytes,
            split_stripes=self._splitter.split_stripes,
            split_freed_bytes=self._splitter.freed_bytes,
            last_error=self.last_error,
        )

    async def run(self) -> None:
        """Relocate what should be, for ever."""
        await self._ledger.worn.complete()
        is_futile = False
        while True:
            hurried_seconds = FUTILE_SECONDS if is_futile else HURRIED_SECONDS
            await self._ledger.clock.sleep(hurried_seconds if self._ledger.waiting_for_room else LOOK_SECONDS)
            is_futile = True
            try:
                async with self._lock:
                    self._ledger.worn.look(briefly=not self._ledger.is_cramped)
                    await self._ledger.wait_changes_go()
                    self._splitter.free_dead_rows()
                    self._earn()
                    if self._tokens > 0:
                        is_futile = not await self._step()
                self.last_error = ""
            except NoSpace:
                # Nothing can be moved without any room; deletes and other moves make some.
                self._blocked_until_ns = self._ledger.clock.monotonic_ns() + BLOCKED_NS
            except SiltstoneError as error:
                self.last_error = str(error)

    def _earn(self) -> None:
        """Tokens are bytes that may be written: a share of what others wrote, or a little while nobody does."""
        raw = self._ledger.stripes.statistics().raw_bytes_written
        others = sum(size for tier, size in raw.items() if tier is not Tier.RELOCATE)
        now_ns = self._ledger.clock.monotonic_ns()
        idle = IDLE_BYTES_PER_SECOND * (now_ns - self._seen_ns) / 1e9
        earned = max(idle, (others - self._seen_raw) * BANDWIDTH_SHARE)
        self._seen_raw, self._seen_ns = others, now_ns
        self._tokens = min(TOKENS_MAX, self._tokens + earned)
        if self._ledger.waiting_for_room:
            self._tokens = max(self._tokens, 1.0)  # users would wait for the tokens as well

    async def _step(self) -> bool:
        """Move something; False if nothing was."""
        if self._ledger.clock.monotonic_ns() < self._blocked_until_ns:
            return False
        if await self._rewiden():
            return True
        return (self._ledger.is_cramped or self._ledger.waiting_for_room > 0) and await self._relocate()

    # --- making room -----------------------------------------------------------------------------------------------

    async def _relocate(self) -> bool:
        """Empty the stripes that gain most; False if there was nothing to gain.

        What is in the log must still find room while victims and copies both are there: so much is moved at once as
        fits twice into the room for users, and a little where they have none.
        """
        bytes_max = min(MOVE_BYTES, max(CRAMPED_BYTES, self._ledger.room_bytes // 2))
        chunk: list[Movable] = []
        claimed: set[SlabId] = set()
        victims: list[StripeId] = []
        size = emptied = 0
        try:
            for worn in self._ledger.worn.victims(self._ledger.now_s()):
                slab_id = slab_of(worn.stripe_id)
                if not self._ledger.stripes.takes_fills(slab_id):
                    continue  # a disk of it is away: its rows would be of no use, and the copies take some that are
                if slab_id not in claimed:
                    if not self._ledger.try_claim(slab_id):
                        continue
                    claimed.add(slab_id)
                references = use_of(self._ledger.store, worn.stripe_id, worn.capacity).references
                lengths = sum(length for _, length in references)
                if lengths > worn.capacity:
                    continue  # clones of parts of one another: apart they might take more room than now
                if size + lengths > bytes_max or (chunk and len(chunk) + len(references) > MOVE_REFERENCES):
                    break
                chunk += [Movable(reference, length) for reference, length in references]
                victims.append(worn.stripe_id)
                emptied += worn.capacity
                size += lengths
            row_bytes = self._ledger.stripes.row_bytes
            gain = emptied - -(-size // row_bytes) * row_bytes
            if gain * DEAD_SHARE_MIN < emptied:
                return False  # as many rows would be written as become free
            await self._ledger.admit()
            self._tokens -= size
            is_needed = self._ledger.waiting_for_room > 0 or self._ledger.room_bytes == 0
            carried = await self._carrier.carry(
                in_order_of_locality(chunk), Place.STRIPE, Tier.RELOCATE, use_reserve=is_needed
            )
            self.relocated_bytes += carried.moved_bytes
            self.victims += len(victims)
            return carried.moved_bytes > 0
        finally:
            for slab_id in claimed:
                self._ledger.release_claim(slab_id)

    # --- width -----------------------------------------------------------------------------------------------------

    async def _rewiden(self) -> bool:
        """Move some stripes of one slab that is narrower than it need be, or has lost a disk for good; False if there
        is none, or no better place."""
        slabs, stranded = self._ledger.stripes.slabs, self._mover.stranded
        parity_units = slabs.parity_units
        width = min(self._data_units, len(self._ledger.pool.placeable()) - parity_units)
        # Where room is scarce, a narrow slab may be all that is left to write to.
        is_possible = width >= 1 and not self._ledger.is_cramped

        def is_narrow(slab: Slab) -> bool:
            return slab.data_units < width or slab.parity_units < parity_units

        for slab_id in slabs.shunned():
            if not is_possible or not (is_narrow(slabs.get(slab_id).slab) or slab_id in stranded):
                slabs.shun(slab_id, is_shunned=False)
        for slab_id in chain(slabs.units.narrower(width, parity_units), stranded) if is_possible else ():
            state = slabs.recorded(slab_id)
            if state is None or state.is_empty or not self._ledger.try_claim(slab_id):
                continue
            try:
                return await self._empty_some(slab_id, width if is_narrow(state.slab) else 1)
            finally:
                self._ledger.release_claim(slab_id)
        return False

    async def _empty_some(self, slab_id: SlabId, width: int) -> bool:
        chunk = list(self._extents_of(slab_id))
        if not chunk:
            return False
        await self._ledger.admit()
        self._tokens -= sum(length for _, length in chunk)
        # Nothing new goes to the slab meanwhile, or what is moved out might move in again.
        self._ledger.stripes.slabs.shun(slab_id, is_shunned=True)
        carried = await self._carrier.carry(in_order_of_locality(chunk), Place.STRIPE, Tier.RELOCATE, width_min=width)
        self.rewidened_bytes += carried.moved_bytes
        if carried.is_too_narrow or not carried.moved_bytes:
            self._ledger.stripes.slabs.shun(slab_id, is_shunned=False)
            self._blocked_until_ns = self._ledger.clock.monotonic_ns() + BLOCKED_NS
        return carried.moved_bytes > 0

    def _extents_of(self, slab_id: SlabId) -> Iterator[Movable]:
        """Some extents in a slab's stripes, about a batch."""
        size = count = 0
        for stripe_id, _ in space.stripes_from(self._ledger.store, make_stripe_id(slab_id, 0)):
            if slab_of(stripe_id) != slab_id:
                return
            for reference, length in space.stripe_references(self._ledger.store, stripe_id):
                yield Movable(reference, length)
                size += length
                count += 1
            if size >= MOVE_BYTES or count >= MOVE_REFERENCES:
                return
