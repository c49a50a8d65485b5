"""Where directories are, or were, at one position of the feed.

What is asked for is looked up in the store, which is ahead of that position: a directory that has moved or gone since
is where the first of the later batches says that it was. What is found is kept, and follows the feed's changes.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping

from siltstone.meta import keys, names
from siltstone.meta.changes import ChangeKind, Place, TreeChange
from siltstone.meta.notes import read_note
from siltstone.meta.records import Inode, decode_inode
from siltstone.meta.store.port import Reader
from siltstone.types import ROOT_INO, Ino, Lsn

DIRECTORIES_MAX = 100_000
"""Places that are kept; then all are forgotten, and looked up anew."""


class Relocations:
    """What directories were before batches that moved or removed them."""

    def __init__(self) -> None:
        self._before: dict[Ino, list[tuple[Lsn, Inode]]] = {}

    def add(self, end_lsn: Lsn, batch: Mapping[bytes, bytes | None]) -> None:
        """Take in the next batch. Raises FormatInvalid."""
        note = read_note(batch)
        for key, old, new in () if note is None else note.changes:
            if key[2:3] != keys.INODE or old is None:
                continue
            before = decode_inode(old)
            if not before.is_directory:
                continue
            after = None if new is None else decode_inode(new)
            if after is None or (after.parent, after.name, after.nlink == 0) != (before.parent, before.name, False):
                self._before.setdefault(keys.inode_ino(key), []).append((end_lsn, before))

    def at(self, ino: Ino, lsn: Lsn) -> Inode | None:
        """The directory as it was at an LSN, if it was moved or removed since."""
        return next((inode for end_lsn, inode in self._before.get(ino, ()) if end_lsn > lsn), None)


class Places:
    """See the module. ``earlier``: what a directory was, if later batches changed it."""

    def __init__(self, reader: Reader, earlier: Callable[[Ino], Inode | None]) -> None:
        self._reader = reader
        self._earlier = earlier
        self._places: dict[Ino, Place | None] = {}
        self._paths: dict[Ino, bytes | None] = {ROOT_INO: b""}

    def path(self, place: Place) -> bytes | None:
        """The path of a name in a directory, from the root on, with a slash before each name; None where the directory
        has no path: a clone that is being made, or what is left of one."""
        above = self._path_of(place[0])
        return None if above is None else above + b"/" + place[1]

    def take(self, changes: list[TreeChange]) -> None:
        """What a batch did is so from now on."""
        for change in changes:
            ino = change.ino
            if change.kind is ChangeKind.EXCHANGE and change.target is not None and change.replaced is not None:
                # Either of the two may be a directory.
                self._paths = {ROOT_INO: b""}
                self._places |= {ino: change.target, change.replaced: change.place}
                continue
            if not stat.S_ISDIR(change.file_type) or change.kind is ChangeKind.ATTRIBUTES:
                continue
            if change.target is not None:
                # The paths of all that is below it are others.
                self._paths = {ROOT_INO: b""}
                self._places[ino] = change.target
            elif change.kind is ChangeKind.RMDIR:
                self._places.pop(ino, None)
                self._paths.pop(ino, None)
            else:
                if change.kind is ChangeKind.CLONE:
                    self._paths = {ROOT_INO: b""}
                self._places[ino] = change.place
            if change.replaced is not None and change.kind is ChangeKind.RENAME:
                self._places.pop(change.replaced, None)
                self._paths.pop(change.replaced, None)
        if len(self._places) > DIRECTORIES_MAX:
            self._places.clear()
            self._paths = {ROOT_INO: b""}

    def _path_of(self, directory: Ino) -> bytes | None:
        found = self._paths.get(directory)
        if found is not None or directory in self._paths:
            return found
        place = self._place_of(directory)
        path = None if place is None else self.path(place)
        if place is not None:
            self._paths[directory] = path
        return path

    def _place_of(self, directory: Ino) -> Place | None:
        if directory in self._places:
            return self._places[directory]
        inode = self._earlier(directory)
        if inode is None:
            value = self._reader.get(keys.inode(directory))
            inode = None if value is None else decode_inode(value)
        name = None if inode is None else names.name_of(self._reader, directory, inode)
        place = None if inode is None or name is None else (Ino(inode.parent), name)
        self._places[directory] = place
        return place
