"""One disk for several processes: each has a part of its own, and all see how much the others take.

Part 0 is everything that is in no other part's folder, so that a disk of one process has nothing of all this. Who has
which part is settled elsewhere: two processes with one part would destroy each other's files.
"""

from __future__ import annotations

import os
import struct

from siltstone.engine.disk import kernel

PARTS_MAX = 256

USAGE_NAME = ".usage"
"""Where each part notes how many bytes its files take: a u64 for each. A hint for the others: it is counted anew
whenever a part's process opens the disk, and nothing is made durable."""

_FOLDER_PREFIX = "shard-"
_BYTES = struct.Struct("<Q")
_ALL = struct.Struct(f"<{PARTS_MAX}Q")


def part_folder(part: int) -> str:
    """The folder that holds a part's files; empty for part 0."""
    assert 0 <= part < PARTS_MAX
    return f"{_FOLDER_PREFIX}{part}" if part else ""


def is_part_folder(name: str) -> bool:
    """Whether a folder in the disk's directory is that of a part other than 0."""
    return name.startswith(_FOLDER_PREFIX)


def note_usage(root_fd: int, part: int, size: int) -> None:
    """Tell the others what a part takes; raises OSError."""
    fd = os.open(USAGE_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root_fd)
    try:
        os.pwrite(fd, _BYTES.pack(max(0, size)), part * _BYTES.size)
    finally:
        os.close(fd)


def usage_of_others(root_fd: int, part: int) -> int:
    """What the other parts take together; raises OSError."""
    try:
        fd = os.open(USAGE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
    except FileNotFoundError:
        return 0
    try:
        noted = kernel.read_all(fd, 0, _ALL.size)
    finally:
        os.close(fd)
    taken: tuple[int, ...] = _ALL.unpack(bytes(noted).ljust(_ALL.size, b"\0"))
    return sum(taken) - taken[part]
