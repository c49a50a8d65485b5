"""A part of a disk as a disk: the Disk and Fanout ports over others, with a folder before every name.

Superblock, probe, room and health are the real disk's: a part has none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from siltstone.errors import DiskError
from siltstone.ports import Disk, DiskPunch, DiskRead, DiskSpace, DiskWrite, Fanout, FileEntry, Lane, Reading
from siltstone.types import Buffer, DiskId


class PrefixedDisk:
    """The files of ``disk`` in ``folder``. Names in errors are those on the disk. Closing it closes the disk."""

    def __init__(self, disk: Disk, folder: str) -> None:
        assert folder and not folder.endswith("/")
        self.disk = disk
        self._prefix = f"{folder}/"

    @property
    def disk_id(self) -> DiskId:
        """The slot of the disk in its volume."""
        return self.disk.disk_id

    def real_name(self, name: str) -> str:
        """What a file is called on the disk."""
        # An empty name would become the folder, and pass for a good one.
        assert name, "a file without a name"
        return self._prefix + name

    @property
    def is_in_memory(self) -> bool:
        """See Disk."""
        return self.disk.is_in_memory

    async def create(self, name: str, size: int) -> None:
        """Make a file of zeros; durable on return."""
        await self.disk.create(self.real_name(name), size)

    async def delete(self, name: str) -> None:
        """Remove a file; after a crash it may be back."""
        await self.disk.delete(self.real_name(name))

    async def rename(self, source: str, target: str) -> None:
        """Give a file another name; durable on return."""
        await self.disk.rename(self.real_name(source), self.real_name(target))

    async def list(self, prefix: str) -> list[FileEntry]:
        """Files of the part whose name starts so, sorted."""
        found = await self.disk.list(self._prefix + prefix)
        return [FileEntry(entry.name.removeprefix(self._prefix), entry.size) for entry in found]

    def read_nowait(self, name: str, offset: int, size: int) -> bytes | None:
        """The bytes if they are at hand, otherwise None."""
        return self.disk.read_nowait(self.real_name(name), offset, size)

    async def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        return await self.disk.read(self.real_name(name), offset, size)

    async def write(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other. Not durable yet."""
        await self.disk.write(self.real_name(name), offset, buffers)

    async def flush(self, name: str) -> None:
        """Make durable what was written to the file before."""
        await self.disk.flush(self.real_name(name))

    async def punch(self, name: str, offset: int, size: int) -> None:
        """Give back the room of a range."""
        await self.disk.punch(self.real_name(name), offset, size)

    async def replace(self, name: str, data: Buffer) -> None:
        """Write a small file whole; durable on return."""
        await self.disk.replace(self.real_name(name), data)

    async def space(self) -> DiskSpace:
        """Room of the disk now."""
        return await self.disk.space()

    async def probe(self) -> None:
        """Look whether the disk is there."""
        await self.disk.probe()

    async def restore_superblock(self, data: Buffer, witnesses: Sequence[str]) -> bool:
        """Write the disk's superblock if there is none that is sound, and the part's files are there."""
        return await self.disk.restore_superblock(data, [self.real_name(name) for name in witnesses])

    async def close(self) -> None:
        """Close the disk."""
        await self.disk.close()


class PrefixedFanout:
    """The Fanout port for PrefixedDisks, over one for their disks."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane) -> list[DiskError | None]:
        """Write and flush each; None or the error of each, in order."""
        real = []
        for disk, name, offset, buffers in writes:
            assert isinstance(disk, PrefixedDisk)
            real.append(DiskWrite(disk.disk, disk.real_name(name), offset, buffers))
        return await self._fanout.write_durable(real, lane)

    async def punch(self, punches: Sequence[DiskPunch]) -> list[DiskError | None]:
        """Give back the space of each; None or the error of each, in order."""
        real = []
        for disk, name, ranges in punches:
            assert isinstance(disk, PrefixedDisk)
            real.append(DiskPunch(disk.disk, disk.real_name(name), ranges))
        return await self._fanout.punch(real)

    def start_read(self, reads: Sequence[DiskRead], lane: Lane) -> Reading:
        """Begin to read each."""
        return self._fanout.start_read(_real_reads(reads), lane)

    async def read(self, reads: Sequence[DiskRead], lane: Lane) -> list[bytes | DiskError]:
        """Read each; the bytes or the error of each, in order."""
        return await self._fanout.read(_real_reads(reads), lane)


def _real_reads(reads: Sequence[DiskRead]) -> list[DiskRead]:
    real = []
    for disk, name, offset, size in reads:
        assert isinstance(disk, PrefixedDisk)
        real.append(DiskRead(disk.disk, disk.real_name(name), offset, size))
    return real
