"""The namespace over several shards, with clients at the same time, a bad network, and shards that crash at any moment.

What the clients saw must have an order (linearizability), and what is left must agree with itself: no name without an
inode, no inode without a name, counts exact, no transaction half done.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from siltstone.errors import SiltstoneError
from siltstone.meta import keys, names
from siltstone.meta.inodes import get_inode
from siltstone.meta.rename import rename
from siltstone.meta.shards.answers import Request, once
from siltstone.meta.shards.map import even_map
from siltstone.meta.shards.messages import PeerLost
from siltstone.meta.shards.node import Node
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, ShardId, partition_of
from sim.clock import autojump
from sim.linear import find_order
from sim.metadata import check_metadata
from sim.shards import SimShards
from sim.tree_client import READS, Client, History, Seen, explain
from sim.tree_model import EMPTY_TREE, Action, Answer, step


def ignore(answer: list[int]) -> None:
    """Nobody has to hear of it."""


class Caller:
    """Sends what a client wants done to some shard, again until it is answered."""

    def __init__(self, world: SimShards) -> None:
        self._world = world
        self._identity = world.chance.randbytes(16)
        self._number = 0

    async def ask(self, action: Action) -> Answer:
        chance = self._world.chance
        subject = action.ino if action.kind == "stat" else action.parent
        shard = self._world.partitions.owner(partition_of(subject))
        if chance.random() < 0.1:
            shard = ShardId(chance.randrange(len(self._world.shards)))
        self._number += 1
        request = Request(self._identity, self._number, self._number)

        async def carry_out(node: Node) -> Answer:
            try:
                if action.kind in READS:
                    return await node.look(lambda reader: _look(reader, action))
                change = once(_change(action), request, partition_of(subject), list[int])
                return await node.requests.carry_out(request, lambda: node.perform(change, ignore))
            except SiltstoneError as error:
                return type(error).__name__

        while True:
            try:
                return await self._world.shards[shard].handle(carry_out)
            except PeerLost:
                await trio.sleep(0.05)


def _look(reader: Reader, action: Action) -> Answer:
    if action.kind == "list":
        return [entry.ino for _, entry in names.list_directory(reader, action.parent, limit=100)]
    if action.kind == "lookup":
        ino, inode = names.lookup(reader, action.parent, action.name)
    else:
        ino, inode = action.ino, get_inode(reader, action.ino)
    return [ino, inode.nlink, inode.size]


def _change(action: Action) -> Callable[[Transaction], list[int]]:
    parent, name = action.parent, action.name

    def change(transaction: Transaction) -> list[int]:
        match action.kind:
            case "create":
                return [names.create(transaction, parent, name, mode=0o644, uid=0, gid=0, now_ns=2)[0]]
            case "mkdir":
                return [names.mkdir(transaction, parent, name, mode=0o755, uid=0, gid=0, now_ns=2)[0]]
            case "link":
                names.link(transaction, action.ino, parent, name, now_ns=3)
                return []
            case "unlink":
                return [names.unlink(transaction, parent, name, now_ns=3)[0]]
            case "rmdir":
                return [names.rmdir(transaction, parent, name, now_ns=3)[0]]
            case kind:
                assert kind == "rename"
                rename(
                    transaction,
                    parent,
                    name,
                    action.new_parent,
                    action.new_name,
                    exchange=action.exchange,
                    now_ns=4,
                )
                return []

    return change


async def _crash_now_and_then(world: SimShards, rate: float, *, keeps: bool) -> None:
    while True:
        await trio.sleep(world.chance.expovariate(rate))
        shard = ShardId(world.chance.randrange(len(world.shards)))
        await world.restart(shard, world.chance.random() * 0.3, keeps=keeps)


async def _move_now_and_then(world: SimShards, seen: Seen, rate: float) -> None:
    """Have partitions go from shard to shard, those most of all that clients use."""
    chance = world.chance
    while True:
        await trio.sleep(chance.expovariate(rate))
        used = [ROOT_INO, *sorted(seen.known)]
        to = ShardId(chance.randrange(len(world.shards)))
        world.moves += await world.give(partition_of(chance.choice(used)), to)


async def _run(
    world: SimShards, clients: int, operations: int, crash_rate: float, *, keeps: bool, move_rate: float = 0.0
) -> History:
    seen = Seen()
    async with trio.open_nursery() as nursery:
        await world.start(nursery)
        async with trio.open_nursery() as busy:
            async with trio.open_nursery() as crashing:
                if move_rate:
                    crashing.start_soon(_move_now_and_then, world, seen, move_rate)
                if crash_rate:
                    crashing.start_soon(lambda: _crash_now_and_then(world, crash_rate, keeps=keeps))
                async with trio.open_nursery() as asking:
                    for _ in range(clients):
                        client = Client(world.chance, Caller(world).ask, seen)
                        asking.start_soon(client.run, operations)
                crashing.cancel_scope.cancel()
            busy.cancel_scope.cancel()
        world.lost = world.doubled = 0.0
        for shard in world.shards:
            if shard.node is None:
                nursery.start_soon(shard.live)
        await trio.sleep(0.01)
        with trio.fail_after(60):
            await world.wait_quiet()
        problems = list(check_metadata(world.reader()))
        assert not problems, problems
        for shard in world.shards:
            left = [
                key
                for kind in (keys.INTENTS, keys.DECISIONS, keys.STAGED)
                for key, value in shard.store.scan(*keys.prefix_range(kind))
                if value or kind == keys.DECISIONS
            ]
            assert not left, left
            owned = world.placed().partitions_of(shard.shard)
            strays = {keys.key_partition(key) for key, _ in shard.store.scan(b"p", b"q")} - {*owned}
            assert not strays, strays
        nursery.cancel_scope.cancel()
    return seen.history


@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 4),
    clients=st.integers(2, 5),
    lost=st.sampled_from([0.0, 0.05]),
    doubled=st.sampled_from([0.0, 0.2]),
    crash_rate=st.sampled_from([0.0, 2.0, 10.0]),
    scheduling=st.random_module(),
)
@example(seed=6203946, shards=2, clients=5, lost=0.05, doubled=0.0, crash_rate=0.0, scheduling=None)
def test_what_clients_see_has_an_order(
    seed: int, shards: int, clients: int, lost: float, doubled: float, crash_rate: float, scheduling: object
) -> None:
    world = SimShards(seed, shards, even_map(shards), lost=lost, doubled=doubled)
    history = trio.run(lambda: _run(world, clients, 12, crash_rate, keeps=True), clock=autojump())
    assert len(history) == clients * 12
    assert find_order(history, EMPTY_TREE, step) is not None, explain(history)


@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 4),
    clients=st.integers(2, 5),
    lost=st.sampled_from([0.0, 0.05]),
    crash_rate=st.sampled_from([0.0, 2.0, 10.0]),
    move_rate=st.sampled_from([5.0, 50.0]),
    scheduling=st.random_module(),
)
def test_what_clients_see_has_an_order_while_partitions_move(
    seed: int, shards: int, clients: int, lost: float, crash_rate: float, move_rate: float, scheduling: object
) -> None:
    world = SimShards(seed, shards, even_map(shards), lost=lost, doubled=0.1)
    history = trio.run(lambda: _run(world, clients, 12, crash_rate, keeps=True, move_rate=move_rate), clock=autojump())
    assert len(history) == clients * 12
    assert find_order(history, EMPTY_TREE, step) is not None, explain(history)


@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 4),
    crash_rate=st.sampled_from([5.0, 20.0]),
    move_rate=st.sampled_from([0.0, 20.0]),
    scheduling=st.random_module(),
)
def test_a_crash_that_loses_what_was_not_durable_leaves_no_half_of_anything(
    seed: int, shards: int, crash_rate: float, move_rate: float, scheduling: object
) -> None:
    world = SimShards(seed, shards, even_map(shards), lost=0.05, doubled=0.1)
    trio.run(lambda: _run(world, 4, 12, crash_rate, keeps=False, move_rate=move_rate), clock=autojump())
