"""Snapshots of the metadata: HOME may be lost at any time, and up to m disks with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio

from siltstone.config import VolumeConfig
from siltstone.core.fsck import fsck
from siltstone.core.snapshots import SEGMENTS_MAX
from siltstone.core.volume import Volume
from siltstone.engine.format.snapshot import SnapshotKind
from siltstone.engine.pool import DiskRole
from siltstone.errors import Corrupt, LogDamaged, NotFound
from siltstone.limits import KIB
from siltstone.types import ROOT_INO, DiskId, Ino
from sim.clock import autojump
from sim.disk import SimDisk
from sim.volume import SimVolume, small_config

FILE_BYTES = 3000


class Files:
    """Files of a volume and what is in them."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.inos: dict[bytes, Ino] = {}
        self._random = Random(1)

    async def write(self, volume: Volume, count: int) -> None:
        """Some more."""
        for _ in range(count):
            name = b"file%d" % len(self.inos)
            self.inos[name] = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
            await self.overwrite(volume, name)
        await volume.sync()

    async def overwrite(self, volume: Volume, name: bytes) -> None:
        """Other bytes for one."""
        self.data[name] = self._random.randbytes(FILE_BYTES)
        await volume.write(self.inos[name], 0, self.data[name])

    async def churn(self, volume: Volume, rounds: int) -> None:
        """Write, overwrite and delete; each round ends in an increment."""
        for _ in range(rounds):
            await self.write(volume, 15)
            for name in self._random.sample(sorted(self.data), len(self.data) // 4):
                await self.overwrite(volume, name)
            for name in self._random.sample(sorted(self.data), 3):
                await volume.unlink(ROOT_INO, name)
                del self.data[name]
            await volume.settle()
            await trio.sleep(2)

    async def compare(self, volume: Volume) -> None:
        """All of them are there, and nothing else."""
        entries = await volume.list_directory(ROOT_INO, after=None, limit=10_000)
        assert {entry.name for entry in entries} == self.data.keys()
        for name, data in self.data.items():
            assert await volume.read(self.inos[name], 0, 2 * FILE_BYTES) == data
        assert await fsck(volume, deep=True) == []


def run(body: Callable[[SimVolume], Awaitable[None]], config: VolumeConfig | None = None, seed: int = 0) -> None:
    """Run a test on a volume that was made."""

    async def main() -> None:
        world = SimVolume(config or small_config(), seed=seed)
        await world.create()
        with trio.fail_after(100_000):
            await body(world)

    trio.run(main, clock=autojump())


async def import_and_compare(world: SimVolume, files: Files) -> None:
    """HOME is lost; everything is there again."""
    restored = await world.lose_home()
    async with world.opened() as volume:
        assert volume.ledger.store.last_lsn >= restored.end
        await files.compare(volume)


def fulls(world: SimVolume) -> dict[str, list[int]]:
    """Full snapshots, oldest first, and the disks that they are on."""
    found: dict[str, list[int]] = {}
    for disk in world.disks:
        for name in disk.names:
            if name.startswith("snapshot/full-"):
                found.setdefault(name, []).append(disk.disk_id)
    return dict(sorted(found.items()))


def test_a_young_volume_comes_back_from_its_log_alone() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.write(volume, 5)
            assert not volume.snapshots.files.snapshots
        await import_and_compare(world, files)

    run(body)


def test_a_volume_comes_back_from_increments_and_full_snapshots_with_two_disks_gone() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 8)
            status = volume.status().snapshots
            assert status.taken >= 2 and status.taken_increments >= 8 and not status.is_degraded
            assert status.newest_copies == 3
            assert volume.ledger.log.segments()[0].start >= status.older_lsn > 0, "the log was let go"
            await files.write(volume, 3)  # and this is in the log only
        for index in (1, 4):
            world.disks[index].disappear()
        await import_and_compare(world, files)

    run(body)


@pytest.mark.parametrize("seed", range(6))
def test_home_is_lost_in_a_crash_at_any_time(seed: int) -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 3)
        world.strike_after(40 + 29 * seed, lambda disk, operation, name: world.power_off())
        try:
            async with world.opened() as volume:
                await volume.settle()
                await volume.snapshots.take()
                await trio.sleep(600)
        except BaseException:
            assert world.is_off
        assert world.is_off
        world.after_crash() if seed % 2 else world.after_kill()
        await import_and_compare(world, files)

    run(body, seed=seed)


def test_a_rotten_newest_snapshot_is_passed_over_and_nothing_is_lost() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 8)
            await files.write(volume, 3)
        *_, older, newest = fulls(world)
        for index in fulls(world)[newest]:
            world.disks[index].rot(newest, 2000, 3)
        restored = await world.lose_home()
        assert restored.full is not None and str(restored.full.name) == older
        assert len(world.damaged) == 1
        async with world.opened() as volume:
            await volume.scrub()
            await trio.sleep(60)
            await files.compare(volume)
            assert newest not in fulls(world), "another one was taken in its place"
            assert len(fulls(world)) == 2

    run(body)


def test_a_snapshot_is_read_if_each_of_its_frames_is_sound_somewhere() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 8)
        *_, newest = fulls(world)
        for place, index in enumerate(fulls(world)[newest]):
            end = len(world.disks[index].contents(newest))
            world.disks[index].rot(newest, (0, 70, end - 5)[place], 1)
        restored = await world.lose_home()
        assert restored.full is not None and str(restored.full.name) == newest
        async with world.opened() as volume:
            await files.compare(volume)
        copies = [world.disks[index].contents(newest) for index in fulls(world)[newest]]
        assert len(set(copies)) == 1, "and mended"

    run(body)


def test_an_increment_that_rots_everywhere_is_named_and_nothing_is_made_up() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 3)
        for disk in world.disks:
            for name in disk.names:
                if name.startswith("snapshot/"):
                    disk.rot(name, 100, 1000)
        with pytest.raises((Corrupt, LogDamaged), match="snapshot/incr-"):
            await world.lose_home()

    run(body)


def test_scrubbing_mends_copies_and_replaces_what_is_rotten_everywhere() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 8)
            *_, older, newest = fulls(world)
            world.disks[fulls(world)[older][0]].rot(older, 1500, 1)
            for index in fulls(world)[newest]:
                world.disks[index].rot(newest, 2000, 3)
            report = await volume.scrub()
            assert sum(disk.mended_log_bytes for disk in report.disks) > 0
            assert report.lost_count == 1 and newest in report.lost[0]
            await trio.sleep(60)
            assert newest not in fulls(world)
            assert (await volume.scrub()).is_sound
        await import_and_compare(world, files)

    run(body)


def test_copies_of_a_lost_disk_are_made_on_others_and_a_drained_one_hands_them_on() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 8)
            lost, *_ = fulls(world)[list(fulls(world))[-1]]
            world.disks[lost].disappear()
            await trio.sleep(30)
            assert not volume.status().snapshots.is_degraded
            world.disks[lost].return_()
            await trio.sleep(30)
            assert {len(disks) for disks in fulls(world).values()} == {3}, "copies too many are gone"
            spare = world.make_disk()
            world.set_role(spare.disk_id, DiskRole.NEW.value)
            await world.publish(volume)
            volume.ledger.pool.add(spare)
            volume.ledger.pool.set_role(DiskId(0), DiskRole.DRAINING)
            await volume.mover.drain(DiskId(0))
            assert not [name for name in world.disks[0].names if name.startswith("snapshot/")]

    run(body)


def test_a_full_snapshot_is_taken_while_everything_changes() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.snapshots.take)
                await files.churn(volume, 3)
            newest = max(
                (item for item in volume.snapshots.files.snapshots if item.name.kind is SnapshotKind.FULL),
                key=lambda item: item.name.start,
            )
            assert newest.name.end >= newest.name.start
        await import_and_compare(world, files)

    run(body)


def test_a_disk_that_fails_while_a_snapshot_is_written_is_left_out() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 2)
            world.disks[0].fail("write", "snapshot/")
            for _ in range(4):
                await volume.snapshots.take()
            await trio.sleep(30)
            assert not volume.status().snapshots.is_degraded
            await files.compare(volume)
        await import_and_compare(world, files)

    run(body)


@pytest.mark.parametrize("operation", ["create", "write", "flush", "rename"])
def test_two_disks_that_go_while_an_increment_is_written_leave_enough_for_another_attempt(operation: str) -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.write(volume, 15)
            gone: list[SimDisk] = []

            def go(disk: SimDisk, what: str, name: str) -> None:
                if what == operation and name.startswith("snapshot/") and disk not in gone and len(gone) < 2:
                    gone.append(disk)
                    disk.disappear()

            for disk in world.disks:
                disk.on_operation = go
            await volume.settle()
            assert len(gone) == 2
            assert volume.snapshots.covered_lsn
            for disk in gone:
                disk.return_()
            await trio.sleep(5)
            await files.compare(volume)
        await import_and_compare(world, files)

    run(body)


def test_a_volume_from_before_there_were_snapshots_gets_two() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 2)
        for disk in world.disks:
            for name in [name for name in disk.names if name.startswith("snapshot/")]:
                disk.lose_file(name)
        async with world.opened() as volume:
            await trio.sleep(30)
            assert len(fulls(world)) == 2
            await files.churn(volume, 1)
        await import_and_compare(world, files)

    run(body)


def test_a_snapshot_that_was_not_finished_is_taken_away() -> None:
    async def body(world: SimVolume) -> None:
        async with world.opened() as volume:
            await Files().write(volume, 3)
            await world.disks[2].create("snapshot/new-00000001", 64 * KIB)
        async with world.opened():
            assert "snapshot/new-00000001" not in world.disks[2].names

    run(body)


def test_one_that_was_dropped_and_comes_back_after_a_crash_is_dropped_again() -> None:
    """Perhaps on one disk only, and rotten there: nobody needs it, and copies of it are not made for ever."""

    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            volume.snapshots.feed_window = 0.0
            await files.churn(volume, 3)
            before = {name: disk.contents(name) for disk in world.disks for name in disk.names if "/incr-" in name}
            assert before
            for _ in range(2):
                await files.churn(volume, 1)
                await volume.snapshots.take()
            name = next(name for name in before if not any(name in disk.names for disk in world.disks))
        await world.disks[2].create(name, len(before[name]))
        await world.disks[2].write(name, 0, [bytes(50) + before[name][50:]])
        async with world.opened() as volume:
            volume.snapshots.feed_window = 0.0
            assert await fsck(volume, deep=True) == []
            await trio.sleep(3)
            assert not any(name in disk.names for disk in world.disks)
            assert len(volume.snapshots.plan().bases) == 2
            await files.compare(volume)

    run(body)


def test_a_full_snapshot_that_rots_while_another_is_taken_keeps_the_one_before_it() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 3)
            await volume.snapshots.take()
            await files.churn(volume, 1)
            await volume.snapshots.take()
            await files.churn(volume, 1)
        async with world.opened() as volume:
            names = sorted(fulls(world))
            for disk in world.disks:
                if names[-1] in disk.names:
                    disk.rot(names[-1], 700, 20)
            await volume.snapshots.take()
            assert names[0] in fulls(world), "two newer ones must be whole before it goes"
            await trio.sleep(40)
            assert len(volume.snapshots.plan().bases) == 2
            await files.compare(volume)

    run(body)


def test_names_that_were_removed_do_not_come_back() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.churn(volume, 4)
            gone = sorted(files.data)[:5]
            for name in gone:
                await volume.unlink(ROOT_INO, name)
                del files.data[name]
            await volume.sync()
        await world.lose_home()
        async with world.opened() as volume:
            for name in gone:
                with pytest.raises(NotFound):
                    await volume.lookup(ROOT_INO, name)
            await files.compare(volume)

    run(body)


def test_where_the_log_has_a_gap_a_snapshot_that_ends_before_it_does_not_count() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.write(volume, 1)  # its bytes keep the first segment
            for number in range(SEGMENTS_MAX + 2):
                name = b"dir%d" % number
                await volume.mkdir(ROOT_INO, name, mode=0o755, uid=0, gid=0)
                await volume.sync()
                await volume.ledger.log.seal()
            await trio.sleep(5)
            log, snapshots = volume.ledger.log, volume.snapshots
            assert log.segments()[0].start < log.unbroken_start, "there is no gap"
            assert snapshots.covered_lsn >= log.unbroken_start
            (increment,) = snapshots.files.snapshots
            for index in increment.disks:
                world.disks[index].rot(str(increment.name), 100, 3)
            await volume.scrub()
            assert not snapshots.plan().bases
            await trio.sleep(30)
            assert snapshots.covered_lsn >= log.unbroken_start
        await world.lose_home()
        async with world.opened() as volume:
            assert len(await volume.list_directory(ROOT_INO, after=None, limit=100)) == SEGMENTS_MAX + 3
            assert await fsck(volume, deep=True) == []

    run(body)
