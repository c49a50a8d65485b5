"""What the simulation found about writers, readers and checkers that meet: each test failed once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace
from siltstone.limits import KIB, MIB
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config

SECONDS_MAX = 600.0


def run(body: Callable[[SimVolume, Volume, Ino], Awaitable[None]]) -> None:
    """``body(world, volume, file)`` on a fresh volume; it must come to its end."""

    async def main() -> None:
        world = SimVolume(small_config(), seed=1)
        await world.create()
        async with world.opened() as volume:
            ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
            with trio.fail_after(SECONDS_MAX):
                await body(world, volume, ino)

    trio.run(main, clock=autojump())


def test_several_writers_of_a_file_that_is_being_flushed_all_get_their_turn() -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino) -> None:
        await volume.write(ino, 0, b"0" * 600 * KIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.fsync, ino)
            await trio.lowlevel.checkpoint()
            for index in range(1, 5):
                nursery.start_soon(volume.write, ino, 600 * KIB + index * 10, str(index).encode() * 10)
        assert await volume.read(ino, 600 * KIB + 10, 40) == b"1" * 10 + b"2" * 10 + b"3" * 10 + b"4" * 10

    run(body)


def test_writers_who_wait_for_memory_are_not_told_that_the_disks_are_full() -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino) -> None:
        assert world.config.dirty_bytes_max == 2 * MIB
        async with trio.open_nursery() as nursery:
            for index in range(6):
                nursery.start_soon(volume.write, ino, index * 3 * MIB, bytes([index + 1]) * (5 * MIB // 2))
        for index in range(6):
            assert await volume.read(ino, index * 3 * MIB, 5 * MIB // 2) == bytes([index + 1]) * (5 * MIB // 2)

    run(body)


@pytest.mark.parametrize("seed", range(8))
def test_a_read_that_meets_an_overwrite_gets_the_old_or_the_new_bytes(seed: int) -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino) -> None:
        size = 4 * 256 * KIB
        await volume.write(ino, 0, b"o" * size)
        await volume.sync()

        async def read() -> None:
            for _ in range(20):
                data = await volume.read(ino, 0, size)
                assert len(data) == size and set(data) <= {*b"on"}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for at in range(0, size, 256 * KIB):
                await volume.write(ino, at, b"n" * (256 * KIB))
                for _ in range(seed):
                    await trio.lowlevel.checkpoint()
            await volume.flush(ino)

    run(body)


def test_what_is_not_durable_yet_is_no_finding() -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino) -> None:
        await volume.write(ino, 0, b"x" * 1000)
        await volume.flush(ino)
        assert await fsck(volume) == []

    run(body)


def test_a_key_that_s3_was_told_is_gone_stays_gone() -> None:
    world = SimVolume(small_config())

    async def main() -> None:
        await world.create()
        with trio.CancelScope() as life:
            world.on_power_lost = life.cancel
            async with world.opened() as volume:
                store = ObjectStore(volume)
                await store.create_bucket("bucket", owner="me")
                bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
                await volume.create(bucket, b"key", mode=0o100644, uid=0, gid=0)
                await volume.sync()
                await volume.unlink(bucket, b"key")
                assert not (await store.delete("bucket", b"key")).was_there
                world.power_off()
                await trio.lowlevel.checkpoint()
        world.after_crash()
        async with world.opened() as volume:
            bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
            assert await volume.list_directory(bucket, after=None, limit=9) == []

    trio.run(main, clock=autojump())


def test_an_object_with_bytes_that_cannot_be_written_can_be_deleted() -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
        await volume.rename(ROOT_INO, b"file", bucket, b"key")
        for disk in world.disks:
            disk.fail_full("create", count=None)
            disk.fail_full("write", "slab/", count=None)
        await volume.write(ino, 0, b"x" * (1 * MIB))
        with pytest.raises(NoSpace):
            await volume.fsync(ino)
        assert (await store.delete("bucket", b"key")).was_there
        assert volume.write_back.dirty_bytes == 0

    run(body)


@pytest.mark.parametrize("phase", [0.0, 0.12, 0.24, 0.36, 0.48])
def test_what_is_written_is_durable_after_the_commit_interval(phase: float) -> None:
    async def commit_now_and_then(volume: Volume) -> None:
        for index in range(100):
            await volume.create(ROOT_INO, b"%d" % index, mode=0o100644, uid=0, gid=0)
            await trio.sleep(0.07)

    async def main(world: SimVolume, seconds: float) -> None:
        await world.create()
        with trio.CancelScope() as life:
            world.on_power_lost = life.cancel
            async with world.opened() as volume, trio.open_nursery() as nursery:
                await trio.sleep(phase)  # where the log's timer stands against the write-back's
                ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
                nursery.start_soon(commit_now_and_then, volume)
                await trio.sleep(seconds)
                await volume.write(ino, 0, b"small")
                await volume.write(ino, 1 * MIB, b"x" * 300 * KIB)
                await trio.sleep(world.config.commit_interval)
                world.power_off()
                await trio.lowlevel.checkpoint()
        world.after_crash()
        async with world.opened() as volume:
            ino = (await volume.lookup(ROOT_INO, b"file")).ino
            assert await volume.read(ino, 0, 5) == b"small"
            assert await volume.read(ino, 1 * MIB, 300 * KIB) == b"x" * 300 * KIB

    for milliseconds in range(5, 500, 60):
        trio.run(main, SimVolume(small_config(), seed=milliseconds), milliseconds / 1000, clock=autojump())
