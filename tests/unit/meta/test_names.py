"""Names: POSIX's rules and the order of its errors, one by one."""

from __future__ import annotations

import stat

import pytest

from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from siltstone.limits import LINK_COUNT_MAX, NAME_BYTES_MAX, SYMLINK_BYTES_MAX
from siltstone.meta import inodes, names
from siltstone.meta.records import Inode, InodeFlag
from siltstone.meta.store.store import Store
from siltstone.types import ROOT_INO, Ino, partition_of
from sim.metadata import check_metadata, open_metadata, resolve


def make(store: Store, parent: Ino, name: bytes, mode: int = stat.S_IFREG | 0o644, *, gid: int = 5) -> Ino:
    """Create or mkdir in a batch of its own."""
    transaction = store.begin()
    if stat.S_ISDIR(mode):
        ino, _ = names.mkdir(transaction, parent, name, mode=mode, uid=4, gid=gid, now_ns=10)
    else:
        target = b"x" if stat.S_ISLNK(mode) else b""
        ino, _ = names.create(transaction, parent, name, mode=mode, uid=4, gid=gid, target=target, now_ns=10)
    transaction.commit()
    return ino


def set_links(store: Store, ino: Ino, nlink: int) -> None:
    """Give an inode a link count that would take years to reach."""
    transaction = store.begin()
    inode = inodes.get_inode(transaction, ino)
    inode.nlink = nlink
    inodes.put_inode(transaction, ino, inode)
    transaction.commit()


def test_a_new_file_is_in_its_directorys_partition_with_all_times_now() -> None:
    store = open_metadata()
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    transaction = store.begin()
    ino, inode = names.create(transaction, directory, b"f", mode=0o640, uid=4, gid=5, now_ns=77)
    transaction.commit()
    assert inode == Inode(stat.S_IFREG | 0o640, 1, 4, 5, 0, 0, 77, 77, 77, parent=directory, name=b"f", home=directory)
    assert partition_of(ino) == partition_of(directory)
    assert names.lookup(store, directory, b"f") == (ino, inode)
    holder = inodes.get_inode(store, directory)
    assert (holder.mtime_ns, holder.ctime_ns, holder.atime_ns, holder.size) == (77, 77, 10, 1)


def test_subdirectories_of_one_directory_spread_over_the_partitions() -> None:
    store = open_metadata()
    made = [make(store, ROOT_INO, b"%d" % index, stat.S_IFDIR | 0o755) for index in range(400)]
    assert len({partition_of(ino) for ino in made}) > 100
    assert len(set(made)) == 400


def test_special_files_keep_their_type_and_device() -> None:
    store = open_metadata()
    transaction = store.begin()
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        ino, inode = names.create(
            transaction, ROOT_INO, b"%d" % kind, mode=kind | 0o6777, uid=0, gid=0, rdev=0x1234, now_ns=1
        )
        assert inode.mode == kind | 0o6777 and inode.rdev == 0x1234
        entry = names.get_dentry(transaction, ROOT_INO, b"%d" % kind)
        assert entry is not None and (entry.ino, entry.kind) == (ino, kind)


@pytest.mark.parametrize("mode", [stat.S_IFDIR | 0o755, 0o150000])
def test_create_makes_no_directory_and_no_unknown_type(mode: int) -> None:
    with pytest.raises(InvalidArgument):
        names.create(open_metadata().begin(), ROOT_INO, b"f", mode=mode, uid=0, gid=0, now_ns=1)


def test_a_symbolic_link_has_the_size_of_its_target_up_to_its_limit() -> None:
    transaction = open_metadata().begin()

    def link_to(name: bytes, target: bytes) -> Inode:
        return names.create(
            transaction, ROOT_INO, name, mode=stat.S_IFLNK | 0o777, uid=0, gid=0, target=target, now_ns=1
        )[1]

    assert link_to(b"longest", b"t" * SYMLINK_BYTES_MAX).size == SYMLINK_BYTES_MAX
    with pytest.raises(NameTooLong):
        link_to(b"longer", b"t" * (SYMLINK_BYTES_MAX + 1))
    with pytest.raises(NotFound):
        link_to(b"empty", b"")
    with pytest.raises(InvalidArgument):
        link_to(b"zero", b"a\0b")


def test_a_directory_with_setgid_hands_its_group_on_and_directories_the_bit_too() -> None:
    store = open_metadata()
    shared = make(store, ROOT_INO, b"shared", stat.S_IFDIR | 0o2775, gid=42)
    file = inodes.get_inode(store, make(store, shared, b"file", gid=5))
    assert (file.gid, file.mode & 0o7777) == (42, 0o644)
    directory = inodes.get_inode(store, make(store, shared, b"directory", stat.S_IFDIR | 0o755, gid=5))
    assert (directory.gid, directory.mode & 0o7777) == (42, 0o2755)
    plain = inodes.get_inode(store, make(store, ROOT_INO, b"plain", stat.S_IFDIR | 0o755, gid=5))
    assert (plain.gid, plain.mode & 0o7777) == (5, 0o755)


def test_the_link_count_of_a_directory_is_two_plus_its_subdirectories() -> None:
    store = open_metadata()
    for index in range(3):
        make(store, ROOT_INO, b"d%d" % index, stat.S_IFDIR | 0o755)
        make(store, ROOT_INO, b"f%d" % index)
    root = inodes.get_inode(store, ROOT_INO)
    assert (root.nlink, root.size) == (5, 6)
    transaction = store.begin()
    ino, inode = names.rmdir(transaction, ROOT_INO, b"d1", now_ns=20)
    transaction.commit()
    assert inode.nlink == 0 and list(inodes.orphans(store)) == [ino]
    root = inodes.get_inode(store, ROOT_INO)
    assert (root.nlink, root.size, root.mtime_ns, root.ctime_ns) == (4, 5, 20, 20)


def test_names_are_measured_in_bytes() -> None:
    store = open_metadata()
    longest = "é".encode() * (NAME_BYTES_MAX // 2) + b"x"
    assert len(longest) == NAME_BYTES_MAX
    ino = make(store, ROOT_INO, longest)
    assert names.lookup(store, ROOT_INO, longest)[0] == ino
    for call in (
        lambda: make(store, ROOT_INO, longest + b"x"),
        lambda: make(store, ROOT_INO, longest + b"x", stat.S_IFDIR),
        lambda: names.lookup(store, ROOT_INO, longest + b"x"),
        lambda: names.unlink(store.begin(), ROOT_INO, longest + b"x", now_ns=1),
        lambda: names.rmdir(store.begin(), ROOT_INO, longest + b"x", now_ns=1),
        lambda: names.link(store.begin(), ino, ROOT_INO, longest + b"x", now_ns=1),
    ):
        with pytest.raises(NameTooLong):
            call()


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_a_name_that_cannot_be_is_refused(name: bytes) -> None:
    store = open_metadata()
    with pytest.raises(InvalidArgument):
        make(store, ROOT_INO, name)
    with pytest.raises(InvalidArgument):
        make(store, ROOT_INO, name, stat.S_IFDIR)
    with pytest.raises(InvalidArgument):
        names.rmdir(store.begin(), ROOT_INO, name, now_ns=1)


def test_nothing_can_be_made_in_a_file() -> None:
    store = open_metadata()
    file = make(store, ROOT_INO, b"f")
    other = make(store, ROOT_INO, b"g")
    for call in (
        lambda: make(store, file, b"x"),
        lambda: make(store, file, b"x", stat.S_IFDIR),
        lambda: names.link(store.begin(), other, file, b"x", now_ns=1),
        lambda: names.unlink(store.begin(), file, b"x", now_ns=1),
        lambda: names.lookup(store, file, b"x"),
        lambda: names.list_directory(store, file, limit=1),
    ):
        with pytest.raises(NotADirectory):
            call()


def test_nothing_can_be_made_in_a_removed_directory_that_is_still_held() -> None:
    store = open_metadata()
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    file = make(store, ROOT_INO, b"f")
    transaction = store.begin()
    names.rmdir(transaction, ROOT_INO, b"d", now_ns=1)
    transaction.commit()
    assert names.list_directory(store, directory, limit=10) == []
    for call in (
        lambda: make(store, directory, b"x"),
        lambda: make(store, directory, b"x", stat.S_IFDIR),
        lambda: names.link(store.begin(), file, directory, b"x", now_ns=1),
        lambda: names.unlink(store.begin(), directory, b"x", now_ns=1),
        lambda: names.lookup(store, directory, b"x"),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_taken_name_is_refused_whatever_has_it() -> None:
    store = open_metadata()
    file = make(store, ROOT_INO, b"f")
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    for name in (b"f", b"d"):
        with pytest.raises(AlreadyExists):
            make(store, ROOT_INO, name)
        with pytest.raises(AlreadyExists):
            make(store, ROOT_INO, name, stat.S_IFDIR)
        with pytest.raises(AlreadyExists):
            names.link(store.begin(), file, ROOT_INO, name, now_ns=1)
        with pytest.raises(AlreadyExists):  # before EPERM, as in Linux
            names.link(store.begin(), directory, ROOT_INO, name, now_ns=1)


def test_a_directory_cannot_be_linked_or_unlinked_nor_a_file_removed_as_a_directory() -> None:
    store = open_metadata()
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    make(store, ROOT_INO, b"f")
    make(store, directory, b"inside")
    with pytest.raises(NotPermitted):
        names.link(store.begin(), directory, ROOT_INO, b"other", now_ns=1)
    with pytest.raises(IsADirectory):
        names.unlink(store.begin(), ROOT_INO, b"d", now_ns=1)
    with pytest.raises(NotADirectory):
        names.rmdir(store.begin(), ROOT_INO, b"f", now_ns=1)
    with pytest.raises(DirectoryNotEmpty):
        names.rmdir(store.begin(), ROOT_INO, b"d", now_ns=1)


def test_link_and_unlink_count_and_set_ctime_of_the_inode_and_mtime_of_the_directory() -> None:
    store = open_metadata()
    file = make(store, ROOT_INO, b"f")
    transaction = store.begin()
    linked = names.link(transaction, file, ROOT_INO, b"g", now_ns=30)
    transaction.commit()
    assert (linked.nlink, linked.ctime_ns, linked.mtime_ns) == (2, 30, 10)
    assert inodes.get_inode(store, ROOT_INO).mtime_ns == 30
    transaction = store.begin()
    ino, inode = names.unlink(transaction, ROOT_INO, b"f", now_ns=40)
    transaction.commit()
    assert ino == file and (inode.nlink, inode.ctime_ns, inode.mtime_ns) == (1, 40, 10)
    assert list(inodes.orphans(store)) == []
    transaction = store.begin()
    assert names.unlink(transaction, ROOT_INO, b"g", now_ns=50)[1].nlink == 0
    transaction.commit()
    assert list(inodes.orphans(store)) == [file]


def test_an_anonymous_file_becomes_a_named_one() -> None:
    store = open_metadata()
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    transaction = store.begin()
    ino, inode = inodes.create_anonymous(transaction, directory, mode=0o600, uid=1, gid=2, now_ns=5)
    transaction.commit()
    assert inode.nlink == 0 and partition_of(ino) == partition_of(directory)
    assert list(inodes.orphans(store)) == [ino]
    transaction = store.begin()
    names.link(transaction, ino, directory, b"now it has one", now_ns=6)
    transaction.commit()
    assert list(inodes.orphans(store)) == []
    assert list(check_metadata(store)) == []


def test_the_largest_link_count_is_kept() -> None:
    store = open_metadata()
    file = make(store, ROOT_INO, b"f")
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    set_links(store, file, LINK_COUNT_MAX)
    set_links(store, directory, LINK_COUNT_MAX)
    with pytest.raises(TooManyLinks):
        names.link(store.begin(), file, ROOT_INO, b"g", now_ns=1)
    with pytest.raises(TooManyLinks):
        make(store, directory, b"sub", stat.S_IFDIR)
    make(store, directory, b"file")


def test_dot_and_dotdot_are_looked_up() -> None:
    store = open_metadata()
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    below = make(store, directory, b"e", stat.S_IFDIR | 0o755)
    assert names.lookup(store, below, b".")[0] == below
    assert names.lookup(store, below, b"..")[0] == directory
    assert names.lookup(store, ROOT_INO, b"..")[0] == ROOT_INO
    assert resolve(store, b"//d/./e/../e/")[0] == below
    assert names.is_ancestor(store, directory, below) and not names.is_ancestor(store, below, directory)


def test_a_listing_goes_on_behind_a_name_that_is_gone() -> None:
    store = open_metadata()
    for name in (b"a", b"b", b"b\xff", b"c"):
        make(store, ROOT_INO, name)
    page = names.list_directory(store, ROOT_INO, limit=2)
    assert [name for name, _ in page] == [b"a", b"b"]
    transaction = store.begin()
    names.unlink(transaction, ROOT_INO, b"b", now_ns=1)
    transaction.commit()
    assert [name for name, _ in names.list_directory(store, ROOT_INO, after=b"b", limit=9)] == [b"b\xff", b"c"]
    assert names.list_directory(store, ROOT_INO, after=b"c", limit=9) == []


def test_a_refused_operation_writes_nothing() -> None:
    store = open_metadata()
    make(store, ROOT_INO, b"f")
    directory = make(store, ROOT_INO, b"d", stat.S_IFDIR | 0o755)
    make(store, directory, b"inside")
    before = list(store.scan(b"", b"\xff"))
    transaction = store.begin()
    for call in (
        lambda: names.create(transaction, ROOT_INO, b"f", mode=0o644, uid=0, gid=0, now_ns=9),
        lambda: names.mkdir(transaction, ROOT_INO, b"f", mode=0o755, uid=0, gid=0, now_ns=9),
        lambda: names.rmdir(transaction, ROOT_INO, b"d", now_ns=9),
        lambda: names.unlink(transaction, ROOT_INO, b"d", now_ns=9),
        lambda: names.link(transaction, directory, ROOT_INO, b"x", now_ns=9),
    ):
        with pytest.raises((AlreadyExists, DirectoryNotEmpty, IsADirectory, NotPermitted)):
            call()
    transaction.commit()
    assert list(store.scan(b"", b"\xff")) == before


def test_a_directory_begins_with_the_flags_it_is_given() -> None:
    transaction = open_metadata().begin()
    _, inode = names.mkdir(transaction, ROOT_INO, b"d", mode=0o755, uid=0, gid=0, flags=InodeFlag.IMPLICIT, now_ns=1)
    assert inode.flags & InodeFlag.IMPLICIT
