"""Open files of one disk: a bounded cache that never closes a descriptor somebody is using.

Used from the loop's thread and from the disk's threads at once; every change happens under one lock, every system call
outside of it. Closing a file may hang as much as anything else, so the loop's thread never does it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

OPEN_FILES_MAX = 256
"""Descriptors kept for each disk; those in use come on top."""

OPEN_FILES_READ_MAX = 32
"""The same where a disk is only read, beside what a shard in the same process may have open."""


class OpenFile:
    """A descriptor, how many are using it, and whether it is to be closed when nobody does. ``room_lock``: is held by
    who looks how much room the file takes before and after a change.

    ``generation``: which opening of the disk it belongs to.
    """

    __slots__ = ("fd", "generation", "is_dropped", "pins", "room_lock")

    def __init__(self, fd: int, generation: int) -> None:
        self.fd = fd
        self.generation = generation
        self.pins = 1
        self.is_dropped = False
        self.room_lock = threading.Lock()


class OpenFiles:
    """The cache, by name, the longest unused first."""

    def __init__(self, count_max: int = OPEN_FILES_MAX) -> None:
        self._count_max = count_max
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._unclosed: list[int] = []
        self.generation = 0
        """Counts the times that the disk was lost: what was done through older descriptors counts as not done."""

    def __len__(self) -> int:
        return len(self._files)

    def has(self, name: str) -> bool:
        """Whether the file of that name is open now."""
        return name in self._files

    def pin(self, name: str) -> OpenFile | None:
        """The open file of that name, to be unpinned; None if it is not open."""
        with self._lock:
            file = self._files.get(name)
            if file is None:
                return None
            file.pins += 1
            self._files.move_to_end(name)
            return file

    def unpin(self, file: OpenFile) -> None:
        """Done with it."""
        self.unpin_nowait(file)
        if self._unclosed:
            self.close_unused()

    def unpin_nowait(self, file: OpenFile) -> None:
        """Done with it, in the loop's thread: if it is to be closed, somebody else does it."""
        with self._lock:
            file.pins -= 1
            assert file.pins >= 0
            if file.is_dropped and file.pins == 0:
                self._unclosed.append(file.fd)

    def add(self, name: str, fd: int, generation: int) -> OpenFile | None:
        """Take over a descriptor, opened while ``generation`` was current, and pin it.

        If another thread was faster, its one is used. None (and closed) if the disk was lost meanwhile.
        """
        surplus: list[int] = []
        with self._lock:
            file = self._files.get(name)
            if generation != self.generation:
                file = None
                surplus.append(fd)
            elif file is not None:
                file.pins += 1
                surplus.append(fd)
            else:
                file = self._files[name] = OpenFile(fd, generation)
                surplus += self._evict()
        for unused in surplus:
            os.close(unused)
        return file

    def drop(self, name: str) -> None:
        """Forget a name that now means another file, or nothing."""
        with self._lock:
            file = self._files.pop(name, None)
            if file is None:
                return
            file.is_dropped = True
            if file.pins == 0:
                self._unclosed.append(file.fd)
        self.close_unused()

    def drop_removed(self) -> None:
        """Forget files that somebody has removed behind our back: writes to them would go nowhere."""
        with self._lock:
            names = list(self._files)
        for name in names:
            file = self.pin(name)
            if file is not None:
                if os.fstat(file.fd).st_nlink == 0:
                    self.drop(name)
                self.unpin(file)

    def revoke(self) -> None:
        """The disk is lost: forget everything, and make what is in use count as old. Closes nothing, never blocks."""
        with self._lock:
            self.generation += 1
            files = list(self._files.values())
            self._files.clear()
            for file in files:
                file.is_dropped = True
            self._unclosed += [file.fd for file in files if file.pins == 0]

    def close_unused(self) -> None:
        """Close what is dropped and not in use any more."""
        with self._lock:
            unused, self._unclosed = self._unclosed, []
        for fd in unused:
            os.close(fd)

    def _evict(self) -> list[int]:
        """Let go of the longest unused; descriptors that can be closed now. Files in use are closed by ``unpin``."""
        unused = []
        while len(self._files) > self._count_max:
            _, oldest = self._files.popitem(last=False)
            oldest.is_dropped = True
            if oldest.pins == 0:
                unused.append(oldest.fd)
        return unused
