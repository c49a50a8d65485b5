"""A transaction: a private write set over the store, committed as one frame of the log or dropped without a trace."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from siltstone.errors import Conflict
from siltstone.meta import keys
from siltstone.meta.notes import encode_note
from siltstone.meta.store.batch import KEY_BYTES_MAX, encode_batch
from siltstone.meta.store.memtable import MISSING
from siltstone.meta.store.port import BATCH_KIND, CHUNK_MAX, FIRST_CHUNK, Chunk
from siltstone.meta.totals import SpaceTotals
from siltstone.types import Buffer, Ino, Lsn

if TYPE_CHECKING:
    from siltstone.meta.extents import FreedStripe
    from siltstone.meta.store.store import Store


Put = tuple[bytes, int, int, int, int]
"""What says how an inode counts in the usage of trees: the key of its record, its directory, nlink, size, mode."""

UNSORTED_WRITES_MAX = 32
"""Up to so many writes, a scan looks at each of them; of more it keeps the keys sorted (settle moves thousands)."""


class Transaction:
    """Reads what it wrote itself, else the store. Made by ``Store.begin``.

    Usually nothing else is committed between begin and commit (no await between them), and then nothing is checked.
    Otherwise commit compares what was read with what would be read now.
    """

    __slots__ = (
        "_begun",
        "_payload",
        "_payload_bytes",
        "_payload_lsn",
        "_reads",
        "_scanned",
        "_sorted",
        "_store",
        "_writes",
        "flags",
        "freed",
        "inodes",
        "keeps_trash",
        "may_exceed_quotas",
        "totals",
    )

    def __init__(self, store: Store) -> None:
        self._store: Store | None = store
        self._begun = store.commit_count
        self._writes: dict[bytes, bytes | None] = {}
        self._reads: dict[bytes, bytes | None] = {}
        self._scanned: list[tuple[bytes, bytes, bool, list[tuple[bytes, bytes]]]] = []
        self._sorted: list[bytes] = []
        self._payload: list[Buffer] = []
        self._payload_bytes = 0
        self._payload_lsn = Lsn(0)
        self.keeps_trash = store.keeps_trash
        """Whether what it takes the last name of is kept (meta/trash.py)."""
        self.flags = 0
        """What its note says of it besides (meta/notes.py)."""
        self.totals = SpaceTotals()
        """How the totals of space change when this is committed."""
        self.freed: list[FreedStripe] = []
        """Stripes that lost a part with what this took away; whoever commits it hands them on (core/ledger.py)."""
        self.inodes: dict[Ino, Put | None] = {}
        """The inodes that it puts, and those that it deletes."""
        self.may_exceed_quotas = False
        """Whether it takes away, and what that adds elsewhere is nobody's wish."""

    def owns(self, key: bytes) -> bool:
        """Whether the record under a key is one of this store's; of a transaction over several shards some are not."""
        return True

    @property
    def is_settled(self) -> bool:
        """Whether no transaction of another shard is about to change anything here."""
        return True

    def expect(self, wanted: Iterable[bytes | tuple[bytes, bytes]]) -> None:
        """Nothing is to be fetched (see Reader)."""

    @property
    def reads(self) -> Mapping[bytes, bytes | None]:
        """What it read by key of the store's own records, before it wrote them."""
        return self._reads

    def get(self, key: bytes) -> bytes | None:
        """The value of a key as this transaction sees it, None when there is none. The same each time."""
        value = self._writes.get(key, MISSING)
        if value is not MISSING:
            return value
        value = self._reads.get(key, MISSING)
        if value is not MISSING:
            return value
        assert self._store is not None, "the transaction has ended"
        value = self._reads[key] = self._store.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key, which has 1 to 65,535 bytes."""
        assert 0 < len(key) <= KEY_BYTES_MAX
        self._writes[key] = value

    def delete(self, key: bytes) -> None:
        """Remove a key; one that is not there is fine."""
        assert 0 < len(key) <= KEY_BYTES_MAX
        self._writes[key] = None

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, expected: int = FIRST_CHUNK
    ) -> Iterator[tuple[bytes, bytes]]:
        """The entries with start <= key < end, in order or against it. Consume it before the next put or delete."""
        assert self._store is not None, "the transaction has ended"
        limit = min(max(expected, FIRST_CHUNK), CHUNK_MAX)
        while True:
            chunk = self._store.read_chunk(start, end, reverse, limit)
            first, last = covered(start, end, reverse, chunk)
            self._scanned.append((first, last, reverse, chunk.entries))
            yield from self._overlaid(chunk.entries, first, last, reverse)
            if chunk.rest is None:
                return
            start, end = chunk.rest
            limit = min(4 * limit, CHUNK_MAX)

    def _overlaid(
        self, entries: list[tuple[bytes, bytes]], start: bytes, end: bytes, reverse: bool
    ) -> list[tuple[bytes, bytes]]:
        """The entries of a range with this transaction's own writes over them."""
        own = self._own_keys(start, end)
        if not own:
            return entries
        merged: dict[bytes, bytes | None] = dict(entries)
        for key in own:
            merged[key] = self._writes[key]
        return [(key, value) for key in sorted(merged, reverse=reverse) if (value := merged[key]) is not None]

    def _own_keys(self, start: bytes, end: bytes) -> Sequence[bytes]:
        """The keys in a range that this transaction wrote, in no order."""
        writes = self._writes
        if len(writes) <= UNSORTED_WRITES_MAX:
            return [key for key in writes if start <= key < end]
        if len(self._sorted) < len(writes):
            # Keys never leave the write set, and new ones come last.
            self._sorted += islice(reversed(writes), len(writes) - len(self._sorted))
            self._sorted.sort()
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, end)]

    def attach(self, buffer: Buffer) -> Lsn:
        """Let the frame carry these bytes; returns the log address that they will have.

        The buffer must not change until the frame is durable. Nothing may be appended to the log between this and the
        commit.
        """
        assert self._store is not None, "the transaction has ended"
        if not self._payload:
            self._payload_lsn = self._store.log.next_payload_lsn
        address = Lsn(self._payload_lsn + self._payload_bytes)
        self._payload.append(buffer)
        self._payload_bytes += len(buffer)
        return address

    def commit(self) -> Lsn:
        """Append one frame and make the writes visible; returns the LSN at which they are durable. Ends it in any case.

        Raises Conflict when something that was read has changed since, VolumeClosed when the store has stopped; nothing
        is written then.
        """
        store = self._store
        assert store is not None, "the transaction has ended"
        self._store = None
        if store.commit_count != self._begun and not self._reads_hold(store):
            store.conflict_count += 1
            raise Conflict("another change came between the reads and the writes of this one; try again")
        log = store.log
        if not self._writes and not self._payload:
            return store.last_lsn
        assert not self._payload or self._payload_lsn == log.next_payload_lsn, "the log has moved since attach"
        if store.keeps_notes and (note := encode_note(self._writes, self._reads, self.flags)) is not None:
            self._writes[keys.NOTE] = note
        end_lsn = log.append_nowait(BATCH_KIND, self._payload, encode_batch(self._writes))
        store.merge(self._writes, end_lsn)
        return end_lsn

    def _reads_hold(self, store: Store) -> bool:
        return all(store.get(key) == value for key, value in self._reads.items()) and all(
            list(store.scan(start, end, reverse=reverse)) == entries for start, end, reverse, entries in self._scanned
        )


def covered(start: bytes, end: bytes, reverse: bool, chunk: Chunk) -> tuple[bytes, bytes]:
    """The range that a chunk speaks for, of the one that was asked for."""
    if chunk.rest is None:
        return start, end
    return (chunk.rest[1], end) if reverse else (start, chunk.rest[0])
