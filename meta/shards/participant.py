"""A shard's part in transactions that others coordinate: it votes, holds what it voted for, and makes the changes.

An intent is a record of the store, so the log keeps it and a restart finds it. It outlives its changes, empty, until
the coordinator has forgotten the transaction: a request that comes twice must not be carried out twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from siltstone.meta import keys
from siltstone.meta.counters import read_counters
from siltstone.meta.records import encode
from siltstone.meta.shards.locks import Claim, KeyLocked, LockTable
from siltstone.meta.shards.map import PartitionMap
from siltstone.meta.shards.merging import counts, identity, is_mergeable, is_taken_from, merged
from siltstone.meta.shards.messages import (
    Ask,
    Change,
    Decide,
    Done,
    Entries,
    Fetch,
    Fetched,
    Forget,
    NotMine,
    PeerLost,
    Peers,
    Prepare,
    Settle,
    Settled,
    Told,
    Verdict,
    Vote,
)
from siltstone.meta.store.port import FIRST_CHUNK
from siltstone.meta.store.store import Store, Transaction
from siltstone.ports import Clock
from siltstone.types import Lsn, ShardId, TransactionId

ASK_SECONDS = 1.0
"""How long an intent waits before its coordinator is asked; it may have died, or its word been lost."""

ASK_OVER_SECONDS = 10.0
"""The same of the mark of one whose changes were made: it does no harm."""

logger = logging.getLogger("siltstone.shards")


class Intent(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """What a transaction may change here, and what it speaks for meanwhile (locks.Claim)."""

    changes: list[Change]
    held: list[bytes]
    kept: list[bytes]
    pending: list[bytes]
    ranges: list[tuple[bytes, bytes]]


_decode = msgspec.msgpack.Decoder(Intent).decode


def coordinator_of(transaction: TransactionId) -> ShardId:
    """The shard that coordinates a transaction."""
    return ShardId(transaction[0])


class Participant:
    """Votes and carries out. ``on_applied`` hears, in the turn of the commit, of the changes that were made here."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        locks: LockTable,
        partitions: Callable[[], PartitionMap],
        peers: Peers,
        clock: Clock,
        *,
        commit: Callable[[Transaction], Lsn],
        on_applied: Callable[[list[Change]], None],
    ) -> None:
        self._shard = shard
        self._store = store
        self._locks = locks
        self._partitions = partitions
        self._peers = peers
        self._clock = clock
        self._commit = commit
        self._on_applied = on_applied
        self._since: dict[TransactionId, int] = {}
        """The transactions that are prepared here and have not ended, and since when (monotonic)."""
        self._passing: set[TransactionId] = set()
        """Those of them that end with this process: they change nothing, anywhere."""
        self._made: dict[TransactionId, int] = {}
        """Marks of transactions whose changes were made, and since when."""
        for key, value in store.scan(*keys.prefix_range(keys.INTENTS)):
            transaction = keys.transaction_id(key)
            if value:
                locks.take(transaction, _claim_of(_decode(value)))
                self._since[transaction] = clock.monotonic_ns() - round(ASK_SECONDS * 1e9)
            else:
                self._made[transaction] = clock.monotonic_ns()

    def __len__(self) -> int:
        return len(self._since)

    def knows_of(self, coordinator: ShardId) -> bool:
        """Whether anything is left here of transactions that a shard coordinates."""
        return any(coordinator_of(transaction) == coordinator for transaction in (*self._since, *self._made))

    # --- requests --------------------------------------------------------------------------------------------------

    async def fetch(self, message: Fetch) -> Fetched | NotMine:
        """The records as they are now; waits for what is about to change."""
        while True:
            elsewhere = self._elsewhere([*message.keys, *(start for start, _, _ in message.ranges)])
            if elsewhere is not None:
                return elsewhere
            try:
                values = [self._read(key, message.exact) for key in message.keys]
                chunks = [self._read_range(*wanted) for wanted in message.ranges]
            except KeyLocked as locked:
                await self._locks.wait(locked.transaction)
                continue
            return Fetched(values, chunks)

    async def prepare(self, message: Prepare) -> Vote | NotMine:
        """Vote: yes if all is as it was read, and nobody else speaks for it. A yes is durable if it is to last."""
        transaction = TransactionId(message.transaction)
        if transaction in self._made:
            return Vote(prepared=False)  # a request that was sent twice, and the transaction is over
        if transaction not in self._since:
            elsewhere = self._elsewhere(_keys_of(message))
            if elsewhere is not None:
                return elsewhere
            intent = _intent_of(message, self._store.get)
            claim = _claim_of(intent)
            if not self._holds(message) or self._locks.rival(claim) is not None:
                return Vote(prepared=False)
            if message.lasting:
                batch = self._store.begin()
                batch.put(keys.intent(transaction), encode(intent))
                self._commit(batch)
            else:
                self._passing.add(transaction)
            self._locks.take(transaction, claim)
            self._since[transaction] = self._clock.monotonic_ns()
        if message.lasting:
            await self._store.log.wait_durable(self._store.last_lsn)
        return Vote(prepared=True)

    def decide(self, message: Decide) -> Done:
        """Make the changes or drop them; visible on return. Knows what it has carried out already."""
        transaction = TransactionId(message.transaction)
        if transaction not in self._since:
            return Done()
        if transaction in self._passing:
            self._passing.remove(transaction)
        else:
            self._end(transaction, commit=message.commit)
        del self._since[transaction]
        self._locks.release(transaction)
        return Done()

    async def settle(self, message: Settle) -> Settled:
        """Which transactions have been made here and would be after a crash."""
        made = [wanted for wanted in message.transactions if wanted not in self._since]
        await self._store.log.wait_durable(self._store.last_lsn)
        return Settled(made)

    def forget(self, message: Forget) -> Done:
        """Drop what is left of transactions that are over everywhere."""
        self._drop_marks([TransactionId(transaction) for transaction in message.transactions])
        return Done()

    async def run(self) -> None:
        """Ask after transactions that nobody ends, for ever."""
        while True:
            await self._clock.sleep(ASK_SECONDS)
            for transaction in self._older(self._since, ASK_SECONDS):
                await self._ask(transaction)
            for transaction in self._older(self._made, ASK_OVER_SECONDS):
                await self._ask_over(transaction)

    def _older(self, since: Mapping[TransactionId, int], seconds: float) -> list[TransactionId]:
        limit = self._clock.monotonic_ns() - round(seconds * 1e9)
        return [transaction for transaction, begun in since.items() if begun <= limit]

    # --- inside ----------------------------------------------------------------------------------------------------

    def _elsewhere(self, wanted: Iterable[bytes]) -> NotMine | None:
        """Where those of some keys are that this shard does not have (any more); None if it has all."""
        partitions = self._partitions()
        moved = {keys.key_partition(key) for key in wanted if partitions.owner_of_key(key) not in (None, self._shard)}
        return NotMine([partitions.placement(partition) for partition in sorted(moved)]) if moved else None

    def _read(self, key: bytes, exact: bool) -> bytes | None:
        if keys.kind_of(key) == keys.COUNTERS:
            return self._reserve(key)
        self._locks.check_read(key, exact=exact)
        return self._store.get(key)

    def _reserve(self, key: bytes) -> bytes:
        """The counters of a partition, as they are when nobody else gets the next serial number."""
        self._locks.check_frozen(key)
        batch = self._store.begin()
        counters = read_counters(batch, keys.key_partition(key))
        found = encode(counters)
        counters.serial += 1
        batch.put(key, encode(counters))
        self._commit(batch)
        return found

    def _read_range(self, start: bytes, end: bytes, reverse: bool) -> tuple[Entries, tuple[bytes, bytes] | None]:
        self._locks.check_scan(start, end)
        return self._store.read_chunk(start, end, reverse, FIRST_CHUNK)

    def _holds(self, message: Prepare) -> bool:
        """Whether what the transaction read is still so, and no inode that it makes is there already."""
        store = self._store
        known = message.reads + [(change.key, change.old) for change in message.changes if is_mergeable(change.key)]
        return (
            all(identity(key, store.get(key)) == identity(key, value) for key, value in known)
            and all(
                counts(store.get(change.key)) == counts(change.old)
                for change in message.changes
                if is_taken_from(change.key, change.old, change.new)
            )
            and all(
                list(store.scan(start, end, reverse=reverse)) == entries
                for start, end, reverse, entries in message.scans
            )
        )

    def _end(self, transaction: TransactionId, *, commit: bool) -> None:
        key = keys.intent(transaction)
        batch = self._store.begin()
        changes: list[Change] = []
        if commit:
            value = batch.get(key)
            assert value, f"transaction {transaction.hex()} is held and has no intent"
            changes = _decode(value).changes
            for change in changes:
                after = merged(change.key, batch.get(change.key), change.old, change.new)
                if after is None:
                    batch.delete(change.key)
                else:
                    batch.put(change.key, after)
            batch.put(key, b"")
            self._made[transaction] = self._clock.monotonic_ns()
        else:
            batch.delete(key)
        self._commit(batch)
        if changes:
            self._on_applied(changes)

    async def _ask(self, transaction: TransactionId) -> None:
        verdict = await self._verdict(transaction)
        if verdict in (Verdict.COMMITTED, Verdict.ABORTED):
            logger.info("transaction %s was left open here: %s", transaction.hex(), verdict.name.lower())
            self.decide(Decide(transaction, verdict == Verdict.COMMITTED))

    async def _ask_over(self, transaction: TransactionId) -> None:
        """Drop the mark of one that has been made, once its coordinator has forgotten it."""
        if await self._verdict(transaction) == Verdict.ABORTED:
            self._drop_marks([transaction])

    async def _verdict(self, transaction: TransactionId) -> Verdict:
        try:
            told = await self._peers.call(coordinator_of(transaction), Ask(transaction))
        except PeerLost:
            return Verdict.OPEN
        assert isinstance(told, Told)
        return told.verdict

    def _drop_marks(self, transactions: list[TransactionId]) -> None:
        batch = self._store.begin()
        for transaction in transactions:
            if self._made.pop(transaction, None) is not None:
                batch.delete(keys.intent(transaction))
        self._commit(batch)


def _keys_of(message: Prepare) -> Iterator[bytes]:
    yield from (key for key, _ in message.reads)
    yield from (change.key for change in message.changes)
    yield from (start for start, _, _, _ in message.scans)


def _intent_of(message: Prepare, get: Callable[[bytes], bytes | None]) -> Intent:
    """What a transaction has to speak for: what it changes in its identity it holds, the rest it keeps."""
    held: list[bytes] = []
    kept = {key for key, _ in message.reads}
    pending: list[bytes] = []
    for change in message.changes:
        is_same = is_mergeable(change.key) and identity(change.key, get(change.key)) == identity(change.key, change.new)
        if is_same and not is_taken_from(change.key, change.old, change.new):
            pending.append(change.key)
            kept.add(change.key)
        else:
            held.append(change.key)
            kept.discard(change.key)
    # Numbers of new inodes are reserved when counters are read, and sums can be added to in any order.
    kept = {key for key in kept if identity(key, None) != ()}
    pending = [key for key in pending if key in kept]
    return Intent(message.changes, held, sorted(kept), pending, [(start, end) for start, end, _, _ in message.scans])


def _claim_of(intent: Intent) -> Claim:
    return Claim(frozenset(intent.held), frozenset(intent.kept), frozenset(intent.pending), tuple(intent.ranges))
