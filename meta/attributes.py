"""Changes of mode, owner and times. A file's size changes with its extents, in extents.py."""

from __future__ import annotations

import stat

from siltstone.meta.inodes import PERMISSION_BITS, get_inode, put_inode
from siltstone.meta.records import Inode
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino


def set_attributes(
    transaction: Transaction,
    ino: Ino,
    *,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    atime_ns: int | None = None,
    mtime_ns: int | None = None,
    drop_privileges: bool = False,
    now_ns: int,
) -> Inode:
    """Change what is not None; ctime becomes now. Returns the inode as it is then. Raises NotFound.

    Of ``mode`` only the permission bits count: a file's type never changes. ``drop_privileges`` takes set-user-id and
    set-group-id away as ``without_privileges`` says; a mode given beside it is set as it is, as the kernel has
    already seen to it.
    """
    inode = get_inode(transaction, ino)
    if mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | mode & PERMISSION_BITS
    elif drop_privileges:
        inode.mode = without_privileges(inode.mode)
    if uid is not None:
        inode.uid = uid
    if gid is not None:
        inode.gid = gid
    if atime_ns is not None:
        inode.atime_ns = atime_ns
    if mtime_ns is not None:
        inode.mtime_ns = mtime_ns
    inode.ctime_ns = now_ns
    put_inode(transaction, ino, inode)
    return inode


def without_privileges(mode: int) -> int:
    """What Linux leaves of a mode when the owner or the data of a file changes.

    Set-user-id goes, and set-group-id where the group may execute (without that bit it once meant mandatory locking
    and stays). Directories keep both.
    """
    if stat.S_ISDIR(mode):
        return mode
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
