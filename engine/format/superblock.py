"""The superblock of a disk, bytes <-> value. Pure (docs/formats/superblock.md).

It says which disk of which volume a directory is, so that disks that were swapped, or put back late, are told apart.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from siltstone.errors import FormatInvalid
from siltstone.limits import DISKS_MAX, ROW_BYTES, UNITS_MAX
from siltstone.types import Buffer, DiskId

SUPERBLOCK_NAME = "superblock"
SUPERBLOCK_MAGIC = b"SiltDisk"
SUPERBLOCK_VERSION = 1
SUPERBLOCK_BYTES = 4096

_FIELDS = struct.Struct("<8sHHHBB16s16sQQ")
_CHECKSUM = struct.Struct("<Q")

assert _FIELDS.size + _CHECKSUM.size <= SUPERBLOCK_BYTES


class Superblock(NamedTuple):
    """What a disk says of itself. The geometry is the volume's when the disk was made: it helps to rebuild a volume
    whose home is lost, and decides nothing else. ``created_ns``: nanoseconds since the epoch.
    """

    volume_uuid: bytes
    disk_uuid: bytes
    disk_id: DiskId
    disk_count: int
    data_units: int
    parity_units: int
    chunk_bytes: int
    created_ns: int


def pack_superblock(superblock: Superblock) -> bytes:
    """The SUPERBLOCK_BYTES that a disk holds."""
    assert len(superblock.volume_uuid) == 16
    assert len(superblock.disk_uuid) == 16
    assert 0 <= superblock.disk_id < 1 << 16
    assert 1 <= superblock.disk_count <= DISKS_MAX
    assert superblock.data_units >= 1 and superblock.parity_units >= 0
    assert superblock.data_units + superblock.parity_units <= UNITS_MAX
    assert superblock.chunk_bytes > 0 and superblock.chunk_bytes % ROW_BYTES == 0
    assert superblock.created_ns >= 0
    fields = _FIELDS.pack(
        SUPERBLOCK_MAGIC,
        SUPERBLOCK_VERSION,
        superblock.disk_id,
        superblock.disk_count,
        superblock.data_units,
        superblock.parity_units,
        superblock.volume_uuid,
        superblock.disk_uuid,
        superblock.chunk_bytes,
        superblock.created_ns,
    )
    return (fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))).ljust(SUPERBLOCK_BYTES, b"\0")


def parse_superblock(data: Buffer) -> Superblock:
    """The value; raises FormatInvalid with what is wrong."""
    if len(data) < _FIELDS.size + _CHECKSUM.size:
        raise FormatInvalid(f"superblock of {len(data)} bytes: too short")
    magic, version, disk_id, disk_count, k, m, volume_uuid, disk_uuid, chunk_bytes, created_ns = _FIELDS.unpack_from(
        data
    )
    if magic != SUPERBLOCK_MAGIC:
        raise FormatInvalid("not the superblock of a Siltstone disk")
    if version != SUPERBLOCK_VERSION:
        raise FormatInvalid(f"superblock version {version}: this version of siltstone knows {SUPERBLOCK_VERSION}")
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    if checksum != xxh3_64_intdigest(memoryview(data)[: _FIELDS.size]):
        raise FormatInvalid("superblock does not match its checksum")
    geometry_is_sound = k >= 1 and k + m <= UNITS_MAX and 1 <= disk_count <= DISKS_MAX
    if not geometry_is_sound or chunk_bytes == 0 or chunk_bytes % ROW_BYTES:
        raise FormatInvalid(f"superblock with impossible values: {k}+{m}, {disk_count} disks, chunks of {chunk_bytes}")
    return Superblock(volume_uuid, disk_uuid, DiskId(disk_id), disk_count, k, m, chunk_bytes, created_ns)


def is_rotten(data: Buffer) -> bool:
    """Whether this was a superblock of the version that is known, and is damaged; or is none at all.

    A sound one, whoever's, is not rotten; nor may be one of a newer version, whose checksum may cover other bytes.
    """
    try:
        parse_superblock(data)
    except FormatInvalid:
        fields = bytearray(data)
        if len(fields) < _FIELDS.size + _CHECKSUM.size or fields[: len(SUPERBLOCK_MAGIC)] != SUPERBLOCK_MAGIC:
            return True
        version = fields[len(SUPERBLOCK_MAGIC) : len(SUPERBLOCK_MAGIC) + 2]
        if version == SUPERBLOCK_VERSION.to_bytes(2, "little"):
            return True
        fields[len(SUPERBLOCK_MAGIC) : len(SUPERBLOCK_MAGIC) + 2] = SUPERBLOCK_VERSION.to_bytes(2, "little")
        (checksum,) = _CHECKSUM.unpack_from(fields, _FIELDS.size)
        return bool(checksum == xxh3_64_intdigest(memoryview(fields)[: _FIELDS.size]))  # rot in the version itself
    return False
