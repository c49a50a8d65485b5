"""Settling: live small extents move from the log into stripes, and log segments that nobody needs go.

Pure planning (core/packing.py) decides which extents share a stripe and where; the Settler reads, writes and commits. A
batch moves an extent only if its record is still what was read, so writers never wait for settling, and what died young
never costs parity.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.packing import Movable, Packing, StripePlan, in_order_of_locality, pack
from siltstone.core.reader import Reader
from siltstone.core.types import Progress, ProgressListener
from siltstone.engine.stripe.store import Piece, Run, Tier
from siltstone.errors import Corrupt, SiltstoneError, TooFewDisks
from siltstone.limits import MIB
from siltstone.meta import extents, keys
from siltstone.meta.keys import Reference
from siltstone.meta.records import Extent, Place, decode_extent
from siltstone.meta.store.store import Transaction
from siltstone.types import Buffer, Ino, Lsn

BATCH_REFERENCES = 4096
"""References that are put in order of locality together: bounds memory and the time the loop is busy with sorting."""

BATCH_STRIPES = 8
"""Stripes' worth of payload that is put in order together; more gives better locality, fewer less memory."""

MOVE_REFERENCES = 256
MOVE_BYTES = 2 * MIB
"""What is written and committed together. More share a flush; fewer keep the loop free for others."""


class Settler:
    """Moves what the log holds into stripes."""

    def __init__(
        self, ledger: Ledger, reader: Reader, *, stripe_bytes: int, log_bytes_low: int, log_bytes_high: int
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._stripe_bytes = stripe_bytes
        self._log_bytes_low = log_bytes_low
        self._log_bytes_high = log_bytes_high
        self._lock = trio.Lock()
        self.settled_bytes = 0
        self.settled_stripes = 0
        self.last_error = ""
        """Why the last background settle stopped; empty when it did not."""
        self.waits_for = ""
        """What disks settling in the background waits for; empty when it does not."""

    async def settle(self, progress: ProgressListener | None = None) -> None:
        """Move everything that is in the log now into stripes and let its segments go."""
        await self._ledger.log.seal()
        await self._settle_below(self._ledger.log.next_lsn, progress)
        await self._ledger.sync()
        await self._ledger.store.checkpoint()
        await self._ledger.reclaimer.wait_idle()
        await self._retire()

    async def run(self) -> None:
        """Settle in the background when the sealed segments pass the low-water mark, for ever.

        Begins with what earlier lives left: a volume that crashes soon each time must not collect segments.
        """
        with suppress(SiltstoneError):  # what keeps it from that keeps the loop below from it as well, and shows there
            await self._ledger.store.checkpoint()
            await self._retire()
        while True:
            await self._ledger.clock.sleep(1)
            try:
                await self._retire()
                await self._settle_if_wanted()
                self.last_error = self.waits_for = ""
            except TooFewDisks as error:
                self.waits_for = str(error)
            except SiltstoneError as error:
                self.last_error = str(error)
            self._push_back()

    async def _settle_if_wanted(self) -> None:
        """Settle what is sealed when that is much; all of it when large runs wait there for disks to come back.

        Raises TooFewDisks, with nothing read, as long as there are not enough.
        """
        if self._ledger.owed_bytes:
            self._ledger.stripes.check_disks()
            await self._ledger.log.seal()
            self._ledger.owed_bytes = 0
        elif self.log_bytes() <= self._log_bytes_low:
            return
        sealed = [segment.end for segment in self._ledger.log.segments() if segment.sealed]
        if sealed:
            self._ledger.stripes.check_disks()
            await self._settle_below(max(sealed), None)
            await self._retire()

    def _push_back(self) -> None:
        """Have writers wait while the log is too long; refuse them where it cannot get shorter."""
        is_over = self.log_bytes() > self._log_bytes_high
        if is_over and self.waits_for:
            reason = f"the log is full, and to settle it there are too few disks: {self.waits_for}"
            self._ledger.refuse_writers(TooFewDisks(reason))
        else:
            self._ledger.refuse_writers(None)
            self._ledger.hold_writers(is_over)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Move nothing for as long as the context lasts."""
        async with self._lock:
            yield

    def log_bytes(self) -> int:
        """Bytes of the log that are kept: from the oldest segment's start, what retired segments held left out."""
        return sum(segment.end - segment.start for segment in self._ledger.log.segments())

    async def _settle_below(self, boundary: Lsn, progress: ProgressListener | None) -> None:
        """Move every extent whose payload starts below ``boundary``."""
        async with self._lock:
            done = total = 0
            if progress is not None:
                total = sum(extent.length for extent in self._references(boundary))
                progress(Progress(0, total, "bytes"))
            unreadable: dict[Reference, SiltstoneError] = {}
            while found := self._next_batch(boundary, unreadable):
                before = self.settled_bytes, self._ledger.store.last_lsn, len(unreadable)
                for chunk in _chunks(in_order_of_locality(found)):
                    await self._ledger.admit()
                    await self._carry_out(chunk, unreadable)
                    done += sum(extent.length for extent in chunk)
                    if progress is not None:
                        progress(Progress(min(done, total), total, "bytes"))
                if (self.settled_bytes, self._ledger.store.last_lsn, len(unreadable)) == before:
                    # Neither moved nor gone: the references have no extents, and the next round would be the same.
                    raise Corrupt(f"{len(found)} references to the log have no extent of theirs; run fsck")
            if unreadable:
                # Only now: one that cannot be read must not keep the log from being emptied of all the others.
                raise next(iter(unreadable.values()))

    def _references(self, boundary: Lsn) -> Iterator[Movable]:
        found = extents.log_references(self._ledger.store, Lsn(0), boundary)
        return (Movable(reference, length) for reference, length in found)

    def _next_batch(self, boundary: Lsn, unreadable: Container[Reference]) -> list[Movable]:
        batch: list[Movable] = []
        size = 0
        readable = (extent for extent in self._references(boundary) if extent.reference not in unreadable)
        for extent in islice(readable, BATCH_REFERENCES):
            batch.append(extent)
            size += extent.length
            if size >= BATCH_STRIPES * self._stripe_bytes:
                break
        return batch

    async def _carry_out(self, chunk: Sequence[Movable], unreadable: dict[Reference, SiltstoneError]) -> None:
        """Write stripes for some extents and point at them what is still as it was; notes what cannot be read."""
        current: dict[int, Extent] = {}
        payloads: dict[int, bytes] = {}
        era = self._ledger.fence.enter()
        try:
            for index, movable in enumerate(chunk):
                extent = self._current(movable)
                if extent is None:
                    continue  # gone since it was listed
                try:
                    payloads[index] = await self._reader.fetch(extent, 0, extent.length)
                    current[index] = extent
                except SiltstoneError as error:
                    unreadable[movable.reference] = error
        finally:
            self._ledger.fence.leave(era)
        indexes = list(current)
        if not indexes:
            return
        movables = [chunk[index] for index in indexes]
        packing = pack(movables, row_bytes=self._ledger.stripes.row_bytes, stripe_bytes=self._stripe_bytes)
        runs = [Run(_buffers(plan, [payloads[index] for index in indexes]), plan.size) for plan in packing.plans]
        # Settling is what makes room in the log, so it may use what is reserved for it.
        pieces = await self._ledger.stripes.write_runs(
            runs, tier=Tier.SETTLE, written=self._ledger.now_s(), use_reserve=True
        )
        places = placed_by(packing, pieces, len(movables))
        transaction = self._ledger.begin()
        moved = [
            index
            for index, movable in enumerate(movables)
            if extents.relocate(
                transaction,
                movable.reference.ino,
                movable.reference.offset,
                current[indexes[index]],
                places[index],
                [],
            )
        ]
        used = {extent.address for index in moved for extent in places[index]}
        kept = [piece.written for piece in pieces if piece.written.stripe_id in used]
        for piece in pieces:
            if piece.written.stripe_id not in used:
                self._ledger.stripes.abandon(piece.written)
        if not moved:
            return
        self._ledger.put_written(transaction, kept)
        self._join(transaction, [(movables[index].reference, places[index]) for index in moved])
        self._ledger.commit(transaction, (), kept)
        self.settled_bytes += sum(movables[index].length for index in moved)
        self.settled_stripes += len(kept)

    def _join(self, transaction: Transaction, moved: Sequence[tuple[Reference, Sequence[Extent]]]) -> None:
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

    def _current(self, movable: Movable) -> Extent | None:
        reference = movable.reference
        value = self._ledger.store.get(keys.extent(reference.ino, reference.offset))
        if value is None:
            return None
        extent: Extent = decode_extent(value)
        same = (extent.place, extent.address, extent.skip, extent.length) == (
            Place.LOG,
            reference.address,
            reference.skip,
            movable.length,
        )
        return extent if same else None

    async def _retire(self) -> None:
        """Let go of sealed segments that hold no live payload and whose metadata is in LMDB."""
        async with self._lock:
            idle: list[Lsn] = []
            for segment in self._ledger.log.segments():
                applied = segment.end <= self._ledger.store.applied_lsn
                if segment.sealed and applied and not self._is_referenced(segment.start, segment.end):
                    idle.append(segment.start)
            if not idle:
                return
            # The batches that moved the payload away must be durable, and no reader may be on its way to it.
            await self._ledger.sync()
            await self._ledger.fence.wait_past(self._ledger.fence.advance())
            for start in idle:
                await self._ledger.log.retire(start)

    def _is_referenced(self, start: Lsn, end: Lsn) -> bool:
        return next(iter(extents.log_references(self._ledger.store, start, end)), None) is not None


def _follows(before: extents.Placed, offset: int, extent: Extent) -> bool:
    at, last = before
    is_neighbour = last.address == extent.address and last.skip + last.length == extent.skip
    return is_neighbour and at + last.length == offset


def _chunks(found: Sequence[Movable]) -> Iterator[list[Movable]]:
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
