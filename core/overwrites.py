"""Who reads an object while the mount may write to its file: objects are read whole, as they were when opened.

What is put by S3 is a file of its own, which its readers keep. A write or truncate through the mount changes the file
itself. Then the ETag and the checksums that a reader has been told are those of other bytes than are still to come: it
must not give them out.
"""

from __future__ import annotations

from siltstone.types import Ino


class Overwrites:
    """Which files are being read as objects, and of which the bytes have been written over or cut off meanwhile."""

    def __init__(self) -> None:
        self._by_number: dict[int, _Watch] = {}
        self._by_ino: dict[Ino, dict[int, _Watch]] = {}
        self._last = 0

    def watch(self, ino: Ino, size: int) -> int:
        """Watch the first ``size`` bytes of a file from now on; the number of the watch."""
        self._last += 1
        watch = _Watch(ino, size)
        self._by_number[self._last] = watch
        self._by_ino.setdefault(ino, {})[self._last] = watch
        return self._last

    def end(self, number: int) -> None:
        """Watch no more."""
        ino = self._by_number.pop(number).ino
        watches = self._by_ino[ino]
        del watches[number]
        if not watches:
            del self._by_ino[ino]

    def is_of(self, number: int, ino: Ino) -> bool:
        """Whether a watch is about this file."""
        return self._by_number[number].ino == ino

    def is_changed(self, number: int) -> bool:
        """Whether any of the bytes have changed since."""
        return self._by_number[number].is_changed

    def note(self, ino: Ino, start: int) -> None:
        """Bytes of a file from ``start`` on are others now."""
        for watch in self._by_ino.get(ino, _NOBODY).values():
            if start < watch.size:
                watch.is_changed = True


class _Watch:
    __slots__ = ("ino", "is_changed", "size")

    def __init__(self, ino: Ino, size: int) -> None:
        self.ino = ino
        self.size = size
        self.is_changed = False


_NOBODY: dict[int, _Watch] = {}
