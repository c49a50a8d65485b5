"""Renaming: move, replace, exchange. Atomic as any batch is.

The order of errors is that of Linux (fs/namei.c, do_renameat2 and vfs_rename): both parents and names, the source is
missing, NOREPLACE, the loop check, the same inode (nothing to do), the kinds, the links, the target is not empty.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from siltstone.errors import AlreadyExists, InvalidArgument, IsADirectory, NotADirectory, NotFound
from siltstone.meta import homes, keys
from siltstone.meta.inodes import check_writable, get_directory, get_inode, get_living_directory, put_inode
from siltstone.meta.names import (
    check_empty,
    check_name,
    check_room_for_subdirectory,
    drop_link,
    get_dentry,
    is_ancestor,
)
from siltstone.meta.records import Dentry, Inode, encode
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino


class Renamed(NamedTuple):
    """What a rename did. ``moved`` is False when both names are of one inode and nothing was changed."""

    ino: Ino
    moved: bool
    replaced: Ino | None = None
    """The inode that lost the target's name; with ``replaced_inode.nlink == 0`` it is an orphan from now on."""
    replaced_inode: Inode | None = None
    exchanged: Ino | None = None
    """The inode that has the source's name now."""


class _Move(NamedTuple):
    """Both sides of a rename as they were found. ``target`` and ``source`` are one value when the parents are one."""

    parent: Ino
    name: bytes
    source: Inode
    new_parent: Ino
    new_name: bytes
    target: Inode
    entry: Dentry


def rename(
    transaction: Transaction,
    parent: Ino,
    name: bytes,
    new_parent: Ino,
    new_name: bytes,
    *,
    exchange: bool = False,
    no_replace: bool = False,
    now_ns: int,
) -> Renamed:
    """Give what ``name`` means in ``parent`` the name ``new_name`` in ``new_parent``, replacing what has it.

    With ``exchange`` both must exist and swap names; with ``no_replace`` the target must not exist. A directory
    replaces only an empty directory, anything else no directory. Raises NotFound, NotADirectory, NameTooLong,
    AlreadyExists, InvalidArgument (a directory into itself; both flags), IsADirectory, TooManyLinks,
    DirectoryNotEmpty, ReadOnly.
    """
    if exchange and no_replace:
        raise InvalidArgument("rename can either exchange or not replace")
    source = get_directory(transaction, parent)
    check_writable(parent, source)
    target = source if new_parent == parent else get_living_directory(transaction, new_parent)
    check_name(name)
    check_name(new_name)
    entry = get_dentry(transaction, parent, name)
    if entry is None:
        raise NotFound(f"{name!r} is not in directory {parent}")
    other = get_dentry(transaction, new_parent, new_name)
    if other is not None and no_replace:
        raise AlreadyExists(f"{new_name!r} is in directory {new_parent} already")
    if other is None and exchange:
        raise NotFound(f"{new_name!r} is not in directory {new_parent}")
    if new_parent != parent:
        _check_loop(transaction, entry, new_parent)
        if exchange and other is not None:
            _check_loop(transaction, other, parent)
    if other is not None and other.ino == entry.ino:
        return Renamed(Ino(entry.ino), moved=False)
    move = _Move(parent, name, source, new_parent, new_name, target, entry)
    if exchange:
        assert other is not None
        return _exchange(transaction, move, other, now_ns)
    return _replace(transaction, move, other, now_ns)


def _check_loop(transaction: Transaction, entry: Dentry, new_parent: Ino) -> None:
    if stat.S_ISDIR(entry.kind) and is_ancestor(transaction, Ino(entry.ino), new_parent):
        raise InvalidArgument(f"directory {entry.ino} cannot move into itself or below itself")


def _replace(transaction: Transaction, move: _Move, other: Dentry | None, now_ns: int) -> Renamed:
    parent, source, new_parent, target, entry = move.parent, move.source, move.new_parent, move.target, move.entry
    is_directory = stat.S_ISDIR(entry.kind)
    ino, inode = Ino(entry.ino), get_inode(transaction, Ino(entry.ino))
    check_writable(ino, inode)
    replaced: Ino | None = None
    replaced_inode: Inode | None = None
    if other is not None:
        _check_kinds(move, other)
        replaced, replaced_inode = Ino(other.ino), get_inode(transaction, Ino(other.ino))
        if is_directory:
            check_empty(transaction, replaced)
    elif is_directory and new_parent != parent:
        check_room_for_subdirectory(new_parent, target)

    if replaced is not None and replaced_inode is not None:
        drop_link(transaction, replaced, replaced_inode, now_ns, place=(new_parent, move.new_name))
        target.size -= 1
        target.nlink -= is_directory
    source.size -= 1
    source.nlink -= is_directory
    target.size += 1
    target.nlink += is_directory
    transaction.delete(keys.dentry(parent, move.name))
    transaction.put(keys.dentry(new_parent, move.new_name), encode(entry))
    _put_moved(transaction, ino, inode, parent, new_parent, move.new_name, now_ns)
    _put_parents(transaction, move, now_ns)
    return Renamed(ino, True, replaced, replaced_inode)


def _check_kinds(move: _Move, other: Dentry) -> None:
    if stat.S_ISDIR(move.entry.kind):
        if not stat.S_ISDIR(other.kind):
            raise NotADirectory(f"{move.new_name!r} is not a directory, a directory cannot replace it")
    elif stat.S_ISDIR(other.kind):
        raise IsADirectory(f"{move.new_name!r} is a directory, only a directory can replace it")


def _exchange(transaction: Transaction, move: _Move, other: Dentry, now_ns: int) -> Renamed:
    ino, other_ino = Ino(move.entry.ino), Ino(other.ino)
    inode, other_inode = get_inode(transaction, ino), get_inode(transaction, other_ino)
    check_writable(ino, inode)
    check_writable(other_ino, other_inode)
    grown = stat.S_ISDIR(move.entry.kind) - stat.S_ISDIR(other.kind)
    if move.new_parent != move.parent:
        if grown > 0:
            check_room_for_subdirectory(move.new_parent, move.target)
        if grown < 0:
            check_room_for_subdirectory(move.parent, move.source)
    move.source.nlink -= grown
    move.target.nlink += grown
    transaction.put(keys.dentry(move.parent, move.name), encode(other))
    transaction.put(keys.dentry(move.new_parent, move.new_name), encode(move.entry))
    _put_moved(transaction, ino, inode, move.parent, move.new_parent, move.new_name, now_ns)
    _put_moved(transaction, other_ino, other_inode, move.new_parent, move.parent, move.name, now_ns)
    _put_parents(transaction, move, now_ns)
    return Renamed(ino, True, exchanged=other_ino)


def _put_moved(
    transaction: Transaction, ino: Ino, inode: Inode, source: Ino, target: Ino, name: bytes, now_ns: int
) -> None:
    inode.parent, inode.name = target, name
    if not inode.is_directory:
        homes.moved(transaction, ino, inode, source, target)
    inode.ctime_ns = now_ns
    put_inode(transaction, ino, inode)


def _put_parents(transaction: Transaction, move: _Move, now_ns: int) -> None:
    move.source.mtime_ns = move.source.ctime_ns = now_ns
    put_inode(transaction, move.parent, move.source)
    if move.new_parent != move.parent:
        move.target.mtime_ns = move.target.ctime_ns = now_ns
        put_inode(transaction, move.new_parent, move.target)
