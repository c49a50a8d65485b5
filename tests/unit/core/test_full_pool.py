"""A full pool: what is said to be free is free, deletes and restarts go on, and space that comes back is used."""

from __future__ import annotations

import trio

from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace, SiltstoneError
from siltstone.limits import KIB, MIB
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config


async def fill(volume: Volume, size: int) -> list[Ino]:
    """Files of ``size`` bytes until one is refused; what was written is durable."""
    files: list[Ino] = []
    try:
        while True:
            ino = (await volume.create(ROOT_INO, b"%d" % len(files), mode=0o100644, uid=0, gid=0)).ino
            files.append(ino)
            await volume.write(ino, 0, bytes([len(files) % 251]) * size)
            await volume.fsync(ino)
    except NoSpace:
        return files


def test_a_full_volume_of_one_disk_opens_after_any_number_of_crashes() -> None:
    """Each life leaves a log segment, and a full disk has room for few of them."""

    async def main() -> None:
        world = SimVolume(small_config(disk_count=1, data_units=1, parity_units=0), capacity_bytes=16 * MIB)
        await world.create()
        async with world.opened() as volume:
            files = await fill(volume, 200 * KIB)
        names = len(files)
        for life in range(40):
            try:
                async with world.opened() as volume:
                    if life % 2:
                        names -= 1
                        await volume.unlink(ROOT_INO, b"%d" % names)
                        await volume.sync()
                    world.power_off()
            except* (SiltstoneError, trio.Cancelled):
                assert world.is_off, life
            world.after_crash()
        async with world.opened() as volume:
            await trio.sleep(30)
            ino = (await volume.create(ROOT_INO, b"again", mode=0o100644, uid=0, gid=0)).ino
            await volume.write(ino, 0, b"x" * MIB)
            await volume.sync()
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())
