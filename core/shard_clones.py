"""Clones, as a shard offers them to front-ends in other processes: by calls (core/calls.py). The first argument of each
says which shard is asked; what a method does is told where ``Clones`` defines it."""

from __future__ import annotations

from collections.abc import Callable

from siltstone.core.clones import Clones
from siltstone.core.volume import Volume
from siltstone.meta.clones import ClonedFile, Page
from siltstone.types import Ino


class ShardClones:
    """``hand``: called with an inode that is held here, and will be by a front-end (``ShardObjects.hand``)."""

    def __init__(self, volume: Volume, hand: Callable[[Ino], None]) -> None:
        self._clones = Clones(volume)
        self._hand = hand

    async def begin_clone(self, source: Ino) -> Ino:
        """A nameless copy of a directory; whoever gets it has some seconds to hold it."""
        clone = await self._clones.begin_clone(source)
        self._hand(clone)
        return clone

    async def clone_entries(self, source: Ino, target: Ino, after: bytes | None) -> Page:
        """Some of its entries."""
        return await self._clones.clone_entries(source, target, after)

    async def clone_file(self, source: Ino, parent: Ino, name: bytes, is_last: bool) -> ClonedFile:
        """A file on its own."""
        return await self._clones.clone_file(source, parent, name, is_last)

    async def link_clone(self, clone: Ino, parent: Ino, name: bytes) -> None:
        """A further name."""
        await self._clones.link_clone(clone, parent, name)

    async def name_clone(self, clone: Ino, source: Ino, parent: Ino, name: bytes, subdirectories: int) -> None:
        """The last batch."""
        await self._clones.name_clone(clone, source, parent, name, subdirectories)
