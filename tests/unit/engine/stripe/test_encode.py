"""Cutting bytes into units, and the checksum record."""

from __future__ import annotations

import json
from pathlib import Path

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.engine.stripe.checksum import checksums_of, damaged_blocks, is_intact
from siltstone.engine.stripe.encode import cut_into_units, encode_stripe
from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes, chunk_name, parse_chunk_name, unit_bytes_for
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.types import Buffer, DiskId, SlabId

GOLDEN = Path(__file__).parents[3] / "golden"


def pattern(size: int) -> bytes:
    """The bytes that docs/formats/slab.md speaks of."""
    return bytes((7 * index + (index >> 8)) & 0xFF for index in range(size))


@given(lengths=st.lists(st.integers(0, 9000), min_size=1, max_size=8), k=st.integers(1, 6))
@settings(deadline=None)
def test_units_hold_the_bytes_in_order_with_zeros_behind(lengths: list[int], k: int) -> None:
    size = sum(lengths)
    if not size:
        return
    whole = pattern(size)
    buffers: list[Buffer] = []
    for index, length in enumerate(lengths):
        start = sum(lengths[:index])
        piece = whole[start : start + length]
        buffers.append((bytes, bytearray, memoryview)[index % 3](piece))
    unit_bytes = unit_bytes_for(size, k)
    units = cut_into_units(buffers, k, unit_bytes)
    assert [len(unit) for unit in units] == [unit_bytes] * k
    assert b"".join(units) == whole + bytes(k * unit_bytes - size)


def test_a_unit_that_lies_in_one_buffer_is_not_copied() -> None:
    first, second = bytearray(8192), bytearray(12288)
    units = cut_into_units([first, second], 5, 4096)
    assert [unit.obj for unit in units if isinstance(unit, memoryview)] == [first, first, second, second, second]


@given(size=st.integers(1, 5 * CHECKSUM_BLOCK_BYTES), k=st.integers(1, 4), m=st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_the_record_has_one_checksum_for_each_block_of_each_unit(size: int, k: int, m: int) -> None:
    unit_bytes = unit_bytes_for(size, k)
    units, checksums = encode_stripe([pattern(size)], k, m, unit_bytes)
    slab = Slab(k, m, 1 << 20, tuple(map(DiskId, range(k + m))))
    assert len(checksums) == checksums_bytes(slab, Stripe(unit_bytes, size))
    expected = [
        xxhash.xxh3_64(bytes(unit[start : start + CHECKSUM_BLOCK_BYTES])).intdigest().to_bytes(8, "little")
        for unit in units
        for start in range(0, unit_bytes, CHECKSUM_BLOCK_BYTES)
    ]
    assert checksums == b"".join(expected)


@given(
    size=st.integers(1, 4 * CHECKSUM_BLOCK_BYTES),
    flips=st.sets(st.integers(0, 4 * CHECKSUM_BLOCK_BYTES - 1), max_size=4),
    bit=st.integers(0, 7),
)
@settings(deadline=None)
def test_exactly_the_changed_blocks_are_found(size: int, flips: set[int], bit: int) -> None:
    data = bytearray(pattern(size))
    checksums = b"\x55" * 16 + checksums_of([data])
    flips = {flip for flip in flips if flip < size}
    for flip in flips:
        data[flip] ^= 1 << bit
    assert damaged_blocks(data, checksums, 2) == sorted({flip // CHECKSUM_BLOCK_BYTES for flip in flips})
    assert is_intact(data, checksums, 2) == (not flips)


def test_golden_checksum_record_of_format_version_1_is_still_made() -> None:
    golden = json.loads((GOLDEN / "stripe-4+2.json").read_text())
    assert unit_bytes_for(golden["data_bytes"], 4) == golden["unit_bytes"]
    encoded = encode_stripe([pattern(golden["data_bytes"])], 4, 2, golden["unit_bytes"])
    assert encoded.checksums.hex() == golden["checksums"]


def test_the_example_of_the_format_page_is_true() -> None:
    encoded = encode_stripe([pattern(20000)], 2, 1, unit_bytes_for(20000, 2))
    assert encoded.checksums == bytes.fromhex("021f32bc1f8ccc0c e28eee70ac600332 37c53f024be29be6")


@given(slab_id=st.integers(0, 2**32 - 1), unit=st.integers(0, 31))
def test_chunk_names_parse_back(slab_id: int, unit: int) -> None:
    assert parse_chunk_name(chunk_name(SlabId(slab_id), unit)) == (slab_id, unit)


@given(name=st.one_of(st.text(max_size=20), st.text("slab/0123af.-+_ ", max_size=20)))
def test_other_names_do_not_parse(name: str) -> None:
    parsed = parse_chunk_name(name)
    assert parsed is None or chunk_name(*parsed) == name
