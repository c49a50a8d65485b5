"""Stripes on the disks of a pool: written and flushed before anyone points at them, read with their checksums.

The store knows rows, units and disks; which stripes are alive is the metadata's knowledge. It is handed the records at
open (``load``), hands out what to record after a write (``WrittenStripe``), and is told when a stripe is dead
(``release``). What it allocated and nobody recorded is free again after a crash.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.codec import codec_for
from siltstone.engine.stripe.contiguous import neighbours
from siltstone.engine.stripe.encode import EncodedStripe, StripeSource, cut_out, encode_stripe, encode_together
from siltstone.engine.stripe.fill import StripeFiller
from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes, chunk_name, unit_offset
from siltstone.engine.stripe.moving import CopiedUnits, UnitCopier
from siltstone.engine.stripe.reader import PlacedRun, StripeAddress, StripeReader
from siltstone.engine.stripe.row_placer import RowPlacer
from siltstone.engine.stripe.scrub import Checked, Digests, StripeScrub
from siltstone.engine.stripe.slab import Placement
from siltstone.engine.stripe.slabs import Slabs
from siltstone.engine.stripe.space import StripeSpace
from siltstone.errors import DiskError, DiskFull, DiskMissing, NoSpace
from siltstone.limits import KIB, ROW_BYTES
from siltstone.ports import DiskWrite, Lane, Workers
from siltstone.types import Buffer, DiskId, SlabId, StripeId

TOGETHER_UNIT_BYTES_MAX = 64 * KIB
"""Stripes with units up to this are encoded together; a call of the codec costs as much as copying these."""

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


class Run(NamedTuple):
    """Bytes that belong together: ``size`` of them, in buffers that follow each other."""

    buffers: Sequence[Buffer]
    size: int


class Piece(NamedTuple):
    """A stripe that was written for a run, and where in the run its ``written.stripe.data_bytes`` bytes start."""

    written: WrittenStripe
    run: int
    offset: int


class Tier(enum.Enum):
    """What bytes are written to stripes for."""

    DIRECT = "direct"
    """Large writes of users, at once."""
    SETTLE = "settle"
    """What small writes left in the log."""
    FILL = "fill"
    """The same, into dead slots of living stripes."""
    RELOCATE = "relocate"
    """Living data that makes room, or gets its full width."""
    MOVE = "move"
    """Units that are rebuilt, or moved to another disk."""


class _Part(NamedTuple):
    """Bytes of a run that are still to be written."""

    run: int
    offset: int
    size: int


class _Writing(NamedTuple):
    part: _Part
    placement: Placement
    buffers: Sequence[Buffer]


class StripeStatistics(NamedTuple):
    """Counts since the store was made."""

    stripes_written: int
    data_bytes_written: int
    raw_bytes_written: dict[Tier, int]
    """Bytes that went to chunk files, parity included."""
    failed_writes: int
    degraded_reads: int
    repaired_blocks: int
    failed_repairs: int
    hedged_reads: int
    won_hedges: int


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
        self.data_units = data_units
        self._slabs = Slabs(
            pool,
            data_units=data_units,
            parity_units=parity_units,
            chunk_bytes=chunk_bytes,
            reserve_bytes=reserve_bytes,
        )
        self._placer = RowPlacer(pool, self._slabs)
        self._reader = StripeReader(pool, workers)
        self.filler = StripeFiller(pool, self._slabs, self._reader)
        self._scrub = StripeScrub(pool, workers, self._reader)
        self._copier = UnitCopier(pool, self._reader, workers)
        self._stripes_written = 0
        self._data_bytes_written = 0
        self._raw_bytes_written = dict.fromkeys(Tier, 0)
        self._failed_writes = 0
        self.codec_name = codec_for(data_units, parity_units).codec_name
        self.stripe_bytes_max = self._slabs.stripe_bytes_max

    def load(self, slabs: Iterable[tuple[SlabId, Slab]], stripes: Iterable[tuple[StripeId, Stripe]]) -> None:
        """Take over the records of an opened volume; once, before anything else.

        Raises Corrupt when the records contradict each other.
        """
        self._slabs.load(slabs, stripes)

    @property
    def row_bytes(self) -> int:
        """What one row of a stripe holds that is as wide as new ones can be now. Raises TooFewDisks."""
        return self._slabs.width_now() * ROW_BYTES

    # --- writing --------------------------------------------------------------------------------------------------

    async def write_runs(
        self, runs: Sequence[Run], *, tier: Tier, written: int = 0, use_reserve: bool = False
    ) -> list[Piece]:
        """Store runs of bytes as stripes: written and flushed on all their disks. Pieces come in order, by run.

        A run becomes one stripe, or several where no slab has so many neighbouring rows. The buffers must not change
        until it returns; they are not copied where a long unit lies in one of them. ``written``: seconds since the
        epoch, for the records. The rows belong to the caller, who commits the records, or calls ``abandon``. A disk
        that fails meanwhile is told to the pool, and what it was to take goes to other disks, narrower if need be.
        Raises TooFewDisks when not even 1 + m disks are up, NoSpace when the pool is full up to its reserve
        (``use_reserve``: for settle and rebuild, which may use part of it), DiskError when slab after slab failed;
        then nothing is allocated.
        """
        assert all(0 < run.size <= self.stripe_bytes_max and sum(map(len, run.buffers)) == run.size for run in runs)
        failed_slabs: set[SlabId] = set()
        failures: list[DiskError] = []
        done: list[Piece] = []
        todo = [_Part(index, 0, run.size) for index, run in enumerate(runs)]
        try:
            for _ in range(WRITE_ATTEMPTS_MAX):
                todo, failures = await self._attempt(runs, todo, done, failed_slabs, tier, written, use_reserve)
                if not todo:
                    self._count_written(done, tier)
                    return sorted(done, key=lambda piece: (piece.run, piece.offset))
            if all(isinstance(failure, DiskFull) for failure in failures):
                raise NoSpace(f"no room for {sum(part.size for part in todo)} bytes: {failures[0]}")
            raise failures[0]
        except BaseException:
            for piece in done:
                self.abandon(piece.written)
            raise

    async def _attempt(
        self,
        runs: Sequence[Run],
        todo: Sequence[_Part],
        done: list[Piece],
        failed_slabs: set[SlabId],
        tier: Tier,
        written: int,
        use_reserve: bool,
    ) -> tuple[list[_Part], list[DiskError]]:
        """Place, encode and write; returns the parts that are still to be written, and what failed."""
        sizes = [part.size for part in todo]
        placed = await self._placer.place(sizes, failed_slabs, written=written, use_reserve=use_reserve)
        writing: list[_Writing] = []
        for part, placements in zip(todo, placed, strict=True):
            at = part.offset
            for placement in placements:
                size = placement.stripe.data_bytes
                buffers = runs[part.run].buffers
                buffers = buffers if size == runs[part.run].size else cut_out(buffers, at, size)
                writing.append(_Writing(_Part(part.run, at, size), placement, buffers))
                at += size
        try:
            encoded = await self._encode(writing)
            failed = await self._write_units(writing, encoded, Lane.BULK if tier is Tier.DIRECT else Lane.BACKGROUND)
        except BaseException:
            for item in writing:
                self._slabs.abandon(item.placement.stripe_id, item.placement.stripe)
            raise
        left: list[_Part] = []
        for item, stripe in zip(writing, encoded, strict=True):
            placement = item.placement
            state = placement.state
            if state.slab_id in failed:
                self._slabs.abandon(placement.stripe_id, placement.stripe)
                left.append(item.part)
                continue
            self._slabs.note_written(placement)
            new_slab = not state.is_recorded
            result = WrittenStripe(
                placement.stripe_id, state.slab_id, state.slab, placement.stripe, stripe.checksums, new_slab
            )
            done.append(Piece(result, item.part.run, item.part.offset))
        for slab_id, errors in failed.items():
            self._failed_writes += 1
            failed_slabs.add(slab_id)
            if not all(isinstance(error, (DiskMissing, DiskFull)) for error in errors):
                self._slabs.suspect(slab_id)
        return left, [error for errors in failed.values() for error in errors]

    async def _encode(self, writing: Sequence[_Writing]) -> list[EncodedStripe]:
        """Encode everything: long stripes one by one, which copies nothing, short ones of one width together."""
        encoded: dict[int, EncodedStripe] = {}
        short: dict[int, list[int]] = {}
        for index, (_, placement, buffers) in enumerate(writing):
            slab, unit_bytes = placement.state.slab, placement.stripe.unit_bytes
            if unit_bytes <= TOGETHER_UNIT_BYTES_MAX:
                short.setdefault(slab.data_units, []).append(index)
            else:
                codec = codec_for(slab.data_units, slab.parity_units)
                arguments = buffers, slab.data_units, slab.parity_units, unit_bytes
                encoded[index] = await codec.run(self._workers, unit_bytes * slab.data_units, encode_stripe, *arguments)
        for indexes in short.values():
            slab = writing[indexes[0]].placement.state.slab
            sources = [
                StripeSource(writing[index].buffers, writing[index].placement.stripe.unit_bytes) for index in indexes
            ]
            size = sum(source.unit_bytes for source in sources) * slab.data_units
            codec = codec_for(slab.data_units, slab.parity_units)
            found = await codec.run(self._workers, size, encode_together, sources, slab.data_units, slab.parity_units)
            encoded.update(zip(indexes, found, strict=True))
        return [encoded[index] for index in range(len(writing))]

    async def _write_units(
        self, writing: Sequence[_Writing], encoded: Sequence[EncodedStripe], lane: Lane
    ) -> dict[SlabId, list[DiskError]]:
        """Write and flush all units, neighbours together; what failed, by slab, told to the pool."""
        failed: dict[SlabId, list[DiskError]] = {}
        gathered: dict[tuple[SlabId, int], list[tuple[int, Buffer]]] = {}
        for (_, placement, _), stripe in zip(writing, encoded, strict=True):
            slab_id, slab = placement.state.slab_id, placement.state.slab
            assert len(stripe.units) == len(slab.disks)
            assert len(stripe.checksums) == checksums_bytes(slab, placement.stripe)
            for unit, data in enumerate(stripe.units):
                offset = unit_offset(slab, placement.stripe_id, placement.stripe, unit)
                gathered.setdefault((slab_id, unit), []).append((offset, data))
        writes: list[DiskWrite] = []
        slab_of_write: list[SlabId] = []
        for (slab_id, unit), pieces in gathered.items():
            try:
                disk = self._pool.disk(self._slabs.get(slab_id).slab.disks[unit])
            except DiskMissing as error:  # it went while the stripes were encoded
                failed.setdefault(slab_id, []).append(error)
                continue
            for offset, buffers in neighbours(pieces):
                writes.append(DiskWrite(disk, chunk_name(slab_id, unit), offset, buffers))
                slab_of_write.append(slab_id)
        # Not to be cut short, as this cannot be: rows given back while a disk writes to them would hold two stripes.
        for slab_id, failure in zip(slab_of_write, await self._pool.write_durable(writes, lane), strict=True):
            if failure is not None:
                failed.setdefault(slab_id, []).append(failure)
        return failed

    def _count_written(self, done: Sequence[Piece], tier: Tier) -> None:
        for piece in done:
            stripe = piece.written.stripe
            self._stripes_written += 1
            self._data_bytes_written += stripe.data_bytes
            self._raw_bytes_written[tier] += stripe.unit_bytes * len(piece.written.slab.disks)

    def note_committed(self, written: WrittenStripe) -> None:
        """A batch with the records of the stripe and its slab was committed: later stripes there need not carry it."""
        self._slabs.note_committed(written.stripe_id)

    def release(self, stripe_id: StripeId, stripe: Stripe) -> None:
        """Make the rows of a dead stripe allocatable: its deletion is durable and nobody reads it any more."""
        if self.filler.is_pending(stripe_id):
            self.filler.release_later(stripe_id, stripe)
        else:
            self._slabs.give_back(stripe_id, stripe)

    def abandon(self, written: WrittenStripe) -> None:
        """Give back a stripe whose batch was never committed."""
        self._slabs.abandon(written.stripe_id, written.stripe)

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

    def runs(
        self, slab: Slab, stripe_id: StripeId, stripe: Stripe, checksums: bytes, offset: int, size: int
    ) -> list[PlacedRun] | None:
        """Where data bytes [offset, offset + size) lie on the disks, for somebody else who reads them there; None if
        only ``read`` will do. The stripe must not be released before they have been read."""
        assert offset >= 0 and size > 0 and offset + size <= stripe.data_bytes
        assert len(checksums) == checksums_bytes(slab, stripe)
        return self._reader.runs(StripeAddress(slab, stripe_id, stripe, checksums), offset, size)

    def check_disks(self) -> None:
        """Raise TooFewDisks if there are not even 1 + m disks to write a stripe to."""
        self._slabs.check_disks()

    def takes_fills(self, slab_id: SlabId) -> bool:
        """Whether holes in a slab may be filled now."""
        return self._slabs.takes_fills(slab_id)

    # --- scrubbing ------------------------------------------------------------------------------------------------

    async def check(self, stripes: Sequence[StripeAddress], *, mend: bool, digests: Digests) -> Checked:
        """Read every unit of some stripes of one slab, and with ``mend`` write anew what is wrong (see StripeScrub).

        Its caller has claimed the slab: no fill is under way then but those that may be written in place and wait for
        a disk.
        """
        return await self._scrub.check(stripes, mend=mend, digests=digests)

    async def damaged_chunks(self) -> list[tuple[SlabId, int]]:
        """Chunk files, by slab and unit, that are missing or short on disks that are up."""
        return await self._slabs.damaged_chunks()

    async def recreate_unit(self, slab_id: SlabId, unit: int) -> bool:
        """Make such a chunk file whole again, with zeros; True if it was not. Its units are then to be mended."""
        return await self._slabs.recreate_unit(slab_id, unit)

    # --- moving ---------------------------------------------------------------------------------------------------

    @property
    def slabs(self) -> Slabs:
        """Slabs and their units, for whoever moves them."""
        return self._slabs

    async def copy_unit(self, stripes: Sequence[StripeAddress], unit: int, target: DiskId) -> CopiedUnits:
        """Write one unit of some stripes of a slab to the new chunk file on ``target``, from where it lies or computed
        from others (see UnitCopier). Not durable yet."""
        copied = await self._copier.copy(stripes, unit, target)
        self._raw_bytes_written[Tier.MOVE] += copied.written_bytes
        return copied

    async def flush_unit(self, slab_id: SlabId, unit: int, target: DiskId) -> None:
        """Make durable what ``copy_unit`` wrote. Raises DiskError."""
        await self._pool.disk(target).flush(chunk_name(slab_id, unit))

    # --- space ----------------------------------------------------------------------------------------------------

    async def collect_strays(self) -> int:
        """Delete chunk files that no slab owns, on disks that are up; how many. After ``load``; for a disk that
        returns, too."""
        return await self._slabs.collect_strays()

    async def punch_released(self, bytes_max: int | None = None) -> int:
        """Give the disks back the blocks of rows that are free, about ``bytes_max`` of them at the most; raw bytes
        punched."""
        return await self._slabs.puncher.punch(bytes_max)

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
            self._raw_bytes_written | {Tier.FILL: self.filler.raw_bytes_written},
            self._failed_writes,
            self._reader.degraded_reads,
            self._reader.repaired_blocks,
            self._reader.failed_repairs,
            self._reader.hedged_reads,
            self._reader.won_hedges,
        )
