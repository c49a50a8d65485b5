"""Keeps the number of inodes that the kernel remembers in bounds: each costs memory there and an entry here.

The kernel forgets by itself only when it wants memory. When it knows more files than it should, it is asked to forget
names, file by file, directories in the order in which it came to know them. Only files that are not open are asked for:
a directory that is taken out of the kernel's tree may be somebody's working directory, and would seem to be deleted.
"""

from __future__ import annotations

import stat

import trio

from siltstone.core.tree import Tree
from siltstone.errors import SiltstoneError
from siltstone.fuse.handles import Handles
from siltstone.fuse.invalidate import Kernel
from siltstone.types import Ino

LOOK_SECONDS = 1.0
"""How often is looked whether there are too many."""

REST_SECONDS = 30.0
"""How long nothing is tried after a round that did not find enough: what is left is in use."""

PAGE_ENTRIES = 256
"""Names taken at a time."""

Name = tuple[Ino, bytes]


class Forgetter:
    """Of one mount."""

    def __init__(self, volume: Tree, handles: Handles, kernel: Kernel, known_max: int) -> None:
        self.volume = volume
        self._handles = handles
        self._kernel = kernel
        self._known_max = known_max
        self._enough = known_max * 3 // 4
        self.asked = 0
        """Names that the kernel was asked to forget."""

    async def run(self) -> None:
        """Look and ask, for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            if self._handles.known_count > self._known_max:
                await self._shrink()
                if self._handles.known_count > self._known_max:
                    await trio.sleep(REST_SECONDS)

    async def _shrink(self) -> None:
        for ino in self._handles.known():
            if self._handles.known_count <= self._enough:
                return
            try:
                if self._handles.knows(ino) and stat.S_ISDIR((await self.volume.attributes(ino)).mode):
                    await self._forget_files_of(ino)
            except SiltstoneError:
                continue  # it is gone, or cannot be read now: there are others
            # A turn for those who are served meanwhile, the kernel's own word that it has forgotten included.
            await trio.lowlevel.checkpoint()

    async def _forget_files_of(self, directory: Ino) -> None:
        after: bytes | None = None
        while self._handles.known_count > self._enough:
            entries = await self.volume.list_directory(directory, after=after, limit=PAGE_ENTRIES)
            names = [
                (directory, entry.name)
                for entry in entries
                if not stat.S_ISDIR(entry.attributes.mode) and self._handles.is_idle(entry.ino)
            ]
            if names:
                self.asked += len(names)
                await trio.to_thread.run_sync(self._ask, names)
            await trio.lowlevel.checkpoint()
            if len(entries) < PAGE_ENTRIES:
                return
            after = entries[-1].name

    def _ask(self, names: list[Name]) -> None:
        """In a thread, as the kernel takes the lock of the directory (see invalidate.py)."""
        for directory, name in names:
            self._kernel.invalidate_entry(directory, name)
