"""A frame of the log, bytes <-> values. Pure; nothing else knows these offsets (docs/formats/log.md).

A frame is ``header (64 bytes) | payload | body | zeros up to a multiple of 8``. The checksums of a frame are seeded
with the volume's uuid, and its header says at which LSN and in which epoch it was written, so that neither an old life
of a recycled file nor a user's file that happens to look like a log passes for a frame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from siltstone.limits import FRAME_BYTES_MAX
from siltstone.types import Buffer, Lsn

FRAME_MAGIC = b"SiFr"
FRAME_VERSION = 1
FRAME_HEADER_BYTES = 64
FRAME_ALIGN_BYTES = 8

_FIELDS = struct.Struct("<4sBBHIIIIQQQQ")
_CHECKSUM = struct.Struct("<Q")
_UNPADDED_BYTES = _FIELDS.size

assert _FIELDS.size + _CHECKSUM.size == FRAME_HEADER_BYTES
assert FRAME_HEADER_BYTES % FRAME_ALIGN_BYTES == 0


class Frame(NamedTuple):
    """One appended batch as recovery hands it on. ``end_lsn`` is the LSN of the next frame."""

    lsn: Lsn
    end_lsn: Lsn
    kind: int
    payload_lsn: Lsn
    payload_bytes: int
    body: bytes


class FrameHeader(NamedTuple):
    """The fields of a header whose checksum holds."""

    kind: int
    epoch: int
    payload_bytes: int
    body_bytes: int
    lsn: Lsn
    durable_lsn: Lsn
    payload_checksum: int
    body_checksum: int

    @property
    def size(self) -> int:
        """Length of the whole frame."""
        return frame_bytes(self.payload_bytes, self.body_bytes)


def volume_seed(volume_uuid: bytes) -> int:
    """The seed of every checksum in the log of this volume."""
    assert len(volume_uuid) == 16
    return xxh3_64_intdigest(volume_uuid)


def frame_bytes(payload_bytes: int, body_bytes: int) -> int:
    """Length of a frame with that much payload and body, padding included."""
    return (FRAME_HEADER_BYTES + payload_bytes + body_bytes + 7) & ~7


def payload_checksum(payload: Sequence[Buffer], seed: int) -> int:
    """The checksum over the buffers of a payload, as if they were one."""
    if len(payload) == 1:
        return xxh3_64_intdigest(payload[0], seed)
    digest = xxh3_64(seed=seed)
    for buffer in payload:
        digest.update(buffer)
    return digest.intdigest()


def body_checksum(body: Buffer, seed: int) -> int:
    """The checksum over a body."""
    return xxh3_64_intdigest(body, seed)


def pack_header(
    *,
    kind: int,
    epoch: int,
    payload_bytes: int,
    body_bytes: int,
    lsn: Lsn,
    durable_lsn: Lsn,
    payload_checksum: int,
    body_checksum: int,
    seed: int,
) -> bytes:
    """The 64 bytes of a header. ``durable_lsn`` is how far the log was durable when the frame was written."""
    assert durable_lsn <= lsn
    fields = _FIELDS.pack(
        FRAME_MAGIC,
        FRAME_VERSION,
        kind,
        0,
        epoch,
        payload_bytes,
        body_bytes,
        0,
        lsn,
        durable_lsn,
        payload_checksum,
        body_checksum,
    )
    return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields, seed))


def parse_header(data: Buffer, offset: int, seed: int) -> FrameHeader | None:
    """The header at ``offset`` of ``data``, or None if there is no sound one there."""
    if len(data) - offset < FRAME_HEADER_BYTES:
        return None
    magic, version, kind, reserved, epoch, payload, body, reserved_too, lsn, durable, payload_sum, body_sum = (
        _FIELDS.unpack_from(data, offset)
    )
    if magic != FRAME_MAGIC or version != FRAME_VERSION or reserved or reserved_too:
        return None
    (checksum,) = _CHECKSUM.unpack_from(data, offset + _UNPADDED_BYTES)
    if checksum != xxh3_64_intdigest(memoryview(data)[offset : offset + _UNPADDED_BYTES], seed):
        return None
    if frame_bytes(payload, body) > FRAME_BYTES_MAX or durable > lsn:
        return None
    return FrameHeader(kind, epoch, payload, body, Lsn(lsn), Lsn(durable), payload_sum, body_sum)


def contents_are_sound(header: FrameHeader, data: Buffer, offset: int, seed: int) -> bool:
    """Whether payload and body of the frame at ``offset`` match the checksums in its header."""
    assert len(data) - offset >= header.size
    view = memoryview(data)
    payload_start = offset + FRAME_HEADER_BYTES
    body_start = payload_start + header.payload_bytes
    body_end = body_start + header.body_bytes
    return (
        xxh3_64_intdigest(view[body_start:body_end], seed) == header.body_checksum
        and xxh3_64_intdigest(view[payload_start:body_start], seed) == header.payload_checksum
        and not any(view[body_end : offset + header.size])
    )
