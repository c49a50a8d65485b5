"""Snapshots of a tree: their names and records. How the copies come about is in mirror.py.

A snapshot is a copy of a directory with all below it, as a clone is, in which every inode has the flag SNAPSHOT:
nothing of it is changed any more. Its top is an entry of the *holder*, a directory that is the entry ``.snapshots`` of
the directory that it is a snapshot of, and is there as long as there is a snapshot. So looking up, listing, reading,
handover and fsck need to know nothing of snapshots; listings leave the holder out (names.list_directory), and a
directory that has one cannot be removed, as it is not empty.

The directory, the holder, the tops and their records are in one partition.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from siltstone.errors import AlreadyExists, NotFound, ReadOnly
from siltstone.meta import counters, keys
from siltstone.meta.inodes import get_directory, get_inode, get_living_directory, put_inode
from siltstone.meta.names import (
    SNAPSHOTS_NAME,
    check_name,
    check_room_for_subdirectory,
    drop_link,
    get_dentry,
    list_directory,
)
from siltstone.meta.records import Dentry, Inode, InodeFlag, TreeSnapshot, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino, partition_of

LIST_STEP = 1000

HOLDER_BITS = 0o555
"""Permissions of a holder: those of the directory, but that nobody writes to it."""


class Named(NamedTuple):
    """A snapshot of a directory: its name, and the top of its copies."""

    name: bytes
    top: Ino
    record: TreeSnapshot


def find_holder(reader: Reader, directory: Ino) -> Ino | None:
    """What holds a directory's snapshots; None if it has none. Raises NotFound, NotADirectory."""
    if not get_directory(reader, directory).flags & InodeFlag.HAS_SNAPSHOTS:
        return None
    entry = get_dentry(reader, directory, SNAPSHOTS_NAME)
    assert entry is not None, f"directory {directory} has lost its snapshots"
    return Ino(entry.ino)


def list_snapshots(reader: Reader, directory: Ino) -> list[Named]:
    """All snapshots of a directory, by name. Raises NotFound, NotADirectory."""
    holder = find_holder(reader, directory)
    found: list[Named] = []
    after: bytes | None = None
    while holder is not None and (page := list_directory(reader, holder, after=after, limit=LIST_STEP)):
        for name, entry in page:
            value = reader.get(keys.tree_snapshot(Ino(entry.ino)))
            assert value is not None, f"the snapshot {name!r} of directory {directory} has no record"
            found.append(Named(name, Ino(entry.ino), decode(TreeSnapshot, value)))
        after = page[-1][0]
    return found


def check_new(reader: Reader, directory: Ino, name: bytes) -> None:
    """Raise unless a directory can have a snapshot of this name: NotFound, NotADirectory, ReadOnly (it is in a
    snapshot), InvalidArgument, NameTooLong, AlreadyExists, TooManyLinks."""
    inode = get_directory(reader, directory)
    if inode.flags & InodeFlag.SNAPSHOT:
        raise ReadOnly("there are no snapshots of what is in a snapshot: it does not change")
    check_name(name)
    holder = find_holder(reader, directory)
    if holder is None:
        if get_dentry(reader, directory, SNAPSHOTS_NAME) is not None:
            raise AlreadyExists("the directory has a .snapshots of its own, where its snapshots are to be: rename that")
        check_room_for_subdirectory(directory, inode)
        return
    if get_dentry(reader, holder, name) is not None:
        raise AlreadyExists(f"the directory has a snapshot {name.decode(errors='replace')!r} already")
    check_room_for_subdirectory(holder, get_inode(reader, holder))


def add(
    transaction: Transaction, directory: Ino, name: bytes, top: Ino, links: int, record: TreeSnapshot, *, now_ns: int
) -> Ino:
    """Give the top of finished copies, an orphan, its name: with that the snapshot is there. ``links``: what its nlink
    is to be. The times of the directory stay. Returns the holder. Raises as ``check_new`` does, before the first put.
    """
    check_new(transaction, directory, name)
    inode = get_living_directory(transaction, directory)
    found = find_holder(transaction, directory)
    if found is None:
        holder = counters.take_ino(transaction, partition_of(directory))
        mode = stat.S_IFDIR | inode.mode & HOLDER_BITS
        held = Inode(mode, 2, inode.uid, inode.gid, 0, 0, now_ns, now_ns, now_ns, parent=directory)
        held.name, held.flags = SNAPSHOTS_NAME, InodeFlag.SNAPSHOT
        transaction.put(keys.dentry(directory, SNAPSHOTS_NAME), encode(Dentry(holder, stat.S_IFDIR)))
        inode.flags |= InodeFlag.HAS_SNAPSHOTS
        inode.size += 1
        inode.nlink += 1
        put_inode(transaction, directory, inode)
    else:
        holder, held = found, get_inode(transaction, found)
    copy = get_inode(transaction, top)
    assert copy.nlink == 0, f"inode {top} has a name already"
    copy.nlink, copy.parent, copy.name = links, holder, name
    transaction.delete(keys.orphan(top))
    put_inode(transaction, top, copy)
    transaction.put(keys.dentry(holder, name), encode(Dentry(top, stat.S_IFDIR)))
    transaction.put(keys.tree_snapshot(top), encode(record))
    held.size += 1
    held.nlink += 1
    held.mtime_ns = held.ctime_ns = now_ns
    put_inode(transaction, holder, held)
    return holder


class Removed(NamedTuple):
    """What a removal left: orphans, to be purged; the holder only if that was its last snapshot."""

    holder: Ino
    top: Ino
    entries: int
    is_last: bool


def remove(transaction: Transaction, directory: Ino, name: bytes, *, now_ns: int) -> Removed:
    """Take a snapshot's name away: its top is an orphan with entries then, which is taken apart as one is that a clone
    left. With the last one the holder goes. Raises NotFound, NotADirectory."""
    holder = find_holder(transaction, directory)
    entry = None if holder is None else get_dentry(transaction, holder, name)
    if holder is None or entry is None:
        raise NotFound(f"the directory has no snapshot {name.decode(errors='replace')!r}")
    top = Ino(entry.ino)
    value = transaction.get(keys.tree_snapshot(top))
    entries = 0 if value is None else decode(TreeSnapshot, value).entries
    drop_link(transaction, top, get_inode(transaction, top), now_ns, place=(holder, name), is_for_good=True)
    transaction.delete(keys.dentry(holder, name))
    transaction.delete(keys.tree_snapshot(top))
    held = get_inode(transaction, holder)
    held.size -= 1
    held.nlink -= 1
    held.mtime_ns = held.ctime_ns = now_ns
    if held.size:
        put_inode(transaction, holder, held)
        return Removed(holder, top, entries, False)
    drop_link(transaction, holder, held, now_ns, place=(directory, SNAPSHOTS_NAME), is_for_good=True)
    inode = get_directory(transaction, directory)
    transaction.delete(keys.dentry(directory, SNAPSHOTS_NAME))
    inode.flags &= ~InodeFlag.HAS_SNAPSHOTS
    inode.size -= 1
    inode.nlink -= 1
    assert inode.size >= 0 and inode.nlink >= 2
    put_inode(transaction, directory, inode)
    return Removed(holder, top, entries, True)
