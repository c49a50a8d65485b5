"""The words that every layer shares, as types. See docs/architecture.md for what they mean."""

from __future__ import annotations

from typing import NewType

Lsn = NewType("Lsn", int)
"""Byte position in the endless logical log. Frames follow each other without gaps, so the LSN after a frame is the
LSN of the next; a segment file holds the range [start, end) of it."""

DiskId = NewType("DiskId", int)
"""Slot number of a disk in its volume (0 ... 65535); stable for the life of the volume."""

SlabId = NewType("SlabId", int)
"""Serial number of a slab (u32)."""

StripeId = NewType("StripeId", int)
"""``slab_id << 16 | first row``: where the stripe starts. Rows are 4 KiB steps inside a chunk file."""

PartitionId = NewType("PartitionId", int)
"""Slice of the namespace, 0 ... 255."""

Ino = NewType("Ino", int)
"""Inode number: ``serial << 8 | partition``."""

ShardId = NewType("ShardId", int)
"""A shard of the metadata, 0 ... 255."""

TransactionId = NewType("TransactionId", bytes)
"""16 bytes that name a transaction which spans shards: its coordinator (u8), what its process drew when it began (7
random bytes), and a serial number (u64)."""

Buffer = bytes | bytearray | memoryview
"""Bytes that are read, never changed, by whom they are handed to."""

ROOT_INO = Ino(1)
"""The root directory: serial 0 in partition 1 (FUSE wants inode 1 for the root)."""


def partition_of(ino: Ino) -> PartitionId:
    """The partition that holds the inode ``ino``."""
    return PartitionId(ino & 0xFF)


def make_ino(serial: int, partition: PartitionId) -> Ino:
    """Compose an inode number."""
    return Ino(serial << 8 | partition)


def make_stripe_id(slab_id: SlabId, row: int) -> StripeId:
    """Compose a stripe id from its slab and its first row."""
    return StripeId(slab_id << 16 | row)


def slab_of(stripe_id: StripeId) -> SlabId:
    """The slab that holds a stripe."""
    return SlabId(stripe_id >> 16)


def row_of(stripe_id: StripeId) -> int:
    """The first row of a stripe in its slab."""
    return stripe_id & 0xFFFF
