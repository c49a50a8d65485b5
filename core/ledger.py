"""The one place where batches are committed, and what follows from a commit.

A batch that frees stripes hands them to the reclaimer, forgets them in the cache, and tells the engine which slabs it
made known. Nothing between the first read of a transaction and its commit may await: that makes operations atomic
between tasks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import trio

from siltstone.core.reclaim import ReadFence, Reclaimer
from siltstone.core.throttle import Throttle
from siltstone.core.worn import DEAD_BYTES_MIN, WornStripes
from siltstone.engine.log.log import Log
from siltstone.engine.pool import Pool
from siltstone.engine.stripe.layout import Slab, Stripe
from siltstone.engine.stripe.store import StripeStore, WrittenStripe
from siltstone.errors import Corrupt, NoSpace, Unavailable
from siltstone.limits import DIRECT_THRESHOLD_BYTES, KIB, MIB, PARTITION_COUNT
from siltstone.meta import space
from siltstone.meta.extents import FreedStripe
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Store, Transaction
from siltstone.meta.totals import SpaceTotals
from siltstone.meta.usage import TreeUsage
from siltstone.ports import Clock, Random
from siltstone.types import Ino, Lsn, PartitionId, SlabId, StripeId, make_ino, slab_of

T = TypeVar("T")

PENDING_BYTES_MAX = 32 * MIB
"""Writers wait for the log while more than this is appended and not yet durable."""

ROOM_LOOK_SECONDS = 0.1
"""How often a writer that waits for room looks for it, besides when rows come free."""

ROOM_PATIENCE_SECONDS = 10.0
"""So long without more room than before, a writer is told that there is none;"""

ROOM_PATIENCE_SECONDS_MIN = 0.5
"""the same where reclaim has nothing to work on: what is dirty in memory may be about to replace something."""

UNHURRIED_SECONDS = 0.05
"""How often it is looked whether the batch that freed rows is durable, while nobody needs them."""

HURRY_SHARE = 64
"""Freed rows are handed on without waiting for the commit interval when users have room for less than one part in so
many of the pool."""

EASY_BYTES_MAX = 64 * KIB
"""So much is let in between two looks whether the pool and the log have room, while both have plenty."""

UNMEASURED_SHARE = 64
"""Room is measured anew when one part in so many of it was let in: what is packed into stripes takes a little more than
its size, so it is not counted down for long. (To measure takes as long as to encode a stripe.)"""

CHANGE_BYTES = 512
"""What a change takes besides its bytes, about."""

CRAMPED_SHARE = 64
"""Rows are made when less than one part in so many of the pool can still be written. Settling fills holes long before
(core/fill.py): this is for what needs rows, large writes, and what no hole takes."""

DEAD_SHARE_OF_POOL = 50
"""Less than one part in so many of the pool is not worth waiting for: it is spread too thinly."""

CLAIM_RETRY_SECONDS = 0.1

STRIPE_CACHE_ENTRIES = 4096
"""Stripe records with their checksums kept decoded (up to about 3 KiB each)."""


def ignore(result: object) -> None:
    """For who need not hear of a commit."""


class SpreadOperations(Protocol):
    """Operations of the namespace over several shards: see ``Ledger.perform`` and ``look``."""

    def is_alone(self) -> bool:
        """Whether there is no other shard, and nothing to be noted of the call that is carried out."""

    async def perform(self, change: Callable[[Transaction], T], committed: Callable[[T], None]) -> T:
        """Run ``change`` over whatever shards it needs, and commit it on all of them or none."""

    async def look(
        self,
        question: Callable[[Reader], T],
        *,
        remembered: dict[bytes, bytes | None] | None = None,
        is_loose: bool = False,
    ) -> T:
        """Run ``question`` over whatever shards it needs."""

    def owns(self, ino: Ino) -> bool:
        """Whether an inode is one of this shard's."""

    async def wait_unclaimed(self, ino: Ino) -> None:
        """Return when no transaction of another shard speaks for an inode."""


class StripeInfo(NamedTuple):
    """All that a read of a stripe needs to know."""

    slab: Slab
    stripe: Stripe
    checksums: bytes


class Ledger:
    """Store, log and stripes, and the rules that tie them together. ``totals``: of the records as they are now."""

    def __init__(
        self,
        store: Store,
        log: Log,
        stripes: StripeStore,
        pool: Pool,
        clock: Clock,
        random: Random,
        *,
        log_bytes_low: int,
        log_bytes_high: int,
        totals: SpaceTotals,
        usage: TreeUsage | None = None,
    ) -> None:
        self.store = store
        self.usage = TreeUsage(store) if usage is None else usage
        """What is in every directory tree, and the quotas."""
        self.log = log
        self.stripes = stripes
        self.pool = pool
        self.clock = clock
        self.random = random
        self.fence = ReadFence()
        self.totals = totals
        self.worn = WornStripes(store)
        self.reclaimer = Reclaimer(self.fence, self._wait_durable_unhurried)
        self.room_bytes = 0
        """Usable bytes that may still be taken: measured each second (core/room.py), less what was admitted since."""
        self.lent_bytes = 0
        """What the log has taken beyond its share, and will give back as it is settled."""
        self.hole_bytes = 0
        """The same of dead places in living stripes, which only take what goes through the log."""
        self.settle_room_bytes = 0
        """What the log may still take in so that all of it can be settled (docs/invariants.md, R1)."""
        self._admitted_bytes = 0
        """What was admitted since room was measured;"""
        self._unmeasured_bytes_max = 0
        """and how much that may be."""
        self._measured_ns = clock.monotonic_ns()
        self._measured_releases = 0
        self._large_writers = trio.Lock()
        self._ahead_bytes = 0
        self._easy_bytes = 0
        """What may be let in before anything is looked at again."""
        self.count_dirty: Callable[[], int] = lambda: 0
        """How many bytes users wrote that are in memory only (core/write_back.py)."""
        self.measure_room: Callable[[], None] = lambda: None
        """Looks anew how much room there is (core/room.py)."""
        self.trash_bytes = 0
        """What could be given up to make room (core/trash.py)."""
        self.owed_bytes = 0
        """Large runs that went through the log because there were too few disks for stripes, since it was last emptied:
        settling moves them as soon as there are enough."""
        self._refusal: Unavailable | NoSpace | None = None
        self._log_bytes_low = log_bytes_low
        self._log_bytes_high = log_bytes_high
        self.throttle = Throttle(clock, log_bytes_low=log_bytes_low, log_bytes_high=log_bytes_high)
        self.settle_wanted = trio.Event()
        """Set when the log has passed its low-water mark."""
        self.waiting_for_room = 0
        """Writers that wait for reclaim to make room."""
        self.waiting_for_log = False
        """Whether a snapshot waits for room that the log has taken."""
        self._writers_go = trio.Event()
        self._writers_go.set()
        self._changes_go = trio.Event()
        self._changes_go.set()
        self.waits = 0
        """How often a change had to wait: for room in the pool, or for the log to get under its high-water mark; and
        anything for the limit of a tree's rate."""
        self._spread: SpreadOperations | None = None
        self.performing = 0
        """Operations over several shards that have begun and not ended; who begins one was let through by ``admit``."""
        self._claims: set[SlabId] = set()
        self._slabs: dict[SlabId, Slab] = {}
        self._stripe_cache: OrderedDict[StripeId, StripeInfo] = OrderedDict()

    # --- committing ------------------------------------------------------------------------------------------------

    def begin(self) -> Transaction:
        """Start a batch. Commit it before the next await, or drop it."""
        return self.store.begin()

    async def perform(self, change: Callable[[Transaction], T], committed: Callable[[T], None] = ignore) -> T:
        """Run ``change`` in a batch of the namespace and commit it; returns, or raises, what it does.

        ``change`` reads and writes through its transaction alone, and the same each time: where the namespace is spread
        over shards it may run several times (docs/decisions/0011). ``committed`` gets its result in the turn in which
        it becomes visible. Without shards nothing is awaited.
        """
        if self._spread is not None and not self._spread.is_alone():
            self.performing += 1
            try:
                return await self._spread.perform(change, committed)
            finally:
                self.performing -= 1
        transaction = self.store.begin()
        result = change(transaction)
        self.commit(transaction, is_limited=True)
        committed(result)
        return result

    async def look(
        self,
        question: Callable[[Reader], T],
        *,
        remembered: dict[bytes, bytes | None] | None = None,
        is_loose: bool = False,
    ) -> T:
        """Run ``question``, which only reads; returns, or raises, what it does. The same holds as for ``perform``.

        Over shards: ``remembered``, kept by who asks the same again, saves it fetching one record after the other;
        what is ``is_loose`` need not be of one moment.
        """
        if self._spread is not None and not self._spread.is_alone():
            return await self._spread.look(question, remembered=remembered, is_loose=is_loose)
        return question(self.store)

    def spread(self, operations: SpreadOperations) -> None:
        """From now on the namespace is spread over shards, and its operations are carried out by ``operations``."""
        self._spread = operations

    def owns(self, ino: Ino) -> bool:
        """Whether an inode is one of this shard's; without shards all are."""
        return self._spread is None or self._spread.owns(ino)

    def owned_partitions(self) -> Iterator[PartitionId]:
        """The partitions of this shard; without shards all."""
        return (
            partition for partition in map(PartitionId, range(PARTITION_COUNT)) if self.owns(make_ino(0, partition))
        )

    async def wait_unclaimed(self, ino: Ino) -> None:
        """Return when no transaction of another shard speaks for an inode. Commit before the next await."""
        if self._spread is not None:
            await self._spread.wait_unclaimed(ino)

    def commit(
        self,
        transaction: Transaction,
        freed: Sequence[FreedStripe] = (),
        written: Iterable[WrittenStripe] = (),
        *,
        is_limited: bool = False,
    ) -> Lsn:
        """Commit a batch; ``freed`` are the stripes whose last reference it took, ``written`` those it points at first.

        Visible on return, durable when the log has passed the LSN that is returned. ``is_limited``: raises
        QuotaExceeded, and commits nothing, if it adds more to a tree than its quota allows.
        """
        counted = self.usage.apply(transaction)
        try:
            if is_limited and self.usage.has_quotas and not transaction.may_exceed_quotas:
                self.usage.check_grown()
            lsn = transaction.commit()
        except BaseException:
            self.usage.undo(counted)
            raise
        self.totals.add(transaction.totals)
        if transaction.freed:
            freed = [*transaction.freed, *freed]
        for stripe in written:
            self.stripes.note_committed(stripe)
            if stripe.stripe.unit_bytes * stripe.slab.data_units - stripe.stripe.data_bytes >= DEAD_BYTES_MIN:
                self.worn.note(stripe.stripe_id)
        for stripe_id, dead in freed:
            if dead is None:
                self.worn.note(stripe_id)
                continue
            self.worn.forget(stripe_id)
            self._stripe_cache.pop(stripe_id, None)
            self.reclaimer.free(lsn, partial(self.stripes.release, stripe_id, dead))
        return lsn

    def put_written(self, transaction: Transaction, written: Iterable[WrittenStripe]) -> None:
        """Add the records of stripes that are on their disks to the batch that first points at them."""
        new_slabs: set[SlabId] = set()
        for stripe in written:
            if stripe.new_slab and stripe.slab_id not in new_slabs:
                new_slabs.add(stripe.slab_id)
                space.put_slab(transaction, stripe.slab_id, stripe.slab)
            space.put_stripe(transaction, stripe.stripe_id, stripe.stripe, stripe.checksums)

    def now_s(self) -> int:
        """The wall clock in seconds, as stripe records note it."""
        return self.clock.now_ns() // 1_000_000_000

    async def admit(self, size: int = 0, *, logged: int | None = None) -> None:
        """Wait until the pipeline has room for another change. ``size`` is what it adds to the user's bytes: it is
        taken off ``room_bytes``, so that what is admitted between two measurements fits. ``logged``: how much of that
        goes through the log; by default all, unless it is enough for a stripe.

        Raises NoSpace when the pool is full; Unavailable or NoSpace when the log is and cannot be emptied (only for
        changes that add bytes).
        """
        if size > 0:
            if logged is None:
                logged = size if size < DIRECT_THRESHOLD_BYTES else 0
            await self._admit_bytes(size, logged)
        while self.log.pending_bytes > PENDING_BYTES_MAX:
            await self.log.wait_durable(self.log.next_lsn)
        while self.store.pressure:
            await self.store.wait_room()
        # Last: who holds changes back must not see one that was let through before and waited for something else.
        await self.wait_changes_go()

    async def wait_quiet(self) -> None:
        """Before ``admit``, for who commits much and is in no hurry: return when that lets nobody else wait for the log
        or for memory. Raises as ``admit`` does."""
        while self.log.pending_bytes > PENDING_BYTES_MAX // 2:
            await self.log.wait_durable(self.log.next_lsn)
        await self.store.wait_quiet()

    async def _admit_bytes(self, size: int, logged: int) -> None:
        """Wait for room in the pool, and for the log to be under its high-water mark."""
        if size + CHANGE_BYTES <= self._easy_bytes and self._refusal is None and self._writers_go.is_set():
            self._easy_bytes -= size + CHANGE_BYTES
            self.settle_room_bytes -= logged
            self.room_bytes -= size
            self._admitted_bytes += size
            self._ahead_bytes += logged
            return
        if size > self._room_for(logged) or self._admitted_bytes > self._unmeasured_bytes_max:
            self.measure_room()
        if size > self._room_for(logged):
            # Large ones one after the other, as they came: among many small ones they would wait for ever.
            async with self._large_writers if size >= DIRECT_THRESHOLD_BYTES else nullcontext():
                await self._wait_for_room(size, logged)
        self.check_room(size, logged=logged)
        in_holes = min(logged, self.hole_bytes)
        self.hole_bytes -= in_holes
        self.settle_room_bytes = max(0, self.settle_room_bytes - logged)
        self.room_bytes = max(0, self.room_bytes - (size - in_holes))
        self._admitted_bytes += size
        self._ahead_bytes += logged
        log_bytes = self.log.kept_bytes + self.log.pending_bytes + self.ahead_bytes
        if log_bytes > self._log_bytes_low and not self.settle_wanted.is_set():
            self.settle_wanted.set()
        if self._writers_go.is_set() and log_bytes > self._log_bytes_high:
            # Looked at here, since a second of writing can be more than a small pool has room for.
            self.hold_writers(True)
        self._easy_bytes = self._easy_after(log_bytes)
        if self._refusal is None:
            await self.throttle.wait(logged, log_bytes)
        if not self._writers_go.is_set():
            self.waits += 1
            await self._writers_go.wait()
        if self._refusal is not None:
            raise self._refusal

    def _easy_after(self, log_bytes: int) -> int:
        """How much may be let in now that would find the same: room, and the log below its low-water mark, where nobody
        waits or is told. To look is a tenth of the work of a create."""
        if self.hole_bytes:
            return 0  # what goes where is counted one by one
        return min(EASY_BYTES_MAX, self.room_bytes, self.settle_room_bytes, self._log_bytes_low - log_bytes)

    @property
    def ahead_bytes(self) -> int:
        """What was let in and will go through the log, but is not there yet. About: some of it never arrives."""
        self._ahead_bytes = min(self._ahead_bytes, self.count_dirty())
        return self._ahead_bytes

    def note_logged(self, size: int) -> None:
        """Bytes that were let in have been committed with a batch that carries them."""
        self._ahead_bytes = max(0, self._ahead_bytes - size)

    def note_room(self, room: int, *, lent: int, holes: int, to_settle: int) -> None:
        """Take note of what was measured."""
        self.room_bytes, self.lent_bytes, self.hole_bytes = room, lent, holes
        self.settle_room_bytes = to_settle
        self._admitted_bytes = 0
        self._unmeasured_bytes_max = max(self.stripes.stripe_bytes_max, min(room, to_settle) // UNMEASURED_SHARE)
        self._easy_bytes = 0
        self._measured_ns, self._measured_releases = self.clock.monotonic_ns(), self.reclaimer.releases

    @property
    def available_bytes(self) -> int:
        """What users can write, though for some of it they may have to wait until the log is shorter."""
        return self.room_bytes + self.lent_bytes + self.hole_bytes

    def _room_for(self, logged: int) -> int:
        """What fits, if ``logged`` of it goes through the log."""
        fits = self.room_bytes + min(logged, self.hole_bytes)
        return min(fits, self.settle_room_bytes) if logged > self.settle_room_bytes else fits

    async def _wait_for_room(self, size: int, logged: int) -> None:
        """Let reclaim make room, as long as there is something that it can make room of, and it does."""
        await self._wait_for_reclaim(lambda: self._room_for(logged), size)

    async def wait_for_rows(self, size: int) -> None:
        """For somebody who was let through and found no rows: let reclaim make some, as long as it does."""
        before = self.stripes.space().usable_free_bytes
        await self._wait_for_reclaim(lambda: self.stripes.space().usable_free_bytes, before + size)

    async def _wait_for_reclaim(self, room: Callable[[], int], wanted: int) -> None:
        """Wait until ``room`` is as wanted, as long as it grows now and then."""
        self.waits += 1
        self.waiting_for_room += 1
        self.reclaimer.hurry()
        self.settle_wanted.set()
        best = room()
        grown_ns = self.clock.monotonic_ns()
        try:
            while True:
                patience = ROOM_PATIENCE_SECONDS if self._is_reclaimable() else ROOM_PATIENCE_SECONDS_MIN
                if self.clock.monotonic_ns() - grown_ns > patience * 1e9:
                    return
                with trio.move_on_after(ROOM_LOOK_SECONDS):
                    await self.reclaimer.released.wait()
                self._measure_if_needed()
                now = room()
                if now >= wanted:
                    return
                if now > best:
                    best, grown_ns = now, self.clock.monotonic_ns()
        finally:
            self.waiting_for_room -= 1

    def _measure_if_needed(self) -> None:
        """Look how much room there is, unless somebody has and nothing came free since: many may wait for the same."""
        is_recent = self.clock.monotonic_ns() - self._measured_ns < ROOM_LOOK_SECONDS * 1e9 / 2
        if not is_recent or self.reclaimer.releases != self._measured_releases:
            self.measure_room()

    @property
    def is_cramped(self) -> bool:
        """Whether there are so few rows for stripes that reclaim has to make some."""
        now = self.stripes.space()
        return now.usable_free_bytes * CRAMPED_SHARE < now.usable_total_bytes

    def _is_reclaimable(self) -> bool:
        """Whether dead bytes, or what the log gives back, are worth waiting for; a little always is dead."""
        dead_bytes_min = self.stripes.space().usable_total_bytes // DEAD_SHARE_OF_POOL
        is_settling = self.totals.log_live_bytes > self.settle_room_bytes
        return (
            self.worn.dead_bytes > dead_bytes_min
            or len(self.reclaimer) > 0
            or self.lent_bytes > 0
            or is_settling
            or self.trash_bytes > 0
        )

    async def wait_changes_go(self) -> None:
        """Return when nobody holds changes back."""
        if not self._changes_go.is_set():
            await self._changes_go.wait()

    def check_room(self, size: int, *, logged: int = 0) -> None:
        """Raise NoSpace if ``size`` more bytes do not fit, of which ``logged`` go through the log; 0 always do."""
        if size > 0 and size > self._room_for(logged):
            raise NoSpace(f"no room for {size} bytes: the pool is full up to its reserve; delete files or add disks")

    def hold_writers(self, hold: bool) -> None:
        """Let changes that add bytes wait (the log is over its high-water mark), or go on."""
        if not hold:
            self._writers_go.set()
        elif self._writers_go.is_set():
            self._writers_go = trio.Event()

    def refuse_writers(self, error: Unavailable | NoSpace | None) -> None:
        """Refuse changes that add bytes, those that wait included; None ends that.

        Used where waiting could be for ever: nobody knows when disks, HOME or room come back, and a program that hangs
        tells its user less than an error that says what is missing. Deletes pass.
        """
        self._refusal = error
        if error is not None:
            self.hold_writers(False)

    @property
    def is_holding_changes(self) -> bool:
        """Whether every change waits."""
        return not self._changes_go.is_set()

    def hold_changes(self, hold: bool) -> None:
        """Let every change wait (somebody walks the metadata), or go on."""
        if not hold:
            self._changes_go.set()
        elif self._changes_go.is_set():
            self._changes_go = trio.Event()

    async def sync(self) -> None:
        """Return when everything committed so far is durable."""
        await self.log.wait_durable(self.store.last_lsn)

    async def _wait_durable_unhurried(self, lsn: Lsn) -> None:
        """Return when ``lsn`` is durable, without asking for a flush of its own, unless somebody waits for the room:
        the commit interval sees to it."""
        while self.log.durable_lsn < lsn:
            if self.waiting_for_room or self.room_bytes * HURRY_SHARE < self.stripes.space().usable_total_bytes:
                await self.log.wait_durable(lsn)
            else:
                with trio.move_on_after(UNHURRIED_SECONDS):
                    await self.reclaimer.hurried.wait()

    # --- what the stripes need -------------------------------------------------------------------------------------

    def stripe_info(self, stripe_id: StripeId) -> StripeInfo:
        """Slab, stripe and checksums of a stripe that an extent refers to. Raises Corrupt if a record is missing."""
        info = self._stripe_cache.get(stripe_id)
        if info is not None:
            self._stripe_cache.move_to_end(stripe_id)
            return info
        slab_id = slab_of(stripe_id)
        slab = self._slabs.get(slab_id)
        if slab is None:
            slab = space.get_slab(self.store, slab_id)
            if slab is None:
                raise Corrupt(f"slab {slab_id}: no record, but an extent refers to stripe {stripe_id:x}; run fsck")
            self._slabs[slab_id] = slab
        stripe, checksums = space.get_stripe(self.store, stripe_id), space.get_checksums(self.store, stripe_id)
        if stripe is None or checksums is None:
            raise Corrupt(f"stripe {stripe_id:x}: no record, but an extent refers to it; run fsck")
        info = self._stripe_cache[stripe_id] = StripeInfo(slab, stripe, checksums)
        if len(self._stripe_cache) > STRIPE_CACHE_ENTRIES:
            self._stripe_cache.popitem(last=False)
        return info

    def try_claim(self, slab_id: SlabId) -> bool:
        """Claim a slab for work on units that are written already (filling, moving, scrubbing): one at a time. False if
        somebody else has it; whoever gets it calls ``release_claim``."""
        if slab_id in self._claims:
            return False
        self._claims.add(slab_id)
        return True

    def release_claim(self, slab_id: SlabId) -> None:
        """Let go of a slab."""
        self._claims.remove(slab_id)

    @asynccontextmanager
    async def claimed(self, slab_id: SlabId) -> AsyncIterator[None]:
        """A slab that is claimed as long as the context lasts; waits for it."""
        while not self.try_claim(slab_id):
            await self.clock.sleep(CLAIM_RETRY_SECONDS)
        try:
            yield
        finally:
            self.release_claim(slab_id)

    def forget_stripe(self, stripe_id: StripeId) -> None:
        """Drop what is cached of a stripe whose record is changed."""
        self._stripe_cache.pop(stripe_id, None)

    def forget_slab(self, slab_id: SlabId) -> None:
        """Drop what is cached of a slab whose record is deleted or changed."""
        self._slabs.pop(slab_id, None)
        for stripe_id in [stripe_id for stripe_id in self._stripe_cache if slab_of(stripe_id) == slab_id]:
            del self._stripe_cache[stripe_id]
