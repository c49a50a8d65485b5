"""The usage of trees, kept batch by batch, is what a count of everything finds, through crashes and refused batches."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siltstone.errors import QuotaExceeded, Refused
from siltstone.meta import keys, names, rename
from siltstone.meta.inodes import get_inode, put_inode, remove_inode
from siltstone.meta.records import Quota, Usage, decode_inode, encode
from siltstone.meta.store.store import Store, Transaction
from siltstone.meta.usage import TreeUsage
from siltstone.meta.usage_count import UsageCount
from siltstone.types import ROOT_INO, Ino
from sim.metadata import check_names, open_metadata

NAMES = [b"a", b"b", b"c"]
Op = tuple[str, int, int, int, int]


def count(store: Store) -> dict[Ino, Usage]:
    """What a look at every inode finds."""
    found = UsageCount()
    for key, value in store.scan(b"p", b"q"):
        if keys.kind_of(key) == keys.INODE:
            found.add(keys.inode_ino(key), decode_inode(value))
    return dict(found.usages())


class World:
    """A store with the usage of its trees, as core/ledger.py keeps them together."""

    def __init__(self) -> None:
        self.store = open_metadata()
        transaction = self.store.begin()
        transaction.put(keys.USAGE_STATE, b"")
        transaction.commit()
        self.usage = TreeUsage(self.store)
        self.usage.load()
        self.directories: list[Ino] = [ROOT_INO]
        self.files: list[Ino] = []
        self.log: list[dict[bytes, bytes | None]] = []
        """What was committed since the records of usage were written."""
        self.records = self.stored()

    def stored(self) -> dict[bytes, bytes]:
        """Everything that the store has."""
        return dict(self.store.scan(b"\0", b"\xfe"))

    def perform(self, change: Callable[[Transaction], object], *, is_given_up: bool = False) -> None:
        """Commit a change, unless a quota forbids it, or it fails in the last moment."""
        transaction = self.store.begin()
        change(transaction)
        writes = dict(transaction._writes)
        steps = self.usage.apply(transaction)
        try:
            if not transaction.may_exceed_quotas:
                self.usage.check_grown()
            if is_given_up:
                raise Refused("given up")
        except Refused:
            self.usage.undo(steps)
            raise
        transaction.commit()
        self.log.append(writes)

    def write_records(self) -> None:
        """A memtable is applied."""
        transaction = self.store.begin()
        for key, value in self.usage.derive().items():
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)
        transaction.commit()
        self.log.clear()
        self.records = self.stored()

    def crash(self) -> None:
        """What was applied is there, and the log is replayed over it."""
        self.store = open_metadata()
        usage = TreeUsage(self.store)
        self._put({key: self.records.get(key) for key in {*self.records, *self.stored()}})
        usage.load()
        for writes in self.log:
            usage.replay(writes)
            self._put(writes)
        self.usage = usage

    def _put(self, writes: dict[bytes, bytes | None]) -> None:
        transaction = self.store.begin()
        for key, value in writes.items():
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)
        transaction.commit()

    def check(self) -> None:
        """Everything is as a count finds it, and quotas hold what their trees hold."""
        right = count(self.store)
        assert {ino: self.usage.usage(ino) for ino in right} == right
        for ino in self.usage.quotas:
            assert self.usage.held(ino) == (right[ino].bytes, right[ino].files + right[ino].directories)
        for key in self.stored():
            if keys.kind_of(key) == keys.USAGE:
                assert keys.inode_ino(key) in right or self.usage.is_removed(keys.inode_ino(key))
        assert not list(check_names(self.store))


def run(world: World, op: Op) -> None:
    """Carry an operation out; what is not possible is refused and changes nothing."""
    kind, a, b, c, size = op
    directory = world.directories[a % len(world.directories)]
    other = world.directories[b % len(world.directories)]
    name, new_name = NAMES[c % 3], NAMES[c // 3 % 3]
    is_given_up = size % 7 == 6
    made: list[Ino] = []

    def resize(transaction: Transaction) -> None:
        ino = world.files[a % len(world.files)]
        inode = get_inode(transaction, ino)
        inode.size = size
        put_inode(transaction, ino, inode)

    def purge(transaction: Transaction) -> None:
        for key, _ in list(transaction.scan(b"p", b"q")):
            if keys.kind_of(key) == keys.ORPHAN:
                remove_inode(transaction, keys.orphan_ino(key))

    def create(transaction: Transaction) -> None:
        ino, inode = names.create(transaction, directory, name, mode=stat.S_IFREG, uid=0, gid=0, now_ns=1)
        inode.size = size
        put_inode(transaction, ino, inode)
        made.append(ino)

    def mkdir(transaction: Transaction) -> None:
        made.append(names.mkdir(transaction, directory, name, mode=0o755, uid=0, gid=0, now_ns=1)[0])

    def limit(transaction: Transaction) -> None:
        get_inode(transaction, directory)
        transaction.put(keys.quota(directory), encode(Quota(1000, 20)))

    def exchange(transaction: Transaction) -> None:
        rename.rename(transaction, directory, name, other, new_name, exchange=True, now_ns=1)

    changes: dict[str, Callable[[Transaction], object]] = {
        "create": create,
        "mkdir": mkdir,
        "resize": resize,
        "purge": purge,
        "limit": limit,
        "exchange": exchange,
        "link": lambda transaction: names.link(
            transaction, world.files[b % len(world.files)], directory, name, now_ns=1
        ),
        "unlink": lambda transaction: names.unlink(transaction, directory, name, now_ns=1),
        "rmdir": lambda transaction: names.rmdir(transaction, directory, name, now_ns=1),
        "rename": lambda transaction: rename.rename(transaction, directory, name, other, new_name, now_ns=1),
    }
    if not world.files and kind in ("resize", "link"):
        return
    if kind == "records":
        world.write_records()
    elif kind == "crash":
        world.crash()
    else:
        try:
            world.perform(changes[kind], is_given_up=is_given_up)
        except Refused:
            return
        if kind == "limit":
            world.usage.note_quota(directory, Quota(1000, 20))
        (world.files if kind == "create" else world.directories).extend(made)


KINDS = ["create", "create", "mkdir", "mkdir", "resize", "link", "unlink", "rmdir", "rename", "rename", "exchange"]
ops = st.tuples(
    st.sampled_from([*KINDS, "purge", "limit", "records", "crash"]),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 8),
    st.integers(0, 600),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ops, max_size=40))
@example([("mkdir", 0, 0, 0, 0), ("create", 1, 0, 0, 9), ("link", 0, 0, 1, 0), ("unlink", 1, 0, 0, 0)])
@example([("mkdir", 0, 0, 0, 0), ("create", 1, 0, 0, 9), ("rename", 0, 0, 3, 6), ("crash", 0, 0, 0, 0)])
def test_usage_is_what_a_count_finds_after_every_step(program: list[Op]) -> None:
    world = World()
    for op in program:
        run(world, op)
        world.check()


def test_a_quota_is_exact_and_a_move_into_it_counts_at_once() -> None:
    world = World()
    for op in [("mkdir", 0, 0, 0, 0), ("mkdir", 0, 0, 1, 0), ("limit", 1, 0, 0, 0), ("create", 2, 0, 0, 1001)]:
        run(world, op)
    limited, free = world.directories[1:]
    with pytest.raises(QuotaExceeded):
        world.perform(lambda t: rename.rename(t, ROOT_INO, b"b", limited, b"x", now_ns=1))
    world.check()
    run(world, ("resize", 0, 0, 0, 999))
    world.perform(lambda t: rename.rename(t, ROOT_INO, b"b", limited, b"x", now_ns=1))
    assert world.usage.held(limited) == (999, 2)
    with pytest.raises(QuotaExceeded):
        world.perform(lambda t: create_with_bytes(t, free, 2))
    world.check()


def create_with_bytes(transaction: Transaction, directory: Ino, size: int) -> None:
    """A file of some bytes, in one batch."""
    ino, inode = names.create(transaction, directory, b"y", mode=stat.S_IFREG, uid=0, gid=0, now_ns=1)
    inode.size = size
    put_inode(transaction, ino, inode)


def test_what_is_pending_counts_once() -> None:
    world = World()
    for op in [("mkdir", 0, 0, 0, 0), ("limit", 1, 0, 0, 0), ("create", 1, 0, 0, 0), ("create", 1, 0, 1, 0)]:
        run(world, op)
    limited, (one, two) = world.directories[1], world.files
    world.usage.reserve(one, 600)
    with pytest.raises(QuotaExceeded):
        world.usage.reserve(two, 401)
    world.usage.reserve(two, 400)
    assert world.usage.held(limited) == (1000, 2)
    run(world, ("resize", 0, 0, 0, 500))
    assert world.usage.usage(limited).bytes == 500
    assert world.usage.held(limited) == (1000, 2)
    world.perform(lambda t: names.unlink(t, limited, b"b", now_ns=1))
    assert world.usage.held(limited) == (600, 1)
    world.usage.release(one)
    world.usage.release(two)
    world.check()
