"""What happens to a key in the batch that changes it: plain functions on a transaction, versions included.

In a bucket with versions a change leaves what was current as a record of its directory (meta/versions.py), and what
is deleted has a delete marker there; see docs/decisions/0025-versions.md.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from siltstone.core.key_names import FINAL, SELF
from siltstone.core.object_bytes import AnonymousBytes
from siltstone.core.object_locks import apply_edit, check_removable
from siltstone.core.object_paths import FILE_MODE, KeyPath, Place, find_in, join, make_directories, prune
from siltstone.core.object_types import (
    Conditions,
    Deleted,
    Edit,
    Expiry,
    ObjectInfo,
    PutAttributes,
    Versioning,
    object_info,
    object_record,
)
from siltstone.core.orphans import Orphans
from siltstone.core.places import Start
from siltstone.core.types import AttributesChanged, Change, EntryChanged
from siltstone.errors import DeletedObject, IsDeleteMarker, NoSuchVersion, NotADirectory, NotFound, PreconditionFailed
from siltstone.meta import inodes, keys, names, objects, versions
from siltstone.meta.directories import DirectoryIndex, find_directory
from siltstone.meta.notes import OF_OBJECTS
from siltstone.meta.records import InodeFlag, Object, Version
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino


class Changed(NamedTuple):
    """What a batch did. ``lost``: inodes that lost their last name, and whether they were purged with it.
    ``is_directory``: the object is a directory, and the bytes that were to be it, none, are not needed."""

    info: ObjectInfo | None
    deleted: Deleted | None
    news: list[Change]
    lost: list[tuple[Ino, bool]]
    is_directory: bool


class Spot(NamedTuple):
    """Where a key's versions are: a directory, at which path below the bucket it is, and a name in it."""

    directory: Ino
    path: bytes
    name: bytes


def find_spot(reader: Reader, parent: Ino, path: KeyPath) -> Spot | None:
    """Where the versions of a key are, whose entry is in ``parent``; None if there is no such directory."""
    if not path.is_directory:
        return Spot(parent, path.directory, path.name)
    entry = names.get_dentry(reader, parent, path.name)
    if entry is None or not stat.S_ISDIR(entry.kind):
        return None
    return Spot(Ino(entry.ino), join(path.directory, path.name), FINAL)


def look_at(
    reader: Reader, index: DirectoryIndex, start: Start, key: bytes, path: KeyPath, version_id: str | None = None
) -> ObjectInfo:
    """The object of a key, or the version with an id (empty: the null version).

    Raises NotFound, DeletedObject where the newest is a delete marker, NoSuchVersion, IsDeleteMarker.
    """
    parent, missing = find_directory(reader, index, start.directory, start.rest)
    return look_in(reader, None if missing else parent, key, path, version_id)


def look_in(reader: Reader, parent: Ino | None, key: bytes, path: KeyPath, version_id: str | None) -> ObjectInfo:
    """The same in the directory of the key's entry, None where there is none."""
    place = None if parent is None else find_in(reader, parent, path)
    if place is not None:
        record = objects.get_object(reader, place.ino, place.inode)
        if version_id is None or version_of(record) == version_id:
            return object_info(key, place.ino, place.inode, record)
    spot = None if parent is None else find_spot(reader, parent, path)
    if version_id is None:
        check_deleted(reader, parent, path)
        raise NotFound(f"there is no key {key!r}")
    found = None if spot is None else versions.find(reader, spot.directory, spot.name, version_id)
    if found is None:
        raise NoSuchVersion(f"the key {key!r} has no version {version_id or 'null'!r}")
    ino = Ino(found[1].ino)
    if not ino:
        raise IsDeleteMarker(f"the version {version_id or 'null'!r} of the key {key!r} is a delete marker")
    inode = inodes.get_inode(reader, ino)
    return object_info(key, ino, inode, objects.get_object(reader, ino, inode))


def check_deleted(reader: Reader, parent: Ino | None, path: KeyPath) -> None:
    """Raise DeletedObject if the newest version of a key that is no object is a delete marker."""
    spot = None if parent is None else find_spot(reader, parent, path)
    newest = None if spot is None else versions.newest(reader, spot.directory, spot.name)
    if newest is not None and not newest[1].ino:
        raise DeletedObject(newest[1].version_id)


def version_of(record: Object | None) -> str:
    """The id of an object's version; empty for the null version."""
    return "" if record is None else record.version_id


class KeyChange:
    """One change of one key in one batch."""

    def __init__(
        self,
        transaction: Transaction,
        index: DirectoryIndex,
        orphans: Orphans,
        start: Start,
        key: bytes,
        path: KeyPath,
        now_ns: int,
    ) -> None:
        transaction.flags |= OF_OBJECTS
        self._transaction = transaction
        self._orphans = orphans
        self._key = key
        self._path = path
        self._now_ns = now_ns
        self._near, self._missing = find_directory(transaction, index, start.directory, start.rest)
        self._news: list[Change] = []
        self._lost: list[Ino] = []

    def current(self) -> Place | None:
        """The object that the key is now."""
        return None if self._missing else find_in(self._transaction, self._near, self._path)

    def check_deletion(self, current: Place | None, version_id: str | None, conditions: Conditions) -> bool:
        """Raise PreconditionFailed unless what is to be deleted is as ``conditions`` say; whether there is anything,
        an object, a version or a delete marker. Where there is nothing no marker need be made."""
        transaction = self._transaction
        spot = None if self._missing else find_spot(transaction, self._near, self._path)
        found = None
        if current is not None:
            record = objects.get_object(transaction, current.ino, current.inode)
            if version_id is None or version_of(record) == version_id:
                found = object_info(self._key, current.ino, current.inode, record)
        version = None
        if found is None and spot is not None:
            if version_id is None:
                version = versions.newest(transaction, spot.directory, spot.name)
            else:
                version = versions.find(transaction, spot.directory, spot.name, version_id)
            if version is not None and version[1].ino:
                ino = Ino(version[1].ino)
                inode = inodes.get_inode(transaction, ino)
                found = object_info(self._key, ino, inode, objects.get_object(transaction, ino, inode))
        conditions.check_deletion(found, is_marked=version is not None)
        return found is not None or version is not None

    def check_expiry(self, current: Place | None, version_id: str | None, expiry: Expiry) -> None:
        """Raise PreconditionFailed unless the version that is to expire is as it was when that was decided."""
        if not self._is_still(current, version_id, expiry):
            raise PreconditionFailed("what was to expire has changed")

    def _is_still(self, current: Place | None, version_id: str | None, expiry: Expiry) -> bool:
        transaction, spot = self._transaction, None
        if not self._missing:
            spot = find_spot(transaction, self._near, self._path)
        if expiry.is_current and expiry.ino:
            return current is not None and expiry.is_still(self._info(current.ino))
        if spot is None or version_id is None:
            return False
        found = versions.find(transaction, spot.directory, spot.name, version_id)
        if found is None or found[1].ino != expiry.ino:
            return False
        if current is not None:
            record = objects.get_object(transaction, current.ino, current.inode)
            if version_of(record) == version_id:
                return False  # the null version, which a program has written over
        if expiry.ino and not expiry.is_still(self._info(expiry.ino)):
            return False
        newer = 0
        records = versions.all_of(transaction, spot.directory, spot.name)
        if expiry.is_current:
            return current is None and next(records)[0] == found[0] and next(records, None) is None
        if current is None and next(records)[0] == found[0]:
            return False  # it is the newest by now
        for order, _ in records:
            if newer >= expiry.newer or order <= found[0]:
                break
            newer += 1
        return newer >= expiry.newer

    def _info(self, ino: Ino) -> ObjectInfo:
        inode = inodes.get_inode(self._transaction, ino)
        return object_info(self._key, ino, inode, objects.get_object(self._transaction, ino, inode))

    # --- changes ---------------------------------------------------------------------------------------------------

    def put(self, bytes_: AnonymousBytes, attributes: PutAttributes) -> Changed:
        """Let bytes be the object. Raises NotADirectory."""
        transaction, path = self._transaction, self._path
        current = self.current()
        spot = self._make_spot()
        entry = names.get_dentry(transaction, spot.directory, spot.name)
        versioning = attributes.versioning
        if path.is_directory and entry is None and not bytes_.size and versioning is Versioning.OFF:
            info = self._mark_directory(spot.directory, attributes)
            self._news.append(AttributesChanged(spot.directory))
            return self._changed(info, is_directory=True)
        parent, name = spot.directory, spot.name
        if entry is not None and stat.S_ISDIR(entry.kind):
            parent, name = Ino(entry.ino), SELF
            entry = names.get_dentry(transaction, parent, name)
        if entry is not None and not stat.S_ISREG(entry.kind):
            raise NotADirectory(f"at the place of {self._key!r} is something that the mount made, and no file")
        order = 0
        if versioning is not Versioning.OFF:
            order = self._make_way(spot, current, versioning)
        elif current is not None:
            self._remove_current(current, is_replaced=True)
        ino, inode = bytes_.place(transaction, self._near, self._now_ns)
        owner = inodes.get_inode(transaction, parent)
        inode.uid, inode.gid = owner.uid, owner.gid
        inodes.put_inode(transaction, ino, inode)
        inode = names.link(transaction, ino, parent, name, now_ns=self._now_ns)
        inode.mtime_ns = self._now_ns
        self._news.append(EntryChanged(parent, name, ino, False))
        record = object_record(attributes)
        if versioning is Versioning.ON:
            record.version_id = versions.version_id(order, ino)
        if record.lock_mode or record.legal_hold:
            inode.flags |= InodeFlag.HAS_LOCK
        objects.put_object(transaction, ino, inode, record)
        inodes.put_inode(transaction, ino, inode)
        return self._changed(object_info(self._key, ino, inode, record))

    def delete(self, current: Place | None, versioning: Versioning, owner: str) -> Changed | None:
        """Delete the key: for good, or behind a delete marker. None when nothing was there to do."""
        if versioning is Versioning.OFF:
            if current is None:
                return None
            self._remove_current(current)
            self._prune(current)
            return self._changed(None, Deleted(True))
        spot = self._make_spot()
        order = self._make_way(spot, current, versioning)
        identifier = versions.version_id(order, Ino(0)) if versioning is Versioning.ON else ""
        versions.put(self._transaction, spot.directory, spot.name, order, Version(0, identifier, self._now_ns, owner))
        if current is not None:
            self._prune(current)
        return self._changed(None, Deleted(current is not None, identifier, is_marker=True))

    def delete_version(self, current: Place | None, identifier: str, *, may_bypass: bool) -> Changed | None:
        """Delete one version for good; what is the newest then is the object. None when there is no such version.

        Raises NotPermitted for what is locked.
        """
        transaction = self._transaction
        spot = None if self._missing else find_spot(transaction, self._near, self._path)
        if spot is None:
            return None
        if current is not None:
            record = objects.get_object(transaction, current.ino, current.inode)
            if version_of(record) == identifier:
                check_removable(record, self._now_ns, may_bypass=may_bypass)
                self._remove_current(current)
                if not identifier:
                    self._drop_null(spot)
                self._promote(spot)
                self._prune(current)
                return self._changed(None, Deleted(True, identifier))
        found = versions.find(transaction, spot.directory, spot.name, identifier)
        if found is None:
            return None
        order, version = found
        self._drop_version(spot, order, version, may_bypass=may_bypass)
        if current is None:
            self._promote(spot)
        self._prune_at(spot.directory, spot.path)
        return self._changed(None, Deleted(True, identifier, is_marker=not version.ino))

    def edit(self, version_id: str | None, edit: Edit) -> Changed:
        """Change what is kept with a version. Raises as ``look_at`` does, and NotPermitted."""
        transaction = self._transaction
        info = look_in(transaction, None if self._missing else self._near, self._key, self._path, version_id)
        inode = inodes.get_inode(transaction, info.ino)
        inodes.check_writable(info.ino, inode)
        record = objects.get_object(transaction, info.ino, inode) or Object("")
        apply_edit(record, edit, self._now_ns)
        objects.put_object(transaction, info.ino, inode, record)
        if edit.is_of_lock:
            inode.flags |= InodeFlag.HAS_LOCK
        inodes.put_inode(transaction, info.ino, inode)
        return self._changed(object_info(self._key, info.ino, inode, record))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _make_spot(self) -> Spot:
        """Where the key's versions are, with the directories that it needs."""
        transaction, path, parent = self._transaction, self._path, self._near
        if self._missing:
            parent, made = make_directories(transaction, parent, self._missing, self._key, self._now_ns)
            self._news += made
        spot = find_spot(transaction, parent, path)
        if spot is None:
            directory, made = make_directories(transaction, parent, path.name, self._key, self._now_ns)
            self._news += made
            spot = Spot(directory, join(path.directory, path.name), FINAL)
        inodes.check_writable(spot.directory, inodes.get_inode(transaction, spot.directory))
        return spot

    def _make_way(self, spot: Spot, current: Place | None, versioning: Versioning) -> int:
        """Take the current version out of the tree: it stays as a version, unless a null version takes its place.
        Returns the place in the order for what comes."""
        transaction = self._transaction
        newest = versions.newest(transaction, spot.directory, spot.name)
        last = -1 if newest is None else newest[0]
        if current is not None:
            record = objects.get_object(transaction, current.ino, current.inode)
            identifier = version_of(record)
            if identifier or versioning is Versioning.ON:
                order = versions.order_of(identifier)
                if order is None:
                    order = max(last + 1, min(current.inode.mtime_ns, self._now_ns - 1), 0)
                    self._drop_null(spot)
                self._keep(spot, current, order, record)
                last = max(last, order)
            else:
                self._remove_current(current, is_replaced=True)
        if versioning is Versioning.SUSPENDED:
            self._drop_null(spot)
        return max(self._now_ns, last + 1)

    def _keep(self, spot: Spot, current: Place, order: int, record: Object | None) -> None:
        """Let the current version be one that is not."""
        transaction, ino = self._transaction, current.ino
        if current.inode.is_directory:
            assert record is not None, "a directory is an object by its record"
            ino = self._as_file(current, record, spot)
        else:
            names.detach(transaction, current.parent, current.name, now_ns=self._now_ns)
            inode = inodes.get_inode(transaction, ino)
            names.keep_elsewhere(transaction, ino, inode, current.parent, spot.directory)
            self._news.append(EntryChanged(current.parent, current.name, ino, True))
        owner = "" if record is None else record.owner
        version = Version(ino, version_of(record), current.inode.mtime_ns, owner)
        versions.put(transaction, spot.directory, spot.name, order, version)

    def _as_file(self, current: Place, record: Object, spot: Spot) -> Ino:
        """An empty file that is what a directory was as an object."""
        transaction, directory = self._transaction, current.inode
        ino, inode = inodes.create_anonymous(
            transaction,
            current.ino,
            mode=FILE_MODE,
            uid=directory.uid,
            gid=directory.gid,
            now_ns=directory.mtime_ns,
        )
        transaction.delete(keys.orphan(ino))
        inode.nlink, inode.home = 1, spot.directory
        transaction.may_exceed_quotas = True  # a DELETE may need it
        objects.put_object(transaction, ino, inode, record)
        inodes.put_inode(transaction, ino, inode)
        self._unmark_directory(current.ino)
        return ino

    def _remove_current(self, current: Place, *, is_replaced: bool = False) -> None:
        """Take the current version away for good."""
        if current.inode.is_directory:
            self._unmark_directory(current.ino)
            return
        transaction, ino = self._transaction, current.ino
        _, inode = names.unlink(transaction, current.parent, current.name, now_ns=self._now_ns)
        if inode.nlink == 0:
            self._lost.append(ino)
        if not is_replaced:
            self._news.append(EntryChanged(current.parent, current.name, ino, True))
        self._news.append(AttributesChanged(ino))

    def _drop_null(self, spot: Spot) -> None:
        """There is to be no null version but the current one."""
        found = versions.find(self._transaction, spot.directory, spot.name, "")
        if found is not None:
            self._drop_version(spot, *found, may_bypass=False)

    def _drop_version(self, spot: Spot, order: int, version: Version, *, may_bypass: bool) -> None:
        transaction, ino = self._transaction, Ino(version.ino)
        if ino:
            inode = inodes.get_inode(transaction, ino)
            check_removable(objects.get_object(transaction, ino, inode), self._now_ns, may_bypass=may_bypass)
            inodes.check_writable(ino, inode)
            names.drop_link(transaction, ino, inode, self._now_ns, place=None, directory=spot.directory)
            if inode.nlink == 0:
                self._lost.append(ino)
        versions.remove(transaction, spot.directory, spot.name, order, version)

    def _promote(self, spot: Spot) -> None:
        """There is no current version: let the newest be it, if it is no delete marker."""
        transaction = self._transaction
        found = versions.newest(transaction, spot.directory, spot.name)
        if found is None or not found[1].ino:
            return
        order, version = found
        versions.remove(transaction, spot.directory, spot.name, order, version)
        parent, name = spot.directory, spot.name
        entry = names.get_dentry(transaction, parent, name)
        if entry is not None and stat.S_ISDIR(entry.kind):
            parent, name = Ino(entry.ino), SELF
        now_ns = self._now_ns
        names.attach(transaction, Ino(version.ino), parent, name, source=spot.directory, now_ns=now_ns)
        self._news.append(EntryChanged(parent, name, Ino(version.ino), False))

    def _mark_directory(self, ino: Ino, attributes: PutAttributes) -> ObjectInfo:
        """Let a directory be an object without bytes."""
        inode = inodes.get_inode(self._transaction, ino)
        inode.flags &= ~InodeFlag.IMPLICIT
        record = object_record(attributes)
        objects.put_object(self._transaction, ino, inode, record)
        inodes.put_inode(self._transaction, ino, inode)
        return object_info(self._key, ino, inode, record)

    def _unmark_directory(self, ino: Ino) -> None:
        """A directory is no object any more."""
        inode = inodes.get_inode(self._transaction, ino)
        inodes.check_writable(ino, inode)
        objects.drop_object(self._transaction, ino, inode)
        inode.flags |= InodeFlag.IMPLICIT
        inodes.put_inode(self._transaction, ino, inode)

    def _prune(self, current: Place) -> None:
        """Remove the directories that are empty without the current version that is gone."""
        if current.inode.is_directory:
            self._prune_at(current.ino, join(current.path, current.name))
        else:
            self._prune_at(current.parent, current.path)

    def _prune_at(self, directory: Ino, path: bytes) -> None:
        news, orphans = prune(self._transaction, directory, path, self._now_ns)
        self._news += news
        self._lost += orphans

    def _changed(
        self, info: ObjectInfo | None, deleted: Deleted | None = None, *, is_directory: bool = False
    ) -> Changed:
        """The end of a batch's making: what can be purged with it is."""
        lost = [(ino, self._orphans.purge_within(self._transaction, ino)) for ino in self._lost]
        return Changed(info, deleted, self._news, lost, is_directory)
