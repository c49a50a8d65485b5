"""Carrying living extents to new stripes: out of the log, out of worn stripes, out of stripes of the wrong width.

Pure planning (core/packing.py) decides which extents share a stripe and where; here they are read, written and pointed
at. One batch moves many extents, each only if its record is still what was read, so nobody who writes ever waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.packing import Movable, Packing, StripePlan, pack
from siltstone.core.reader import Reader
from siltstone.engine.stripe.store import Piece, Run, Tier
from siltstone.errors import SiltstoneError
from siltstone.limits import MIB
from siltstone.meta import extents
from siltstone.meta.extents import FreedStripe
from siltstone.meta.keys import Reference
from siltstone.meta.records import Extent, Place
from siltstone.meta.store.port import Reader as MetadataReader
from siltstone.meta.store.store import Transaction
from siltstone.types import Buffer, Ino

MOVE_REFERENCES = 256
MOVE_BYTES = 2 * MIB
"""What is written and committed together. More share a flush; fewer keep the loop free for others."""


FETCHES_AT_ONCE = 8
"""Extents that are read side by side: one after the other, each that is not in memory would be waited for alone."""


class Carried(NamedTuple):
    """What one batch did."""

    moved_bytes: int
    """Of extents that lie elsewhere now."""
    stripes: int
    """That were written and are referred to."""
    unreadable: dict[Reference, SiltstoneError]
    is_too_narrow: bool
    """Nothing was moved, since it would have gone to stripes narrower than was asked for."""


class Carrier:
    """Moves extents of a volume to new stripes of at most ``stripe_bytes``."""

    def __init__(self, ledger: Ledger, reader: Reader, *, stripe_bytes: int) -> None:
        self._ledger = ledger
        self._reader = reader
        self._stripe_bytes = stripe_bytes

    async def carry(
        self, chunk: Sequence[Movable], place: Place, tier: Tier, *, width_min: int = 1, use_reserve: bool = False
    ) -> Carried:
        """Move extents that lie in ``place`` to stripes with at least ``width_min`` data units, in one batch.

        What changed or went meanwhile is left alone; what cannot be read is told. The reserve is for what
        makes room. Raises what write_runs raises, with nothing moved.
        """
        # Until the batch is committed the rows that were read must not have another owner: an extent that was rewritten
        # to the same rows meanwhile would look as if nothing had changed, and get the old bytes back.
        era = self._ledger.fence.enter()
        try:
            return await self._carry(chunk, place, tier, width_min, use_reserve=use_reserve)
        finally:
            self._ledger.fence.leave(era)

    async def _carry(
        self, chunk: Sequence[Movable], place: Place, tier: Tier, width_min: int, *, use_reserve: bool
    ) -> Carried:
        found = await fetch_current(self._ledger.store, self._reader, dict(enumerate(chunk)), place)
        current, payloads, unreadable = found.current, found.payloads, found.unreadable
        indexes = sorted(current)
        if not indexes:
            return Carried(0, 0, unreadable, False)
        movables = [chunk[index] for index in indexes]
        stripes = self._ledger.stripes
        packing = pack(movables, row_bytes=stripes.row_bytes, stripe_bytes=self._stripe_bytes)
        data = [payloads[index] for index in indexes]
        runs = [Run(_buffers(plan, data), plan.size) for plan in packing.plans]
        pieces = await stripes.write_runs(runs, tier=tier, written=self._ledger.now_s(), use_reserve=use_reserve)
        if min(piece.written.slab.data_units for piece in pieces) < width_min:
            for piece in pieces:
                stripes.abandon(piece.written)
            return Carried(0, 0, unreadable, True)
        places = placed_by(packing, pieces, len(movables))
        transaction = self._ledger.begin()
        freed: list[FreedStripe] = []
        moved = [
            index
            for index, (reference, _) in enumerate(movables)
            if extents.relocate(
                transaction, reference.ino, reference.offset, current[indexes[index]], places[index], freed
            )
        ]
        used = {extent.address for index in moved for extent in places[index]}
        kept = [piece.written for piece in pieces if piece.written.stripe_id in used]
        for piece in pieces:
            if piece.written.stripe_id not in used:
                stripes.abandon(piece.written)
        if moved:
            self._ledger.put_written(transaction, kept)
            join_neighbours(transaction, [(movables[index].reference, places[index]) for index in moved])
            self._ledger.commit(transaction, freed, kept)
        return Carried(sum(movables[index].length for index in moved), len(kept), unreadable, False)


class FetchedExtents(NamedTuple):
    """Extents that are still what they were when they were listed, and their bytes, by the number they were given."""

    current: dict[int, Extent]
    payloads: dict[int, bytes]
    unreadable: dict[Reference, SiltstoneError]


async def fetch_current(
    store: MetadataReader, reader: Reader, wanted: Mapping[int, Movable], place: Place
) -> FetchedExtents:
    """Read extents that lie in ``place``, some side by side; those that are gone since they were listed are left out.

    The caller is in the read fence.
    """
    found = FetchedExtents({}, {}, {})
    left = iter(wanted.items())

    async def fetch_some() -> None:
        for index, movable in left:
            extent = current_extent(store, movable, place)
            if extent is None:
                continue
            try:
                found.payloads[index] = await reader.fetch(extent, 0, extent.length)
                found.current[index] = extent
            except SiltstoneError as error:
                found.unreadable[movable.reference] = error

    async with trio.open_nursery() as nursery:
        for _ in range(min(FETCHES_AT_ONCE, len(wanted))):
            nursery.start_soon(fetch_some)
    return found


def current_extent(reader: MetadataReader, movable: Movable, place: Place) -> Extent | None:
    """The extent of a reference, if it is still what the reference says."""
    reference = movable.reference
    extent = extents.get_extent(reader, reference.ino, reference.offset)
    if extent is None:
        return None
    found = extent.place, extent.address, extent.skip, extent.length
    return extent if found == (place, reference.address, reference.skip, movable.length) else None


def join_neighbours(transaction: Transaction, moved: Sequence[tuple[Reference, Sequence[Extent]]]) -> None:
    """Make one extent of those that are neighbours in a file and in a stripe."""
    joined: list[extents.Placed] = []
    owner: Ino | None = None
    for reference, places in moved:
        offset = reference.offset
        for extent in places:
            if owner != reference.ino or not joined or not _follows(joined[-1], offset, extent):
                if owner is not None and len(joined) > 1:
                    extents.join(transaction, owner, joined)
                joined, owner = [], reference.ino
            joined.append((offset, extent))
            offset += extent.length
    if owner is not None and len(joined) > 1:
        extents.join(transaction, owner, joined)


def chunks_of(found: Sequence[Movable]) -> Iterator[list[Movable]]:
    """What is moved together, in order."""
    chunk: list[Movable] = []
    size = 0
    for movable in found:
        if len(chunk) == MOVE_REFERENCES or (chunk and size + movable.length > MOVE_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(movable)
        size += movable.length
    if chunk:
        yield chunk


def _follows(before: extents.Placed, offset: int, extent: Extent) -> bool:
    at, last = before
    is_neighbour = last.address == extent.address and last.skip + last.length == extent.skip
    return is_neighbour and at + last.length == offset


def _buffers(plan: StripePlan, payloads: Sequence[bytes]) -> list[Buffer]:
    """The bytes of a plan, with zeros between the slots."""
    buffers: list[Buffer] = []
    end = 0
    for part in plan.parts:
        if part.position > end:
            buffers.append(bytes(part.position - end))
        buffers.append(memoryview(payloads[part.extent])[part.start : part.start + part.length])
        end = part.position + part.length
    return buffers


def placed_by(packing: Packing, pieces: Sequence[Piece], count: int) -> list[list[Extent]]:
    """Where each of ``count`` extents lies now, as extents in the order of its bytes."""
    pieces_of: list[list[Piece]] = [[] for _ in packing.plans]
    for piece in pieces:
        pieces_of[piece.run].append(piece)
    found: list[list[tuple[int, Extent]]] = [[] for _ in range(count)]
    for plan, written in zip(packing.plans, pieces_of, strict=True):
        for part in plan.parts:
            for piece in written:
                low = max(part.position, piece.offset)
                high = min(part.position + part.length, piece.offset + piece.written.stripe.data_bytes)
                if low < high:
                    extent = Extent(high - low, Place.STRIPE, piece.written.stripe_id, low - piece.offset)
                    found[part.extent].append((part.start + low - part.position, extent))
    places = [[extent for _, extent in sorted(parts, key=lambda part: part[0])] for parts in found]
    for index, first in packing.same_as.items():
        places[index] = places[first]
    return places
