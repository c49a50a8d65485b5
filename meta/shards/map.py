"""Which shard has which partition. Nothing outside knows where a shard lives; this says only which one it is."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from siltstone.config import VolumeConfig
from siltstone.limits import PARTITION_COUNT
from siltstone.types import PartitionId, ShardId

_PARTITION_KEY = ord("p")


class PartitionMap(msgspec.Struct, frozen=True, array_like=True):
    """The owner of each partition. ``version`` grows with every change."""

    version: int
    owners: tuple[int, ...]
    """Shard by partition; PARTITION_COUNT of them."""

    def owner(self, partition: PartitionId) -> ShardId:
        """The shard that has a partition."""
        return ShardId(self.owners[partition])

    def owner_of_key(self, key: bytes) -> ShardId | None:
        """The shard that has a key of the store; None for what belongs to no partition: every shard has its own."""
        return ShardId(self.owners[key[1]]) if key[0] == _PARTITION_KEY else None

    def shards(self) -> list[ShardId]:
        """Every shard that has a partition, in order."""
        return [ShardId(shard) for shard in sorted(set(self.owners))]

    def partitions_of(self, shard: ShardId) -> list[PartitionId]:
        """The partitions of one shard, in order."""
        return [PartitionId(partition) for partition, owner in enumerate(self.owners) if owner == shard]

    @property
    def setting(self) -> str:
        """As the settings of a volume have it."""
        return bytes(self.owners).hex()

    def changed(self, moves: Mapping[PartitionId, ShardId]) -> PartitionMap:
        """The next version, with other owners for some partitions."""
        owners = list(self.owners)
        for partition, shard in moves.items():
            owners[partition] = shard
        return PartitionMap(self.version + 1, tuple(owners))


def map_of(config: VolumeConfig) -> PartitionMap:
    """The map in the settings of a volume."""
    return PartitionMap(config.map_version, tuple(config.owners))


def even_map(shards: int, *, version: int = 1) -> PartitionMap:
    """Partitions dealt out in turn, so that each of ``shards`` shards has as many as any other, or one more."""
    assert shards > 0
    return PartitionMap(version, tuple(partition % shards for partition in range(PARTITION_COUNT)))
