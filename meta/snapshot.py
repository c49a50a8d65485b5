"""What is in the frames of a snapshot, values <-> bytes. Pure (docs/formats/snapshot.md).

A frame of a full snapshot is a batch of puts in ascending order; one of an increment is a row of batches, each with the
LSN at which its frame of the log ended.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from siltstone.errors import FormatInvalid
from siltstone.meta.store.batch import decode_batch, encode_batch
from siltstone.types import Lsn

_BATCH = struct.Struct("<QI")


class LoggedBatch(NamedTuple):
    """The body of a batch, and where its frame of the log ended."""

    end_lsn: Lsn
    body: bytes


def pack_entries(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A frame's body that holds these keys and values."""
    return encode_batch(dict(entries))


def unpack_entries(body: bytes) -> list[tuple[bytes, bytes]]:
    """The keys and values in a frame of a full snapshot. Raises FormatInvalid."""
    entries: list[tuple[bytes, bytes]] = []
    for key, value in decode_batch(body).items():
        if value is None:
            raise FormatInvalid("a full snapshot deletes a key")
        entries.append((key, value))
    return entries


def pack_batches(batches: Sequence[LoggedBatch]) -> bytes:
    """A frame's body that holds these batches."""
    parts: list[bytes] = []
    for end_lsn, body in batches:
        parts += _BATCH.pack(end_lsn, len(body)), body
    return b"".join(parts)


def unpack_batches(body: bytes) -> Iterator[LoggedBatch]:
    """The batches in a frame of an increment, in order. Raises FormatInvalid."""
    position = 0
    while position < len(body):
        try:
            end_lsn, size = _BATCH.unpack_from(body, position)
        except struct.error as error:
            raise FormatInvalid(f"an increment of {len(body)} bytes is cut short: {error}") from error
        position += _BATCH.size
        if position + size > len(body):
            raise FormatInvalid(f"an increment of {len(body)} bytes is cut short")
        yield LoggedBatch(Lsn(end_lsn), body[position : position + size])
        position += size
