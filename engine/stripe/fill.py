"""Hole filling: new bytes in dead places of living stripes, without a write hole and without rewriting what lives.

A stripe whose dead bytes are to hold new ones gets (a) new parity in fresh parity rows, computed by the difference from
the old (RS is linear; ISA-L's ``ec_encode_data_update``), while data and old parity stay untouched. Then its owner (b)
makes a batch durable with the new record and checksums and with what is needed to redo the rest, and only then are (c)
the bytes written in place. Before (b) the old parity belongs to what is on the disks, after it the new parity belongs
to what is on the disks with the overlay; so at every instant any m disks may go. docs/decisions/0005 has the argument
and the cost: (m + j) / j writes for every cell filled, j being the cells filled in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.checksum import checksums_of
from siltstone.engine.stripe.codec import codec_for, xor
from siltstone.engine.stripe.layout import (
    CHECKSUM_BYTES,
    Slab,
    Stripe,
    chunk_name,
    parity_row_of,
    unit_offset,
    unit_ranges,
)
from siltstone.engine.stripe.reader import (
    Overlay,
    Span,
    StripeAddress,
    StripeReader,
    UnitPiece,
    blocks_around,
    changed_by,
)
from siltstone.engine.stripe.slabs import Slabs
from siltstone.errors import DiskMissing
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.ports import DiskWrite
from siltstone.types import Buffer, SlabId, StripeId, slab_of


class Fill(NamedTuple):
    """Bytes for a dead place: where in the stripe's data they start."""

    offset: int
    data: Buffer


class Filled(NamedTuple):
    """A stripe with new bytes: what was its record, what is to be recorded now, and the bytes."""

    slab: Slab
    stripe_id: StripeId
    before: Stripe
    stripe: Stripe
    checksums: bytes
    fills: Sequence[Fill]


class _Changed(NamedTuple):
    """A stripe whose new parity is computed and has a place."""

    filled: Filled
    parity: list[bytearray]


class StripeFiller:
    """Fills stripes of a pool."""

    def __init__(self, pool: Pool, slabs: Slabs, reader: StripeReader) -> None:
        self._pool = pool
        self._slabs = slabs
        self._reader = reader
        self.filled_bytes = 0
        """Bytes of users that went into holes."""
        self.raw_bytes_written = 0
        """What went to chunk files for it: new parity, and the bytes."""
        self._dead: dict[StripeId, Stripe] = {}

    async def prepare(self, wanted: Sequence[tuple[StripeAddress, Sequence[Fill]]]) -> list[Filled | None]:
        """Step (a) for several stripes at once: their new parity is durable on return.

        None for a stripe that cannot be filled now: a disk of its slab is away or fails, a block is damaged, no parity
        row is free; nothing is changed then. Each other one is ``lay_over``-ed with its batch, or ``abandon``-ed.
        The fills must be dead, and stay so; nobody else may fill or move the stripe meanwhile.
        """
        changed: list[_Changed | None] = []
        try:
            for at, fills in wanted:
                changed.append(await self._change(at, fills))
                await trio.lowlevel.checkpoint()  # what is at hand is read, and computed, without one
            failed = await self._write_parity([item for item in changed if item is not None])
        except BaseException:
            for item in changed:
                if item is not None:
                    self.abandon(item.filled)
            raise
        results: list[Filled | None] = []
        for item in changed:
            if item is None:
                results.append(None)
                continue
            if slab_of(item.filled.stripe_id) in failed:
                self.abandon(item.filled)
                results.append(None)
                continue
            self._slabs.note_parity_written(
                slab_of(item.filled.stripe_id), item.filled.stripe.parity_row, item.filled.stripe.rows
            )
            self.raw_bytes_written += sum(map(len, item.parity))
            results.append(item.filled)
        return results

    async def _change(self, at: StripeAddress, fills: Sequence[Fill]) -> _Changed | None:
        slab, stripe = at.slab, at.stripe
        unit_bytes = stripe.unit_bytes
        pieces = cut_fills(stripe, fills)
        spans = _blocks(pieces, unit_bytes)
        parity_spans = [Span(slab.data_units + index, 0, unit_bytes) for index in range(slab.parity_units)]
        found = await self._reader.read_spans(at, [*spans, *parity_spans])
        if found is None:
            return None
        row = self._slabs.take_parity(slab_of(at.stripe_id), stripe.rows)
        if row is None:
            return None
        old = dict(zip(spans, found, strict=False))
        parity = [bytearray(data) for data in found[len(spans) :]]
        new = {span: changed_by(pieces, span, data) for span, data in old.items()}
        codec = codec_for(slab.data_units, slab.parity_units)
        for span, block in new.items():
            codec.update(span.unit, xor(old[span], block), [memoryview(unit)[span.start : span.end] for unit in parity])
        checksums = bytearray(at.checksums)
        changes: list[tuple[Span, Buffer]] = [*new.items(), *zip(parity_spans, parity, strict=True)]
        for span, changed in changes:
            first = at.checksum_index(span.unit, span.start) * CHECKSUM_BYTES
            digests = checksums_of([changed])
            checksums[first : first + len(digests)] = digests
        size = max(stripe.data_bytes, max(fill.offset + len(fill.data) for fill in fills))
        after = Stripe(unit_bytes, size, row, stripe.written)
        return _Changed(Filled(slab, at.stripe_id, stripe, after, bytes(checksums), fills), parity)

    async def _write_parity(self, changed: Sequence[_Changed]) -> set[SlabId]:
        """Write and flush new parity; the slabs in which that failed."""
        writes: list[DiskWrite] = []
        owners: list[SlabId] = []
        failed: set[SlabId] = set()
        for (slab, stripe_id, _, stripe, _, _), parity in changed:
            slab_id = slab_of(stripe_id)
            for index, data in enumerate(parity):
                unit = slab.data_units + index
                try:
                    disk = self._pool.disk(slab.disks[unit])
                except DiskMissing:
                    failed.add(slab_id)
                    continue
                offset = unit_offset(slab, stripe_id, stripe, unit)
                writes.append(DiskWrite(disk, chunk_name(slab_id, unit), offset, [data]))
                owners.append(slab_id)
        # Not to be cut short, as this cannot be: the rows must not be given back while a disk still writes to them.
        errors = await self._pool.write_durable(writes)
        return failed | {slab_id for slab_id, error in zip(owners, errors, strict=True) if error is not None}

    def abandon(self, filled: Filled) -> None:
        """Give up a prepared stripe whose batch was never committed."""
        self._slabs.give_back_parity(slab_of(filled.stripe_id), filled.stripe.parity_row, filled.stripe.rows)

    def lay_over(self, filled: Filled) -> None:
        """In the same turn as the commit of the batch (b): whoever reads by the new record sees the new bytes."""
        pieces = cut_fills(filled.stripe, filled.fills)
        self._reader.lay_over(filled.stripe_id, Overlay(filled.checksums, pieces))

    def is_pending(self, stripe_id: StripeId) -> bool:
        """Whether bytes are still to be written in place."""
        return self._reader.is_laid_over(stripe_id)

    def release_later(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """The stripe has died while bytes are still to be written to it: give its rows back when they are."""
        self._dead[stripe_id] = stripe

    async def complete(self, done: Sequence[Filled]) -> list[Filled]:
        """Step (c): write the bytes in place and take the overlays away. The batch is durable, and no read by the old
        record is in flight. Returns what is not wholly in place, to be completed later.

        That is so where a disk is away or fails. Its unit must not be left behind: a disk that returns counts as whole,
        and m others may go then. Until it is written the overlay stays, and stands for the missing bytes.
        """
        writes: list[DiskWrite] = []
        owners: list[StripeId] = []
        left: set[StripeId] = set()
        for filled in done:
            if filled.stripe_id in self._dead:
                continue
            for unit, offset, data in cut_fills(filled.stripe, filled.fills):
                disk_id = filled.slab.disks[unit]
                if not self._pool.is_up(disk_id):
                    left.add(filled.stripe_id)
                    continue
                name = chunk_name(slab_of(filled.stripe_id), unit)
                start = unit_offset(filled.slab, filled.stripe_id, filled.stripe, unit) + offset
                writes.append(DiskWrite(self._pool.disk(disk_id), name, start, [data]))
                owners.append(filled.stripe_id)
        for write, owner, error in zip(writes, owners, await self._pool.write_durable(writes), strict=True):
            if error is None:
                self.raw_bytes_written += sum(map(len, write.buffers))
            else:
                left.add(owner)
        for filled in done:
            if filled.stripe_id not in left:
                self._finish(filled)
        return [filled for filled in done if filled.stripe_id in left]

    def _finish(self, filled: Filled) -> None:
        self.filled_bytes += sum(len(data) for _, data in filled.fills)
        self._reader.take_overlay(filled.stripe_id)
        dead = self._dead.pop(filled.stripe_id, None)
        if dead is not None:
            self._slabs.give_back(filled.stripe_id, dead)

    def release_parity(self, filled: Filled) -> None:
        """Make the rows of the old parity allocatable: the batch is durable, and nobody reads by the old record."""
        row = parity_row_of(filled.stripe_id, filled.before)
        self._slabs.give_back_parity(slab_of(filled.stripe_id), row, filled.before.rows)


def _blocks(pieces: Sequence[UnitPiece], unit_bytes: int) -> list[Span]:
    """The checksum blocks that pieces lie in, each once."""
    blocks: set[Span] = set()
    for unit, offset, data in pieces:
        whole = blocks_around(unit, offset, len(data), unit_bytes)
        for start in range(whole.start, whole.end, CHECKSUM_BLOCK_BYTES):
            blocks.add(Span(unit, start, min(start + CHECKSUM_BLOCK_BYTES, whole.end)))
    return sorted(blocks)


def cut_fills(stripe: Stripe, fills: Sequence[Fill]) -> list[UnitPiece]:
    """Fills as pieces of data units: (unit, offset in it, bytes)."""
    pieces: list[UnitPiece] = []
    for fill in fills:
        at = 0
        for unit, offset, size in unit_ranges(stripe, fill.offset, len(fill.data)):
            pieces.append((unit, offset, memoryview(fill.data)[at : at + size]))
            at += size
    return pieces
