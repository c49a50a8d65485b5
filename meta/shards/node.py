"""One shard: its store, and its two sides in transactions that span several."""

from __future__ import annotations

from collections.abc import Callable

import trio

from siltstone.meta import keys
from siltstone.meta.shards.answers import Requests, forget_gone
from siltstone.meta.shards.coordinator import Coordinator
from siltstone.meta.shards.locks import LockTable
from siltstone.meta.shards.map import PartitionMap
from siltstone.meta.shards.messages import (
    Ask,
    Change,
    Decide,
    Fetch,
    Forget,
    Message,
    Peers,
    Prepare,
    Reply,
    Settle,
    Told,
)
from siltstone.meta.shards.participant import Participant
from siltstone.meta.store.store import Store, Transaction
from siltstone.ports import Clock, Random
from siltstone.types import Ino, Lsn, ShardId, TransactionId, partition_of


class Node:
    """A shard among others. Made when its store has a log, in the nursery in which it lives."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        partitions: Callable[[], PartitionMap],
        peers: Peers,
        clock: Clock,
        random: Random,
        nursery: trio.Nursery,
        *,
        commit: Callable[[Transaction], Lsn],
        on_applied: Callable[[list[Change]], None],
    ) -> None:
        self.shard = shard
        self._partitions = partitions
        self.locks = LockTable()
        self.participant = Participant(store, self.locks, peers, clock, commit=commit, on_applied=on_applied)
        self.coordinator = Coordinator(
            shard, store, self.locks, partitions, peers, clock, random, nursery, commit=commit
        )
        self.requests = Requests()
        self.perform = self.coordinator.perform
        self.look = self.coordinator.look
        nursery.start_soon(self.participant.run)
        nursery.start_soon(self.coordinator.run)
        nursery.start_soon(forget_gone, self.requests, store.begin, commit, clock)

    def owns(self, ino: Ino) -> bool:
        """Whether an inode is one of this shard's."""
        return self._partitions().owner(partition_of(ino)) == self.shard

    async def wait_unclaimed(self, ino: Ino) -> None:
        """Return when no transaction of another shard speaks for an inode."""
        await self.locks.wait_unclaimed(keys.inode(ino))

    async def answer(self, message: Message) -> Reply:
        """Carry out what another shard asks for."""
        match message:
            case Fetch():
                return await self.participant.fetch(message)
            case Prepare():
                return await self.participant.prepare(message)
            case Decide():
                return self.participant.decide(message)
            case Ask():
                return Told(self.coordinator.verdict(TransactionId(message.transaction)))
            case Settle():
                return await self.participant.settle(message)
            case Forget():
                return self.participant.forget(message)
