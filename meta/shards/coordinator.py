"""Carrying out operations on a shard: what needs no other as any batch, what does as a transaction of several logs.

The commit point is one batch in the log of the coordinator, with its own changes and a record of the decision. Before
it every other shard that was read or is to be written has voted, durably, and holds what it voted for; the
coordinator's own part needs no locks, because it is computed anew, and compared, in the turn that commits it. After it
the others are told until they have heard. What is not decided is aborted: a coordinator that knows nothing of a
transaction says so (presumed abort; Mohan, Lindsay, Obermarck, ACM TODS 11, 1986). See docs/decisions/0011.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec
import trio

from siltstone.meta import keys
from siltstone.meta.records import encode
from siltstone.meta.shards.locks import KeyLocked, LockTable
from siltstone.meta.shards.map import MapView
from siltstone.meta.shards.merging import is_mergeable
from siltstone.meta.shards.messages import (
    Change,
    Decide,
    Fetch,
    Fetched,
    Forget,
    NotMine,
    PeerLost,
    Peers,
    Prepare,
    Settle,
    Settled,
    Verdict,
    Vote,
)
from siltstone.meta.shards.spanning import Foreign, ForeignPart, NeedsForeign, NeedsMany, Range, SpanningTransaction
from siltstone.meta.store.port import Chunk, Reader
from siltstone.meta.store.store import Store, Transaction
from siltstone.ports import Clock, Random
from siltstone.types import Lsn, ShardId, TransactionId

T = TypeVar("T")

BACKOFF_SECONDS = 0.0005
BACKOFF_SECONDS_MAX = 0.064
"""How long is waited after a refusal: a random time up to a bound that doubles."""

RESEND_SECONDS = 0.25
"""How long is waited before a decision is sent again to a shard that gave no answer."""

SETTLE_SECONDS = 1.0
"""How often it is looked which decisions everybody has carried out."""

SETTLE_MAX = 1024
"""Decisions that are looked at together."""


class Decision(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """A transaction is committed. ``participants``: shards that have a part in it."""

    participants: list[int]


_decode = msgspec.msgpack.Decoder(Decision).decode


def participants_of(decision: bytes) -> list[int]:
    """The shards that have a part in a decision, of which this is the record. Raises msgspec.DecodeError."""
    return _decode(decision).participants


class Coordinator:
    """Runs the functions of the namespace, over whatever shards they need."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        locks: LockTable,
        partitions: MapView,
        peers: Peers,
        clock: Clock,
        random: Random,
        nursery: trio.Nursery,
        *,
        commit: Callable[[Transaction], Lsn],
    ) -> None:
        """``commit``: how a batch is committed here. ``nursery``: where decisions are sent on their way."""
        self._shard = shard
        self._store = store
        self._locks = locks
        self._partitions = partitions
        self._peers = peers
        self._clock = clock
        self._random = random
        self._nursery = nursery
        self._commit = commit
        self._prefix = bytes((shard,)) + random.bytes(7)
        self._serial = 0
        self._open: set[TransactionId] = set()
        self._decided: dict[TransactionId, list[ShardId]] = {}
        self.retries = 0
        """How often an operation was begun again because another came in between."""
        for key, value in store.scan(*keys.prefix_range(keys.DECISIONS)):
            transaction = keys.transaction_id(key)
            self._decided[transaction] = [ShardId(shard) for shard in _decode(value).participants]
            self._tell(transaction, Lsn(0))

    @property
    def undecided(self) -> int:
        """Transactions that others have voted for, or are asked to."""
        return len(self._open)

    @property
    def unsettled(self) -> int:
        """Committed transactions that not all others are known to have carried out."""
        return len(self._decided)

    def has_part(self, shard: ShardId) -> bool:
        """Whether a shard has a part in what has been decided here and not been carried out everywhere."""
        return any(shard in participants for participants in self._decided.values())

    # --- operations ------------------------------------------------------------------------------------------------

    async def perform(self, change: Callable[[Transaction], T], committed: Callable[[T], None]) -> T:
        """Run ``change`` in a transaction and commit that; returns, or raises, what it does.

        It may run several times, and must change nothing but its transaction, and the same each time. ``committed`` is
        called in the turn of the commit. A change that needed other shards is durable on return, others are visible
        and not yet durable.
        """
        foreign = Foreign()
        backoff = BACKOFF_SECONDS
        while True:
            transaction = self._begin(foreign, exact=False)
            try:
                outcome = _outcome(change, transaction)
                parts = transaction.foreign_parts()
                if not parts:
                    if outcome.error is None:
                        transaction.check_locks()
                        self._commit(transaction)
                        committed(outcome.value)
                    return outcome.result()
            except NeedsMany as many:
                if not await self._fetch_many(many, foreign):
                    backoff = await self._back_off(backoff)
                continue
            except NeedsForeign as needs:
                if not await self._fetch(needs, foreign, exact=False):
                    backoff = await self._back_off(backoff)
                continue
            except KeyLocked as locked:
                await self._locks.wait(locked.transaction)
                continue
            attempt = _Attempt(self._new_transaction(), parts)
            done = await self._span(attempt, change, committed, foreign, lasting=outcome.error is None)
            if done is not None:
                return done.result()
            self.retries += 1
            foreign.clear()
            backoff = await self._back_off(backoff)

    async def look(
        self,
        question: Callable[[Reader], T],
        *,
        remembered: dict[bytes, bytes | None] | None = None,
        is_loose: bool = False,
    ) -> T:
        """Run ``question``, which only reads; returns, or raises, what it does. It may run several times.

        What it read was all there at one moment: where that is not plain, everything is read twice, and must be the
        same both times. ``remembered``: what it read of others the last time, with which it is tried first; it gets
        what was read this time. ``is_loose``: what it returns need not be of one moment, only what it raises.
        """
        foreign = Foreign()
        backoff = BACKOFF_SECONDS
        is_guess = bool(remembered)
        if remembered:
            foreign.values.update(remembered)
        seen: Mapping[bytes, bytes | None] | None = None
        while True:
            view = self._begin(foreign, exact=True)
            try:
                outcome = _outcome(question, view)
            except NeedsMany as many:
                if not await self._fetch_many(many, foreign):
                    backoff = await self._back_off(backoff)
                seen = None
                continue
            except NeedsForeign as needs:
                if not await self._fetch(needs, foreign, exact=True):
                    backoff = await self._back_off(backoff)
                seen = None
                continue
            except KeyLocked as locked:
                await self._locks.wait(locked.transaction)
                continue
            is_of_one_moment = view.is_of_one_moment and not (is_guess and view.foreign_reads)
            if is_of_one_moment or seen == view.reads or (is_loose and outcome.error is None):
                if remembered is not None:
                    remembered.clear()
                    remembered.update(view.foreign_reads)
                return outcome.result()
            parts = view.foreign_parts()
            is_same = await self._is_still_so(parts, foreign)
            # What was remembered and is so again may have been otherwise meanwhile. One shard's was so at one moment.
            seen = view.reads if is_same and not (is_guess and len(parts) > 1) else None
            is_guess = False

    def verdict(self, transaction: TransactionId) -> Verdict:
        """What has become of a transaction of this shard. A commit is one when it is durable."""
        if transaction in self._open:
            return Verdict.OPEN
        return Verdict.COMMITTED if transaction in self._decided else Verdict.ABORTED

    async def run(self) -> None:
        """Forget decisions that everybody has carried out, for ever."""
        while True:
            await self._clock.sleep(SETTLE_SECONDS)
            decided = [transaction for transaction in self._decided if transaction not in self._open][:SETTLE_MAX]
            if decided:
                await self._settle(decided)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _begin(self, foreign: Foreign, *, exact: bool) -> SpanningTransaction:
        return SpanningTransaction(self._store, self._shard, self._partitions(), self._locks, foreign, exact=exact)

    def _new_transaction(self) -> TransactionId:
        self._serial += 1
        return TransactionId(self._prefix + self._serial.to_bytes(8, "big"))

    async def _back_off(self, seconds: float) -> float:
        """Wait a random time up to a bound; returns the next bound."""
        await self._clock.sleep(seconds * self._random.below(1 << 16) / (1 << 16))
        return min(2 * seconds, BACKOFF_SECONDS_MAX)

    async def _fetch(self, needs: NeedsForeign, foreign: Foreign, *, exact: bool) -> bool:
        """Fetch what is needed. False if it is elsewhere by now: then everything is to be fetched anew, from there."""
        wanted = needs.wanted
        fetched = await self._ask(
            needs.shard, Fetch([wanted], [], exact) if isinstance(wanted, bytes) else Fetch([], [wanted], exact)
        )
        if fetched is None:
            foreign.clear()
        elif isinstance(wanted, bytes):
            foreign.values[wanted] = fetched.values[0]
        else:
            foreign.chunks[wanted] = Chunk(*fetched.chunks[0])
        return fetched is not None

    async def _fetch_many(self, many: NeedsMany, foreign: Foreign) -> bool:
        """Fetch what is needed, of all shards at once. False if some of it is elsewhere by now, as for ``_fetch``."""
        moved: list[ShardId] = []

        async def fetch(shard: ShardId, wanted: list[bytes | Range]) -> None:
            records = [one for one in wanted if isinstance(one, bytes)]
            ranges = [one for one in wanted if not isinstance(one, bytes)]
            fetched = await self._ask(shard, Fetch(records, [*ranges], True))
            if fetched is None:
                moved.append(shard)
                return
            foreign.values.update(zip(records, fetched.values, strict=True))
            foreign.chunks.update((ranged, Chunk(*found)) for ranged, found in zip(ranges, fetched.chunks, strict=True))

        async with trio.open_nursery() as nursery:
            for shard, wanted in many.wanted.items():
                nursery.start_soon(fetch, shard, wanted)
        if moved:
            foreign.clear()
        return not moved

    async def _is_still_so(self, parts: Mapping[ShardId, ForeignPart], foreign: Foreign) -> bool:
        """Whether others still have what was fetched of them; what they have by now is taken over."""
        same: list[bool] = []
        moved: list[ShardId] = []

        async def ask(shard: ShardId, part: ForeignPart) -> None:
            ranges = [wanted for wanted, _ in part.scans]
            fetched = await self._ask(shard, Fetch([*part.reads], [*ranges], True))
            if fetched is None:
                moved.append(shard)
                return
            now = dict(zip(part.reads, fetched.values, strict=True))
            chunks = {wanted: Chunk(*found) for wanted, found in zip(ranges, fetched.chunks, strict=True)}
            same.append(now == part.reads and all(foreign.chunks.get(key) == chunks[key] for key in chunks))
            foreign.values |= now
            foreign.chunks |= chunks

        if len(parts) == 1:
            await ask(*next(iter(parts.items())))
        else:
            async with trio.open_nursery() as nursery:
                for shard, part in parts.items():
                    nursery.start_soon(ask, shard, part)
        if moved:
            foreign.clear()
        return not moved and all(same)

    async def _ask(self, shard: ShardId, message: Fetch) -> Fetched | None:
        """What a shard answers, however long it takes; None if it does not have that (any more)."""
        while True:
            try:
                fetched = await self._peers.call(shard, message)
            except PeerLost:
                if shard >= self._partitions().count:
                    return None  # gone for good, with nothing: somebody else has it
                await self._clock.sleep(RESEND_SECONDS)
            else:
                if isinstance(fetched, NotMine):
                    self._partitions.learn(fetched.placements)
                    return None
                assert isinstance(fetched, Fetched)
                return fetched

    async def _span(
        self,
        attempt: _Attempt,
        change: Callable[[Transaction], T],
        committed: Callable[[T], None],
        foreign: Foreign,
        *,
        lasting: bool,
    ) -> _Outcome[T] | None:
        """One attempt with the others: the outcome, or None when it has to be made again.

        An error is an outcome as well: it must be true of one moment, so what it follows from is held, too.
        """
        transaction = attempt.transaction
        self._open.add(transaction)
        is_decided = False
        try:
            if not await self._prepare(attempt, lasting=lasting):
                return None
            # From here to the commit is one turn.
            again = self._begin(foreign, exact=False)
            try:
                outcome = _outcome(change, again)
                if outcome.error is not None:
                    return outcome
                if not lasting or again.foreign_parts() != attempt.parts:
                    return None
                again.keep_own()
                again.check_locks()
            except (NeedsForeign, NeedsMany, KeyLocked):
                # Never waited for here: two that hold what the other wants would wait for ever.
                return None
            again.put(keys.decision(transaction), encode(Decision([*attempt.parts])))
            lsn = self._commit(again)
            is_decided = True
            self._decided[transaction] = [*attempt.parts]
            durable = self._tell(transaction, lsn)
            committed(outcome.value)
        finally:
            if not is_decided:
                self._open.discard(transaction)
                for shard in attempt.parts:
                    # Once: who does not hear of it asks.
                    self._nursery.start_soon(self._send, shard, Decide(transaction, False))
        await durable.wait()
        return outcome

    async def _prepare(self, attempt: _Attempt, *, lasting: bool) -> bool:
        votes: list[bool] = []

        async def ask(shard: ShardId, part: ForeignPart) -> None:
            message = _preparation(attempt.transaction, part, lasting=lasting)
            try:
                vote = await self._peers.call(shard, message)
            except PeerLost:
                votes.append(False)
            else:
                if isinstance(vote, NotMine):
                    self._partitions.learn(vote.placements)
                    votes.append(False)
                    return
                assert isinstance(vote, Vote)
                votes.append(vote.prepared)

        if len(attempt.parts) == 1:
            await ask(*next(iter(attempt.parts.items())))
        else:
            async with trio.open_nursery() as nursery:
                for shard, part in attempt.parts.items():
                    nursery.start_soon(ask, shard, part)
        return all(votes)

    def _tell(self, transaction: TransactionId, lsn: Lsn) -> trio.Event:
        """Send the decision to commit on its way as soon as it is durable, which sets the event."""
        durable = trio.Event()

        async def tell() -> None:
            # The others must not hear of it before: after a crash they would be alone with it.
            await self._store.log.wait_durable(lsn)
            self._open.discard(transaction)
            durable.set()
            async with trio.open_nursery() as nursery:
                for shard in self._decided.get(transaction, ()):
                    nursery.start_soon(self._send_commit, transaction, shard)

        self._nursery.start_soon(tell)
        return durable

    async def _send(self, shard: ShardId, message: Decide) -> bool:
        """Send a decision; whether it was answered."""
        try:
            await self._peers.call(shard, message)
        except PeerLost:
            return False
        return True

    async def _send_commit(self, transaction: TransactionId, shard: ShardId) -> None:
        """Send a decision to commit until it is answered, or known to be carried out."""
        while not await self._send(shard, Decide(transaction, True)) and transaction in self._decided:
            await self._clock.sleep(RESEND_SECONDS)

    async def _settle(self, transactions: list[TransactionId]) -> None:
        waiting = {transaction: set(self._decided[transaction]) for transaction in transactions}
        for shard in sorted(set().union(*waiting.values())):
            asked = [transaction for transaction in transactions if shard in waiting[transaction]]
            try:
                settled = await self._peers.call(shard, Settle([*asked]))
            except PeerLost:
                continue
            assert isinstance(settled, Settled)
            for transaction in settled.transactions:
                waiting[TransactionId(transaction)].discard(shard)
        over = [transaction for transaction in transactions if not waiting[transaction]]
        if not over:
            return
        batch = self._store.begin()
        for transaction in over:
            batch.delete(keys.decision(transaction))
        lsn = self._commit(batch)
        told: dict[ShardId, list[bytes]] = {}
        for transaction in over:
            for shard in self._decided.pop(transaction):
                told.setdefault(shard, []).append(transaction)
        # After a crash the decisions may be back, and are told again: then the marks must still be there.
        await self._store.log.wait_durable(lsn)
        for shard, gone in told.items():
            try:
                await self._peers.call(shard, Forget(gone))
            except PeerLost:
                continue  # it asks after a while


class _Attempt(NamedTuple):
    """A transaction's name, and what it needs of others."""

    transaction: TransactionId
    parts: dict[ShardId, ForeignPart]


class _Outcome(Generic[T]):
    """What a function returned, or the error that it raised."""

    __slots__ = ("_value", "error")

    def __init__(self, value: T | None, error: Exception | None) -> None:
        self._value = value
        self.error = error

    @property
    def value(self) -> T:
        """What was returned, if nothing was raised."""
        assert self.error is None
        return self._value  # type: ignore[return-value]

    def result(self) -> T:
        """Return or raise it."""
        if self.error is not None:
            raise self.error
        return self.value


def _outcome(function: Callable[[SpanningTransaction], T], transaction: SpanningTransaction) -> _Outcome[T]:
    """Run it. Any error is an outcome, a failed assertion included: records that were fetched one after the other may
    not go together, and only when they are known to is it an error of the program."""
    try:
        return _Outcome(function(transaction), None)
    except (NeedsForeign, NeedsMany, KeyLocked):
        raise
    except Exception as error:
        return _Outcome(None, error)


def _preparation(transaction: TransactionId, part: ForeignPart, *, lasting: bool) -> Prepare:
    reads = [(key, value) for key, value in part.reads.items() if key not in part.writes]
    changes = [
        Change(key, part.reads.get(key) if is_mergeable(key) else None, value) for key, value in part.writes.items()
    ]
    written = [(key, part.reads[key]) for key in part.writes if key in part.reads]
    scans = [(wanted.start, wanted.end, wanted.reverse, entries) for wanted, entries in part.scans]
    return Prepare(transaction, reads + written, scans, changes, lasting)
