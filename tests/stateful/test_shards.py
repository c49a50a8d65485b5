"""The namespace over several shards, with clients at the same time, a bad network, and shards that crash at any moment.

What the clients saw must have an order (linearizability), and what is left must agree with itself: no name without an
inode, no inode without a name, counts exact, no transaction half done.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from hypothesis import given
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
from siltstone.types import ROOT_INO, Ino, ShardId, partition_of
from sim.clock import autojump
from sim.linear import Operation, find_order
from sim.metadata import check_metadata
from sim.shards import SimShards
from sim.tree_model import EMPTY_TREE, Action, Answer, step

NAMES = [b"a", b"b", b"c"]
KINDS = ["create", "mkdir", "mkdir", "link", "unlink", "rmdir", "rename", "rename", "lookup", "list", "stat"]
READS = {"lookup", "list", "stat"}


class Client:
    """Sends one operation after the other, each again until it is answered."""

    def __init__(self, world: SimShards, known: set[Ino], history: list[Operation[Action, Answer]]) -> None:
        self.world = world
        self.chance = world.chance
        self.identity = self.chance.randbytes(16)
        self.number = 0
        self.known = known
        self.history = history

    async def run(self, count: int) -> None:
        for _ in range(count):
            action = self.choose()
            called = trio.current_time()
            answer = await self.ask(action)
            self.history.append(Operation(called, trio.current_time(), action, answer))
            if action.kind in ("create", "mkdir") and isinstance(answer, list):
                self.known.add(Ino(answer[0]))

    def choose(self) -> Action:
        chance = self.chance
        directories = [ROOT_INO, *(ino for ino in sorted(self.known) if self.is_directory(ino))]
        files = [ino for ino in sorted(self.known) if not self.is_directory(ino)]
        kind = chance.choice(KINDS)
        if kind == "link" and not files:
            kind = "create"
        return Action(
            kind,
            chance.choice(directories),
            chance.choice(NAMES),
            chance.choice(directories),
            chance.choice(NAMES),
            chance.choice(files) if kind == "link" else chance.choice(directories + files),
            chance.random() < 0.2,
        )

    def is_directory(self, ino: Ino) -> bool:
        return any(done.action.kind == "mkdir" and done.answer_is(ino) for done in map(_Done, self.history))

    async def ask(self, action: Action) -> Answer:
        subject = action.ino if action.kind == "stat" else action.parent
        shard = self.world.partitions.owner(partition_of(subject))
        if self.chance.random() < 0.1:
            shard = ShardId(self.chance.randrange(len(self.world.shards)))
        self.number += 1
        request = Request(self.identity, self.number, self.number)

        async def carry_out(node: Node) -> Answer:
            try:
                if action.kind in READS:
                    return await node.look(lambda reader: _look(reader, action))
                change = once(_change(action), request, partition_of(subject), list[int])
                return await node.requests.carry_out(request, lambda: node.perform(change))
            except SiltstoneError as error:
                return type(error).__name__

        while True:
            try:
                return await self.world.shards[shard].handle(carry_out)
            except PeerLost:
                await trio.sleep(0.05)


class _Done:
    """An operation that is over."""

    def __init__(self, operation: Operation[Action, Answer]) -> None:
        self.action = operation.action
        self.answer = operation.result

    def answer_is(self, ino: Ino) -> bool:
        return isinstance(self.answer, list) and self.answer[0] == ino


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


async def _run(world: SimShards, clients: int, operations: int, crash_rate: float, *, keeps: bool) -> list[
    Operation[Action, Answer]
]:
    history: list[Operation[Action, Answer]] = []
    known: set[Ino] = set()
    async with trio.open_nursery() as nursery:
        await world.start(nursery)
        async with trio.open_nursery() as busy:
            async with trio.open_nursery() as crashing:
                if crash_rate:
                    crashing.start_soon(lambda: _crash_now_and_then(world, crash_rate, keeps=keeps))
                async with trio.open_nursery() as asking:
                    for _ in range(clients):
                        asking.start_soon(Client(world, known, history).run, operations)
                crashing.cancel_scope.cancel()
            busy.cancel_scope.cancel()
        world.lost = world.doubled = 0.0
        for shard in world.shards:
            if shard.node is None:
                nursery.start_soon(shard.live)
        await trio.sleep(0.01)
        with trio.fail_after(60):
            await world.wait_quiet()
        problems = list(check_metadata(world))
        assert not problems, problems
        for shard in world.shards:
            left = [key for key, value in shard.store.scan(b"x", b"y") if value or key[:2] == keys.DECISIONS]
            assert not left, left
        nursery.cancel_scope.cancel()
    return history


def _explain(history: list[Operation[Action, Answer]]) -> str:
    return "\n".join(
        f"{op.called:9.4f} {op.returned:9.4f} {op.action.kind} {op.action.parent} {op.action.name!r} "
        f"-> {op.action.new_parent} {op.action.new_name!r} ino {op.action.ino} {op.action.exchange}: {op.result}"
        for op in sorted(history, key=lambda op: op.called)
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 4),
    clients=st.integers(2, 5),
    lost=st.sampled_from([0.0, 0.05]),
    doubled=st.sampled_from([0.0, 0.2]),
    crash_rate=st.sampled_from([0.0, 2.0, 10.0]),
    scheduling=st.random_module(),
)
def test_what_clients_see_has_an_order(
    seed: int, shards: int, clients: int, lost: float, doubled: float, crash_rate: float, scheduling: object
) -> None:
    world = SimShards(seed, shards, even_map(shards), lost=lost, doubled=doubled)
    history = trio.run(lambda: _run(world, clients, 12, crash_rate, keeps=True), clock=autojump())
    assert len(history) == clients * 12
    assert find_order(history, EMPTY_TREE, step) is not None, _explain(history)


@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 4),
    crash_rate=st.sampled_from([5.0, 20.0]),
    scheduling=st.random_module(),
)
def test_a_crash_that_loses_what_was_not_durable_leaves_no_half_of_anything(
    seed: int, shards: int, crash_rate: float, scheduling: object
) -> None:
    world = SimShards(seed, shards, even_map(shards), lost=0.05, doubled=0.1)
    trio.run(lambda: _run(world, 4, 12, crash_rate, keeps=False), clock=autojump())
