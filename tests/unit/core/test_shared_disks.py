"""Two shards on the same disks, each a whole engine in its part: neither touches what is the other's."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from random import Random

import msgspec
import pytest
import trio

from siltstone.core.volume import Volume
from siltstone.engine.disk.parts import part_folder
from siltstone.errors import Corrupt
from siltstone.limits import KIB, MIB
from siltstone.meta import inodes, keys
from siltstone.meta.records import Inode
from siltstone.meta.shards.map import map_of
from siltstone.types import ROOT_INO, Ino, PartitionId, ShardId, make_ino, partition_of
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes

ROOTED, ROOTLESS = ShardId(1), ShardId(0)


def names(world: SimShardVolumes) -> dict[ShardId, list[tuple[str, ...]]]:
    """The files of each shard, disk by disk."""
    own = part_folder(ROOTED) + "/"
    disks = world.world.disks
    return {
        ROOTED: [tuple(name for name in disk.names if name.startswith(own)) for disk in disks],
        ROOTLESS: [tuple(name for name in disk.names if not name.startswith(own)) for disk in disks],
    }


def run(body: Callable[[SimShardVolumes], Awaitable[None]]) -> None:
    async def main() -> None:
        world = SimShardVolumes()
        await world.create()
        await body(world)

    trio.run(main, clock=autojump())


async def make_directory(volume: Volume, ino: Ino) -> None:
    """A directory, as one is made whose parent another shard has."""
    transaction = volume.ledger.begin()
    inodes.put_inode(transaction, ino, Inode(stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 1, 1, 1, parent=ROOT_INO))
    volume.ledger.commit(transaction)
    await volume.sync()


async def fill(volume: Volume, directory: Ino, seed: int) -> dict[Ino, bytes]:
    """Small and large files."""
    files: dict[Ino, bytes] = {}
    for number, size in enumerate((1 * KIB, 20 * KIB, 300 * KIB, 2 * MIB)):
        made = await volume.create(directory, b"file %d" % number, mode=0o100644, uid=0, gid=0)
        files[made.ino] = Random(seed + number).randbytes(size)
        await volume.write(made.ino, 0, files[made.ino])
    await volume.sync()
    return files


async def check(volume: Volume, files: dict[Ino, bytes]) -> None:
    for ino, data in files.items():
        assert await volume.read(ino, 0, len(data)) == data


def test_two_shards_write_settle_scrub_and_open_again_beside_each_other() -> None:
    async def body(world: SimShardVolumes) -> None:
        directories = {ROOTED: ROOT_INO, ROOTLESS: make_ino(5, PartitionId(0))}
        files: dict[ShardId, dict[Ino, bytes]] = {}
        async with world.opened(ROOTLESS) as rootless, world.opened(ROOTED) as rooted:
            await make_directory(rootless, directories[ROOTLESS])
            for shard, volume in ((ROOTLESS, rootless), (ROOTED, rooted)):
                files[shard] = await fill(volume, directories[shard], 100 * shard)
            await rootless.settle()
            await rooted.settle()
        for shard, other in ((ROOTLESS, ROOTED), (ROOTED, ROOTLESS)):
            before = names(world)[other]
            async with world.opened(shard) as volume:
                await check(volume, files[shard])
                report = await volume.scrub()
                assert report.is_sound, report
            assert names(world)[other] == before, "nothing of the other's is touched"
        everything = names(world)
        assert all(everything[ROOTED]) and all(everything[ROOTLESS])

    run(body)


def test_only_the_shard_of_the_roots_partition_needs_a_root() -> None:
    async def body(world: SimShardVolumes) -> None:
        assert map_of(world.config).owner(partition_of(ROOT_INO)) == ROOTED
        async with world.opened(ROOTLESS) as rootless:
            assert rootless.ledger.store.get(keys.inode(ROOT_INO)) is None
        world.config = msgspec.structs.replace(world.config, partition_owners=bytes(256).hex())
        with pytest.raises(Corrupt, match="no root directory"):
            async with world.opened(ROOTLESS):
                pass

    run(body)
