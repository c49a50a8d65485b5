"""What the store asks of the world: a log, a backing; and what it offers to readers.

The engine's log and LMDB satisfy these in production, tests/sim/fake_log.py and tests/sim/backing.py in simulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from siltstone.types import Buffer, Lsn

BATCH_KIND = 1
"""The kind of the frames that hold a batch of the store."""

FIRST_CHUNK = 16
CHUNK_MAX = 1024
"""A scan reads this many entries at first (most ask for a few), four times as many each time it goes on."""


class Reader(Protocol):
    """Ordered keys and values: the store as it is now, or a transaction's view of it."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None when there is none."""

    def owns(self, key: bytes) -> bool:
        """Whether the record under a key is one of this store's; of a transaction over several shards some are not."""

    @property
    def is_settled(self) -> bool:
        """Whether no transaction of another shard is about to change anything here."""

    def expect(self, wanted: Iterable[bytes | tuple[bytes, bytes]]) -> None:
        """These keys and ranges (start, end) will be read soon: those of other shards are fetched at a time. Only a
        hint; ``wanted`` is not looked at where nothing is to be fetched."""

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, expected: int = FIRST_CHUNK
    ) -> Iterator[tuple[bytes, bytes]]:
        """The entries with start <= key < end, in the order of the keys, or against it. ``expected``: how many of them
        will be looked at, about; only a hint.

        One state of the store as long as nothing is committed before the iterator is exhausted. Across a commit it
        stays safe to go on: every key comes at most once, in order, with a value that it had at some time.
        """


class Chunk(NamedTuple):
    """A part of a scan. ``rest``: the range that is still to be read, None when there is none."""

    entries: list[tuple[bytes, bytes]]
    rest: tuple[bytes, bytes] | None


class LogPort(Protocol):
    """The log, as far as the store needs it."""

    @property
    def next_lsn(self) -> Lsn:
        """Where the next frame starts."""

    @property
    def next_payload_lsn(self) -> Lsn:
        """Where the payload of the next frame starts."""

    @property
    def durable_lsn(self) -> Lsn:
        """Everything before this is durable."""

    def append_nowait(self, kind: int, payload: Sequence[Buffer], body: Buffer) -> Lsn:
        """Append a frame and return its end. Nothing is copied: the buffers must not change until it is durable."""

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when everything before ``lsn`` is durable; sees to it that it becomes so."""


class BackingSpace(NamedTuple):
    """Room in the backing, in bytes."""

    used_bytes: int
    max_bytes: int


class Backing(Protocol):
    """Where the state of the store goes when its batches are durable. Survives a crash at any instant whole."""

    @property
    def applied_lsn(self) -> Lsn:
        """The ``applied_lsn`` of the last ``apply``; 0 in a new backing."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None when there is none."""

    def scan(self, start: bytes, end: bytes, *, reverse: bool, limit: int) -> list[tuple[bytes, bytes]]:
        """The first entries (the last ones, if reverse) with start <= key < end, in the order asked for.

        At least ``limit`` of them unless there are fewer; a few more are allowed.
        """

    async def apply(self, items: Iterable[tuple[bytes, bytes | None]], applied_lsn: Lsn) -> None:
        """Put each key (or delete it, where the value is None), together with ``applied_lsn``.

        Each key comes once; fastest where they ascend. The items are taken bit by bit, so they must not change.
        All or nothing, durable on return. Reads see the old state until the last moment before the return and the new
        one after it, with no checkpoint between. The caller runs one at a time, and shields it from cancellation, but
        where it gives no answer: what is cancelled then may still take effect at any later time, as a whole, and no
        calls but ``close`` come after that.
        Raises NoSpace when there is no room, Unavailable when the host fails; the old state stays in both cases.
        """

    async def warm(self) -> None:
        """Have it in memory, if it is worth it: whoever is about to read all of it must not keep the loop waiting for
        the host's disk at every page. Raises nothing."""

    def space(self) -> BackingSpace:
        """How full it is."""

    def close(self) -> None:
        """Let go of it. No calls after that, none under way but an apply that was cancelled."""
