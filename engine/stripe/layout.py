"""Where a stripe's bytes are: pure arithmetic over slabs, stripes, units and checksum blocks.

A slab is k+m chunk files on k+m different disks. A stripe takes a run of rows in the k data chunks of its slab and one
as long in the m parity chunks, mostly the same rows. Unit j < k holds data bytes [j * unit_bytes, (j + 1) *
unit_bytes), units k ... k+m-1 hold parity. Unit j is contiguous on its disk. What the data units hold after
``data_bytes`` is zero.

Parity lies in rows of its own so that a stripe can get new parity without touching the old (docs/decisions/0005):
parity chunks have a few rows more than data chunks, so that there is room for that in a full slab, too.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from siltstone.limits import CHECKSUM_BLOCK_BYTES, ROW_BYTES, UNIT_BYTES_MAX, UNITS_MAX
from siltstone.types import DiskId, SlabId, StripeId, row_of, slab_of

CHECKSUM_BYTES = 8
"""xxh3-64, little endian."""

CHUNK_PREFIX = "slab/"
"""Chunk files of a disk have names that start so."""


SAME_ROWS = -1
"""As the parity row of a stripe: its parity starts at the row where its data starts."""

SPARE_ROWS_SHARE = 256
"""One row in so many is spare in new slabs,"""

SPARE_ROWS_MIN = 2
"""and no fewer, but in slabs so small that one in SPARE_ROWS_SHARE is none at all."""


class Slab(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The record of a slab: its code, its chunk size and the disk of each unit (index = unit).

    Data chunks are ``spare_rows`` rows shorter than ``chunk_bytes``, which is the size of parity chunks.
    """

    data_units: int
    parity_units: int
    chunk_bytes: int
    disks: tuple[DiskId, ...]
    spare_rows: int = 0

    @property
    def data_rows(self) -> int:
        """Rows of each data chunk."""
        return self.chunk_bytes // ROW_BYTES - self.spare_rows

    @property
    def parity_rows(self) -> int:
        """Rows of each parity chunk."""
        return self.chunk_bytes // ROW_BYTES

    @property
    def data_bytes(self) -> int:
        """What the data chunks hold together."""
        return self.data_rows * ROW_BYTES * self.data_units

    @property
    def raw_bytes(self) -> int:
        """All chunk files together."""
        return self.data_bytes + self.chunk_bytes * self.parity_units

    def file_bytes(self, unit: int) -> int:
        """Length of the chunk file of a unit."""
        return self.data_rows * ROW_BYTES if unit < self.data_units else self.chunk_bytes


class Stripe(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The record of a stripe. ``data_bytes`` is what was written of the ``k * unit_bytes`` there are room for.

    ``parity_row``: where its parity starts in the parity chunks, SAME_ROWS where its data does. ``written``: when, in
    seconds since the epoch; 0 if nobody noted it.
    """

    unit_bytes: int
    data_bytes: int
    parity_row: int = SAME_ROWS
    written: int = 0

    @property
    def rows(self) -> int:
        """Rows that each unit takes in its chunk."""
        return self.unit_bytes // ROW_BYTES


class UnitRange(NamedTuple):
    """A byte range inside one data unit."""

    unit: int
    offset: int
    size: int


def spare_rows_of(chunk_bytes: int) -> int:
    """How many rows longer parity chunks are than data chunks in new slabs: so many stripes of one row can get new
    parity at the same time while all other rows are taken."""
    spare_rows = chunk_bytes // ROW_BYTES // SPARE_ROWS_SHARE
    return max(spare_rows, SPARE_ROWS_MIN) if spare_rows else 0


def chunk_name(slab_id: SlabId, unit: int) -> str:
    """Name of a chunk file on its disk."""
    return f"{CHUNK_PREFIX}{slab_id:08x}.{unit}"


def parse_chunk_name(name: str) -> tuple[SlabId, int] | None:
    """(slab, unit) of a chunk file's name; None for any other name."""
    head, _, unit = name.removeprefix(CHUNK_PREFIX).partition(".")
    if len(head) < 8 or not unit.isascii() or not unit.isdecimal():
        return None
    try:
        slab_id = SlabId(int(head, 16))
    except ValueError:
        return None
    return (slab_id, int(unit)) if chunk_name(slab_id, int(unit)) == name else None


def parity_row_of(stripe_id: StripeId, stripe: Stripe) -> int:
    """The row where the parity units of a stripe start."""
    return row_of(stripe_id) if stripe.parity_row == SAME_ROWS else stripe.parity_row


def unit_offset(slab: Slab, stripe_id: StripeId, stripe: Stripe, unit: int) -> int:
    """Where a unit of a stripe starts in its chunk file, in bytes."""
    row = row_of(stripe_id) if unit < slab.data_units else parity_row_of(stripe_id, stripe)
    return row * ROW_BYTES


def unit_bytes_for(size: int, data_units: int) -> int:
    """The shortest unit that lets ``data_units`` of them hold ``size`` bytes; a whole number of rows.

    A stripe that is narrower than the volume's code has longer units, so that it holds as much.
    """
    assert 0 < size <= UNITS_MAX * UNIT_BYTES_MAX
    per_unit = -(-size // data_units)
    return -(-per_unit // ROW_BYTES) * ROW_BYTES


def blocks_per_unit(unit_bytes: int) -> int:
    """Checksum blocks of one unit; the last one may be shorter."""
    return -(-unit_bytes // CHECKSUM_BLOCK_BYTES)


def checksums_bytes(slab: Slab, stripe: Stripe) -> int:
    """Length of the checksum record of a stripe: for each unit in order, 8 bytes for each of its blocks."""
    units = slab.data_units + slab.parity_units
    return units * blocks_per_unit(stripe.unit_bytes) * CHECKSUM_BYTES


def units_in(checksums: bytes, stripe: Stripe) -> int:
    """Units of a stripe, told from its checksum record."""
    return len(checksums) // (blocks_per_unit(stripe.unit_bytes) * CHECKSUM_BYTES)


def unit_ranges(stripe: Stripe, offset: int, size: int) -> list[UnitRange]:
    """Split data bytes [offset, offset + size) of a stripe at the borders of its units."""
    assert offset >= 0 and size > 0
    ranges: list[UnitRange] = []
    end = offset + size
    while offset < end:
        unit, inner = divmod(offset, stripe.unit_bytes)
        step = min(end - offset, stripe.unit_bytes - inner)
        ranges.append(UnitRange(unit, inner, step))
        offset += step
    return ranges


__all__ = [
    "CHECKSUM_BYTES",
    "CHUNK_PREFIX",
    "SAME_ROWS",
    "SPARE_ROWS_MIN",
    "SPARE_ROWS_SHARE",
    "Slab",
    "Stripe",
    "UnitRange",
    "blocks_per_unit",
    "checksums_bytes",
    "chunk_name",
    "parity_row_of",
    "parse_chunk_name",
    "slab_of",
    "spare_rows_of",
    "unit_bytes_for",
    "unit_offset",
    "unit_ranges",
    "units_in",
]
