"""Dirty bytes beside everything else that happens to their file: none is lost, none stays for ever, nobody waits for
ever."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from random import Random

import msgspec
import trio
import trio.testing

from siltstone.core.fsck import fsck
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace
from siltstone.limits import KIB, MIB
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config

Body = Callable[[SimVolume, Volume], Awaitable[None]]

RUN = Random(1).randbytes(300 * KIB)
"""Long enough for a stripe of its own when it is flushed, too short to be sent before."""


def with_volume(body: Body) -> None:
    """Run ``body`` with a fresh volume in simulation, whose stripes are longer than a RUN."""

    async def main() -> None:
        world = SimVolume(msgspec.structs.replace(small_config(), chunk_bytes=1 * MIB, dirty_bytes_max=8 * MIB))
        await world.create()
        async with world.opened() as volume:
            await body(world, volume)

    trio.run(main, clock=autojump())


async def make_file(volume: Volume, name: bytes = b"f") -> Ino:
    """An empty file."""
    return (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino


def test_many_tiny_writes_fit_the_frames_of_the_log() -> None:
    async def body(_: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        for index in range(30_000):
            await volume.write(ino, index * 2, b"x")
        await volume.fsync(ino)
        assert await volume.read(ino, 0, 60_000) == b"x\0" * 29_999 + b"x"

    with_volume(body)


def test_a_write_survives_the_flush_of_what_was_there_before_it() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        for disk in world.disks:
            disk.slow(0.01, "write", "slab/")
        for number in range(20):
            ino = await make_file(volume, b"%d" % number)
            await volume.write(ino, 0, RUN)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.flush, ino)
                await trio.testing.wait_all_tasks_blocked()
                # The stripe is on its way. While changes are held back a second flush waits, then a write.
                volume.ledger.hold_changes(True)
                nursery.start_soon(volume.flush, ino)
                await trio.testing.wait_all_tasks_blocked()
                await trio.sleep(1)
                assert ino not in volume.write_back.files
                nursery.start_soon(volume.write, ino, 0, b"new")
                await trio.testing.wait_all_tasks_blocked()
                volume.ledger.hold_changes(False)
            assert await volume.read(ino, 0, 3) == b"new"

    with_volume(body)


def test_a_check_that_begins_during_a_flush_ends_and_so_does_the_flush() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        for disk in world.disks:
            disk.slow(0.05, "write", "slab/")
        # More stripes than may be on their way at a time, and a rest that goes through the log.
        for index in range(9):
            await volume.write(ino, index * MIB, RUN)
        await volume.write(ino, 10 * MIB, b"rest")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.fsync, ino)
                await trio.testing.wait_all_tasks_blocked()
                assert await fsck(volume) == []
        assert not volume.write_back.dirty_bytes

    with_volume(body)


def test_a_check_that_begins_during_a_long_truncate_ends_and_so_does_the_truncate() -> None:
    async def body(_: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        for index in range(2000):
            await volume.write(ino, index * 10, b"x")
        await volume.flush(ino)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.set_attributes, ino, SetAttributes(size=0))
                await trio.lowlevel.checkpoint()
                assert await fsck(volume) == []
        assert (await volume.attributes(ino)).size == 0

    with_volume(body)


def test_flushes_that_are_broken_off_leave_the_way_to_the_disks_free() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        for disk in world.disks:
            disk.slow(100, "write", "slab/")
        for _ in range(8):
            await volume.write(ino, 0, RUN)
            with trio.move_on_after(0.01):
                await volume.fsync(ino)
        for disk in world.disks:
            disk.heal()
        await trio.sleep(200)
        assert not volume.write_back._slots.borrowed_tokens
        await volume.fsync(ino)

    with_volume(body)


def test_nothing_of_a_purged_file_stays_dirty_when_the_pool_is_full() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        for disk in world.disks:
            disk.slow(1, "space")
            disk.fail_full("create", "slab/", count=None)
        await volume.write(ino, 0, RUN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.flush, ino)
            await trio.testing.wait_all_tasks_blocked()
            assert volume.write_back.files[ino].in_flight
            await volume.unlink(ROOT_INO, b"f")
        await trio.sleep(10)
        assert not volume.write_back.dirty_bytes
        await volume.sync()

    with_volume(body)


def test_an_error_that_is_not_fetched_keeps_nothing_from_becoming_durable() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        for disk in world.disks:
            disk.fail_full("create", "slab/", count=None)
        await volume.write(ino, 0, RUN)
        await trio.sleep(1)
        await volume.set_attributes(ino, SetAttributes(size=1000))
        await trio.sleep(2)
        assert not volume.write_back.dirty_bytes, "what is left is small enough for the log"
        with contextlib.suppress(NoSpace):
            await volume.fsync(ino)

    with_volume(body)


def test_an_exchange_commits_the_bytes_of_both_files_first() -> None:
    async def body(_: SimVolume, volume: Volume) -> None:
        one, other = await make_file(volume, b"a"), await make_file(volume, b"b")
        await volume.write(one, 0, b"1")
        await volume.write(other, 0, b"2")
        await volume.rename(ROOT_INO, b"a", ROOT_INO, b"b", exchange=True)
        assert not volume.write_back.dirty_bytes

    with_volume(body)


def test_data_that_cannot_be_written_shows_in_the_status() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        ino = await make_file(volume)
        faults = [disk.fail_full("create", "slab/", count=None) for disk in world.disks]
        await volume.write(ino, 0, RUN)
        await trio.sleep(2)
        assert any("could not be written" in warning for warning in volume.status().warnings)
        for disk, fault in zip(world.disks, faults, strict=True):
            disk.faults.remove(fault)
        await trio.sleep(2)
        assert volume.status().warnings == []
        with contextlib.suppress(NoSpace):
            await volume.fsync(ino)
        assert await volume.read(ino, 0, len(RUN)) == RUN

    with_volume(body)


def test_a_change_that_was_waiting_when_changes_were_held_back_is_held_back_too() -> None:
    async def body(_: SimVolume, volume: Volume) -> None:
        ledger = volume.ledger
        ledger.hold_writers(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_file, volume)
            await trio.testing.wait_all_tasks_blocked()
            ledger.hold_changes(True)
            commits = ledger.store.commit_count
            ledger.hold_writers(False)
            await trio.testing.wait_all_tasks_blocked()
            assert ledger.store.commit_count == commits
            ledger.hold_changes(False)
        assert ledger.store.commit_count == commits + 1

    with_volume(body)
