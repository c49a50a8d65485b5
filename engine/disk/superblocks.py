"""Reading the superblock at a path, to tell which disk is there before any of it is used."""

from __future__ import annotations

import os

from siltstone.engine.disk import kernel
from siltstone.engine.format.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_NAME, Superblock, parse_superblock


def is_in_use(path: str | os.PathLike[str]) -> bool:
    """Whether another process has the disk at ``path`` open; blocks. Raises OSError when nothing is there."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return not kernel.try_lock(fd)
    finally:
        os.close(fd)


def read_superblock(path: str | os.PathLike[str]) -> Superblock:
    """What the directory at ``path`` says it is; blocks. Raises OSError when nothing is there, FormatInvalid."""
    fd = os.open(os.path.join(path, SUPERBLOCK_NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return parse_superblock(kernel.read_all(fd, 0, SUPERBLOCK_BYTES))
    finally:
        os.close(fd)
