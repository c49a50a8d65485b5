"""A volume whose namespace is spread over shards, in one process: each shard a whole volume of its own disks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import msgspec
import trio

from siltstone.core.sharded_volume import ShardedVolume, ShardVolume
from siltstone.core.volume import Volume
from siltstone.meta.shards.map import PartitionMap
from siltstone.meta.shards.messages import Message, Reply
from siltstone.meta.shards.node import Node
from siltstone.types import ShardId
from sim.clock import SimClock
from sim.randomness import SimRandom
from sim.volume import SimVolume, small_config

_message = msgspec.msgpack.Decoder(Message)
_reply = msgspec.msgpack.Decoder(Reply)


class SimShardedVolume:
    """The shards, and the way to them, on which everything takes a while."""

    def __init__(self, seed: int, partitions: PartitionMap) -> None:
        self.chance = random.Random(seed)
        self.partitions = partitions
        self.worlds = [SimVolume(small_config(disk_count=3, data_units=1), seed=seed + n) for n in partitions.shards()]
        self.volumes: dict[ShardId, Volume] = {}
        self.nodes: dict[ShardId, Node] = {}

    async def create(self) -> None:
        """Make all shards."""
        for world in self.worlds:
            await world.create()

    async def live(self, *, task_status: trio.TaskStatus[ShardedVolume]) -> None:
        """One life of all of them, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            for shard, world in enumerate(self.worlds):
                await nursery.start(self._live_shard, ShardId(shard), world)
            shards = {shard: cast(ShardVolume, _Remote(self, shard)) for shard in self.volumes}
            task_status.started(ShardedVolume(shards, lambda: self.partitions))

    async def _live_shard(self, shard: ShardId, world: SimVolume, *, task_status: trio.TaskStatus[None]) -> None:
        def make_node(volume: Volume, nursery: trio.Nursery) -> Node:
            node = self.nodes[shard] = Node(
                shard,
                volume.ledger.store,
                lambda: self.partitions,
                _Network(self),
                SimClock(),
                SimRandom(self.chance.getrandbits(32)),
                nursery,
                commit=volume.ledger.commit,
                on_applied=volume.applied,
            )
            return node

        async with world.opened(make_node) as volume:
            self.volumes[shard] = volume
            task_status.started()
            await trio.sleep_forever()

    async def wait(self) -> None:
        """On the way."""
        await trio.sleep(self.chance.random() * 0.003)

    async def wait_quiet(self) -> None:
        """Return when every transaction is over everywhere, and every orphan purged."""
        while True:
            nodes = self.nodes.values()
            busy = [len(node.locks) + node.coordinator.undecided + node.coordinator.unsettled for node in nodes]
            if not any(busy) and not any(len(volume.orphans) for volume in self.volumes.values()):
                return
            await trio.sleep(0.1)

    is_settled = True

    def owns(self, key: bytes) -> bool:
        """All of them."""
        return True

    def get(self, key: bytes) -> bytes | None:
        """A record, wherever it is."""
        owner = self.partitions.owner_of_key(key)
        if owner is not None:
            return self.volumes[owner].ledger.store.get(key)
        found = (volume.ledger.store.get(key) for volume in self.volumes.values())
        return next((value for value in found if value is not None), None)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """All records in a range."""
        found = [
            entry
            for shard, volume in self.volumes.items()
            for entry in volume.ledger.store.scan(start, end)
            if self.partitions.owner_of_key(entry[0]) in (None, shard)
        ]
        return iter(sorted(found, reverse=reverse))


class _Remote:
    """The methods of a shard's volume, as others call them."""

    def __init__(self, world: SimShardedVolume, shard: ShardId) -> None:
        self._world = world
        self._shard = shard

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **options: Any) -> Any:
            await self._world.wait()
            result = await getattr(self._world.volumes[self._shard], name)(*arguments, **options)
            await self._world.wait()
            return result

        return call


class _Network:
    """The way from one shard to another. Everything is sent as bytes."""

    def __init__(self, world: SimShardedVolume) -> None:
        self._world = world

    async def call(self, shard: ShardId, message: Message) -> Reply:
        """See Peers."""
        received: Message = _message.decode(msgspec.msgpack.encode(message))
        await self._world.wait()
        reply: Reply = _reply.decode(msgspec.msgpack.encode(await self._world.nodes[shard].answer(received)))
        await self._world.wait()
        return reply
