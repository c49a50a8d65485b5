"""Clones: copies of files and directories that share their bytes. What one batch of a clone does.

A clone of a tree is built below a directory that has no name (an orphan), from the top downwards, some entries of a
directory at a time; then that directory gets its name. Everything else has a name from the first on, so what a crash
leaves hangs on one orphan, and goes with it (``take_apart``). A copy is in the partition of what it is a copy of: there
are the bytes that it shares, and so the entries of a directory and most of what they lead to are one shard's.

An inode's copy keeps its mode, owner, size, atime, mtime, extended attributes and what S3 knows of it; its ctime is
new. Names, links and locks are its own.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

import msgspec

from siltstone.errors import NotFound
from siltstone.meta import counters, extents, homes, keys, names
from siltstone.meta.inodes import get_directory, get_inode, mark_orphan, put_inode
from siltstone.meta.records import Bucket, Dentry, Inode, InodeFlag, decode, encode, file_kind
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, Ino, PartitionId, partition_of

PAGE_ENTRIES = 128
"""Entries that one batch clones at the most,"""

PAGE_EXTENTS = 512
"""and extents that it shares: some milliseconds. A file of more is cloned on its own, step by step."""


class Subdirectory(msgspec.Struct, frozen=True, array_like=True):
    """A directory that was cloned without its entries. ``entries``: how many it had."""

    source: Ino
    target: Ino
    entries: int


class Apart(msgspec.Struct, frozen=True, array_like=True):
    """An entry that is to be cloned on its own: of another shard's file, a file with several names, with many extents,
    or with bytes in memory."""

    name: bytes
    source: Ino


class ClonedFile(msgspec.Struct, frozen=True, array_like=True):
    """A clone of anything but a directory; ``size``: of its bytes."""

    ino: Ino
    size: int


class Page(msgspec.Struct, frozen=True, array_like=True):
    """What one batch has done about a directory. ``after``: behind which name to go on, None at the end.
    ``entries``: how many it has cloned, ``size``: bytes of files that it shares."""

    after: bytes | None
    entries: int = 0
    size: int = 0
    subdirectories: list[Subdirectory] = []
    apart: list[Apart] = []


def copy_nameless(transaction: Transaction, source: Ino, inode: Inode, *, now_ns: int) -> tuple[Ino, Inode]:
    """A copy of an inode without entries and bytes, which is an orphan. The caller puts the inode that is returned.

    Of a file's, size and allocated_bytes are 0: they follow from what is shared then.
    """
    tally = counters.Tally(transaction)
    target = tally.take_ino(partition_of(source), 0)
    tally.end()
    copy_records(transaction, source, inode, target)
    inode.nlink = inode.size = inode.allocated_bytes = inode.parent = inode.home = 0
    inode.name = b""
    if stat.S_ISLNK(inode.mode):
        inode.size = len(inode.target)
    inode.ctime_ns = now_ns
    mark_orphan(transaction, target)
    return target, inode


def clone_entries(
    transaction: Transaction,
    source: Ino,
    target: Ino,
    after: bytes | None,
    *,
    is_busy: Callable[[Ino], bool],
    now_ns: int,
) -> Page:
    """Give a directory's clone some of its entries, those behind the name ``after``: files whole, directories empty.

    ``is_busy``: whether a file has bytes that are not committed. A source that has gone meanwhile has no entries (any
    more). Raises NotFound when the target has gone.
    """
    copied = get_directory(transaction, target)
    try:
        entries = names.list_directory(transaction, source, after=after, limit=PAGE_ENTRIES)
    except NotFound:
        return Page(None)
    page = _PageWriter(transaction, target, copied, is_busy, now_ns)
    page.expect([Ino(entry.ino) for _, entry in entries if stat.S_ISDIR(entry.kind)])
    last = after
    for name, entry in entries:
        if not page.add(name, Ino(entry.ino), entry.kind):
            break
        last = name
    else:
        if len(entries) < PAGE_ENTRIES:
            last = None
    return page.end(last)


class _PageWriter:
    """Adds copies to a batch."""

    def __init__(
        self, transaction: Transaction, target: Ino, copied: Inode, is_busy: Callable[[Ino], bool], now_ns: int
    ) -> None:
        self._transaction = transaction
        self._target = target
        self._copied = copied
        self._is_busy = is_busy
        self._now_ns = now_ns
        self._tally = counters.Tally(transaction)
        self._extents_left = PAGE_EXTENTS
        self._elsewhere: set[PartitionId] = set()
        self._subdirectories: list[Subdirectory] = []
        self._apart: list[Apart] = []
        self._entries = self._size = 0

    def expect(self, directories: list[Ino]) -> None:
        """These will be copied: what is known of them in other shards is wanted."""
        first = {partition_of(ino): keys.inode(ino) for ino in reversed(directories)}
        self._transaction.expect(key for partition, inode in first.items() for key in (inode, keys.counters(partition)))

    def add(self, name: bytes, ino: Ino, kind: int) -> bool:
        """Deal with an entry. False if it has to be in another batch."""
        is_here = self._transaction.owns(keys.inode(ino))
        if stat.S_ISDIR(kind):
            partition = partition_of(ino)
            if not is_here and partition in self._elsewhere:
                return False  # a batch can have one new number of a partition of another shard
            self._elsewhere.add(partition)
            self._add_directory(name, ino)
            return True
        if not is_here or self._is_busy(ino):
            self._apart.append(Apart(name, ino))
            return True
        return self._add_file(name, ino)

    def end(self, last: bytes | None) -> Page:
        """The batch is complete."""
        self._tally.end()
        copied = self._copied
        copied.size += self._entries
        if copied.nlink:
            copied.nlink += len(self._subdirectories)
        put_inode(self._transaction, self._target, copied)
        return Page(last, self._entries, self._size, self._subdirectories, self._apart)

    def _add_directory(self, name: bytes, source: Ino) -> None:
        inode = get_inode(self._transaction, source)
        target = self._tally.take_ino(partition_of(source), 0)
        self._subdirectories.append(Subdirectory(source, target, inode.size))
        copy_records(self._transaction, source, inode, target)
        inode.nlink, inode.size = 2, 0
        self._enter(name, target, inode)

    def _add_file(self, name: bytes, source: Ino) -> bool:
        inode = get_inode(self._transaction, source)
        if inode.nlink > 1:
            self._apart.append(Apart(name, source))
            return True
        found = extents.find_all(self._transaction, source, inode, PAGE_EXTENTS)
        if found is None:
            self._apart.append(Apart(name, source))
            return True
        if len(found) > self._extents_left:
            return False
        self._extents_left -= len(found)
        target = self._tally.take_ino(partition_of(source), inode.allocated_bytes)
        extents.share(self._transaction, target, found)
        self._size += inode.size if inode.is_file else 0
        copy_records(self._transaction, source, inode, target)
        inode.nlink, inode.home = 1, self._target
        self._enter(name, target, inode)
        return True

    def _enter(self, name: bytes, target: Ino, inode: Inode) -> None:
        inode.ctime_ns = self._now_ns
        inode.parent, inode.name = self._target, name
        put_inode(self._transaction, target, inode)
        self._transaction.put(keys.dentry(self._target, name), encode(Dentry(target, file_kind(inode.mode))))
        self._entries += 1


def enter_clone(transaction: Transaction, clone: Ino, parent: Ino, name: bytes) -> None:
    """Give a file's clone a name, its first or a further one, in the clone of a directory, whose times stay.

    Raises NotFound when either has gone.
    """
    inode = get_inode(transaction, clone)
    directory = get_directory(transaction, parent)
    assert transaction.get(keys.dentry(parent, name)) is None, f"directory {parent} has {name!r} already"
    if inode.nlink == 0:
        transaction.delete(keys.orphan(clone))
    inode.nlink += 1
    inode.parent, inode.name = parent, name
    homes.gained(transaction, clone, inode, parent)
    put_inode(transaction, clone, inode)
    transaction.put(keys.dentry(parent, name), encode(Dentry(clone, file_kind(inode.mode))))
    directory.size += 1
    put_inode(transaction, parent, directory)


def name_tree(
    transaction: Transaction, clone: Ino, source: Ino, parent: Ino, name: bytes, *, subdirectories: int, now_ns: int
) -> None:
    """Give the clone of a directory its name: with that it is there. ``subdirectories``: how many it holds.

    Right under the root it is a bucket, of whoever owns the source and configured alike, if that is one. Raises as
    ``names.mkdir`` does, and NotFound when the clone has gone.
    """
    inode = get_inode(transaction, clone)
    assert inode.nlink == 0, f"inode {clone} has a name already"
    names.adopt_directory(transaction, clone, inode, parent, name, subdirectories=subdirectories, now_ns=now_ns)
    if parent == ROOT_INO and (value := transaction.get(keys.bucket(source))) is not None:
        bucket = decode(Bucket, value)
        bucket.created_ns = now_ns
        transaction.put(keys.bucket(clone), encode(bucket))
        for key, document in list(transaction.scan(*keys.prefix_range(keys.bucket_documents(source)))):
            transaction.put(keys.bucket_document(clone, keys.bucket_document_name(key)), document)


def copy_records(transaction: Transaction, source: Ino, inode: Inode, target: Ino) -> None:
    """What hangs on an inode beside names and extents. A copy is in no snapshot, and has none."""
    inode.flags &= ~(InodeFlag.SNAPSHOT | InodeFlag.HAS_SNAPSHOTS)
    if inode.flags & InodeFlag.HAS_XATTRS:
        for key, value in list(transaction.scan(*keys.prefix_range(keys.xattrs(source)))):
            transaction.put(keys.xattr(target, keys.xattr_name(key)), value)
    if inode.flags & InodeFlag.HAS_OBJECT and (record := transaction.get(keys.object_(source))) is not None:
        transaction.put(keys.object_(target), record)
