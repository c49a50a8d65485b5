"""A directory as a disk: names, descriptors, room. Blocking; called from the disk's threads.

Everything goes through a descriptor of the directory, so that nothing lands in another one that takes its path later.
Names cannot leave it. Files are made and replaced under a name that starts with a dot, which no listing shows, and then
renamed: a crash leaves them whole or not at all.

Several processes may share a disk (parts.py): each cleans and counts its own part only, and its files are elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence

from siltstone.engine.disk import kernel
from siltstone.engine.disk.lane import note_step
from siltstone.engine.disk.open_files import OPEN_FILES_MAX, OPEN_FILES_READ_MAX, OpenFile, OpenFiles
from siltstone.engine.disk.parts import is_part_folder, note_usage, part_folder, usage_of_others
from siltstone.engine.format.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_NAME, is_rotten, parse_superblock
from siltstone.errors import DiskError, DiskFull, DiskMissing, FileMissing, FormatInvalid
from siltstone.ports import DiskSpace, FileEntry
from siltstone.types import Buffer, DiskId

LOST_AND_FOUND = "lost+found"
"""What ext4 puts into the root of a filesystem; not ours."""

IN_USE = "another process uses this disk"
"""Why a disk that is there is missing: two processes must never write to it."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_DISK = (errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN)
_BLOCK_BYTES = 4096
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class DiskDirectory:
    """The files under ``path``, as long as its superblock has ``uuid``. Opened, and locked against other processes, by
    the first operation or probe.

    ``bytes_max``: room that the files may take together; 0 for no limit but the filesystem's. ``part``: which one is
    this process's where several share the disk; None: it is alone. ``only_reads``: it is another's, who has locked it
    and cleans it; nothing may be written.
    """

    def __init__(
        self,
        disk_id: DiskId,
        path: str,
        uuid: bytes,
        bytes_max: int,
        part: int | None = None,
        *,
        only_reads: bool = False,
    ) -> None:
        assert len(uuid) == 16
        assert bytes_max >= 0
        self.disk_id = disk_id
        self.path = path
        self._uuid = uuid
        self._bytes_max = bytes_max
        self._part = part
        self._only_reads = only_reads
        self._used_bytes = 0  # of this part; kept only with bytes_max
        self.files = OpenFiles(OPEN_FILES_READ_MAX if only_reads else OPEN_FILES_MAX)
        self.is_in_memory = False
        """Whether the disk is a tmpfs: reading it waits for nothing."""
        self._root: OpenFile | None = None
        self._lost_because = ""
        self._state_lock = threading.RLock()  # guards _root, _lost_because and the steps of a probe
        self._names_lock = threading.Lock()  # so that no descriptor is cached under a name that changes meanwhile
        self._folders: set[str] = set()

    # --- being there ------------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Check that the directory at the path is the disk and the one that is open; open it if none is."""
        with self._state_lock:
            root = self._root
            try:
                if root is None:
                    self._open()
                else:
                    self._check_same(root)
            except FormatInvalid as error:
                self.lose(str(error))
            except OSError as error:
                self.lose(f"{self.path}: {error.strerror}")
            else:
                return
            raise DiskMissing(self.disk_id, "probe", self.path, self._lost_because)

    def lose(self, reason: str) -> None:
        """Close everything; what is under way will fail, and so does every operation until a probe succeeds."""
        with self._state_lock:
            root, self._root = self._root, None
            self._lost_because = reason
            self._folders.clear()
            self.files.revoke()
            if root is not None:
                root.is_dropped = True
                self.files.unpin(root)
            self.files.close_unused()

    def _open(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._check_superblock(fd)
            used_bytes = 0 if self._only_reads else self._take_over(fd)
            self.is_in_memory = kernel.is_in_memory(fd)
        except BaseException:
            os.close(fd)
            raise
        self._used_bytes = used_bytes
        self._root = OpenFile(fd, self.files.generation)
        self._lost_because = ""

    def _take_over(self, root_fd: int) -> int:
        """Lock and clean the disk for this process; bytes that its files take."""
        if not kernel.try_lock(root_fd, shared=self._part is not None):
            raise FormatInvalid(IN_USE)
        used_bytes = self._clean_and_measure(root_fd)
        if self._bytes_max and self._part is not None:
            note_usage(root_fd, self._part, used_bytes)
        return used_bytes

    def _check_same(self, root: OpenFile) -> None:
        ours, theirs = os.fstat(root.fd), os.stat(self.path)
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
            raise FormatInvalid("another directory is at its path")
        self._check_superblock(root.fd)
        self.files.drop_removed()

    def _check_superblock(self, root_fd: int) -> None:
        fd = os.open(SUPERBLOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root_fd)
        try:
            superblock = parse_superblock(kernel.read_all(fd, 0, SUPERBLOCK_BYTES))
        finally:
            os.close(fd)
        if superblock.disk_uuid != self._uuid:
            raise FormatInvalid(f"the superblock at {self.path} is of another disk (slot {superblock.disk_id})")

    def restore_superblock(self, data: Buffer, witnesses: Sequence[str]) -> bool:
        """Write the superblock if there is none that is sound and the witnesses are there; raises DiskError."""
        with self._state_lock:
            try:
                root_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                cause = f"{self.path}: {error.strerror}"
                raise DiskMissing(self.disk_id, "restore", SUPERBLOCK_NAME, cause) from error
            try:
                if not self._lacks_superblock(root_fd):
                    return False
                present = sum(_exists(root_fd, name) for name in witnesses)
                if not present or 2 * present < len(witnesses):
                    cause = f"{self.path} has {present} of its {len(witnesses)} files: is it another directory?"
                    raise DiskError(self.disk_id, "restore", SUPERBLOCK_NAME, cause)
                with self._scratch_file(root_fd, SUPERBLOCK_NAME) as fd:
                    kernel.write_all(fd, 0, [data])
                    os.fsync(fd)
                os.rename(_scratch_name(SUPERBLOCK_NAME), SUPERBLOCK_NAME, src_dir_fd=root_fd, dst_dir_fd=root_fd)
                os.fsync(root_fd)
            finally:
                os.close(root_fd)
        return True

    def _lacks_superblock(self, root_fd: int) -> bool:
        try:
            fd = os.open(SUPERBLOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root_fd)
        except FileNotFoundError:
            return True
        try:
            return is_rotten(kernel.read_all(fd, 0, SUPERBLOCK_BYTES))
        finally:
            os.close(fd)

    def _clean_and_measure(self, root_fd: int) -> int:
        """Remove what unfinished creates and replaces of this process left; bytes that its files take."""
        used_bytes = 0
        for folder_fd, folder, entry in _walk(root_fd, part_folder(self._part or 0)):
            if self._part == 0 and is_part_folder(folder):
                continue
            if entry.name.startswith("."):
                if entry.name.endswith(".new"):
                    os.unlink(entry.name, dir_fd=folder_fd)
            else:
                used_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
        return used_bytes

    @contextlib.contextmanager
    def _pinned_root(self) -> Iterator[int]:
        """The directory's descriptor, which stays open meanwhile; opens the disk if that was never tried."""
        with self._state_lock:
            if self._root is None and not self._lost_because:
                self.probe()
            root = self._root
            if root is None:
                raise DiskMissing(self.disk_id, "use", self.path, self._lost_because)
            root.pins += 1
        try:
            yield root.fd
        finally:
            self.files.unpin(root)

    def translate(self, error: OSError, operation: str, name: str) -> DiskError:
        """Our error for the operating system's."""
        cause = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            return DiskFull(self.disk_id, operation, name, cause)
        if error.errno in _NO_DISK:
            return DiskMissing(self.disk_id, operation, name, cause)
        if error.errno == errno.ENOENT:
            try:
                self.probe()
            except DiskMissing as missing:
                return DiskMissing(self.disk_id, operation, name, missing.cause)
            return FileMissing(self.disk_id, operation, name, cause)
        return DiskError(self.disk_id, operation, name, cause)

    # --- bytes ------------------------------------------------------------------------------------------------------

    def pin(self, name: str) -> OpenFile:
        """The open file of a name; the caller unpins it. Raises OSError, DiskMissing."""
        file = self.files.pin(name)
        if file is not None:
            return file
        check_name(name)
        generation = self.files.generation
        with self._pinned_root() as root_fd, self._names_lock:
            access = os.O_RDONLY if self._only_reads else os.O_RDWR
            fd = os.open(name, access | os.O_NOFOLLOW, dir_fd=root_fd)
            file = self.files.add(name, fd, generation)
        if file is None:
            raise OSError(errno.ENODEV, "the disk was lost meanwhile")
        return file

    def write(self, file: OpenFile, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write; raises OSError."""
        if self._bytes_max == 0:
            kernel.write_all(file.fd, offset, buffers)
            return
        size = sum(map(len, buffers))
        with file.room_lock:
            before = os.fstat(file.fd)
            has_holes = before.st_blocks * 512 < max(before.st_size, offset + size)
            if has_holes:
                # Nobody tells which part of a file has room behind it: near the limit one with holes is refused whole.
                self._need_room(size)
                kernel.write_all(file.fd, offset, buffers)
                self._take_room(os.fstat(file.fd).st_blocks * 512 - before.st_blocks * 512)
                return
        kernel.write_all(file.fd, offset, buffers)

    def flush(self, file: OpenFile) -> None:
        """Make durable what was written to the file; raises OSError."""
        os.fdatasync(file.fd)
        self.check_current(file)

    def check_current(self, file: OpenFile) -> None:
        """Raise OSError if the disk was lost since the file was opened."""
        if file.generation != self.files.generation:
            raise OSError(errno.ENODEV, "the disk was lost meanwhile")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; raises OSError, DiskError."""
        file = self.pin(name)
        try:
            data = kernel.read_all(file.fd, offset, size)
        finally:
            self.files.unpin(file)
        if len(data) != size:
            raise DiskError(self.disk_id, "read", name, f"short file: {len(data)} of {size} bytes at {offset}")
        return data

    def punch(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        """Zero ranges of a file, as (offset, size), and give their room back; raises OSError, DiskError."""
        file = self.pin(name)
        try:
            with file.room_lock:
                before = os.fstat(file.fd).st_blocks
                try:
                    for offset, size in ranges:
                        kernel.punch_hole(file.fd, offset, size)
                        note_step()
                finally:
                    self._take_room((os.fstat(file.fd).st_blocks - before) * 512)
            self.check_current(file)
        finally:
            self.files.unpin(file)

    # --- names ------------------------------------------------------------------------------------------------------

    def create(self, name: str, size: int) -> None:
        """Make a file of zeros, durably; raises OSError, DiskError."""
        generation = self.files.generation
        self._need_room(size)
        with self._pinned_root() as root_fd:
            self._make_folders(root_fd, name)
            if _exists(root_fd, name):
                raise DiskError(self.disk_id, "create", name, "exists")
            with self._scratch_file(root_fd, name) as fd:
                kernel.reserve(fd, size)
                os.fsync(fd)
                self._take_room(os.fstat(fd).st_blocks * 512)
            with self._names_lock:
                os.rename(_scratch_name(name), name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
                self.files.drop(name)
            _sync_folder(root_fd, name)
        self._check_generation(generation)

    def replace(self, name: str, data: Buffer) -> None:
        """Write a small file whole, durably; raises OSError, DiskError."""
        generation = self.files.generation
        self._need_room(len(data))
        with self._pinned_root() as root_fd:
            self._make_folders(root_fd, name)
            with self._scratch_file(root_fd, name) as fd:
                kernel.write_all(fd, 0, [data])
                os.fsync(fd)
                self._take_room(os.fstat(fd).st_blocks * 512)
            self._rename(root_fd, _scratch_name(name), name)
        self._check_generation(generation)

    def delete(self, name: str) -> None:
        """Remove a file; raises OSError, DiskError."""
        with self._pinned_root() as root_fd:
            freed_bytes = self._allocated_bytes(root_fd, name)
            with self._names_lock:
                os.unlink(name, dir_fd=root_fd)
                self.files.drop(name)
            self._take_room(-freed_bytes)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, durably; raises OSError, DiskError."""
        generation = self.files.generation
        with self._pinned_root() as root_fd:
            if source == target:
                os.stat(source, dir_fd=root_fd, follow_symlinks=False)
                return
            self._make_folders(root_fd, target)
            self._rename(root_fd, source, target)
            if os.path.dirname(source) != os.path.dirname(target):
                _sync_folder(root_fd, source)
        self._check_generation(generation)

    def list(self, prefix: str) -> list[FileEntry]:
        """Files whose name starts so, sorted; raises OSError, DiskError."""
        entries: list[FileEntry] = []
        with self._pinned_root() as root_fd:
            for _, folder, entry in _walk(root_fd, os.path.dirname(prefix)):
                name = f"{folder}/{entry.name}" if folder else entry.name
                if name.startswith(prefix) and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # deleted while we looked
                        entries.append(FileEntry(name, entry.stat(follow_symlinks=False).st_size))
        return sorted(entries)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may have parts of the disk."""
        return self._part is not None

    def share(self, part: int | None) -> None:
        """From now on this process has a part of the disk; None: all of it, and no other process may use it. Raises
        OSError, DiskError."""
        with self._state_lock:
            if part == self._part or self._root is None:
                self._part = part
                return
            with self._pinned_root() as root_fd:
                # In between the lock is nobody's; who has the volume is settled by the lock in its HOME.
                if not kernel.try_lock(root_fd, shared=part is not None):
                    raise DiskError(self.disk_id, "lock", self.path, IN_USE)
                with self._names_lock:
                    self._part = part
                    if self._bytes_max and part is not None:
                        note_usage(root_fd, part, self._used_bytes)

    def drop_part(self, part: int) -> None:
        """Remove everything that another part has, durably; nobody uses it. Raises OSError, DiskError."""
        assert part and part != self._part
        folder = part_folder(part)
        with self._pinned_root() as root_fd:
            for folder_fd, _, entry in _walk(root_fd, folder):
                size = entry.stat(follow_symlinks=False).st_blocks * 512
                os.unlink(entry.name, dir_fd=folder_fd)
                if self._part is None:  # then it has been counted as this process's
                    self._take_room(-size)
            _remove_folders(root_fd, folder)
            os.fsync(root_fd)
            if self._bytes_max and self._part is not None:
                note_usage(root_fd, part, 0)
        with self._state_lock:
            self._folders = {known for known in self._folders if known.split("/")[0] != folder}

    def space(self) -> DiskSpace:
        """Room now; raises OSError, DiskError."""
        with self._pinned_root() as root_fd:
            statistics, device = os.fstatvfs(root_fd), os.fstat(root_fd).st_dev
        total_bytes = statistics.f_blocks * statistics.f_frsize
        free_bytes = statistics.f_bavail * statistics.f_frsize
        if self._bytes_max:
            total_bytes = min(total_bytes, self._bytes_max)
            left = max(0, self._bytes_max - self._used_bytes - self._others_used_bytes())
            if left <= free_bytes:
                # The limit binds, not the file system: this room is shared with no other disk on the device.
                free_bytes, device = left, -(self.disk_id + 1)
        return DiskSpace(total_bytes, free_bytes, device)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _check_generation(self, generation: int) -> None:
        if generation != self.files.generation:
            raise OSError(errno.ENODEV, "the disk was lost meanwhile")

    def _need_room(self, size: int) -> None:
        needed = -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        if self._bytes_max and self._used_bytes + self._others_used_bytes() + needed > self._bytes_max:
            raise OSError(errno.ENOSPC, f"the limit of {self._bytes_max} bytes for this disk is reached")

    def _take_room(self, size: int) -> None:
        if not self._bytes_max:
            return
        if self._part is None:
            with self._names_lock:
                self._used_bytes += size
            return
        with self._pinned_root() as root_fd, self._names_lock:
            self._used_bytes += size
            note_usage(root_fd, self._part, self._used_bytes)

    def _others_used_bytes(self) -> int:
        """What other processes have taken of the disk by now."""
        if self._part is None:
            return 0
        with self._pinned_root() as root_fd:
            return usage_of_others(root_fd, self._part)

    def _allocated_bytes(self, root_fd: int, name: str) -> int:
        return os.stat(name, dir_fd=root_fd, follow_symlinks=False).st_blocks * 512 if self._bytes_max else 0

    def _rename(self, root_fd: int, source: str, target: str) -> None:
        freed_bytes = 0
        with contextlib.suppress(FileNotFoundError):
            freed_bytes = self._allocated_bytes(root_fd, target)
        with self._names_lock:
            os.rename(source, target, src_dir_fd=root_fd, dst_dir_fd=root_fd)
            self.files.drop(source)
            self.files.drop(target)
        self._take_room(-freed_bytes)
        _sync_folder(root_fd, target)

    @contextlib.contextmanager
    def _scratch_file(self, root_fd: int, name: str) -> Iterator[int]:
        """An empty file that becomes ``name`` by a rename later; goes away if the body raises."""
        scratch = _scratch_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        fd = os.open(scratch, flags, 0o600, dir_fd=root_fd)
        try:
            yield fd
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch, dir_fd=root_fd)
            raise
        finally:
            os.close(fd)

    def _make_folders(self, root_fd: int, name: str) -> None:
        folder = os.path.dirname(name)
        if not folder or folder in self._folders:
            return
        self._make_folders(root_fd, folder)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=root_fd)
        _sync_folder(root_fd, folder)
        self._folders.add(folder)


def check_name(name: str) -> None:
    """Names come from our own code: one that could leave the directory, or that is hidden, is our bug."""
    assert name and "\0" not in name, f"invalid name {name!r}"
    for part in name.split("/"):
        assert part and not part.startswith(".") and part != LOST_AND_FOUND, f"invalid name {name!r}"


def _scratch_name(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, f".{base}.new")


def _exists(root_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _sync_folder(root_fd: int, name: str) -> None:
    """Make the entry of ``name`` in its folder durable."""
    folder = os.path.dirname(name)
    if not folder:
        os.fsync(root_fd)
        return
    fd = os.open(folder, _DIRECTORY_FLAGS, dir_fd=root_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_folders(root_fd: int, folder: str) -> None:
    """Remove a folder that has only folders in it, if it is there."""
    try:
        fd = os.open(folder, _DIRECTORY_FLAGS, dir_fd=root_fd)
    except FileNotFoundError:
        return
    try:
        with os.scandir(fd) as entries:
            for entry in list(entries):
                _remove_folders(root_fd, f"{folder}/{entry.name}")
    finally:
        os.close(fd)
    os.rmdir(folder, dir_fd=root_fd)


def _walk(root_fd: int, folder: str) -> Iterator[tuple[int, str, os.DirEntry[str]]]:
    """Regular files below a folder of the disk: its descriptor, its name, the entry. None if it is not there."""
    try:
        fd = os.open(folder or ".", _DIRECTORY_FLAGS, dir_fd=root_fd)
    except FileNotFoundError:
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != LOST_AND_FOUND:
                        yield from _walk(root_fd, f"{folder}/{entry.name}" if folder else entry.name)
                elif entry.is_file(follow_symlinks=False):
                    note_step()
                    yield fd, folder, entry
    finally:
        os.close(fd)
