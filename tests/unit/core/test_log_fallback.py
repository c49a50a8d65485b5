"""With too few disks for a stripe large writes ride in the log; when disks return, everything settles at full width."""

from __future__ import annotations

import random

import msgspec
import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.errors import TooFewDisks
from siltstone.limits import KIB, MIB
from siltstone.meta import space
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.volume import SimVolume, small_config

DATA = random.Random(5).randbytes(2 * MIB)


def test_large_writes_ride_in_the_log_and_settle_at_full_width_when_disks_return() -> None:
    async def main() -> None:
        # 3+2 on five disks, of which two stay: stripes need three.
        world = SimVolume(small_config(disk_count=5, data_units=3, parity_units=2))
        await world.create()
        async with world.opened() as volume:
            for index in (0, 1, 2):
                world.disks[index].disappear()
            await trio.sleep(3)
            files = {}
            for index, size in enumerate((2 * MIB, 300 * KIB, 999_999)):
                ino = (await volume.create(ROOT_INO, b"%d" % index, mode=0o100644, uid=0, gid=0)).ino
                await volume.write(ino, 0, DATA[index : index + size])
                await volume.fsync(ino)
                files[ino] = DATA[index : index + size]
            for ino, data in files.items():
                assert await volume.read(ino, 0, len(data)) == data
            assert not list(space.stripes(volume.ledger.store))
            await trio.sleep(10)
            assert any("settling waits for disks" in warning for warning in volume.status().warnings)
            assert not volume.settler.last_error
            for index in (0, 1, 2):
                world.disks[index].return_()
            await trio.sleep(30)
            assert volume.status().log_live_bytes == 0
            assert {slab.data_units for _, slab in space.slabs(volume.ledger.store)} == {3}
            assert not volume.status().warnings
            for ino, data in files.items():
                assert await volume.read(ino, 0, len(data)) == data
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())


def test_what_was_logged_for_want_of_disks_survives_a_crash() -> None:
    async def main() -> None:
        world = SimVolume(small_config(disk_count=5, data_units=3, parity_units=2))
        await world.create()
        with trio.CancelScope() as life:
            async with world.opened() as volume:
                for index in (0, 1, 2):
                    world.disks[index].disappear()
                await trio.sleep(3)
                ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
                await volume.write(ino, 0, DATA)
                await volume.fsync(ino)
                world.power_off()
                life.cancel()
                await trio.lowlevel.checkpoint()
        world.after_crash()
        async with world.opened() as volume:
            assert await volume.read(ino, 0, len(DATA)) == DATA
            await volume.settle()
            assert await volume.read(ino, 0, len(DATA)) == DATA
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())


def test_writers_are_told_when_the_log_is_full_and_cannot_settle_and_go_on_when_disks_return() -> None:
    async def main() -> None:
        config = small_config(disk_count=5, data_units=3, parity_units=2)
        world = SimVolume(msgspec.structs.replace(config, log_bytes_high=4 * MIB))
        await world.create()
        async with world.opened() as volume:
            for index in (0, 1, 2):
                world.disks[index].disappear()
            await trio.sleep(3)
            ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
            written = 0
            with pytest.raises(TooFewDisks, match="the log is full"), trio.fail_after(600):
                while True:
                    await volume.write(ino, written, DATA[: 256 * KIB])
                    await volume.fsync(ino)
                    written += 256 * KIB
                    await trio.sleep(0.2)
            assert 4 * MIB <= written <= 7 * MIB, "it refuses within seconds"
            await volume.unlink(ROOT_INO, b"file")
            for index in (0, 1, 2):
                world.disks[index].return_()
            await trio.sleep(30)
            ino = (await volume.create(ROOT_INO, b"again", mode=0o100644, uid=0, gid=0)).ino
            await volume.write(ino, 0, DATA)
            await volume.fsync(ino)
            assert await volume.read(ino, 0, len(DATA)) == DATA
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())
