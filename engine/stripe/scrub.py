"""Look at every unit of some stripes, and mend what is not as it was written.

Whatever happened to a block - it rotted, a write of it was lost or landed elsewhere, its sector cannot be read - shows
as one of two things: an error, or bytes that do not match the checksum in the metadata. Reads are of up to a megabyte,
across stripes that are neighbours on their disk; only a stripe in which something is wrong is looked at by itself,
block by block, since different units may be right in different blocks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.checksum import checksums_of, damaged_blocks, is_intact
from siltstone.engine.stripe.codec import codec_for
from siltstone.engine.stripe.layout import CHECKSUM_BYTES, blocks_per_unit, chunk_name, slab_of
from siltstone.engine.stripe.reader import Span, StripeAddress, StripeReader, seen
from siltstone.errors import DiskError, DiskMissing, FileMissing
from siltstone.limits import CHECKSUM_BLOCK_BYTES, KIB, MIB
from siltstone.ports import DiskRead, DiskWrite, Lane, Workers
from siltstone.types import Buffer, DiskId, StripeId

READ_BYTES = 1 * MIB
"""Longest read over several stripes."""

GAP_BYTES_MAX = 64 * KIB
"""Free rows up to this long are read through rather than skipped with a read of their own."""

Digests = Callable[[], Container[bytes]]
"""All checksums of the slab: what tells bytes that belong elsewhere from rot. Asked for only when damage is found."""


class DamageKind(enum.Enum):
    """What was found where a unit should be."""

    ROTTEN = "bytes that do not match their checksum"
    MISPLACED = "bytes that belong elsewhere in the slab: a write landed in the wrong place"
    UNREADABLE = "the disk cannot read it"
    MISSING = "its chunk file is not there"
    ABSENT = "its disk is not up"


class UnitDamage(NamedTuple):
    """What is wrong with one unit: ``blocks`` of it. ``is_mended``: all of it is right now."""

    unit: int
    disk_id: DiskId
    kind: DamageKind
    blocks: int
    is_mended: bool


class StripeDamage(NamedTuple):
    """A stripe in which something was wrong. ``is_lost``: some block cannot be computed with the disks that are up."""

    stripe_id: StripeId
    units: list[UnitDamage]
    is_lost: bool


class Checked(NamedTuple):
    """What a look at some stripes found, and how many units and bytes it read of each disk."""

    damages: list[StripeDamage]
    units: dict[DiskId, int]
    read_bytes: dict[DiskId, int]


class UnitRun(NamedTuple):
    """Units that are neighbours on one disk, by their offsets in the chunk file: one read."""

    unit: int
    disk_id: DiskId
    name: str
    stripes: list[tuple[int, StripeAddress]]
    size: int


class _Unit(NamedTuple):
    """A unit as it is on its disk; ``wrong`` are the blocks of ``image`` that are not what they should be. The image is
    empty if there is no file to look at, or to write to."""

    image: Buffer
    wrong: frozenset[int]
    kind: DamageKind


class StripeScrub:
    """Checks and mends stripes of a pool."""

    def __init__(self, pool: Pool, workers: Workers, reader: StripeReader) -> None:
        self._pool = pool
        self._workers = workers
        self._reader = reader

    async def check(self, stripes: Sequence[StripeAddress], *, mend: bool, digests: Digests) -> Checked:
        """Read every unit of some stripes of one slab, and with ``mend`` write anew what is wrong.

        None of them may be released, nor anything be written in place in the slab, before this returns. What is laid
        over a stripe counts as written: with ``mend`` it must be such that it may be.
        """
        runs = [run for run in _runs([self._reader.laid_over(at) for at in stripes]) if self._pool.is_up(run.disk_id)]
        reads = [DiskRead(self._pool.disk(run.disk_id), run.name, run.stripes[0][0], run.size) for run in runs]
        units: dict[DiskId, int] = {}
        read_bytes: dict[DiskId, int] = {}
        suspects: dict[StripeId, StripeAddress] = {}
        for run, result in zip(runs, await self._pool.fanout.read(reads, Lane.BULK) if reads else (), strict=True):
            units[run.disk_id] = units.get(run.disk_id, 0) + len(run.stripes)
            read_bytes[run.disk_id] = read_bytes.get(run.disk_id, 0) + run.size
            start = run.stripes[0][0]
            for offset, at in run.stripes:
                if isinstance(result, DiskError) or not _is_right(at, run.unit, memoryview(result)[offset - start :]):
                    suspects[at.stripe_id] = at
        damages = [await self._examine(at, mend=mend, digests=digests) for at in suspects.values()]
        return Checked([damage for damage in damages if damage is not None], units, read_bytes)

    async def _examine(self, at: StripeAddress, *, mend: bool, digests: Digests) -> StripeDamage | None:
        """A stripe by itself: what is wrong with each unit, and whether that is mended. None if all is well now."""
        units = [await self._read_unit(at, unit, digests) for unit in range(len(at.slab.disks))]
        if not any(unit.wrong and unit.kind is not DamageKind.ABSENT for unit in units):
            return None
        blocks = range(blocks_per_unit(at.stripe.unit_bytes))
        is_lost = any(sum(block not in unit.wrong for unit in units) < at.slab.data_units for block in blocks)
        if mend:
            await self._mend(at, units)
        damages: list[UnitDamage] = []
        for index, unit in enumerate(units):
            if unit.wrong:
                is_mended = mend and not (await self._read_unit(at, index, digests)).wrong
                damages.append(UnitDamage(index, at.slab.disks[index], unit.kind, len(unit.wrong), is_mended))
        return StripeDamage(at.stripe_id, damages, is_lost)

    async def _read_unit(self, at: StripeAddress, unit: int, digests: Digests) -> _Unit:
        """A whole unit; block by block where it cannot be read in one piece."""
        size = at.stripe.unit_bytes
        everything = frozenset(range(blocks_per_unit(size)))
        image = await self._read(at, unit, 0, size)
        if isinstance(image, DiskMissing | FileMissing):
            is_absent = isinstance(image, DiskMissing)
            return _Unit(b"", everything, DamageKind.ABSENT if is_absent else DamageKind.MISSING)
        kind = DamageKind.ROTTEN
        wrong: set[int] = set()
        if isinstance(image, DiskError):
            kind = DamageKind.UNREADABLE
            pieces: list[bytes] = []
            for start in range(0, size, CHECKSUM_BLOCK_BYTES):
                length = min(CHECKSUM_BLOCK_BYTES, size - start)
                piece = await self._read(at, unit, start, length)
                if isinstance(piece, DiskError):
                    wrong.add(start // CHECKSUM_BLOCK_BYTES)
                    piece = bytes(length)
                pieces.append(piece)
            image = b"".join(pieces)
        image = seen(at, Span(unit, 0, size), image)
        mismatched = set(damaged_blocks(image, at.checksums, at.checksum_index(unit, 0))) - wrong
        if mismatched and not wrong and _are_elsewhere(image, mismatched, digests()):
            kind = DamageKind.MISPLACED
        return _Unit(image, frozenset(wrong | mismatched), kind)

    async def _read(self, at: StripeAddress, unit: int, start: int, size: int) -> bytes | DiskError:
        try:
            disk = self._pool.disk(at.slab.disks[unit])
        except DiskMissing as error:
            return error
        read = DiskRead(disk, chunk_name(slab_of(at.stripe_id), unit), at.offset(unit) + start, size)
        (result,) = await self._pool.fanout.read([read], Lane.BULK)
        if isinstance(result, DiskError):
            self._pool.report(result)
        return result

    async def _mend(self, at: StripeAddress, units: Sequence[_Unit]) -> None:
        """Compute what is wrong from what is right, and write it where there is a disk to take it."""
        size = at.stripe.unit_bytes
        writes: list[DiskWrite] = []

        def wrong_in(block: int) -> list[int]:
            return [index for index, unit in enumerate(units) if block in unit.wrong]

        # Blocks that are wrong in the same units are computed and written together.
        for wrong, group in groupby(range(blocks_per_unit(size)), key=wrong_in):
            run = list(group)
            wanted = [unit for unit in wrong if units[unit].image]
            if not wanted or len(units) - len(wrong) < at.slab.data_units:
                continue
            start, end = run[0] * CHECKSUM_BLOCK_BYTES, min((run[-1] + 1) * CHECKSUM_BLOCK_BYTES, size)
            right = {i: memoryview(unit.image)[start:end] for i, unit in enumerate(units) if i not in wrong}
            codec = codec_for(at.slab.data_units, at.slab.parity_units)
            size_computed = codec.data_units * (end - start)
            rebuilt = await codec.run(self._workers, size_computed, codec.reconstruct, right, wanted)
            for unit, data in rebuilt.items():
                disk_id = at.slab.disks[unit]
                # Bytes that do not match would be a checksum record that is not of this stripe: nothing is written.
                if self._pool.is_up(disk_id) and is_intact(data, at.checksums, at.checksum_index(unit, start)):
                    name = chunk_name(slab_of(at.stripe_id), unit)
                    offset = at.offset(unit) + start
                    writes.append(DiskWrite(self._pool.disk(disk_id), name, offset, [data]))
        # Not to be cut short, as this cannot be: the rows may have another owner as soon as the look is over.
        await self._pool.write_durable(writes)


def _is_right(at: StripeAddress, unit: int, data: memoryview) -> bool:
    image: Buffer = data[: at.stripe.unit_bytes]
    if at.pieces:
        image = seen(at, Span(unit, 0, at.stripe.unit_bytes), bytes(image))
    return is_intact(image, at.checksums, at.checksum_index(unit, 0))


def _runs(stripes: Sequence[StripeAddress]) -> Iterator[UnitRun]:
    """What to read of each disk."""
    if stripes:
        for unit in range(len(stripes[0].slab.disks)):
            yield from unit_runs(stripes, unit)


def unit_runs(stripes: Sequence[StripeAddress], unit: int) -> Iterator[UnitRun]:
    """One unit of some stripes of a slab: what lies side by side, or nearly, in one piece."""
    disk_id = stripes[0].slab.disks[unit]
    name = chunk_name(slab_of(stripes[0].stripe_id), unit)
    run: list[tuple[int, StripeAddress]] = []
    end = 0
    for offset, at in sorted(((at.offset(unit), at) for at in stripes), key=itemgetter(0)):
        if run and (offset - end > GAP_BYTES_MAX or offset + at.stripe.unit_bytes - run[0][0] > READ_BYTES):
            yield UnitRun(unit, disk_id, name, run, end - run[0][0])
            run = []
        run.append((offset, at))
        end = offset + at.stripe.unit_bytes
    yield UnitRun(unit, disk_id, name, run, end - run[0][0])


def _are_elsewhere(image: Buffer, blocks: set[int], digests: Container[bytes]) -> bool:
    """Whether any of the blocks is what should stand somewhere else. Zeros do not tell: free rows are full of them."""
    for block in blocks:
        data = memoryview(image)[block * CHECKSUM_BLOCK_BYTES : (block + 1) * CHECKSUM_BLOCK_BYTES]
        if data != bytes(len(data)) and checksums_of([data]) in digests:
            return True
    return False


def digests_in(checksums: bytes) -> Iterator[bytes]:
    """The checksums of a record, one by one."""
    return (checksums[at : at + CHECKSUM_BYTES] for at in range(0, len(checksums), CHECKSUM_BYTES))
