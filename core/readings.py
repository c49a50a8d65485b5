"""What front-ends of a shard are reading: objects, in pieces, each by a call of its own (see overwrites.py)."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from siltstone.core.object_types import ObjectInfo, object_info
from siltstone.core.write_back import WriteBack
from siltstone.errors import ObjectChanged
from siltstone.meta import inodes, objects
from siltstone.meta.store.port import Reader
from siltstone.ports import Clock
from siltstone.types import Ino

KEPT_SECONDS = 60.0
"""So long after its last piece the reading of a front-end is known exactly; then by its ETag."""

READINGS_MAX = 4096


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """An object that a front-end is reading: which of the shard's watches is for it, and what it was told."""

    number: int
    etag: str


class Readings:
    """What front-ends of a shard are reading. ``records``: the store as it is now."""

    def __init__(self, write_back: WriteBack, records: Reader, clock: Clock) -> None:
        self._write_back = write_back
        self._overwrites = write_back.overwrites
        self._records = records
        self._clock = clock
        self._kept: OrderedDict[int, list[int]] = OrderedDict()
        """By number, the one that was used last at the end: the watch's own number, and when that was."""
        self._last = 0

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, info: ObjectInfo) -> int:
        """The number for who reads an object that was looked up in this turn of the loop."""
        now_ns = self._clock.monotonic_ns()
        limit_ns = now_ns - round(KEPT_SECONDS * 1e9)
        while self._kept and (len(self._kept) >= READINGS_MAX or next(iter(self._kept.values()))[1] < limit_ns):
            _, (watch, _) = self._kept.popitem(last=False)
            self._overwrites.end(watch)
        # Not a number that another shard, or an earlier life of this one, has given.
        self._last = max(self._last + 1, self._clock.now_ns())
        self._kept[self._last] = [self._overwrites.watch(info.ino, info.size), now_ns]
        return self._last

    def check(self, ino: Ino, reading: Reading) -> None:
        """Raise ObjectChanged if what was read of the file up to now may be of other bytes than the front-end opened.

        Where the reading is not known (any more) an ETag that is another now decides: that one changes as well when
        bytes are added at the end.
        """
        kept = self._kept.get(reading.number)
        if kept is not None and self._overwrites.is_of(kept[0], ino):
            kept[1] = self._clock.monotonic_ns()
            self._kept.move_to_end(reading.number)
            is_changed = self._overwrites.is_changed(kept[0])
        else:
            inode = inodes.find_inode(self._records, ino)
            is_changed = self._write_back.is_dirty(ino) or (
                inode is not None
                and object_info(b"", ino, inode, objects.get_object(self._records, ino, inode)).etag != reading.etag
            )
        if is_changed:
            raise ObjectChanged(f"inode {ino} was written to through the mount while it was read as an object")
