"""The label of a disk, bytes <-> value. Pure (docs/formats/superblock.md).

A copy, on every disk, of what the volume's HOME holds besides the metadata. The serial number tells the newest; what
the text says is not known here.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from siltstone.errors import FormatInvalid
from siltstone.limits import MIB
from siltstone.types import Buffer

LABEL_NAME = "label"
LABEL_MAGIC = b"SiltLabl"
LABEL_VERSION_BARE = 1
"""Of one that has no share."""
LABEL_VERSION = 2
LABEL_BYTES_MAX = 16 * MIB

_FIELDS = struct.Struct("<8sHHI16sQ")
_CHECKSUM = struct.Struct("<Q")


class Label(NamedTuple):
    """What every disk of a volume says of it."""

    volume_uuid: bytes
    serial: int
    text: bytes
    share: bytes = b""
    """What this disk alone has of it."""


def pack_label(label: Label) -> bytes:
    """The bytes of the file."""
    assert len(label.volume_uuid) == 16
    assert len(label.share) < 1 << 16
    assert label.serial >= 0
    assert len(label.text) <= LABEL_BYTES_MAX
    version = LABEL_VERSION if label.share else LABEL_VERSION_BARE
    fields = _FIELDS.pack(LABEL_MAGIC, version, len(label.share), len(label.text), label.volume_uuid, label.serial)
    rest = label.share + label.text
    return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields + rest)) + rest


def parse_label(data: Buffer) -> Label:
    """The value; raises FormatInvalid with what is wrong."""
    head_bytes = _FIELDS.size + _CHECKSUM.size
    if len(data) < head_bytes:
        raise FormatInvalid(f"label of {len(data)} bytes: too short")
    magic, version, share_size, size, volume_uuid, serial = _FIELDS.unpack_from(data)
    if magic != LABEL_MAGIC:
        raise FormatInvalid("not the label of a Siltstone disk")
    if version not in (LABEL_VERSION_BARE, LABEL_VERSION):
        raise FormatInvalid(f"label version {version}: this version of siltstone knows those up to {LABEL_VERSION}")
    if version == LABEL_VERSION_BARE and share_size:
        raise FormatInvalid("a label of version 1 has no share")
    (checksum,) = _CHECKSUM.unpack_from(data, _FIELDS.size)
    rest = bytes(memoryview(data)[head_bytes : head_bytes + share_size + size])
    if len(rest) != share_size + size or checksum != xxh3_64_intdigest(bytes(memoryview(data)[: _FIELDS.size]) + rest):
        raise FormatInvalid("label does not match its checksum")
    return Label(volume_uuid, serial, rest[share_size:], rest[:share_size])
