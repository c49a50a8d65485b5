"""A whole volume, its namespace spread over shards, through the router that front-ends use.

What clients see at the same time has an order; bytes are where their names lead, wherever those are moved; the metadata
of all shards together agrees with itself.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.fsck import fsck
from siltstone.core.sessions import GRACE_SECONDS, LEASE_SECONDS
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.types import Attributes, AttributesChanged, Change, DataChanged, EntryChanged, SetAttributes
from siltstone.errors import NotFound, SiltstoneError
from siltstone.meta import keys
from siltstone.types import ROOT_INO, Ino, partition_of
from sim.clock import autojump
from sim.linear import find_order
from sim.metadata import check_names, check_space
from sim.shard_volumes import SimShardVolumes
from sim.tree_client import Client, Seen, explain
from sim.tree_model import EMPTY_TREE, GONE, Action, Answer, step

OF_SPACE = {"I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I13"}
"""Invariants of fsck that hold in each shard by itself."""


async def carry_out(volume: ShardedVolume, action: Action) -> Answer:
    try:
        return await _carry_out(volume, action)
    except SiltstoneError as error:
        return type(error).__name__


async def _carry_out(volume: ShardedVolume, action: Action) -> Answer:
    parent, name = action.parent, action.name
    match action.kind:
        case "create":
            return [(await volume.create(parent, name, mode=0o100644, uid=0, gid=0)).ino]
        case "mkdir":
            return [(await volume.mkdir(parent, name, mode=0o755, uid=0, gid=0)).ino]
        case "link":
            await volume.link(action.ino, parent, name)
        case "unlink":
            await volume.unlink(parent, name)
        case "rmdir":
            await volume.rmdir(parent, name)
        case "rename":
            await volume.rename(parent, name, action.new_parent, action.new_name, exchange=action.exchange)
        case "list":
            return [entry.ino for entry in await volume.list_directory(parent, after=None, limit=100)]
        case "lookup":
            return _seen(await volume.lookup(parent, name))
        case "stat":
            return _seen(await volume.attributes(action.ino))
    return []


def _seen(attributes: Attributes) -> Answer:
    return [attributes.ino, attributes.nlink, attributes.size]


class KeptOpen:
    """Holds every inode: what has lost its last name can be looked at and linked."""

    def holds(self, ino: Ino) -> bool:
        return True


def run(shards: int, seed: int, body: Callable[[SimShardVolumes, ShardedVolume], Awaitable[None]]) -> None:
    """Run it on a new volume; then everything must agree with itself."""

    async def main() -> None:
        world = SimShardVolumes(shards, seed=seed)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            await body(world, world.front_end(seed, nursery).tree)
            with trio.fail_after(60):
                await world.wait_quiet()
            problems = list(check_names(world.reader()))
            for shard in world.volumes.values():
                problems += check_space(shard.ledger.store)
            assert not problems, problems
            assert await world.fsck(deep=True) == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 3),
    clients=st.integers(2, 4),
    moves=st.booleans(),
    scheduling=st.random_module(),
)
def test_what_clients_see_has_an_order(seed: int, shards: int, clients: int, moves: bool, scheduling: object) -> None:
    """``moves``: partitions go from shard to shard meanwhile."""
    seen = Seen()
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        async def ask(action: Action) -> Answer:
            answer = await carry_out(volume, action)
            if action.kind in ("unlink", "rmdir") and isinstance(answer, list):
                return GONE
            return answer

        holder = KeptOpen()
        for shard in world.volumes.values():
            shard.register_holder(holder)
        async with trio.open_nursery() as moving:
            if moves:
                moving.start_soon(move_now_and_then, world, seen, chance)
            async with trio.open_nursery() as nursery:
                for _ in range(clients):
                    nursery.start_soon(Client(chance, ask, seen).run, 12)
            moving.cancel_scope.cancel()
        for shard in world.volumes.values():
            shard.unregister_holder(holder)

    run(shards, seed, body)
    assert find_order(seen.history, EMPTY_TREE, step) is not None, explain(seen.history)


async def move_now_and_then(world: SimShardVolumes, seen: Seen, chance: random.Random) -> None:
    """Have partitions go from shard to shard, those that clients use."""
    while True:
        await trio.sleep(chance.random() * 0.1)
        partition = partition_of(chance.choice([ROOT_INO, *sorted(seen.known)]))
        await world.give(partition, chance.choice(world.shards))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), kills=st.booleans(), scheduling=st.random_module())
def test_files_read_the_same_while_their_partitions_move(seed: int, kills: bool, scheduling: object) -> None:
    """Bytes dirty, in the log, in stripes, inline; overwritten, cut and read while they move, and behind it."""
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        model: dict[Ino, bytes] = {}
        for number in range(4):
            ino = (await volume.create(ROOT_INO, b"f%d" % number, mode=0o100644, uid=0, gid=0)).ino
            directory = (await volume.mkdir(ROOT_INO, b"d%d" % number, mode=0o755, uid=0, gid=0)).ino
            inner = (await volume.create(directory, b"f", mode=0o100644, uid=0, gid=0)).ino
            model |= {ino: b"", inner: b""}
        moves = 0
        for _ in range(40):
            ino = chance.choice(sorted(model))
            match chance.randrange(8):
                case 0 | 1 | 2:
                    size = chance.choice([10, 5_000, 40_000, 300_000])
                    data, offset = chance.randbytes(size), chance.randrange(len(model[ino]) + 1)
                    await volume.write(ino, offset, data)
                    before = model[ino]
                    model[ino] = before[:offset] + data + before[offset + size :]
                case 3:
                    size = chance.randrange(len(model[ino]) + 1000)
                    await volume.set_attributes(ino, SetAttributes(size=size))
                    model[ino] = model[ino][:size].ljust(size, b"\0")
                case 4:
                    await volume.fsync(ino)
                case 5:
                    assert await volume.read(ino, 0, 1 << 20) == model[ino]
                case _:
                    moves += await world.give(partition_of(ino), chance.choice(world.shards))
            if kills and chance.random() < 0.1:
                await volume.sync()
                await world.restart(chance.choice(world.shards))
        for ino, data in model.items():
            assert await volume.read(ino, 0, 1 << 20) == data
        assert (await volume.space()).inodes == 1 + 4 + len(model), "what is lent is counted twice"
        with trio.fail_after(60):
            await world.wait_brought()
        for ino, data in model.items():
            assert await volume.read(ino, 0, 1 << 20) == data
        for shard, opened in world.volumes.items():
            store = opened.ledger.store
            owned = world.partitions().partitions_of(shard)
            strays = {keys.key_partition(key) for key, _ in store.scan(b"p", b"q")} - {*owned}
            assert not strays, f"shard {shard} keeps what it gave away: {strays}"
            assert not list(store.scan(*keys.prefix_range(keys.BORROWED)))
            findings = await fsck(opened, deep=True)
            assert not [finding for finding in findings if finding.invariant in OF_SPACE], findings

    run(3, seed, body)


def test_bytes_that_are_dirty_are_seen_through_names_of_other_shards() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        first, second = await directories_of_two_shards(world, volume)
        file = await volume.create(first, b"file", mode=0o100644, uid=0, gid=0)
        await volume.write(file.ino, 0, b"dirty" * 100)
        await volume.rename(first, b"file", second, b"moved")
        assert (await volume.lookup(second, b"moved")).size == 500
        await volume.write(file.ino, 500, b"more")
        assert (await volume.lookup(second, b"moved")).size == 504
        listed = await volume.list_directory(second, after=None, limit=10)
        assert [(entry.name, entry.attributes.size) for entry in listed] == [(b"moved", 504)]
        assert await volume.read(file.ino, 498, 100) == b"tymore"
        await volume.sync()

    run(2, 1, body)


def test_a_file_whose_last_name_was_in_another_shard_is_purged_there() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        first, second = await directories_of_two_shards(world, volume)
        file = await volume.create(first, b"file", mode=0o100644, uid=0, gid=0)
        await volume.write(file.ino, 0, bytes(100_000))
        linked = await volume.link(file.ino, second, b"name")
        assert linked.nlink == 2
        await volume.unlink(first, b"file")
        await volume.unlink(second, b"name")
        await world.wait_quiet()
        with pytest.raises(NotFound):
            await volume.attributes(file.ino)

    run(2, 2, body)


async def directories_of_two_shards(world: SimShardVolumes, volume: ShardedVolume) -> tuple[Ino, Ino]:
    """Two directories that are not in the same shard."""
    made = [(await volume.mkdir(ROOT_INO, b"d%d" % n, mode=0o755, uid=0, gid=0)).ino for n in range(16)]
    owners = {world.partitions().owner(partition_of(ino)): ino for ino in made}
    first, second, *_ = owners.values()
    return first, second


class Holding:
    """A front-end's table of what it holds."""

    def __init__(self) -> None:
        self.held: set[Ino] = set()

    def holds(self, ino: Ino) -> bool:
        return ino in self.held


def test_what_a_front_end_holds_stays_without_a_name_through_the_death_of_its_shard() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        first, second = await directories_of_two_shards(world, volume)
        kept = (await volume.create(first, b"kept", mode=0o100644, uid=0, gid=0)).ino
        await volume.write(kept, 0, b"still here" * 1000)
        await volume.fsync(kept)
        left = (await volume.create(first, b"left", mode=0o100644, uid=0, gid=0)).ino
        holder = Holding()
        holder.held.add(kept)
        volume.register_holder(holder)
        await trio.sleep(GRACE_SECONDS + 1)
        await volume.rename(first, b"kept", second, b"moved")
        await volume.unlink(second, b"moved")
        await volume.unlink(first, b"left")
        await trio.sleep(1)
        with pytest.raises(NotFound):
            await volume.attributes(left)
        await world.restart(world.partitions().owner(partition_of(kept)))
        await trio.sleep(GRACE_SECONDS + 30)
        assert await volume.read(kept, 0, 20) == b"still herestill here"
        holder.held.clear()
        volume.released(kept)
        await trio.sleep(2)
        with pytest.raises(NotFound):
            await volume.attributes(kept)
        volume.unregister_holder(holder)

    run(2, 3, body)


def test_a_front_end_that_is_gone_holds_nothing() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
        async with trio.open_nursery() as nursery:
            caller = world.caller(99)
            other = ShardedVolume(caller, caller.partitions, world.world.clock)
            nursery.start_soon(caller.run)
            nursery.start_soon(other.run)
            holder = Holding()
            holder.held.add(ino)
            other.register_holder(holder)
            await trio.sleep(GRACE_SECONDS + 1)
            await volume.unlink(ROOT_INO, b"file")
            await trio.sleep(5)
            assert (await volume.attributes(ino)).nlink == 0
            nursery.cancel_scope.cancel()
        await trio.sleep(2 * LEASE_SECONDS)
        with pytest.raises(NotFound):
            await volume.attributes(ino)

    run(2, 4, body)


def test_front_ends_hear_of_each_other_s_changes_and_not_of_their_own() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        async with trio.open_nursery() as nursery:
            caller = world.caller(99)
            other = ShardedVolume(caller, caller.partitions, world.world.clock)
            nursery.start_soon(caller.run)
            nursery.start_soon(other.run)
            heard: list[Change] = []
            own: list[Change] = []
            missed: list[int] = []
            other.subscribe(lambda _, change: heard.append(change), on_missed=lambda: missed.append(1))
            volume.subscribe(lambda _, change: own.append(change))
            await trio.sleep(1)
            directory = (await volume.mkdir(ROOT_INO, b"d", mode=0o755, uid=0, gid=0)).ino
            ino = (await volume.create(directory, b"file", mode=0o100644, uid=0, gid=0)).ino
            await volume.write(ino, 0, b"bytes")
            await volume.rename(directory, b"file", ROOT_INO, b"moved")
            await trio.sleep(1)
            for expected in (
                EntryChanged(ROOT_INO, b"d", directory, False),
                EntryChanged(directory, b"file", ino, False),
                DataChanged(ino, 0, 5),
                EntryChanged(directory, b"file", ino, True),
                EntryChanged(ROOT_INO, b"moved", ino, False),
            ):
                assert heard.count(expected) == 1, expected
            assert not [change for change in own if not isinstance(change, AttributesChanged)]
            shard = world.partitions().owner(partition_of(ROOT_INO))
            assert not missed
            await world.restart(shard)
            await trio.sleep(10)
            assert missed, "changes may have been missed, and nobody was told"
            nursery.cancel_scope.cancel()

    run(2, 5, body)
