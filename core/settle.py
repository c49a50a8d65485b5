"""Settling: live small extents move from the log into stripes, and log segments that nobody needs go.

Pure planning (``plan_stripes``) decides which extents share a stripe and where; the Settler reads, writes and commits.
A stripe's batch moves an extent only if its record is still what was read, so writers never wait for settling, and what
died young never costs parity.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import NamedTuple

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.reader import Reader
from siltstone.core.types import Progress, ProgressListener
from siltstone.errors import Corrupt, SiltstoneError
from siltstone.limits import SLOT_BYTES
from siltstone.meta import extents, keys
from siltstone.meta.keys import Reference
from siltstone.meta.records import Extent, Place, decode_extent
from siltstone.meta.store.store import Transaction
from siltstone.types import Buffer, Ino, Lsn, StripeId

BATCH_REFERENCES = 4096
"""References that are planned together: bounds memory and the time the loop is busy with planning."""

BATCH_STRIPES = 8
"""Stripes' worth of payload that is planned together; more gives better locality, fewer less memory."""


class LogExtent(NamedTuple):
    """A live extent in the log: who refers to it, and how long it is."""

    reference: Reference
    length: int


class Placement(NamedTuple):
    """Where an extent goes in its stripe. ``shared``: its bytes are placed by an earlier placement already."""

    reference: Reference
    length: int
    position: int
    shared: bool


class StripePlan(NamedTuple):
    """The extents of one stripe, in the order of their positions, and the bytes they take with their slots."""

    placements: list[Placement]
    size: int


def plan_stripes(found: Sequence[LogExtent], stripe_bytes: int) -> list[StripePlan]:
    """Pack extents into stripes: by directory (its partition), file and offset.

    An extent starts on a slot, unless it continues the one before it in the same file: then it follows without a gap,
    so that both can become one. Extents that share bytes (clones) share their place.
    """
    plans: list[StripePlan] = []
    placements: list[Placement] = []
    placed: dict[tuple[int, int, int], int] = {}
    size = 0
    previous: LogExtent | None = None
    for extent in sorted(found, key=_locality):
        reference, length = extent
        assert 0 < length <= stripe_bytes
        position = placed.get((reference.address, reference.skip, length))
        if position is not None:
            placements.append(Placement(reference, length, position, True))
            previous = None
            continue
        position = size if _continues(previous, extent) else -(-size // SLOT_BYTES) * SLOT_BYTES
        if position + length > stripe_bytes:
            plans.append(StripePlan(placements, size))
            placements, placed, position = [], {}, 0
        placements.append(Placement(reference, length, position, False))
        placed[reference.address, reference.skip, length] = position
        size = position + length
        previous = extent
    if placements:
        plans.append(StripePlan(placements, size))
    return plans


def _locality(extent: LogExtent) -> tuple[int, int, int]:
    ino, offset = extent.reference.ino, extent.reference.offset
    return ino & 0xFF, ino, offset


def _follows(before: tuple[int, Extent], offset: int, extent: Extent) -> bool:
    at, last = before
    return at + last.length == offset and last.skip + last.length == extent.skip


def _continues(previous: LogExtent | None, extent: LogExtent) -> bool:
    if previous is None:
        return False
    before, after = previous.reference, extent.reference
    return before.ino == after.ino and before.offset + previous.length == after.offset


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
                if self.log_bytes() > self._log_bytes_low:
                    sealed = [segment.end for segment in self._ledger.log.segments() if segment.sealed]
                    if sealed:
                        await self._settle_below(max(sealed), None)
                        await self._retire()
                self.last_error = ""
            except SiltstoneError as error:
                self.last_error = str(error)
            self._ledger.hold_writers(self.log_bytes() > self._log_bytes_high)

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
                for plan in plan_stripes(found, self._stripe_bytes):
                    await self._ledger.admit()
                    await self._carry_out(plan, unreadable)
                    done += plan.size
                    if progress is not None:
                        progress(Progress(min(done, total), total, "bytes"))
                if (self.settled_bytes, self._ledger.store.last_lsn, len(unreadable)) == before:
                    # Neither moved nor gone: the references have no extents, and the next round would be the same.
                    raise Corrupt(f"{len(found)} references to the log have no extent of theirs; run fsck")
            if unreadable:
                # Only now: one that cannot be read must not keep the log from being emptied of all the others.
                raise next(iter(unreadable.values()))

    def _references(self, boundary: Lsn) -> Iterator[LogExtent]:
        found = extents.log_references(self._ledger.store, Lsn(0), boundary)
        return (LogExtent(reference, length) for reference, length in found)

    def _next_batch(self, boundary: Lsn, unreadable: Container[Reference]) -> list[LogExtent]:
        batch: list[LogExtent] = []
        size = 0
        readable = (extent for extent in self._references(boundary) if extent.reference not in unreadable)
        for extent in islice(readable, BATCH_REFERENCES):
            batch.append(extent)
            size += extent.length
            if size >= BATCH_STRIPES * self._stripe_bytes:
                break
        return batch

    async def _carry_out(self, plan: StripePlan, unreadable: dict[Reference, SiltstoneError]) -> None:
        """Write a planned stripe and point at it what is still as it was planned; notes what cannot be read."""
        era = self._ledger.fence.enter()
        try:
            seen: list[tuple[Placement, Extent]] = []
            buffers: list[Buffer] = []
            filled = 0
            filled_at: set[int] = set()
            for placement in plan.placements:
                extent = self._current(placement)
                # Gone since it was planned: its room in the stripe stays a hole of zeros.
                if extent is None:
                    continue
                if placement.position not in filled_at:
                    if placement.position < filled:
                        # The clone that was to bring the shared bytes went: this one waits for the next plan.
                        continue
                    try:
                        payload = await self._reader.fetch(extent, 0, extent.length)
                    except SiltstoneError as error:
                        unreadable[placement.reference] = error
                        continue
                    buffers += (bytes(placement.position - filled), payload)
                    filled = placement.position + extent.length
                    filled_at.add(placement.position)
                seen.append((placement, extent))
        finally:
            self._ledger.fence.leave(era)
        if not seen:
            return
        pieces = [buffer for buffer in buffers if buffer]
        # Settling is what makes room in the log, so it may use what is reserved for it.
        written = await self._ledger.stripes.write(pieces, filled, use_reserve=True)
        transaction = self._ledger.begin()
        self._ledger.put_written(transaction, written)
        moved = self._move(transaction, seen, written.stripe_id)
        if not moved:
            self._ledger.stripes.abandon(written)
            return
        self._ledger.commit(transaction, (), [written])
        self.settled_bytes += moved
        self.settled_stripes += 1

    def _move(self, transaction: Transaction, seen: list[tuple[Placement, Extent]], stripe_id: StripeId) -> int:
        """Point the records at the stripe, where they are still what was read; returns how many bytes moved.

        Neighbours in a file that are neighbours in the stripe become one extent.
        """
        moved = 0
        joined: list[tuple[int, Extent]] = []
        owner: Ino | None = None
        for placement, old in seen:
            ino, offset = placement.reference.ino, placement.reference.offset
            new = Extent(old.length, Place.STRIPE, stripe_id, placement.position)
            if not extents.relocate(transaction, ino, offset, old, new, []):
                continue
            moved += old.length
            if joined and owner == ino and _follows(joined[-1], offset, new):
                joined.append((offset, new))
                continue
            if owner is not None and len(joined) > 1:
                extents.join(transaction, owner, joined)
            joined, owner = [(offset, new)], ino
        if owner is not None and len(joined) > 1:
            extents.join(transaction, owner, joined)
        return moved

    def _current(self, placement: Placement) -> Extent | None:
        reference = placement.reference
        value = self._ledger.store.get(keys.extent(reference.ino, reference.offset))
        if value is None:
            return None
        extent: Extent = decode_extent(value)
        same = (extent.place, extent.address, extent.skip, extent.length) == (
            Place.LOG,
            reference.address,
            reference.skip,
            placement.length,
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
