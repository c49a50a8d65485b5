"""What the mount does to objects that have versions: plain functions in the batch of an unlink or rename.

What the mount takes away or replaces stays as a version, and a delete marker says that it is gone, as S3's own delete
does it. A file that moves comes as the null version; a locked one does not move.
"""

from __future__ import annotations

import stat

from siltstone.core.key_names import SELF
from siltstone.core.object_locks import is_locked
from siltstone.errors import NotPermitted
from siltstone.meta import inodes, names, objects, versions
from siltstone.meta.records import Object, Version
from siltstone.meta.store.transaction import Transaction
from siltstone.types import ROOT_INO, Ino


def keep_removed(transaction: Transaction, parent: Ino, name: bytes, now_ns: int, *, leaves_marker: bool) -> Ino | None:
    """A name is about to be taken away, or (without ``leaves_marker``) to be given to something else. If what has it is
    a version, that is kept and the name is free: its inode. Otherwise None, and the caller takes the name away.

    Raises NotPermitted for the object of a directory that has versions: where those are the directory does not know.
    """
    if parent == ROOT_INO:
        return None
    entry = names.get_dentry(transaction, parent, name)
    if entry is None or not stat.S_ISREG(entry.kind):
        return None
    ino = Ino(entry.ino)
    inode = inodes.get_inode(transaction, ino)
    record = objects.get_object(transaction, ino, inode)
    newest = versions.newest(transaction, parent, name)
    last = -1 if newest is None else newest[0]
    kept = None
    if record is not None and record.version_id:
        _check_place(name)
        order = versions.order_of(record.version_id)
        assert order is not None, "the id of a version says where it is in the order"
        names.detach(transaction, parent, name, now_ns=now_ns)
        versions.put(transaction, parent, name, order, Version(ino, record.version_id, inode.mtime_ns, record.owner))
        last = max(last, order)
        kept = ino
    if leaves_marker and last >= 0:
        _put_marker(transaction, parent, name, max(now_ns, last + 1), now_ns)
    return kept


def moved(
    transaction: Transaction, ino: Ino, parent: Ino, name: bytes, now_ns: int, *, leaves_marker: bool = True
) -> None:
    """A file has got another name than this one: it is the null version there, and deleted here. Raises NotPermitted
    for a locked one."""
    inode = inodes.get_inode(transaction, ino)
    if not inode.is_file:
        return
    record = objects.get_object(transaction, ino, inode)
    if is_locked(record, now_ns):
        raise NotPermitted("the object is locked, and cannot be moved")
    newest = None if parent == ROOT_INO else versions.newest(transaction, parent, name)
    last = -1 if newest is None else newest[0]
    if record is not None and record.version_id:
        _check_place(name)
        last = max(last, versions.order_of(record.version_id) or 0)
        _forget_version(transaction, ino, record)
    if leaves_marker and last >= 0:
        _put_marker(transaction, parent, name, max(now_ns, last + 1), now_ns)


def _check_place(name: bytes) -> None:
    if name == SELF:
        raise NotPermitted(f"{name!r} is an object with versions beside a directory of its name: delete it through S3")


def _forget_version(transaction: Transaction, ino: Ino, record: Object) -> None:
    record.version_id = ""
    inode = inodes.get_inode(transaction, ino)
    objects.put_object(transaction, ino, inode, record)
    inodes.put_inode(transaction, ino, inode)


def _put_marker(transaction: Transaction, parent: Ino, name: bytes, order: int, now_ns: int) -> None:
    versions.put(transaction, parent, name, order, Version(0, versions.version_id(order, Ino(0)), now_ns))
