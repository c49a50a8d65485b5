"""What a batch did to names and inodes, told from its note. Pure.

The order in a batch: names that went, then what moved, then what came, versions, and last what changed in its place.
Who applies them one by one to a map of paths has the tree after the last.
"""

from __future__ import annotations

import enum
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from siltstone.meta import keys
from siltstone.meta.keys import INO_KEY_BYTES
from siltstone.meta.notes import OF_OBJECTS, Note, head_of
from siltstone.meta.records import Dentry, Inode, InodeFlag, Object, Version, decode, decode_dentry, decode_inode
from siltstone.types import Ino

Place = tuple[Ino, bytes]
"""A directory and a name in it."""


class ChangeKind(enum.Enum):
    """What happened."""

    CREATE = "create"
    MKDIR = "mkdir"
    CLONE = "clone"
    """A directory came with all that is in it."""
    PUT = "put"
    LINK = "link"
    RENAME = "rename"
    EXCHANGE = "exchange"
    UNLINK = "unlink"
    RMDIR = "rmdir"
    DELETE = "delete"
    """An object went, for good or behind a delete marker, whose version it then names."""
    VERSION = "version"
    """What was current stays as a version."""
    DELETE_VERSION = "delete_version"
    """A version that was not current went for good, or a delete marker."""
    WRITE = "write"
    ATTRIBUTES = "attributes"


class TreeChange(NamedTuple):
    """One thing that happened. ``place``: where, of what went or moved as it was before; ``target``: where what moved
    is now. ``inode``: as it is afterwards, as it was if it is gone, None where the batch does not say.
    ``replaced``: what had the name before."""

    kind: ChangeKind
    ino: Ino
    file_type: int
    inode: Inode | None
    place: Place
    target: Place | None = None
    replaced: Ino | None = None
    version_id: str | None = None

    @property
    def is_before(self) -> bool:
        """Whether ``place`` is where something was."""
        return self.kind in _OF_WHAT_WAS


_OF_WHAT_WAS = frozenset(
    (
        ChangeKind.RENAME,
        ChangeKind.EXCHANGE,
        ChangeKind.UNLINK,
        ChangeKind.RMDIR,
        ChangeKind.DELETE,
        ChangeKind.VERSION,
        ChangeKind.DELETE_VERSION,
    )
)


def tree_changes(note: Note, batch: Mapping[bytes, bytes | None]) -> list[TreeChange]:
    """What a batch did to names and to inodes that have one. Snapshots that come and go change nothing of a tree."""
    return [change for change in _Reading(note, batch).run() if not _is_of_snapshot(change.inode)]


def _is_of_snapshot(inode: Inode | None) -> bool:
    return inode is not None and bool(inode.flags & InodeFlag.SNAPSHOT)


def quick_change(batch: Mapping[bytes, bytes | None]) -> tuple[bool, Ino, Inode, Place] | None:
    """Of a batch that made a regular file, or changed the bytes of one, and did nothing else that is told: whether it
    was made, the inode as it is, and its place. None of any other, and where the place is not known."""
    value = batch.get(keys.NOTE)
    if value is None or value[0]:
        return None
    if len(batch) == 5:
        _, own, entry, parent, _ = batch
        if entry[2:3] == keys.DENTRY and own[2:3] == parent[2:3] == keys.INODE and len(value) > head_of(3).size:
            return _quickest_create(batch, value, own, entry, parent)
    noted: list[bytes] = []
    entry = b""
    for key in batch:
        kind = key[2:3]
        if kind == keys.INODE:
            if key[:1] == b"p":
                noted.append(key)
        elif kind == keys.DENTRY:
            if key[:1] == b"p":
                if entry:
                    return None
                entry = key
                noted.append(key)
        elif kind == keys.VERSION:
            return None
    if entry:
        return _quick_create(batch, value, noted, entry) if len(noted) == 3 else None
    return _quick_write(batch, value, noted[0]) if len(noted) == 1 else None


def _quickest_create(
    batch: Mapping[bytes, bytes | None], note: bytes, own: bytes, entry: bytes, parent: bytes
) -> tuple[bool, Ino, Inode, Place] | None:
    """The same of a batch as ``names.create`` makes it: most are."""
    _, before, entry_before, _ = head_of(3).unpack_from(note)
    new, made = batch[entry], batch[own]
    if before != -1 or entry_before != -1 or new is None or made is None or parent[3:] != entry[3:INO_KEY_BYTES]:
        return None
    inode: Inode = decode_inode(made)
    ino = keys.inode_ino(own)
    if not inode.is_file or decode_dentry(new).ino != ino:
        return None
    return True, ino, inode, (keys.inode_ino(entry), entry[INO_KEY_BYTES:])


def _quick_create(
    batch: Mapping[bytes, bytes | None], note: bytes, noted: list[bytes], entry: bytes
) -> tuple[bool, Ino, Inode, Place] | None:
    _, *lengths = head_of(3).unpack_from(note)
    parent, new = keys.inode_ino(entry), batch[entry]
    if new is None or lengths[noted.index(entry)] != -1:
        return None
    ino = Ino(decode_dentry(new).ino)
    own = keys.inode(ino)
    if own not in noted or keys.inode(parent) not in noted or lengths[noted.index(own)] != -1:
        return None
    made = batch[own]
    inode: Inode | None = None if made is None else decode_inode(made)
    if inode is None or not inode.is_file:
        return None
    return True, ino, inode, (parent, keys.dentry_name(entry))


def _quick_write(batch: Mapping[bytes, bytes | None], note: bytes, key: bytes) -> tuple[bool, Ino, Inode, Place] | None:
    new = batch[key]
    if new is None or len(note) == head_of(1).size:
        return None
    before, after = decode_inode(note[head_of(1).size :]), decode_inode(new)
    if not after.is_file or not after.nlink or not after.name or after.version == before.version:
        return None
    return False, keys.inode_ino(key), after, (Ino(after.parent), after.name)


class _Reading:
    def __init__(self, note: Note, batch: Mapping[bytes, bytes | None]) -> None:
        self._batch = batch
        self._is_of_objects = bool(note.flags & OF_OBJECTS)
        self._inodes: dict[Ino, tuple[bytes | None, bytes | None]] = {}
        self._versions: list[tuple[bytes, Version | None, Version | None]] = []
        self._went: dict[Ino, list[tuple[Place, int]]] = {}
        self._came: list[tuple[Ino, int, Place, Ino | None]] = []
        self._directories: set[Ino] = set()
        """Those whose entries changed."""
        for key, old, new in note.changes:
            kind = key[2:3]
            if kind == keys.INODE:
                self._inodes[keys.inode_ino(key)] = old, new
            elif kind == keys.VERSION:
                if keys.is_version(key):
                    before = None if old is None else decode(Version, old)
                    self._versions.append((key, before, None if new is None else decode(Version, new)))
            elif old != new:
                self._take_entry(key, old, new)

    def _take_entry(self, key: bytes, old: bytes | None, new: bytes | None) -> None:
        place = (keys.inode_ino(key), keys.dentry_name(key))
        self._directories.add(place[0])
        before: Dentry | None = None if old is None else decode_dentry(old)
        after: Dentry | None = None if new is None else decode_dentry(new)
        if before is not None and (after is None or after.ino != before.ino):
            self._went.setdefault(Ino(before.ino), []).append((place, before.kind))
        if after is not None and (before is None or after.ino != before.ino):
            replaced = None if before is None else Ino(before.ino)
            self._came.append((Ino(after.ino), after.kind, place, replaced))

    def run(self) -> Iterator[TreeChange]:
        """All of them, in order."""
        arrived = {place for _, _, place, _ in self._came}
        kept = {version.ino for _, old, version in self._versions if old is None and version is not None}
        moved: list[TreeChange] = []
        came: list[TreeChange] = []
        for ino, kind, place, replaced in self._came:
            sources = self._went.get(ino)
            if sources:
                source, _ = sources.pop()
                moved.append(TreeChange(ChangeKind.RENAME, ino, kind, self._inode(ino), source, place, replaced))
            else:
                came.append(self._arrival(ino, kind, place, replaced))
        for ino, places in self._went.items():
            for place, kind in places:
                if place not in arrived and ino not in kept:
                    yield TreeChange(self._departure(kind), ino, kind, self._inode(ino), place)
        yield from _exchanges(moved)
        yield from came
        yield from self._version_changes()
        yield from self._changes_in_place({change.ino for change in (*moved, *came)})

    def _departure(self, kind: int) -> ChangeKind:
        if stat.S_ISDIR(kind):
            return ChangeKind.RMDIR
        return ChangeKind.DELETE if self._is_of_objects else ChangeKind.UNLINK

    def _arrival(self, ino: Ino, kind: int, place: Place, replaced: Ino | None) -> TreeChange:
        inode = self._inode(ino)
        if self._is_of_objects and stat.S_ISREG(kind):
            record = self._batch.get(keys.object_(ino))
            version_id = decode(Object, record).version_id if record else ""
            return TreeChange(ChangeKind.PUT, ino, kind, inode, place, None, replaced, version_id or None)
        old = self._inodes.get(ino, (None, None))[0]
        before = None if old is None else decode_inode(old)
        what = ChangeKind.CREATE
        if stat.S_ISDIR(kind):
            what = ChangeKind.MKDIR if before is None else ChangeKind.CLONE
        elif before is not None and before.nlink:
            what = ChangeKind.LINK
        return TreeChange(what, ino, kind, inode, place, None, replaced)

    def _version_changes(self) -> Iterator[TreeChange]:
        came = {ino for ino, _, _, _ in self._came}
        for key, old, new in self._versions:
            place = (keys.inode_ino(key), keys.version_name(key))
            if new is not None and old is None:
                what = ChangeKind.VERSION if new.ino else ChangeKind.DELETE
                yield self._version_change(what, new, place)
            elif new is None and old is not None and Ino(old.ino) not in came:
                yield self._version_change(ChangeKind.DELETE_VERSION, old, place)

    def _version_change(self, what: ChangeKind, version: Version, place: Place) -> TreeChange:
        ino = Ino(version.ino)
        return TreeChange(what, ino, stat.S_IFREG, self._inode(ino), place, version_id=version.version_id)

    def _changes_in_place(self, told: set[Ino]) -> Iterator[TreeChange]:
        for ino, (old, new) in self._inodes.items():
            if old is None or new is None or old == new or ino in told or ino in self._directories:
                continue
            before, after = decode_inode(old), decode_inode(new)
            place = (Ino(after.parent), after.name)
            if not after.nlink or not after.name:
                continue
            if not after.is_directory and (after.version != before.version or after.size != before.size):
                yield TreeChange(ChangeKind.WRITE, ino, stat.S_IFMT(after.mode), after, place)
            elif _fixed(after) == _fixed(before) and (_shown(after) != _shown(before) or self._has_news(ino)):
                yield TreeChange(ChangeKind.ATTRIBUTES, ino, stat.S_IFMT(after.mode), after, place)

    def _has_news(self, ino: Ino) -> bool:
        """Whether extended attributes, or what S3 knows of it, changed."""
        xattrs = keys.xattrs(ino)
        return keys.object_(ino) in self._batch or any(key.startswith(xattrs) for key in self._batch)

    def _inode(self, ino: Ino) -> Inode | None:
        old, new = self._inodes.get(ino, (None, None))
        if new is not None:
            return decode_inode(new)
        inode = None if old is None else decode_inode(old)
        if inode is not None:
            inode.nlink = 0
        return inode


def _fixed(inode: Inode) -> tuple[int, int, bytes]:
    """What changes with the names of an inode."""
    return inode.nlink, inode.parent, inode.name


def _shown(inode: Inode) -> tuple[int, ...]:
    """What else a change of attributes changes; to have been read is none."""
    return inode.mode, inode.uid, inode.gid, inode.flags, inode.mtime_ns, inode.ctime_ns


def _exchanges(moved: list[TreeChange]) -> Iterator[TreeChange]:
    """Two that changed places are one change."""
    by_source = {change.place: change for change in moved}
    told: set[Ino] = set()
    for change in moved:
        if change.ino in told or change.target is None:
            continue
        other = by_source.get(change.target)
        if other is not None and other.target == change.place and other is not change:
            told.add(other.ino)
            yield change._replace(kind=ChangeKind.EXCHANGE, replaced=other.ino)
        else:
            yield change
