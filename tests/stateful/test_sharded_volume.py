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

from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.types import Attributes
from siltstone.errors import NotFound, SiltstoneError
from siltstone.types import ROOT_INO, Ino, partition_of
from sim.clock import autojump
from sim.linear import find_order
from sim.metadata import check_metadata
from sim.shard_volumes import SimShardVolumes
from sim.tree_client import Client, History, explain
from sim.tree_model import EMPTY_TREE, GONE, Action, Answer, step


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
        world = SimShardVolumes(shards)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            caller = world.caller(seed)
            nursery.start_soon(caller.run)
            await body(world, ShardedVolume(caller, world.partitions))
            with trio.fail_after(60):
                await world.wait_quiet()
            problems = list(check_metadata(world.reader()))
            assert not problems, problems
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 3),
    clients=st.integers(2, 4),
    scheduling=st.random_module(),
)
def test_what_clients_see_has_an_order(seed: int, shards: int, clients: int, scheduling: object) -> None:
    history: History = []
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        known: dict[Ino, str] = {}

        async def ask(action: Action) -> Answer:
            answer = await carry_out(volume, action)
            if action.kind in ("unlink", "rmdir") and isinstance(answer, list):
                return GONE
            return answer

        holder = KeptOpen()
        for shard in world.volumes.values():
            shard.register_holder(holder)
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(Client(chance, ask, known, history).run, 12)
        for shard in world.volumes.values():
            shard.unregister_holder(holder)

    run(shards, seed, body)
    assert find_order(history, EMPTY_TREE, step) is not None, explain(history)


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
