"""The shape of a new volume: which erasure code so many disks get, and how long segments and chunks are. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from siltstone.errors import ConfigInvalid
from siltstone.limits import CHUNK_BYTES_DEFAULT, GIB, LOG_REPLICAS, LOG_SEGMENTS_MIN, MIB, SEGMENT_BYTES_DEFAULT

DISK_BYTES_MIN = 128 * MIB
PIECE_BYTES_MIN = 1 * MIB
PIECES_PER_DISK = 256
"""Segments and chunks are at most this fraction of a disk: three are kept in reserve on each (limits.RESERVE_CHUNKS),
and that should be little of it."""

LOG_SHARE = 40
"""The log's copies may take one part in so many of the raw space before writers wait for settle."""


class Code(NamedTuple):
    """An erasure code: any ``parity_units`` disks of a stripe may be lost."""

    data_units: int
    parity_units: int

    def __str__(self) -> str:
        return f"{self.data_units}+{self.parity_units}"


class Sizes(NamedTuple):
    """Lengths in bytes that depend on the room there is."""

    segment_bytes: int
    chunk_bytes: int
    log_bytes_high: int
    log_bytes_low: int


def parse_code(text: str) -> Code:
    """ "4+2" -> Code(4, 2). Raises ConfigInvalid."""
    match = re.fullmatch(r"([0-9]{1,3})\+([0-9]{1,3})", text)
    if match is None or not int(match[1]):
        raise ConfigInvalid(f"erasure code {text!r}: want K+M, as in 4+2 (K data units, M that may be lost)")
    return Code(int(match[1]), int(match[2]))


def code_for(disk_count: int) -> Code:
    """What so many disks get when nobody says: 4+2 from six on, else the widest K+2 (K >= 2), else the widest K+1."""
    assert disk_count >= 1
    if disk_count >= 6:
        return Code(4, 2)
    parity_units = 2 if disk_count >= 4 else min(disk_count - 1, 1)
    return Code(disk_count - parity_units, parity_units)


def log_replicas_for(code: Code, disk_count: int) -> int:
    """Copies of the log: three, or one more than the disks that may be lost; never more than there are disks."""
    return min(max(LOG_REPLICAS, code.parity_units + 1), disk_count)


def sizes_for(disk_bytes: int, disk_count: int, log_replicas: int) -> Sizes:
    """Lengths for disks of at least ``disk_bytes`` each. Raises ConfigInvalid when that is too little."""
    if disk_bytes < DISK_BYTES_MIN:
        raise ConfigInvalid(f"{disk_bytes} bytes are too little for a disk: want at least {DISK_BYTES_MIN // MIB} MiB")
    piece_bytes = max(1 << ((disk_bytes // PIECES_PER_DISK).bit_length() - 1), PIECE_BYTES_MIN)
    segment_bytes = min(piece_bytes, SEGMENT_BYTES_DEFAULT)
    log_bytes_high = disk_bytes * disk_count // (LOG_SHARE * log_replicas)
    log_bytes_high = min(1 * GIB, max(log_bytes_high, LOG_SEGMENTS_MIN * segment_bytes))
    return Sizes(
        segment_bytes=segment_bytes,
        chunk_bytes=min(piece_bytes, CHUNK_BYTES_DEFAULT),
        log_bytes_high=log_bytes_high,
        log_bytes_low=log_bytes_high // 4,
    )


def parse_size(text: str) -> int:
    """ "10G" -> bytes; K, M, G, T are powers of 1,024, with or without "iB" or "B". Raises ConfigInvalid."""
    match = re.fullmatch(r"([0-9]{1,18})\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigInvalid(f"size {text!r}: want a number of bytes, or one with K, M, G or T, as in 10G")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))
