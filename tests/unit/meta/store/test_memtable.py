"""The memtable against a dict and sorted()."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.meta.store import memtable
from siltstone.meta.store.memtable import ENTRY_OVERHEAD_BYTES, MISSING, Memtable
from siltstone.types import Lsn

KEYS = st.binary(min_size=1, max_size=2)
BATCHES = st.lists(
    st.tuples(st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=5)), max_size=40), st.booleans()),
    max_size=8,
)


@given(BATCHES, st.lists(st.tuples(KEYS, KEYS, st.booleans(), st.integers(1, 50)), max_size=5))
def test_it_is_a_dict_with_sorted_keys(
    batches: list[tuple[dict[bytes, bytes | None], bool]], ranges: list[tuple[bytes, bytes, bool, int]]
) -> None:
    table, model = Memtable(Lsn(0)), dict[bytes, bytes | None]()

    def check_ranges() -> None:
        for start, end, reverse, limit in ranges:
            inside = sorted((key for key in model if start <= key < end), reverse=reverse)
            assert table.keys(start, end, reverse, limit) == inside[:limit]

    for number, (writes, scan) in enumerate(batches, start=1):
        table.update(writes, Lsn(number))
        model |= writes
        if scan:
            check_ranges()
    check_ranges()
    assert dict(table.items()) == model == table.values
    assert len(list(table.items())) == len(table) == len(model)
    assert table.values.get(b"not there", MISSING) is MISSING
    assert table.end_lsn == len(batches)
    wanted = sum(len(key) + len(value or b"") + ENTRY_OVERHEAD_BYTES for key, value in model.items())
    assert table.size_bytes == wanted


def test_many_keys_are_in_few_runs_and_no_run_is_merged_beyond_its_limit() -> None:
    table = Memtable(Lsn(0))
    count = 4 * memtable.RUN_MAX
    for number in range(count):
        table.update({b"%08d" % (number * 7919 % count): b""}, Lsn(number))
        if number % 50 == 0:
            table.keys(b"0", b"1", False, 1)
    runs = [len(list(run)) for run in table._runs]
    assert len(runs) <= 4 + 6
    assert max(runs) <= memtable.RUN_MAX + 2 * memtable.UNSORTED_MAX
    assert table.keys(b"", b"~", False, count) == [b"%08d" % number for number in range(count)]
