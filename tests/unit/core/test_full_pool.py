"""A full pool: what is said to be free is free, deletes and restarts go on, and space that comes back is used."""

from __future__ import annotations

import random

import msgspec
import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace, SiltstoneError
from siltstone.limits import KIB, MIB
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config

CAPACITY = 64 * MIB
DATA = bytes(range(251)) * 20_000


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


@pytest.mark.parametrize("last_size", [1 * MIB, 4 * KIB])
def test_statfs_and_refusals_agree_and_a_full_pool_stays_of_use(last_size: int) -> None:
    """What is said to be free when a write is refused, and before the last that was not, is within 1 % of the pool;
    so it is over the whole filling, while segments of the log come and go."""

    async def main() -> None:
        # Segments and chunks are to the disks as they are in life: 1/256.
        config = msgspec.structs.replace(small_config(), segment_bytes=256 * KIB, log_bytes_low=256 * KIB)
        world = SimVolume(config, capacity_bytes=CAPACITY)
        await world.create()
        async with world.opened() as volume:
            promised: list[int] = []
            files: list[bytes] = []
            written = 0
            while True:
                if written % MIB == 0:
                    await trio.sleep(1.5)
                    promised.append(written + (await volume.space()).available_bytes)
                size = last_size if (await volume.space()).available_bytes < 4 * MIB else MIB
                before = await volume.space()
                try:
                    ino = (await volume.create(ROOT_INO, b"%d" % written, mode=0o100644, uid=0, gid=0)).ino
                    files.append(b"%d" % written)
                    await volume.write(ino, 0, DATA[written % 1000 : written % 1000 + size])
                    await volume.fsync(ino)
                except NoSpace:
                    break
                written += size
                last = before
            refused = await volume.space()
            one_percent = refused.total_bytes // 100
            for space in (last, refused):
                assert space.available_bytes <= one_percent + last_size
                assert space.free_bytes <= one_percent + last_size
            assert max(abs(promise - written) for promise in promised) <= one_percent
            # Nothing that makes room, or needs none, is refused.
            assert (await volume.scrub()).is_sound
            await volume.unlink(ROOT_INO, files.pop())
            first = (await volume.lookup(ROOT_INO, files[0])).ino
            await volume.set_attributes(first, SetAttributes(size=1000))
            await volume.settle()
            for _ in range(5):
                await volume.unlink(ROOT_INO, files.pop(1))
            await trio.sleep(5)
            assert (await volume.space()).available_bytes >= 5 * MIB - one_percent
            ino = (await volume.create(ROOT_INO, b"again", mode=0o100644, uid=0, gid=0)).ino
            await volume.write(ino, 0, DATA[: 2 * MIB])
            await volume.fsync(ino)
            assert await volume.read(ino, 0, 2 * MIB) == DATA[: 2 * MIB]
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())


def test_files_of_the_log_that_wait_to_be_used_again_are_room_of_the_log() -> None:
    """The log grows to its mark and is emptied: what users may write is what it was, though its files stay."""

    async def main() -> None:
        sizes = {"segment_bytes": 256 * KIB, "log_bytes_low": 512 * KIB, "log_bytes_high": 2 * MIB}
        world = SimVolume(msgspec.structs.replace(small_config(), **sizes), capacity_bytes=32 * MIB)
        await world.create()
        async with world.opened() as volume:
            await trio.sleep(3)
            before = await volume.space()
            async with volume.settler.paused():
                for name in range(18):
                    ino = (await volume.create(ROOT_INO, b"%d" % name, mode=0o100644, uid=0, gid=0)).ino
                    await volume.write(ino, 0, DATA[: 100 * KIB])
                    await volume.fsync(ino)
                assert len(volume.ledger.log.segments()) > 6
            for name in range(18):
                await volume.unlink(ROOT_INO, b"%d" % name)
            await volume.settle()
            await trio.sleep(3)
            assert len(volume.ledger.log.segments()) == 1
            assert abs((await volume.space()).available_bytes - before.available_bytes) <= before.total_bytes // 100

    trio.run(main, clock=autojump())


def test_small_overwrites_of_a_full_pool_are_taken_in_the_end_though_settling_comes_late() -> None:
    """Settling pauses again and again. Free rows have been given back to the disks by then, and the log would take what
    they need. No file grows, so whatever is refused meanwhile is taken when the log is settled."""

    async def main() -> None:
        # Segments as long as chunks, as in life: the log's files can take all that rows need.
        sizes = {"segment_bytes": 256 * KIB, "log_bytes_low": 512 * KIB, "log_bytes_high": 2 * MIB}
        world = SimVolume(msgspec.structs.replace(small_config(), **sizes), capacity_bytes=5 * MIB)
        await world.create()
        source = random.Random(1)
        async with world.opened() as volume:
            files: list[Ino] = []

            async def write_some() -> int:
                """Write eight files, durably; how many of them the volume took."""
                written = 0
                for ino in source.sample(files, 8):
                    try:
                        await volume.write(ino, 0, DATA[: source.randint(4 * KIB, 16 * KIB)])
                        written += 1
                    except NoSpace:
                        await trio.sleep(0.1)
                await volume.sync()
                await trio.sleep(0.02)
                return written

            try:
                while True:
                    files.append((await volume.create(ROOT_INO, b"%d" % len(files), mode=0o100644, uid=0, gid=0)).ino)
                    await volume.write(files[-1], 0, DATA[: 16 * KIB])
                    await volume.flush(files[-1])
            except NoSpace:
                await volume.sync()
            for _ in range(len(files) // 40):
                files.pop()
                await volume.unlink(ROOT_INO, b"%d" % len(files))
            await volume.settle()
            for _ in range(6):
                async with volume.settler.paused():
                    with trio.move_on_after(3):
                        while True:
                            await write_some()
                with trio.fail_after(120):
                    while await write_some() < 8:
                        pass
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())


def test_small_writes_to_a_pool_with_much_room_wait_for_none_while_large_ones_are_in_memory() -> None:
    """What is dirty and goes to stripes at once takes nothing of what the log may hold."""

    async def main() -> None:
        sizes = {"chunk_bytes": MIB, "segment_bytes": 256 * KIB, "log_bytes_low": 512 * KIB, "log_bytes_high": 2 * MIB}
        world = SimVolume(msgspec.structs.replace(small_config(), **sizes), capacity_bytes=CAPACITY)
        await world.create()
        async with world.opened() as volume:
            async with volume.settler.paused():
                for index in range(20):
                    ino = (await volume.create(ROOT_INO, b"f%d" % index, mode=0o100644, uid=0, gid=0)).ino
                    await volume.write(ino, 0, DATA[: (900 if index % 2 else 20) * KIB])
                    volume.room.measure()
                    assert volume.ledger.waits == 0
                assert volume.ledger.settle_room_bytes > MIB
            await volume.sync()

    trio.run(main, clock=autojump())
