"""What a shard does with partitions that it was given: it reads the bytes of their files where they are, and brings
them over in the background, inode by inode.

Until all are here the partition does not go on to a third shard, so bytes are never more than one shard away.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from siltstone.errors import SiltstoneError, Unavailable
from siltstone.meta import keys
from siltstone.meta.shards.handover import get_lender, lenders
from siltstone.meta.shards.map import Placement
from siltstone.meta.shards.messages import Bytes, Done, Lent, ListLent, PeerLost, Peers, ReadLent, Release
from siltstone.meta.store.store import Store, Transaction
from siltstone.ports import Clock
from siltstone.types import Ino, Lsn, PartitionId, ShardId

AGAIN_SECONDS = 1.0
"""How long is waited where something could not be brought over."""

READ_SECONDS = 0.1
READ_ATTEMPTS = 600
"""How long is waited between two attempts to read from a shard that gives no answer, and how often: a minute."""

logger = logging.getLogger("siltstone.shards")

Bring = Callable[[PartitionId, Ino], Awaitable[None]]
"""Brings over all bytes that are referred to here of an inode which another shard still has, and returns when nobody
reads them there. Raises NoSpace, Unavailable, ... when that cannot be done at the moment."""


class Borrowing:
    """The side that wants them."""

    def __init__(
        self, store: Store, peers: Peers, clock: Clock, bring: Bring, *, commit: Callable[[Transaction], Lsn]
    ) -> None:
        self._store = store
        self._peers = peers
        self._clock = clock
        self._bring = bring
        self._commit = commit
        self._wakeup = trio.Event()
        self._wakeup.set()
        self._said = ""
        """What the log output has of why not all can be brought over."""

    def wake(self) -> None:
        """A partition has come."""
        self._wakeup.set()

    async def read(self, shard: ShardId, ino: Ino, offset: int, size: int) -> bytes:
        """Verified bytes of an inode that another shard still has; waits for one that is away. Raises Unavailable."""
        for _ in range(READ_ATTEMPTS):
            try:
                answer = await self._peers.call(shard, ReadLent(ino, offset, size))
            except PeerLost:
                await self._clock.sleep(READ_SECONDS)
                continue
            assert isinstance(answer, Bytes)
            if len(answer.data) != size:
                raise Unavailable(f"shard {shard} gave {len(answer.data)} bytes of inode {ino}, not {size}")
            return answer.data
        raise Unavailable(f"shard {shard}, which still has bytes of inode {ino}, gives no answer")

    async def run(self) -> None:
        """Bring over what others have, for ever."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            left = lenders(self._store)
            while left:
                for placement in left:
                    try:
                        await self._bring_partition(placement)
                    except PeerLost:
                        continue  # who keeps that shard running says so
                    except SiltstoneError as error:
                        self._say(f"bytes of partition {placement.partition} stay in shard {placement.owner}: {error}")
                left = lenders(self._store)
                if left:
                    await self._clock.sleep(AGAIN_SECONDS)

    def _say(self, what: str) -> None:
        if what != self._said:  # it is tried again each second
            self._said = what
            logger.warning("%s", what)

    async def _bring_partition(self, placement: Placement) -> None:
        """Bring over what there is of one. ``placement``: who has it, and which move made it so."""
        partition, lender = PartitionId(placement.partition), ShardId(placement.owner)
        after = Ino(0)
        while True:
            lent = await self._peers.call(lender, ListLent(partition, placement.generation, after))
            assert isinstance(lent, Lent)
            if not lent.is_ready:
                return
            if not lent.inodes:
                break
            for ino in lent.inodes:
                await self._bring(partition, Ino(ino))
            # A crash must not bring back extents whose bytes are gone there.
            await self._store.log.wait_durable(self._store.last_lsn)
            released = await self._peers.call(lender, Release(partition, placement.generation, lent.inodes))
            assert isinstance(released, Done)
            after = Ino(lent.inodes[-1])
        # Only what was asked for from the first on says that there is nothing.
        if after == 0 and get_lender(self._store, partition) == placement:
            transaction = self._store.begin()
            transaction.delete(keys.lender(partition))
            self._commit(transaction)
