"""Changes of one record by several transactions, in any order, add up."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from siltstone.meta import keys
from siltstone.meta.records import Counters, Inode, decode, decode_inode, encode
from siltstone.meta.shards.merging import counts, identity, is_taken_from, merged
from siltstone.types import Ino, PartitionId

KEY = keys.inode(Ino(513))
COUNTERS = keys.counters(PartitionId(1))
MODE = stat.S_IFDIR | 0o755


def directory(size: int, nlink: int, mtime_ns: int) -> Inode:
    return Inode(MODE, nlink, 0, 0, size, 0, 1, mtime_ns, mtime_ns, parent=1)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(10, 99)), min_size=1, max_size=5),
    st.permutations(range(5)),
)
def test_all_who_read_the_same_record_add_to_it_in_any_order(
    changes: list[tuple[int, int, int]], order: list[int]
) -> None:
    old = encode(directory(1, 3, 5))
    current: bytes | None = old
    for index in (index for index in order if index < len(changes)):
        size, nlink, mtime_ns = changes[index]
        new = encode(directory(1 + size, 3 + nlink, mtime_ns))
        assert identity(KEY, new) == identity(KEY, current)
        current = merged(KEY, current, old, new)
    assert current is not None
    after = decode_inode(current)
    assert after.size == 1 + sum(size for size, _, _ in changes)
    assert after.nlink == 3 + sum(nlink for _, nlink, _ in changes)
    assert after.mtime_ns == max(mtime_ns for _, _, mtime_ns in changes)


def test_a_time_that_was_not_changed_does_not_go_back() -> None:
    old, new = directory(1, 2, 5), directory(2, 2, 5)
    after = merged(KEY, encode(directory(1, 2, 3)), encode(old), encode(new))
    assert after is not None
    assert decode_inode(after).mtime_ns == 3
    assert decode_inode(after).size == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 50)), min_size=1, max_size=5))
def test_counters_add_up_and_serials_only_grow(changes: list[tuple[int, int, int]]) -> None:
    current: bytes | None = None
    for inodes, size, serial in changes:
        current = merged(COUNTERS, current, None, encode(Counters(inodes, size, serial)))
    assert current is not None
    total = decode(Counters, current)
    assert total.inodes == sum(inodes for inodes, _, _ in changes)
    assert total.bytes == sum(size for _, size, _ in changes)
    assert total.serial == max(serial for _, _, serial in changes)
    assert identity(COUNTERS, None) == identity(COUNTERS, current)


def test_what_takes_from_a_count_is_known_and_compared_exactly() -> None:
    before, less, more = encode(directory(2, 3, 5)), encode(directory(1, 3, 6)), encode(directory(3, 3, 6))
    assert is_taken_from(KEY, before, less)
    assert is_taken_from(KEY, before, encode(directory(2, 2, 6)))
    assert not is_taken_from(KEY, before, more)
    assert not is_taken_from(KEY, None, more)
    assert counts(before) == (3, 2)
    grown = Inode(stat.S_IFREG | 0o644, 2, 0, 0, 100, 0, 1, 1, 1)
    assert counts(encode(grown)) == (2, 0), "the size of a file has nothing to do with its names"


def test_records_of_other_kinds_are_replaced_and_are_their_own_identity() -> None:
    key = keys.dentry(Ino(513), b"name")
    assert identity(key, b"value") == b"value"
    assert merged(key, b"value", None, b"other") == b"other"
    assert merged(key, b"value", None, None) is None
