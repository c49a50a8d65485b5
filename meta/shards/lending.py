"""What a shard keeps of partitions that it gave away: inodes whose bytes are still here, and nothing else.

Their extents, back references and stripes are as they were, so settling, relocation, scrub and rebuild treat them as
any others. The new owner reads from them, brings the bytes over in the background (borrowing.py), and releases them
inode by inode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice

import msgspec
import trio

from siltstone.errors import NotFound
from siltstone.meta import counters, extents, inodes, keys
from siltstone.meta.records import Inode, Place, decode_extent, decode_inode
from siltstone.meta.shards.handover import Moved, get_moved, put_moved, read_moved
from siltstone.meta.shards.messages import Bytes, Done, Lent, ListLent, ReadLent, Release
from siltstone.meta.store.store import Store, Transaction
from siltstone.types import Ino, Lsn, PartitionId, ShardId

STEP = 256
"""Records that are deleted together, and extents of one inode."""

LIST_STEP = 128
"""Inodes that are told of together."""

_SORTED_OUT = (
    keys.DENTRY,
    keys.XATTR,
    keys.TREE_SNAPSHOT,
    keys.OBJECT,
    keys.VERSION,
    keys.BUCKET,
    keys.BUCKET_DOCUMENT,
    keys.UPLOAD,
    keys.PART,
    keys.ANSWER,
    keys.ORPHAN,
    keys.HOME,
    keys.USAGE,
    keys.QUOTA,
)
"""All kinds of records but inodes, extents and counters."""

ReadBytes = Callable[[Ino, int, int], Awaitable[bytes]]
"""Verified bytes of an inode of this shard, at an offset."""


class Lending:
    """The side that has them. ``read``: how it reads its own bytes."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        read: ReadBytes,
        admit: Callable[[], Awaitable[None]],
        *,
        commit: Callable[[Transaction], Lsn],
    ) -> None:
        self._shard = shard
        self._store = store
        self._read = read
        self._admit = admit
        self._commit = commit
        self._wakeup = trio.Event()
        self._wakeup.set()

    def wake(self) -> None:
        """A partition was given away."""
        self._wakeup.set()

    async def run(self) -> None:
        """Sort out what partitions leave behind, for ever; begins with what a crash left."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            for partition, moved in read_moved(self._store).items():
                if moved.owner != self._shard and not moved.is_sorted:
                    await self._sort_out(partition, moved)

    @property
    def unsorted(self) -> int:
        """Partitions of which more is left here than what is lent."""
        return sum(moved.owner != self._shard and not moved.is_sorted for moved in read_moved(self._store).values())

    def list(self, message: ListLent) -> Lent:
        """The inodes of which there are bytes here."""
        partition = PartitionId(message.partition)
        moved = self._lent(partition, message.generation)
        if moved is None:
            return Lent(True, [])
        if not moved.is_sorted:
            return Lent(False, [])
        start, end = keys.prefix_range(keys.all_of(keys.INODE, partition))
        if message.after:
            start = keys.inode(Ino(message.after)) + b"\0"
        found = self._store.read_chunk(start, end, False, LIST_STEP)
        if not found.entries and found.rest is not None:
            return Lent(False, [])  # many were deleted here; asked again, it is further on
        return Lent(True, [keys.inode_ino(key) for key, _ in found.entries])

    async def read(self, message: ReadLent) -> Bytes:
        """Bytes of one of them. Raises what reading raises."""
        ino = Ino(message.ino)
        if inodes.find_inode(self._store, ino) is None:
            raise NotFound(f"shard {self._shard} has no bytes of inode {ino} any more")
        return Bytes(await self._read(ino, message.offset, message.size))

    async def release(self, message: Release) -> Done:
        """Let go of inodes; durable on return. Knows those that are gone already, and what is its own again."""
        partition = PartitionId(message.partition)
        for ino in message.inodes:
            await self._admit()
            while self._lent(partition, message.generation) is not None and not self._drop_step(Ino(ino)):
                await self._admit()
        if self._lent(partition, message.generation) is not None:
            transaction = self._store.begin()
            self._forget_counters(transaction, partition)
            self._commit(transaction)
        await self._store.log.wait_durable(self._store.last_lsn)
        return Done()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _lent(self, partition: PartitionId, generation: int) -> Moved | None:
        """How a partition was given away, if it was by that move."""
        moved = get_moved(self._store, partition)
        if moved is None or moved.owner == self._shard or moved.generation != generation:
            return None
        return moved

    async def _sort_out(self, partition: PartitionId, moved: Moved) -> None:
        for kind in _SORTED_OUT:
            while self._delete_step(partition, kind):
                await trio.lowlevel.checkpoint()
        after: Ino | None = None
        while (after := await self._keep_lent(partition, after)) is not None:
            await trio.lowlevel.checkpoint()
        transaction = self._store.begin()
        self._forget_counters(transaction, partition)
        if self._lent(partition, moved.generation) is not None:
            now = get_moved(transaction, partition)
            assert now is not None
            put_moved(transaction, partition, msgspec.structs.replace(now, is_sorted=True))
        self._commit(transaction)

    def _delete_step(self, partition: PartitionId, kind: bytes) -> bool:
        """Delete some records of a kind; whether there may be more."""
        transaction = self._store.begin()
        found = list(islice(transaction.scan(*keys.prefix_range(keys.all_of(kind, partition))), STEP))
        for key, _ in found:
            transaction.delete(key)
        if found:
            self._commit(transaction)
        return len(found) == STEP

    async def _keep_lent(self, partition: PartitionId, after: Ino | None) -> Ino | None:
        """Drop those of some inodes that have no bytes here; the last that was looked at, None behind the last."""
        start, end = keys.prefix_range(keys.all_of(keys.INODE, partition))
        if after is not None:
            start = keys.inode(after) + b"\0"
        found = list(islice(self._store.scan(start, end), LIST_STEP))
        for key, _ in found:
            ino = keys.inode_ino(key)
            if not self._has_bytes(ino):
                while not self._drop_step(ino):
                    await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
        return keys.inode_ino(found[-1][0]) if found else None

    def _has_bytes(self, ino: Ino) -> bool:
        found = self._store.scan(*keys.prefix_range(keys.extents(ino)))
        return any(decode_extent(value).place in (Place.LOG, Place.STRIPE) for _, value in found)

    def _drop_step(self, ino: Ino) -> bool:
        """Remove some extents of an inode, and the inode behind the last one. Plain: atomic between tasks."""
        transaction = self._store.begin()
        value = transaction.get(keys.inode(ino))
        if value is None:
            return True
        inode: Inode = decode_inode(value)
        is_gone = extents.truncate(transaction, ino, inode, 0, transaction.freed, limit=STEP)
        if is_gone:
            transaction.delete(keys.inode(ino))
            counters.drop_ino(transaction, ino)
        else:
            inodes.put_inode(transaction, ino, inode)
        self._commit(transaction)
        return is_gone

    def _forget_counters(self, transaction: Transaction, partition: PartitionId) -> None:
        """If nothing of the partition is left, what was counted goes, too. Looks past all that was deleted just now."""
        if next(iter(transaction.scan(*keys.prefix_range(keys.all_of(keys.INODE, partition)))), None) is None:
            transaction.delete(keys.counters(partition))
