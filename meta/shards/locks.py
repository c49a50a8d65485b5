"""Which keys of a shard are spoken for by transactions that span shards, between their preparation and their end.

A *held* key is about to change: nobody may read or write it. A *kept* key must keep its identity (merging.py): others
may read it and change what is merged. A kept key that will change in what is merged is *pending* too: who wants to know
its counts and times waits. Nothing here waits: readers are told whom to wait for, and other transactions of this kind
are refused, so that nobody who holds locks ever waits for some.

A *frozen* partition is about to go to another shard: for some milliseconds nothing in it changes (handover.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import trio

from siltstone.meta.shards.merging import identity
from siltstone.meta.store.port import Reader
from siltstone.types import PartitionId, TransactionId

_PARTITION_KEY = ord("p")
_NOTHING: frozenset[bytes] = frozenset()


class KeyLocked(Exception):
    """A key is spoken for; wait until that transaction has ended (``LockTable.wait``) and begin again.

    No SiltstoneError: it never leaves the shard.
    """

    def __init__(self, transaction: TransactionId) -> None:
        super().__init__(f"a key is held by transaction {transaction.hex()}")
        self.transaction = transaction


class Claim:
    """What one transaction speaks for. ``ranges``: no key in [start, end) may come or go."""

    __slots__ = ("ended", "held", "kept", "pending", "ranges")

    def __init__(
        self,
        held: frozenset[bytes],
        kept: frozenset[bytes],
        pending: frozenset[bytes],
        ranges: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        self.held = held
        self.kept = kept
        self.pending = pending
        self.ranges = ranges
        self.ended = trio.Event()


class LockTable:
    """The claims of all transactions that are prepared on a shard. Falsy when there are none."""

    def __init__(self) -> None:
        self._claims: dict[TransactionId, Claim] = {}
        self._held: dict[bytes, TransactionId] = {}
        self._kept: dict[bytes, list[TransactionId]] = {}
        self._pending: dict[bytes, list[TransactionId]] = {}
        self._ranges: dict[TransactionId, Claim] = {}
        self._frozen: dict[int, TransactionId] = {}
        """Partitions in which nothing may change, and who waits for that finds under which name."""

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, transaction: object) -> bool:
        return transaction in self._claims

    # --- for transactions that span shards -------------------------------------------------------------------------

    def rival(self, claim: Claim) -> TransactionId | None:
        """A transaction whose claim this one cannot stand beside, or None."""
        if not self._claims:
            return None
        if self._frozen and (frozen := self._frozen_by(claim)) is not None:
            return frozen
        for key in claim.held:
            other = self._held.get(key) or next(iter(self._kept.get(key, ())), None)
            if other is not None:
                return other
            for transaction, ranged in self._ranges.items():
                if any(start <= key < end for start, end in ranged.ranges):
                    return transaction
        for key in claim.kept:
            if (other := self._held.get(key)) is not None:
                return other
        for start, end in claim.ranges:
            if (other := self._holder_in(start, end)) is not None:
                return other
        return None

    def take(self, transaction: TransactionId, claim: Claim) -> None:
        """Speak for a claim's keys; there is no rival."""
        assert transaction not in self._claims
        self._claims[transaction] = claim
        for key in claim.held:
            self._held[key] = transaction
        for key in claim.kept:
            self._kept.setdefault(key, []).append(transaction)
        for key in claim.pending:
            self._pending.setdefault(key, []).append(transaction)
        if claim.ranges:
            self._ranges[transaction] = claim

    def release(self, transaction: TransactionId) -> None:
        """The transaction has ended."""
        claim = self._claims.pop(transaction)
        for key in claim.held:
            del self._held[key]
        for table, names in ((self._kept, claim.kept), (self._pending, claim.pending)):
            for key in names:
                table[key].remove(transaction)
                if not table[key]:
                    del table[key]
        self._ranges.pop(transaction, None)
        claim.ended.set()

    async def wait(self, transaction: TransactionId) -> None:
        """Return when a transaction holds nothing here (any more)."""
        claim = self._claims.get(transaction)
        if claim is None:
            await trio.lowlevel.checkpoint()
        else:
            await claim.ended.wait()

    async def wait_unclaimed(self, key: bytes) -> None:
        """Return when nobody speaks for a key; nothing was awaited since."""
        while (other := self._speaker(key)) is not None:
            await self.wait(other)

    # --- for a partition that goes to another shard ----------------------------------------------------------------

    @contextmanager
    def frozen(self, partition: PartitionId) -> Iterator[None]:
        """As long as the context lasts nothing in a partition changes, and nobody speaks for any of it anew."""
        name = TransactionId(b"frozen" + bytes(9) + bytes((partition,)))
        self.take(name, Claim(_NOTHING, _NOTHING, _NOTHING, ()))
        self._frozen[partition] = name
        try:
            yield
        finally:
            del self._frozen[partition]
            self.release(name)

    def speaker_in(self, partition: PartitionId) -> TransactionId | None:
        """A transaction that speaks for something in a partition, or None."""
        prefix = bytes((_PARTITION_KEY, partition))
        for transaction, claim in self._claims.items():
            keys = (*claim.held, *claim.kept, *(start for start, _ in claim.ranges))
            if any(key[:2] == prefix for key in keys):
                return transaction
        return None

    def check_frozen(self, key: bytes) -> None:
        """Raise KeyLocked if a key is in a partition in which nothing may change."""
        if self._frozen and key[0] == _PARTITION_KEY and (frozen := self._frozen.get(key[1])) is not None:
            raise KeyLocked(frozen)

    # --- for everybody else ----------------------------------------------------------------------------------------

    def check_read(self, key: bytes, *, exact: bool) -> None:
        """Raise KeyLocked if the record is about to change; with ``exact`` also if only what is merged is."""
        if (other := self._held.get(key)) is not None:
            raise KeyLocked(other)
        if exact and (pending := self._pending.get(key)):
            raise KeyLocked(pending[0])

    def check_scan(self, start: bytes, end: bytes) -> None:
        """Raise KeyLocked if a key of the range is about to come, go or change."""
        if (other := self._holder_in(start, end)) is not None:
            raise KeyLocked(other)

    def check_writes(self, store: Reader, writes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Raise KeyLocked if a batch of the shard's own would change what somebody speaks for."""
        for key, value in writes:
            self.check_frozen(key)
            if (other := self._held.get(key)) is not None:
                raise KeyLocked(other)
            if (keepers := self._kept.get(key)) and identity(key, store.get(key)) != identity(key, value):
                raise KeyLocked(keepers[0])
            for transaction, claim in self._ranges.items():
                if any(start <= key < end for start, end in claim.ranges):
                    raise KeyLocked(transaction)

    def _speaker(self, key: bytes) -> TransactionId | None:
        if self._frozen and key[0] == _PARTITION_KEY and key[1] in self._frozen:
            return self._frozen[key[1]]
        return self._held.get(key) or next(iter(self._kept.get(key, ())), None)

    def _frozen_by(self, claim: Claim) -> TransactionId | None:
        for keys in (claim.held, claim.kept, [start for start, _ in claim.ranges]):
            for key in keys:
                if key[0] == _PARTITION_KEY and key[1] in self._frozen:
                    return self._frozen[key[1]]
        return None

    def _holder_in(self, start: bytes, end: bytes) -> TransactionId | None:
        return next((other for key, other in self._held.items() if start <= key < end), None)
