"""The row allocator against a bitmap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from siltstone.engine.stripe.allocate import RowAllocator, allocator_of

ROWS = 40


def runs_of(bitmap: list[bool], end: int) -> list[tuple[int, int]]:
    """Runs of False before ``end``."""
    runs: list[tuple[int, int]] = []
    for row in range(end):
        if bitmap[row]:
            continue
        if runs and sum(runs[-1]) == row:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs


class AllocatorAgainstBitmap(RuleBasedStateMachine):
    """Takes and gives back at random; the bitmap says what must be free."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = RowAllocator(ROWS)
        self.taken = [False] * ROWS
        self.ever = 0
        self.pieces: list[tuple[int, int]] = []

    def mark(self, start: int, count: int, value: bool) -> None:
        assert self.taken[start : start + count] == [not value] * count
        self.taken[start : start + count] = [value] * count

    @rule(count=st.integers(1, 12))
    def take(self, count: int) -> None:
        used_runs = [run for run in runs_of(self.taken, self.ever) if run[1] >= count]
        possible = any(length >= count for _, length in runs_of(self.taken, ROWS))
        start = self.allocator.take(count)
        assert (start is not None) == possible
        if start is None:
            return
        self.mark(start, count, True)
        if used_runs:
            assert start == min(used_runs, key=lambda run: (run[1], run[0]))[0], "rows used before first, best fit"
        self.ever = max(self.ever, start + count)
        self.pieces.append((start, count))

    @rule(start=st.integers(0, ROWS - 1), count=st.integers(1, 6))
    def take_at(self, start: int, count: int) -> None:
        count = min(count, ROWS - start)
        if any(self.taken[start : start + count]):
            return
        self.allocator.take_at(start, count)
        self.mark(start, count, True)
        self.ever = max(self.ever, start + count)
        self.pieces.append((start, count))

    @precondition(lambda self: self.pieces)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        start, count = self.pieces.pop(data.draw(st.integers(0, len(self.pieces) - 1)))
        self.allocator.give_back(start, count)
        self.mark(start, count, False)

    @rule()
    def load(self) -> None:
        self.allocator = allocator_of(ROWS, self.pieces)
        self.ever = max((start + count for start, count in self.pieces), default=0)

    @invariant()
    def agrees(self) -> None:
        assert self.allocator.free == self.taken.count(False)
        assert self.allocator.fresh == self.ever
        assert self.allocator.runs() == runs_of(self.taken, self.ever)
        assert self.allocator.largest == max((length for _, length in runs_of(self.taken, ROWS)), default=0)


TestAllocatorAgainstBitmap = AllocatorAgainstBitmap.TestCase
TestAllocatorAgainstBitmap.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


@given(count=st.integers(1, ROWS))
def test_rows_given_back_twice_are_our_bug(count: int) -> None:
    allocator = RowAllocator(ROWS)
    assert allocator.take(count) == 0
    allocator.give_back(0, count)
    with pytest.raises(AssertionError):
        allocator.give_back(0, count)


def test_stripes_that_share_rows_are_refused() -> None:
    with pytest.raises(AssertionError):
        allocator_of(10, [(0, 4), (3, 2)])
