"""Directories that hold each other in a circle agree with themselves and hang on nothing (I3)."""

from __future__ import annotations

from array import array
from bisect import bisect_left

import trio

from siltstone.types import Ino

_UNSEEN, _ON_PATH, _DONE = 0, 1, 2

_BUCKETS = 256
_STEP = 1024
"""Directories between two checkpoints."""


class Tree:
    """Which directory holds which: 17 bytes for each. Filled by ``add``, then asked."""

    def __init__(self) -> None:
        self._children = [array("Q") for _ in range(_BUCKETS)]
        self._parents = [array("Q") for _ in range(_BUCKETS)]

    def add(self, ino: Ino, directory: Ino) -> None:
        """A directory has an entry for another."""
        self._children[ino % _BUCKETS].append(ino)
        self._parents[ino % _BUCKETS].append(directory)

    async def loops(self) -> list[list[Ino]]:
        """Every circle, from the directory in it with the lowest number on, each held by the next."""
        await self._sort()
        found: list[list[Ino]] = []
        states = [bytearray(len(children)) for children in self._children]
        for bucket, children in enumerate(self._children):
            for index in range(len(children)):
                if index % _STEP == 0:
                    await trio.lowlevel.checkpoint()
                path: list[tuple[int, int]] = []
                at: tuple[int, int] | None = (bucket, index)
                while at is not None and states[at[0]][at[1]] == _UNSEEN:
                    states[at[0]][at[1]] = _ON_PATH
                    path.append(at)
                    at = self._find(self._parents[at[0]][at[1]])
                if at is not None and states[at[0]][at[1]] == _ON_PATH:
                    circle = [Ino(self._children[step[0]][step[1]]) for step in path[path.index(at) :]]
                    first = circle.index(min(circle))
                    found.append(circle[first:] + circle[:first])
                for step in path:
                    states[step[0]][step[1]] = _DONE
        return found

    async def _sort(self) -> None:
        for bucket in range(_BUCKETS):
            await trio.lowlevel.checkpoint()
            pairs = sorted(zip(self._children[bucket], self._parents[bucket], strict=True))
            self._children[bucket] = array("Q", (child for child, _ in pairs))
            self._parents[bucket] = array("Q", (parent for _, parent in pairs))

    def _find(self, ino: int) -> tuple[int, int] | None:
        """Where a directory is; None if nothing holds it: the root, or one that is lost."""
        bucket = ino % _BUCKETS
        children = self._children[bucket]
        index = bisect_left(children, ino)
        return (bucket, index) if index < len(children) and children[index] == ino else None
