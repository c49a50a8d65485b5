"""A disk that is a directory of this machine: the Disk port over blocking calls in four standing threads.

One thread writes and flushes for the log, one what users write at once, one everything else that changes something, one
reads: an append does not wait behind a stripe, nor that behind what is settled, nor a read behind a flush. What is in
the page cache is read in the loop, without a thread; where the disk is a tmpfs, small appends to the log are written
there, too.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

from siltstone.engine.disk.completion import Answers, Completion
from siltstone.engine.disk.directory import LOST_AND_FOUND, DiskDirectory, check_name
from siltstone.engine.disk.lane import DiskLane
from siltstone.engine.disk.open_files import OpenFile
from siltstone.engine.disk.parts import part_folder
from siltstone.engine.disk.threads import DiskThreads
from siltstone.engine.format.superblock import SUPERBLOCK_NAME, Superblock, pack_superblock
from siltstone.errors import ConfigInvalid, DiskError, DiskHung
from siltstone.limits import DISK_TIMEOUT_SECONDS
from siltstone.ports import DiskPunch, DiskRead, DiskSpace, DiskWrite, FileEntry, Lane
from siltstone.types import Buffer, DiskId

T = TypeVar("T")

AT_ONCE_BYTES_MAX = 64 * 1024
"""So much is written to a log in memory without a thread: it takes less time than to wake one."""

_SMALL_READ_BYTES = 16 * 1024
"""Up to here copying what was read is cheaper than reading around the copy."""


class LocalDisk:
    """The Disk port over a directory that ``format_disk`` made. ``uuid``: the disk's own, 16 bytes. ``part``: which one
    is this process's where several share the disk (parts.py); its names are those on the disk all the same.
    ``only_reads``: another process has it; here nothing is locked, cleaned or written, and all parts can be read.

    The directory is opened by the first operation. No method is cancelled once a thread has begun with it. When a
    system call takes ``limit_seconds``, the disk has hung: see the Disk port.
    """

    def __init__(
        self,
        disk_id: DiskId,
        path: str | os.PathLike[str],
        uuid: bytes,
        bytes_max: int = 0,
        *,
        part: int | None = None,
        limit_seconds: float = DISK_TIMEOUT_SECONDS,
        only_reads: bool = False,
    ) -> None:
        self._directory = DiskDirectory(disk_id, os.path.abspath(path), uuid, bytes_max, part, only_reads=only_reads)
        self._limit_seconds = limit_seconds
        self._threads = DiskThreads(self._directory, limit_seconds)
        self._is_closed = False

    @property
    def disk_id(self) -> DiskId:
        """The slot of this disk in its volume."""
        return self._directory.disk_id

    @property
    def path(self) -> str:
        """The directory, for messages."""
        return self._directory.path

    # --- the port ---------------------------------------------------------------------------------------------------

    async def create(self, name: str, size: int) -> None:
        """Make a file of zeros, its room reserved; durable on return."""
        assert size >= 0
        check_name(name)
        await self._call(self._threads.bulk, "create", name, lambda: self._directory.create(name, size))

    async def delete(self, name: str) -> None:
        """Remove a file; after a crash it may be back."""
        check_name(name)
        await self._call(self._threads.background, "delete", name, lambda: self._directory.delete(name))

    async def rename(self, source: str, target: str) -> None:
        """Give a file another name; durable on return."""
        check_name(source)
        check_name(target)
        await self._call(self._threads.log, "rename", source, lambda: self._directory.rename(source, target))

    async def list(self, prefix: str) -> list[FileEntry]:
        """Files whose name starts so, sorted."""
        if prefix.strip("/"):
            check_name(prefix.rstrip("/"))
        return await self._call(self._threads.reader, "list", prefix, lambda: self._directory.list(prefix))

    def read_nowait(self, name: str, offset: int, size: int) -> bytes | None:
        """The bytes if the page cache has all of them and the file is open, otherwise None."""
        assert offset >= 0 and size >= 0
        files = self._directory.files
        file = files.pin(name)
        if file is None:
            return None
        try:
            # A tmpfs knows no RWF_NOWAIT, and needs none: what it has is in memory.
            return _read_cached(file.fd, offset, size, 0 if self._directory.is_in_memory else os.RWF_NOWAIT)
        except OSError:
            return None
        finally:
            files.unpin_nowait(file)

    async def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        await self._begin()
        assert offset >= 0 and size >= 0
        completion: Completion[bytes | DiskError | BaseException] = Completion(1)
        self.submit_reads(completion, [(0, DiskRead(self, name, offset, size))])
        (result,) = await completion.wait()
        if isinstance(result, BaseException):
            raise result
        return result

    async def write(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other, without joining them. Not durable yet."""
        assert offset >= 0
        await self._call(self._threads.background, "write", name, lambda: self._write(name, offset, buffers))

    async def flush(self, name: str) -> None:
        """Make durable what was written to the file before."""
        await self._begin()
        completion: Completion[DiskError | BaseException | None] = Completion(1)
        self._threads.background.submit(DurableWrite(self._directory, completion, 0, name, 0, (), "flush"))
        (error,) = await completion.wait()
        if error is not None:
            raise error

    async def punch(self, name: str, offset: int, size: int) -> None:
        """Give back the room of a range; it reads as zeros. Not durable before a flush."""
        assert offset >= 0 and size >= 0
        await self._call(self._threads.background, "punch", name, lambda: self._directory.punch(name, [(offset, size)]))

    async def replace(self, name: str, data: Buffer) -> None:
        """Write a small file whole; durable on return."""
        check_name(name)
        await self._call(self._threads.bulk, "replace", name, lambda: self._directory.replace(name, data))

    async def space(self) -> DiskSpace:
        """Room now."""
        return await self._call(self._threads.reader, "space", "", self._directory.space)

    async def probe(self) -> None:
        """Look whether the directory is there and is the disk; opens it again if it had gone, or hung until now."""
        if self._threads.has_ended:
            self._threads = DiskThreads(self._directory, self._limit_seconds)
        await self._call(self._threads.reader, "probe", "", self._directory.probe)

    async def restore_superblock(self, data: Buffer, witnesses: Sequence[str]) -> bool:
        """Write a superblock if there is none that is sound, and the witnesses are there; whether it was written."""
        return await self._call(
            self._threads.bulk, "restore", SUPERBLOCK_NAME, lambda: self._directory.restore_superblock(data, witnesses)
        )

    @property
    def is_in_memory(self) -> bool:
        """Whether the directory is on a tmpfs, as far as is known."""
        return self._directory.is_in_memory

    @property
    def is_shared(self) -> bool:
        """Whether other processes may have parts of the disk."""
        return self._directory.is_shared

    async def share(self, part: int | None) -> None:
        """Have a part of the disk from now on, beside other processes; None: all of it. See DiskDirectory."""
        await self._call(self._threads.bulk, "share", "", lambda: self._directory.share(part))

    async def drop_part(self, part: int) -> None:
        """Remove everything that another part has, of which no process is left; durable on return."""
        await self._call(self._threads.bulk, "remove", part_folder(part), lambda: self._directory.drop_part(part))

    async def close(self) -> None:
        """Wait for what is under way, if it does not hang, then let go of files and threads."""
        if self._is_closed:
            return
        with trio.CancelScope(shield=True), contextlib.suppress(DiskHung):
            started = [lane for lane in self._threads.lanes if lane.is_started]
            for lane in started:
                await self._call(lane, "close", "", lambda: None)
            if started:
                await self._call(started[0], "close", "", lambda: self._directory.lose("it was closed"))
        self._threads.stop()
        self._is_closed = True

    @property
    def is_stuck(self) -> bool:
        """Whether something that the disk was asked for may still happen though nobody waits for it."""
        return self._threads.is_hung and not self._threads.has_ended

    # --- for LocalFanout ---------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called: nothing may be submitted any more."""
        return self._is_closed

    def submit_writes(
        self,
        completion: Completion[DiskError | BaseException | None],
        writes: Sequence[tuple[int, DiskWrite]],
        lane: Lane,
    ) -> None:
        """Start writes and flushes, each of which finishes its index of the completion. Never raises."""
        jobs = [
            DurableWrite(self._directory, completion, index, name, offset, buffers, "write")
            for index, (_, name, offset, buffers) in writes
        ]
        if lane is Lane.LOG and self._takes_at_once(writes):
            for job in jobs:
                job.carry_out_whole()
        else:
            self._threads.of(lane).submit(*jobs)

    def submit_punches(
        self, answers: Answers[DiskError | BaseException | None], punches: Sequence[tuple[int, DiskPunch]]
    ) -> None:
        """Start to punch files, each of which gives an answer under its index. Never raises."""
        directory = self._directory
        jobs = [
            Call(directory, answers, index, "punch", name, partial(directory.punch, name, ranges))
            for index, (_, name, ranges) in punches
        ]
        self._threads.background.submit(*jobs)

    def submit_reads(
        self, answers: Answers[bytes | DiskError | BaseException], reads: Sequence[tuple[int, DiskRead]]
    ) -> None:
        """Start reads, each of which gives an answer under its index. Never raises."""
        directory = self._directory
        jobs = [
            Call(directory, answers, index, "read", name, partial(directory.read, name, offset, size))
            for index, (_, name, offset, size) in reads
        ]
        self._threads.reader.submit(*jobs)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _takes_at_once(self, writes: Sequence[tuple[int, DiskWrite]]) -> bool:
        """Whether writes are small, and go to files in memory that are open: then nothing is waited for."""
        directory = self._directory
        if not directory.is_in_memory or self._threads.is_hung or self._threads.log.is_busy:
            return False
        size = sum(len(buffer) for _, write in writes for buffer in write.buffers)
        return size <= AT_ONCE_BYTES_MAX and all(directory.files.has(write.name) for _, write in writes)

    async def _begin(self) -> None:
        """Cancelled here or not at all."""
        assert not self._is_closed, f"disk {self.disk_id} is closed"
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _call(self, lane: DiskLane, operation: str, name: str, function: Callable[[], T]) -> T:
        await self._begin()
        completion: Completion[Any] = Completion(1)
        lane.submit(Call(self._directory, completion, 0, operation, name, function))
        (result,) = await completion.wait()
        if isinstance(result, BaseException):
            raise result
        value: T = result
        return value

    def _write(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        file = self._directory.pin(name)
        try:
            self._directory.write(file, offset, buffers)
            self._directory.check_current(file)
        finally:
            self._directory.files.unpin(file)


class Call:
    """A job that is done when its function returns."""

    __slots__ = ("_answers", "_directory", "_function", "_index", "_name", "_operation")

    def __init__(
        self,
        directory: DiskDirectory,
        answers: Answers[Any],
        index: int,
        operation: str,
        name: str,
        function: Callable[[], object],
    ) -> None:
        self._directory = directory
        self._answers = answers
        self._index = index
        self._operation = operation
        self._name = name
        self._function = function

    def carry_out(self) -> None:
        """Run the function; what it raises is its result."""
        result: object
        try:
            result = self._function()
        except OSError as error:
            result = self._directory.translate(error, self._operation, self._name)
        except BaseException as error:
            result = error
        self._answers.finish(self._index, result)

    def describe(self) -> str:
        """The operation and the file."""
        return f"{self._operation} {self._name}".rstrip()

    def give_up(self, cause: str) -> None:
        """There was no answer."""
        self._answers.finish(self._index, DiskHung(self._directory.disk_id, self._operation, self._name, cause))

    def flushed(self, error: OSError | None) -> None:
        """Never called: there is nothing to flush."""
        raise AssertionError("a call has nothing to flush")


class DurableWrite:
    """A job that writes and is done when its file was flushed."""

    __slots__ = ("_buffers", "_completion", "_directory", "_file", "_index", "_name", "_offset", "_operation")

    def __init__(
        self,
        directory: DiskDirectory,
        completion: Completion[DiskError | BaseException | None],
        index: int,
        name: str,
        offset: int,
        buffers: Sequence[Buffer],
        operation: str,
    ) -> None:
        self._directory = directory
        self._completion = completion
        self._index = index
        self._name = name
        self._offset = offset
        self._buffers = buffers
        self._operation = operation
        self._file: OpenFile | None = None

    def carry_out(self) -> OpenFile | None:
        """Write; the flush is the lane's."""
        try:
            self._file = self._directory.pin(self._name)
            if self._buffers:
                self._directory.write(self._file, self._offset, self._buffers)
        except OSError as error:
            self._finish(self._directory.translate(error, self._operation, self._name))
            return None
        except BaseException as error:
            self._finish(error)
            return None
        return self._file

    def carry_out_whole(self) -> None:
        """Write and flush, without a lane."""
        if (file := self.carry_out()) is None:
            return
        try:
            self._directory.flush(file)
        except OSError as error:
            self.flushed(error)
        else:
            self.flushed(None)

    def flushed(self, error: OSError | None) -> None:
        """Done, or failed by its flush."""
        self._finish(None if error is None else self._directory.translate(error, self._operation, self._name))

    def describe(self) -> str:
        """The operation and the file."""
        return f"{self._operation} {self._name}"

    def give_up(self, cause: str) -> None:
        """There was no answer. The buffers stay with the job, for a thread may still be reading from them."""
        self._completion.finish(self._index, DiskHung(self._directory.disk_id, self._operation, self._name, cause))

    def _finish(self, result: BaseException | None) -> None:
        self._completion.finish(self._index, result)  # first: somebody is waiting for it
        if self._file is not None:
            self._directory.files.unpin(self._file)


def _read_cached(fd: int, offset: int, size: int, flags: int) -> bytes | None:
    """``size`` bytes from the page cache, or None. ``flags``: what keeps preadv from waiting."""
    if size <= _SMALL_READ_BYTES:
        buffer = bytearray(size)
        return bytes(buffer) if os.preadv(fd, (buffer,), offset, flags) == size else None
    # BytesIO hands its buffer out as bytes without the copy that bytes(bytearray) makes.
    target = io.BytesIO(bytes(size))
    with target.getbuffer() as view:
        if os.preadv(fd, (view,), offset, flags) != size:
            return None
    return target.getvalue()


async def format_disk(path: str | os.PathLike[str], superblock: Superblock) -> None:
    """Make a directory (made, too, if it is not there) a disk, durably. Raises ConfigInvalid unless it is empty."""
    await trio.to_thread.run_sync(_format_disk, path, superblock)


def _format_disk(at: str | os.PathLike[str], superblock: Superblock) -> None:
    path = os.path.abspath(at)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        names = sorted(set(os.listdir(path)) - {LOST_AND_FOUND})
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot become a disk: {error.strerror}") from error
    if SUPERBLOCK_NAME in names:
        raise ConfigInvalid(f"{path} is a disk of a volume already: use another directory, or empty it")
    if names:
        raise ConfigInvalid(f"{path} is not empty (it holds {names[0]}): a disk wants an empty directory")
    try:
        _write_superblock(path, pack_superblock(superblock))
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot become a disk: {error.strerror}") from error


def _write_superblock(path: str, data: bytes) -> None:
    scratch = os.path.join(path, f".{SUPERBLOCK_NAME}.new")
    with open(scratch, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(scratch, os.path.join(path, SUPERBLOCK_NAME))
    for folder in (path, os.path.dirname(path)):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
