"""Inodes without a name: purged when nobody holds them, in steps, so that a huge file blocks nobody.

An orphan has a mark in the metadata, so one that a crash left behind is found when the volume opens.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.types import Holder
from siltstone.core.write_back import TRUNCATE_STEP_EXTENTS, WriteBack
from siltstone.meta import extents, inodes, keys, names
from siltstone.meta.extents import FreedStripe
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino, PartitionId, partition_of

INLINE_PURGE_EXTENTS = 16
"""A file of at most this many extents is purged in the batch that takes its last name away."""

PURGE_STEP_ENTRIES = 64
"""Entries that are taken out of a directory in one batch."""

INLINE_PURGE_BYTES = 64 * 1024
"""A file of at most this many bytes has its extents removed there without counting them: a step's worth at the most."""


class Orphans:
    """The inodes that wait to be purged."""

    def __init__(self, ledger: Ledger, write_back: WriteBack) -> None:
        self._ledger = ledger
        self._write_back = write_back
        self._holders: list[Holder] = []
        self._held: dict[Ino, int] = {}
        self._waiting: set[Ino] = set()
        self._queue: deque[Ino] = deque()
        self._wakeup = trio.Event()
        self._at: Ino | None = None
        """What is being purged now."""
        self.purged = 0
        """How many inodes were purged in steps since the volume was opened."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._queue)

    @property
    def purging(self) -> int:
        """How many inodes are being purged, or wait for that and are held by nobody."""
        return len(self._queue) + (self._at is not None)

    def register_holder(self, holder: Holder) -> None:
        """Ask ``holder`` too before an inode is purged."""
        self._holders.append(holder)

    def unregister_holder(self, holder: Holder) -> None:
        """A front-end is gone: what only it held is purged."""
        self._holders.remove(holder)
        for ino in list(self._waiting):
            self.released(ino)

    def hold(self, ino: Ino) -> None:
        """Keep an inode for an operation of the core's own; every hold needs its ``let_go``."""
        self._held[ino] = self._held.get(ino, 0) + 1

    def let_go(self, ino: Ino) -> None:
        """End a hold; an orphan that nobody else holds is purged."""
        count = self._held[ino] - 1
        if count:
            self._held[ino] = count
        else:
            del self._held[ino]
            self.released(ino)

    def is_held(self, ino: Ino) -> bool:
        """Whether anybody may go on using the inode."""
        return ino in self._held or any(holder.holds(ino) for holder in self._holders)

    def add(self, ino: Ino) -> None:
        """The batch that marked this inode as an orphan was committed. One of another shard is that one's to purge."""
        if not self._ledger.owns(ino):
            return
        self._waiting.add(ino)
        self.released(ino)

    def adopted(self, ino: Ino) -> None:
        """The inode got a name (again), or a part record: it is an orphan no more."""
        self._waiting.discard(ino)

    def released(self, ino: Ino) -> None:
        """Somebody let go of an inode: purge it if it is an orphan that nobody holds."""
        if ino in self._waiting and not self.is_held(ino):
            self._waiting.discard(ino)
            self._queue.append(ino)
            self._wakeup.set()

    def purge_within(self, transaction: Transaction, ino: Ino) -> bool:
        """Purge a small orphan that nobody holds as part of the batch that takes its last name away.

        False if it is held, or not gone after one step. The caller says ``lost_its_name`` after the commit.
        """
        if not transaction.owns(keys.inode(ino)) or self.is_held(ino):
            return False
        if transaction.keeps_trash and transaction.get(keys.orphan(ino)) is None:
            return False  # it is in the trash
        inode = inodes.get_inode(transaction, ino)
        if inode.allocated_bytes > INLINE_PURGE_BYTES and self._has_many_extents(transaction, ino):
            return False
        return self._purge_step(transaction, ino, transaction.freed)

    def lost_its_name(self, ino: Ino, *, purged: bool) -> None:
        """The batch that took an inode's last name away was committed; ``purged``: and the inode with it."""
        if purged:
            self._write_back.discard(ino)
        else:
            self.add(ino)

    async def run(self) -> None:
        """Purge what waits in the queue, for ever."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while self._queue:
                await self._ledger.admit()
                if not self._queue:
                    break  # its partition has gone meanwhile
                ino = self._queue.popleft()
                if self._ledger.store.get(keys.orphan(ino)) is None:
                    continue  # it is in the trash, or somewhere else by now
                if self.is_held(ino):
                    self._waiting.add(ino)
                    continue
                self._at = ino
                self._write_back.discard(ino)
                while self._ledger.owns(ino) and not await self._purge_some(ino):
                    await trio.lowlevel.checkpoint()
                    await self._ledger.admit()
                self._at = None
                await trio.lowlevel.checkpoint()

    def find_all(self) -> None:
        """Queue every orphan that the metadata knows; called once, when the volume opens."""
        for ino in list(inodes.orphans(self._ledger.store)):
            if self._ledger.owns(ino):
                self._queue.append(ino)
        if self._queue:
            self._wakeup.set()

    def take(self, partition: PartitionId) -> None:
        """A partition has come from another shard, with inodes that may be held by whoever held them there."""
        for ino in list(inodes.orphans_in(self._ledger.store, partition)):
            self.add(ino)

    def leave(self, partition: PartitionId) -> None:
        """A partition has gone to another shard, and its orphans with it."""
        self._waiting = {ino for ino in self._waiting if partition_of(ino) != partition}
        self._queue = deque(ino for ino in self._queue if partition_of(ino) != partition)

    def _has_many_extents(self, transaction: Transaction, ino: Ino) -> bool:
        found = transaction.scan(*keys.prefix_range(keys.extents(ino)))
        return sum(1 for _ in islice(found, INLINE_PURGE_EXTENTS + 1)) > INLINE_PURGE_EXTENTS

    async def _purge_some(self, ino: Ino) -> bool:
        """One step; whether the inode is gone, or no orphan any more."""
        await self._ledger.wait_unclaimed(ino)
        if not self._ledger.owns(ino):
            return True
        inode = inodes.find_inode(self._ledger.store, ino)
        if inode is None or not inode.is_directory or not inode.size:
            return self._commit_step(ino)
        await self._take_apart(ino)
        return False

    async def _take_apart(self, ino: Ino) -> None:
        """Take some entries out of a directory: of a clone that was given up. What was only there goes with them, or
        is an orphan from now on, of whatever shard."""
        now_ns = self._ledger.clock.now_ns()

        def change(transaction: Transaction) -> dict[Ino, bool]:
            if transaction.get(keys.orphan(ino)) is None:
                return {}
            lost = dict(names.take_apart(transaction, ino, limit=PURGE_STEP_ENTRIES, now_ns=now_ns))
            return {
                child: not inode.is_directory and self.purge_within(transaction, child)
                for child, inode in lost.items()
                if inode.nlink == 0
            }

        def committed(lost: dict[Ino, bool]) -> None:
            for child, purged in lost.items():
                self.lost_its_name(child, purged=purged)
                self.purged += purged

        await self._ledger.perform(change, committed)

    def _commit_step(self, ino: Ino) -> bool:
        transaction = self._ledger.begin()
        if transaction.get(keys.orphan(ino)) is None:
            return True
        freed: list[FreedStripe] = []
        done = self._purge_step(transaction, ino, freed)
        self._ledger.commit(transaction, freed)
        self.purged += done
        return done

    def _purge_step(self, transaction: Transaction, ino: Ino, freed: list[FreedStripe]) -> bool:
        """Remove up to a step's worth of extents, and the inode behind the last one. Plain: atomic between tasks."""
        inode = inodes.get_inode(transaction, ino)
        if inode.allocated_bytes:
            extents.truncate(transaction, ino, inode, 0, freed, limit=TRUNCATE_STEP_EXTENTS)
            inodes.put_inode(transaction, ino, inode)
        if inode.allocated_bytes:
            return False
        inodes.remove_inode(transaction, ino)
        return True
