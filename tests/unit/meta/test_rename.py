"""Rename: the cases of rename(2) and renameat2(2), and the order of their errors."""

from __future__ import annotations

import pytest

from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    TooManyLinks,
)
from siltstone.limits import LINK_COUNT_MAX
from siltstone.meta import inodes, names
from siltstone.meta.rename import Renamed, rename
from siltstone.meta.store.store import Store
from siltstone.types import ROOT_INO, Ino
from sim.metadata import check_metadata, open_metadata, resolve

PATHS = (b"a/", b"a/b/", b"a/b/c/", b"a/file", b"empty/", b"full/", b"full/x", b"file", b"other")


def open_tree() -> tuple[Store, dict[bytes, Ino]]:
    """A small tree; paths that end with a slash are directories."""
    store, tree = open_metadata(), {b"": ROOT_INO}
    for path in PATHS:
        transaction = store.begin()
        parent, _, name = path.rstrip(b"/").rpartition(b"/")
        make = names.mkdir if path.endswith(b"/") else names.create
        tree[path.rstrip(b"/")], _ = make(transaction, tree[parent], name, mode=0o755, uid=0, gid=0, now_ns=10)
        transaction.commit()
    return store, tree


def move(
    store: Store, tree: dict[bytes, Ino], old: bytes, new: bytes, *, exchange: bool = False, no_replace: bool = False
) -> Renamed:
    """Rename by paths at time 99, and see that the metadata still agrees with itself."""
    (parent, _, name), (new_parent, _, new_name) = old.rpartition(b"/"), new.rpartition(b"/")
    transaction = store.begin()
    renamed = rename(
        transaction, tree[parent], name, tree[new_parent], new_name,
        exchange=exchange, no_replace=no_replace, now_ns=99,
    )  # fmt: skip
    transaction.commit()
    assert list(check_metadata(store)) == []
    return renamed


def links(store: Store, ino: Ino) -> int:
    """The link count of an inode."""
    return inodes.get_inode(store, ino).nlink


def test_a_moved_file_keeps_its_times_but_ctime_and_both_directories_change() -> None:
    store, tree = open_tree()
    assert move(store, tree, b"file", b"a/moved") == Renamed(tree[b"file"], True)
    assert resolve(store, b"a/moved")[0] == tree[b"file"]
    with pytest.raises(NotFound):
        resolve(store, b"file")
    inode = inodes.get_inode(store, tree[b"file"])
    assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (10, 10, 99)
    for path in (b"", b"a"):
        directory = inodes.get_inode(store, tree[path])
        assert (directory.atime_ns > 10, directory.mtime_ns, directory.ctime_ns) == (False, 99, 99)


def test_a_directory_that_moves_takes_its_link_with_it() -> None:
    store, tree = open_tree()
    before = links(store, ROOT_INO), links(store, tree[b"full"])
    move(store, tree, b"a/b", b"full/b")
    assert (links(store, tree[b"a"]), links(store, tree[b"full"])) == (2, before[1] + 1)
    assert links(store, ROOT_INO) == before[0]
    assert names.lookup(store, tree[b"a/b"], b"..")[0] == tree[b"full"]


def test_a_directory_replaces_an_empty_one() -> None:
    store, tree = open_tree()
    before = links(store, ROOT_INO)
    renamed = move(store, tree, b"full", b"empty")
    assert renamed.replaced == tree[b"empty"]
    assert renamed.replaced_inode is not None and renamed.replaced_inode.nlink == 0
    assert links(store, ROOT_INO) == before - 1
    assert list(inodes.orphans(store)) == [tree[b"empty"]]
    store, tree = open_tree()
    move(store, tree, b"a/b", b"empty")
    assert (links(store, ROOT_INO), links(store, tree[b"a"])) == (before, 2)


def test_a_file_replaces_a_file_of_which_another_name_may_remain() -> None:
    store, tree = open_tree()
    transaction = store.begin()
    names.link(transaction, tree[b"other"], tree[b"a"], b"kept", now_ns=11)
    transaction.commit()
    renamed = move(store, tree, b"file", b"other")
    assert renamed.replaced_inode is not None
    assert (renamed.replaced_inode.nlink, renamed.replaced_inode.ctime_ns) == (1, 99)
    assert list(inodes.orphans(store)) == []
    move(store, tree, b"other", b"a/kept")
    assert list(inodes.orphans(store)) == [tree[b"other"]]


@pytest.mark.parametrize("exchange", [False, True])
def test_two_names_of_one_inode_stay_both_and_nothing_changes(exchange: bool) -> None:
    store, tree = open_tree()
    transaction = store.begin()
    names.link(transaction, tree[b"file"], tree[b"a"], b"same", now_ns=11)
    transaction.commit()
    before = list(store.scan(b"", b"\xff"))
    assert not move(store, tree, b"file", b"a/same", exchange=exchange).moved
    assert not move(store, tree, b"file", b"file", exchange=exchange).moved
    assert not move(store, tree, b"a", b"a", exchange=exchange).moved
    assert list(store.scan(b"", b"\xff")) == before


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"absent", b"file", NotFound),
        (b"absent", b"x" * 256, NameTooLong),
        (b"x" * 256, b"file", NameTooLong),
        (b"file/x", b"y", NotADirectory),
        (b"file", b"other/x", NotADirectory),
        (b"file", b"empty", IsADirectory),
        (b"file", b"full", IsADirectory),
        (b"full", b"file", NotADirectory),
        (b"empty", b"full", DirectoryNotEmpty),
        (b"a", b"a/b/c/a", InvalidArgument),
        (b"a", b"a/new", InvalidArgument),
        (b"a/b", b"a", DirectoryNotEmpty),
        (b"a", b"a/b", InvalidArgument),
        (b"file", b"..", InvalidArgument),
        (b".", b"x", InvalidArgument),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(old: bytes, new: bytes, error: type[Exception]) -> None:
    store, tree = open_tree()
    before = list(store.scan(b"", b"\xff"))
    with pytest.raises(error):
        move(store, tree, old, new)
    assert list(store.scan(b"", b"\xff")) == before


def test_no_replace_refuses_any_target_also_the_same_inode() -> None:
    store, tree = open_tree()
    for target in (b"other", b"empty", b"file"):
        with pytest.raises(AlreadyExists):
            move(store, tree, b"file", target, no_replace=True)
    with pytest.raises(NotFound):  # the source first
        move(store, tree, b"absent", b"other", no_replace=True)
    assert move(store, tree, b"file", b"new", no_replace=True).moved


def test_exchange_swaps_names_of_any_kinds() -> None:
    store, tree = open_tree()
    before = links(store, ROOT_INO)
    renamed = move(store, tree, b"file", b"a/b", exchange=True)
    assert (renamed.ino, renamed.exchanged, renamed.replaced) == (tree[b"file"], tree[b"a/b"], None)
    assert resolve(store, b"file/c")[0] == tree[b"a/b/c"]
    assert resolve(store, b"a/b")[0] == tree[b"file"]
    assert (links(store, ROOT_INO), links(store, tree[b"a"])) == (before + 1, 2)
    assert names.lookup(store, tree[b"a/b"], b"..")[0] == ROOT_INO
    move(store, tree, b"full", b"empty", exchange=True)
    assert resolve(store, b"empty/x")[0] == tree[b"full/x"]
    assert [inodes.get_inode(store, tree[path]).ctime_ns for path in (b"file", b"a/b", b"full", b"empty")] == [99] * 4


def test_exchange_needs_both_and_refuses_a_loop_from_either_side() -> None:
    store, tree = open_tree()
    with pytest.raises(NotFound):
        move(store, tree, b"file", b"absent", exchange=True)
    with pytest.raises(InvalidArgument):
        move(store, tree, b"a", b"a/b/c", exchange=True)
    with pytest.raises(InvalidArgument):
        move(store, tree, b"a/b/c", b"a", exchange=True)
    with pytest.raises(InvalidArgument):
        move(store, tree, b"a/file", b"a", exchange=True)
    with pytest.raises(InvalidArgument):
        move(store, tree, b"file", b"other", exchange=True, no_replace=True)


def test_a_removed_directory_takes_nothing_in() -> None:
    store, tree = open_tree()
    transaction = store.begin()
    names.rmdir(transaction, ROOT_INO, b"empty", now_ns=11)
    transaction.commit()
    with pytest.raises(NotFound):
        move(store, tree, b"file", b"empty/x")


def test_a_directory_at_the_largest_link_count_takes_no_further_subdirectory() -> None:
    store, tree = open_tree()
    transaction = store.begin()
    inode = inodes.get_inode(transaction, tree[b"full"])
    inode.nlink = LINK_COUNT_MAX
    inodes.put_inode(transaction, tree[b"full"], inode)
    transaction.commit()
    transaction = store.begin()
    with pytest.raises(TooManyLinks):
        rename(transaction, tree[b"a"], b"b", tree[b"full"], b"b", now_ns=99)
    with pytest.raises(TooManyLinks):
        rename(transaction, tree[b"a"], b"b", tree[b"full"], b"x", exchange=True, now_ns=99)
    with pytest.raises(TooManyLinks):
        rename(transaction, tree[b"full"], b"x", tree[b"a"], b"b", exchange=True, now_ns=99)
    rename(transaction, tree[b"a"], b"file", tree[b"full"], b"file", now_ns=99)
