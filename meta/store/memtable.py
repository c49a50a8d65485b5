"""Committed writes that are not in the backing yet: a dict, and its keys in sorted runs.

Reads by key are a lookup in the dict. New keys are appended to a list and sorted only when somebody scans, into a run
of their own; a run is merged into the one before it when that is less than eight times as long, so there are few runs
and a key is merged few times. ``list.sort`` finds runs and merges them at the speed of C. Measured with 12,000 creates
of 5 keys (bench/store.py has the scans): 0.7 us a create and 2.8 us with a scan after each; a SortedDict takes 3.1 and
3.9, a dict beside a SortedList that is brought up to date by scans 0.8 and 3.5.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final

from siltstone.types import Lsn

MERGE_RATIO = 8

UNSORTED_MAX = 1024
"""New keys are sorted when there are so many, scan or not, so that no scan has to sort for long."""

RUN_MAX = 16_384
"""A run of so many keys is not merged any more: to merge two of them takes 2 ms, the most that a commit may add."""

PASSES = 3
"""A run is applied in so many passes, each of every third key. LMDB splits a full page in the middle; where keys come
in order, as the names of a directory and its inodes do, the half that is left never gets another, and pages stay half
empty. Keys of later passes go between those of the first and fill them: 178 bytes a file where one pass takes 208 (two:
188, four: 182; bench/meta.py --files 200000), for 0.03 us more a key."""

ENTRY_OVERHEAD_BYTES = 200
"""What an entry costs in memory beside the bytes of key and value: two objects, a dict slot, a place in a run."""


class Missing(enum.Enum):
    """A memtable does not know the key (None: it knows that it is deleted). An enum so that mypy follows ``is``."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class Memtable:
    """Puts and deletes by key. ``end_lsn``: the end of the last frame that is in it."""

    __slots__ = ("_runs", "_unsorted", "end_lsn", "size_bytes", "values")

    def __init__(self, end_lsn: Lsn) -> None:
        self.values: dict[bytes, bytes | None] = {}
        """The value of each key that was written, None where it was deleted. Changed by ``update`` only."""
        self.size_bytes = 0
        """Memory that it takes, about."""
        self.end_lsn = end_lsn
        self._unsorted: list[bytes] = []
        self._runs: list[list[bytes]] = []

    def __len__(self) -> int:
        return len(self.values)

    def update(self, writes: Mapping[bytes, bytes | None], end_lsn: Lsn) -> None:
        """Merge a batch whose frame ends at ``end_lsn``."""
        assert end_lsn >= self.end_lsn
        self.end_lsn = end_lsn
        values, unsorted, size = self.values, self._unsorted, self.size_bytes
        for key, value in writes.items():
            old = values.get(key, MISSING)
            if old is MISSING:
                unsorted.append(key)
                size += len(key) + ENTRY_OVERHEAD_BYTES
            elif old is not None:
                size -= len(old)
            if value is not None:
                size += len(value)
            values[key] = value
        self.size_bytes = size
        if len(unsorted) >= UNSORTED_MAX:
            self._sort()

    def keys(self, start: bytes, end: bytes, reverse: bool, limit: int) -> list[bytes]:
        """The first ``limit`` keys in [start, end), deleted ones included, in the order asked for."""
        if self._unsorted:
            self._sort()
        found: list[bytes] = []
        for run in self._runs:
            low = bisect_left(run, start)
            if low == len(run) or run[low] >= end:
                continue
            high = bisect_left(run, end, low)
            piece = run[max(low, high - limit) : high] if reverse else run[low : min(high, low + limit)]
            found = found + piece if found else piece
        if len(self._runs) > 1 or reverse:
            found.sort(reverse=reverse)
        return found[:limit]

    def items(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Everything, each key once, in a few ascending sequences. The table must not change meanwhile."""
        self._sort()
        values = self.values
        for run in self._runs:
            for first in range(PASSES):
                for key in run[first::PASSES]:
                    yield key, values[key]

    def _sort(self) -> None:
        runs = self._runs
        self._unsorted.sort()
        runs.append(self._unsorted)
        self._unsorted = []
        while len(runs) > 1 and len(runs[-2]) < min(MERGE_RATIO * len(runs[-1]), RUN_MAX):
            last = runs.pop()
            runs[-1] += last
            runs[-1].sort()
