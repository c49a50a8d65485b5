"""Reading stripes: straight from the data units, or decoded from any k units when one cannot be had; and mending them.

No byte leaves here that does not match its checksum. Whatever is wrong with a unit - its disk is away, reading fails, a
checksum differs - is one case: the range is computed from k other units whose blocks are right, checked as well, and
written back where the disk takes it.

A unit that is late is computed as well (a hedge), while its own read goes on: whichever comes first is taken, and
nothing is written back, for nothing is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from siltstone.engine.direct import UnitRun
from siltstone.engine.fetch import Fetch
from siltstone.engine.pool import Pool
from siltstone.engine.stripe.checksum import damaged_blocks, is_intact
from siltstone.engine.stripe.codec import codec_for
from siltstone.engine.stripe.layout import (
    CHECKSUM_BYTES,
    Slab,
    Stripe,
    blocks_per_unit,
    chunk_name,
    slab_of,
    unit_offset,
    unit_ranges,
)
from siltstone.errors import DiskError, DiskMissing, FileMissing, StripeUnreadable
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.ports import DiskRead, DiskWrite, Workers
from siltstone.types import Buffer, DiskId, StripeId

UnitPiece = tuple[int, int, Buffer]
"""New bytes of a data unit: its number, where in it they start, and they."""


class StripeAddress(NamedTuple):
    """All that is needed to find a stripe and to know its bytes. ``pieces`` are laid over what its disks hold: while
    somebody reads they may come to be written, which changes nothing then."""

    slab: Slab
    stripe_id: StripeId
    stripe: Stripe
    checksums: bytes
    pieces: Sequence[UnitPiece] = ()

    def offset(self, unit: int) -> int:
        """Where a unit starts in its chunk file."""
        return unit_offset(self.slab, self.stripe_id, self.stripe, unit)

    def checksum_index(self, unit: int, start: int) -> int:
        """Number of the checksum of the block at ``start`` in a unit."""
        return unit * blocks_per_unit(self.stripe.unit_bytes) + start // CHECKSUM_BLOCK_BYTES


class Span(NamedTuple):
    """Whole checksum blocks of one unit: bytes [start, end) of it."""

    unit: int
    start: int
    end: int


class Overlay(NamedTuple):
    """Bytes that a stripe has by its record while they are still on their way to the disks. ``checksums`` are those of
    the stripe with them."""

    checksums: bytes
    pieces: Sequence[UnitPiece]


class Flaw(NamedTuple):
    """Why a span could not be read: the blocks (from its start) that are wrong and may be written again; none of them
    when the disk or the file is away."""

    span: Span
    blocks: Sequence[int]
    reason: str


def blocks_around(unit: int, offset: int, size: int, unit_bytes: int) -> Span:
    """The blocks that hold a range of a unit."""
    start = offset - offset % CHECKSUM_BLOCK_BYTES
    end = -(-(offset + size) // CHECKSUM_BLOCK_BYTES) * CHECKSUM_BLOCK_BYTES
    return Span(unit, start, min(end, unit_bytes))


def changed_by(pieces: Sequence[UnitPiece], span: Span, data: Buffer) -> bytearray:
    """The bytes of a span with the pieces of its unit in their places."""
    changed = bytearray(data)
    for unit, offset, piece in pieces:
        low, high = max(offset, span.start), min(offset + len(piece), span.end)
        if unit == span.unit and low < high:
            changed[low - span.start : high - span.start] = memoryview(piece)[low - offset : high - offset]
    return changed


def seen(at: StripeAddress, span: Span, data: bytes) -> bytes:
    """What was read of a unit, with what is laid over it."""
    return bytes(changed_by(at.pieces, span, data)) if at.pieces else data


class PlacedRun(NamedTuple):
    """Where ``size`` data bytes of a stripe lie: in a run, after ``skip`` bytes of it."""

    run: UnitRun
    skip: int
    size: int


def _good(spans: Sequence[Span], found: Sequence[bytes | Flaw]) -> dict[Span, bytes]:
    """The spans that were read and are right."""
    return {span: data for span, data in zip(spans, found, strict=True) if isinstance(data, bytes)}


class StripeReader:
    """Reads and mends stripes of a pool."""

    def __init__(self, pool: Pool, workers: Workers) -> None:
        self._pool = pool
        self._workers = workers
        self.degraded_reads = 0
        self.repaired_blocks = 0
        self.failed_repairs = 0
        self.hedged_reads = 0
        """Reads in which a unit was late and computed from others meanwhile."""
        self.won_hedges = 0
        """Of these, how many had the computed bytes first."""
        self._pace = pool.pace
        self._overlays: dict[StripeId, Overlay] = {}

    def lay_over(self, stripe_id: StripeId, overlay: Overlay) -> None:
        """From now on the stripe reads as if the overlay were written, for those who know its new checksums."""
        assert stripe_id not in self._overlays
        self._overlays[stripe_id] = overlay

    def is_laid_over(self, stripe_id: StripeId) -> bool:
        """Whether something is still on its way to the stripe."""
        return stripe_id in self._overlays

    def take_overlay(self, stripe_id: StripeId) -> None:
        """The overlay is on the disks now."""
        del self._overlays[stripe_id]

    def laid_over(self, at: StripeAddress) -> StripeAddress:
        """The address with what is laid over the stripe now: for the whole of a read."""
        overlay = self._overlays.get(at.stripe_id) if self._overlays else None
        return at._replace(pieces=overlay.pieces) if overlay and overlay.checksums == at.checksums else at

    # --- without waiting ------------------------------------------------------------------------------------------

    def read_nowait(self, at: StripeAddress, offset: int, size: int) -> bytes | None:
        """Data bytes [offset, offset + size) if every unit has them at hand and intact; otherwise None."""
        at = self.laid_over(at)
        unit, inner = divmod(offset, at.stripe.unit_bytes)
        if inner + size <= at.stripe.unit_bytes:
            return self._unit_nowait(at, unit, inner, size)
        parts: list[bytes] = []
        for unit, inner, step in unit_ranges(at.stripe, offset, size):
            part = self._unit_nowait(at, unit, inner, step)
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts)

    def _unit_nowait(self, at: StripeAddress, unit: int, offset: int, size: int) -> bytes | None:
        span = blocks_around(unit, offset, size, at.stripe.unit_bytes)
        data = self._span_nowait(at, span)
        if data is None or not is_intact(data, at.checksums, at.checksum_index(unit, span.start)):
            return None
        return data if len(data) == size else data[offset - span.start : offset - span.start + size]

    def _span_nowait(self, at: StripeAddress, span: Span) -> bytes | None:
        disk_id = at.slab.disks[span.unit]
        if not self._pool.is_up(disk_id):
            return None
        name = chunk_name(slab_of(at.stripe_id), span.unit)
        data = self._pool.disk(disk_id).read_nowait(name, at.offset(span.unit) + span.start, span.end - span.start)
        return seen(at, span, data) if at.pieces and data is not None else data

    # --- for others who read --------------------------------------------------------------------------------------

    def runs(self, at: StripeAddress, offset: int, size: int) -> list[PlacedRun] | None:
        """Where data bytes [offset, offset + size) lie, in order; None if they cannot be read there as they are: a disk
        is away or stalled, or something is on its way to the stripe."""
        if self.is_laid_over(at.stripe_id):
            return None
        placed: list[PlacedRun] = []
        for unit, inner, step in unit_ranges(at.stripe, offset, size):
            disk_id = at.slab.disks[unit]
            if not self._pool.is_up(disk_id) or self._pace.is_stalled(disk_id):
                return None
            span = blocks_around(unit, inner, step, at.stripe.unit_bytes)
            length = span.end - span.start
            first = at.checksum_index(unit, span.start) * CHECKSUM_BYTES
            checksums = at.checksums[first : first + blocks_per_unit(length) * CHECKSUM_BYTES]
            name = chunk_name(slab_of(at.stripe_id), unit)
            run = UnitRun(disk_id, name, at.offset(unit) + span.start, length, checksums)
            placed.append(PlacedRun(run, inner - span.start, step))
        return placed

    # --- the whole way --------------------------------------------------------------------------------------------

    async def read(self, at: StripeAddress, offset: int, size: int) -> bytes:
        """Data bytes [offset, offset + size), verified. Raises StripeUnreadable when fewer than k units are right."""
        at = self.laid_over(at)
        ranges = unit_ranges(at.stripe, offset, size)
        spans = [blocks_around(*unit_range, at.stripe.unit_bytes) for unit_range in ranges]
        found, rebuilt = await self._fetch_or_hedge(at, spans)
        flaws = [outcome for outcome in found if isinstance(outcome, Flaw) and outcome.span not in rebuilt]
        if flaws:
            self.degraded_reads += 1
            rebuilt |= await self._rebuild(at, flaws, _good(spans, found))
        parts: list[bytes] = []
        for unit_range, span, outcome in zip(ranges, spans, found, strict=True):
            data = outcome if isinstance(outcome, bytes) else rebuilt[span]
            first = unit_range.offset - span.start
            parts.append(data if len(data) == unit_range.size else data[first : first + unit_range.size])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def unit(self, at: StripeAddress, unit: int) -> bytes:
        """A whole unit, parity too: as it is on its disk, or computed. Raises StripeUnreadable."""
        at = self.laid_over(at)
        (outcome,) = await self._fetch(at, [Span(unit, 0, at.stripe.unit_bytes)])
        if not isinstance(outcome, Flaw):
            return outcome
        return (await self._rebuild(at, [outcome], {}))[outcome.span]

    async def read_spans(self, at: StripeAddress, spans: Sequence[Span]) -> list[bytes] | None:
        """Whole blocks of any units, parity too, as they are on the disks; None if one of them is not right."""
        fetched = await self._fetch(self.laid_over(at), spans)
        found = [outcome for outcome in fetched if not isinstance(outcome, Flaw)]
        return found if len(found) == len(spans) else None

    async def _fetch(self, at: StripeAddress, spans: Sequence[Span]) -> list[bytes | Flaw]:
        """Read and check spans, side by side; in order, the bytes or what is wrong."""
        with self._begin(at, spans) as fetch:
            await fetch.wait()
            return self._checked(at, spans, fetch)

    def _begin(self, at: StripeAddress, spans: Sequence[Span], *, passing_over: Collection[DiskId] = ()) -> Fetch:
        """Begin to read spans, but those on disks that are passed over."""
        slab_id = slab_of(at.stripe_id)
        fetch = Fetch(self._pool, len(spans))
        reads: list[DiskRead] = []
        for index, span in enumerate(spans):
            data = self._span_nowait(at, span)
            if data is not None:
                fetch.have(index, data)
                continue
            disk_id = at.slab.disks[span.unit]
            if disk_id in passing_over:
                continue
            try:
                disk = self._pool.disk(disk_id)
            except DiskMissing as error:
                fetch.have(index, error)
                continue
            offset = at.offset(span.unit) + span.start
            reads.append(DiskRead(disk, chunk_name(slab_id, span.unit), offset, span.end - span.start))
            fetch.want(index)
        fetch.begin(reads)
        return fetch

    def _checked(self, at: StripeAddress, spans: Sequence[Span], fetch: Fetch) -> list[bytes | Flaw]:
        """What a fetch has; what has no answer yet is a flaw that nobody mends."""
        found: list[bytes | Flaw] = []
        for index, span in enumerate(spans):
            outcome = fetch.outcome(index)
            if outcome is None:
                found.append(Flaw(span, (), f"disk {at.slab.disks[span.unit]}: no answer yet"))
                continue
            if isinstance(outcome, bytes) and fetch.was_read(index):
                outcome = seen(at, span, outcome)
            found.append(self._check(at, span, outcome))
        return found

    def _check(self, at: StripeAddress, span: Span, outcome: bytes | DiskError) -> bytes | Flaw:
        if isinstance(outcome, (DiskMissing, FileMissing)):
            return Flaw(span, (), str(outcome))
        if isinstance(outcome, DiskError):
            return Flaw(span, range(blocks_per_unit(span.end - span.start)), str(outcome))
        assert len(outcome) == span.end - span.start
        damaged = damaged_blocks(outcome, at.checksums, at.checksum_index(span.unit, span.start))
        if damaged:
            return Flaw(span, damaged, f"disk {at.slab.disks[span.unit]}: checksum mismatch in {len(damaged)} blocks")
        return outcome

    # --- hedging ------------------------------------------------------------------------------------------------------

    async def _fetch_or_hedge(
        self, at: StripeAddress, spans: Sequence[Span]
    ) -> tuple[list[bytes | Flaw], dict[Span, bytes]]:
        """What a fetch of spans gives, and spans that were late and computed from others before they came."""
        stalled = self._pace.stalled(at.slab.disks)
        if stalled and not self._can_do_without(at, stalled):
            stalled = []
        with self._begin(at, spans, passing_over=stalled) as fetch:
            if not fetch.is_whole:
                self._pace.earn()
            with trio.move_on_after(self._patience_seconds(at, spans) if at.slab.parity_units else float("inf")):
                await fetch.wait()
            if not fetch.is_whole:
                late = [at.slab.disks[span.unit] for index, span in enumerate(spans) if fetch.outcome(index) is None]
                if self._can_do_without(at, late) and (set(late) <= set(stalled) or self._pace.spend()):
                    rebuilt = await self._hedge(at, spans, fetch)
                    if rebuilt is not None:
                        return self._checked(at, spans, fetch), rebuilt
                await fetch.wait()
            found = self._checked(at, spans, fetch)
        left = [index for index in range(len(spans)) if fetch.outcome(index) is None]
        if left:  # passed over, and it turned out that they cannot be done without
            for index, outcome in zip(left, await self._fetch(at, [spans[index] for index in left]), strict=True):
                found[index] = outcome
        return found, {}

    async def _fetch_unless_late(self, at: StripeAddress, spans: Sequence[Span], others: int) -> list[bytes | Flaw]:
        """What a fetch of sources gives; those that are late are flaws that nobody mends, if there are others to take
        their places."""
        with self._begin(at, spans) as fetch:
            with trio.move_on_after(self._patience_seconds(at, spans) if others else float("inf")):
                await fetch.wait()
            late = [span for index, span in enumerate(spans) if fetch.outcome(index) is None]
            if late and (len(late) > others or not self._pace.spend()):
                await fetch.wait()
            return self._checked(at, spans, fetch)

    async def _hedge(self, at: StripeAddress, spans: Sequence[Span], fetch: Fetch) -> dict[Span, bytes] | None:
        """Compute what a fetch still waits for; None if all of that comes first and right, or if it cannot be done."""
        found = self._checked(at, spans, fetch)
        flaws = [outcome for outcome in found if isinstance(outcome, Flaw)]
        if not flaws:
            return None  # a thread brought what was late since that was seen
        self.hedged_reads += 1
        rebuilt: dict[Span, bytes] | None = None

        async def rebuild(scope: trio.CancelScope) -> None:
            nonlocal rebuilt
            with suppress(StripeUnreadable):
                rebuilt = await self._rebuild(at, flaws, _good(spans, found))
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rebuild, nursery.cancel_scope)
            await fetch.wait()
            if not any(isinstance(outcome, Flaw) for outcome in self._checked(at, spans, fetch)):
                nursery.cancel_scope.cancel()
        self.won_hedges += rebuilt is not None
        return rebuilt

    def _can_do_without(self, at: StripeAddress, disks: Collection[DiskId]) -> bool:
        """Whether enough units of a stripe are on other disks that are up and answer."""
        others = [disk_id for disk_id in at.slab.disks if disk_id not in disks and self._pool.is_up(disk_id)]
        return sum(not self._pace.is_stalled(disk_id) for disk_id in others) >= at.slab.data_units

    def _patience_seconds(self, at: StripeAddress, spans: Sequence[Span]) -> float:
        """How long to wait for spans before one of them is late."""
        disks = at.slab.disks
        if len(spans) > 1:
            return self._pace.patience_seconds(disks)  # one of several is a peer of the others
        unit = spans[0].unit
        return self._pace.patience_seconds((*disks[:unit], *disks[unit + 1 :]))

    # --- decoding -------------------------------------------------------------------------------------------------

    async def _rebuild(self, at: StripeAddress, flaws: list[Flaw], good: dict[Span, bytes]) -> dict[Span, bytes]:
        """The bytes of flawed spans, from other units; repairs them. ``good`` are spans that were read already.

        First over the whole range at once; when too few units are right all along it, block by block, since different
        units may be right in different blocks.
        """
        low = min(flaw.span.start for flaw in flaws)
        high = max(flaw.span.end for flaw in flaws)
        sources: dict[int, Buffer] = {
            span.unit: memoryview(data)[low - span.start : high - span.start]
            for span, data in good.items()
            if span.start <= low and high <= span.end
        }
        flawed = list(flaws)
        if await self._gather(at, sources, flawed, low, high):
            rebuilt = await self._decode(at, sources, [flaw.span.unit for flaw in flawed], low, high)
            await self._repair(at, rebuilt, flawed, low)
        else:
            rebuilt = await self._rebuild_by_block(at, [flaw.span.unit for flaw in flaws], low, high)
        return {flaw.span: rebuilt[flaw.span.unit][flaw.span.start - low : flaw.span.end - low] for flaw in flaws}

    async def _gather(
        self, at: StripeAddress, sources: dict[int, Buffer], flawed: list[Flaw], low: int, high: int
    ) -> bool:
        """Read range [low, high) of more units into ``sources`` until there are k; those that cannot be had go to
        ``flawed``. False when there are not k that are right all along the range."""
        missing = {flaw.span.unit for flaw in flawed}
        others = [unit for unit in range(len(at.slab.disks)) if unit not in missing and unit not in sources]
        others.sort(key=lambda unit: self._is_doubtful(at.slab.disks[unit]))
        while len(sources) < at.slab.data_units and others:
            count = at.slab.data_units - len(sources)
            spans = [Span(unit, low, high) for unit in others[:count]]
            del others[:count]
            for span, outcome in zip(spans, await self._fetch_unless_late(at, spans, len(others)), strict=True):
                if isinstance(outcome, Flaw):
                    flawed.append(outcome)
                else:
                    sources[span.unit] = outcome
        return len(sources) >= at.slab.data_units

    def _is_doubtful(self, disk_id: DiskId) -> tuple[bool, bool]:
        return not self._pool.is_up(disk_id), self._pace.is_stalled(disk_id)

    async def _rebuild_by_block(self, at: StripeAddress, wanted: list[int], low: int, high: int) -> dict[int, bytes]:
        """Range [low, high) of units, every block from whichever k units are right there; repairs the others."""
        parts: dict[int, list[Buffer]] = {unit: [] for unit in wanted}
        for start in range(low, high, CHECKSUM_BLOCK_BYTES):
            end = min(start + CHECKSUM_BLOCK_BYTES, high)
            outcomes = await self._fetch(at, [Span(unit, start, end) for unit in range(len(at.slab.disks))])
            block: dict[int, Buffer] = {
                unit: outcome for unit, outcome in enumerate(outcomes) if not isinstance(outcome, Flaw)
            }
            flawed = [outcome for outcome in outcomes if isinstance(outcome, Flaw)]
            if len(block) < at.slab.data_units:
                raise StripeUnreadable(
                    f"stripe {at.stripe_id:x}: of {len(outcomes)} units {at.slab.data_units} are needed, {len(block)} "
                    f"are right at offset {start}: {'; '.join(flaw.reason for flaw in flawed)}"
                )
            rebuilt = await self._decode(at, block, [flaw.span.unit for flaw in flawed], start, end)
            await self._repair(at, rebuilt, flawed, start)
            block.update(rebuilt)
            for unit in wanted:
                parts[unit].append(block[unit])
        return {unit: b"".join(pieces) for unit, pieces in parts.items()}

    async def _decode(
        self, at: StripeAddress, sources: Mapping[int, Buffer], wanted: Sequence[int], low: int, high: int
    ) -> dict[int, bytes]:
        """Range [low, high) of the wanted units, computed and checked."""
        codec = codec_for(at.slab.data_units, at.slab.parity_units)
        rebuilt = await codec.run(self._workers, codec.data_units * (high - low), codec.reconstruct, sources, wanted)
        for unit, data in rebuilt.items():
            if not is_intact(data, at.checksums, at.checksum_index(unit, low)):
                raise StripeUnreadable(
                    f"stripe {at.stripe_id:x}: unit {unit}, decoded from units that match their checksums, does not "
                    "match its own: its checksum record is not of these bytes"
                )
        return rebuilt

    async def _repair(self, at: StripeAddress, rebuilt: Mapping[int, bytes], flaws: Sequence[Flaw], low: int) -> None:
        """Write the wrong blocks again, on disks that are up. A failure is counted and told to the pool, not raised:
        the reader has its bytes."""
        if self.is_laid_over(at.stripe_id):
            return  # what the overlay has must not reach a disk before the batch that says so is durable
        writes: list[DiskWrite] = []
        for flaw in flaws:
            disk_id = at.slab.disks[flaw.span.unit]
            if not flaw.blocks or not self._pool.is_up(disk_id):
                continue
            disk, name = self._pool.disk(disk_id), chunk_name(slab_of(at.stripe_id), flaw.span.unit)
            data = memoryview(rebuilt[flaw.span.unit])
            for block in flaw.blocks:
                start = flaw.span.start + block * CHECKSUM_BLOCK_BYTES
                end = min(start + CHECKSUM_BLOCK_BYTES, flaw.span.end)
                offset = at.offset(flaw.span.unit) + start
                writes.append(DiskWrite(disk, name, offset, [data[start - low : end - low]]))
        # Not to be cut short, as this cannot be: the rows may have another owner as soon as the read is over.
        errors = await self._pool.write_durable(writes)
        self.repaired_blocks += errors.count(None)
        self.failed_repairs += len(errors) - errors.count(None)
