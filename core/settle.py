"""Settling: live small extents move from the log into stripes, and log segments that nobody needs go.

The Settler decides what moves and when; the Filler (core/fill.py) puts what fits into dead places where rows are
scarce, and the Carrier (core/carrier.py) moves the rest: writers never wait for settling, and what died young never
costs parity.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice

import trio

from siltstone.core.carrier import Carrier, chunks_of
from siltstone.core.fill import Filler, FillStatistics
from siltstone.core.ledger import Ledger
from siltstone.core.packing import Movable, in_order_of_locality
from siltstone.core.snapshots import Snapshots
from siltstone.core.types import Progress, ProgressListener
from siltstone.engine.log.segment import SegmentStatus
from siltstone.engine.stripe.store import Tier
from siltstone.errors import Corrupt, NoSpace, SiltstoneError, TooFewDisks, Unavailable
from siltstone.meta import extents
from siltstone.meta.keys import Reference
from siltstone.meta.records import Place
from siltstone.types import Lsn

BATCH_REFERENCES = 4096
"""References that are put in order of locality together: bounds memory and the time the loop is busy with sorting."""

LOOK_SECONDS = 1.0
"""How often the background looks how long the log is, besides when writers wait for it."""

STEPS = 8
"""The log is shortened from the high- to the low-water mark in so many steps, or more: writers feel each of them."""

BATCH_STRIPES = 8
"""Stripes' worth of payload that is put in order together; more gives better locality, fewer less memory."""


class Settler:
    """Moves what the log holds into stripes."""

    def __init__(
        self,
        ledger: Ledger,
        carrier: Carrier,
        filler: Filler,
        snapshots: Snapshots,
        *,
        stripe_bytes: int,
        log_bytes_low: int,
        log_bytes_high: int,
    ) -> None:
        self._ledger = ledger
        self._carrier = carrier
        self._filler = filler
        self._snapshots = snapshots
        self._stripe_bytes = stripe_bytes
        self._log_bytes_low = log_bytes_low
        self._log_bytes_high = log_bytes_high
        self._step_bytes = (log_bytes_high - log_bytes_low) // STEPS
        self._is_emptying = False
        """The log was longer than the low-water mark, and still has sealed segments."""
        self._owed_end = Lsn(0)
        """Up to here the log holds large runs that waited for disks."""
        self._lock = trio.Lock()
        self.settled_bytes = 0
        self.settled_stripes = 0
        self._is_out_of_room = False
        self.last_error = ""
        """Why the last background settle stopped; empty when it did not."""
        self.waits_for = ""
        """What disks settling in the background waits for; empty when it does not."""

    def fills(self) -> FillStatistics:
        """What went to dead places of stripes, and what is still on its way there."""
        return self._filler.statistics()

    @property
    def fill_error(self) -> str:
        """Why a fill that a crash cut short could not be redone; empty when all could."""
        return self._filler.last_error

    async def settle(self, progress: ProgressListener | None = None) -> None:
        """Move everything that is in the log now into stripes and let its segments go."""
        await self._ledger.log.seal()
        await self._settle_below(self._ledger.log.next_lsn, progress)
        await self._ledger.sync()
        await self._ledger.store.checkpoint()
        await self._ledger.reclaimer.wait_idle()
        await self._retire(is_hurried=True)

    async def run(self) -> None:
        """Settle in the background when the log passes the low-water mark, for ever.

        Begins with what earlier lives left: a volume that crashes soon each time must not collect segments.
        """
        with suppress(SiltstoneError):  # what keeps it from that keeps the loop below from it as well, and shows there
            await self._ledger.store.checkpoint()
            await self._retire()
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self._ledger.settle_wanted.wait()
            self._ledger.settle_wanted = trio.Event()
            try:
                await self.finish_fills()
                await self._retire()
                while await self._settle_some():
                    self._push_back()
                self.last_error = self.waits_for = ""
                self._is_out_of_room = False
            except TooFewDisks as error:
                self.waits_for = str(error)
            except SiltstoneError as error:
                self.last_error = str(error)
                self._is_out_of_room = isinstance(error, NoSpace)
            self._push_back()

    async def _settle_some(self) -> bool:
        """Settle the oldest sealed segments once the log is longer than the low-water mark, until there are none; while
        writers or a snapshot wait for room, which segments take as well; or where it holds large runs that wait for
        disks. False if that is not so. Writers feel how long the log is, so it gets shorter in small steps.

        Raises TooFewDisks, with nothing read, as long as there are not enough.
        """
        log = self._ledger.log
        if self._ledger.owed_bytes:
            self._ledger.stripes.check_disks()
            await log.seal()
            self._ledger.owed_bytes = 0
            self._owed_end = log.next_lsn
        oldest = log.segments()[0]
        is_long = log.kept_bytes > self._log_bytes_low
        is_wanted = self._is_emptying or self._ledger.waiting_for_room > 0 or self._ledger.waiting_for_log
        self._is_emptying = is_long or (is_wanted and oldest.sealed)
        if not self._is_emptying and oldest.start >= self._owed_end:
            return False
        self._ledger.stripes.check_disks()
        if not oldest.sealed:
            await log.seal()
        boundary = Lsn(0)
        size = 0
        for segment in log.segments():
            if not segment.sealed or (size and size + segment.end - segment.start > self._step_bytes):
                break
            size += segment.end - segment.start
            boundary = segment.end
        if not size:
            return False
        await self._settle_below(boundary, None)
        await self._ledger.sync()
        if self._ledger.store.applied_lsn < boundary:
            await self._ledger.store.checkpoint()  # it comes round by itself each second: here that is long
        await self._retire(is_hurried=True)
        return True

    def _push_back(self) -> None:
        """Have writers wait while the log is too long; refuse them where it cannot get shorter."""
        is_over = self._ledger.log.kept_bytes > self._log_bytes_high
        if is_over and self.waits_for:
            reason = f"the log is full, and to settle it there are too few disks: {self.waits_for}"
            self._ledger.refuse_writers(TooFewDisks(reason))
        elif is_over and self._is_out_of_room:
            reason = f"the log is full, and there is no room to settle it: {self.last_error}"
            self._ledger.refuse_writers(NoSpace(reason))
        elif is_over and self._ledger.store.stuck_because:
            reason = f"the log is full, and cannot get shorter: {self._ledger.store.stuck_because}"
            self._ledger.refuse_writers(Unavailable(reason))
        else:
            self._ledger.refuse_writers(None)
            self._ledger.hold_writers(is_over)

    async def finish_fills(self) -> None:
        """Redo the fills of stripes that were committed and did not reach all disks: at opening, before anything else
        reads, and whenever disks have come back."""
        async with self._lock:
            await self._filler.finish()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Move nothing for as long as the context lasts."""
        async with self._lock:
            yield

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
                for chunk in chunks_of(in_order_of_locality(found)):
                    await self._ledger.admit()
                    self.settled_bytes += await self._filler.fill(chunk)
                    await self._carry(chunk, unreadable)
                    done += sum(extent.length for extent in chunk)
                    if progress is not None:
                        progress(Progress(min(done, total), total, "bytes"))
                if (self.settled_bytes, self._ledger.store.last_lsn, len(unreadable)) == before:
                    # Neither moved nor gone: the references have no extents, and the next round would be the same.
                    raise Corrupt(f"{len(found)} references to the log have no extent of theirs; run fsck")
            if unreadable:
                # Only now: one that cannot be read must not keep the log from being emptied of all the others.
                raise next(iter(unreadable.values()))

    async def _carry(self, chunk: Sequence[Movable], unreadable: dict[Reference, SiltstoneError]) -> None:
        """Move some extents; fewer at once where there is little room: each batch lets log segments go."""
        try:
            carried = await self._carrier.carry(chunk, Place.LOG, Tier.SETTLE, use_reserve=True)
        except NoSpace:
            if len(chunk) == 1:
                raise
            middle = len(chunk) // 2
            await self._carry(chunk[:middle], unreadable)
            await self._carry(chunk[middle:], unreadable)
            return
        unreadable |= carried.unreadable
        self.settled_bytes += carried.moved_bytes
        self.settled_stripes += carried.stripes

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

    async def _retire(self, *, is_hurried: bool = False) -> None:
        """Let go of sealed segments that hold no live payload and whose metadata is in LMDB and in snapshots; that is
        seen to when it is worth the trouble, or at once (``is_hurried``)."""
        async with self._lock:
            idle: list[SegmentStatus] = []
            for segment in self._ledger.log.segments():
                applied = segment.end <= self._ledger.store.applied_lsn
                if segment.sealed and applied and not self._is_needed(segment.start, segment.end):
                    idle.append(segment)
            if not idle:
                return
            await self._cover(idle, is_hurried=is_hurried)
            covered_lsn = self._snapshots.covered_lsn
            idle = [segment for segment in idle if segment.end <= covered_lsn]
            if not idle:
                return
            # The batches that moved the payload away must be durable, and no reader may be on its way to it; leases are
            # for stripes.
            await self._ledger.sync()
            await self._ledger.fence.wait_past(self._ledger.fence.advance(), leased=False)
            for segment in idle:
                await self._ledger.log.retire(segment.start)

    async def _cover(self, idle: Sequence[SegmentStatus], *, is_hurried: bool) -> None:
        covered_lsn = self._snapshots.covered_lsn
        uncovered = [segment for segment in idle if segment.end > covered_lsn]
        size = sum(segment.end - segment.start for segment in uncovered)
        if uncovered and (is_hurried or self._snapshots.is_increment_due(size, len(uncovered))):
            await self._snapshots.cover(uncovered[-1].end)

    def _is_needed(self, start: Lsn, end: Lsn) -> bool:
        if next(iter(extents.log_references(self._ledger.store, start, end)), None) is not None:
            return True
        return self._filler.needs(start, end)
