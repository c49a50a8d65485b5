"""Scrubbing finds and mends every kind of damage, says on which disk it was, and finds nothing the second time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siltstone.config import VolumeConfig
from siltstone.core.fsck import fsck
from siltstone.core.scrub_report import ScrubbedDisk, ScrubReport, ScrubStatus
from siltstone.core.types import Progress
from siltstone.core.volume import Volume
from siltstone.engine.format.superblock import SUPERBLOCK_NAME
from siltstone.engine.pool import DiskRole
from siltstone.engine.stripe.layout import chunk_name, unit_offset
from siltstone.errors import Corrupt, SiltstoneError
from siltstone.limits import KIB, MIB
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId, Ino, slab_of
from sim.clock import autojump
from sim.disk import SimDisk
from sim.volume import SimVolume, small_config

BYTES = random.Random(1).randbytes(3 * MIB)


class Made:
    """A volume with large and small files, in stripes and in the log, and their bytes."""

    def __init__(self, world: SimVolume, volume: Volume) -> None:
        self.world = world
        self.volume = volume
        self.files: dict[Ino, bytes] = {}

    async def add(self, name: bytes, size: int) -> Ino:
        """A durable file."""
        start = len(self.files) * 977
        ino = (await self.volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
        self.files[ino] = BYTES[start : start + size]
        await self.volume.write(ino, 0, self.files[ino])
        await self.volume.fsync(ino)
        return ino

    async def compare(self) -> None:
        """Every file reads back."""
        for ino, data in self.files.items():
            assert await self.volume.read(ino, 0, len(data) + 1) == data

    def units(self) -> list[tuple[SimDisk, str, int, int]]:
        """Every unit of every stripe: disk, file, offset, length."""
        store = self.volume.ledger.store
        slabs = dict(space.slabs(store))
        found: list[tuple[SimDisk, str, int, int]] = []
        for stripe_id, stripe in space.stripes(store):
            slab = slabs[slab_of(stripe_id)]
            for unit, disk_id in enumerate(slab.disks):
                offset = unit_offset(slab, stripe_id, stripe, unit)
                name = chunk_name(slab_of(stripe_id), unit)
                found.append((self.world.disks[disk_id], name, offset, stripe.unit_bytes))
        return found


def with_made(body: Callable[[Made], Awaitable[None]], seed: int = 0, config: VolumeConfig | None = None) -> None:
    """Run ``body`` on a volume that holds something everywhere."""

    async def main() -> None:
        world = SimVolume(config or small_config(), seed=seed)
        await world.create()
        async with world.opened() as volume:
            made = Made(world, volume)
            for index in range(3):
                await made.add(b"large%d" % index, 300 * KIB + index * 111_111)
            for index in range(5):
                await made.add(b"settled%d" % index, 9000 + index)
            await volume.settle()
            for index in range(5):
                await made.add(b"logged%d" % index, 9000 + index)
            await body(made)

    trio.run(main, clock=autojump())


async def mended(made: Made) -> ScrubReport:
    """The report of a pass after which everything is well."""
    report = await made.volume.scrub()
    assert report.ended_ns >= report.started_ns > 0
    again = await made.volume.scrub()
    assert again.is_sound, again
    assert await fsck(made.volume, deep=True) == []
    await made.compare()
    return report


def found_on(report: ScrubReport) -> set[int]:
    """The disks on which something was wrong."""
    return {disk.disk_id for disk in report.disks if not disk.is_sound}


def on(report: ScrubReport, disk: SimDisk) -> ScrubbedDisk:
    """What was found on a disk."""
    return next(found for found in report.disks if found.disk_id == disk.disk_id)


def test_a_sound_volume_has_every_unit_and_frame_looked_at_and_nothing_found() -> None:
    async def body(made: Made) -> None:
        seen: list[Progress] = []
        report = await made.volume.scrub(seen.append)
        assert report.is_sound
        assert sum(disk.units for disk in report.disks) == len(made.units())
        assert sum(disk.read_bytes for disk in report.disks) >= sum(size for *_, size in made.units())
        assert seen[-1].done == seen[-1].total
        assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)

    with_made(body)


def test_a_rotten_data_unit_and_a_rotten_parity_unit_are_mended() -> None:
    async def body(made: Made) -> None:
        disk, name, offset, size = made.units()[1]
        parity = made.units()[5]
        disk.rot(name, offset + size - 1)
        parity[0].rot(parity[1], parity[2] + 10, 100)
        report = await mended(made)
        assert found_on(report) == {disk.disk_id, parity[0].disk_id}
        assert on(report, disk).mended_blocks == 1
        assert made.volume.ledger.pool.status()[disk.disk_id].mismatches

    with_made(body)


def test_a_lost_write_and_a_misdirected_write_are_mended() -> None:
    async def body(made: Made) -> None:
        lost, astray = made.world.disks[0].lose_write("slab/"), made.world.disks[1].misdirect_write(16 * KIB, "slab/")
        await made.add(b"struck", 1 * MIB)
        assert lost.fired and astray.fired
        report = await mended(made)
        assert found_on(report) == {0, 1}
        assert on(report, made.world.disks[1]).misplaced_units
        assert not on(report, made.world.disks[0]).misplaced_units

    with_made(body)


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_chunk_file_that_is_gone_or_short_is_made_again(is_cut: bool) -> None:
    async def body(made: Made) -> None:
        disk, name, offset, _ = made.units()[3]
        size = len(disk.contents(name))
        if is_cut:
            disk.cut_file(name, offset + 100)
        else:
            disk.lose_file(name)
        report = await mended(made)
        assert found_on(report) == {disk.disk_id}
        assert on(report, disk).recreated_files == 1
        assert len(disk.contents(name)) == size

    with_made(body)


def test_an_unreadable_sector_is_written_again() -> None:
    async def body(made: Made) -> None:
        disk, name, _, _ = made.units()[2]
        fault = disk.fail("read", name, count=2)  # the piece, the unit; then every block by itself is readable
        report = await made.volume.scrub()
        assert fault.fired == 2
        assert found_on(report) <= {disk.disk_id}
        assert (await made.volume.scrub()).is_sound

    with_made(body)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_rotten_frames_are_mended_from_other_replicas(is_sealed: bool) -> None:
    async def body(made: Made) -> None:
        if is_sealed:
            await made.volume.ledger.log.seal()
        log = made.volume.ledger.log.segments()[-2 if is_sealed else -1]
        for disk_id, offset in zip(log.disks[:2], (5000, 9001), strict=True):
            disk = made.world.disks[disk_id]
            name = next(name for name in disk.names if name.startswith(f"log/{log.start:016x}"))
            disk.rot(name, offset, 300)
        report = await mended(made)
        assert found_on(report) == set(log.disks[:2])
        assert on(report, made.world.disks[log.disks[0]]).mended_log_bytes

    with_made(body)


@pytest.mark.parametrize("offset", [20, 516])
def test_a_rotten_segment_header_is_written_again(offset: int) -> None:
    async def body(made: Made) -> None:
        await made.volume.ledger.log.seal()
        await trio.sleep(5)  # it has moved on to files that were written before
        log = made.volume.ledger.log.segments()[-1]
        disk = made.world.disks[log.disks[0]]
        name = next(name for name in disk.names if name.startswith(f"log/{log.start:016x}"))
        before = disk.contents(name)[:4096]
        disk.rot(name, offset, 16)
        report = await made.volume.scrub()
        assert found_on(report) == {disk.disk_id}
        assert disk.contents(name)[:4096] == before
        assert (await made.volume.scrub()).is_sound

    with_made(body)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_replica_of_the_log_that_is_gone_is_made_again(is_sealed: bool) -> None:
    async def body(made: Made) -> None:
        if is_sealed:
            await made.volume.ledger.log.seal()
        log = made.volume.ledger.log.segments()[-2 if is_sealed else -1]
        disk = made.world.disks[log.disks[0]]
        disk.lose_file(next(name for name in disk.names if name.startswith(f"log/{log.start:016x}")))
        report = await made.volume.scrub()
        assert found_on(report) == {disk.disk_id}
        await trio.sleep(5)
        assert not made.volume.ledger.log.is_degraded
        assert (await made.volume.scrub()).is_sound
        await made.compare()

    with_made(body)


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_superblock_that_is_rotten_or_missing_is_written_again(is_missing: bool) -> None:
    async def body(made: Made) -> None:
        disk = made.world.disks[2]
        if is_missing:
            disk.lose_file(SUPERBLOCK_NAME)
        else:
            disk.rot(SUPERBLOCK_NAME, 30)
        await trio.sleep(3)
        assert not made.volume.ledger.pool.is_up(disk.disk_id)
        report = await made.volume.scrub()
        assert on(report, disk).mended_superblocks == 1
        assert made.volume.ledger.pool.is_up(disk.disk_id)
        await trio.sleep(5)
        await mended(made)

    with_made(body)


def test_disks_may_come_and_go_while_superblocks_are_looked_at() -> None:
    async def body(made: Made) -> None:
        world, volume = made.world, made.volume
        world.set_role(DiskId(6), DiskRole.DRAINING.value)
        volume.ledger.pool.set_role(DiskId(6), DiskRole.DRAINING)
        await volume.mover.drain(DiskId(6))
        for disk in world.disks:
            disk.slow(1.0, "restore")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.scrub)
            await trio.sleep(1.5)
            world.set_role(DiskId(6), None)
            volume.scrubber.forget_superblock(DiskId(6))
            volume.ledger.pool.remove(DiskId(6))
            await trio.sleep(2)
            added = world.make_disk()
            volume.scrubber.expect_superblock(added.disk_id, world.superblock(added.disk_id))
            volume.ledger.pool.add(added)
        await made.compare()

    with_made(body, config=small_config(disk_count=7))


def test_a_superblock_of_another_disk_and_an_empty_directory_are_left_alone() -> None:
    async def body(made: Made) -> None:
        foreign, empty = made.world.disks[2], made.world.disks[3]
        others = made.world.disks[4].contents(SUPERBLOCK_NAME)
        await foreign.replace(SUPERBLOCK_NAME, others)
        empty.wipe()
        await trio.sleep(3)
        report = await made.volume.scrub()
        assert on(report, empty).unmended_superblocks and "another directory" in report.lost[0]
        assert foreign.contents(SUPERBLOCK_NAME) == others
        assert empty.names == ()
        assert not made.volume.ledger.pool.is_up(foreign.disk_id)
        assert not made.volume.ledger.pool.is_up(empty.disk_id)
        await made.compare()

    with_made(body)


def test_a_stripe_damaged_beyond_its_parity_is_named_and_the_others_are_mended() -> None:
    async def body(made: Made) -> None:
        units = made.units()
        for disk, name, offset, _ in units[:3]:
            disk.rot(name, offset)
        other = units[-1]
        other[0].rot(other[1], other[2])
        for report in (await made.volume.scrub(), await made.volume.scrub()):
            assert report.lost_count == 1 and "beyond its parity" in report.lost[0]
            assert sum(disk.unmended_blocks for disk in report.disks) == 3
        assert report.lost[0] in made.volume.status().warnings
        unreadable = 0
        for ino, data in made.files.items():
            try:
                assert await made.volume.read(ino, 0, len(data)) == data
            except Corrupt:
                unreadable += 1
        assert unreadable == 1

    with_made(body)


def test_payload_that_is_in_no_replica_of_the_log_is_named() -> None:
    async def body(made: Made) -> None:
        ino = list(made.files)[-1]
        log = made.volume.ledger.log.segments()[-1]
        for disk_id in log.disks:
            disk = made.world.disks[disk_id]
            name = next(name for name in disk.names if name.startswith(f"log/{log.start:016x}"))
            disk.rot(name, disk.contents(name).find(made.files[ino][-100:]) + 50)
        report = await made.volume.scrub()
        assert report.lost_count == 1 and f"inode {ino}:" in report.lost[0]

    with_made(body)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1000),
    chosen=st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True),
    harms=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**20)), min_size=1, max_size=8),
)
def test_whatever_happens_to_two_disks_is_mended(seed: int, chosen: list[int], harms: list[tuple[int, int]]) -> None:
    async def body(made: Made) -> None:
        bare: set[int] = set()
        for index, (kind, place) in enumerate(harms):
            disk = made.world.disks[chosen[index % len(chosen)]]
            slabs = [name for name in disk.names if name.startswith("slab/")]
            logs = [name for name in disk.names if name.startswith("log/") and "free" not in name]
            if kind == 4:
                # Together with most of its files it would be no disk any more.
                if SUPERBLOCK_NAME in disk.names and disk.disk_id not in bare:
                    disk.lose_file(SUPERBLOCK_NAME)
                continue
            names = logs if kind == 1 else slabs
            if not names:
                continue
            name = names[place % len(names)]
            size = len(disk.contents(name))
            if not size:
                continue
            if kind in (0, 1):
                disk.rot(name, place % size, 1 + place % 999 if place % size + 999 < size else 1)
            elif kind == 2 and SUPERBLOCK_NAME in disk.names:
                bare.add(disk.disk_id)
                disk.lose_file(name)
            elif kind == 3:
                disk.cut_file(name, place % size)
        await trio.sleep(2)
        report = await made.volume.scrub()
        assert not report.lost_count, report.lost
        await trio.sleep(5)
        again = await made.volume.scrub()
        assert again.is_sound, again
        assert await fsck(made.volume, deep=True) == []
        await made.compare()
        assert all(made.volume.ledger.pool.is_up(disk.disk_id) for disk in made.world.disks)

    with_made(body, seed)


def test_writers_and_a_scrub_do_not_disturb_each_other() -> None:
    async def body(made: Made) -> None:
        disk, name, offset, _ = made.units()[0]
        disk.rot(name, offset)
        done = False

        async def write() -> None:
            turn = 0
            names: list[tuple[bytes, Ino]] = []
            while not done:
                turn += 1
                await trio.sleep(0.05)
                ino = await made.add(b"new%d" % turn, 40_000 * (turn % 9 + 1))
                names.append((b"new%d" % turn, ino))
                if len(names) > 12:
                    name, gone = names.pop(turn % 12)
                    del made.files[gone]
                    await made.volume.unlink(ROOT_INO, name)
                if turn % 7 == 0:
                    await made.volume.settle()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(4):
                report = await made.volume.scrub(bytes_per_second=5 * MIB)
                assert not report.lost_count
            done = True
        assert report.is_sound
        await mended(made)

    with_made(body)


def test_a_pass_that_a_crash_broke_off_goes_on_where_it_was() -> None:
    async def main() -> None:
        world = SimVolume(small_config(), seed=3)
        await world.create()
        async with world.opened() as volume:
            made = Made(world, volume)
            for index in range(8):
                await made.add(b"large%d" % index, 1 * MIB)
            late = made.units()[-1]
            late[0].rot(late[1], late[2])
        try:
            async with world.opened() as volume:
                assert volume.scrubber.status().seconds_left is None, "nobody knows how long a pass would take"
                seen: list[ScrubStatus] = []

                async def look() -> None:
                    await trio.sleep(20)
                    seen.append(volume.scrubber.status())

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(look)
                    with trio.move_on_after(40):
                        await volume.scrub(bytes_per_second=256 * KIB)
                (status,) = seen
                assert status.is_running
                left = (status.total_bytes - status.done_bytes) / status.bytes_per_second
                assert status.seconds_left == pytest.approx(left, abs=0.1)
                await volume.sync()
                broken_off = volume.scrubber.status().report
                assert broken_off is not None
                units = sum(disk.units for disk in broken_off.disks)
                assert 0 < units < len(made.units())
                world.power_off()
        except* (SiltstoneError, trio.Cancelled):
            pass
        world.after_crash()
        async with world.opened() as volume:
            made.volume = volume
            report = await volume.scrub()
            total = sum(disk.units for disk in report.disks)
            assert len(made.units()) <= total < len(made.units()) + units
            assert found_on(report) == {late[0].disk_id}
            assert (await volume.scrub()).is_sound
            await made.compare()

    trio.run(main, clock=autojump())


def test_passes_in_the_background_come_when_they_are_due() -> None:
    async def body(made: Made) -> None:
        disk, name, offset, _ = made.units()[0]
        disk.rot(name, offset)
        await trio.sleep(600)
        report = made.volume.scrubber.status().report
        assert report is not None and not report.disks, "the time is counted from the first look"
        await trio.sleep(200)
        report = made.volume.scrubber.status().report
        assert report is not None and found_on(report) == {disk.disk_id}
        await mended(made)

    with_made(body, config=msgspec.structs.replace(small_config(), scrub_interval=600.0))
