"""A namespace over several shards in one process: a network that loses, delays and doubles, and shards that crash."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from siltstone.errors import SiltstoneError
from siltstone.meta.inodes import format_root
from siltstone.meta.shards.handover import Moved, placements_of, read_moved
from siltstone.meta.shards.map import MapView, PartitionMap
from siltstone.meta.shards.messages import Message, PeerLost, Reply
from siltstone.meta.shards.node import Node
from siltstone.meta.store.port import BATCH_KIND
from siltstone.meta.store.store import Store, Transaction
from siltstone.types import ROOT_INO, Ino, Lsn, PartitionId, ShardId, partition_of
from sim.all_records import AllRecords, newest
from sim.backing import SimBacking
from sim.clock import SimClock
from sim.fake_log import FakeLog
from sim.randomness import SimRandom

T = TypeVar("T")

ANSWER_SECONDS = 2.0
"""So long somebody waits for an answer before he takes it for lost."""

_message = msgspec.msgpack.Decoder(Message)
_reply = msgspec.msgpack.Decoder(Reply)


class SlowLog(FakeLog):
    """A log that takes a while to be durable."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when everything before ``lsn`` is durable."""
        await trio.sleep(self._chance.random() * 0.002)
        await super().wait_durable(lsn)

    def crash(self, survivors: int = 0) -> SlowLog:
        """The log that a new process finds."""
        rest = super().crash(survivors)
        log = SlowLog(self._chance)
        log.frames, log.payloads, log.next_lsn, log.durable_lsn = (
            rest.frames,
            rest.payloads,
            rest.next_lsn,
            rest.durable_lsn,
        )
        return log


class NoFiles:
    """A shard's partitions have nothing but their records."""

    @asynccontextmanager
    async def held_back(self, partition: PartitionId) -> AsyncIterator[None]:
        """See Guard."""
        yield

    def is_clean(self, partition: PartitionId) -> bool:
        """See Guard."""
        return True

    def left(self, partition: PartitionId) -> None:
        """See Guard."""

    def taken(self, partition: PartitionId) -> None:
        """See Guard."""


async def no_bytes(ino: Ino, offset: int, size: int) -> bytes:
    """Files have none here."""
    raise AssertionError("a file has bytes")


async def bring_none(partition: PartitionId, ino: Ino) -> None:
    """There is nothing to bring over."""
    raise AssertionError("a file has bytes")


class SimShard:
    """One shard, in one life after the other."""

    def __init__(self, world: SimShards, shard: ShardId) -> None:
        self.shard = shard
        self.backing = SimBacking()
        self.log = SlowLog(world.chance)
        self.node: Node | None = None
        self.store: Store
        self.nursery: trio.Nursery
        self._world = world

    async def live(self) -> None:
        """One life, until it is cancelled."""
        self.store = Store(self.backing, apply_interval=0.05)
        for frame in self.log.frames:
            if frame.kind == BATCH_KIND:
                self.store.replay(frame.end_lsn, frame.body)
        self.store.connect(self.log)
        world = self._world
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self.node = Node(
                self.shard,
                self.store,
                MapView(world.partitions, self.shard),
                _Network(world),
                SimClock(),
                SimRandom(world.chance.getrandbits(32)),
                nursery,
                NoFiles(),
                read=no_bytes,
                admit=trio.lowlevel.checkpoint,
                bring=bring_none,
                commit=Transaction.commit,
                on_applied=lambda changes: None,
            )
            nursery.start_soon(self.store.run)
            await trio.sleep_forever()

    def die(self, *, keeps: bool) -> None:
        """End this life. ``keeps``: all that was appended has reached the disks, durable or not."""
        self.node = None
        self.nursery.cancel_scope.cancel()
        survivors = len(self.log.frames) if keeps else self._world.chance.randrange(3)
        self.log = self.log.crash(survivors)
        self.backing = self.backing.crash()

    async def handle(self, request: Callable[[Node], Awaitable[T]]) -> T:
        """Have the shard carry out a request. Raises PeerLost where there is no answer, whatever became of it."""
        chance = self._world.chance
        answered = trio.Event()
        answers: list[T] = []

        async def carry_out(node: Node) -> None:
            answers.append(await request(node))
            answered.set()

        await trio.sleep(chance.random() * 0.003)
        for _ in range(1 + (chance.random() < self._world.doubled)):
            if self.node is not None and chance.random() >= self._world.lost:
                self.nursery.start_soon(carry_out, self.node)
        with trio.move_on_after(ANSWER_SECONDS):
            await answered.wait()
        await trio.sleep(chance.random() * 0.003)
        if not answers or chance.random() < self._world.lost:
            raise PeerLost(f"shard {self.shard} gives no answer")
        return answers[0]


class SimShards:
    """The whole of it. ``lost``, ``doubled``: how likely a message is. ``partitions``: where they were in the
    beginning, which is all that clients know."""

    def __init__(self, seed: int, shards: int, partitions: PartitionMap, *, lost: float, doubled: float) -> None:
        self.chance = random.Random(seed)
        self.partitions = partitions
        self.lost = lost
        self.doubled = doubled
        self.shards = [SimShard(self, ShardId(shard)) for shard in range(shards)]
        self.moves = 0
        """Of partitions, from shard to shard."""

    async def start(self, nursery: trio.Nursery) -> None:
        """Begin the first lives, with a root directory."""
        self._nursery = nursery
        root = self.shards[self.partitions.owner(partition_of(ROOT_INO))]
        store = Store(root.backing)
        store.connect(root.log)
        transaction = store.begin()
        format_root(transaction, 1)
        await root.log.wait_durable(transaction.commit())
        for shard in self.shards:
            nursery.start_soon(shard.live)
        await trio.sleep(0.001)

    async def restart(self, shard: ShardId, seconds: float, *, keeps: bool) -> None:
        """Crash a shard, and start it again after a while."""
        self.shards[shard].die(keeps=keeps)
        await trio.sleep(seconds)
        self._nursery.start_soon(self.shards[shard].live)

    async def give(self, partition: PartitionId, to: ShardId) -> bool:
        """Have a partition go to a shard; whether it did. A giver that dies meanwhile does not say."""
        giver = self.shards[self.placed().owner(partition)]
        if giver.node is None or giver.shard == to:
            return False
        said: list[bool] = []
        over = trio.Event()

        async def give(node: Node) -> None:
            try:
                await node.give(partition, to)
                said.append(True)
            except SiltstoneError:
                said.append(False)
            over.set()

        giver.nursery.start_soon(give, giver.node)
        with trio.move_on_after(2):
            await over.wait()
        return said == [True]

    async def wait_quiet(self) -> None:
        """Return when every transaction is over everywhere."""
        while True:
            nodes = [shard.node for shard in self.shards]
            if all(
                node is not None
                and not len(node.locks)
                and not node.coordinator.undecided
                and not node.coordinator.unsettled
                and not node.giver.giving
                and not node.taker.coming
                for node in nodes
            ) and all(moved.is_sorted for moved in self._gone()):
                return
            await trio.sleep(0.1)

    def placed(self) -> PartitionMap:
        """Where all partitions are, as the shards know it together."""
        known = [self.partitions.moved(placements_of(shard.store)) for shard in self.shards]
        return newest([self.partitions, *known])

    def _gone(self) -> list[Moved]:
        """What shards know of partitions that they gave away."""
        return [
            moved for shard in self.shards for moved in read_moved(shard.store).values() if moved.owner != shard.shard
        ]

    def reader(self) -> AllRecords:
        """The records of all shards together."""
        return AllRecords(self.placed(), {shard.shard: shard.store for shard in self.shards})


class _Network:
    """The way from one shard to the others. Everything is sent as bytes."""

    def __init__(self, world: SimShards) -> None:
        self._world = world

    async def call(self, shard: ShardId, message: Message) -> Reply:
        """See Peers."""
        received: Message = _message.decode(msgspec.msgpack.encode(message))

        async def answer(node: Node) -> Reply:
            reply: Reply = _reply.decode(msgspec.msgpack.encode(await node.answer(received)))
            return reply

        return await self._world.shards[shard].handle(answer)
