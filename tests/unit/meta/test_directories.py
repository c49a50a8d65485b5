"""The directory index: what it keeps, what it lets go, what a move costs."""

from __future__ import annotations

from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.names import mkdir
from siltstone.meta.rename import rename
from siltstone.meta.store.store import Store
from siltstone.types import ROOT_INO, Ino
from sim.metadata import open_metadata, resolve


class CountingReader:
    """A store that counts how often it is asked."""

    def __init__(self, store: Store) -> None:
        self.scan = store.scan
        self.gets = 0
        self._get = store.get

    is_settled = True

    def owns(self, key: bytes) -> bool:
        return True

    def expect(self, wanted: object) -> None:
        pass

    def get(self, key: bytes) -> bytes | None:
        self.gets += 1
        return self._get(key)


def make(store: Store, *paths: bytes) -> None:
    """Directories, each path from the root, those above it before it."""
    transaction = store.begin()
    for path in paths:
        above, _, name = path.rpartition(b"/")
        mkdir(transaction, resolve(transaction, above)[0], name, mode=0o755, uid=0, gid=0, now_ns=1)
    transaction.commit()


def move(store: Store, source: bytes, target: bytes) -> None:
    transaction = store.begin()
    (old_above, _, old_name), (above, _, name) = source.rpartition(b"/"), target.rpartition(b"/")
    rename(transaction, resolve(transaction, old_above)[0], old_name, resolve(transaction, above)[0], name, now_ns=1)
    transaction.commit()


def opened(directories_max: int = 100) -> tuple[Store, DirectoryIndex, CountingReader]:
    store, index = open_metadata(), DirectoryIndex(directories_max)
    store.watch(index.forget)
    return store, index, CountingReader(store)


def find(reader: CountingReader, index: DirectoryIndex, path: bytes) -> Ino:
    ino, rest = find_directory(reader, index, ROOT_INO, path)
    assert not rest
    return ino


def test_what_was_found_once_is_found_without_the_store_and_what_is_beside_it_with_one_read() -> None:
    store, index, reader = opened()
    make(store, b"a", b"a/b", b"a/b/c", b"a/b/d")
    found = find(reader, index, b"a/b/c")
    assert reader.gets == 3
    assert find(reader, index, b"a/b/c") == found and find(reader, index, b"a/b") == resolve(store, b"a/b")[0]
    assert reader.gets == 3
    find(reader, index, b"a/b/d")
    assert reader.gets == 4


def test_a_move_sends_what_is_below_it_to_the_store_and_nothing_else() -> None:
    store, index, reader = opened()
    make(store, b"a", b"a/b", b"a/b/c", b"x", b"x/y", b"x/y/z")
    below, beside = find(reader, index, b"a/b/c"), find(reader, index, b"x/y/z")
    move(store, b"a/b", b"x/b")
    reader.gets = 0
    assert find_directory(reader, index, ROOT_INO, b"a/b/c") == (find(reader, index, b"a"), b"b/c")
    assert reader.gets == 1, "a is known, b is not there"
    assert find(reader, index, b"x/b/c") == below and reader.gets == 3
    assert find(reader, index, b"x/y/z") == beside and reader.gets == 3


def test_other_names_that_come_and_go_cost_the_index_nothing() -> None:
    store, index, reader = opened()
    make(store, b"a", b"a/b")
    find(reader, index, b"a/b")
    make(store, b"a/c", b"a/b/d")
    move(store, b"a/c", b"a/e")
    reader.gets = 0
    find(reader, index, b"a/b")
    assert reader.gets == 0


def test_when_it_is_full_what_is_not_asked_for_goes_and_what_is_stays() -> None:
    store, index, reader = opened(5)
    make(store, b"a", *(b"a/%d" % number for number in range(20)))
    for number in range(20):
        find(reader, index, b"a/%d" % number)
        find(reader, index, b"a/0")
    assert len(index) == 5
    reader.gets = 0
    find(reader, index, b"a/0")
    assert reader.gets == 0


def test_a_path_that_is_longer_than_the_index_is_found_all_the_same() -> None:
    store, index, reader = opened(3)
    paths = [b"/".join([b"a"] * depth) for depth in range(1, 10)]
    make(store, *paths)
    for _ in range(2):
        assert [find(reader, index, path) for path in paths] == [resolve(store, path)[0] for path in paths]
    assert len(index) == 3
