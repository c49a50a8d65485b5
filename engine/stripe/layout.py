"""Where a stripe's bytes are: pure arithmetic over slabs, stripes, units and checksum blocks.

A slab is k+m chunk files on k+m different disks. A stripe takes a run of rows in the k data chunks of its slab and one
as long in the m parity chunks, mostly the same rows. Unit j < k holds data bytes [j * unit_bytes, (j + 1) *
unit_bytes), units k ... k+m-1 hold parity. Unit j is contiguous on its disk. What the data units hold after
``data_bytes`` is zero.

Parity lies in rows of its own so that a stripe can get new parity without touching the old (docs/decisions/0005):
parity chunks have a few rows more than data chunks, so that there is room for that in a full slab, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from siltstone.limits import CHECKSUM_BLOCK_BYTES, ROW_BYTES, UNIT_BYTES_MAX, UNITS_MAX
from siltstone.types import DiskId, SlabId, StripeId, make_stripe_id, row_of, slab_of

CHECKSUM_BYTES = 8
"""xxh3-64, little endian."""

CHUNK_PREFIX = "slab/"
"""Chunk files of a disk have names that start so."""


SAME_ROWS = -1
"""As the parity row of a stripe: its parity starts at the row where its data starts."""

SPARE_ROWS_SHARE = 256
"""One row in so many is spare in new slabs,"""

SPARE_ROWS_MIN = 4
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


GROUP_ROWS = CHECKSUM_BLOCK_BYTES // ROW_BYTES
"""A stripe can be split between rows where a checksum block ends in every unit: after each so many rows."""


class StripePart(NamedTuple):
    """A stripe that was some rows of a longer one."""

    stripe_id: StripeId
    stripe: Stripe
    checksums: bytes


def split_stripe(
    slab: Slab, stripe_id: StripeId, stripe: Stripe, checksums: bytes, cuts: Sequence[int]
) -> list[StripePart]:
    """The stripes that a stripe is when it is cut before some of its rows, in order. Nothing changes on the disks: a
    code works byte by byte, so some rows of all units are a stripe by themselves, parity and checksums included.

    ``cuts``: row numbers inside the stripe, multiples of GROUP_ROWS.
    """
    borders = [0, *cuts, stripe.rows]
    assert all(low < high for low, high in pairwise(borders))
    assert all(cut % GROUP_ROWS == 0 for cut in cuts)
    blocks = blocks_per_unit(stripe.unit_bytes)
    parts: list[StripePart] = []
    for low, high in pairwise(borders):
        unit_bytes = (high - low) * ROW_BYTES
        parity_row = SAME_ROWS if stripe.parity_row == SAME_ROWS else stripe.parity_row + low
        first, count = low // GROUP_ROWS, blocks_per_unit(unit_bytes)
        digests = b"".join(
            checksums[(unit * blocks + first) * CHECKSUM_BYTES : (unit * blocks + first + count) * CHECKSUM_BYTES]
            for unit in range(len(slab.disks))
        )
        part = Stripe(unit_bytes, slab.data_units * unit_bytes, parity_row, stripe.written)
        parts.append(StripePart(make_stripe_id(slab_of(stripe_id), row_of(stripe_id) + low), part, digests))
    return parts


class SplitRange(NamedTuple):
    """Where a piece of a range of a stripe's data lies when the stripe is split."""

    part: int
    offset: int
    size: int


def split_range(stripe: Stripe, cuts: Sequence[int], offset: int, size: int) -> list[SplitRange]:
    """Data bytes [offset, offset + size) of a stripe, as pieces in the parts that ``split_stripe`` makes of it, in the
    order of the bytes. Pieces that follow each other in one part are one."""
    borders = [row * ROW_BYTES for row in (0, *cuts, stripe.rows)]
    pieces: list[SplitRange] = []
    for unit, inner, length in unit_ranges(stripe, offset, size):
        end = inner + length
        while inner < end:
            part = bisect_right(borders, inner) - 1
            step = min(end, borders[part + 1]) - inner
            at = unit * (borders[part + 1] - borders[part]) + inner - borders[part]
            if pieces and pieces[-1].part == part and pieces[-1].offset + pieces[-1].size == at:
                pieces[-1] = SplitRange(part, pieces[-1].offset, pieces[-1].size + step)
            else:
                pieces.append(SplitRange(part, at, step))
            inner += step
    return pieces


__all__ = [
    "CHECKSUM_BYTES",
    "CHUNK_PREFIX",
    "GROUP_ROWS",
    "SAME_ROWS",
    "SPARE_ROWS_MIN",
    "SPARE_ROWS_SHARE",
    "Slab",
    "SplitRange",
    "Stripe",
    "StripePart",
    "UnitRange",
    "blocks_per_unit",
    "checksums_bytes",
    "chunk_name",
    "parity_row_of",
    "parse_chunk_name",
    "slab_of",
    "spare_rows_of",
    "split_range",
    "split_stripe",
    "unit_bytes_for",
    "unit_offset",
    "unit_ranges",
    "units_in",
]
