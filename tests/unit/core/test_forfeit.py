"""What is lost with a disk is what nobody can read without it: foretold, and then tried."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siltstone.core.forfeit import Forfeit, forfeit_of
from siltstone.core.volume import Volume
from siltstone.engine.log.segment import SegmentStatus
from siltstone.errors import SiltstoneError
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId, Lsn
from sim.clock import autojump
from sim.volume import SimVolume, small_config

SIZES = [5, 3000, 70_000, 300_000, 1_000_000]


def asked(volume: Volume, disk_id: int) -> Forfeit:
    ledger = volume.ledger
    snapshots = volume.snapshots.files.snapshots
    return forfeit_of(DiskId(disk_id), ledger.pool, ledger.stripes.slabs, ledger.log.segments(), snapshots)


async def is_all_readable(volume: Volume, files: dict[int, bytes]) -> bool:
    for ino, data in files.items():
        try:
            if await volume.read(ino, 0, len(data)) != data:  # type: ignore[arg-type]
                return False
        except SiltstoneError:
            return False
    return True


@given(away=st.sets(st.integers(0, 5), max_size=3), disk=st.integers(0, 5), is_settled=st.booleans())
@example(away={1, 2}, disk=0, is_settled=True)
@example(away={0, 1, 2}, disk=0, is_settled=True)
@settings(max_examples=25, deadline=None)
def test_a_disk_without_forfeit_may_go_and_one_with_may_not(away: set[int], disk: int, is_settled: bool) -> None:
    async def main() -> None:
        world = SimVolume(small_config(), seed=3)
        await world.create()
        async with world.opened() as volume:
            files: dict[int, bytes] = {}
            for number, size in enumerate(SIZES):
                ino = (await volume.create(ROOT_INO, b"%d" % number, mode=0o100644, uid=0, gid=0)).ino
                files[ino] = Random(number).randbytes(size)
                await volume.write(ino, 0, files[ino])
            await volume.sync()
            if is_settled:
                await volume.settle()
            holders = {disk_id for _, slab in space.slabs(volume.ledger.store) for disk_id in slab.disks}
            assert holders == set(range(6))
            for index in away:
                world.disks[index].disappear()
            await volume.ledger.pool.probe()
            forfeit = asked(volume, disk)
            world.disks[disk].disappear()
            await volume.ledger.pool.probe()
            is_readable = await is_all_readable(volume, files)
            if forfeit.is_nothing:
                assert is_readable
            if forfeit.stripe_bytes:
                assert not is_readable
                assert set(forfeit.away) == away - {disk}
            assert bool(forfeit.stripe_bytes) == (len(away | {disk}) > 2)
            for index in away | {disk}:
                world.disks[index].return_()
            await trio.sleep(2)

    trio.run(main, clock=autojump())


def test_a_unit_on_its_way_needs_its_old_disk_and_its_new_one() -> None:
    """It is read from the old one until the record of its move is there, and from then on from the new one alone."""

    async def main() -> None:
        world = SimVolume(small_config(disk_count=7), seed=1)
        await world.create()
        async with world.opened() as volume:
            ino = (await volume.create(ROOT_INO, b"f", mode=0o100644, uid=0, gid=0)).ino
            await volume.write(ino, 0, bytes(900_000))
            await volume.settle()
            state = max(volume.ledger.stripes.slabs.open_slabs(), key=lambda state: state.data.used)
            spare = next(disk_id for disk_id in volume.ledger.pool.up() if disk_id not in state.slab.disks)
            for disk_id in state.slab.disks[1:3]:
                world.disks[disk_id].disappear()
            await volume.ledger.pool.probe()
            source = state.slab.disks[0]
            assert asked(volume, source).stripe_bytes and not asked(volume, spare).stripe_bytes
            assert await volume.ledger.stripes.slabs.moves.begin(state.slab_id, 0, source, spare)
            assert asked(volume, source).stripe_bytes and asked(volume, spare).stripe_bytes
            await volume.ledger.stripes.slabs.moves.end(state.slab_id, moved=None)
            assert not asked(volume, spare).stripe_bytes
            for disk_id in state.slab.disks[1:3]:
                world.disks[disk_id].return_()
            await trio.sleep(2)

    trio.run(main, clock=autojump())


@pytest.mark.parametrize(
    ("holders", "away", "lost"), [([0, 1, 2], [1], 0), ([0, 1], [1], 64), ([1, 2], [1], 0), ([0], [], 64)]
)
def test_the_log_needs_one_copy_that_is_up(holders: Sequence[int], away: Sequence[int], lost: int) -> None:
    async def main() -> None:
        world = SimVolume(small_config(), seed=1)
        await world.create()
        async with world.opened() as volume:
            for index in away:
                world.disks[index].disappear()
            await volume.ledger.pool.probe()
            segment = SegmentStatus(Lsn(0), Lsn(64), True, tuple(map(DiskId, holders)), 1)
            pool, slabs = volume.ledger.pool, volume.ledger.stripes.slabs
            assert forfeit_of(DiskId(0), pool, slabs, [segment], []) == Forfeit(
                0, lost, 0, tuple(map(DiskId, away)) if lost else ()
            )
            for index in away:
                world.disks[index].return_()
            await trio.sleep(2)

    trio.run(main, clock=autojump())
