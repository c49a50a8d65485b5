"""The checksum record of a stripe: one xxh3-64 for every CHECKSUM_BLOCK_BYTES of every unit. Pure.

The record lives in the metadata, apart from the bytes it guards: for each unit in order, for each of its blocks, eight
bytes, little endian. The last block of a unit is shorter when the unit is not a whole number of blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

from siltstone.engine.stripe.layout import CHECKSUM_BYTES
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.types import Buffer


def checksums_of(units: Iterable[Buffer]) -> bytes:
    """The checksums of whole units, one after the other."""
    return b"".join([_checksums(unit) for unit in units])


def is_intact(data: Buffer, checksums: Buffer, index: int) -> bool:
    """Whether ``data``, which starts at a block border, has the checksums from number ``index`` on."""
    found = _checksums(data)
    expected = checksums[index * CHECKSUM_BYTES : index * CHECKSUM_BYTES + len(found)]
    assert len(expected) == len(found), "the checksum record covers the data"
    return found == expected


def damaged_blocks(data: Buffer, checksums: Buffer, index: int) -> list[int]:
    """Which blocks of ``data`` do not have their checksum, counted from its start."""
    found = _checksums(data)
    first = index * CHECKSUM_BYTES
    assert len(checksums) >= first + len(found), "the checksum record covers the data"
    return [
        at // CHECKSUM_BYTES
        for at in range(0, len(found), CHECKSUM_BYTES)
        if found[at : at + CHECKSUM_BYTES] != checksums[first + at : first + at + CHECKSUM_BYTES]
    ]


def _checksums(data: Buffer) -> bytes:
    view = memoryview(data)
    size = len(view)
    if size <= CHECKSUM_BLOCK_BYTES:
        return xxh3_64_intdigest(view).to_bytes(CHECKSUM_BYTES, "little")
    digests = [xxh3_64_intdigest(view[at : at + CHECKSUM_BLOCK_BYTES]) for at in range(0, size, CHECKSUM_BLOCK_BYTES)]
    return struct.pack(f"<{len(digests)}Q", *digests)
