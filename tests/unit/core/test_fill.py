"""Filling holes in a whole volume: nothing is lost at any instant of it, nobody sees it, and it takes no rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.fill_plan import Candidate, fill_bytes_min, plan_fills
from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.engine.format.segment import SEGMENT_HEADER_BYTES, segment_name
from siltstone.engine.stripe.layout import chunk_name, unit_offset
from siltstone.limits import KIB, RESERVE_CHUNKS, ROW_BYTES, SLOT_BYTES
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId, Ino, StripeId, slab_of
from sim.clock import autojump
from sim.disk import SimDisk
from sim.programs import IS_LONG
from sim.volume import SimVolume, small_config

FILES = 24
SIZE = 4000

STRIDE = 1 if IS_LONG else 9
"""How many operations lie between two crashes."""

Contents = dict[Ino, bytes]


def data(number: int, size: int = SIZE) -> bytes:
    return bytes((number * 7 + at * 31) % 251 for at in range(97)) * (size // 97 + 1)


async def write(volume: Volume, contents: Contents, number: int, size: int = SIZE) -> Ino:
    ino = (await volume.create(ROOT_INO, b"%d" % number, mode=0o100644, uid=0, gid=0)).ino
    contents[ino] = data(number, size)[:size]
    await volume.write(ino, 0, contents[ino])
    await volume.fsync(ino)
    return ino


def make_tight(world: SimVolume) -> None:
    """Leave little room above the reserve."""
    reserve = RESERVE_CHUNKS * max(world.config.chunk_bytes, world.config.segment_bytes)
    for disk in world.disks:
        disk.capacity_bytes = disk.used_bytes + reserve + 64 * KIB


async def wear(world: SimVolume, volume: Volume, contents: Contents) -> None:
    """Stripes of four files with two of them dead, a tight pool, and new files in the log."""
    for number in range(FILES):
        await write(volume, contents, number)
    await volume.settle()
    for number in range(0, FILES, 2):
        contents.pop((await volume.lookup(ROOT_INO, b"%d" % number)).ino)
        await volume.unlink(ROOT_INO, b"%d" % number)
    await volume.sync()
    big = (await volume.create(ROOT_INO, b"big", mode=0o100644, uid=0, gid=0)).ino
    await volume.write(big, 0, bytes(512 * KIB))
    await volume.sync()
    make_tight(world)
    await volume.ledger.pool.probe()
    for number in range(100, 100 + FILES // 2):
        await write(volume, contents, number)


async def compare(volume: Volume, contents: Contents) -> None:
    for ino, expected in contents.items():
        assert await volume.read(ino, 0, 4 * SIZE) == expected


Body = Callable[[SimVolume, Volume], Awaitable[None]]


def with_volume(body: Body, seed: int = 0) -> None:
    async def main() -> None:
        world = SimVolume(small_config(), seed=seed, capacity_bytes=16 << 20)
        await world.create()
        async with world.opened() as volume:
            await body(world, volume)

    trio.run(main, clock=autojump())


def test_what_settles_on_a_full_pool_goes_to_dead_places() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        stripes = len(list(space.stripes(volume.ledger.store)))
        used = volume.ledger.stripes.space().raw_used_bytes
        await volume.settle()
        status = volume.status()
        assert status.log_live_bytes == 0
        assert status.filled_bytes == FILES // 2 * SIZE
        assert len(list(space.stripes(volume.ledger.store))) == stripes
        assert volume.ledger.stripes.space().raw_used_bytes == used, "old parity came back"
        assert list(space.fills(volume.ledger.store)) == []
        await compare(volume, contents)
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def test_a_little_that_is_dead_in_every_stripe_is_used_before_anything_is_relocated() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        for number in range(FILES):
            await write(volume, contents, number, 14_800)
            await write(volume, contents, 1000 + number, 1400)
        await volume.settle()
        for number in range(FILES):
            contents.pop((await volume.lookup(ROOT_INO, b"%d" % (1000 + number))).ino)
            await volume.unlink(ROOT_INO, b"%d" % (1000 + number))
        await volume.sync()
        big = (await volume.create(ROOT_INO, b"big", mode=0o100644, uid=0, gid=0)).ino
        await volume.write(big, 0, bytes(512 * KIB))
        await volume.sync()
        for number in range(FILES // 2):
            await write(volume, contents, 2000 + number, 1300)
        make_tight(world)
        await volume.ledger.pool.probe()
        assert volume.ledger.is_cramped
        await volume.settle()
        assert volume.status().filled_bytes == FILES // 2 * 1300
        assert volume.relocator.relocated_bytes == 0
        await compare(volume, contents)
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def test_with_room_holes_are_left_alone() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        for disk in world.disks:
            disk.capacity_bytes = world.capacity_bytes
        await volume.ledger.pool.probe()
        await volume.settle()
        assert volume.status().filled_bytes == 0
        await compare(volume, contents)

    with_volume(body)


def test_readers_during_a_fill_see_the_same_bytes_all_the_time() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        busy = True
        rounds = 0

        async def read_all_the_time() -> None:
            nonlocal rounds
            while busy:
                await compare(volume, contents)
                rounds += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all_the_time)
            await volume.settle()
            busy = False
        assert rounds > 1 and volume.status().filled_bytes
        await compare(volume, contents)

    with_volume(body)


def test_files_that_change_while_they_are_filled_keep_their_changes() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        victims = sorted(contents)[-8:]

        async def change() -> None:
            for turn, ino in enumerate(victims):
                await volume.write(ino, 100, b"new")
                changed = bytearray(contents[ino])
                changed[100:103] = b"new"
                contents[ino] = bytes(changed)
                await volume.flush(ino)
                if turn % 2:
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            nursery.start_soon(change)
        await compare(volume, contents)
        await volume.settle()
        await compare(volume, contents)
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def test_a_stripe_that_dies_while_its_new_parity_is_written_is_left_dead() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        slow = [disk.slow(2.0, "write", "slab/", count=1) for disk in world.disks]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            await trio.sleep(1.5)
            assert any(fault.fired for fault in slow) and not volume.status().filled_stripes
            for number in range(1, FILES, 2):
                contents.pop((await volume.lookup(ROOT_INO, b"%d" % number)).ino)
                await volume.unlink(ROOT_INO, b"%d" % number)
        await compare(volume, contents)
        assert list(space.fills(volume.ledger.store)) == []
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def crash_in_a_fill(operations: int, lost: tuple[int, ...], *, is_kill: bool) -> bool:
    """Lose power so many operations into settling, then ``lost`` disks; False if settling had fewer operations."""
    was_hit = False

    async def main() -> None:
        nonlocal was_hit
        world = SimVolume(small_config(), seed=operations, capacity_bytes=16 << 20)
        contents: Contents = {}
        await world.create()
        life = trio.CancelScope()

        def go_off(_disk: SimDisk, _operation: str, _name: str) -> None:
            nonlocal was_hit
            was_hit = True
            world.power_off()

        world.on_power_lost = life.cancel
        try:
            with life:
                async with world.opened() as volume:
                    await wear(world, volume, contents)
                    world.strike_after(operations, go_off)
                    await volume.settle()
                    world.disarm()
        except BaseException:
            if not was_hit:
                raise
        if not was_hit:
            return
        world.on_power_lost = lambda: None
        if is_kill:
            world.after_kill()
        else:
            world.after_crash()
        for index in lost:
            world.disks[index].disappear()
        async with world.opened() as volume:
            await compare(volume, contents)
        for index in lost:
            world.disks[index].return_()
        async with world.opened() as volume:
            await trio.sleep(5)
            # Another m disks may go, though those that were away have missed what was redone.
            assert volume.status().pending_fills == 0
            for gone in combinations(range(6), 2):
                if set(gone) & set(lost) or operations % 4:
                    continue
                for index in gone:
                    world.disks[index].disappear()
                await volume.ledger.pool.probe()
                await compare(volume, contents)
                for index in gone:
                    world.disks[index].return_()
                await volume.ledger.pool.probe()
            for disk in world.disks:
                disk.capacity_bytes = world.capacity_bytes
            await trio.sleep(5)
            assert list(space.fills(volume.ledger.store)) == []
            await volume.settle()
            await compare(volume, contents)
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())
    return was_hit


@pytest.mark.parametrize("is_kill", [False, True])
def test_a_crash_at_any_operation_of_a_fill_and_two_lost_disks_leave_every_byte(is_kill: bool) -> None:
    pairs = list(combinations(range(6), 2))
    operations = int(is_kill)
    while crash_in_a_fill(operations, pairs[operations * 7 % len(pairs)], is_kill=is_kill):
        operations += STRIDE
    assert operations > 40


def lose_one_in_a_fill(world: SimVolume) -> None:
    """The first disk that is to take filled bytes vanishes."""
    original = world.disks[0].on_operation
    is_gone = False

    def watch(disk: SimDisk, operation: str, name: str) -> None:
        nonlocal is_gone
        if original is not None:
            original(disk, operation, name)
        if operation == "write" and name.startswith("slab/") and name[-1] in "0123" and not is_gone:
            is_gone = True
            disk.disappear()

    for disk in world.disks:
        disk.on_operation = watch


def missing(volume: Volume) -> DiskId:
    (disk_id,) = [disk.disk_id for disk in volume.ledger.pool.status() if not volume.ledger.pool.is_up(disk.disk_id)]
    return disk_id


def test_a_disk_that_fails_in_a_fill_and_returns_holds_the_new_bytes() -> None:
    """Otherwise two more disks could be one too many."""

    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        lose_one_in_a_fill(world)
        await volume.settle()
        assert volume.status().pending_fills
        await compare(volume, contents)
        world.disks[missing(volume)].return_()
        await trio.sleep(5)
        assert volume.status().pending_fills == 0
        assert await fsck(volume, deep=True) == []
        await compare(volume, contents)

    with_volume(body)


def test_the_log_keeps_what_a_fill_still_needs() -> None:
    async def main() -> None:
        world = SimVolume(small_config(), capacity_bytes=16 << 20)
        await world.create()
        contents: Contents = {}
        async with world.opened() as volume:
            await wear(world, volume, contents)
            lose_one_in_a_fill(world)
            await volume.settle()
            lost = missing(volume)
            assert volume.status().pending_fills
        world.disks[lost].return_()
        async with world.opened() as volume:
            assert volume.settler.fills().redone
            assert volume.status().pending_fills == 0
            assert await fsck(volume, deep=True) == []
            await compare(volume, contents)

    trio.run(main, clock=autojump())


def test_bytes_are_not_in_place_before_older_reads_have_ended() -> None:
    """They would not match the checksums that those reads know, and be "repaired"."""

    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        stripes = volume.ledger.stripes
        known = {key: volume.ledger.stripe_info(key) for key, _ in space.stripes(volume.ledger.store)}
        era = volume.ledger.fence.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            await trio.sleep(3)
            assert volume.status().filled_bytes, "the batch is committed"
            for key, (slab, stripe, checksums) in known.items():
                await stripes.read(slab, key, stripe, checksums, 0, stripe.data_bytes)
            await compare(volume, contents)
            assert stripes.statistics().degraded_reads == 0
            volume.ledger.fence.leave(era)
        assert volume.status().pending_fills == 0
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def test_a_settle_that_is_cut_short_leaves_what_is_to_be_waited_for() -> None:
    """A client that hangs up cancels it: the rest is done later, and not earlier than it may be."""

    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        stripes = volume.ledger.stripes
        used = stripes.space().raw_used_bytes
        known = {key: volume.ledger.stripe_info(key) for key, _ in space.stripes(volume.ledger.store)}
        era = volume.ledger.fence.enter()
        with trio.move_on_after(3):
            await volume.settle()
        # A scrub would mend by the new record what must still have the old bytes.
        slab_ids = {slab_of(key) for key, _ in space.fills(volume.ledger.store)}
        assert slab_ids and not any(map(volume.ledger.try_claim, slab_ids))
        await trio.sleep(3)
        assert volume.status().pending_fills, "the batch is committed"
        for key, (slab, stripe, checksums) in known.items():
            await stripes.read(slab, key, stripe, checksums, 0, stripe.data_bytes)
        assert stripes.statistics().degraded_reads == 0, "an old read is in flight, and finds what it looked up"
        volume.ledger.fence.leave(era)
        await trio.sleep(3)
        assert volume.status().pending_fills == 0
        for slab_id in slab_ids:
            assert volume.ledger.try_claim(slab_id)
            volume.ledger.release_claim(slab_id)
        await volume.settle()
        assert volume.ledger.stripes.space().raw_used_bytes == used, "old parity came back"
        await compare(volume, contents)
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def slow_log_from_the_first_fill_on(world: SimVolume) -> None:
    """What is committed from now on takes ten seconds to be durable."""
    original = world.disks[0].on_operation
    is_slow = False

    def watch(disk: SimDisk, operation: str, name: str) -> None:
        nonlocal is_slow
        if original is not None:
            original(disk, operation, name)
        if operation == "write" and name.startswith("slab/") and name[-1] in "45" and not is_slow:
            is_slow = True
            for other in world.disks:
                other.slow(10.0, "write", "log/")

    for disk in world.disks:
        disk.on_operation = watch


@pytest.mark.parametrize("lost", [(0, 1), (2, 5), (3, 4)])
def test_a_settle_that_is_cut_short_before_its_batch_is_durable_survives_a_crash(lost: tuple[int, int]) -> None:
    async def main() -> None:
        world = SimVolume(small_config(), capacity_bytes=16 << 20)
        await world.create()
        contents: Contents = {}
        with trio.CancelScope() as life:
            async with world.opened() as volume:
                await wear(world, volume, contents)
                slow_log_from_the_first_fill_on(world)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(volume.settle)
                    for _ in range(6000):
                        await trio.sleep(0.01)
                        if volume.status().pending_fills:
                            break
                    nursery.cancel_scope.cancel()
                assert volume.status().pending_fills
                await trio.sleep(3)
                world.on_power_lost = life.cancel
                world.power_off()
                await trio.sleep_forever()
        world.on_power_lost = lambda: None
        world.after_crash()
        for disk in world.disks:
            disk.heal()
        for index in lost:
            world.disks[index].disappear()
        async with world.opened() as volume:
            await compare(volume, contents)

    trio.run(main, clock=autojump())


def test_a_read_mends_nothing_in_a_stripe_that_is_being_filled() -> None:
    """It would bring the new bytes to the disk with what it mends, before their batch is durable."""

    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        stripes = volume.ledger.stripes
        era = volume.ledger.fence.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            await trio.sleep(3)
            stripe_id = next(iter(space.fills(volume.ledger.store)))[0]
            info = volume.ledger.stripe_info(stripe_id)
            for unit in (1, 2):  # one of them is being filled, the other lives
                place = unit_offset(info.slab, stripe_id, info.stripe, unit)
                world.disks[info.slab.disks[unit]].rot(chunk_name(slab_of(stripe_id), unit), place, 4096)
            await compare(volume, contents)
            assert stripes.statistics().degraded_reads and not stripes.statistics().repaired_blocks
            volume.ledger.fence.leave(era)
        await compare(volume, contents)

    with_volume(body)


def test_a_scrub_mends_a_stripe_whose_fill_waits_for_a_disk() -> None:
    """It would be reported as sound unseen, and the fill brings only its own bytes."""

    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        lose_one_in_a_fill(world)
        await volume.settle()
        stripe_id = next(iter(space.fills(volume.ledger.store)))[0]
        info = volume.ledger.stripe_info(stripe_id)
        unit = next(unit for unit, disk_id in enumerate(info.slab.disks) if volume.ledger.pool.is_up(disk_id))
        place, name = unit_offset(info.slab, stripe_id, info.stripe, unit), chunk_name(slab_of(stripe_id), unit)
        disk = world.disks[info.slab.disks[unit]]
        disk.rot(name, place, 100)
        (finding,) = await fsck(volume, deep=True)
        assert finding.invariant == "I10" and finding.subject == f"stripe {stripe_id:x}"
        report = await volume.scrub()
        assert [found.disk_id for found in report.disks if found.mended_blocks] == [disk.disk_id] and not report.lost
        assert await fsck(volume, deep=True) == []
        world.disks[missing(volume)].return_()
        await trio.sleep(5)
        assert volume.status().pending_fills == 0
        assert await fsck(volume, deep=True) == []
        await compare(volume, contents)

    with_volume(body)


def test_a_chunk_file_that_is_made_again_under_a_fill_gets_all_its_units() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        lose_one_in_a_fill(world)
        await volume.settle()
        stripe_id = next(iter(space.fills(volume.ledger.store)))[0]
        slab = volume.ledger.stripe_info(stripe_id).slab
        unit = next(unit for unit, disk_id in enumerate(slab.disks) if volume.ledger.pool.is_up(disk_id))
        await world.disks[slab.disks[unit]].delete(chunk_name(slab_of(stripe_id), unit))
        assert not (await volume.scrub()).lost
        world.disks[missing(volume)].return_()
        await trio.sleep(5)
        assert volume.status().pending_fills == 0
        assert await fsck(volume, deep=True) == []
        await compare(volume, contents)

    with_volume(body)


def test_a_disk_that_returns_to_pending_fills_is_found_sound_before_they_are_done() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        lose_one_in_a_fill(world)
        await volume.settle()
        pool, lost = volume.ledger.pool, missing(volume)
        world.disks[lost].return_()
        await pool.probe()
        assert pool.is_up(lost)
        assert await fsck(volume, deep=True) == []
        assert (await volume.scrub()).is_sound
        assert volume.status().pending_fills and not pool.status_of(lost).mismatches
        await trio.sleep(3)
        assert volume.status().pending_fills == 0
        assert await fsck(volume, deep=True) == []
        await compare(volume, contents)

    with_volume(body)


def test_payload_of_a_fill_that_is_in_no_replica_of_the_log_is_named() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        contents: Contents = {}
        await wear(world, volume, contents)
        lose_one_in_a_fill(world)
        await volume.settle()
        log = volume.ledger.log
        stripe_id, record = next(iter(space.fills(volume.ledger.store)))
        (_, extent), *_ = record.pieces
        segment = next(segment for segment in log.segments() if segment.start <= extent.address < segment.end)
        for disk_id in segment.disks:
            world.disks[disk_id].rot(
                segment_name(segment.start, segment.epoch), SEGMENT_HEADER_BYTES + extent.address - segment.start, 9
            )
        findings = await fsck(volume, deep=True)
        assert [(finding.invariant, finding.subject) for finding in findings] == [("I10", f"stripe {stripe_id:x}")]
        report = await volume.scrub()
        assert report.lost_count == 1 and report.lost[0].startswith(f"stripe {stripe_id:x}:")
        world.disks[missing(volume)].return_()
        await trio.sleep(5)
        assert await fsck(volume, deep=True) == []
        await compare(volume, contents)

    with_volume(body)


dead_ranges = st.lists(st.integers(0, 32), min_size=2, max_size=8, unique=True).map(
    lambda cuts: [(a * SLOT_BYTES, b * SLOT_BYTES) for a, b in zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False)]
)


@given(
    st.lists(st.integers(1, 4 * ROW_BYTES - 1), max_size=30),
    st.lists(dead_ranges, max_size=8),
    st.integers(1, 8),
)
def test_planned_fills_lie_in_dead_places_apart_and_are_worth_the_parity(
    sizes: list[int], dead: list[list[tuple[int, int]]], stripes_max: int
) -> None:
    candidates = {StripeId(index): Candidate(StripeId(index), ROW_BYTES, ranges) for index, ranges in enumerate(dead)}
    fills = plan_fills(sizes, iter(candidates.values()), stripes_max=stripes_max)
    assert len(fills) <= stripes_max
    assert len({fill.stripe_id for fill in fills}) == len(fills)
    covered: dict[int, list[tuple[int, int]]] = {}
    for fill in fills:
        end = 0
        for part in sorted(fill.parts, key=lambda part: part.position):
            assert part.position % SLOT_BYTES == 0 and part.position >= end and part.length > 0
            end = part.position + part.length
            assert any(low <= part.position and end <= high for low, high in candidates[fill.stripe_id].dead)
            covered.setdefault(part.run, []).append((part.start, part.start + part.length))
    for run, parts in covered.items():
        ends = [0, *(end for _, end in sorted(parts))]
        assert [start for start, _ in sorted(parts)] == ends[:-1] and ends[-1] == sizes[run], "a run is placed whole"


def test_a_run_that_fits_nowhere_whole_is_split_over_places() -> None:
    places = [(0, 6 * KIB), (8 * KIB, 14 * KIB)]
    (fill,) = plan_fills([10 * KIB], [Candidate(StripeId(7), ROW_BYTES, places)], stripes_max=4)
    assert [(part.run, part.start, part.length, part.position) for part in fill.parts] == [
        (0, 0, 6 * KIB, 0),
        (0, 6 * KIB, 4 * KIB, 8 * KIB),
    ]


def test_a_run_that_finds_places_for_a_part_only_is_left_out() -> None:
    assert plan_fills([20 * KIB], [Candidate(StripeId(7), ROW_BYTES, [(0, 12 * KIB)])], stripes_max=4) == []


def test_a_place_that_would_hold_too_little_for_its_parity_is_left_alone() -> None:
    hole = Candidate(StripeId(7), ROW_BYTES, [(0, 12 * KIB)])
    for is_cramped in (False, True):
        enough = fill_bytes_min(ROW_BYTES, is_cramped=is_cramped)
        assert plan_fills([enough - 1], [hole], stripes_max=4, is_cramped=is_cramped) == []
        assert len(plan_fills([enough], [hole], stripes_max=4, is_cramped=is_cramped)) == 1


def test_where_rows_would_have_to_be_made_small_places_are_filled_as_well() -> None:
    hole = Candidate(StripeId(7), ROW_BYTES, [(0, 1536)])
    assert plan_fills([1500], [hole], stripes_max=4) == []
    assert len(plan_fills([1500], [hole], stripes_max=4, is_cramped=True)) == 1
