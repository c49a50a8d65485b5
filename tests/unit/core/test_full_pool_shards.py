"""A full pool of several shards: what is said to be free is free, whichever of them has the files."""

from __future__ import annotations

import msgspec
import trio

from siltstone.errors import NoSpace
from siltstone.limits import KIB, MIB
from siltstone.types import ROOT_INO, Ino, ShardId, partition_of
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes
from sim.volume import small_config

CAPACITY = 32 * MIB
DATA = bytes(range(251)) * 20_000
TURNS = (ShardId(0), ShardId(0), ShardId(1))
"""Which shard gets the next file: they are to be unlike each other."""


def test_statfs_and_refusals_agree_over_shards() -> None:
    """What is said to be free, over the whole filling, is within 1 % of the pool what is written until each shard
    refuses."""

    async def main() -> None:
        # Segments and chunks are to the disks as they are in life: 1/256.
        config = msgspec.structs.replace(
            small_config(), segment_bytes=128 * KIB, chunk_bytes=128 * KIB, log_bytes_low=128 * KIB
        )
        world = SimShardVolumes(2, config=config, capacity_bytes=CAPACITY)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            tree = world.front_end(1, nursery).tree
            folders: dict[ShardId, Ino] = {}
            for number in range(64):
                ino = (await tree.mkdir(ROOT_INO, b"%d" % number, mode=0o755, uid=0, gid=0)).ino
                folders.setdefault(world.partitions().owner(partition_of(ino)), ino)
            written = files = 0
            promised: list[int] = []
            turns = list(TURNS)
            while turns:
                await trio.sleep(1.5)
                space = await tree.space()
                promised.append(written + space.available_bytes)
                size = MIB if space.available_bytes > 4 * MIB else 256 * KIB
                files += 1
                shard = turns[files % len(turns)]
                try:
                    ino = (await tree.create(folders[shard], b"f%d" % files, mode=0o100644, uid=0, gid=0)).ino
                    await tree.write(ino, 0, DATA[files : files + size])
                    await tree.fsync(ino)
                    written += size
                except NoSpace:
                    turns = [other for other in turns if other != shard]
            one_percent = (await tree.space()).total_bytes // 100
            assert max(abs(promise - written) for promise in promised) <= one_percent
            assert (await tree.space()).free_bytes <= one_percent
            assert await world.fsck() == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())
