"""Keys in S3's byte order, as a merge over the tree: never a sort of everything, and never a walk of what is folded.

Names in a directory are stored in byte order, but a directory ``a`` stands for keys that begin with ``a/``, which sort
behind ``a!`` and ``a.txt``. So a directory that the scan meets waits in a heap until the names have passed ``name/``.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Iterator

from siltstone.core.object_types import Listing, ObjectInfo, object_info
from siltstone.core.volume import Volume
from siltstone.meta import inodes, keys, names, objects
from siltstone.meta.records import Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.types import Ino

PAGE_NAMES = 256
"""Names read from a directory at a time."""


def list_keys(
    volume: Volume, bucket: Ino, *, prefix: bytes, delimiter: bytes, start_after: bytes, limit: int
) -> Listing:
    """Up to ``limit`` keys and common prefixes with ``prefix``, behind ``start_after``.

    A key in which ``delimiter`` comes after the prefix is folded into the part up to and with it. A ``start_after``
    that is such a folded part excludes all that it folds.
    """
    entries: list[ObjectInfo] = []
    prefixes: list[bytes] = []
    last = start_after
    lower = start_after + b"\0" if start_after else b""
    folded = _fold(start_after, prefix, delimiter)
    if folded is not None and folded == start_after:
        lower = keys.after(start_after)
    lower = max(lower, prefix)
    while True:
        for key, ino, inode in _walk(volume, bucket, b"", prefix, lower):
            if len(entries) + len(prefixes) >= limit:
                return Listing(entries, prefixes, limit > 0, last)
            folded = _fold(key, prefix, delimiter)
            if folded is not None:
                prefixes.append(folded)
                last = folded
                lower = keys.after(folded)
                break
            entries.append(object_info(key, ino, inode, objects.get_object(volume.ledger.store, ino, inode)))
            last = key
        else:
            return Listing(entries, prefixes, False, last)


def _fold(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    if not delimiter or not key.startswith(prefix):
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


def _walk(
    volume: Volume, directory: Ino, path: bytes, prefix: bytes, lower: bytes
) -> Iterator[tuple[bytes, Ino, Inode]]:
    """The keys below a directory, whose own path is ``path``, that have ``prefix`` and are at least ``lower``."""
    store = volume.ledger.store
    waiting: list[tuple[bytes, Ino]] = [
        (name + b"/", ino) for name, ino in _earlier_directories(store, directory, path, lower)
    ]
    heapq.heapify(waiting)
    for name, ino, is_directory in _names(store, directory, path, prefix, lower):
        while waiting and waiting[0][0] < name:
            yield from _walk_into(volume, path, heapq.heappop(waiting), prefix, lower)
        if is_directory:
            heapq.heappush(waiting, (name + b"/", ino))
        elif path + name >= lower and (path + name).startswith(prefix):
            inode = inodes.get_inode(store, ino)
            if inode.is_file:
                yield path + name, ino, volume.seen(ino, inode)
    while waiting:
        yield from _walk_into(volume, path, heapq.heappop(waiting), prefix, lower)


def _walk_into(
    volume: Volume, path: bytes, entry: tuple[bytes, Ino], prefix: bytes, lower: bytes
) -> Iterator[tuple[bytes, Ino, Inode]]:
    name, ino = entry
    key = path + name
    if not (key.startswith(prefix) or prefix.startswith(key)) or keys.after(key) <= lower:
        return
    if key >= lower and key.startswith(prefix):
        inode = inodes.get_inode(volume.ledger.store, ino)
        if inode.flags & InodeFlag.HAS_OBJECT:
            yield key, ino, inode
    yield from _walk(volume, ino, key, prefix, lower)


def _names(
    reader: Reader, directory: Ino, path: bytes, prefix: bytes, lower: bytes
) -> Iterator[tuple[bytes, Ino, bool]]:
    """Entries whose keys may have the prefix and reach ``lower``, by name."""
    wanted = prefix[len(path) :] if prefix.startswith(path) else b""
    if b"/" in wanted:
        only = wanted.split(b"/", 1)[0]
        entry = names.get_dentry(reader, directory, only)
        if entry is not None:
            yield only, Ino(entry.ino), stat.S_ISDIR(entry.kind)
        return
    first = lower[len(path) :].split(b"/", 1)[0] if lower.startswith(path) else b""
    first = max(first, wanted)
    if first:
        entry = names.get_dentry(reader, directory, first)
        if entry is not None:
            yield first, Ino(entry.ino), stat.S_ISDIR(entry.kind)
    after: bytes | None = first or None
    while page := names.list_directory(reader, directory, after=after, limit=PAGE_NAMES):
        for name, entry in page:
            if not name.startswith(wanted):
                return
            yield name, Ino(entry.ino), stat.S_ISDIR(entry.kind)
        after = page[-1][0]


def _earlier_directories(reader: Reader, directory: Ino, path: bytes, lower: bytes) -> Iterator[tuple[bytes, Ino]]:
    """Directories whose names sort before the name that ``lower`` begins with, but whose keys reach it.

    ``a`` before ``a.txt``: the keys ``a/...`` are larger. Only a proper beginning of that name can be such a one.
    """
    if not lower.startswith(path):
        return
    first = lower[len(path) :].split(b"/", 1)[0]
    for length in range(1, len(first)):
        if first[length] < ord("/"):
            entry = names.get_dentry(reader, directory, first[:length])
            if entry is not None and stat.S_ISDIR(entry.kind):
                yield first[:length], Ino(entry.ino)
