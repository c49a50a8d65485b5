"""Snapshot files of the metadata, bytes <-> values. Pure; nothing else knows these offsets (docs/formats/snapshot.md).

A file is ``header (64 bytes) | frames | footer frame``. Copies of a snapshot are the same byte by byte. What is in the
frames is not looked at here.
"""

from __future__ import annotations

import enum
import re
import struct
import zlib
from typing import NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from siltstone.errors import FormatInvalid
from siltstone.limits import MIB
from siltstone.types import Buffer, Lsn

SNAPSHOT_PREFIX = "snapshot/"
SNAPSHOT_MAGIC = b"SiSn"
SNAPSHOT_VERSION = 1
SNAPSHOT_HEADER_BYTES = 64

FRAME_MAGIC = b"SiSf"
FRAME_HEADER_BYTES = 32
BODY_BYTES_MAX = 16 * MIB
"""Longest body of a frame, stored or not: what a reader has to hold in memory."""

COMPRESSION_LEVEL = 1

_HEADER = struct.Struct("<4sBBHI16sQQ")
_CHECKSUM = struct.Struct("<Q")
_FRAME = struct.Struct("<4sBBHIIII")
_FOOTER = struct.Struct("<IQQQQ")
_NAME = re.compile(r"snapshot/(full|incr)-([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{8})\Z")
_UNFINISHED_NAME = re.compile(r"snapshot/new-[0-9a-f]{8}\Z")

assert _HEADER.size + _CHECKSUM.size <= SNAPSHOT_HEADER_BYTES
assert _FRAME.size + _CHECKSUM.size == FRAME_HEADER_BYTES


class SnapshotKind(enum.Enum):
    """What a snapshot holds: every key, or the batches of a range of the log."""

    FULL = "full"
    INCREMENT = "incr"


class Codec(enum.IntEnum):
    """How the body of a frame is stored."""

    PLAIN = 0
    ZLIB = 1


class SnapshotName(NamedTuple):
    """What a file name says. ``start`` and ``end``: see docs/formats/snapshot.md."""

    kind: SnapshotKind
    start: Lsn
    end: Lsn
    serial: int

    def __str__(self) -> str:
        return f"{SNAPSHOT_PREFIX}{self.kind.value}-{self.start:016x}-{self.end:016x}-{self.serial:08x}"


class SnapshotHeader(NamedTuple):
    """The beginning of a file. ``created_ns``: nanoseconds since the epoch."""

    kind: SnapshotKind
    serial: int
    volume_uuid: bytes
    start: Lsn
    created_ns: int


class FrameHeader(NamedTuple):
    """The head of a frame of so many ``items`` (keys, or batches); whether it is sound, ``is_sound`` tells."""

    codec: int
    is_footer: bool
    number: int
    stored_bytes: int
    raw_bytes: int
    items: int

    @property
    def size(self) -> int:
        """Length of the whole frame."""
        return FRAME_HEADER_BYTES + self.stored_bytes


class Footer(NamedTuple):
    """What a whole snapshot holds. ``items``: keys or batches."""

    frames: int
    items: int
    raw_bytes: int
    start: Lsn
    end: Lsn


_KIND_NUMBERS = {SnapshotKind.FULL: 1, SnapshotKind.INCREMENT: 2}


def parse_name(name: str) -> SnapshotName | None:
    """What a file name says, or None if it is not a whole snapshot's."""
    match = _NAME.match(name)
    if match is None:
        return None
    return SnapshotName(SnapshotKind(match[1]), Lsn(int(match[2], 16)), Lsn(int(match[3], 16)), int(match[4], 16))


def unfinished_name(serial: int) -> str:
    """Name of a file that is being written."""
    return f"{SNAPSHOT_PREFIX}new-{serial:08x}"


def is_unfinished(name: str) -> bool:
    """Whether a file was being written when it got its name."""
    return _UNFINISHED_NAME.match(name) is not None


def pack_header(header: SnapshotHeader) -> bytes:
    """The first SNAPSHOT_HEADER_BYTES of a file."""
    fields = _fields_of(header)
    return (fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))).ljust(SNAPSHOT_HEADER_BYTES, b"\0")


def parse_header(data: Buffer) -> SnapshotHeader | None:
    """The header, or None if there is no sound one of a version that is known."""
    if len(data) < SNAPSHOT_HEADER_BYTES:
        return None
    magic, version, number, reserved, serial, volume_uuid, start, created_ns = _HEADER.unpack_from(data)
    if magic != SNAPSHOT_MAGIC or version != SNAPSHOT_VERSION or reserved:
        return None
    kind = next((kind for kind, known in _KIND_NUMBERS.items() if known == number), None)
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if kind is None or checksum != xxh3_64_intdigest(memoryview(data)[: _HEADER.size]):
        return None
    return SnapshotHeader(kind, serial, volume_uuid, Lsn(start), created_ns)


def frame_seed(header: SnapshotHeader) -> int:
    """The seed of the checksums of all frames of a snapshot."""
    return int(xxh3_64_intdigest(_fields_of(header)))


def pack_body(body: bytes) -> tuple[Codec, bytes]:
    """A body as it is stored: compressed, where that makes it shorter. Takes a millisecond for each 100 KiB."""
    assert len(body) <= BODY_BYTES_MAX
    packed = zlib.compress(body, COMPRESSION_LEVEL)
    return (Codec.ZLIB, packed) if len(packed) < len(body) else (Codec.PLAIN, body)


def pack_frame(number: int, items: int, raw_bytes: int, codec: Codec, stored: bytes, seed: int) -> bytes:
    """A frame around a body that ``pack_body`` has made."""
    return _pack_frame(codec, False, number, items, raw_bytes, stored, seed)


def pack_footer(footer: Footer, seed: int) -> bytes:
    """The frame that ends a file."""
    body = _FOOTER.pack(*footer)
    return _pack_frame(Codec.PLAIN, True, footer.frames, 1, len(body), body, seed)


def parse_frame_header(data: Buffer, number: int) -> FrameHeader | None:
    """The head of frame ``number`` if it may be one; its checksum is not looked at."""
    if len(data) < FRAME_HEADER_BYTES:
        return None
    magic, codec, is_footer, reserved, found, stored_bytes, raw_bytes, items = _FRAME.unpack_from(data)
    if magic != FRAME_MAGIC or codec > 1 or is_footer > 1 or reserved or found != number:
        return None
    if max(stored_bytes, raw_bytes) > BODY_BYTES_MAX:
        return None
    return FrameHeader(codec, is_footer == 1, number, stored_bytes, raw_bytes, items)


def is_sound(header: FrameHeader, frame: Buffer, seed: int) -> bool:
    """Whether the bytes of a whole frame match its checksum."""
    if len(frame) != header.size:
        return False
    (checksum,) = _CHECKSUM.unpack_from(frame, _FRAME.size)
    return bool(checksum == _frame_checksum(frame, seed))


def unpack_body(header: FrameHeader, frame: Buffer) -> bytes:
    """The body of a sound frame as it was before it was packed."""
    stored = bytes(memoryview(frame)[FRAME_HEADER_BYTES:])
    if header.codec == Codec.PLAIN:
        return stored
    try:
        body = zlib.decompress(stored)
    except zlib.error as error:
        raise FormatInvalid(f"frame {header.number} of a snapshot cannot be decompressed: {error}") from error
    if len(body) != header.raw_bytes:
        raise FormatInvalid(f"frame {header.number} of a snapshot has {len(body)} bytes, not {header.raw_bytes}")
    return body


def parse_footer(frame: Buffer) -> Footer:
    """What a sound footer frame says."""
    if len(frame) != FRAME_HEADER_BYTES + _FOOTER.size:
        raise FormatInvalid("the footer of a snapshot has another length")
    frames, items, raw_bytes, start, end = _FOOTER.unpack_from(frame, FRAME_HEADER_BYTES)
    return Footer(frames, items, raw_bytes, Lsn(start), Lsn(end))


def _fields_of(header: SnapshotHeader) -> bytes:
    assert len(header.volume_uuid) == 16
    return _HEADER.pack(
        SNAPSHOT_MAGIC,
        SNAPSHOT_VERSION,
        _KIND_NUMBERS[header.kind],
        0,
        header.serial,
        header.volume_uuid,
        header.start,
        header.created_ns,
    )


def _pack_frame(
    codec: Codec, is_footer: bool, number: int, items: int, raw_bytes: int, stored: bytes, seed: int
) -> bytes:
    fields = _FRAME.pack(FRAME_MAGIC, codec, is_footer, 0, number, len(stored), raw_bytes, items)
    digest = xxh3_64(fields, seed=seed)
    digest.update(stored)
    return b"".join((fields, _CHECKSUM.pack(digest.intdigest()), stored))


def _frame_checksum(frame: Buffer, seed: int) -> int:
    view = memoryview(frame)
    digest = xxh3_64(view[: _FRAME.size], seed=seed)
    digest.update(view[FRAME_HEADER_BYTES:])
    return digest.intdigest()
