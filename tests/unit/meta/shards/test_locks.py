"""Who may stand beside whom in the table of locks."""

from __future__ import annotations

import stat

import pytest
import trio

from siltstone.meta import keys
from siltstone.meta.records import Inode, encode
from siltstone.meta.shards.locks import Claim, KeyLocked, LockTable
from siltstone.meta.store.store import Store
from siltstone.types import Ino, TransactionId
from sim.backing import SimBacking
from sim.fake_log import FakeLog

FIRST, SECOND = TransactionId(b"1" * 16), TransactionId(b"2" * 16)
INO = Ino(257)
INODE_KEY = keys.inode(INO)
NAME_KEY = keys.dentry(INO, b"name")


def claim(
    held: tuple[bytes, ...] = (),
    kept: tuple[bytes, ...] = (),
    pending: tuple[bytes, ...] = (),
    ranges: tuple[tuple[bytes, bytes], ...] = (),
) -> Claim:
    return Claim(frozenset(held), frozenset(kept), frozenset(pending), ranges)


@pytest.mark.parametrize(
    ("first", "second", "is_rival"),
    [
        (claim(held=(NAME_KEY,)), claim(held=(NAME_KEY,)), True),
        (claim(held=(NAME_KEY,)), claim(kept=(NAME_KEY,)), True),
        (claim(kept=(NAME_KEY,)), claim(held=(NAME_KEY,)), True),
        (claim(kept=(NAME_KEY,)), claim(kept=(NAME_KEY,)), False),
        (claim(kept=(NAME_KEY,), pending=(NAME_KEY,)), claim(kept=(NAME_KEY,), pending=(NAME_KEY,)), False),
        (claim(ranges=(keys.prefix_range(keys.dentries(INO)),)), claim(held=(NAME_KEY,)), True),
        (claim(held=(NAME_KEY,)), claim(ranges=(keys.prefix_range(keys.dentries(INO)),)), True),
        (claim(ranges=(keys.prefix_range(keys.dentries(INO)),)), claim(held=(INODE_KEY,)), False),
    ],
)
def test_what_cannot_stand_beside_each_other(first: Claim, second: Claim, is_rival: bool) -> None:
    table = LockTable()
    table.take(FIRST, first)
    assert table.rival(second) == (FIRST if is_rival else None)
    table.release(FIRST)
    assert table.rival(second) is None
    assert not table


def test_what_is_held_can_be_neither_read_nor_scanned_nor_written() -> None:
    table = LockTable()
    table.take(FIRST, claim(held=(NAME_KEY,)))
    store = open_store()
    with pytest.raises(KeyLocked):
        table.check_read(NAME_KEY, exact=False)
    with pytest.raises(KeyLocked):
        table.check_scan(*keys.prefix_range(keys.dentries(INO)))
    with pytest.raises(KeyLocked):
        table.check_writes(store, [(NAME_KEY, None)])
    table.check_read(INODE_KEY, exact=True)


def test_of_what_is_kept_only_what_is_merged_may_change() -> None:
    table = LockTable()
    store = open_store()
    inode = Inode(stat.S_IFDIR | 0o755, 2, 0, 0, 3, 0, 1, 1, 1, parent=1)
    transaction = store.begin()
    transaction.put(INODE_KEY, encode(inode))
    transaction.commit()
    table.take(FIRST, claim(kept=(INODE_KEY,), pending=(INODE_KEY,)))
    table.take(SECOND, claim(kept=(INODE_KEY,)))
    inode.size, inode.nlink, inode.mtime_ns = 4, 3, 9
    table.check_writes(store, [(INODE_KEY, encode(inode))])
    table.check_read(INODE_KEY, exact=False)
    with pytest.raises(KeyLocked):
        table.check_read(INODE_KEY, exact=True)
    for field, value in [("mode", stat.S_IFDIR | 0o700), ("nlink", 0), ("size", 0), ("parent", 513)]:
        changed = Inode(stat.S_IFDIR | 0o755, 2, 0, 0, 3, 0, 1, 1, 1, parent=1)
        setattr(changed, field, value)
        with pytest.raises(KeyLocked):
            table.check_writes(store, [(INODE_KEY, encode(changed))])
    table.release(FIRST)
    table.check_read(INODE_KEY, exact=True)


def test_who_waits_is_woken_when_the_transaction_ends() -> None:
    async def main() -> None:
        table = LockTable()
        table.take(FIRST, claim(held=(NAME_KEY,)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.wait, FIRST)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            table.release(FIRST)
        await table.wait(FIRST)

    trio.run(main)


def open_store() -> Store:
    store = Store(SimBacking())
    store.connect(FakeLog())
    return store
