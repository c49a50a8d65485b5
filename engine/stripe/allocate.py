"""Which rows of a slab are free. Pure; a row is ROW_BYTES in every chunk that the allocator stands for.

Rows that were used before are handed out again before rows never written to: their blocks exist on the disks, so a
durable write to them needs no journal commit for a new extent (half the time, docs/formats/slab.md), and the slab stays
short. Among them the smallest run that is long enough is taken (best fit), the lowest on a tie.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence


class RowAllocator:
    """Free runs of ``rows`` rows. All rows from ``fresh`` on have never been taken; the free runs are before it."""

    def __init__(self, rows: int, fresh: int = 0, free: Sequence[tuple[int, int]] = ()) -> None:
        """``free``: the free runs before ``fresh`` as (start, length), in order, with taken rows between them."""
        assert rows > 0 and 0 <= fresh <= rows
        self.rows = rows
        self.fresh = fresh
        self.free = rows - fresh + sum(length for _, length in free)
        self._starts = [start for start, _ in free]  # sorted
        self._lengths = dict(free)  # by start
        self._by_length = sorted((length, start) for start, length in free)  # the same runs, for best fit

    @property
    def largest(self) -> int:
        """Rows that one ``take`` can get at most."""
        tail = self.rows - self.fresh + self._length_of_run_before(self.fresh)
        return max(tail, self._by_length[-1][0] if self._by_length else 0)

    def runs(self) -> list[tuple[int, int]]:
        """The free runs before ``fresh``, as (start, length), by start. Neighbours are always one run."""
        return [(start, self._lengths[start]) for start in self._starts]

    def is_free(self, start: int, count: int) -> bool:
        """Whether all these rows are free; rows that do not exist are not."""
        assert start >= 0 and count > 0
        if start + count > self.rows:
            return False
        end = min(start + count, self.fresh)
        if start >= end:
            return True
        run = self._run_at(start)
        return run is not None and end <= run + self._lengths[run]

    def take(self, count: int) -> int | None:
        """Take ``count`` neighbouring rows; the first of them, or None when there is no such run."""
        assert count > 0
        index = bisect_left(self._by_length, (count, -1))
        if index < len(self._by_length):
            length, start = self._by_length[index]
            self._remove_run(start)
            if length > count:
                self._add_run(start + count, length - count)
        else:
            before = self._length_of_run_before(self.fresh)
            start = self.fresh - before
            if start + count > self.rows:
                return None
            if before:
                self._remove_run(start)
            self.fresh = start + count
        self.free -= count
        return start

    def take_at(self, start: int, count: int) -> None:
        """Take exactly these rows, which must be free."""
        assert start >= 0 and count > 0 and start + count <= self.rows
        if start + count > self.fresh:
            if start > self.fresh:
                self._add_joined(self.fresh, start - self.fresh)
            taken_before_fresh = max(0, self.fresh - start)
            self.fresh = start + count
            self.free -= count - taken_before_fresh
            count = taken_before_fresh
        if count:
            self._cut(start, count)
            self.free -= count

    def give_back(self, start: int, count: int) -> None:
        """Make rows free that were taken; they need not have been taken in one call."""
        assert start >= 0 and count > 0 and start + count <= self.fresh, "rows that were never taken"
        self._add_joined(start, count)
        self.free += count
        assert self.free <= self.rows

    def _run_at(self, row: int) -> int | None:
        """The start of the free run that holds a row."""
        index = bisect_right(self._starts, row) - 1
        if index < 0:
            return None
        start = self._starts[index]
        return start if row < start + self._lengths[start] else None

    def _length_of_run_before(self, end: int) -> int:
        run = self._run_at(end - 1)
        return 0 if run is None else end - run

    def _cut(self, start: int, count: int) -> None:
        run = self._run_at(start)
        assert run is not None, "rows that are not free"
        length = self._lengths[run]
        assert start + count <= run + length, "rows that are not free"
        self._remove_run(run)
        if run < start:
            self._add_run(run, start - run)
        if start + count < run + length:
            self._add_run(start + count, run + length - start - count)

    def _add_joined(self, start: int, count: int) -> None:
        index = bisect_left(self._starts, start)
        assert index == len(self._starts) or start + count <= self._starts[index], "rows given back twice"
        if index:
            before = self._starts[index - 1]
            end = before + self._lengths[before]
            assert end <= start, "rows given back twice"
            if end == start:
                self._remove_run(before)
                start, count = before, count + start - before
        after = self._lengths.get(start + count)
        if after is not None:
            self._remove_run(start + count)
            count += after
        self._add_run(start, count)

    def _add_run(self, start: int, length: int) -> None:
        insort(self._starts, start)
        self._lengths[start] = length
        insort(self._by_length, (length, start))

    def _remove_run(self, start: int) -> None:
        length = self._lengths.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        index = bisect_left(self._by_length, (length, start))
        assert self._by_length[index] == (length, start)
        del self._by_length[index]


def allocator_of(rows: int, taken: Iterable[tuple[int, int]]) -> RowAllocator:
    """The allocator whose taken rows are exactly ``taken``, as (start, count), in any order, not overlapping."""
    free: list[tuple[int, int]] = []
    fresh = 0
    for start, count in sorted(taken):
        assert start >= fresh, "two stripes share rows"
        if start > fresh:
            free.append((fresh, start - fresh))
        fresh = start + count
    assert fresh <= rows, "rows beyond the slab"
    return RowAllocator(rows, fresh, free)
