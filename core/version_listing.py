"""All versions and delete markers of a bucket, by key, and of a key the newest first; in pages that are made in steps,
as those of keys are (core/listing.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import trio

from siltstone.core.key_names import FINAL
from siltstone.core.key_walk import Seen, Walk, behind, fold
from siltstone.core.listing import STEP_FOLDS, STEP_KEYS
from siltstone.core.object_types import ListedVersion, ObjectInfo, VersionListing, object_info
from siltstone.core.volume import Volume
from siltstone.meta import inodes, objects, versions
from siltstone.meta.directories import DirectoryIndex
from siltstone.meta.keys import ORDER_MAX
from siltstone.meta.records import InodeFlag, Version
from siltstone.meta.store.port import Reader
from siltstone.types import Ino


class _Spot(NamedTuple):
    """A key, where its versions are, and its current inode, 0 for none. ``name`` empty: a pause of the walk."""

    key: bytes
    directory: Ino
    name: bytes
    current: Ino


class _VersionWalk(Walk[_Spot]):
    """The keys that have, or may have, versions."""

    _last = b""

    def _pause(self, key: bytes, ino: Ino) -> _Spot:
        return _Spot(key, ino, b"", Ino(0))

    def _at_name(self, key: bytes, directory: Ino, name: bytes, ino: Ino) -> Iterator[_Spot]:
        if key == self._last:
            return  # the directory itself was that key
        if ino and not inodes.get_inode(self._reader, ino).is_file:
            ino = Ino(0)
        if ino or versions.newest(self._reader, directory, name) is not None:
            yield _Spot(key, directory, name, ino)
        elif key > self._begun:
            yield self._pause(key, ino)

    def _at_directory(self, key: bytes, ino: Ino) -> Iterator[_Spot]:
        if inodes.get_inode(self._reader, ino).flags & InodeFlag.HAS_OBJECT:
            self._last = key
            yield _Spot(key, ino, FINAL, ino)


class _Position(NamedTuple):
    """Where a step begins: at a key, behind one of its versions."""

    lower: bytes
    key: bytes = b""
    version: str | None = None


class _Step(NamedTuple):
    """``position``: where the next step begins, None at the end of the page or of all."""

    entries: list[ListedVersion]
    prefixes: list[bytes]
    is_truncated: bool
    last: tuple[bytes, str | None] | None
    position: _Position | None


async def list_versions(
    volume: Volume,
    bucket: Ino,
    turn: trio.Lock,
    *,
    prefix: bytes,
    delimiter: bytes,
    after_key: bytes,
    after_version: str | None,
    limit: int,
) -> VersionListing:
    """Up to ``limit`` versions and common prefixes with ``prefix``, behind a key, or behind a version of a key (empty:
    the null version). What is folded is as in ``list_keys``."""
    if after_version is not None:
        position = _Position(after_key, after_key, after_version)
    elif after_key and fold(after_key, prefix, delimiter) == after_key:
        position = _Position(behind(after_key))
    else:
        position = _Position(after_key + b"\0" if after_key else b"")
    position = position._replace(lower=max(position.lower, prefix))
    entries: list[ListedVersion] = []
    prefixes: list[bytes] = []
    last: tuple[bytes, str | None] = (after_key, after_version)
    while True:
        async with turn:
            step = await volume.ledger.look(
                partial(
                    _list_step,
                    index=volume.directories,
                    seen=volume.seen,
                    bucket=bucket,
                    prefix=prefix,
                    delimiter=delimiter,
                    position=position,
                    limit=limit - len(entries) - len(prefixes),
                ),
                is_loose=True,
            )
        entries += step.entries
        prefixes += step.prefixes
        last = step.last or last
        if step.position is None:
            return VersionListing(entries, prefixes, step.is_truncated and limit > 0, *last)
        position = step.position


def _list_step(
    reader: Reader,
    index: DirectoryIndex,
    seen: Seen,
    bucket: Ino,
    prefix: bytes,
    delimiter: bytes,
    position: _Position,
    limit: int,
) -> _Step:
    """The next versions and prefixes, ``limit`` at the most and not more than a step may take. Plain."""
    entries: list[ListedVersion] = []
    prefixes: list[bytes] = []
    last: tuple[bytes, str | None] | None = None
    visits_left = STEP_KEYS
    walk = _VersionWalk(reader, index, bucket, prefix, position.lower, with_versions=True)
    for spot in walk:
        key = spot.key
        if spot.name and len(entries) + len(prefixes) >= limit:
            return _Step(entries, prefixes, True, last, None)
        if visits_left <= 0:
            return _Step(entries, prefixes, False, last, _Position(key))
        if not spot.name:
            visits_left -= STEP_KEYS // STEP_FOLDS
            continue
        folded = fold(key, prefix, delimiter)
        if folded is not None:
            visits_left -= 1
            prefixes.append(folded)
            last = (folded, None)
            walk.skip_to(behind(folded))
            continue
        after = position.version if key == position.key else None
        for listed in _versions_at(reader, seen, spot, after):
            if len(entries) + len(prefixes) >= limit:
                return _Step(entries, prefixes, True, last, None)
            if visits_left <= 0:
                assert last is not None
                return _Step(entries, prefixes, False, last, _Position(key, *last))
            visits_left -= 1
            entries.append(listed)
            last = (key, listed.info.version_id)
    return _Step(entries, prefixes, False, last, None)


def _versions_at(reader: Reader, seen: Seen, spot: _Spot, after: str | None) -> Iterator[ListedVersion]:
    """The versions of a key, newest first, behind the one with the id ``after``."""
    is_latest = True
    hides_null = False
    below = ORDER_MAX
    made_ns = 0  # of the one before, which replaced the one that comes
    if spot.current:
        inode = inodes.get_inode(reader, spot.current)
        record = objects.get_object(reader, spot.current, inode)
        info = object_info(spot.key, spot.current, seen(spot.current, inode), record)
        hides_null = not info.version_id
        made_ns = versions.order_of(info.version_id) or inode.ctime_ns
        if after is None:
            yield ListedVersion(info, True)
        elif after == info.version_id:
            after = None
        is_latest = False
    if after is not None:
        order = versions.order_of(after) if after else versions.null_order(reader, spot.directory, spot.name)
        if order is not None:
            below = made_ns = order
        is_latest = False
    for order, version in versions.all_of(reader, spot.directory, spot.name, below=below):
        if version.version_id or not hides_null:
            info = _info(reader, spot.key, version)
            yield ListedVersion(info, is_latest, not version.ino, 0 if is_latest else made_ns)
            made_ns = order
        is_latest = False


def _info(reader: Reader, key: bytes, version: Version) -> ObjectInfo:
    ino = Ino(version.ino)
    if not ino:
        return ObjectInfo(
            key=key,
            ino=ino,
            size=0,
            modified_ns=version.modified_ns,
            etag="",
            owner=version.owner,
            version_id=version.version_id,
        )
    inode = inodes.get_inode(reader, ino)
    return object_info(key, ino, inode, objects.get_object(reader, ino, inode))
