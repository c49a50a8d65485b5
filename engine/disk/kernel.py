"""System calls that Python's ``os`` has not, or has with other rules than ours."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence

from siltstone.types import Buffer

IOV_MAX = os.sysconf("SC_IOV_MAX")
"""Buffers that one pwritev takes."""

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_ZEROS = bytes(1024 * 1024)

_TMPFS_MAGIC = 0x01021994
_STATFS_BYTES = 256  # more than struct statfs has on any machine; its first word is the filesystem's magic number

_libc = ctypes.CDLL(None, use_errno=True)
_fstatfs = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)
_fstatfs.restype = ctypes.c_int
_fallocate = _libc.fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def write_all(fd: int, offset: int, buffers: Sequence[Buffer]) -> None:
    """Write the buffers one after the other at ``offset``, without joining them. Raises OSError."""
    if len(buffers) <= IOV_MAX:
        total = sum(map(len, buffers))
        written = os.pwritev(fd, buffers, offset)
        if written == total:
            return
        buffers, offset = _after(buffers, written), offset + written
    while buffers:
        written = os.pwritev(fd, buffers[:IOV_MAX], offset)
        if written == 0 and any(map(len, buffers[:IOV_MAX])):
            raise OSError(errno.EIO, "the kernel wrote nothing")
        buffers, offset = _after(buffers, written), offset + written


def _after(buffers: Sequence[Buffer], written: int) -> list[Buffer]:
    """What is left of the buffers behind the first ``written`` bytes, empty ones left out."""
    left: list[Buffer] = []
    for buffer in buffers:
        if written >= len(buffer):
            written -= len(buffer)
        else:
            left.append(memoryview(buffer)[written:])
            written = 0
    return left


def read_all(fd: int, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes; fewer only at the end of the file. Raises OSError."""
    data = os.pread(fd, size, offset)
    if len(data) == size:
        return data
    pieces = [data]
    while data and size > (length := sum(map(len, pieces))):
        data = os.pread(fd, size - length, offset + length)
        pieces.append(data)
    return b"".join(pieces)


def is_in_memory(fd: int) -> bool:
    """Whether an open file or directory is on a tmpfs. Raises OSError."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(fd, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return ctypes.c_ulong.from_buffer(buffer).value == _TMPFS_MAGIC


def reserve(fd: int, size: int) -> None:
    """Give an empty file ``size`` bytes of zeros with room reserved, where the filesystem can."""
    if size == 0:
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        os.ftruncate(fd, size)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open directory for this process as long as it is open; False if another has it. ``shared``: with others
    that say so. True, too, where the filesystem knows no locks."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (*_NOT_SUPPORTED, errno.ENOLCK):
            raise
    return True


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Zero a range inside a file and give its room back; only zero it where the filesystem has no holes."""
    size = min(size, os.fstat(fd).st_size - offset)
    if size <= 0:
        return
    if _fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, size) == 0:
        return
    code = ctypes.get_errno()
    if code not in _NOT_SUPPORTED:
        raise OSError(code, os.strerror(code))
    for start in range(offset, offset + size, len(_ZEROS)):
        write_all(fd, start, [memoryview(_ZEROS)[: min(len(_ZEROS), offset + size - start)]])
