"""Object records: what S3 knows of a file, and how a change of its bytes through another door makes that untrue."""

from __future__ import annotations

from siltstone.meta import keys
from siltstone.meta.records import Inode, InodeFlag, Object, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino


def get_object(reader: Reader, ino: Ino, inode: Inode) -> Object | None:
    """The Object record of an inode, or None: a file that only the mount knows."""
    if not inode.flags & InodeFlag.HAS_OBJECT:
        return None
    value = reader.get(keys.object_(ino))
    return None if value is None else decode(Object, value)


def put_object(transaction: Transaction, ino: Ino, inode: Inode, record: Object) -> None:
    """Store the Object record of an inode and set its flag; the caller puts the inode."""
    inode.flags |= InodeFlag.HAS_OBJECT
    transaction.put(keys.object_(ino), encode(record))


def drop_object(transaction: Transaction, ino: Ino, inode: Inode) -> None:
    """Forget what S3 knows of an inode; the caller puts the inode."""
    if inode.flags & InodeFlag.HAS_OBJECT:
        inode.flags &= ~InodeFlag.HAS_OBJECT
        transaction.delete(keys.object_(ino))


def forget_digests(transaction: Transaction, ino: Ino, inode: Inode) -> None:
    """Empty the ETag, the checksums and the parts of an object whose bytes this batch changes. The rest stays.

    Every change of data that does not come from S3 calls this in its batch; without an Object record it costs nothing.
    """
    record = get_object(transaction, ino, inode)
    if record is None or not (record.etag or record.checksums or record.part_sizes or record.sealing):
        return
    record.etag = ""
    record.checksums = {}
    record.checksum_type = ""
    record.part_sizes = []
    record.part_checksums = []
    record.part_numbers = []
    record.sealing = {}  # what was written in between is not encrypted, so what is left is shown as it is
    transaction.put(keys.object_(ino), encode(record))
