"""What the kernel holds: open files, open directories, and inodes that it has looked up.

Open files are named by small numbers (``fh``) that the kernel hands back. An inode that has lost its last name must
stay while it is open, and while the kernel knows it: it may be somebody's working directory, or a reader may have
looked it up and not opened it yet when the name went to another file. The one exception is a file or symbolic link that
the mount itself unlinks: who comes too late for it is told so, and to keep it until it is forgotten would cost each
unlink a batch more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from siltstone.core.types import DirEntry
from siltstone.types import Ino

DOT_NAMES = (b".", b"..")

PAGE_ENTRIES_MIN = 24
"""Entries fetched at first: about what a request of 4 KiB, the smallest, has room for."""

Fetch = Callable[[bytes | None, int], Awaitable[list[DirEntry]]]
"""``fetch(after, limit)``: the entries behind a name; fewer than the limit means that there are no more."""

EmitDot = Callable[[bytes, int], Awaitable[bool]]
Emit = Callable[[Sequence[DirEntry], Iterable[int]], int]
"""``emit(entries, cookies)`` puts entries in the answer; how many found room, the others are not in it."""


class FileHandle(NamedTuple):
    """An open file."""

    ino: Ino
    writable: bool
    synchronous: bool
    """Opened with O_SYNC or O_DSYNC: a write answers when it is durable."""


class DirectoryHandle:
    """An open directory and the names it has served, so that every position it gave out stays good.

    A position (cookie) c means "behind the c-th name that was served"; it goes on from that name in byte order even if
    that name is gone. So a listing in pieces, under concurrent changes, has every entry that was there all the time
    exactly once. Position 0 is the beginning; going back there forgets the positions given out before.
    """

    __slots__ = ("_cookies", "_names", "_page", "ino")

    def __init__(self, ino: Ino) -> None:
        self.ino = ino
        self._names: list[bytes] = []
        self._cookies: dict[bytes, int] | None = None
        self._page = PAGE_ENTRIES_MIN

    async def serve(self, cookie: int, fetch: Fetch, emit_dot: EmitDot, emit: Emit) -> None:
        """Put what is behind a position in the answer, until there is no room or no more.

        Entries are fetched and emitted without an await between, so that the kernel never remembers attributes that
        have already changed. A position that was never given out has nothing behind it.
        """
        if cookie == 0:
            self._names.clear()
            self._cookies = None
        elif cookie > len(self._names):
            return
        elif cookie < len(self._names) and self._cookies is None:
            self._cookies = {name: index + 1 for index, name in enumerate(self._names)}
        for index in range(cookie, len(DOT_NAMES)):
            if not await self._emit_dot(DOT_NAMES[index], emit_dot):
                return
        after = self._names[cookie - 1] if cookie > len(DOT_NAMES) else None
        served = 0
        page, following = self._page, PAGE_ENTRIES_MIN  # what is left of the room behind the first page is not known
        while True:
            entries = await fetch(after, page)
            if self._cookies is None:  # then each gets the next number
                emitted = emit(entries, itertools.count(len(self._names) + 1))
                self._names += [entry.name for entry in entries[:emitted]]
            else:
                emitted = self._emit_again(entries, emit)
            served += emitted
            if emitted < len(entries):
                self._page = max(PAGE_ENTRIES_MIN, served + 1)
                return
            if len(entries) < page:
                return
            after = entries[-1].name
            page, following = following, 2 * following

    def _emit_again(self, entries: Sequence[DirEntry], emit: Emit) -> int:
        """The same where some names may have positions already."""
        for index, entry in enumerate(entries):
            if not emit((entry,), (self._cookie_of(entry.name),)):
                return index
            self._served(entry.name)
        return len(entries)

    async def _emit_dot(self, name: bytes, emit_dot: EmitDot) -> bool:
        if not await emit_dot(name, self._cookie_of(name)):
            return False
        self._served(name)
        return True

    def _cookie_of(self, name: bytes) -> int:
        if self._cookies is not None and name in self._cookies:
            return self._cookies[name]
        return len(self._names) + 1

    def _served(self, name: bytes) -> None:
        if self._cookies is None:
            self._names.append(name)
        elif name not in self._cookies:
            self._names.append(name)
            self._cookies[name] = len(self._names)


class Handles:
    """The tables of one mount. Implements the volume's Holder; ``released`` hears of inodes that are let go."""

    def __init__(self, released: Callable[[Ino], None]) -> None:
        self._released = released
        self.files: dict[int, FileHandle] = {}
        self.directories: dict[int, DirectoryHandle] = {}
        self._last = 0
        self._open: dict[Ino, int] = {}
        self._lookups: dict[Ino, int] = {}
        self._leaving: set[Ino] = set()

    # --- for the volume and the invalidator ------------------------------------------------------------------------

    def holds(self, ino: Ino) -> bool:
        """Whether the inode must stay although it has no name."""
        return ino in self._open or (ino in self._lookups and ino not in self._leaving)

    def knows(self, ino: Ino) -> bool:
        """Whether the kernel has looked the inode up and not forgotten it."""
        return ino in self._lookups

    def known(self) -> list[Ino]:
        """Every inode that the kernel has looked up and not forgotten, in the order in which it did."""
        return list(self._lookups)

    @property
    def known_count(self) -> int:
        """How many they are."""
        return len(self._lookups)

    def is_idle(self, ino: Ino) -> bool:
        """Whether the kernel knows an inode that nobody has open."""
        return ino in self._lookups and ino not in self._open

    # --- lookups ---------------------------------------------------------------------------------------------------

    def looked_up(self, ino: Ino) -> None:
        """The kernel was told of an inode by an entry: it counts one lookup more."""
        self._lookups[ino] = self._lookups.get(ino, 0) + 1

    def listed(self, entries: Iterable[DirEntry]) -> None:
        """The same for what a listing told."""
        lookups = self._lookups
        for _, ino, _ in entries:
            lookups[ino] = lookups.get(ino, 0) + 1

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """The kernel has given back lookups: pairs of inode and count."""
        for number, count in forgotten:
            ino = Ino(number)
            left = self._lookups.get(ino, 0) - count
            if left > 0:
                self._lookups[ino] = left
            elif self._lookups.pop(ino, 0):
                self._let_go(ino)

    @contextlib.contextmanager
    def unlinking(self, ino: Ino) -> Iterator[None]:
        """While the mount takes a name of this file away: being known does not hold it, being open does."""
        self._leaving.add(ino)
        try:
            yield
        finally:
            self._leaving.discard(ino)

    # --- files -----------------------------------------------------------------------------------------------------

    def open_file(self, ino: Ino, flags: int) -> int:
        """Make a handle for a file opened with ``flags``."""
        self._hold(ino)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.files[self._last] = FileHandle(ino, writable, bool(flags & os.O_DSYNC))
        return self._last

    def close_file(self, fh: int) -> None:
        """The last user of a handle has gone."""
        self._unhold(self.files.pop(fh).ino)

    def open_directory(self, ino: Ino) -> int:
        """Make a handle for a directory."""
        self._hold(ino)
        self.directories[self._last] = DirectoryHandle(ino)
        return self._last

    def close_directory(self, fh: int) -> None:
        """The last user of a handle has gone."""
        self._unhold(self.directories.pop(fh).ino)

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The mount is gone: nothing is held any more."""
        held = {*self._open, *self._lookups}
        self.files.clear()
        self.directories.clear()
        self._open.clear()
        self._lookups.clear()
        for ino in held:
            self._released(ino)

    def _hold(self, ino: Ino) -> None:
        self._last += 1
        self._open[ino] = self._open.get(ino, 0) + 1

    def _unhold(self, ino: Ino) -> None:
        count = self._open[ino] - 1
        if count:
            self._open[ino] = count
        else:
            del self._open[ino]
            self._let_go(ino)

    def _let_go(self, ino: Ino) -> None:
        if not self.holds(ino):
            self._released(ino)
