"""The world, as the code sees it: Clock, Random, Workers, Disk, Fanout. Handed in by constructor.

Only the command line and the simulator build implementations. ``async`` methods may block and are checkpoints; plain
ones are atomic between tasks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from siltstone.errors import DiskError
from siltstone.types import Buffer, DiskId

T = TypeVar("T")


class Clock(Protocol):
    """Time."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch; may jump."""

    def monotonic_ns(self) -> int:
        """Monotonic clock in nanoseconds; its origin means nothing."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Random(Protocol):
    """Randomness: cryptographic in production, seeded in simulation."""

    def bytes(self, count: int) -> bytes:
        """``count`` random bytes."""

    def below(self, bound: int) -> int:
        """A random integer in [0, bound)."""


class Workers(Protocol):
    """Threads for work that would block the loop (LMDB commits, hashes of large bodies)."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` elsewhere and return what it returns, or raise what it raises."""


class Lane(enum.Enum):
    """Which queue of a disk an operation waits in, so that a small append never waits behind a large write, nor either
    of them behind what no user waits for."""

    LOG = "log"
    BULK = "bulk"
    """Large writes of users."""
    BACKGROUND = "background"
    """Settling, filling, moving, mending, copies of metadata, files that are made ahead."""


class DiskSpace(NamedTuple):
    """Room of one disk in bytes. Disks with the same ``device`` share it."""

    total_bytes: int
    free_bytes: int
    device: int


class FileEntry(NamedTuple):
    """A file of a disk: its name and its length in bytes."""

    name: str
    size: int


class Disk(Protocol):
    """One failure domain that holds named files.

    A disk that gives no answer to one operation within its time limit has hung. Everything that waits for it then
    raises ``DiskHung`` (a ``DiskMissing``), and so does everything that comes, at once and without an effect. What had
    begun may still take effect, at any time, until a probe succeeds, which it does only when all of that is over. The
    buffers of a write that hung must not change ever after.

    Names are relative and use ``/`` ("superblock", "log/0000...", "slab/0000002a.3"). Every method raises
    ``DiskMissing`` when the disk is gone, ``FileMissing`` for a name that is not there, ``DiskFull`` without room,
    ``DiskError`` for everything else that the operating system reports. A write is durable only after a flush of its
    file that began after the write returned.
    """

    @property
    def disk_id(self) -> DiskId:
        """The slot of this disk in its volume."""

    @property
    def is_in_memory(self) -> bool:
        """Whether there is no medium that writes and flushes are waited for."""

    async def create(self, name: str, size: int) -> None:
        """Make a file of ``size`` zero bytes with its space reserved; its existence is durable on return.

        Raises DiskError (cause "exists") if the name is taken.
        """

    async def delete(self, name: str) -> None:
        """Remove a file. Gone for every reader at once; after a crash it may be back."""

    async def rename(self, source: str, target: str) -> None:
        """Give a file another name (replacing the target); durable on return."""

    async def list(self, prefix: str) -> list[FileEntry]:
        """Files whose name starts with ``prefix``, sorted by name."""

    def read_nowait(self, name: str, offset: int, size: int) -> bytes | None:
        """The bytes if they are at hand (page cache) without blocking, otherwise None. Never raises DiskError."""

    async def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; a short file is a DiskError."""

    async def write(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other at ``offset``. Not durable yet."""

    async def flush(self, name: str) -> None:
        """Make durable what was written to the file before."""

    async def punch(self, name: str, offset: int, size: int) -> None:
        """Give back the space of a range; it reads as zeros. The file keeps its length."""

    async def replace(self, name: str, data: Buffer) -> None:
        """Write a small file whole: after a crash it is the old or the new one. Durable on return."""

    async def space(self) -> DiskSpace:
        """Room now."""

    async def probe(self) -> None:
        """Look whether the disk is there and is the one that was opened.

        Raises DiskMissing when it is not, and from then on every other method does too; a probe that finds it again
        puts it back in service.
        """

    async def restore_superblock(self, data: Buffer, witnesses: Sequence[str]) -> bool:
        """Write a superblock where the disk should be, if there is none that is sound; whether it was written.

        A sound one is left alone, whoever's it is. ``witnesses``: files that only this disk has. Unless half of them
        are there, and one at least, it is another directory, or an empty mount point, and DiskError says so. The next
        probe finds the disk again. Durable on return; raises DiskMissing if there is no directory.
        """

    async def close(self) -> None:
        """Let go of files and threads; returns even if something hangs. No calls after that."""


class DiskWrite(NamedTuple):
    """One write of a fan-out."""

    disk: Disk
    name: str
    offset: int
    buffers: Sequence[Buffer]


class DiskRead(NamedTuple):
    """One read of a fan-out."""

    disk: Disk
    name: str
    offset: int
    size: int


class DiskPunch(NamedTuple):
    """Places of one file, as (offset, size), whose room a disk is to get back."""

    disk: Disk
    name: str
    ranges: Sequence[tuple[int, int]]


class Reading(Protocol):
    """Reads under way on several disks, whose answers come in any order. Who has enough does not wait for the rest."""

    def result(self, index: int) -> bytes | DiskError | None:
        """The bytes of a read or what its disk raised; None as long as there is no answer."""

    def seconds(self, index: int) -> float:
        """How long an answer that is there took, from the start of all."""

    async def wait(self, count: int) -> None:
        """Return when at least ``count`` reads have an answer. May be cancelled, and called again: the reads go on."""

    def leave(self, on_late: Callable[[int], None]) -> None:
        """Wait no more: ``on_late`` gets the index of each answer that is still to come, when it comes, in the loop."""


class Fanout(Protocol):
    """Operations on several disks side by side, with one wakeup of the caller when the last is done."""

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane) -> list[DiskError | None]:
        """Write and flush each; the result has, in order, None or what that disk raised. Raises nothing itself."""

    async def punch(self, punches: Sequence[DiskPunch]) -> list[DiskError | None]:
        """Give back the space of each; they read as zeros. The result is that of ``write_durable``, but not durable
        before a flush."""

    def start_read(self, reads: Sequence[DiskRead], lane: Lane) -> Reading:
        """Begin to read each, without waiting."""

    async def read(self, reads: Sequence[DiskRead], lane: Lane) -> list[bytes | DiskError]:
        """Read each; the result has, in order, the bytes or what that disk raised. Raises nothing itself."""
