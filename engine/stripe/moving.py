"""Copying one unit of stripes to another disk, or computing it when its disk cannot give it.

Many stripes at once: what is contiguous on a disk is one read, and one call of the codec computes the units of all
short ones, since a code works byte by byte. Every unit is checked before it is written. A stripe in which something is
wrong is looked at by itself, as readers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.checksum import is_intact
from siltstone.engine.stripe.codec import codec_for
from siltstone.engine.stripe.contiguous import neighbours
from siltstone.engine.stripe.layout import Slab, chunk_name, slab_of
from siltstone.engine.stripe.reader import StripeAddress, StripeReader
from siltstone.engine.stripe.scrub import unit_runs
from siltstone.errors import DiskError, StripeUnreadable
from siltstone.limits import KIB
from siltstone.ports import DiskRead, Lane, Workers
from siltstone.types import Buffer, DiskId, StripeId

TOGETHER_UNIT_BYTES_MAX = 64 * KIB
"""Units up to this are computed together: a call of the codec costs as much as copying these."""


class CopiedUnits(NamedTuple):
    """What one copy did. ``unreadable``: stripes of which too few units are left to compute it."""

    written_bytes: int
    unreadable: list[StripeId]


class UnitCopier:
    """Copies units between the disks of a pool."""

    def __init__(self, pool: Pool, reader: StripeReader, workers: Workers) -> None:
        self._pool = pool
        self._reader = reader
        self._workers = workers

    async def copy(self, stripes: Sequence[StripeAddress], unit: int, target: DiskId) -> CopiedUnits:
        """Write unit ``unit`` of stripes of one slab where it belongs in the chunk file on ``target``; not flushed.

        None of the stripes may be released, nor anything be written in place, before this returns. Raises DiskError
        when the target fails.
        """
        if not stripes:
            return CopiedUnits(0, [])
        found = await self._gather(stripes, unit)
        unreadable: list[StripeId] = []
        pieces: list[tuple[int, Buffer]] = []
        for at, data in zip(stripes, found, strict=True):
            if data is None:
                try:
                    data = await self._reader.unit(at, unit)
                except StripeUnreadable:
                    unreadable.append(at.stripe_id)
                    continue
            pieces.append((at.offset(unit), data))
        disk, name = self._pool.disk(target), chunk_name(slab_of(stripes[0].stripe_id), unit)
        try:
            for offset, buffers in neighbours(pieces):
                await disk.write(name, offset, buffers)
        except DiskError as error:
            self._pool.report(error)
            raise
        return CopiedUnits(sum(len(data) for _, data in pieces), unreadable)

    async def _gather(self, stripes: Sequence[StripeAddress], unit: int) -> list[Buffer | None]:
        """The unit of each stripe; None where that needs a closer look."""
        slab = stripes[0].slab
        if self._pool.is_up(slab.disks[unit]):
            (units,) = await self._read(stripes, [unit], check=True)
            return units
        others = [other for other in range(len(slab.disks)) if other != unit and self._pool.is_up(slab.disks[other])]
        if len(others) < slab.data_units:
            return [None] * len(stripes)
        sources = others[: slab.data_units]
        # What is computed is checked, and with it everything that it was computed from.
        columns = await self._read(stripes, sources, check=False)
        results: list[Buffer | None] = [None] * len(stripes)
        short: list[int] = []
        for index, at in enumerate(stripes):
            found = {source: data for source, column in zip(sources, columns, strict=True) if (data := column[index])}
            if len(found) < len(sources):
                continue
            if at.stripe.unit_bytes <= TOGETHER_UNIT_BYTES_MAX:
                short.append(index)
            else:
                results[index] = await self._compute(slab, found, unit)
        if short:
            joined: dict[int, Buffer] = {
                source: b"".join([data for index in short if (data := column[index]) is not None])
                for source, column in zip(sources, columns, strict=True)
            }
            data, start = memoryview(await self._compute(slab, joined, unit)), 0
            for index in short:
                end = start + stripes[index].stripe.unit_bytes
                results[index], start = data[start:end], end
        for index, at in enumerate(stripes):
            result = results[index]
            if result is not None and not is_intact(result, at.checksums, at.checksum_index(unit, 0)):
                results[index] = None
        return results

    async def _compute(self, slab: Slab, units: dict[int, Buffer], wanted: int) -> bytes:
        codec = codec_for(slab.data_units, slab.parity_units)
        size = slab.data_units * len(next(iter(units.values())))
        return (await codec.run(self._workers, size, codec.reconstruct, units, [wanted]))[wanted]

    async def _read(
        self, stripes: Sequence[StripeAddress], units: Sequence[int], *, check: bool
    ) -> list[list[Buffer | None]]:
        """These units of all stripes; None for one that cannot be read or, with ``check``, is not right."""
        places = {at.stripe_id: index for index, at in enumerate(stripes)}
        columns: list[list[Buffer | None]] = [[None] * len(stripes) for _ in units]
        runs = [(column, run) for column, unit in enumerate(units) for run in unit_runs(stripes, unit)]
        reads = [DiskRead(self._pool.disk(run.disk_id), run.name, run.stripes[0][0], run.size) for _, run in runs]
        for (column, run), result in zip(runs, await self._pool.fanout.read(reads, Lane.BULK), strict=True):
            if isinstance(result, DiskError):
                self._pool.report(result)
                continue
            view, start = memoryview(result), run.stripes[0][0]
            for offset, at in run.stripes:
                data = view[offset - start : offset - start + at.stripe.unit_bytes]
                if not check or is_intact(data, at.checksums, at.checksum_index(run.unit, 0)):
                    columns[column][places[at.stripe_id]] = data
        return columns
