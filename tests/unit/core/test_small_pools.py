"""Volumes of one, two and three disks: what each promises when a disk goes."""

from __future__ import annotations

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.volume import SimVolume, small_config


@pytest.mark.parametrize(("disk_count", "data_units", "parity_units"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_a_small_pool_keeps_everything_while_it_loses_as_many_disks_as_it_has_parity(
    disk_count: int, data_units: int, parity_units: int
) -> None:
    async def main() -> None:
        config = small_config(disk_count=disk_count, data_units=data_units, parity_units=parity_units)
        world = SimVolume(config)
        await world.create()
        async with world.opened() as volume:
            ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
            await volume.write(ino, 0, b"large" * 100_000)
            await volume.write(ino, 600_000, b"small")
            await volume.sync()
        for index in range(min(parity_units, disk_count - 1)):
            world.disks[index].disappear()
            async with world.opened() as volume:
                assert await volume.read(ino, 0, 500_000) == b"large" * 100_000
                assert await volume.read(ino, 600_000, 10) == b"small"
        for disk in world.disks:
            disk.return_()
        async with world.opened() as volume:
            await trio.sleep(10)
            await volume.settle()
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())
