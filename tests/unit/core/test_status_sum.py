"""What several shards tell is summed up, and what they share is counted once."""

from __future__ import annotations

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.status import VolumeStatus
from siltstone.core.status_sum import room_of_all, sum_of_spaces, sum_of_statuses
from siltstone.types import ROOT_INO, ShardId
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes


@given(shared=st.integers(0, 1 << 40), own=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=5))
def test_what_the_disks_have_free_counts_once(shared: int, own: list[int]) -> None:
    assert room_of_all([(shared + part, part) for part in own]) == shared + sum(own)


def test_sums_of_two_shards_are_of_the_volume() -> None:
    async def main() -> None:
        world = SimShardVolumes(2)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            caller = world.caller()
            nursery.start_soon(caller.run)
            volume = ShardedVolume(caller, caller.partitions, world.world.clock)
            for number in range(8):
                parent = (await volume.mkdir(ROOT_INO, b"%d" % number, mode=0o755, uid=0, gid=0)).ino
                ino = (await volume.create(parent, b"file", mode=0o100644, uid=0, gid=0)).ino
                await volume.write(ino, 0, bytes(20_000))
            await volume.sync()
            await world.all_shards().ask("settle")
            check(world, await world.all_shards().ask("status"))
            space = await volume.space()
            statuses = await world.all_shards().ask("status")
            total = sum_of_statuses(world.config, statuses)
            assert (space.total_bytes, space.inodes) == (total.usable_total_bytes, 17)
            assert space.available_bytes == min(space.free_bytes, total.available_bytes)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def check(world: SimShardVolumes, statuses: dict[ShardId, VolumeStatus]) -> None:
    first, second = statuses.values()
    assert first.live_bytes and second.live_bytes, "everything went to one shard: the test tests nothing"
    total = sum_of_statuses(world.config, statuses)
    assert (total.inodes, total.file_bytes, total.live_bytes) == (17, 160_000, 160_000)
    assert total.raw_used_bytes == first.raw_used_bytes + second.raw_used_bytes
    assert min(first.utilisation, second.utilisation) <= total.utilisation <= max(first.utilisation, second.utilisation)
    written = total.write_amplification
    assert written.user_bytes == 160_000
    assert written.total >= 3 + 1.5
    assert total.usable_total_bytes == first.usable_total_bytes == second.usable_total_bytes
    assert total.usable_free_bytes <= total.usable_total_bytes
    assert [disk.state for disk in total.disks] == ["up"] * 6
    assert sum_of_statuses(world.config, {ShardId(0): first}) is first
    _check_worst(world, first, second)


def _check_worst(world: SimShardVolumes, first: VolumeStatus, second: VolumeStatus) -> None:
    """A disk is as the shard says that sees the worst of it, with the shard's reason."""
    failed = msgspec.structs.replace(second.disks[2], state="failed", reason="three errors", errors=3)
    other = msgspec.structs.replace(second, disks=[*second.disks[:2], failed, *second.disks[3:]], warnings=["odd"])
    total = sum_of_statuses(world.config, {ShardId(0): first, ShardId(1): other})
    assert [disk.state for disk in total.disks] == ["up", "up", "failed", "up", "up", "up"]
    assert (total.disks[2].reason, total.disks[2].errors) == ("shard 1: three errors", 3)
    assert "shard 1: odd" in total.warnings


def test_spaces_add_up_as_statuses_do() -> None:
    async def main() -> None:
        world = SimShardVolumes(2)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            spaces = [await volume.space() for volume in world.volumes.values()]
            assert sum_of_spaces(spaces[:1]) == spaces[0]
            both = sum_of_spaces(spaces)
            assert min(space.available_bytes for space in spaces) <= both.available_bytes <= both.free_bytes
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())
