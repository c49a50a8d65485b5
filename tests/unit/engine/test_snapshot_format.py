"""Snapshot files and labels: what is packed is parsed, damage is noticed, old files stay readable."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.format.label import Label, pack_label, parse_label
from siltstone.engine.format.snapshot import (
    FRAME_HEADER_BYTES,
    SNAPSHOT_HEADER_BYTES,
    Codec,
    Footer,
    SnapshotHeader,
    SnapshotKind,
    SnapshotName,
    frame_seed,
    is_sound,
    is_unfinished,
    pack_body,
    pack_footer,
    pack_frame,
    pack_header,
    parse_footer,
    parse_frame_header,
    parse_header,
    parse_name,
    unfinished_name,
    unpack_body,
)
from siltstone.errors import FormatInvalid
from siltstone.meta.snapshot import (
    LoggedBatch,
    pack_batches,
    pack_entries,
    unpack_batches,
    unpack_entries,
)
from siltstone.types import Lsn

GOLDEN = Path(__file__).resolve().parents[2] / "golden"

HEADER = SnapshotHeader(
    kind=SnapshotKind.FULL,
    serial=0x0A0B0C0D,
    volume_uuid=bytes(range(16)),
    start=Lsn(4096),
    created_ns=1_700_000_000_123_456_789,
)
ENTRIES = [(b"ab", b"xyz"), (b"c", b"")]
LABEL = Label(volume_uuid=bytes(range(16)), serial=7, text=b'{"config":{},"keys":[]}')


def example_file() -> bytes:
    """A whole full snapshot. Bodies are stored as they are: what zlib makes of them may change with its version."""
    seed, body = frame_seed(HEADER), pack_entries(ENTRIES)
    frame = pack_frame(0, len(ENTRIES), len(body), Codec.PLAIN, body, seed)
    return pack_header(HEADER) + frame + pack_footer(Footer(1, len(ENTRIES), len(body), Lsn(4096), Lsn(8192)), seed)


@given(
    kind=st.sampled_from(SnapshotKind),
    start=st.integers(0, 2**64 - 1),
    end=st.integers(0, 2**64 - 1),
    serial=st.integers(0, 2**32 - 1),
)
def test_names_tell_what_is_in_them(kind: SnapshotKind, start: int, end: int, serial: int) -> None:
    name = SnapshotName(kind, Lsn(start), Lsn(end), serial)
    assert parse_name(str(name)) == name
    assert not is_unfinished(str(name))
    assert is_unfinished(unfinished_name(serial)) and parse_name(unfinished_name(serial)) is None


@pytest.mark.parametrize("name", ["snapshot/full", "snapshot/full-0-0-0", "log/free-00000001", "snapshot/new-1"])
def test_other_names_are_none(name: str) -> None:
    assert parse_name(name) is None
    assert not is_unfinished(name)


@given(body=st.binary(max_size=5000), number=st.integers(0, 1000))
def test_a_frame_is_parsed_as_it_was_packed(body: bytes, number: int) -> None:
    seed = frame_seed(HEADER)
    codec, stored = pack_body(body)
    frame = pack_frame(number, 5, len(body), codec, stored, seed)
    header = parse_frame_header(frame, number)
    assert header is not None and header.size == len(frame)
    assert is_sound(header, frame, seed)
    assert unpack_body(header, frame) == body
    assert parse_frame_header(frame, number + 1) is None
    assert not is_sound(header, frame, frame_seed(HEADER._replace(serial=1))), "it is another snapshot's"


def test_the_golden_file_of_version_1_is_read_and_written_alike() -> None:
    golden = (GOLDEN / "snapshot-1.bin").read_bytes()
    assert example_file() == golden
    assert parse_header(golden) == HEADER
    seed, position = frame_seed(HEADER), SNAPSHOT_HEADER_BYTES
    first = parse_frame_header(golden[position:], 0)
    assert first is not None
    frame = golden[position : position + first.size]
    assert is_sound(first, frame, seed)
    assert unpack_entries(unpack_body(first, frame)) == ENTRIES
    last = parse_frame_header(golden[position + first.size :], 1)
    assert last is not None and last.is_footer
    assert parse_footer(golden[position + first.size :]) == Footer(1, 2, 22, Lsn(4096), Lsn(8192))


@given(position=st.integers(0, len(example_file()) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_is_noticed(position: int, bit: int) -> None:
    data = bytearray(example_file())
    data[position] ^= 1 << bit
    header = parse_header(data)
    if position < SNAPSHOT_HEADER_BYTES:
        assert header is None or position >= 52, "behind the checksum there are zeros"
        return
    at, number = SNAPSHOT_HEADER_BYTES, 0
    while at < len(data):
        frame = parse_frame_header(data[at:], number)
        if frame is None or not is_sound(frame, data[at : at + frame.size], frame_seed(HEADER)):
            return
        at, number = at + frame.size, number + 1
    raise AssertionError("nobody noticed")


def test_a_body_that_does_not_decompress_to_its_length_is_refused() -> None:
    codec, stored = pack_body(bytes(10_000))
    assert codec is Codec.ZLIB
    frame = pack_frame(0, 1, 9_999, codec, stored, 0)
    header = parse_frame_header(frame, 0)
    assert header is not None and is_sound(header, frame, 0)
    with pytest.raises(FormatInvalid):
        unpack_body(header, frame)
    assert len(stored) + FRAME_HEADER_BYTES == len(frame)


@given(st.lists(st.tuples(st.integers(0, 2**63), st.binary(max_size=50))))
def test_batches_are_parsed_as_they_were_packed(batches: list[tuple[int, bytes]]) -> None:
    logged = [LoggedBatch(Lsn(end), body) for end, body in batches]
    packed = pack_batches(logged)
    assert list(unpack_batches(packed)) == logged
    if packed:
        with pytest.raises(FormatInvalid):
            list(unpack_batches(packed[:-1]))


def test_the_golden_label_of_version_1_is_read_and_written_alike() -> None:
    golden = (GOLDEN / "label-1.bin").read_bytes()
    assert parse_label(golden) == LABEL
    assert pack_label(LABEL) == golden


def test_the_golden_label_of_version_2_is_read_and_written_alike() -> None:
    golden = (GOLDEN / "label-2.bin").read_bytes()
    shared = LABEL._replace(share=b"a share")
    assert parse_label(golden) == shared
    assert pack_label(shared) == golden


@given(position=st.integers(0, len(pack_label(LABEL)) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_of_a_label_is_noticed(position: int, bit: int) -> None:
    data = bytearray(pack_label(LABEL))
    data[position] ^= 1 << bit
    with pytest.raises(FormatInvalid):
        parse_label(data)


@given(st.integers(0, len(pack_label(LABEL)) - 1))
def test_a_label_that_is_cut_short_is_none(size: int) -> None:
    with pytest.raises(FormatInvalid):
        parse_label(pack_label(LABEL)[:size])
