"""Keys of objects as paths below their bucket's directory, and the directories that a key needs or leaves behind."""

from __future__ import annotations

from typing import NamedTuple

from siltstone.core.places import Start
from siltstone.core.types import EntryChanged
from siltstone.errors import InvalidArgument, IsADirectory, NameTooLong, NotADirectory
from siltstone.limits import KEY_BYTES_MAX, NAME_BYTES_MAX
from siltstone.meta import inodes, names
from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.records import Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


class KeyPath(NamedTuple):
    """A key taken apart: the directory that holds its entry, as a path below the bucket (empty: the bucket itself), and
    the entry's name. ``is_directory``: it ends in a slash and names a directory itself."""

    directory: bytes
    name: bytes
    is_directory: bool


class Place(NamedTuple):
    """Where a key's entry is: in which directory, and the inode that it leads to."""

    parent: Ino
    ino: Ino
    inode: Inode


def split_key(key: bytes) -> KeyPath:
    """Take a key apart. Raises InvalidArgument or NameTooLong for keys that have no place in the tree."""
    if not key:
        raise InvalidArgument("the key is empty")
    if len(key) > KEY_BYTES_MAX:
        raise NameTooLong(f"the key has {len(key)} bytes, at most {KEY_BYTES_MAX} are possible")
    is_directory = key.endswith(b"/")
    path = key[:-1] if is_directory else key
    # Looked at as a whole, and not an element at a time: this is on the way of every request.
    framed = b"/%b/" % path
    if b"//" in framed or b"/./" in framed or b"/../" in framed:
        wrong = next(part for part in path.split(b"/") if part in (b"", b".", b".."))
        raise InvalidArgument(f"the key has the path element {wrong!r}, which has no place in the mounted tree")
    if b"\0" in path:
        raise InvalidArgument("the key holds a zero byte")
    if len(path) > NAME_BYTES_MAX and (longest := max(map(len, path.split(b"/")))) > NAME_BYTES_MAX:
        raise NameTooLong(f"a path element of the key has {longest} bytes, at most {NAME_BYTES_MAX} are possible")
    directory, _, name = path.rpartition(b"/")
    return KeyPath(directory, name, is_directory)


def find(store: Reader, index: DirectoryIndex, start: Start, path: KeyPath) -> Place | None:
    """Where a key's entry is in the committed state, None if it has none. ``start``: of the way to its directory."""
    parent, missing = find_directory(store, index, start.directory, start.rest)
    entry = None if missing else names.get_dentry(store, parent, path.name)
    if entry is None:
        return None
    ino = Ino(entry.ino)
    return Place(parent, ino, inodes.get_inode(store, ino))


def is_object(path: KeyPath, inode: Inode | None) -> bool:
    """Whether what was found at a key's place is an object of that key."""
    if inode is None:
        return False
    if path.is_directory:
        return inode.is_directory and bool(inode.flags & InodeFlag.HAS_OBJECT)
    return inode.is_file


def make_directories(
    transaction: Transaction, parent: Ino, missing: bytes, key: bytes, now_ns: int
) -> list[EntryChanged]:
    """Make the directories on a key's way that are not there: the path ``missing`` in the directory ``parent``, whose
    owner they get.

    Returns the entries that were made, from the top downwards. Raises NotADirectory when the first is an object.
    """
    owner = inodes.get_inode(transaction, parent)
    made: list[EntryChanged] = []
    for name in missing.split(b"/"):
        if names.get_dentry(transaction, parent, name) is not None:
            raise NotADirectory(f"{name!r} in the key {key!r} is an object; objects cannot be below it")
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
        made.append(EntryChanged(parent, name, ino, False))
        parent = ino
    return made


def check_replaceable(path: KeyPath, inode: Inode | None, key: bytes) -> None:
    """Raise if what is at a key's place cannot be replaced by an object of that key."""
    if inode is not None and inode.is_directory and not path.is_directory:
        raise IsADirectory(f"{key!r} is a directory: keys below it exist, or the mount made it")
    if inode is not None and not inode.is_directory and path.is_directory:
        raise NotADirectory(f"{key!r} is an object, not a directory")


def prune(transaction: Transaction, directory: Ino, path: bytes, now_ns: int) -> tuple[list[EntryChanged], list[Ino]]:
    """Remove directories that keys had made and that are empty now: ``directory``, which is at ``path`` below its
    bucket, and upwards from it. The bucket (an empty path) stays.

    Returns the entries that went and the inodes that are orphans from now on.
    """
    gone: list[EntryChanged] = []
    orphans: list[Ino] = []
    while path:
        inode = inodes.get_inode(transaction, directory)
        if inode.size or not inode.flags & InodeFlag.IMPLICIT or inode.flags & InodeFlag.HAS_OBJECT:
            break
        path, _, name = path.rpartition(b"/")
        above = Ino(inode.parent)
        entry = names.get_dentry(transaction, above, name)
        if entry is None or entry.ino != directory:
            break  # the mount has moved it since the path was looked up
        names.rmdir(transaction, above, name, now_ns=now_ns)
        gone.append(EntryChanged(above, name, directory, True))
        orphans.append(directory)
        directory = above
    return gone, orphans
