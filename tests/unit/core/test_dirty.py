"""The dirty map against a plain array of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.dirty import GATHER_WRITE_BYTES_MAX, DirtyMap, Run, joined, read_run_into

SPACE = 400

operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SPACE - 1), st.integers(1, 60)),
        st.tuples(st.just("truncate"), st.integers(0, SPACE), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 20), st.integers(1, 50)),
        st.tuples(st.just("give back"), st.integers(0, SPACE - 1), st.integers(1, 60)),
    ),
    max_size=40,
)


@given(operations)
def test_the_map_holds_exactly_the_newest_bytes_of_every_range(steps: list[tuple[str, int, int]]) -> None:
    dirty, model = DirtyMap(), [-1] * (SPACE + 60)
    for serial, (kind, first, second) in enumerate(steps):
        if kind == "write":
            dirty.write(first, bytes([serial]) * second)
            model[first : first + second] = [serial] * second
        elif kind == "truncate":
            dirty.truncate(first)
            model[first:] = [-1] * (len(model) - first)
        elif kind == "give back":
            dirty.write_under(Run(first, second, (bytes([serial]) * second,)))
            for at in range(first, first + second):
                model[at] = serial if model[at] < 0 else model[at]
        elif runs := dirty.runs():
            run = runs[first % len(runs)]
            start = run.offset + second % run.size
            taken = dirty.take(start, run.end)
            assert list(joined(taken)) == model[start : run.end]
            model[start : run.end] = [-1] * (run.end - start)
        assert dirty.size == sum(value >= 0 for value in model)
        seen = [-1] * len(model)
        for run in dirty.runs():
            seen[run.offset : run.end] = joined(run)
        assert seen == model
        window = bytearray(b"\xff" * 100)
        for run in dirty.between(50, 150):
            read_run_into(run, window, 50)
        assert list(window) == [value if value >= 0 else 0xFF for value in model[50:150]]
        assert dirty.holds(50, 150) == all(value >= 0 for value in model[50:150])
        assert dirty.holds(10, 30) == all(value >= 0 for value in model[10:30])
        assert dirty.overlaps(50, 150) == any(value >= 0 for value in model[50:150])


def test_small_contiguous_writes_gather_in_one_piece() -> None:
    dirty = DirtyMap()
    for index in range(100):
        dirty.write(index * 10, b"x" * 10)
    assert len(dirty) == 1 and dirty.size == 1000


def test_a_large_write_is_kept_without_a_copy() -> None:
    dirty, data = DirtyMap(), bytes(GATHER_WRITE_BYTES_MAX)
    dirty.write(0, data)
    assert dirty.runs()[0].buffers[0] is data


def test_what_was_taken_does_not_change_when_the_file_is_written_on() -> None:
    dirty = DirtyMap()
    dirty.write(0, b"ab")
    taken = dirty.take(0, 1)
    dirty.write(2, b"cd")
    assert joined(taken) == b"a" and joined(dirty.runs()[0]) == b"bcd"
