"""Notes: what a batch changed, said in the batch itself, for who reads the log (docs/decisions/0030).

Batches hold new values only. The note of a batch adds what its names, inodes and versions were before. It is the value
of one key, which each batch overwrites: the log, and the increments that take it over, keep them all, and the store
keeps but the last.

A note is ``flags (u8) | lengths (i32 each, -1: there was none) | values``, little endian; one length for each key of
the batch that is noted, in the order of the batch.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from typing import NamedTuple

from siltstone.errors import FormatInvalid
from siltstone.meta import keys

NOTED = frozenset((keys.DENTRY, keys.INODE, keys.VERSION))
"""Kinds of records whose old values are noted."""

OF_OBJECTS = 1
"""A flag: the change came through S3."""

_PARTITION_KEY = ord("p")
_NONE = -1


class Noted(NamedTuple):
    """A record that a batch changed; None: there was, or is, none."""

    key: bytes
    old: bytes | None
    new: bytes | None


class Note(NamedTuple):
    """What a batch says that it changed, in the order of the batch."""

    flags: int
    changes: list[Noted]


@functools.cache
def head_of(count: int) -> struct.Struct:
    """Flags and lengths of a note about so many keys."""
    return struct.Struct(f"<B{count}i")


def encode_note(writes: Mapping[bytes, bytes | None], reads: Mapping[bytes, bytes | None], flags: int) -> bytes | None:
    """The note of a batch; None if it changes nothing that is noted. ``reads``: what its transaction has read: nothing
    that is there is written without having been read."""
    olds = [reads.get(key) for key in writes if key[2:3] in NOTED and key[0] == _PARTITION_KEY]
    if not olds:
        return None
    lengths = [_NONE if old is None else len(old) for old in olds]
    return b"".join([head_of(len(olds)).pack(flags, *lengths), *filter(None, olds)])


def read_note(batch: Mapping[bytes, bytes | None]) -> Note | None:
    """The note of a batch; None if it has none. Raises FormatInvalid."""
    value = batch.get(keys.NOTE)
    if value is None:
        return None
    noted = [key for key in batch if is_noted(key)]
    try:
        flags, *lengths = head_of(len(noted)).unpack_from(value)
    except struct.error as error:
        raise FormatInvalid(f"a note of {len(value)} bytes for {len(noted)} keys is cut short: {error}") from error
    position = 1 + 4 * len(noted)
    changes: list[Noted] = []
    for key, length in zip(noted, lengths, strict=True):
        old = None
        if length != _NONE:
            old = value[position : position + length]
            position += length
        changes.append(Noted(key, old, batch[key]))
    if position != len(value):
        raise FormatInvalid(f"a note of {len(value)} bytes should have {position}")
    return Note(flags, changes)


def is_noted(key: bytes) -> bool:
    """Whether the old value of a key is noted."""
    return key[2:3] in NOTED and key[0] == _PARTITION_KEY
