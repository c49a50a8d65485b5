"""The directory index: which directory a whole path leads to, in one step.

A bounded cache of committed entries that are directories, each under two keys: its path from the top that it was looked
up from (a bucket), which answers, and its dentry's key in the store, by which a batch that changes that entry finds it.
It is told of every batch in the turn in which the batch becomes visible (``Store.watch``), so it never says anything
that the store does not: see docs/decisions/0010-directory-index.md.

When a directory moves, the paths of all that is below it change. They are not sought out, as there may be tens of
thousands: whatever has something below it and goes raises ``_moves``, and an entry that was last looked through before
that climbs to its top once more when it is asked for.

Pure: it knows neither a store nor a log. Who fills it must only ``learn`` what is committed, and pass on every batch.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Final

from siltstone.meta import keys
from siltstone.meta.records import decode_dentry
from siltstone.meta.store.port import Reader
from siltstone.types import Ino

DIRECTORIES_MAX = 65_536
"""Directories that are kept: some 25 MiB (bench/meta.py measures it)."""

_GONE: Final = -1

PathKey = tuple[Ino, bytes]
"""A top, and a path below it: names with single slashes between, none at the ends."""


class IndexedDirectory:
    """A directory that is in the index. ``above`` is what holds it, None right below the top."""

    __slots__ = ("above", "below_count", "checked", "dentry_key", "ino", "is_used", "path_key")

    def __init__(self, ino: Ino, dentry_key: bytes, path_key: PathKey, above: IndexedDirectory | None) -> None:
        self.ino = ino
        self.dentry_key = dentry_key
        self.path_key = path_key
        self.above = above
        self.below_count = 0
        """Entries whose ``above`` this is. None of them is in the index without it."""
        self.checked = _GONE
        """``_moves`` when all above was last seen to be in the index; _GONE when this is not in it."""
        self.is_used = False
        """Asked for since the hand of the clock came by."""


class DirectoryIndex:
    """See the module's text. All methods are plain."""

    def __init__(self, directories_max: int = DIRECTORIES_MAX) -> None:
        assert directories_max > 0
        self._directories_max = directories_max
        self._by_path: dict[PathKey, IndexedDirectory] = {}
        self._by_dentry: dict[bytes, IndexedDirectory] = {}
        self._clock: list[IndexedDirectory] = []
        """All entries, and some that went, in a ring: the hand takes the place of the first that may go."""
        self._hand = 0
        self._moves = 0

    def __len__(self) -> int:
        return len(self._by_path)

    def get(self, top: Ino, path: bytes) -> IndexedDirectory | None:
        """The directory at a path below a top, None when the index does not know."""
        found = self._by_path.get((top, path))
        if found is None or (found.checked != self._moves and not self._still_holds(found)):
            return None
        found.is_used = True
        return found

    def nearest(self, top: Ino, path: bytes) -> IndexedDirectory | None:
        """The deepest directory on the way to a path that the index knows, the path itself left out."""
        end = path.rfind(b"/")
        while end > 0:
            found = self.get(top, path[:end])
            if found is not None:
                return found
            end = path.rfind(b"/", 0, end)
        return None

    def learn(
        self, top: Ino, path: bytes, ino: Ino, dentry_key: bytes, above: IndexedDirectory | None
    ) -> IndexedDirectory | None:
        """Take in a committed entry that is a directory. ``above``: what holds it, just got from here; None: the top.

        Returns it, or None if there is no room, because all that is kept is on the way to it.
        """
        known = self._by_dentry.get(dentry_key)
        if known is not None:
            self._drop(known)  # its path was another one
        learnt = IndexedDirectory(ino, dentry_key, (top, path), above)
        assert learnt.path_key not in self._by_path
        if above is not None:
            above.below_count += 1  # before room is made, so that it stays
        if not self._take_place(learnt):
            if above is not None:
                above.below_count -= 1
            return None
        learnt.checked = self._moves
        self._by_path[learnt.path_key] = self._by_dentry[dentry_key] = learnt
        return learnt

    def forget(self, writes: Mapping[bytes, object]) -> None:
        """A batch that writes these keys is visible from now on: what it says of entries here is news."""
        known = self._by_dentry
        if known.keys().isdisjoint(writes):
            return
        for key in writes:
            found = known.get(key)
            if found is not None:
                self._drop(found)

    def clear(self) -> None:
        """Forget all: some of it is another shard's from now on, whose batches are not heard of here."""
        for entry in self._by_path.values():
            entry.checked, entry.above = _GONE, None
        self._by_path.clear()
        self._by_dentry.clear()
        self._clock.clear()
        self._hand = 0
        self._moves += 1

    def _still_holds(self, found: IndexedDirectory) -> bool:
        """Whether all above an entry is still in the index; what hangs on something that went, goes."""
        way: list[IndexedDirectory] = []
        step: IndexedDirectory | None = found
        while step is not None and step.checked != self._moves:
            if step.checked == _GONE:
                for lost in way:
                    self._drop(lost)
                return False
            way.append(step)
            step = step.above
        for passed in way:
            passed.checked = self._moves
        return True

    def _drop(self, lost: IndexedDirectory) -> None:
        del self._by_path[lost.path_key], self._by_dentry[lost.dentry_key]
        lost.checked = _GONE
        if lost.above is not None:
            lost.above.below_count -= 1
            lost.above = None
        if lost.below_count:
            self._moves += 1

    def _take_place(self, learnt: IndexedDirectory) -> bool:
        """Find a place in the ring, and let go what has it: something unused with nothing below it."""
        ring = self._clock
        if len(ring) < self._directories_max:
            ring.append(learnt)
            return True
        for _ in range(2 * len(ring)):
            hand = self._hand
            self._hand = (hand + 1) % len(ring)
            candidate = ring[hand]
            if candidate.checked != _GONE:
                if candidate.below_count or candidate.is_used:
                    candidate.is_used = False
                    continue
                self._drop(candidate)
            ring[hand] = learnt
            return True
        return False


def find_directory(reader: Reader, index: DirectoryIndex, top: Ino, path: bytes) -> tuple[Ino, bytes]:
    """The deepest directory on a path below ``top``, and what of the path is not there: nothing, if all of it is.

    ``reader`` gives the committed state that the index is told of; a transaction must not have written entries yet.
    What belongs to another shard the index is not told of, and not while others are about to change what is here.
    """
    if not path:
        return top, b""
    is_indexed = reader.is_settled
    above: IndexedDirectory | None = None
    if is_indexed:
        found = index.get(top, path)
        if found is not None:
            return found.ino, b""
        above = index.nearest(top, path)
    parent, end = (top, -1) if above is None else (above.ino, len(above.path_key[1]))
    while end < len(path):
        start = end + 1
        end = path.find(b"/", start)
        end = len(path) if end < 0 else end
        key = keys.dentry(parent, path[start:end])
        value = reader.get(key)
        entry = None if value is None else decode_dentry(value)
        if entry is None or not stat.S_ISDIR(entry.kind):
            return parent, path[start:]
        parent = Ino(entry.ino)
        is_indexed = is_indexed and reader.owns(key)
        if is_indexed:
            above = index.learn(top, path[:end], parent, key, above)
            is_indexed = above is not None
    return parent, b""
