"""One shard: its store, its two sides in transactions that span several, and its two in partitions that move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.meta.shards.answers import Requests, forget_gone
from siltstone.meta.shards.borrowing import Borrowing, Bring
from siltstone.meta.shards.coordinator import Coordinator
from siltstone.meta.shards.handover import Giver, Guard, Taker, lenders, placements_of, read_moved
from siltstone.meta.shards.lending import Lending, ReadBytes
from siltstone.meta.shards.locks import LockTable
from siltstone.meta.shards.map import MapView
from siltstone.meta.shards.messages import (
    Ask,
    AskHanded,
    Change,
    Copy,
    Decide,
    Fetch,
    Forget,
    Handed,
    ListLent,
    Message,
    Peers,
    Prepare,
    ReadLent,
    Release,
    Reply,
    Seal,
    Settle,
    Told,
)
from siltstone.meta.shards.participant import Participant
from siltstone.meta.store.store import Store, Transaction
from siltstone.ports import Clock, Random
from siltstone.types import Ino, Lsn, PartitionId, ShardId, TransactionId, partition_of


class Node:
    """A shard among others. Made when its store has a log, in the nursery in which it lives."""

    def __init__(
        self,
        shard: ShardId,
        store: Store,
        partitions: MapView,
        peers: Peers,
        clock: Clock,
        random: Random,
        nursery: trio.Nursery,
        guard: Guard,
        *,
        read: ReadBytes,
        admit: Callable[[], Awaitable[None]],
        bring: Bring,
        commit: Callable[[Transaction], Lsn],
        on_applied: Callable[[list[Change]], None],
    ) -> None:
        """``partitions``: made for this shard; what its own records say of them is added here. ``admit``: waits
        as long as changes are held back."""
        self.shard = shard
        self._store = store
        self._partitions = partitions
        _place_own(partitions, shard, store)
        self.locks = LockTable()
        self.participant = Participant(
            shard, store, self.locks, partitions, peers, clock, commit=commit, on_applied=on_applied
        )
        self.coordinator = Coordinator(
            shard, store, self.locks, partitions, peers, clock, random, nursery, commit=commit
        )
        self.giver = Giver(shard, store, self.locks, partitions, peers, clock, guard, nursery, commit=commit)
        self.taker = Taker(shard, store, partitions, peers, clock, guard, commit=commit)
        self.lending = Lending(shard, store, read, admit, commit=commit)
        self.borrowing = Borrowing(store, peers, clock, bring, commit=commit)
        self.requests = Requests()
        self.perform = self.coordinator.perform
        self.look = self.coordinator.look
        nursery.start_soon(self.participant.run)
        nursery.start_soon(self.coordinator.run)
        nursery.start_soon(self.taker.run)
        nursery.start_soon(self.lending.run)
        nursery.start_soon(self.borrowing.run)
        nursery.start_soon(forget_gone, self.requests, store.begin, commit, clock, self._may_change)

    def owns(self, ino: Ino) -> bool:
        """Whether an inode is one of this shard's."""
        return self._partitions().owner(partition_of(ino)) == self.shard

    @property
    def is_alone(self) -> bool:
        """Whether there is no other shard, and none is waited for: then nobody speaks for anything here."""
        return self._partitions().count == 1 and not len(self.participant)

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
            case Copy():
                return await self.taker.copy(message)
            case Seal():
                return await self.taker.seal(message)
            case Handed():
                done = await self.taker.handed(message)
                self.borrowing.wake()
                return done
            case AskHanded():
                return Told(await self.giver.verdict(message))
            case ListLent():
                return self.lending.list(message)
            case ReadLent():
                return await self.lending.read(message)
            case Release():
                return await self.lending.release(message)

    async def give(self, partition: PartitionId, to: ShardId) -> None:
        """Make a partition another shard's. Raises what Giver.give raises."""
        await self.giver.give(partition, to)
        self.lending.wake()

    def needs_of(self, other: ShardId) -> str:
        """What another shard is needed for here; empty if for nothing any more."""
        if any(lender.owner == other for lender in lenders(self._store)):
            return "bytes of files are still there"
        if any(moved.owner == other and not moved.is_told for moved in read_moved(self._store).values()):
            return "it is to hear of a partition that it was given"
        if self.taker.is_taking_from(other) or self.coordinator.has_part(other) or self.participant.knows_of(other):
            return "transactions with it are not over"
        return ""

    @property
    def remains(self) -> str:
        """What this shard is still needed for, if it should end for good; empty if for nothing any more."""
        owned = len(self._partitions().partitions_of(self.shard))
        if owned:
            return f"it has {owned} partitions"
        start, end = keys.partition_from(PartitionId(0)), keys.partition_from(PARTITION_COUNT)
        if self.moving or next(iter(self._store.scan(start, end)), None) is not None:
            return "others have not brought over all bytes"
        if any(moved.owner != self.shard and not moved.is_told for moved in read_moved(self._store).values()):
            return "another shard is to hear of a partition that it was given"
        if len(self.participant) or self.coordinator.undecided or self.coordinator.unsettled:
            return "transactions are not over"
        return ""

    @property
    def moving(self) -> int:
        """Partitions that are on their way here or from here, or have left more behind than what they lend."""
        return len(self.giver.giving) + len(self.taker.coming) + self.lending.unsorted

    def _may_change(self, partition: PartitionId) -> bool:
        return self._partitions().owner(partition) == self.shard and partition not in self.giver.giving


def _place_own(partitions: MapView, shard: ShardId, store: Store) -> None:
    """Add what a shard's own records say of where partitions are. Of others the settings may know more."""
    known = partitions()
    partitions.place(
        placement
        for placement in placements_of(store)
        if shard in (placement.owner, known.owners[placement.partition])
        or placement.generation > known.generations[placement.partition]
    )
