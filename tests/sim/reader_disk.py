"""A simulated disk as a front-end has it that only reads: its view of it may be worse than the shards'."""

from __future__ import annotations

from typing import Any

from siltstone.errors import DiskError, DiskMissing
from siltstone.types import DiskId
from sim.disk import SimDisk


class ReaderDisk:
    """Reads of a disk that is others'."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self.failure = ""
        """Why it can be read by nobody here."""
        self.reads = 0
        self.is_closed = False

    @property
    def disk_id(self) -> DiskId:
        return self._disk.disk_id

    def read_nowait(self, name: str, offset: int, size: int) -> bytes | None:
        if self.failure:
            return None
        data = self._disk.read_nowait(name, offset, size)
        self.reads += data is not None
        return data

    async def read(self, name: str, offset: int, size: int) -> bytes:
        if self.failure:
            raise DiskError(self.disk_id, "read", name, self.failure)
        self.reads += 1
        return await self._disk.read(name, offset, size)

    async def space(self) -> Any:
        return await self._disk.space()

    async def probe(self) -> None:
        if self.failure:
            raise DiskMissing(self.disk_id, "probe", "", self.failure)
        await self._disk.probe()

    async def close(self) -> None:
        self.is_closed = True

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a front-end must not {name} on a disk")
