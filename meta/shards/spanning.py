"""A transaction over the whole namespace, on one of its shards: what the shard has itself it reads and writes as any
transaction does, of the others it sees what was fetched.

The functions of the namespace (names.py, rename.py, ...) stay plain and know nothing of shards. One that needs a
record which was not fetched is stopped by ``NeedsForeign``, and run again when that is there: it has changed nothing
but the transaction, which is dropped. (The reconnaissance of deterministic databases: Thomson et al., Calvin, SIGMOD
2012, section 3.2.1.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from siltstone.meta.shards.locks import LockTable
from siltstone.meta.shards.map import PartitionMap
from siltstone.meta.store.memtable import MISSING
from siltstone.meta.store.port import FIRST_CHUNK, Chunk
from siltstone.meta.store.store import Store
from siltstone.meta.store.transaction import Transaction, covered
from siltstone.types import ShardId


class Range(NamedTuple):
    """The keys with start <= key < end, in order, or against it."""

    start: bytes
    end: bytes
    reverse: bool


class NeedsForeign(Exception):
    """A record or range of another shard is wanted that was not fetched yet. No SiltstoneError: see the Coordinator."""

    def __init__(self, shard: ShardId, wanted: bytes | Range) -> None:
        super().__init__(f"shard {shard} has to be asked")
        self.shard = shard
        self.wanted = wanted


class NeedsMany(Exception):
    """These records, and first parts of ranges, of other shards will be wanted. As NeedsForeign."""

    def __init__(self, wanted: dict[ShardId, list[bytes | Range]]) -> None:
        super().__init__(f"shards {sorted(wanted)} have to be asked")
        self.wanted = wanted


class Foreign:
    """What was fetched of other shards, for one operation."""

    __slots__ = ("chunks", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self.chunks: dict[Range, Chunk] = {}

    def clear(self) -> None:
        """Forget all: something has changed."""
        self.values.clear()
        self.chunks.clear()


class ForeignPart(NamedTuple):
    """What a transaction read and wrote of one other shard."""

    reads: dict[bytes, bytes | None]
    scans: list[tuple[Range, list[tuple[bytes, bytes]]]]
    writes: dict[bytes, bytes | None]


class SpanningTransaction(Transaction):
    """See the module. ``exact``: the caller wants to know counts and times (it only reads)."""

    __slots__ = ("_exact", "_foreign", "_foreign_last", "_foreign_reads", "_foreign_scans", "_locks", "_map", "_shard")

    def __init__(
        self, store: Store, shard: ShardId, partitions: PartitionMap, locks: LockTable, foreign: Foreign, *, exact: bool
    ) -> None:
        super().__init__(store)
        self._shard = shard
        self._map = partitions
        self._locks = locks
        self._foreign = foreign
        self._exact = exact
        self._foreign_reads: dict[bytes, bytes | None] = {}
        self._foreign_scans: dict[Range, list[tuple[bytes, bytes]]] = {}
        self._foreign_last = False

    def owns(self, key: bytes) -> bool:
        """Whether a record is one of this shard's."""
        return self._map.owner_of_key(key) in (None, self._shard)

    @property
    def is_settled(self) -> bool:
        """Whether no transaction of another shard is about to change anything here."""
        return not self._locks

    def get(self, key: bytes) -> bytes | None:
        """The value of a key as this transaction sees it. Raises NeedsForeign, KeyLocked."""
        owner = self._map.owner_of_key(key)
        if owner is None or owner == self._shard:
            if self._locks:
                self._locks.check_read(key, exact=self._exact)
            self._foreign_last = False
            return super().get(key)
        value = self._writes.get(key, MISSING)
        if value is not MISSING:
            return value
        value = self._foreign.values.get(key, MISSING)
        if value is MISSING:
            raise NeedsForeign(owner, key)
        self._foreign_reads[key] = value
        self._foreign_last = True
        return value

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, expected: int = FIRST_CHUNK
    ) -> Iterator[tuple[bytes, bytes]]:
        """The entries of a range, which lies in one partition. Raises NeedsForeign, KeyLocked."""
        owner = self._map.owner_of_key(start)
        if owner is None or owner == self._shard:
            if self._locks:
                self._locks.check_scan(start, end)
            self._foreign_last = False
            yield from super().scan(start, end, reverse=reverse, expected=expected)
            return
        wanted = Range(start, end, reverse)
        while True:
            chunk = self._foreign.chunks.get(wanted)
            if chunk is None:
                raise NeedsForeign(owner, wanted)
            first, last = covered(wanted.start, wanted.end, reverse, chunk)
            self._foreign_scans[Range(first, last, reverse)] = chunk.entries
            yield from self._overlaid(chunk.entries, first, last, reverse)
            if chunk.rest is None:
                return
            wanted = Range(*chunk.rest, reverse)

    def expect(self, wanted: Iterable[bytes | tuple[bytes, bytes]]) -> None:
        """See Reader. Raises NeedsMany."""
        missing: dict[ShardId, list[bytes | Range]] = {}
        foreign = self._foreign
        for one in wanted:
            owner = self._map.owner_of_key(one if isinstance(one, bytes) else one[0])
            if owner is None or owner == self._shard:
                continue
            if isinstance(one, bytes):
                if one not in foreign.values:
                    missing.setdefault(owner, []).append(one)
            elif (ranged := Range(*one, reverse=False)) not in foreign.chunks:
                missing.setdefault(owner, []).append(ranged)
        if missing:
            raise NeedsMany(missing)

    @property
    def foreign_reads(self) -> Mapping[bytes, bytes | None]:
        """What it read of others, but for ranges."""
        return self._foreign_reads

    @property
    def is_of_one_moment(self) -> bool:
        """Whether all that it read was surely there at the same time: nothing of others, or one record of theirs and
        that last, so that the shard's own were read before it was fetched and after."""
        if not self._foreign_reads and not self._foreign_scans:
            return True
        return self._foreign_last and len(self._foreign_reads) == 1 and not self._foreign_scans

    def foreign_parts(self) -> dict[ShardId, ForeignPart]:
        """What it read and wrote of others so far, by shard."""
        parts: dict[ShardId, ForeignPart] = {}
        for key, value in self._foreign_reads.items():
            self._part(parts, key).reads[key] = value
        for wanted, entries in self._foreign_scans.items():
            self._part(parts, wanted.start).scans.append((wanted, entries))
        for key, value in self._foreign_writes().items():
            self._part(parts, key).writes[key] = value
        return parts

    def keep_own(self) -> None:
        """Leave what it wrote of others to them: the commit is about the shard's own part."""
        for key in self._foreign_writes():
            del self._writes[key]

    def check_locks(self) -> None:
        """Raise KeyLocked if the shard's own part would change what another transaction speaks for."""
        if self._locks and self._store is not None:
            self._locks.check_writes(self._store, self._writes.items())

    def _foreign_writes(self) -> Mapping[bytes, bytes | None]:
        owner = self._map.owner_of_key
        return {key: value for key, value in self._writes.items() if owner(key) not in (None, self._shard)}

    def _part(self, parts: dict[ShardId, ForeignPart], key: bytes) -> ForeignPart:
        owner = self._map.owner_of_key(key)
        assert owner is not None
        return parts.setdefault(owner, ForeignPart({}, [], {}))
