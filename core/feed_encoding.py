"""Events of the feed as lines of JSON, encoded once for everybody who gets them."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from siltstone.meta.changes import ChangeKind, Place, TreeChange, quick_change
from siltstone.types import Lsn

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}

_WITH_BYTES = frozenset((ChangeKind.CREATE, ChangeKind.PUT, ChangeKind.LINK, ChangeKind.WRITE))
_WITH_MODE = frozenset((ChangeKind.CREATE, ChangeKind.MKDIR, ChangeKind.CLONE, ChangeKind.PUT, ChangeKind.ATTRIBUTES))


class FeedEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. ``lsn``: the end of the batch that it was in, from which the feed goes on behind it. Times are
    nanoseconds since the epoch. Paths are from the root on; what is no UTF-8 is there in hexadecimal digits, too."""

    lsn: int
    event: str
    path: str
    ino: int
    type: str
    time_ns: int
    more: bool = False
    """Further events have the same LSN: the batch is not over."""
    to: str | None = None
    """Where what moved, or changed places with another, is now."""
    size: int | None = None
    mtime_ns: int | None = None
    """Where it is another than ``time_ns``."""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    links: int | None = None
    """Names that are left."""
    replaced: int | None = None
    """The inode that had the name before; of an exchange the other one."""
    version_id: str | None = None
    is_marker: bool = False
    """A delete marker was made, or went."""
    path_hex: str | None = None
    to_hex: str | None = None


class FeedMark(msgspec.Struct, frozen=True, kw_only=True, tag="mark", tag_field="event"):
    """Nothing happened: all up to this LSN was told."""

    lsn: int


_encode = msgspec.json.Encoder().encode


def encode_mark(lsn: Lsn) -> bytes:
    """The line of a mark."""
    return _encode(FeedMark(lsn=lsn)) + b"\n"


class FeedEncoder:
    """Gathers the lines for each of some paths."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._lines: dict[bytes, list[bytes]] = {path: [] for path in paths}
        self._is_filtered = any(self._lines)
        self._time_ns = 0
        self.size = 0

    def joined(self) -> dict[bytes, bytes]:
        """The lines for each path."""
        return {path: b"".join(lines) for path, lines in self._lines.items()}

    def add(
        self,
        end_lsn: Lsn,
        changes: Sequence[TreeChange],
        before: Sequence[bytes | None],
        path_of: Callable[[Place], bytes | None],
    ) -> None:
        """Add what a batch did. ``before``: the paths of what moved or went, as they were; ``path_of`` says what they
        are now."""
        last = len(changes) - 1
        for at, change in enumerate(changes):
            path = before[at] if change.is_before else path_of(change.place)
            target = None if change.target is None else path_of(change.target)
            if path is None or (change.target is not None and target is None):
                continue
            lists = self._wanted(path, target)
            if lists:
                line = _encode(self._event(end_lsn, change, path, target, at < last)) + b"\n"
                self.size += len(line)
                for lines in lists:
                    lines.append(line)

    def add_quickly(
        self, end_lsn: Lsn, batch: Mapping[bytes, bytes | None], path_of: Callable[[Place], bytes | None]
    ) -> bool:
        """Add what a batch did, if it made a file or wrote to one and did nothing else, which most do: the same line in
        a third of the time. False otherwise; then nothing was added."""
        found = quick_change(batch)
        if found is None:
            return False
        is_create, ino, inode, place = found
        path = path_of(place)
        if path is None:
            return True
        if not _is_plain(path):
            return False
        lists = self._wanted(path, None)
        if not lists:
            return True
        time_ns = self._time_ns = max(inode.ctime_ns, 0)
        if is_create:
            if inode.mtime_ns != time_ns:
                return False
            line = _CREATE % (end_lsn, path, ino, time_ns, inode.size, inode.mode & 0o7777, inode.uid, inode.gid)
        else:
            if inode.mtime_ns != time_ns:
                return False
            line = _WRITE % (end_lsn, path, ino, time_ns, inode.size)
        self.size += len(line)
        for lines in lists:
            lines.append(line)
        return True

    def _wanted(self, path: bytes, target: bytes | None) -> list[list[bytes]]:
        """The lists of paths that these are at or below."""
        if not self._is_filtered:
            return list(self._lines.values())
        wanted = {above: self._lines[above] for above in _with_parents(path) if above in self._lines}
        if target is not None:
            wanted |= {above: self._lines[above] for above in _with_parents(target) if above in self._lines}
        return list(wanted.values())

    def _event(self, lsn: Lsn, change: TreeChange, path: bytes, target: bytes | None, more: bool) -> FeedEvent:
        inode, kind = change.inode, change.kind
        if inode is not None:
            self._time_ns = max(inode.ctime_ns, 0)
        has_bytes = inode is not None and kind in _WITH_BYTES
        has_mode = inode is not None and kind in _WITH_MODE
        has_times = has_bytes or has_mode
        goes = kind in (ChangeKind.UNLINK, ChangeKind.DELETE) and change.version_id is None
        text, path_hex = _text(path)
        to, to_hex = (None, None) if target is None else _text(target)
        return FeedEvent(
            lsn=lsn,
            event=kind.value,
            path=text,
            ino=change.ino,
            type=TYPES.get(change.file_type, "file"),
            time_ns=self._time_ns,
            more=more,
            to=to,
            size=inode.size if has_bytes and inode is not None else None,
            mtime_ns=inode.mtime_ns if has_times and inode is not None and inode.mtime_ns != self._time_ns else None,
            mode=stat.S_IMODE(inode.mode) if has_mode and inode is not None else None,
            uid=inode.uid if has_mode and inode is not None else None,
            gid=inode.gid if has_mode and inode is not None else None,
            links=inode.nlink if goes and inode is not None else None,
            replaced=change.replaced,
            version_id=change.version_id,
            is_marker=change.version_id is not None and not change.ino,
            path_hex=path_hex,
            to_hex=to_hex,
        )


_CREATE = (
    b'{"lsn":%d,"event":"create","path":"%b","ino":%d,"type":"file","time_ns":%d,"size":%d,"mode":%d,'
    b'"uid":%d,"gid":%d}\n'
)
_WRITE = b'{"lsn":%d,"event":"write","path":"%b","ino":%d,"type":"file","time_ns":%d,"size":%d}\n'

_is_plain = re.compile(rb"[ !#-\[\]-~]*").fullmatch
"""Whether JSON has these bytes as they are."""


def _text(path: bytes) -> tuple[str, str | None]:
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return path.decode(errors="replace"), path.hex()


def _with_parents(path: bytes) -> Iterable[bytes]:
    """A path and all above it, the root's empty one too."""
    while path:
        yield path
        path = path[: path.rindex(b"/")]
    yield path
