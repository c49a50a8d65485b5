"""The header of a segment file and the names of the log's files, bytes <-> values. Pure (docs/formats/log.md).

The name says which part of the log a file holds. The first sector repeats it and carries what changes: whether the
segment is *established* (every disk of it was seen to have its header, so frames may be in it), and the *mark*, a
durable LSN noted on every disk of it. The sectors after it hold the *lineage*: the living segments that come before
this one, so that the newest established segment alone says what the log consists of.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from siltstone.types import Buffer, Lsn

SEGMENT_MAGIC = b"SiSg"
SEGMENT_VERSION = 1
SEGMENT_HEADER_BYTES = 4096
"""Frames start here. A page, so that the header's rewrites never touch a page that holds frames."""

SECTOR_BYTES = 512
"""What a disk writes whole or not at all. The part of the header that is rewritten is one sector."""

LOG_PREFIX = "log/"
FREE_PREFIX = "log/free-"

_FIELDS = struct.Struct("<4sBBHI16sQQ")
_CHECKSUM = struct.Struct("<Q")
_LINEAGE = struct.Struct("<QII")
_ANCESTOR = struct.Struct("<QQI")
_NAME = re.compile(r"log/([0-9a-f]{16})-([0-9a-f]{8})\Z")
_FREE_NAME = re.compile(r"log/free-([0-9a-f]{8})\Z")

LINEAGE_COUNT_MAX = (SEGMENT_HEADER_BYTES - SECTOR_BYTES - _LINEAGE.size) // _ANCESTOR.size
"""Ancestors that a header has room for; of more only the newest are named, and the lineage says that it is cut."""

assert _FIELDS.size + _CHECKSUM.size <= SECTOR_BYTES


class SegmentHeader(NamedTuple):
    """The first sector. ``marked_lsn``: durable on every disk of the segment when it was noted."""

    volume_uuid: bytes
    epoch: int
    start: Lsn
    is_established: bool
    marked_lsn: Lsn


class Ancestor(NamedTuple):
    """A living segment that comes before: it holds [start, end)."""

    start: Lsn
    end: Lsn
    epoch: int


class Lineage(NamedTuple):
    """The living segments before this one, oldest first. ``is_cut``: there may be older ones."""

    ancestors: tuple[Ancestor, ...]
    is_cut: bool


class SegmentName(NamedTuple):
    """The part of the log that a file holds."""

    start: Lsn
    epoch: int


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The first sector of a segment file."""
    assert len(header.volume_uuid) == 16
    assert header.start <= header.marked_lsn
    fields = _FIELDS.pack(
        SEGMENT_MAGIC,
        SEGMENT_VERSION,
        header.is_established,
        0,
        header.epoch,
        header.volume_uuid,
        header.start,
        header.marked_lsn,
    )
    return (fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))).ljust(SECTOR_BYTES, b"\0")


def parse_segment_header(page: Buffer) -> SegmentHeader | None:
    """The header in the first sector of a file, or None if there is no sound one."""
    if len(page) < SECTOR_BYTES:
        return None
    magic, version, established, reserved, epoch, volume_uuid, start, marked = _FIELDS.unpack_from(page)
    if magic != SEGMENT_MAGIC or version != SEGMENT_VERSION or established > 1 or reserved or marked < start:
        return None
    (checksum,) = _CHECKSUM.unpack_from(page, _FIELDS.size)
    if checksum != xxh3_64_intdigest(memoryview(page)[: _FIELDS.size]):
        return None
    return SegmentHeader(volume_uuid, epoch, Lsn(start), established == 1, Lsn(marked))


def pack_lineage(ancestors: Sequence[Ancestor]) -> bytes:
    """The sectors of the header page after the first one. Of too many ancestors, the newest are kept."""
    kept = ancestors[-LINEAGE_COUNT_MAX:]
    entries = b"".join(_ANCESTOR.pack(*ancestor) for ancestor in kept)
    counts = struct.pack("<II", len(kept), len(kept) < len(ancestors))
    head = _CHECKSUM.pack(xxh3_64_intdigest(counts + entries))
    return (head + counts + entries).ljust(SEGMENT_HEADER_BYTES - SECTOR_BYTES, b"\0")


def parse_lineage(page: Buffer) -> Lineage | None:
    """The lineage in the first page of a file, or None if there is no sound one."""
    if len(page) < SEGMENT_HEADER_BYTES:
        return None
    checksum, count, cut = _LINEAGE.unpack_from(page, SECTOR_BYTES)
    if count > LINEAGE_COUNT_MAX or cut > 1:
        return None
    entries = memoryview(page)[SECTOR_BYTES + _LINEAGE.size :][: count * _ANCESTOR.size]
    counts = memoryview(page)[SECTOR_BYTES + _CHECKSUM.size : SECTOR_BYTES + _LINEAGE.size]
    if checksum != xxh3_64_intdigest(bytes(counts) + bytes(entries)):
        return None
    ancestors = [Ancestor(Lsn(start), Lsn(end), epoch) for start, end, epoch in _ANCESTOR.iter_unpack(entries)]
    return Lineage(tuple(ancestors), cut == 1)


def segment_name(start: Lsn, epoch: int) -> str:
    """Name of a segment's file, the same on each of its disks."""
    return f"log/{start:016x}-{epoch:08x}"


def parse_segment_name(name: str) -> SegmentName | None:
    """What a file name says, or None if it is not a segment's."""
    match = _NAME.match(name)
    return SegmentName(Lsn(int(match[1], 16)), int(match[2], 16)) if match else None


def free_name(serial: int) -> str:
    """Name of a file that waits to become a segment."""
    return f"{FREE_PREFIX}{serial:08x}"


def parse_free_name(name: str) -> int | None:
    """The serial number of a waiting file, or None if it is not one."""
    match = _FREE_NAME.match(name)
    return int(match[1], 16) if match else None
