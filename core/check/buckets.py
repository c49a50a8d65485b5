"""What hangs on the directories of buckets: their records, and the documents of their configuration (I2, I3)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from siltstone.core.check.findings import Findings
from siltstone.meta import keys
from siltstone.meta.buckets import DOCUMENT_NAME
from siltstone.meta.records import Bucket, decode_inode
from siltstone.meta.store.port import Reader
from siltstone.types import Ino, PartitionId

_decode_bucket = msgspec.msgpack.Decoder(Bucket).decode


async def check_buckets(reader: Reader, owned: Sequence[PartitionId], findings: Findings) -> None:
    """Whether each belongs to a directory, and each document to a bucket that counts its changes."""
    for partition in owned:
        counted: set[Ino] = set()
        for key, value in reader.scan(*keys.prefix_range(keys.all_of(keys.BUCKET, partition))):
            await findings.step()
            ino = keys.inode_ino(key)
            record = findings.parsed(key, value, _decode_bucket)
            if record is not None and record.serial > 0:
                counted.add(ino)
            if not _is_directory(reader, ino):
                findings.report("I2", f"inode {ino}", "has the record of a bucket, and is no directory")
        for key, _ in reader.scan(*keys.prefix_range(keys.all_of(keys.BUCKET_DOCUMENT, partition))):
            await findings.step()
            ino, name = keys.inode_ino(key), keys.bucket_document_name(key)
            if ino not in counted:
                message = f"has the document {name!r} of a bucket, and no record that counts its changes"
                findings.report("I3", f"inode {ino}", message)
            if DOCUMENT_NAME.fullmatch(name.decode("latin-1")) is None:
                findings.report("I1", f"key {key.hex()}", "no document of a bucket has such a name")


def _is_directory(reader: Reader, ino: Ino) -> bool:
    value = reader.get(keys.inode(ino))
    try:
        return value is not None and decode_inode(value).is_directory
    except msgspec.MsgspecError:
        return True  # named by the check of space
