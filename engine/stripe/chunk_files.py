"""The chunk files of slabs on the disks: made, made whole and deleted.

What a disk fails at is told to the pool. A file that cannot be deleted is a stray: ``found_on`` finds it later.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.layout import CHUNK_PREFIX, Slab, chunk_name, parse_chunk_name
from siltstone.errors import DiskError, DiskMissing, FileMissing
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId, SlabId


class ChunkFile(NamedTuple):
    """A chunk file that is on a disk: of which slab and unit its name says it is, and its length."""

    slab_id: SlabId
    unit: int
    size: int


class ChunkFiles:
    """The chunk files on the disks of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, slab_id: SlabId, slab: Slab) -> list[DiskError]:
        """Make all files of a slab; the errors of those that could not be made."""
        errors: list[DiskError] = []

        async def create_one(unit: int, disk_id: DiskId) -> None:
            try:
                self._pool.note_taken(disk_id, slab.file_bytes(unit))
                await self._pool.disk(disk_id).create(chunk_name(slab_id, unit), slab.file_bytes(unit))
            except DiskError as error:
                self._pool.report(error)
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for unit, disk_id in enumerate(slab.disks):
                nursery.start_soon(create_one, unit, disk_id)
        return errors

    async def create_anew(self, slab_id: SlabId, slab: Slab, unit: int, disk_id: DiskId) -> None:
        """Make the file of one unit on another disk, in place of a stray that may be there. Raises DiskError."""
        name = chunk_name(slab_id, unit)
        disk = self._pool.disk(disk_id)
        if any(entry.name == name for entry in await disk.list(name)):
            await disk.delete(name)
        self._pool.note_taken(disk_id, slab.file_bytes(unit))
        await disk.create(name, slab.file_bytes(unit))

    async def make_whole(self, slab_id: SlabId, slab: Slab, unit: int) -> bool:
        """Make the file of a unit if it is missing, or long enough if it is short; False if it is whole. Raises
        DiskError. It holds zeros where it held nothing."""
        name, size = chunk_name(slab_id, unit), slab.file_bytes(unit)
        disk = self._pool.disk(slab.disks[unit])
        found = next((entry.size for entry in await disk.list(name) if entry.name == name), None)
        if found is None:
            await disk.create(name, size)
        elif found < size:
            await disk.write(name, size - ROW_BYTES, [bytes(ROW_BYTES)])
            await disk.flush(name)
        return found is None or found < size

    async def found_on(self, disk_id: DiskId) -> list[ChunkFile] | None:
        """The chunk files of a disk; None if it does not answer."""
        try:
            entries = await self._pool.disk(disk_id).list(CHUNK_PREFIX)
        except DiskError as error:
            self._pool.report(error)
            return None
        parsed = ((parse_chunk_name(entry.name), entry.size) for entry in entries)
        return [ChunkFile(*name, size) for name, size in parsed if name is not None]

    async def delete_all(self, slab_id: SlabId, slab: Slab) -> list[int]:
        """Delete all files of a slab; the units whose files are gone."""
        return [unit for unit, disk_id in enumerate(slab.disks) if await self.delete(slab_id, unit, disk_id)]

    async def delete(self, slab_id: SlabId, unit: int, disk_id: DiskId) -> bool:
        """Delete a file; False if it stays, or was not there."""
        try:
            await self._pool.disk(disk_id).delete(chunk_name(slab_id, unit))
        except (DiskMissing, FileMissing):
            return False
        except DiskError as error:
            self._pool.report(error)
            return False
        return True
