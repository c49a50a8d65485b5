"""What the stores of several shards hold together, as one Reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from siltstone.meta.shards.map import PartitionMap
from siltstone.meta.store.port import FIRST_CHUNK, Reader
from siltstone.types import ShardId


class AllRecords:
    """What belongs to a partition is read where that is; everything else of all shards."""

    is_settled = True

    def __init__(self, partitions: PartitionMap, stores: Mapping[ShardId, Reader]) -> None:
        self._partitions = partitions
        self._stores = stores

    def owns(self, key: bytes) -> bool:
        """All of them."""
        return True

    def expect(self, wanted: Iterable[bytes | tuple[bytes, bytes]]) -> None:
        """Nothing is to be fetched (see Reader)."""

    def get(self, key: bytes) -> bytes | None:
        """A record, wherever it is."""
        owner = self._partitions.owner_of_key(key)
        stores = self._stores.values() if owner is None else [self._stores[owner]]
        return next((value for store in stores if (value := store.get(key)) is not None), None)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, expected: int = FIRST_CHUNK
    ) -> Iterator[tuple[bytes, bytes]]:
        """All records in a range."""
        found = [
            entry
            for shard, store in self._stores.items()
            for entry in store.scan(start, end)
            if self._partitions.owner_of_key(entry[0]) in (None, shard)
        ]
        return iter(sorted(found, reverse=reverse))


def newest(maps: Iterable[PartitionMap]) -> PartitionMap:
    """Of each partition what the map says that knows of most moves of it."""
    first, *others = maps
    for other in others:
        first = first.moved(
            placement
            for placement, known in zip(other.placements(), first.generations, strict=True)
            if placement.generation > known
        )
    return first
