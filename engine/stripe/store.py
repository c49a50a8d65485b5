"""Stripes on the disks of a pool: written and flushed before anyone points at them, read with their checksums.

The store knows rows, units and disks; which stripes are alive is the metadata's knowledge. It is handed the records at
open (``load``), hands out what to record after a write (``WrittenStripe``), and is told when a stripe is dead
(``release``). What it allocated and nobody recorded is free again after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.codec import codec_for
from siltstone.engine.stripe.encode import EncodedStripe, encode_stripe
from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes, chunk_name, chunk_offset
from siltstone.engine.stripe.reader import StripeAddress, StripeReader
from siltstone.engine.stripe.slab import Backing, Placement
from siltstone.engine.stripe.slabs import Slabs, StripeSpace
from siltstone.errors import DiskError, DiskFull, DiskMissing, NoSpace
from siltstone.limits import UNIT_BYTES_MAX
from siltstone.ports import DiskWrite, Lane, Workers
from siltstone.types import Buffer, SlabId, StripeId

WRITE_ATTEMPTS_MAX = 16
"""Slabs tried for one write. Every failed attempt condemns a disk or avoids a slab, so a few are enough in practice."""


class WrittenStripe(NamedTuple):
    """A stripe that is durable on its disks, and what to put in the batch that first points at it."""

    stripe_id: StripeId
    slab_id: SlabId
    slab: Slab
    stripe: Stripe
    checksums: bytes
    new_slab: bool
    """The batch must hold the slab's record too."""


class StripeStatistics(NamedTuple):
    """Counts since the store was made."""

    stripes_written: int
    data_bytes_written: int
    raw_bytes_written: int
    failed_writes: int
    degraded_reads: int
    repaired_blocks: int
    failed_repairs: int


class StripeStore:
    """The stripes of a volume with the code ``data_units + parity_units``.

    ``reserve_bytes``: what new slabs leave free on each disk; by default RESERVE_CHUNKS chunks.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        data_units: int,
        parity_units: int,
        chunk_bytes: int,
        workers: Workers,
        reserve_bytes: int | None = None,
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._slabs = Slabs(
            pool,
            data_units=data_units,
            parity_units=parity_units,
            chunk_bytes=chunk_bytes,
            reserve_bytes=reserve_bytes,
        )
        self._reader = StripeReader(pool, workers)
        self._stripes_written = 0
        self._data_bytes_written = 0
        self._raw_bytes_written = 0
        self._failed_writes = 0
        self.codec_name = codec_for(data_units, parity_units).codec_name
        self.stripe_bytes_max = min(data_units * UNIT_BYTES_MAX, chunk_bytes)
        """The longest stripe: it fits a slab of any width, down to one data unit."""

    def load(self, slabs: Iterable[tuple[SlabId, Slab]], stripes: Iterable[tuple[StripeId, Stripe]]) -> None:
        """Take over the records of an opened volume; once, before anything else.

        Raises Corrupt when the records contradict each other.
        """
        self._slabs.load(slabs, stripes)

    # --- writing --------------------------------------------------------------------------------------------------

    async def write(self, buffers: Sequence[Buffer], size: int, *, use_reserve: bool = False) -> WrittenStripe:
        """Store ``size`` bytes (at most ``stripe_bytes_max``) as one stripe: written and flushed on all its disks.

        The buffers must not change until it returns; they are not copied where a unit lies in one of them. The rows
        belong to the caller, who commits the records, or calls ``abandon``. A disk that fails meanwhile is told to
        the pool, and the stripe goes to other disks, narrower if need be. Raises TooFewDisks when not even 1 + m
        disks are up, NoSpace when the pool is full up to its reserve (``use_reserve``: for settle and rebuild,
        which may use part of it), DiskError when slab after slab failed; then nothing is allocated.
        """
        assert 0 < size <= self.stripe_bytes_max
        assert sum(map(len, buffers)) == size
        failed_slabs: set[SlabId] = set()
        failures: list[DiskError] = []
        encoded: EncodedStripe | None = None
        for _ in range(WRITE_ATTEMPTS_MAX):
            placement = await self._slabs.place(size, failed_slabs, use_reserve=use_reserve)
            slab, stripe = placement.state.slab, Stripe(placement.unit_bytes, size)
            try:
                if encoded is None or len(encoded.units) != len(slab.disks):
                    encoded = await self._encode(buffers, slab, stripe)
                failures = await self._write_units(placement, encoded.units)
            except BaseException:
                self._slabs.give_back(placement.stripe_id, placement.rows)
                raise
            if not failures:
                self._slabs.note_written(placement)
                self._stripes_written += 1
                self._data_bytes_written += size
                self._raw_bytes_written += stripe.unit_bytes * len(slab.disks)
                new_slab = not placement.state.is_recorded
                slab_id = placement.state.slab_id
                return WrittenStripe(placement.stripe_id, slab_id, slab, stripe, encoded.checksums, new_slab)
            self._failed_writes += 1
            failed_slabs.add(placement.state.slab_id)
            self._slabs.give_back(placement.stripe_id, placement.rows)
            if not all(isinstance(failure, (DiskMissing, DiskFull)) for failure in failures):
                placement.state.is_suspect = True
        if all(isinstance(failure, DiskFull) for failure in failures):
            raise NoSpace(f"no room for {size} bytes: {failures[0]}")
        raise failures[0]

    async def _encode(self, buffers: Sequence[Buffer], slab: Slab, stripe: Stripe) -> EncodedStripe:
        k, m = slab.data_units, slab.parity_units
        if codec_for(k, m).is_instant(stripe.data_bytes):
            encoded = encode_stripe(buffers, k, m, stripe.unit_bytes)
        else:
            encoded = await self._workers.run(encode_stripe, buffers, k, m, stripe.unit_bytes)
        assert len(encoded.units) == len(slab.disks)
        assert all(len(unit) == stripe.unit_bytes for unit in encoded.units)
        assert len(encoded.checksums) == checksums_bytes(slab, stripe)
        return encoded

    async def _write_units(self, placement: Placement, units: Sequence[Buffer]) -> list[DiskError]:
        """Write and flush all units; what failed, told to the pool."""
        slab_id, slab = placement.state.slab_id, placement.state.slab
        offset = chunk_offset(placement.stripe_id)
        try:
            writes = [
                DiskWrite(self._pool.disk(disk_id), chunk_name(slab_id, unit), offset, (units[unit],))
                for unit, disk_id in enumerate(slab.disks)
            ]
        except DiskMissing as error:  # it went while the stripe was encoded
            return [error]
        # Not to be cut short: rows that are given back while a disk still writes to them would hold two stripes.
        with trio.CancelScope(shield=True):
            errors = await self._pool.fanout.write_durable(writes, Lane.BULK)
        failures = [failure for failure in errors if failure is not None]
        for failure in failures:
            self._pool.report(failure)
        return failures

    def note_slab(self, slab_id: SlabId) -> None:
        """A batch with the slab's record was committed: later stripes in it need not carry it."""
        self._slabs.get(slab_id).is_recorded = True

    def release(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """Make the rows of a dead stripe allocatable: its deletion is durable and nobody reads it any more."""
        self._slabs.give_back(stripe_id, stripe.rows)

    def abandon(self, written: WrittenStripe) -> None:
        """Give back a stripe whose batch was never committed."""
        self._slabs.give_back(written.stripe_id, written.stripe.rows)

    # --- reading --------------------------------------------------------------------------------------------------

    def read_nowait(
        self, slab: Slab, stripe_id: StripeId, stripe: Stripe, checksums: bytes, offset: int, size: int
    ) -> bytes | None:
        """Data bytes [offset, offset + size) if they are at hand and intact, without blocking; otherwise None."""
        assert offset >= 0 and size > 0 and offset + size <= stripe.data_bytes
        return self._reader.read_nowait(StripeAddress(slab, stripe_id, stripe, checksums), offset, size)

    async def read(
        self, slab: Slab, stripe_id: StripeId, stripe: Stripe, checksums: bytes, offset: int, size: int
    ) -> bytes:
        """Data bytes [offset, offset + size), verified; decoded and repaired where a unit cannot be had.

        The stripe must not be released before this returns. Raises StripeUnreadable when fewer than k units are right
        in some block.
        """
        assert offset >= 0 and size > 0 and offset + size <= stripe.data_bytes
        assert len(checksums) == checksums_bytes(slab, stripe)
        return await self._reader.read(StripeAddress(slab, stripe_id, stripe, checksums), offset, size)

    async def verify(self, slab: Slab, stripe_id: StripeId, stripe: Stripe, checksums: bytes) -> list[int]:
        """The units that are absent, unreadable or not what was written. Repairs nothing."""
        assert len(checksums) == checksums_bytes(slab, stripe)
        return await self._reader.verify(StripeAddress(slab, stripe_id, stripe, checksums))

    # --- space ----------------------------------------------------------------------------------------------------

    async def collect_strays(self) -> int:
        """Delete chunk files that no slab owns, on disks that are up; how many. After ``load``; for a disk that
        returns, too."""
        return await self._slabs.collect_strays()

    async def punch_released(self) -> int:
        """Give the disks back the blocks of rows that are free; raw bytes punched."""
        return await self._slabs.punch_free({Backing.PRESENT, Backing.UNKNOWN})

    def take_empty_slabs(self, *, keep: int = 1) -> list[SlabId]:
        """Retire the slabs that hold nothing, but ``keep`` of them. The caller deletes their records, waits until that
        is durable, and then calls ``drop_slab`` for each."""
        return self._slabs.take_empty(keep)

    async def drop_slab(self, slab_id: SlabId) -> None:
        """Delete the chunk files of a slab from ``take_empty_slabs``."""
        await self._slabs.drop(slab_id)

    def space(self) -> StripeSpace:
        """Room in slabs and on the disks."""
        return self._slabs.space()

    def statistics(self) -> StripeStatistics:
        """Counts since the store was made."""
        return StripeStatistics(
            self._stripes_written,
            self._data_bytes_written,
            self._raw_bytes_written,
            self._failed_writes,
            self._reader.degraded_reads,
            self._reader.repaired_blocks,
            self._reader.failed_repairs,
        )
