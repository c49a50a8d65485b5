"""Which shard has which partition. Nothing outside knows where a shard lives; this says only which one it is.

Each shard knows for certain which partitions are its own (handover.py keeps records of those that moved). What it knows
of the others, and what front-ends know, may be old: who is asked for a partition that he has not says who has it, as
far as he knows, and whoever asked learns it. Generations tell which of two placements is newer.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from siltstone.config import VolumeConfig
from siltstone.limits import PARTITION_COUNT
from siltstone.types import PartitionId, ShardId

_PARTITION_KEY = ord("p")


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """Which shard has a partition. ``generation`` grows by one with each move."""

    partition: int
    owner: int
    generation: int


class PartitionMap(msgspec.Struct, frozen=True, array_like=True):
    """The owner of each partition, and how often it has moved; PARTITION_COUNT of both. ``count``: of shards, whether
    they have partitions or not."""

    count: int
    owners: tuple[int, ...]
    generations: tuple[int, ...] = (0,) * PARTITION_COUNT

    @property
    def version(self) -> int:
        """Grows with every change."""
        return 1 + sum(self.generations)

    def owner(self, partition: PartitionId) -> ShardId:
        """The shard that has a partition."""
        return ShardId(self.owners[partition])

    def owner_of_key(self, key: bytes) -> ShardId | None:
        """The shard that has a key of the store; None for what belongs to no partition: every shard has its own."""
        return ShardId(self.owners[key[1]]) if key[0] == _PARTITION_KEY else None

    def placement(self, partition: PartitionId) -> Placement:
        """Where a partition is."""
        return Placement(partition, self.owners[partition], self.generations[partition])

    def placements(self) -> list[Placement]:
        """Where every partition is, in order."""
        return [self.placement(PartitionId(partition)) for partition in range(PARTITION_COUNT)]

    def shards(self) -> list[ShardId]:
        """Every shard, in order."""
        return [ShardId(shard) for shard in range(self.count)]

    def partitions_of(self, shard: ShardId) -> list[PartitionId]:
        """The partitions of one shard, in order."""
        return [PartitionId(partition) for partition, owner in enumerate(self.owners) if owner == shard]

    @property
    def settings(self) -> dict[str, str]:
        """As the settings of a volume have it."""
        return {
            "partition_owners": bytes(self.owners).hex(),
            "partition_generations": b"".join(generation.to_bytes(4, "big") for generation in self.generations).hex(),
        }

    def moved(self, placements: Iterable[Placement]) -> PartitionMap:
        """With some partitions placed otherwise."""
        owners, generations = list(self.owners), list(self.generations)
        for placement in placements:
            owners[placement.partition] = placement.owner
            generations[placement.partition] = placement.generation
        return PartitionMap(self.count, tuple(owners), tuple(generations))


def map_of(config: VolumeConfig) -> PartitionMap:
    """The map in the settings of a volume."""
    return PartitionMap(config.shards, tuple(config.owners), config.generations)


def even_map(shards: int) -> PartitionMap:
    """Partitions dealt out in turn, so that each of ``shards`` shards has as many as any other, or one more."""
    assert shards > 0
    return PartitionMap(shards, tuple(partition % shards for partition in range(PARTITION_COUNT)))


class MapView:
    """What a process knows of the map. ``shard``: the one that it is, if it is one; what it owns it knows itself."""

    def __init__(self, first: PartitionMap, shard: ShardId | None = None) -> None:
        self.current = first
        self._shard = shard

    def __call__(self) -> PartitionMap:
        """The map as it is known."""
        return self.current

    def learn(self, placements: Iterable[Placement]) -> bool:
        """Take over what is newer than what is known; whether anything was. Of a shard's own partitions, and of what it
        is said to own, nothing is taken over: of these its records speak."""
        newer = [
            placement
            for placement in placements
            if placement.generation > self.current.generations[placement.partition]
            and self._shard not in (placement.owner, self.current.owners[placement.partition])
        ]
        self.place(newer)
        return bool(newer)

    def resize(self, count: int) -> None:
        """There are so many shards from now on. What was thought to be with one that is gone is asked of the first."""
        known = self.current
        owners = tuple(owner if owner < count or self._shard == 0 else 0 for owner in known.owners)
        self.current = PartitionMap(count, owners, known.generations)

    def place(self, placements: Iterable[Placement]) -> None:
        """Take over what is so for certain."""
        self.current = self.current.moved(placements)
