"""Two shards that hand a partition over, message by message: what each may do before and after which."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from siltstone.errors import InvalidArgument
from siltstone.meta import counters, extents, keys
from siltstone.meta.inodes import get_inode
from siltstone.meta.records import Extent, Inode, Place, decode_extent, encode
from siltstone.meta.shards.handover import FREEZE_SECONDS, HandoverFailed, get_lender
from siltstone.meta.shards.map import MapView, Placement, even_map
from siltstone.meta.shards.messages import (
    AskHanded,
    Change,
    Copy,
    Fetch,
    Handed,
    Message,
    NotMine,
    PeerLost,
    Prepare,
    Release,
    Reply,
    Seal,
    Told,
    Verdict,
    Vote,
)
from siltstone.meta.shards.node import Node
from siltstone.meta.store.store import Store
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino, Lsn, PartitionId, ShardId, make_ino
from sim.backing import SimBacking
from sim.clock import SimClock, autojump
from sim.fake_log import FakeLog
from sim.randomness import SimRandom
from sim.shards import NoFiles, no_bytes

PARTITION = PartitionId(2)
"""Shard 0 has it in the beginning."""

FILE = make_ino(1, PARTITION)


class LateLog(FakeLog):
    """It takes a while to be durable."""

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when everything before ``lsn`` is durable."""
        await trio.sleep(0.005)
        await super().wait_durable(lsn)


class Pair:
    """Two shards, and what they say to each other. ``lose``: kinds of messages that do not arrive."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.stores: list[Store] = []
        self.said: list[Message] = []
        self.lose: set[type[Message]] = set()
        self.slow: set[type[Message]] = set()
        self.committed: list[Lsn] = []
        """The ends of the giver's batches that say where the partition is."""
        self.bring_seconds = 3600.0
        self.brought: list[Lsn] = []
        """The ends of the taker's batches after which it does not need the giver's bytes."""

    async def start(self, nursery: trio.Nursery) -> None:
        for shard in (0, 1):
            store = Store(SimBacking())
            store.connect(LateLog())
            self.stores.append(store)
            self.nodes.append(
                Node(
                    ShardId(shard),
                    store,
                    MapView(even_map(2), ShardId(shard)),
                    self,
                    SimClock(),
                    SimRandom(shard),
                    nursery,
                    NoFiles(),
                    read=no_bytes,
                    admit=trio.lowlevel.checkpoint,
                    bring=self._bring,
                    commit=Transaction.commit,
                    on_applied=lambda changes: None,
                )
            )
        giver = self.stores[0]
        giver.watch(lambda writes: self.committed.extend([giver.last_lsn] * (keys.moved(PARTITION) in writes)))
        transaction = giver.begin()
        assert counters.take_ino(transaction, PARTITION) == FILE
        inode = Inode(stat.S_IFREG | 0o644, 1, 0, 0, 0, 0, 1, 1, 1)
        extent = Extent(4000, Place.LOG, 77, 0, 4000, bytes(8))
        extents.replace_range(transaction, FILE, inode, 0, 4000, [(0, extent)], [])
        transaction.put(keys.inode(FILE), encode(inode))
        transaction.commit()

    async def _bring(self, partition: PartitionId, ino: Ino) -> None:
        await trio.sleep(self.bring_seconds)
        transaction = self.stores[1].begin()
        extents.truncate(transaction, ino, get_inode(transaction, ino), 0, [])
        self.brought.append(transaction.commit())

    async def call(self, shard: ShardId, message: Message) -> Reply:
        """See Peers."""
        await trio.sleep(0.001)
        if type(message) in self.lose:
            raise PeerLost("lost")
        if type(message) in self.slow:
            await trio.sleep(1)
        self.said.append(message)
        if isinstance(message, Handed):
            durable_lsn = self.stores[0].log.durable_lsn
            assert self.committed and durable_lsn >= self.committed[0], "the taker hears of it before it is durable"
        if isinstance(message, Release):
            durable_lsn = self.stores[1].log.durable_lsn
            assert durable_lsn >= self.brought[-1], "after a crash the taker would look for what it has released"
        return await self.nodes[shard].answer(message)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    async with trio.open_nursery() as nursery:
        shards = Pair()
        await shards.start(nursery)
        yield shards
        nursery.cancel_scope.cancel()


def test_a_partition_goes_and_both_know_and_who_asks_the_old_owner_is_told() -> None:
    async def main() -> None:
        async with pair() as shards:
            giver, taker = shards.nodes
            await giver.give(PARTITION, ShardId(1))
            await trio.sleep(0.1)
            assert taker.owns(FILE) and not giver.owns(FILE)
            assert shards.stores[1].get(keys.inode(FILE)) is not None
            moved = Placement(PARTITION, 1, 1)
            key = keys.inode(FILE)
            for message in (
                Fetch([key], [], True),
                Prepare(bytes(16), [(key, shards.stores[0].get(key))], [], [Change(key, None, b"new")], True),
            ):
                assert await giver.answer(message) == NotMine([moved])
            with pytest.raises(InvalidArgument, match="shard 1's"):
                await giver.give(PARTITION, ShardId(1))

    trio.run(main, clock=autojump())


def test_the_taker_s_extents_name_the_giver_s_inode_and_the_giver_keeps_what_it_lends() -> None:
    async def main() -> None:
        async with pair() as shards:
            giver, taker = shards.stores
            transaction = giver.begin()
            transaction.put(keys.dentry(make_ino(9, PARTITION), b"name"), b"anything")
            transaction.commit()
            await shards.nodes[0].give(PARTITION, ShardId(1))
            await trio.sleep(0.1)
            value = taker.get(keys.extent(FILE, 0))
            assert value is not None and decode_extent(value) == Extent(4000, Place.REMOTE, 0, 0, FILE)
            borrowed = keys.borrowed_reference(keys.Borrowed(FILE, 0, FILE, 0))
            assert taker.get(borrowed) == keys.encode_length(4000)
            assert get_lender(taker, PARTITION) == Placement(PARTITION, 0, 1)
            await trio.sleep(1)
            assert giver.get(keys.extent(FILE, 0)) is not None and giver.get(keys.inode(FILE)) is not None
            assert giver.get(keys.dentry(make_ino(9, PARTITION), b"name")) is None
            with pytest.raises(HandoverFailed, match="still on their way"):
                await shards.nodes[1].give(PARTITION, ShardId(0))

    trio.run(main, clock=autojump())


def test_a_taker_that_does_not_hear_asks_and_a_giver_that_gave_up_says_so() -> None:
    async def main() -> None:
        async with pair() as shards:
            shards.slow = {Seal}
            with pytest.raises(HandoverFailed, match="too slow"):
                await shards.nodes[0].give(PARTITION, ShardId(1))
            assert shards.nodes[0].owns(FILE)
            shards.slow = set()
            await trio.sleep(5)
            assert shards.nodes[1].taker.coming == []
            assert list(shards.stores[1].scan(b"p", b"q")) == [], "what was on its way is gone"
            await shards.nodes[0].give(PARTITION, ShardId(1))
            await trio.sleep(1)
            assert shards.nodes[1].owns(FILE)

    trio.run(main, clock=autojump())


def test_a_change_waits_while_the_partition_is_frozen_and_not_for_longer() -> None:
    async def main() -> None:
        async with pair() as shards:
            shards.slow = {Seal}
            giver = shards.nodes[0]
            waited: list[float] = []

            def change(transaction: Transaction) -> None:
                transaction.put(keys.object_(FILE), b"anything")

            async def keep_changing() -> None:
                while True:
                    begun = trio.current_time()
                    await giver.perform(change, lambda _: None)
                    waited.append(trio.current_time() - begun)
                    await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_changing)
                await trio.sleep(0.1)
                with pytest.raises(HandoverFailed):
                    await giver.give(PARTITION, ShardId(1))
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
            assert FREEZE_SECONDS / 2 < max(waited) <= FREEZE_SECONDS + 0.02

    trio.run(main, clock=autojump())


def test_messages_of_attempts_that_are_over_touch_nothing_that_is_sealed() -> None:
    async def main() -> None:
        async with pair() as shards:
            taker = shards.nodes[1].taker
            shards.lose = {Handed, AskHanded}
            await shards.nodes[0].give(PARTITION, ShardId(1))
            await trio.sleep(0.1)
            assert taker.coming == [PARTITION], "it has not heard"
            key = keys.inode(FILE)
            for giver, attempt in ((0, 0), (0, 1), (5, 99)):
                await taker.copy(Copy(PARTITION, giver, attempt, 0, []))
                late = await taker.copy(Copy(PARTITION, giver, attempt, 7, [(key, None)]))
                assert late == Vote(prepared=False)
                assert shards.stores[1].get(key) is not None
            told = await shards.nodes[0].answer(AskHanded(PARTITION, 1))
            assert told == Told(Verdict.COMMITTED)
            shards.lose = set()
            await trio.sleep(2)
            assert shards.nodes[1].owns(FILE) and shards.stores[1].get(key) is not None

    trio.run(main, clock=autojump())


def test_bytes_are_released_when_the_taker_s_own_are_durable_and_then_nothing_is_left_of_the_partition() -> None:
    async def main() -> None:
        async with pair() as shards:
            shards.bring_seconds = 0.001
            await shards.nodes[0].give(PARTITION, ShardId(1))
            await trio.sleep(3)
            assert shards.brought
            assert list(shards.stores[0].scan(b"p", b"q")) == []
            assert get_lender(shards.stores[1], PARTITION) is None

    trio.run(main, clock=autojump())
