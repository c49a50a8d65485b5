"""Disks that are missing are counted; disks that are not where they belong are refused, each in its own words."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.engine.format.superblock import Superblock
from siltstone.errors import ForeignDisk, TooFewDisks
from siltstone.roster import check_roster
from siltstone.types import DiskId

CONFIG = VolumeConfig(
    uuid=uuid4().hex,
    data_units=4,
    parity_units=2,
    disks=tuple(DiskConfig(disk_id=index, path=f"/mnt/{index}", uuid=uuid4().hex) for index in range(6)),
)


def superblock_of(disk: DiskConfig, volume_uuid: str = CONFIG.uuid) -> Superblock:
    return Superblock(UUID(volume_uuid).bytes, UUID(disk.uuid).bytes, DiskId(disk.disk_id), 6, 4, 2, 4096, 0)


def all_in_place() -> dict[int, Superblock | str]:
    return {disk.disk_id: superblock_of(disk) for disk in CONFIG.disks}


def test_all_in_place_is_nothing_to_talk_about() -> None:
    assert check_roster(CONFIG, all_in_place()) == []


def test_as_many_as_the_code_allows_may_be_missing_and_are_named() -> None:
    found = all_in_place()
    found[1] = found[4] = "No such file or directory"
    warnings = check_roster(CONFIG, found)
    assert [warning.split(":")[0] for warning in warnings] == ["disk 1 is missing", "disk 4 is missing"]
    found[5] = "superblock does not match its checksum"
    with pytest.raises(TooFewDisks, match=r"3 of 6 disks are missing.*/mnt/1.*/mnt/4.*/mnt/5"):
        check_roster(CONFIG, found)


def test_a_disk_of_another_volume_is_refused() -> None:
    found = all_in_place()
    found[3] = superblock_of(CONFIG.disks[3], volume_uuid=uuid4().hex)
    with pytest.raises(ForeignDisk, match=r"/mnt/3 is a disk of another volume"):
        check_roster(CONFIG, found)


def test_swapped_disks_are_refused_with_the_place_where_they_belong() -> None:
    found = all_in_place()
    found[0], found[1] = found[1], found[0]
    with pytest.raises(ForeignDisk, match=r"/mnt/0 holds disk 1, which belongs at /mnt/1: were disks swapped"):
        check_roster(CONFIG, found)


def test_the_same_disk_at_two_places_is_refused() -> None:
    found = all_in_place()
    found[5] = found[4]
    with pytest.raises(ForeignDisk, match=r"/mnt/5 and /mnt/4 are the same disk"):
        check_roster(CONFIG, found)


def test_a_disk_of_the_volume_that_the_settings_do_not_know_is_refused() -> None:
    found = all_in_place()
    found[2] = superblock_of(DiskConfig(disk_id=2, path="/mnt/2", uuid=uuid4().hex))
    with pytest.raises(ForeignDisk, match=r"/mnt/2 .* do not know"):
        check_roster(CONFIG, found)
