"""Changes of mode, owner and times. A file's size changes with its extents, in extents.py."""

from __future__ import annotations

import stat

from siltstone.meta.inodes import PERMISSION_BITS, check_writable, get_inode, put_inode
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
    keeps_ctime: bool = False,
    now_ns: int,
) -> Inode:
    """Change what is not None; ctime becomes now, unless it is a read that moves atime.

    Returns the inode as it is then. Of ``mode`` only the permission bits count: a file's type never changes. Which
    set-id bits a change of owner takes away is the kernel's to say: it sends the mode with it. Raises NotFound,
    ReadOnly.
    """
    inode = get_inode(transaction, ino)
    check_writable(ino, inode)
    if mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | mode & PERMISSION_BITS
    if uid is not None:
        inode.uid = uid
    if gid is not None:
        inode.gid = gid
    if atime_ns is not None:
        inode.atime_ns = atime_ns
    if mtime_ns is not None:
        inode.mtime_ns = mtime_ns
    if not keeps_ctime:
        inode.ctime_ns = now_ns
    put_inode(transaction, ino, inode)
    return inode
