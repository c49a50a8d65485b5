"""Inodes: read, made, changed, removed. Names are in names.py, the bytes of files in extents.py.

A transaction's own Inode value is private to it: functions change it and put it, and nothing else sees it before the
batch is committed. Every function raises before its first put.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

import xxhash

from siltstone.errors import NotADirectory, NotFound, ReadOnly
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import counters, keys
from siltstone.meta.records import Inode, InodeFlag, decode_inode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, Ino, PartitionId
from siltstone.types import partition_of as partition_of_ino

PERMISSION_BITS = 0o7777

KIND_BITS = 0o170000
"""Of a mode; stat.S_IFMT is a call."""

_SNAPSHOT = int(InodeFlag.SNAPSHOT)  # a plain number: looked at by every change


def format_root(transaction: Transaction, now_ns: int) -> None:
    """Make the root directory of an empty volume; it holds itself."""
    assert transaction.get(keys.inode(ROOT_INO)) is None, "the volume has a root already"
    root = Inode(stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, now_ns, now_ns, now_ns, parent=ROOT_INO)
    counters.count_root(transaction, ROOT_INO)
    put_inode(transaction, ROOT_INO, root)


def get_inode(reader: Reader, ino: Ino) -> Inode:
    """The inode, a fresh value that the caller may change. Raises NotFound."""
    value = reader.get(keys.inode(ino))
    if value is None:
        raise NotFound(f"there is no inode {ino}")
    inode: Inode = decode_inode(value)
    return inode


def find_inode(reader: Reader, ino: Ino) -> Inode | None:
    """The inode, or None."""
    value = reader.get(keys.inode(ino))
    return None if value is None else decode_inode(value)


def get_inodes(reader: Reader, inos: Sequence[Ino]) -> list[Inode]:
    """Many inodes. Raises NotFound when one is missing."""
    get, key = reader.get, keys.inode
    values = [get(key(ino)) for ino in inos]
    found = [decode_inode(value) for value in values if value is not None]
    if len(found) < len(values):
        raise NotFound(f"there is no inode {inos[values.index(None)]}")
    return found


def put_inode(transaction: Transaction, ino: Ino, inode: Inode) -> None:
    """Store an inode that was changed."""
    key = keys.inode(ino)
    transaction.put(key, encode(inode))
    mode = inode.mode
    home = inode.home
    if mode & KIND_BITS == stat.S_IFDIR:
        home = 0 if inode.flags & _SNAPSHOT else inode.parent  # snapshots count nowhere
    transaction.inodes[ino] = key, home, inode.nlink, inode.size, mode


def get_directory(reader: Reader, ino: Ino) -> Inode:
    """The inode of a directory, a removed one included. Raises NotFound, NotADirectory."""
    inode = get_inode(reader, ino)
    if not inode.is_directory:
        raise NotADirectory(f"inode {ino} is not a directory")
    return inode


def get_living_directory(reader: Reader, ino: Ino) -> Inode:
    """A directory that entries may be added to. Raises NotFound also when it was removed, ReadOnly in a snapshot."""
    inode = get_directory(reader, ino)
    check_writable(ino, inode)
    if inode.nlink == 0:
        raise NotFound(f"directory {ino} was removed")
    return inode


def check_writable(ino: Ino, inode: Inode) -> None:
    """Raise ReadOnly if an inode is part of a snapshot."""
    if inode.flags & _SNAPSHOT:
        raise ReadOnly(f"inode {ino} is part of a snapshot, which does not change")


def partition_for_directory(parent: Ino, name: bytes) -> PartitionId:
    """The partition of a new directory: spread by a hash of where it is made."""
    return PartitionId(xxhash.xxh3_64_intdigest(name, seed=parent) % PARTITION_COUNT)


def create_anonymous(
    transaction: Transaction, partition_of: Ino, *, mode: int, uid: int, gid: int, now_ns: int
) -> tuple[Ino, Inode]:
    """A regular file without a name, in the partition of the inode ``partition_of``: an orphan until it is linked."""
    ino = counters.take_ino(transaction, partition_of_ino(partition_of))
    inode = Inode(stat.S_IFREG | mode & PERMISSION_BITS, 0, uid, gid, 0, 0, now_ns, now_ns, now_ns)
    put_inode(transaction, ino, inode)
    mark_orphan(transaction, ino)
    return ino, inode


def mark_orphan(transaction: Transaction, ino: Ino) -> None:
    """Note that an inode has no name, so that it is purged when nobody holds it, also after a crash."""
    transaction.put(keys.orphan(ino), b"")


def orphans(reader: Reader) -> Iterator[Ino]:
    """Every inode without a name."""
    for partition in counters.partitions_in_use(reader):
        yield from orphans_in(reader, partition)


def orphans_in(reader: Reader, partition: PartitionId) -> Iterator[Ino]:
    """The same of one partition."""
    for key, _ in reader.scan(*keys.prefix_range(keys.all_of(keys.ORPHAN, partition))):
        yield keys.orphan_ino(key)


def remove_inode(transaction: Transaction, ino: Ino) -> None:
    """Delete an orphan: its record and all that hangs on it but extents, which must be gone. Raises NotFound."""
    inode = get_inode(transaction, ino)
    assert inode.nlink == 0, f"inode {ino} still has {inode.nlink} links"
    assert inode.allocated_bytes == 0, f"inode {ino} still has {inode.allocated_bytes} bytes of extents"
    if inode.flags & InodeFlag.HAS_XATTRS:
        for key, _ in list(transaction.scan(*keys.prefix_range(keys.xattrs(ino)))):
            transaction.delete(key)
    if inode.flags & InodeFlag.HAS_OBJECT:
        transaction.delete(keys.object_(ino))
    if inode.is_directory:
        if transaction.get(keys.bucket(ino)) is not None:
            transaction.delete(keys.bucket(ino))
            for key, _ in list(transaction.scan(*keys.prefix_range(keys.bucket_documents(ino)))):
                transaction.delete(key)
        if transaction.get(keys.quota(ino)) is not None:
            transaction.delete(keys.quota(ino))
    transaction.delete(keys.orphan(ino))
    transaction.delete(keys.inode(ino))
    transaction.inodes[ino] = None
    counters.drop_ino(transaction, ino)
