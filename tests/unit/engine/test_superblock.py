"""The superblock: what is packed is parsed, damage is noticed, old files stay readable."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from siltstone.engine.format.superblock import SUPERBLOCK_BYTES, Superblock, pack_superblock, parse_superblock
from siltstone.errors import FormatInvalid
from siltstone.types import DiskId

GOLDEN = Path(__file__).resolve().parents[2] / "golden"

EXAMPLE = Superblock(
    volume_uuid=bytes(range(16)),
    disk_uuid=bytes(range(16, 32)),
    disk_id=DiskId(5),
    disk_count=6,
    data_units=4,
    parity_units=2,
    chunk_bytes=64 * 1024 * 1024,
    created_ns=1_700_000_000_123_456_789,
)

superblocks = st.builds(
    Superblock,
    volume_uuid=st.binary(min_size=16, max_size=16),
    disk_uuid=st.binary(min_size=16, max_size=16),
    disk_id=st.integers(0, 65535).map(DiskId),
    disk_count=st.integers(1, 256),
    data_units=st.integers(1, 24),
    parity_units=st.integers(0, 8),
    chunk_bytes=st.integers(1, 1 << 16).map(lambda rows: rows * 4096),
    created_ns=st.integers(0, 2**63),
)


@given(superblocks)
def test_what_is_packed_is_parsed(superblock: Superblock) -> None:
    data = pack_superblock(superblock)
    assert len(data) == SUPERBLOCK_BYTES
    assert parse_superblock(data) == superblock


def test_the_golden_file_of_version_1_is_read_and_written_alike() -> None:
    golden = (GOLDEN / "superblock-1.bin").read_bytes()
    assert parse_superblock(golden) == EXAMPLE
    assert pack_superblock(EXAMPLE) == golden


@given(position=st.integers(0, 71), bit=st.integers(0, 7))
def test_any_changed_bit_is_noticed(position: int, bit: int) -> None:
    data = bytearray(pack_superblock(EXAMPLE))
    data[position] ^= 1 << bit
    with pytest.raises(FormatInvalid):
        parse_superblock(data)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_superblock(data: bytes) -> None:
    with pytest.raises(FormatInvalid):
        parse_superblock(data)


def test_a_version_of_the_future_is_named_in_the_message() -> None:
    data = bytearray(pack_superblock(EXAMPLE))
    struct.pack_into("<H", data, 8, 2)
    with pytest.raises(FormatInvalid, match="version 2"):
        parse_superblock(data)


def test_impossible_values_are_refused_even_with_a_right_checksum() -> None:
    data = bytearray(pack_superblock(EXAMPLE))
    data[14] = 0
    struct.pack_into("<Q", data, 64, xxh3_64_intdigest(bytes(data[:64])))
    with pytest.raises(FormatInvalid, match="impossible"):
        parse_superblock(data)
