"""Names: looking up, making, linking and removing directory entries. Renaming is in rename.py.

A directory's ``size`` is the number of its entries, its ``nlink`` 2 plus its subdirectories; its mtime and ctime move
with every change of its entries. A removed directory that is still held has nlink 0, and nothing can be made in it.
Nothing in a snapshot can be changed (ReadOnly); what holds the snapshots of a directory is its entry SNAPSHOTS_NAME,
which no listing shows.
Errors come in Linux's order: the parent, the name, what is there, what may be done with it. All raise before the first
put. Permissions, the sticky bit and symbolic links on the way are the caller's (the kernel's) business.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from itertools import islice

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
from siltstone.meta import counters, homes, keys, versions
from siltstone.meta.inodes import (
    PERMISSION_BITS,
    check_writable,
    find_inode,
    get_directory,
    get_inode,
    get_living_directory,
    mark_orphan,
    partition_for_directory,
    put_inode,
)
from siltstone.meta.records import Dentry, Inode, InodeFlag, Trashed, decode_dentry, encode, file_kind
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, Ino, partition_of

KINDS = frozenset((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFLNK))
"""What ``create`` makes."""

SNAPSHOTS_NAME = b".snapshots"
"""Where the snapshots of a directory are, if it has any."""

_HAS_SNAPSHOTS = int(InodeFlag.HAS_SNAPSHOTS)  # a plain number: looked at by every listing


# --- reading -------------------------------------------------------------------------------------------------------


def get_dentry(reader: Reader, directory: Ino, name: bytes) -> Dentry | None:
    """The entry, or None. Does not look whether the directory is one."""
    value = reader.get(keys.dentry(directory, name))
    if value is None:
        return None
    entry: Dentry = decode_dentry(value)
    return entry


def lookup(reader: Reader, parent: Ino, name: bytes) -> tuple[Ino, Inode]:
    """The inode that a directory holds under a name; "." and ".." are understood.

    Raises NameTooLong, NotFound, NotADirectory.
    """
    value = reader.get(keys.dentry(parent, name))
    if value is not None:
        ino = Ino(decode_dentry(value).ino)
        return ino, get_inode(reader, ino)
    directory = get_directory(reader, parent)
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLong(f"a name of {len(name)} bytes: at most {NAME_BYTES_MAX}")
    if name == b".":
        return parent, directory
    if name == b"..":
        return Ino(directory.parent), get_inode(reader, Ino(directory.parent))
    raise NotFound(f"{name!r} is not in directory {parent}")


def list_directory(reader: Reader, ino: Ino, *, after: bytes | None = None, limit: int) -> list[tuple[bytes, Dentry]]:
    """Up to ``limit`` entries in byte order of their names, behind the name ``after``; without "." and "..", and
    without what holds snapshots.

    Empty when there are no more. Raises NotFound, NotADirectory.
    """
    directory = get_directory(reader, ino)
    start, end = keys.prefix_range(keys.dentries(ino))
    if after is not None:
        start = keys.dentry(ino, after) + b"\0"
    found: Iterable[tuple[bytes, bytes]] = reader.scan(start, end, expected=limit)
    if directory.flags & _HAS_SNAPSHOTS:
        hidden = keys.dentry(ino, SNAPSHOTS_NAME)
        found = (record for record in found if record[0] != hidden)
    return [(keys.dentry_name(key), decode_dentry(value)) for key, value in islice(found, limit)]


def name_of(reader: Reader, ino: Ino, inode: Inode) -> bytes | None:
    """The name of a directory in its parent; looked for if it was made by an older program, which did not note it. None
    if it has none. Raises NotFound, NotADirectory."""
    if not inode.nlink or not inode.parent:
        return None
    if inode.name:
        return inode.name
    after: bytes | None = None
    while entries := list_directory(reader, Ino(inode.parent), after=after, limit=1024):
        for name, entry in entries:
            if entry.ino == ino:
                return name
        after = entries[-1][0]
    return None


def is_hidden(reader: Reader, directory: Ino, name: bytes) -> bool:
    """Whether an entry is what holds snapshots, which no listing shows. Raises NotFound, NotADirectory."""
    if name != SNAPSHOTS_NAME:
        return False
    return bool(get_directory(reader, directory).flags & InodeFlag.HAS_SNAPSHOTS)


def is_empty(reader: Reader, directory: Ino) -> bool:
    """Whether a directory has no entries."""
    return next(iter(reader.scan(*keys.prefix_range(keys.dentries(directory)))), None) is None


def parent_of(reader: Reader, directory: Ino) -> Ino:
    """The directory that holds a directory; the root holds itself. Raises NotFound, NotADirectory."""
    return Ino(get_directory(reader, directory).parent)


def is_ancestor(reader: Reader, ancestor: Ino, directory: Ino) -> bool:
    """Whether ``directory`` is ``ancestor`` or lies below it. Raises NotFound, NotADirectory."""
    while directory != ancestor:
        if directory == ROOT_INO:
            return False
        directory = parent_of(reader, directory)
    return True


# --- making --------------------------------------------------------------------------------------------------------


def check_name(name: bytes) -> None:
    """Raise NameTooLong or InvalidArgument unless an entry may have this name."""
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLong(f"a name of {len(name)} bytes: at most {NAME_BYTES_MAX}")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidArgument(f"{name!r} cannot be the name of an entry")


def create(
    transaction: Transaction,
    parent: Ino,
    name: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    rdev: int = 0,
    target: bytes = b"",
    now_ns: int,
) -> tuple[Ino, Inode]:
    """Make a file, a special file or a symbolic link (to ``target``), of the type that ``mode`` says (none: a file).

    A directory with set-group-id hands its group on. Raises NotFound, NotADirectory, NameTooLong, InvalidArgument,
    AlreadyExists.
    """
    directory = get_living_directory(transaction, parent)
    check_name(name)
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind not in KINDS:
        raise InvalidArgument(f"mode {mode:o} is of no type that can be made here")
    assert kind == stat.S_IFLNK or not target, "only a symbolic link has a target"
    if kind == stat.S_IFLNK:
        check_target(target)
    if transaction.get(keys.dentry(parent, name)) is not None:
        raise AlreadyExists(f"{name!r} is in directory {parent} already")
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
    ino = counters.take_ino(transaction, partition_of(parent))
    inode = Inode(kind | mode & PERMISSION_BITS, 1, uid, gid, len(target), rdev, now_ns, now_ns, now_ns, target=target)
    inode.parent, inode.name, inode.home = parent, name, parent
    put_inode(transaction, ino, inode)
    _enter(transaction, parent, directory, name, ino, inode, now_ns)
    return ino, inode


def check_target(target: bytes) -> None:
    """Raise unless a symbolic link may have this target."""
    if not target:
        raise NotFound("a symbolic link needs a target")
    if len(target) > SYMLINK_BYTES_MAX:
        raise NameTooLong(f"a symbolic link to {len(target)} bytes: at most {SYMLINK_BYTES_MAX}")
    if b"\0" in target:
        raise InvalidArgument("the target of a symbolic link holds a zero byte")


def mkdir(
    transaction: Transaction, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, flags: int = 0, now_ns: int
) -> tuple[Ino, Inode]:
    """Make a directory. ``flags`` are InodeFlag bits that it begins with.

    A parent with set-group-id hands its group and that bit on. Raises NotFound, NotADirectory, NameTooLong,
    InvalidArgument, AlreadyExists, TooManyLinks.
    """
    directory = get_living_directory(transaction, parent)
    check_name(name)
    if transaction.get(keys.dentry(parent, name)) is not None:
        raise AlreadyExists(f"{name!r} is in directory {parent} already")
    check_room_for_subdirectory(parent, directory)
    mode = stat.S_IFDIR | mode & PERMISSION_BITS
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
        mode |= stat.S_ISGID
    ino = counters.take_ino(transaction, partition_for_directory(parent, name))
    inode = Inode(mode, 2, uid, gid, 0, 0, now_ns, now_ns, now_ns, parent=parent, flags=flags, name=name)
    put_inode(transaction, ino, inode)
    directory.nlink += 1
    _enter(transaction, parent, directory, name, ino, inode, now_ns)
    return ino, inode


def check_room_for_subdirectory(ino: Ino, directory: Inode) -> None:
    """Raise TooManyLinks when a directory can hold no further subdirectory."""
    if directory.nlink >= LINK_COUNT_MAX:
        raise TooManyLinks(f"directory {ino} has {directory.nlink} links, no more are possible")


def link(transaction: Transaction, ino: Ino, parent: Ino, name: bytes, *, now_ns: int) -> Inode:
    """Give an inode a further name, or its first one, after which it is no orphan. Returns the inode as it is then.

    Raises NotFound, NotADirectory, NameTooLong, InvalidArgument, AlreadyExists, NotPermitted (a directory),
    TooManyLinks.
    """
    inode = get_inode(transaction, ino)
    directory = get_living_directory(transaction, parent)
    check_name(name)
    if transaction.get(keys.dentry(parent, name)) is not None:
        raise AlreadyExists(f"{name!r} is in directory {parent} already")
    check_writable(ino, inode)
    if inode.is_directory:
        raise NotPermitted(f"inode {ino} is a directory, it can have one name only")
    if inode.nlink >= LINK_COUNT_MAX:
        raise TooManyLinks(f"inode {ino} has {inode.nlink} links, no more are possible")
    if inode.nlink == 0:
        transaction.delete(keys.orphan(ino))
    inode.nlink += 1
    homes.gained(transaction, ino, inode, parent)
    inode.ctime_ns = now_ns
    inode.parent, inode.name = parent, name
    put_inode(transaction, ino, inode)
    _enter(transaction, parent, directory, name, ino, inode, now_ns)
    return inode


def detach(transaction: Transaction, parent: Ino, name: bytes, *, now_ns: int) -> Ino:
    """Take a name away from anything but a directory without counting it: the inode is to be attached again, or kept by
    another record, in the same batch. Raises as ``unlink`` does."""
    directory, entry = _find_for_removal(transaction, parent, name)
    if stat.S_ISDIR(entry.kind):
        raise IsADirectory(f"{name!r} in directory {parent} is a directory")
    _leave(transaction, parent, directory, name, now_ns)
    ino = Ino(entry.ino)
    inode = get_inode(transaction, ino)
    if forget_place(inode, parent, name):
        put_inode(transaction, ino, inode)
    return ino


def attach(transaction: Transaction, ino: Ino, parent: Ino, name: bytes, *, source: Ino, now_ns: int) -> None:
    """Give an inode a name that it counts already, in the directory ``source``. Raises NotFound, NotADirectory,
    NameTooLong, InvalidArgument, AlreadyExists."""
    inode = get_inode(transaction, ino)
    directory = get_living_directory(transaction, parent)
    check_name(name)
    if transaction.get(keys.dentry(parent, name)) is not None:
        raise AlreadyExists(f"{name!r} is in directory {parent} already")
    inode.parent, inode.name = parent, name
    homes.moved(transaction, ino, inode, source, parent)
    put_inode(transaction, ino, inode)
    _enter(transaction, parent, directory, name, ino, inode, now_ns)


def keep_elsewhere(transaction: Transaction, ino: Ino, inode: Inode, source: Ino, target: Ino) -> None:
    """A name, or what counts as one, of a file is in another directory now."""
    if source != target:
        homes.moved(transaction, ino, inode, source, target)
        put_inode(transaction, ino, inode)


def adopt_directory(
    transaction: Transaction,
    ino: Ino,
    inode: Inode,
    parent: Ino,
    name: bytes,
    *,
    subdirectories: int,
    now_ns: int,
) -> None:
    """Give a directory without a name, an orphan, its name; it has so many subdirectories. Raises as ``mkdir`` does."""
    directory = get_living_directory(transaction, parent)
    check_name(name)
    if transaction.get(keys.dentry(parent, name)) is not None:
        raise AlreadyExists(f"{name!r} is in directory {parent} already")
    check_room_for_subdirectory(parent, directory)
    transaction.delete(keys.orphan(ino))
    inode.nlink, inode.parent, inode.name, inode.ctime_ns = 2 + subdirectories, parent, name, now_ns
    put_inode(transaction, ino, inode)
    directory.nlink += 1
    _enter(transaction, parent, directory, name, ino, inode, now_ns)


def take_apart(transaction: Transaction, ino: Ino, *, limit: int, now_ns: int) -> list[tuple[Ino, Inode]]:
    """Take up to ``limit`` entries out of a directory that is an orphan. Returns what lost a name so, as it is then:
    with nlink 0 it is an orphan from now on. Raises NotFound."""
    directory = get_directory(transaction, ino)
    assert directory.nlink == 0, f"directory {ino} has a name"
    entries = list_directory(transaction, ino, limit=limit)
    transaction.expect(keys.inode(Ino(entry.ino)) for _, entry in entries)
    lost: list[tuple[Ino, Inode]] = []
    for name, entry in entries:
        child = Ino(entry.ino)
        inode = find_inode(transaction, child)
        transaction.delete(keys.dentry(ino, name))
        if inode is not None:
            drop_link(transaction, child, inode, now_ns, place=(ino, name), is_for_good=True)
            lost.append((child, inode))
    directory.size -= len(entries)
    assert directory.size >= 0, f"directory {ino} counts fewer than no entries"
    put_inode(transaction, ino, directory)
    return lost


def _enter(
    transaction: Transaction, parent: Ino, directory: Inode, name: bytes, ino: Ino, inode: Inode, now_ns: int
) -> None:
    transaction.put(keys.dentry(parent, name), encode(Dentry(ino, file_kind(inode.mode))))
    directory.size += 1
    directory.mtime_ns = directory.ctime_ns = now_ns
    put_inode(transaction, parent, directory)


# --- removing ------------------------------------------------------------------------------------------------------


def unlink(transaction: Transaction, parent: Ino, name: bytes, *, now_ns: int) -> tuple[Ino, Inode]:
    """Take away a name of anything but a directory. Returns the inode; with nlink 0 it is an orphan from now on.

    Raises NotFound, NotADirectory, NameTooLong, InvalidArgument, IsADirectory.
    """
    directory, entry = _find_for_removal(transaction, parent, name)
    if stat.S_ISDIR(entry.kind):
        raise IsADirectory(f"{name!r} in directory {parent} is a directory")
    ino = Ino(entry.ino)
    inode = get_inode(transaction, ino)
    drop_link(transaction, ino, inode, now_ns, place=(parent, name))
    _leave(transaction, parent, directory, name, now_ns)
    return ino, inode


def rmdir(transaction: Transaction, parent: Ino, name: bytes, *, now_ns: int) -> tuple[Ino, Inode]:
    """Remove an empty directory. Returns its inode, an orphan from now on.

    Raises NotFound, NotADirectory, NameTooLong, InvalidArgument, DirectoryNotEmpty.
    """
    directory, entry = _find_for_removal(transaction, parent, name)
    if not stat.S_ISDIR(entry.kind):
        raise NotADirectory(f"{name!r} in directory {parent} is not a directory")
    ino = Ino(entry.ino)
    inode = get_inode(transaction, ino)
    check_writable(ino, inode)
    check_empty(transaction, ino)
    drop_link(transaction, ino, inode, now_ns, place=(parent, name))
    directory.nlink -= 1
    _leave(transaction, parent, directory, name, now_ns)
    return ino, inode


def check_empty(reader: Reader, directory: Ino) -> None:
    """Raise DirectoryNotEmpty if a directory has entries, or versions of what were its entries."""
    if not is_empty(reader, directory):
        raise DirectoryNotEmpty(f"directory {directory} is not empty")
    if versions.have_any(reader, directory):
        raise DirectoryNotEmpty(f"directory {directory} has versions of objects that were deleted")


def drop_link(
    transaction: Transaction,
    ino: Ino,
    inode: Inode,
    now_ns: int,
    *,
    place: tuple[Ino, bytes] | None,
    is_for_good: bool = False,
    directory: Ino | None = None,
) -> None:
    """Count one name less of an inode; a directory loses its only one. Without names it is an orphan, or in the trash
    if there is one and this is not for good, and keeps the last in mind. ``place``: the name, with its directory; None
    for one that is a version's, of ``directory``, which goes for good."""
    if inode.is_directory:
        inode.nlink = 0
    else:
        inode.nlink -= 1
        assert inode.nlink >= 0, f"inode {ino} lost more names than it had"
        where = directory if place is None else place[0]
        assert where is not None, "a name is in a directory"
        homes.lost(transaction, ino, inode, where)
    inode.ctime_ns = now_ns
    if inode.nlink == 0:
        if transaction.keeps_trash and not is_for_good and place is not None and is_kept(inode):
            transaction.put(keys.trash(ino, max(now_ns, 0)), encode(Trashed(inode.allocated_bytes)))
        else:
            mark_orphan(transaction, ino)
        if place is not None:
            inode.parent, inode.name = place
    elif place is not None:
        forget_place(inode, *place)
    put_inode(transaction, ino, inode)


def is_kept(inode: Inode) -> bool:
    """Whether the trash keeps an inode: no devices and sockets, of which there is but the name."""
    return stat.S_IFMT(inode.mode) in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR)


def forget_place(inode: Inode, parent: Ino, name: bytes) -> bool:
    """An inode has lost a name: whether it was the one that it knows."""
    is_known = (inode.parent, inode.name) == (parent, name)
    if is_known:
        inode.parent, inode.name = 0, b""
    return is_known


def _find_for_removal(transaction: Transaction, parent: Ino, name: bytes) -> tuple[Inode, Dentry]:
    directory = get_directory(transaction, parent)
    check_writable(parent, directory)
    check_name(name)
    entry = get_dentry(transaction, parent, name)
    if entry is None:
        raise NotFound(f"{name!r} is not in directory {parent}")
    return directory, entry


def _leave(transaction: Transaction, parent: Ino, directory: Inode, name: bytes, now_ns: int) -> None:
    transaction.delete(keys.dentry(parent, name))
    directory.size -= 1
    assert directory.size >= 0, f"directory {parent} counts fewer than no entries"
    directory.mtime_ns = directory.ctime_ns = now_ns
    put_inode(transaction, parent, directory)
