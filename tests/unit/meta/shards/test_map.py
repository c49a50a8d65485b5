"""The map of partitions: dealt out evenly, changed by version, kept in the settings of the volume."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.errors import ConfigInvalid
from siltstone.limits import PARTITION_COUNT, SHARDS_MAX
from siltstone.meta.shards.map import even_map, map_of
from siltstone.types import PartitionId, ShardId

SETTINGS = VolumeConfig(
    uuid=str(UUID(int=7)),
    data_units=1,
    parity_units=0,
    log_replicas=1,
    disks=(DiskConfig(disk_id=0, path="disk0", uuid=str(UUID(int=1))),),
)


@pytest.mark.parametrize("shards", [1, 2, 3, SHARDS_MAX])
def test_an_even_map_stands_in_the_settings_and_is_read_back(shards: int) -> None:
    partitions = even_map(shards)
    sizes = {len(partitions.partitions_of(ShardId(shard))) for shard in range(shards)}
    assert max(sizes) - min(sizes) <= 1
    config = msgspec.structs.replace(SETTINGS, shards=shards, **partitions.settings)
    config.check()
    assert map_of(msgspec.json.decode(msgspec.json.encode(config), type=VolumeConfig)) == partitions


def test_without_a_map_the_first_shard_has_everything() -> None:
    SETTINGS.check()
    assert map_of(SETTINGS).partitions_of(ShardId(0)) == [PartitionId(number) for number in range(PARTITION_COUNT)]


@pytest.mark.parametrize(
    ("shards", "owners", "said"),
    [
        (0, "", "0 shards"),
        (SHARDS_MAX + 1, "", "want 1 to"),
        (2, "xx" * PARTITION_COUNT, "not hexadecimal"),
        (2, "00" * (PARTITION_COUNT - 1), "partition_owners"),
        (2, "02" * PARTITION_COUNT, "partition_owners"),
    ],
)
def test_a_map_that_cannot_be_is_refused(shards: int, owners: str, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        msgspec.structs.replace(SETTINGS, shards=shards, partition_owners=owners).check()
