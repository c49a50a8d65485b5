"""The bytes of frames and segment headers: what is packed is parsed, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.format.frame import (
    FRAME_HEADER_BYTES,
    body_checksum,
    contents_are_sound,
    frame_bytes,
    pack_header,
    parse_header,
    payload_checksum,
    volume_seed,
)
from siltstone.engine.format.segment import (
    LINEAGE_COUNT_MAX,
    SECTOR_BYTES,
    SEGMENT_HEADER_BYTES,
    Ancestor,
    SegmentHeader,
    SegmentName,
    free_name,
    pack_lineage,
    pack_segment_header,
    parse_free_name,
    parse_lineage,
    parse_segment_header,
    parse_segment_name,
    segment_name,
)
from siltstone.types import Lsn

GOLDEN = Path(__file__).parents[2] / "golden"
UUID = bytes(range(16))
SEED = volume_seed(UUID)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**63)


def pack_frame(
    payload: bytes, body: bytes, *, lsn: int = 4096, kind: int = 1, epoch: int = 7, durable: int = 0
) -> bytes:
    header = pack_header(
        kind=kind,
        epoch=epoch,
        payload_bytes=len(payload),
        body_bytes=len(body),
        lsn=Lsn(lsn),
        durable_lsn=Lsn(durable),
        payload_checksum=payload_checksum([payload], SEED),
        body_checksum=body_checksum(body, SEED),
        seed=SEED,
    )
    return (header + payload + body).ljust(frame_bytes(len(payload), len(body)), b"\0")


@given(st.binary(max_size=300), st.binary(max_size=300), u64, u32, st.integers(0, 255), st.integers(0, 100))
def test_a_frame_is_parsed_as_it_was_packed(
    payload: bytes, body: bytes, lsn: int, epoch: int, kind: int, before: int
) -> None:
    data = bytes(before) + pack_frame(payload, body, lsn=lsn, epoch=epoch, kind=kind, durable=lsn // 2)
    header = parse_header(data, before, SEED)
    assert header is not None
    assert (header.kind, header.epoch, header.lsn, header.durable_lsn) == (kind, epoch, lsn, lsn // 2)
    assert (header.payload_bytes, header.body_bytes) == (len(payload), len(body))
    assert before + header.size == len(data)
    assert contents_are_sound(header, data, before, SEED)


@given(st.binary(max_size=50), st.binary(max_size=50), st.data())
def test_no_changed_byte_of_a_frame_goes_unnoticed(payload: bytes, body: bytes, data: st.DataObject) -> None:
    frame = bytearray(pack_frame(payload, body))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    header = parse_header(frame, 0, SEED)
    assert header is None or not contents_are_sound(header, frame, 0, SEED)


@given(st.binary(max_size=50), st.integers(0, FRAME_HEADER_BYTES - 1))
def test_a_cut_header_is_no_header(payload: bytes, size: int) -> None:
    assert parse_header(pack_frame(payload, b"")[:size], 0, SEED) is None


def test_a_frame_of_another_volume_is_no_frame() -> None:
    assert parse_header(pack_frame(b"payload", b"body"), 0, volume_seed(bytes(16))) is None


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_the_payload_checksum_does_not_see_where_buffers_end(buffers: list[bytes]) -> None:
    assert payload_checksum(buffers, SEED) == payload_checksum([b"".join(buffers)], SEED)


ancestors = st.builds(Ancestor, u64.map(Lsn), u64.map(Lsn), u32)


@given(u32, u64, st.integers(0, 1000), st.booleans(), st.lists(ancestors, max_size=LINEAGE_COUNT_MAX + 3))
def test_a_segment_header_is_parsed_as_it_was_packed(
    epoch: int, start: int, marked: int, is_established: bool, lineage: list[Ancestor]
) -> None:
    header = SegmentHeader(UUID, epoch, Lsn(start), is_established, Lsn(start + marked))
    sector = pack_segment_header(header)
    page = sector + pack_lineage(lineage)
    assert (len(sector), len(page)) == (SECTOR_BYTES, SEGMENT_HEADER_BYTES)
    assert parse_segment_header(page) == header
    parsed = parse_lineage(page)
    assert parsed is not None
    assert parsed.ancestors == tuple(lineage[-LINEAGE_COUNT_MAX:])
    assert parsed.is_cut == (len(lineage) > LINEAGE_COUNT_MAX)


@given(st.integers(0, 51), st.integers(1, 255))
def test_no_changed_byte_of_a_segment_header_goes_unnoticed(position: int, flip: int) -> None:
    header = SegmentHeader(UUID, 3, Lsn(64), True, Lsn(128))
    page = bytearray(pack_segment_header(header) + pack_lineage([Ancestor(Lsn(0), Lsn(64), 1)]))
    first = bytearray(page)
    first[position] ^= flip
    assert parse_segment_header(first) is None
    second = bytearray(page)
    second[SECTOR_BYTES + position % 36] ^= flip
    assert parse_lineage(second) is None
    assert parse_segment_header(second) == header


@given(u64, u32)
def test_names_say_what_a_file_holds(start: int, epoch: int) -> None:
    name = segment_name(Lsn(start), epoch)
    assert parse_segment_name(name) == SegmentName(Lsn(start), epoch)
    assert parse_free_name(name) is None
    assert parse_free_name(free_name(epoch)) == epoch
    assert parse_segment_name(free_name(epoch)) is None


@pytest.mark.parametrize("name", ["log/", "log/free-", "log/0-1", "log/" + "0" * 16 + "-0000000g", "superblock"])
def test_other_names_are_not_the_logs(name: str) -> None:
    assert parse_segment_name(name) is None
    assert parse_free_name(name) is None


def test_version_1_of_a_frame_stays_readable() -> None:
    data = (GOLDEN / "frame-1.bin").read_bytes()
    assert data == pack_frame(b"silt settles first", b"stone", lsn=8192, kind=2, epoch=0x10203, durable=4096)
    header = parse_header(data, 0, SEED)
    assert header is not None
    assert contents_are_sound(header, data, 0, SEED)


def test_version_1_of_a_segment_header_stays_readable() -> None:
    data = (GOLDEN / "segment-header-1.bin").read_bytes()
    assert parse_segment_header(data) == SegmentHeader(UUID, 9, Lsn(0x30000), True, Lsn(0x31000))
    lineage = parse_lineage(data)
    assert lineage is not None
    assert lineage.ancestors == (Ancestor(Lsn(0), Lsn(0x10000), 1), Ancestor(Lsn(0x10000), Lsn(0x30000), 4))
    assert not lineage.is_cut
