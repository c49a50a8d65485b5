"""Keys in S3's byte order, as a merge over the tree: never a sort of everything, and never a walk of what is folded.

Names in a directory are stored in byte order, but a directory ``a`` stands for keys that begin with ``a/``, which sort
behind ``a!`` and ``a.txt``. So a directory that the walk meets waits in a heap until the names have passed ``name/``.

A page is made in steps, between which others run. A step begins where the last one ended, by key, so what is changed
meanwhile does no harm.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import trio

from siltstone.core.object_types import Listing, ObjectInfo, object_info
from siltstone.core.volume import Volume
from siltstone.limits import KEY_BYTES_MAX
from siltstone.meta import inodes, keys, names, objects
from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.records import Dentry, Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.types import Ino

Seen = Callable[[Ino, Inode], Inode]
"""Lays over a record what is written but not yet committed."""

PAGE_NAMES_MIN = 16
PAGE_NAMES_MAX = 256
"""Names read from a directory at a time: few at first, as of a directory that is folded only one is wanted."""

EXPECTED_ENTRIES = 16
"""Entries of which all that is wanted of other shards is fetched at a time."""

STEP_KEYS = 250
STEP_FOLDS = 50
"""Keys, and folded directories (for which another directory is opened), that one step takes: about a millisecond."""


async def list_keys(
    volume: Volume,
    bucket: Ino,
    turn: trio.Lock,
    *,
    prefix: bytes,
    delimiter: bytes,
    start_after: bytes,
    limit: int,
) -> Listing:
    """Up to ``limit`` keys and common prefixes with ``prefix``, behind ``start_after``.

    A key in which ``delimiter`` comes after the prefix is folded into the part up to and with it. A ``start_after``
    that is such a folded part excludes all that it folds. ``turn`` is held for a step: however many lists are under
    way, the event loop does one step at a time.
    """
    lower = start_after + b"\0" if start_after else b""
    if start_after and _fold(start_after, prefix, delimiter) == start_after:
        lower = _behind(start_after)
    lower = max(lower, prefix)
    entries: list[ObjectInfo] = []
    prefixes: list[bytes] = []
    last = start_after
    while True:
        async with turn:
            left = limit - len(entries) - len(prefixes)
            step = await volume.ledger.look(
                partial(
                    _list_step,
                    index=volume.directories,
                    seen=volume.seen,
                    bucket=bucket,
                    prefix=prefix,
                    delimiter=delimiter,
                    lower=lower,
                    limit=left,
                ),
                is_loose=True,
            )
        entries += step.entries
        prefixes += step.prefixes
        last = step.last or last
        if step.is_truncated or step.lower is None:
            return Listing(entries, prefixes, step.is_truncated and limit > 0, last)
        lower = step.lower


class _Step(NamedTuple):
    """``last``: the last key or prefix, empty without any. ``lower``: where the next step begins, None at the end."""

    entries: list[ObjectInfo]
    prefixes: list[bytes]
    is_truncated: bool
    last: bytes
    lower: bytes | None


def _list_step(
    reader: Reader,
    index: DirectoryIndex,
    seen: Seen,
    bucket: Ino,
    prefix: bytes,
    delimiter: bytes,
    lower: bytes,
    limit: int,
) -> _Step:
    """The next keys and prefixes, ``limit`` at the most and not more than a step may take. Plain."""
    entries: list[ObjectInfo] = []
    prefixes: list[bytes] = []
    last = b""
    visits_left = STEP_KEYS
    walk = _Walk(reader, index, seen, bucket, prefix, lower)
    for key, ino, inode in walk:
        if inode is not None and len(entries) + len(prefixes) >= limit:
            return _Step(entries, prefixes, True, last, None)
        if visits_left <= 0:
            return _Step(entries, prefixes, False, last, key)
        if inode is None:
            visits_left -= STEP_KEYS // STEP_FOLDS
            continue
        visits_left -= 1
        folded = _fold(key, prefix, delimiter)
        if folded is None:
            entries.append(object_info(key, ino, inode, objects.get_object(reader, ino, inode)))
            last = key
        else:
            prefixes.append(folded)
            last = folded
            walk.skip_to(_behind(folded))
    return _Step(entries, prefixes, False, last, None)


def _fold(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    if not delimiter or not key.startswith(prefix):
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


def _behind(folded: bytes) -> bytes:
    """The smallest key, or none at all, behind those that begin with ``folded``."""
    return keys.after(folded) if folded.strip(b"\xff") else b"\xff" * (KEY_BYTES_MAX + 1)


class _Directory:
    """A directory that is being walked. ``path`` is empty or ends in a slash; every key below begins with it."""

    __slots__ = ("ino", "name", "names", "path", "waiting")

    def __init__(self, reader: Reader, ino: Ino, path: bytes, prefix: bytes, lower: bytes) -> None:
        self.ino = ino
        self.path = path
        self.names = _names(reader, ino, path, prefix, lower)
        self.name = next(self.names, None)
        """The entry that comes next, None behind the last."""
        self.waiting = [(name + b"/", ino) for name, ino in _earlier_directories(reader, ino, path, lower)]
        """Directories whose keys come when the names have passed them."""
        heapq.heapify(self.waiting)


class _Walk:
    """The keys of a bucket that have ``prefix`` and are at least ``lower``, in order, with their inodes.

    Between them, with None for the inode, are directories about to be opened and entries that are no keys: nothing
    from that key on was seen yet, so that a walk can be ended there and begun again.
    """

    def __init__(
        self, reader: Reader, index: DirectoryIndex, seen: Seen, bucket: Ino, prefix: bytes, lower: bytes
    ) -> None:
        self._seen = seen
        self._reader = reader
        self._prefix = prefix
        self._lower = self._begun = lower
        self._stack: list[_Directory] = []
        # It begins right above what the prefix names last, however deep that is: nothing outside has the prefix.
        directory = prefix[:-1].rpartition(b"/")[0]
        path = directory and directory + b"/"
        ino, missing = find_directory(reader, index, bucket, directory)
        if not missing and lower.startswith(path):
            self._stack.append(_Directory(reader, ino, path, prefix, lower))

    def skip_to(self, lower: bytes) -> None:
        """Go on at ``lower``, which is behind everything that was seen."""
        self._lower = lower
        while self._stack and self._stack[-1].path and keys.after(self._stack[-1].path) <= lower:
            self._stack.pop()
        if not self._stack:
            return
        top = self._stack[-1]
        if top.name is not None and top.path + top.name[0] < lower:
            top.names = _names(self._reader, top.ino, top.path, self._prefix, lower)
            top.name = next(top.names, None)

    def __iter__(self) -> Iterator[tuple[bytes, Ino, Inode | None]]:
        while self._stack:
            top = self._stack[-1]
            if top.waiting and (top.name is None or top.waiting[0][0] < top.name[0]):
                name, ino = heapq.heappop(top.waiting)
                yield from self._enter(top.path + name, ino)
            elif top.name is None:
                self._stack.pop()
            else:
                name, ino, is_directory = top.name
                top.name = next(top.names, None)
                if is_directory:
                    heapq.heappush(top.waiting, (name + b"/", ino))
                else:
                    yield from self._look_at(top.path + name, ino)

    def _enter(self, key: bytes, ino: Ino) -> Iterator[tuple[bytes, Ino, Inode | None]]:
        if not (key.startswith(self._prefix) or self._prefix.startswith(key)) or keys.after(key) <= self._lower:
            return
        if key > self._begun:
            yield key, ino, None
        self._stack.append(_Directory(self._reader, ino, key, self._prefix, self._lower))
        if key >= self._lower and key.startswith(self._prefix):
            inode = inodes.get_inode(self._reader, ino)
            if inode.flags & InodeFlag.HAS_OBJECT:
                yield key, ino, inode

    def _look_at(self, key: bytes, ino: Ino) -> Iterator[tuple[bytes, Ino, Inode | None]]:
        if key >= self._lower and key.startswith(self._prefix):
            inode = inodes.get_inode(self._reader, ino)
            if inode.is_file:
                yield key, ino, self._seen(ino, inode)
            elif key > self._begun:
                yield key, ino, None


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
    limit = PAGE_NAMES_MIN
    while page := names.list_directory(reader, directory, after=after, limit=limit):
        for at, (name, entry) in enumerate(page):
            if not name.startswith(wanted):
                return
            if at % EXPECTED_ENTRIES == 0:
                expect_entries(reader, page[at : at + EXPECTED_ENTRIES])
            yield name, Ino(entry.ino), stat.S_ISDIR(entry.kind)
        if len(page) < limit:
            return
        after = page[-1][0]
        limit = min(4 * limit, PAGE_NAMES_MAX)


def expect_entries(reader: Reader, entries: Sequence[tuple[bytes, Dentry]]) -> None:
    """Have what is wanted of entries fetched together: inodes and objects, and of directories their first entries and
    what is wanted of those."""
    reader.expect(_records(entries))
    reader.expect(
        key
        for _, entry in entries
        if stat.S_ISDIR(entry.kind)
        for key in _records(names.list_directory(reader, Ino(entry.ino), limit=PAGE_NAMES_MIN))
    )


def _records(entries: Iterable[tuple[bytes, Dentry]]) -> Iterator[bytes | tuple[bytes, bytes]]:
    for _, entry in entries:
        ino = Ino(entry.ino)
        yield keys.inode(ino)
        if stat.S_ISDIR(entry.kind):
            yield keys.prefix_range(keys.dentries(ino))
        else:
            yield keys.object_(ino)


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
