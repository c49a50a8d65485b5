"""Keys of objects as paths below their bucket's directory, and the directories that a key needs or leaves behind."""

from __future__ import annotations

import stat
from typing import NamedTuple

from siltstone.core.types import EntryChanged
from siltstone.errors import InvalidArgument, IsADirectory, NameTooLong, NotADirectory
from siltstone.limits import KEY_BYTES_MAX, NAME_BYTES_MAX
from siltstone.meta import inodes, names
from siltstone.meta.records import Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


class KeyPath(NamedTuple):
    """A key taken apart. ``is_directory``: it ends in a slash and names a directory itself."""

    directories: tuple[bytes, ...]
    name: bytes
    is_directory: bool


class Place(NamedTuple):
    """Where a key is: the directories on its way (inode of each), and the inode of its entry if there is one.

    ``directories`` is shorter than the key's when one is missing or is not a directory: then nothing is there.
    """

    directories: tuple[Ino, ...]
    ino: Ino | None
    inode: Inode | None


def split_key(key: bytes) -> KeyPath:
    """Take a key apart. Raises InvalidArgument or NameTooLong for keys that have no place in the tree."""
    if not key:
        raise InvalidArgument("the key is empty")
    if len(key) > KEY_BYTES_MAX:
        raise NameTooLong(f"the key has {len(key)} bytes, at most {KEY_BYTES_MAX} are possible")
    is_directory = key.endswith(b"/")
    parts = key[:-1].split(b"/") if is_directory else key.split(b"/")
    for part in parts:
        if part in (b"", b".", b".."):
            raise InvalidArgument(f"the key has the path element {part!r}, which has no place in the mounted tree")
        if b"\0" in part:
            raise InvalidArgument("the key holds a zero byte")
        if len(part) > NAME_BYTES_MAX:
            raise NameTooLong(f"a path element of the key has {len(part)} bytes, at most {NAME_BYTES_MAX} are possible")
    return KeyPath(tuple(parts[:-1]), parts[-1], is_directory)


def find(reader: Reader, bucket: Ino, path: KeyPath) -> Place:
    """Where a key is."""
    parent = bucket
    directories: list[Ino] = []
    for name in path.directories:
        entry = names.get_dentry(reader, parent, name)
        if entry is None or not stat.S_ISDIR(entry.kind):
            return Place(tuple(directories), None, None)
        parent = Ino(entry.ino)
        directories.append(parent)
    entry = names.get_dentry(reader, parent, path.name)
    if entry is None:
        return Place(tuple(directories), None, None)
    return Place(tuple(directories), Ino(entry.ino), inodes.get_inode(reader, Ino(entry.ino)))


def is_object(path: KeyPath, inode: Inode | None) -> bool:
    """Whether what was found at a key's place is an object of that key."""
    if inode is None:
        return False
    if path.is_directory:
        return inode.is_directory and bool(inode.flags & InodeFlag.HAS_OBJECT)
    return inode.is_file


def make_directories(
    transaction: Transaction, bucket: Ino, path: KeyPath, key: bytes, now_ns: int
) -> tuple[Ino, list[EntryChanged]]:
    """The directory that is to hold a key's entry, made where it is missing, and the entries that were made.

    Raises NotADirectory when an element on the way is an object.
    """
    parent = bucket
    made: list[EntryChanged] = []
    owner = inodes.get_inode(transaction, bucket)
    for directory in path.directories:
        entry = names.get_dentry(transaction, parent, directory)
        if entry is None:
            ino, _ = names.mkdir(
                transaction,
                parent,
                directory,
                mode=DIRECTORY_MODE,
                uid=owner.uid,
                gid=owner.gid,
                flags=InodeFlag.IMPLICIT,
                now_ns=now_ns,
            )
            made.append(EntryChanged(parent, directory, ino, False))
        else:
            ino = Ino(entry.ino)
            if not inodes.get_inode(transaction, ino).is_directory:
                raise NotADirectory(f"{directory!r} in the key {key!r} is an object; objects cannot be below it")
        parent = ino
    return parent, made


def check_replaceable(path: KeyPath, inode: Inode | None, key: bytes) -> None:
    """Raise if what is at a key's place cannot be replaced by an object of that key."""
    if inode is not None and inode.is_directory and not path.is_directory:
        raise IsADirectory(f"{key!r} is a directory: keys below it exist, or the mount made it")
    if inode is not None and not inode.is_directory and path.is_directory:
        raise NotADirectory(f"{key!r} is an object, not a directory")


def prune(
    transaction: Transaction, bucket: Ino, path: KeyPath, directories: tuple[Ino, ...], now_ns: int
) -> tuple[list[EntryChanged], list[Ino]]:
    """Remove the directories on a key's way that keys had made and that are empty now, from the last one upwards.

    Returns the entries that went and the inodes that are orphans from now on.
    """
    gone: list[EntryChanged] = []
    orphans: list[Ino] = []
    for depth in range(len(directories) - 1, -1, -1):
        ino = directories[depth]
        inode = inodes.get_inode(transaction, ino)
        if inode.size or not inode.flags & InodeFlag.IMPLICIT or inode.flags & InodeFlag.HAS_OBJECT:
            break
        above = directories[depth - 1] if depth else bucket
        names.rmdir(transaction, above, path.directories[depth], now_ns=now_ns)
        gone.append(EntryChanged(above, path.directories[depth], ino, True))
        orphans.append(ino)
    return gone, orphans
