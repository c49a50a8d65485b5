"""Keys of objects as paths below their bucket's directory, and the directories that a key needs or leaves behind."""

from __future__ import annotations

import stat
from typing import NamedTuple

from siltstone.core.key_names import FINAL, MORE, SELF, encode_path
from siltstone.core.places import Start
from siltstone.core.types import EntryChanged
from siltstone.errors import InvalidArgument, NameTooLong, NotADirectory
from siltstone.limits import KEY_BYTES_MAX
from siltstone.meta import inodes, names, versions
from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.records import Dentry, Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


class KeyPath(NamedTuple):
    """A key taken apart, in names of the tree: the directory that holds its entry, as a path below the bucket (empty:
    the bucket itself), and the entry's name. ``is_directory``: it ends in a slash and names a directory itself, or,
    with bytes, the entry FINAL in that."""

    directory: bytes
    name: bytes
    is_directory: bool


class Place(NamedTuple):
    """Where an object is: in which directory, at which path below the bucket that is, under which name; the inode."""

    parent: Ino
    path: bytes
    name: bytes
    ino: Ino
    inode: Inode


def split_key(key: bytes) -> KeyPath:
    """Take a key apart. Raises InvalidArgument or NameTooLong for what is no key."""
    if not key:
        raise InvalidArgument("the key is empty")
    if len(key) > KEY_BYTES_MAX:
        raise NameTooLong(f"the key has {len(key)} bytes, at most {KEY_BYTES_MAX} are possible")
    is_directory = key.endswith(b"/")
    directory, _, name = encode_path(key[:-1] if is_directory else key).rpartition(b"/")
    return KeyPath(directory, name, is_directory)


def join(directory: bytes, name: bytes) -> bytes:
    """The path of an entry of a directory."""
    return directory + b"/" + name if directory else name


def find(store: Reader, index: DirectoryIndex, start: Start, path: KeyPath) -> Place | None:
    """Where the object of a key is in the committed state, None if there is none. ``start``: of the way to its
    directory."""
    parent, missing = find_directory(store, index, start.directory, start.rest)
    return None if missing else find_in(store, parent, path)


def find_in(reader: Reader, parent: Ino, path: KeyPath) -> Place | None:
    """The same in the directory of the key's entry."""
    entry = names.get_dentry(reader, parent, path.name)
    if entry is None:
        return None
    if not path.is_directory:
        return _object_at(reader, parent, path.directory, path.name, entry)
    if not stat.S_ISDIR(entry.kind):
        return None
    directory = Ino(entry.ino)
    inode = inodes.get_inode(reader, directory)
    if inode.flags & InodeFlag.HAS_OBJECT:
        return Place(parent, path.directory, path.name, directory, inode)
    inner = names.get_dentry(reader, directory, FINAL)
    if inner is None:
        return None
    return _object_at(reader, directory, join(path.directory, path.name), FINAL, inner)


def _object_at(reader: Reader, parent: Ino, path: bytes, name: bytes, entry: Dentry) -> Place | None:
    """What an entry is an object as: itself, or, of a directory, SELF in it."""
    if stat.S_ISDIR(entry.kind):
        parent, path, name = Ino(entry.ino), join(path, name), SELF
        inner = names.get_dentry(reader, parent, SELF)
        if inner is None:
            return None
        entry = inner
    if not stat.S_ISREG(entry.kind):
        return None
    ino = Ino(entry.ino)
    return Place(parent, path, name, ino, inodes.get_inode(reader, ino))


def is_object(path: KeyPath, inode: Inode) -> bool:
    """Whether an inode that a key led to can be an object of that key."""
    return inode.is_file or (path.is_directory and bool(inode.flags & InodeFlag.HAS_OBJECT))


def make_directories(
    transaction: Transaction, parent: Ino, missing: bytes, key: bytes, now_ns: int
) -> tuple[Ino, list[EntryChanged]]:
    """Make the directories on a key's way that are not there: the path ``missing`` in the directory ``parent``, whose
    owner they get. A file that is in the way moves into the first one.

    Returns the last directory, and the entries that were made. Raises NotADirectory when something else is in the way.
    """
    owner = inodes.get_inode(transaction, parent)
    news: list[EntryChanged] = []
    for name in missing.split(b"/"):
        displaced = _take_out(transaction, parent, name, key, now_ns)
        ino, _ = names.mkdir(
            transaction,
            parent,
            name,
            mode=DIRECTORY_MODE,
            uid=owner.uid,
            gid=owner.gid,
            flags=InodeFlag.IMPLICIT,
            now_ns=now_ns,
        )
        news.append(EntryChanged(parent, name, ino, False))
        if displaced is not None:
            names.attach(transaction, displaced, ino, SELF, source=parent, now_ns=now_ns)
            news.append(EntryChanged(ino, SELF, displaced, False))
        parent = ino
    return parent, news


def _take_out(transaction: Transaction, parent: Ino, name: bytes, key: bytes, now_ns: int) -> Ino | None:
    """Free a name for a directory: the file that had it, if any, which is to get another name."""
    entry = names.get_dentry(transaction, parent, name)
    if entry is None:
        return None
    if not stat.S_ISREG(entry.kind) or name.startswith(MORE):
        raise NotADirectory(f"{name!r} on the way of the key {key!r} is no directory, and no object")
    return names.detach(transaction, parent, name, now_ns=now_ns)


def prune(transaction: Transaction, directory: Ino, path: bytes, now_ns: int) -> tuple[list[EntryChanged], list[Ino]]:
    """Remove directories that keys had made and that are empty now: ``directory``, which is at ``path`` below its
    bucket, and upwards from it. The bucket (an empty path) stays. One with nothing but the object of its own key
    becomes that object.

    Returns the entries that changed and the inodes that are orphans from now on.
    """
    news: list[EntryChanged] = []
    orphans: list[Ino] = []
    while path:
        inode = inodes.get_inode(transaction, directory)
        if inode.size > 1 or not inode.flags & InodeFlag.IMPLICIT or inode.flags & InodeFlag.HAS_OBJECT:
            break
        if versions.have_any(transaction, directory):
            break
        path, _, name = path.rpartition(b"/")
        above = Ino(inode.parent)
        entry = names.get_dentry(transaction, above, name)
        if entry is None or entry.ino != directory:
            break  # the mount has moved it since the path was looked up
        own = None
        if inode.size:
            only = names.get_dentry(transaction, directory, SELF)
            if only is None or not stat.S_ISREG(only.kind) or name.startswith(MORE):
                break
            own = names.detach(transaction, directory, SELF, now_ns=now_ns)
            news.append(EntryChanged(directory, SELF, own, True))
        names.rmdir(transaction, above, name, now_ns=now_ns)
        news.append(EntryChanged(above, name, directory, True))
        orphans.append(directory)
        if own is not None:
            names.attach(transaction, own, above, name, source=directory, now_ns=now_ns)
            news.append(EntryChanged(above, name, own, False))
            break
        directory = above
    return news, orphans
