"""Records of buckets: whose they are, and the documents of their configuration (policy, CORS, lifecycle, ...).

A document is bytes to us; who may have which is the S3 door's business. Each change of one raises the serial in the
Bucket record, so whoever has read documents under one serial knows by that number alone that they still hold. All of it
hangs on the inode of the bucket's directory: it goes along when that is renamed, and goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from siltstone.errors import InvalidArgument, ValueTooLarge
from siltstone.limits import BUCKET_DOCUMENT_BYTES_MAX
from siltstone.meta import keys
from siltstone.meta.inodes import get_inode
from siltstone.meta.records import Bucket, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino

DOCUMENT_NAME = re.compile(r"[a-z][a-z-]{0,31}")


def find_bucket_record(reader: Reader, ino: Ino) -> Bucket | None:
    """The Bucket record of a directory, None if it has none: the mount made it."""
    value = reader.get(keys.bucket(ino))
    return None if value is None else decode(Bucket, value)


def bucket_serial(reader: Reader, ino: Ino) -> int:
    """As of which change the configuration is; 0 when there never was one."""
    record = find_bucket_record(reader, ino)
    return 0 if record is None else record.serial


def make_bucket_record(transaction: Transaction, ino: Ino, owner: str, now_ns: int) -> None:
    """Let a new directory be a bucket of an owner."""
    transaction.put(keys.bucket(ino), encode(Bucket(owner, now_ns)))


def read_documents(reader: Reader, ino: Ino) -> dict[str, bytes]:
    """All documents of a bucket, by name."""
    found = reader.scan(*keys.prefix_range(keys.bucket_documents(ino)))
    return {keys.bucket_document_name(key).decode(): value for key, value in found}


def check_documents(documents: Mapping[str, bytes | None]) -> None:
    """Raise InvalidArgument for a name that no document can have, ValueTooLarge for one that is too long."""
    for name, value in documents.items():
        if DOCUMENT_NAME.fullmatch(name) is None:
            raise InvalidArgument(f"a bucket has no document {name!r}")
        if value is not None and len(value) > BUCKET_DOCUMENT_BYTES_MAX:
            raise ValueTooLarge(
                f"the {name} of a bucket has {len(value)} bytes, at most {BUCKET_DOCUMENT_BYTES_MAX} are possible"
            )


def set_documents(transaction: Transaction, ino: Ino, documents: Mapping[str, bytes | None]) -> Bucket:
    """Set documents of a bucket, or remove those that are None; the record as it is then.

    A directory that the mount made gets a record, and still belongs to every key. Raises NotFound.
    """
    inode = get_inode(transaction, ino)
    record = find_bucket_record(transaction, ino) or Bucket("", inode.ctime_ns)
    for name, value in documents.items():
        key = keys.bucket_document(ino, name.encode())
        if value is not None:
            transaction.put(key, value)
        elif transaction.get(key) is not None:
            transaction.delete(key)
    record.serial += 1
    transaction.put(keys.bucket(ino), encode(record))
    return record
