"""The trash: inodes that lost their last name and are kept for a time (docs/decisions/0031).

One is an inode without names, with all that hangs on it, its extents too, and with a record in its partition instead of
an orphan's mark. It knows the place that it had. Nothing is moved, and nothing else knows of it: to settling, scrubbing
and rebuilding it is a file like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from siltstone.errors import NotFound
from siltstone.meta import keys, names
from siltstone.meta.inodes import get_inode, mark_orphan, put_inode
from siltstone.meta.records import Inode, Trashed, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino, PartitionId


class TrashEntry(NamedTuple):
    """An inode in the trash, and since when."""

    removed_ns: int
    ino: Ino
    record: Trashed


def entries_in(reader: Reader, partition: PartitionId) -> Iterator[TrashEntry]:
    """What a partition has in the trash, oldest first."""
    for key, value in reader.scan(*keys.prefix_range(keys.all_of(keys.TRASH, partition))):
        yield TrashEntry(keys.trash_removed_ns(key), keys.trash_ino(key), decode(Trashed, value))


def give_up(transaction: Transaction, entry: TrashEntry) -> bool:
    """Let an inode be an orphan, which is purged. False if it is not in the trash any more."""
    key = keys.trash(entry.ino, entry.removed_ns)
    if transaction.get(key) is None:
        return False
    transaction.delete(key)
    if transaction.get(keys.inode(entry.ino)) is None or get_inode(transaction, entry.ino).nlink:
        return False
    mark_orphan(transaction, entry.ino)
    return True


def bring_back(transaction: Transaction, entry: TrashEntry, parent: Ino, name: bytes, *, now_ns: int) -> None:
    """Give an inode in the trash a name. Raises NotFound when it is not there any more, and as ``names.mkdir`` does."""
    key = keys.trash(entry.ino, entry.removed_ns)
    if transaction.get(key) is None:
        raise NotFound(f"inode {entry.ino} is not in the trash any more")
    inode = get_inode(transaction, entry.ino)
    if inode.is_directory:
        names.adopt_directory(transaction, entry.ino, inode, parent, name, subdirectories=0, now_ns=now_ns)
    else:
        names.link(transaction, entry.ino, parent, name, now_ns=now_ns)
    transaction.delete(key)


def turn_into_trash(transaction: Transaction, copy: Ino, source: Inode, now_ns: int) -> None:
    """Let an orphan that is a copy of a file be in the trash as what the file was."""
    inode = get_inode(transaction, copy)
    inode.parent, inode.name = source.parent, source.name
    transaction.delete(keys.orphan(copy))
    put_inode(transaction, copy, inode)
    transaction.put(keys.trash(copy, max(now_ns, 0)), encode(Trashed(inode.allocated_bytes, is_cut=True)))
