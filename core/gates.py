"""What holds calls about a partition back while it goes to another shard, and lets them through otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from siltstone.core.volume import Volume
from siltstone.meta.shards.handover import HandoverFailed
from siltstone.types import Ino, PartitionId, partition_of

DRAIN_SECONDS = 0.06
"""How long is waited for calls that are under way, and for dirty bytes, while new calls are held back."""


class Gates:
    """The Guard of a shard's partitions (meta/shards/handover.py)."""

    def __init__(self, volume: Volume, forget_places: Callable[[], None]) -> None:
        """``forget_places``: forgets where paths lead, as far as that is remembered beside the directory index."""
        self._volume = volume
        self._forget_places = forget_places
        self._under_way: dict[PartitionId, int] = {}
        self._closed: dict[PartitionId, trio.Event] = {}
        self._drained: dict[PartitionId, trio.Event] = {}
        self.counts: dict[PartitionId, int] = {}
        """Calls about each partition since this was made."""

    @asynccontextmanager
    async def passing(self, partition: PartitionId) -> AsyncIterator[None]:
        """A call about a partition is under way as long as the context lasts; waits while they are held back."""
        while (closed := self._closed.get(partition)) is not None:
            await closed.wait()
        self.counts[partition] = self.counts.get(partition, 0) + 1
        self._under_way[partition] = self._under_way.get(partition, 0) + 1
        try:
            yield
        finally:
            left = self._under_way[partition] - 1
            if left:
                self._under_way[partition] = left
            else:
                del self._under_way[partition]
                if partition in self._drained:
                    self._drained[partition].set()

    @asynccontextmanager
    async def held_back(self, partition: PartitionId) -> AsyncIterator[None]:
        """See Guard."""
        await self._flush(partition)  # so that little is left to do while everybody waits
        closed = self._closed[partition] = trio.Event()
        drained = self._drained[partition] = trio.Event()
        try:
            with trio.move_on_after(DRAIN_SECONDS) as scope:
                if partition in self._under_way:
                    await drained.wait()
                await self._flush(partition)
            if scope.cancelled_caught:
                raise HandoverFailed(f"partition {partition}: calls about it, or writing back its files, take too long")
            yield
        finally:
            del self._closed[partition], self._drained[partition]
            closed.set()

    def is_clean(self, partition: PartitionId) -> bool:
        """See Guard."""
        return not self._dirty(partition)

    def left(self, partition: PartitionId) -> None:
        """See Guard."""
        self._volume.directories.clear()
        self._forget_places()
        self._volume.orphans.leave(partition)

    def taken(self, partition: PartitionId) -> None:
        """See Guard."""
        self._volume.orphans.take(partition)
        self._volume.upload_cleaner.wake()

    async def _flush(self, partition: PartitionId) -> None:
        for ino in self._dirty(partition):
            await self._volume.write_back.flush(ino)

    def _dirty(self, partition: PartitionId) -> list[Ino]:
        return [ino for ino in self._volume.write_back.files if partition_of(ino) == partition]
