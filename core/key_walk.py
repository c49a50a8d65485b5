"""The keys of a bucket in S3's byte order, as a merge over the tree, from any key on.

Names in a directory are stored in byte order, but a directory ``a`` stands for keys that begin with ``a/``, which sort
behind ``a!`` and ``a.txt``. So a directory that the walk meets waits in a heap until the names have passed ``name/``.
Names that stand for something else (core/key_names.py) are in order among themselves, and are merged with the others.
What is in snapshots is walked only where the prefix leads into them.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from siltstone.core.key_names import (
    CHUNK_BYTES_MIN,
    FINAL,
    MORE,
    SELF,
    WORD,
    decode_name,
    encode_path,
    encode_segment,
    needs_code,
)
from siltstone.limits import KEY_BYTES_MAX
from siltstone.meta import inodes, keys, names, versions
from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.records import Dentry, Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.meta.zero_free import escape, unescape
from siltstone.types import Ino

F = TypeVar("F")

Seen = Callable[[Ino, Inode], Inode]
"""Lays over a record what is written but not yet committed."""

PAGE_NAMES_MIN = 16
PAGE_NAMES_MAX = 256
"""Names read from a directory at a time: few at first, as of a directory that is folded only one is wanted."""

EXPECTED_ENTRIES = 16
"""Entries of which all that is wanted of other shards is fetched at a time."""


def fold(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """The common prefix that a key is folded into, None if it is not."""
    if not delimiter or not key.startswith(prefix):
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


def behind(prefix: bytes) -> bytes:
    """The smallest key, or none at all, behind those that begin with ``prefix``."""
    return keys.after(prefix) if prefix.strip(b"\xff") else b"\xff" * (KEY_BYTES_MAX + 1)


class _Entry(NamedTuple):
    """A name in a directory that is walked. ``ino`` 0: only versions have it. ``part``: what it adds to the directory's
    path, a slash not included.
    ``codes``: the names so far of a long segment that goes on in this directory, else none."""

    part: bytes
    ino: Ino
    is_directory: bool
    name: bytes
    codes: tuple[bytes, ...] = ()


class _Where(NamedTuple):
    """A directory: what all keys below it begin with, and, inside a long segment, its beginning and the names of that.
    Otherwise ``path`` is empty or ends in a slash."""

    ino: Ino
    path: bytes
    begun: bytes = b""
    codes: tuple[bytes, ...] = ()


class _Directory:
    """A directory that is being walked."""

    __slots__ = ("next", "rest", "waiting", "where")

    def __init__(self, reader: Reader, source: Source, where: _Where, prefix: bytes, lower: bytes) -> None:
        self.where = where
        self.begin(reader, source, prefix, lower)
        self.waiting: list[tuple[bytes, Ino, tuple[bytes, ...]]] = [
            (entry.part + b"/", entry.ino, ()) for entry in _earlier_directories(reader, source, where, lower)
        ]
        """Directories whose keys come when the names have passed them."""
        heapq.heapify(self.waiting)

    def begin(self, reader: Reader, source: Source, prefix: bytes, lower: bytes) -> None:
        """Begin with the first entry whose keys may reach ``lower``."""
        self.rest = _entries(reader, source, self.where, prefix, lower)
        self.next = next(self.rest, None)
        """The entry that comes next, None behind the last."""


class Walk(Generic[F]):
    """What a bucket has under keys that have ``prefix`` and are at least ``lower``, in order; what that is is told by a
    subclass. ``with_versions``: names that only versions have, too.

    Between them are pauses, at directories about to be opened and at what is nothing: nothing from that key on was seen
    yet, so that a walk can be ended there and begun again.
    """

    def __init__(
        self,
        reader: Reader,
        index: DirectoryIndex,
        bucket: Ino,
        prefix: bytes,
        lower: bytes,
        *,
        with_versions: bool = False,
    ) -> None:
        self._reader = reader
        self._prefix = prefix
        self._lower = self._begun = lower
        self._source: Source = _all_names if with_versions else _names
        self._stack: list[_Directory] = []
        # It begins right above what the prefix names last, however deep that is: nothing outside has the prefix.
        directory = prefix[:-1].rpartition(b"/")[0]
        path = directory and directory + b"/"
        ino, missing = find_directory(reader, index, bucket, directory and encode_path(directory))
        if not missing and (lower.startswith(path) or path > lower):
            self._stack.append(_Directory(reader, self._source, _Where(ino, path), prefix, lower))

    def _pause(self, key: bytes, ino: Ino) -> F:
        raise NotImplementedError

    def _at_name(self, key: bytes, directory: Ino, name: bytes, ino: Ino) -> Iterator[F]:
        """A name of a directory, and the file that it leads to, 0 for none."""
        raise NotImplementedError

    def _at_directory(self, key: bytes, ino: Ino) -> Iterator[F]:
        """A directory, whose own key this may be."""
        raise NotImplementedError

    def skip_to(self, lower: bytes) -> None:
        """Go on at ``lower``, which is behind everything that was seen."""
        self._lower = lower
        while self._stack and self._stack[-1].where.path and behind(self._stack[-1].where.path) <= lower:
            self._stack.pop()
        if not self._stack:
            return
        top = self._stack[-1]
        if top.next is not None and top.where.path + top.next.part < lower:
            top.begin(self._reader, self._source, self._prefix, lower)

    def __iter__(self) -> Iterator[F]:
        while self._stack:
            top = self._stack[-1]
            if top.waiting and (top.next is None or top.waiting[0][0] < top.next.part):
                part, ino, codes = heapq.heappop(top.waiting)
                begun = top.where.begun + part if codes else b""
                yield from self._enter(_Where(ino, top.where.path + part, begun, codes))
            elif top.next is None:
                self._stack.pop()
            else:
                part, ino, is_directory, name, codes = top.next
                top.next = next(top.rest, None)
                if codes:
                    heapq.heappush(top.waiting, (part, ino, codes))
                    continue
                key = top.where.path + part
                if is_directory:
                    heapq.heappush(top.waiting, (part + b"/", ino, ()))
                if key < self._lower or not key.startswith(self._prefix):
                    continue
                if is_directory:
                    own = names.get_dentry(self._reader, ino, SELF)
                    ino = Ino(own.ino) if own is not None and stat.S_ISREG(own.kind) else Ino(0)
                yield from self._at_name(key, top.where.ino, name, ino)

    def _enter(self, where: _Where) -> Iterator[F]:
        key = where.path
        if not (key.startswith(self._prefix) or self._prefix.startswith(key)) or behind(key) <= self._lower:
            return
        if key > self._begun:
            yield self._pause(key, where.ino)
        self._stack.append(_Directory(self._reader, self._source, where, self._prefix, self._lower))
        if not where.codes and key >= self._lower and key.startswith(self._prefix):
            yield from self._at_directory(key, where.ino)


class KeyWalk(Walk[tuple[bytes, Ino, Inode | None]]):
    """The keys, with their inodes; None in a pause. ``seen``: what lays what is not committed over a record."""

    def __init__(
        self, reader: Reader, index: DirectoryIndex, seen: Seen, bucket: Ino, prefix: bytes, lower: bytes
    ) -> None:
        super().__init__(reader, index, bucket, prefix, lower)
        self._seen = seen

    def _pause(self, key: bytes, ino: Ino) -> tuple[bytes, Ino, Inode | None]:
        return key, ino, None

    def _at_name(self, key: bytes, directory: Ino, name: bytes, ino: Ino) -> Iterator[tuple[bytes, Ino, Inode | None]]:
        if not ino:
            return
        inode = inodes.get_inode(self._reader, ino)
        if inode.is_file:
            yield key, ino, self._seen(ino, inode)
        elif key > self._begun:
            yield key, ino, None

    def _at_directory(self, key: bytes, ino: Ino) -> Iterator[tuple[bytes, Ino, Inode | None]]:
        inode = inodes.get_inode(self._reader, ino)
        if inode.flags & InodeFlag.HAS_OBJECT:
            yield key, ino, inode


# --- the entries of a directory, in the order of their keys ----------------------------------------------------------


def _entries(reader: Reader, source: Source, where: _Where, prefix: bytes, lower: bytes) -> Iterator[_Entry]:
    """Entries whose keys may have the prefix and reach ``lower``, in the order of what they stand for."""
    path = where.path
    wanted = prefix[len(path) :] if prefix.startswith(path) else b""
    if b"/" in wanted:
        return _single(reader, source, where, wanted.split(b"/", 1)[0])
    first = max(_first_part(path, lower), wanted)
    if source is _names and next(iter(reader.scan(*_coded_range(where.ino))), None) is None:
        return iter(()) if where.codes else _plain(reader, source, where.ino, wanted, first)
    streams = [_coded(reader, source, where, wanted, first), _going_on(reader, source, where, wanted, first)]
    if not where.codes:
        streams.append(_uncoded(_plain(reader, source, where.ino, wanted, first)))
    return heapq.merge(*streams, key=lambda entry: entry.part)


def _coded_range(directory: Ino) -> tuple[bytes, bytes]:
    """Where the names of a directory are that may stand for something else."""
    return keys.dentry(directory, MORE), keys.dentry(directory, keys.after(FINAL))


def _first_part(path: bytes, lower: bytes) -> bytes:
    """What the first segment is, or begins with, of the part of ``lower`` that is below a directory."""
    return lower[len(path) :].split(b"/", 1)[0] if lower.startswith(path) else b""


def _single(reader: Reader, source: Source, where: _Where, only: bytes) -> Iterator[_Entry]:
    """The entry for one segment, or for the rest of a long one."""
    depth = len(where.codes)
    code = encode_segment(where.begun + only).split(b"/")
    if tuple(code[:depth]) != where.codes or len(code) == depth:
        return
    name = code[depth]
    entry = names.get_dentry(reader, where.ino, name)
    if entry is None:
        if source is _names or versions.newest(reader, where.ino, name) is None:
            return
        entry = NO_ENTRY
    if len(code) == depth + 1:
        yield _Entry(only, Ino(entry.ino), stat.S_ISDIR(entry.kind), name)
    elif stat.S_ISDIR(entry.kind):
        chunk = unescape(name[len(MORE) :])
        assert chunk is not None
        yield _Entry(chunk, Ino(entry.ino), True, name, tuple(code[: depth + 1]))


def _plain(reader: Reader, source: Source, directory: Ino, wanted: bytes, first: bytes) -> Iterator[_Entry]:
    """All entries as what they are called."""
    for name, entry in source(reader, directory, wanted, first):
        yield _Entry(name, Ino(entry.ino), stat.S_ISDIR(entry.kind), name)


def _uncoded(entries: Iterator[_Entry]) -> Iterator[_Entry]:
    """Without those that are called after something else."""
    return (entry for entry in entries if not entry.part.startswith(WORD) or not needs_code(entry.part))


def _coded(reader: Reader, source: Source, where: _Where, wanted: bytes, first: bytes) -> Iterator[_Entry]:
    """Entries that are the code of a segment, or, inside a long one, of its rest."""
    for name, entry in source(reader, where.ino, FINAL + escape(wanted), FINAL + escape(first)):
        part = unescape(name[len(FINAL) :])
        if where.codes:
            if part is None or encode_segment(where.begun + part) != b"/".join((*where.codes, name)):
                continue
        elif decode_name(name) is None:
            continue
        assert part is not None
        yield _Entry(part, Ino(entry.ino), stat.S_ISDIR(entry.kind), name)


def _going_on(reader: Reader, source: Source, where: _Where, wanted: bytes, first: bytes) -> Iterator[_Entry]:
    """Directories in which a long segment goes on. A short beginning of ``first`` may be one."""
    start = escape(first[:CHUNK_BYTES_MIN])
    for name, entry in source(reader, where.ino, MORE + escape(wanted[:CHUNK_BYTES_MIN]), MORE + start):
        part = unescape(name[len(MORE) :])
        if part is None or not stat.S_ISDIR(entry.kind):
            continue
        if part.startswith(wanted) or wanted.startswith(part):
            yield _Entry(part, Ino(entry.ino), True, name, (*where.codes, name))


def _names(reader: Reader, directory: Ino, wanted: bytes, first: bytes) -> Iterator[tuple[bytes, Dentry]]:
    """Entries that begin with ``wanted``, from ``first`` on, by name."""
    first = max(first, wanted)
    if first:
        entry = names.get_dentry(reader, directory, first)
        if entry is not None and not names.is_hidden(reader, directory, first):
            yield first, entry
    after: bytes | None = first or None
    limit = PAGE_NAMES_MIN
    while page := names.list_directory(reader, directory, after=after, limit=limit):
        for at, (name, entry) in enumerate(page):
            if not name.startswith(wanted):
                return
            if at % EXPECTED_ENTRIES == 0:
                expect_entries(reader, page[at : at + EXPECTED_ENTRIES])
            yield name, entry
        if len(page) < limit:
            return
        after = page[-1][0]
        limit = min(4 * limit, PAGE_NAMES_MAX)


NO_ENTRY = Dentry(0, 0)
"""Of a name that only versions have."""

Source = Callable[[Reader, Ino, bytes, bytes], Iterator[tuple[bytes, Dentry]]]
"""As ``_names``."""


def _all_names(reader: Reader, directory: Ino, wanted: bytes, first: bytes) -> Iterator[tuple[bytes, Dentry]]:
    """The same, and names that only versions have."""
    last: bytes | None = None
    streams = (_names(reader, directory, wanted, first), _names_of_versions(reader, directory, wanted, first))
    for name, entry in heapq.merge(*streams, key=lambda found: found[0]):
        if name != last:
            last = name
            yield name, entry


def _names_of_versions(reader: Reader, directory: Ino, wanted: bytes, first: bytes) -> Iterator[tuple[bytes, Dentry]]:
    name = versions.next_name(reader, directory, max(first, wanted))
    while name is not None and name.startswith(wanted):
        yield name, NO_ENTRY
        name = versions.next_name(reader, directory, name + b"\1")


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
            yield _coded_range(ino)
            yield keys.dentry(ino, SELF)
        else:
            yield keys.object_(ino)


def _earlier_directories(reader: Reader, source: Source, where: _Where, lower: bytes) -> Iterator[_Entry]:
    """Directories whose segments sort before the one that ``lower`` begins with, but whose keys reach it.

    ``a`` before ``a.txt``: the keys ``a/...`` are larger. Only a proper beginning of that segment can be such a one.
    """
    first = _first_part(where.path, lower)
    for length in range(len(first)):
        if first[length] < ord("/") and not names.is_hidden(reader, where.ino, first[:length]):
            for entry in _single(reader, source, where, first[:length]):
                if entry.is_directory and not entry.codes:
                    yield entry
