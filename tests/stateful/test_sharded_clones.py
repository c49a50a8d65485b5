"""Clones over shards: what a tree held that nobody changed meanwhile, while partitions move and shards die."""

from __future__ import annotations

import random
from contextlib import suppress

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siltstone.core.cloning import ClonesOverShards, clone_path
from siltstone.core.sessions import GRACE_SECONDS, LEASE_SECONDS
from siltstone.core.shard_objects import HANDOVER_SECONDS
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.types import SetAttributes
from siltstone.errors import NotFound, Unavailable
from siltstone.types import ROOT_INO, Ino, PartitionId
from sim.clock import autojump
from sim.metadata import check_names, check_space
from sim.shard_volumes import SimShardVolumes
from sim.trees import Node, read_tree

BLOCK = random.Random(5).randbytes(100_000)


async def make_tree(volume: ShardedVolume, chance: random.Random) -> None:
    """A tree at /source, with files that were moved and linked from directory to directory, so from shard to shard."""
    directories = [(await volume.mkdir(ROOT_INO, b"source", mode=0o700, uid=1, gid=2)).ino]
    files: list[Ino] = []
    for number in range(chance.randrange(1, 10)):
        parent = chance.choice(directories)
        made = await volume.mkdir(parent, b"d%d" % number, mode=0o755, uid=3, gid=number)
        await volume.set_xattr(made.ino, b"user.number", b"%d" % number)
        directories.append(made.ino)
    for number in range(chance.randrange(1, 12)):
        name, parent = b"f%d" % number, chance.choice(directories)
        ino = (await volume.create(parent, name, mode=0o644, uid=number, gid=0)).ino
        files.append(ino)
        for _ in range(chance.randrange(3)):
            size = chance.choice([10, 3000, 50_000, 100_000])
            await volume.write(ino, chance.randrange(60_000), BLOCK[-size:])
        if chance.random() < 0.3:
            await volume.fsync(ino)
        if chance.random() < 0.3:
            await volume.rename(parent, name, chance.choice(directories), b"moved%d" % number)
        if chance.random() < 0.3:
            await volume.link(ino, chance.choice(directories), b"linked%d" % number)
        if chance.random() < 0.3:
            await volume.set_attributes(ino, SetAttributes(mtime_ns=number))
    await volume.symlink(chance.choice(directories), b"symlink", b"target", uid=0, gid=0)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(2, 3),
    moves=st.booleans(),
    kills=st.booleans(),
    scheduling=st.random_module(),
)
@example(1, 3, False, False, None)
@example(2, 3, True, True, None)
def test_a_clone_over_shards_is_there_whole_or_not_at_all(
    seed: int, shards: int, moves: bool, kills: bool, scheduling: object
) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        world = SimShardVolumes(shards, seed=seed)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            front = world.front_end(seed, nursery)
            await front.tree.wait_heard()
            await make_tree(front.tree, chance)
            if kills:
                await front.tree.sync()  # what is dirty goes with the shard that has it
            expected = await read_tree(front.tree, b"source")
            before = (await front.tree.space()).inodes
            made = 0
            async with trio.open_nursery() as beside:
                if moves:
                    beside.start_soon(move, world, chance)
                if kills:
                    beside.start_soon(kill, world, chance)
                for number in range(3):
                    made += await clone(front.tree, front.calls.call, b"clone%d" % number, expected)
                beside.cancel_scope.cancel()
            assert made == 3 or kills
            assert await read_tree(front.tree, b"source") == expected
            with trio.fail_after(120):
                await world.wait_quiet()
            assert (await front.tree.space()).inodes - before == made * count(expected)
            problems = [*check_names(world.reader())]
            for shard in world.volumes.values():
                problems += check_space(shard.ledger.store)
            assert not problems, problems
            assert await world.fsck(deep=True) == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def test_a_clone_that_takes_long_is_held_by_who_makes_it() -> None:
    class Slow(ClonesOverShards):
        async def name_clone(self, clone: Ino, source: Ino, parent: Ino, name: bytes, subdirectories: int) -> None:
            await trio.sleep(HANDOVER_SECONDS + GRACE_SECONDS + LEASE_SECONDS)
            await super().name_clone(clone, source, parent, name, subdirectories)

    async def main() -> None:
        world = SimShardVolumes(2)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            front = world.front_end(1, nursery)
            await front.tree.wait_heard()
            await make_tree(front.tree, random.Random(1))
            expected = await read_tree(front.tree, b"source")
            await clone_path(front.tree, Slow(front.calls.call, front.tree), b"source", b"clone")
            assert await read_tree(front.tree, b"clone") == expected
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def count(tree: dict[bytes, Node]) -> int:
    """The inodes of a tree."""
    return len({node.links for node in tree.values()})


async def clone(tree: ShardedVolume, call: object, target: bytes, expected: dict[bytes, Node]) -> bool:
    """Clone /source. A shard that dies may keep it from being done; it is whole or not there."""
    with suppress(Unavailable, NotFound):
        # Looked for in any case: it may have been done, and only the answer lost.
        await clone_path(tree, ClonesOverShards(call, tree), b"source", target)
    try:
        await tree.lookup(ROOT_INO, target)
    except NotFound:
        return False
    assert await read_tree(tree, target) == expected
    return True


async def move(world: SimShardVolumes, chance: random.Random) -> None:
    """Have partitions go from shard to shard."""
    while True:
        await trio.sleep(chance.random() * 0.05)
        await world.give(PartitionId(chance.randrange(256)), chance.choice(world.shards))


async def kill(world: SimShardVolumes, chance: random.Random) -> None:
    """Have shards die, one after the other."""
    while True:
        await trio.sleep(chance.random() * 0.3)
        with trio.CancelScope(shield=True):
            await world.restart(chance.choice(world.shards))
