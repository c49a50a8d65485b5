"""The bytes of an object before a batch names them: kept in memory while they are few, in an anonymous inode else.

An anonymous inode is an orphan that is held here, so a crash or an abort leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from siltstone.core.object_paths import FILE_MODE
from siltstone.core.reader import payload_checksums
from siltstone.core.volume import Volume
from siltstone.limits import DIRECT_THRESHOLD_BYTES, INLINE_BYTES_MAX
from siltstone.meta import extents, inodes
from siltstone.meta.records import Extent, Inode, Place
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Buffer, Ino

T = TypeVar("T")

CLONE_STEP_EXTENTS = 512
"""Extents that one batch shares at the most; longer copies go step by step into an anonymous inode."""


class AnonymousBytes:
    """What is common: an inode that is made when it is needed, placed by the caller's batch, or given up.

    ``near``: an inode of this shard, in whose partition it is made.
    """

    def __init__(self, volume: Volume, near: Ino) -> None:
        self._volume = volume
        self._near = near
        self._ino: Ino | None = None
        self._ended = False
        self.size = 0

    def place(self, transaction: Transaction, near: Ino, now_ns: int) -> tuple[Ino, Inode]:
        """The anonymous inode that holds the bytes, in the caller's batch, which must name it and say whose it is.

        One that is made now is made in the partition of ``near``, if that is one of this shard's: the bytes are here.
        """
        if self._ino is not None:
            return self._ino, inodes.get_inode(transaction, self._ino)
        near = near if self._volume.ledger.owns(near) else self._near
        return inodes.create_anonymous(transaction, near, mode=FILE_MODE, uid=0, gid=0, now_ns=now_ns)

    def end(self, *, adopted: bool) -> None:
        """The batch was committed (``adopted``), or nothing comes of the bytes. Further calls do nothing."""
        if self._ended:
            return
        self._ended = True
        if self._ino is not None:
            if adopted:
                self._volume.orphans.adopted(self._ino)
            self._volume.orphans.let_go(self._ino)

    async def _make_inode(self) -> Ino:
        if self._ino is None:
            self._ino = await self._volume.create_anonymous(self._near, mode=FILE_MODE)
        return self._ino


class WrittenBytes(AnonymousBytes):
    """Bytes that a client sends."""

    def __init__(self, volume: Volume, near: Ino) -> None:
        super().__init__(volume, near)
        self._buffers: list[Buffer] = []

    async def write(self, buffer: Buffer) -> None:
        """Take over further bytes; the buffer must not change any more."""
        assert not self._ended, "written to after commit or abort"
        await self._volume.rates.wait(self._near, write_bytes=len(buffer), operations=0)
        if self._ino is None and self.size + len(buffer) < DIRECT_THRESHOLD_BYTES:
            self._buffers.append(buffer)
            self.size += len(buffer)
            return
        if self._ino is None:
            early, self._buffers = self._buffers, []
            ino, at = await self._make_inode(), 0
            for held in early:
                at += await self._volume.write(ino, at, held, origin=self)
        assert self._ino is not None
        self.size += await self._volume.write(self._ino, self.size, buffer, origin=self)

    def hand_over(self, take: Callable[[Ino, Ino | None, int, list[Buffer]], T]) -> T:
        """Let somebody else go on: ``take(near, ino, size, buffers)`` gets what there is, the inode and the size of
        what it has, or the bytes themselves; when it returns it holds the inode."""
        taken = take(self._near, self._ino, self.size, self._buffers)
        self.end(adopted=False)
        return taken

    async def ready(self) -> None:
        """Return when the bytes are where a batch can point at them, and there is room for that batch."""
        await self._volume.rates.wait(self._near)
        if self._ino is not None:
            await self._volume.flush(self._ino)
        await self._volume.ledger.admit(max(1, self.size) if self._ino is None else 0)

    def place(self, transaction: Transaction, near: Ino, now_ns: int) -> tuple[Ino, Inode]:
        """See AnonymousBytes."""
        ino, inode = super().place(transaction, near, now_ns)
        if self._ino is None and self.size:
            payload = self._buffers[0] if len(self._buffers) == 1 else b"".join(self._buffers)
            if self.size <= INLINE_BYTES_MAX:
                extent = Extent(self.size, Place.INLINE, blob=bytes(payload))
            else:
                address = transaction.attach(payload)
                extent = Extent(self.size, Place.LOG, address, 0, self.size, payload_checksums(payload))
            extents.replace_range(transaction, ino, inode, 0, self.size, [(0, extent)], transaction.freed)
        return ino, inode


class SharedBytes(AnonymousBytes):
    """Ranges of other files, whose bytes are shared, not copied."""

    async def append(self, source: Ino, offset: int, size: int) -> None:
        """Add a range of a file, which the caller keeps from being purged and has flushed."""
        ino = await self._make_inode()
        done = 0
        while done < size:
            await self._volume.ledger.admit(1)
            # No operation of the namespace: extents are shared inside one partition.
            transaction = self._volume.ledger.begin()
            inode = inodes.get_inode(transaction, ino)
            done += extents.clone_range(
                transaction,
                source,
                offset + done,
                size - done,
                ino,
                inode,
                self.size + done,
                transaction.freed,
                limit=CLONE_STEP_EXTENTS,
            )
            inodes.put_inode(transaction, ino, inode)
            self._volume.ledger.commit(transaction)
            await trio.lowlevel.checkpoint()
        self.size += size

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` of the bytes shared so far; short only at the end."""
        return await self._volume.read(self._ino, offset, size) if self._ino is not None else b""
