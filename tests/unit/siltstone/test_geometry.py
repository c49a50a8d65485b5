"""The shape of a new volume follows from its disks."""

from __future__ import annotations

import pytest

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.errors import ConfigInvalid
from siltstone.geometry import DISK_BYTES_MIN, code_for, log_replicas_for, parse_code, parse_size, sizes_for
from siltstone.limits import GIB, MIB


@pytest.mark.parametrize(
    ("disks", "code"), [(1, "1+0"), (2, "1+1"), (3, "2+1"), (4, "2+2"), (5, "3+2"), (6, "4+2"), (7, "4+2"), (40, "4+2")]
)
def test_so_many_disks_get_this_code(disks: int, code: str) -> None:
    assert str(code_for(disks)) == code


@pytest.mark.parametrize(("code", "disks", "replicas"), [("4+2", 6, 3), ("8+3", 12, 4), ("1+1", 2, 2), ("1+0", 1, 1)])
def test_the_log_outlives_as_many_disks_as_a_stripe(code: str, disks: int, replicas: int) -> None:
    assert log_replicas_for(parse_code(code), disks) == replicas


@pytest.mark.parametrize("text", ["", "4", "4+", "+2", "0+2", "4+2+1", "4 + 2", "-4+2", "4+-2", "a+b", "9999+1", "٤+٢"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="erasure code"):
        parse_code(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("10G", 10 * GIB), ("10GiB", 10 * GIB), ("10gb", 10 * GIB), ("512 M", 512 * MIB), ("2k", 2048)],
)
def test_sizes_are_read_with_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "10X", "1e9", "10 G G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="size"):
        parse_size(text)


@pytest.mark.parametrize("disk_bytes", [DISK_BYTES_MIN, 200 * MIB, 1 * GIB, 10 * GIB, 1024 * GIB, 16 * 1024 * GIB])
@pytest.mark.parametrize("disks", [1, 2, 3, 6, 36])
def test_every_size_of_disk_gives_settings_that_are_valid_and_a_log_that_leaves_room(
    disk_bytes: int, disks: int
) -> None:
    code = code_for(disks)
    replicas = log_replicas_for(code, disks)
    sizes = sizes_for(disk_bytes, disks, replicas)
    config = VolumeConfig(
        uuid="00" * 16,
        data_units=code.data_units,
        parity_units=code.parity_units,
        log_replicas=replicas,
        disks=tuple(DiskConfig(disk_id=index, path=f"/{index}", uuid=f"{index:032x}") for index in range(disks)),
        segment_bytes=sizes.segment_bytes,
        chunk_bytes=sizes.chunk_bytes,
        log_bytes_high=sizes.log_bytes_high,
        log_bytes_low=sizes.log_bytes_low,
    )
    config.check()
    assert sizes.log_bytes_high * replicas * 4 <= disk_bytes * disks
    assert sizes.log_bytes_low >= sizes.segment_bytes
    assert sizes.chunk_bytes * 16 <= disk_bytes


def test_a_disk_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="128 MiB"):
        sizes_for(DISK_BYTES_MIN - 1, 6, 3)
