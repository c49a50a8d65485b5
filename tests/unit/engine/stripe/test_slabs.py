"""Room for stripes: nothing leaks, nothing is given twice, and a full or failing disk breaks nothing."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.engine.pool import Pool
from siltstone.engine.stripe.layout import chunk_name
from siltstone.engine.stripe.slab import NEXT_PHASES, SlabPhase
from siltstone.engine.stripe.space import data_chunks_in
from siltstone.engine.stripe.store import Run, StripeStore, Tier
from siltstone.errors import Corrupt, NoSpace
from siltstone.limits import KIB, RESERVE_CHUNKS, RESERVE_CHUNKS_FOR_LOG, ROW_BYTES
from siltstone.types import DiskId, SlabId
from sim.clock import SimClock, autojump
from sim.disk import SimDisk
from sim.fanout import SimFanout
from sim.faults import FaultKind
from sim.randomness import SimRandom
from sim.stripes import StripeRig
from sim.workers import SimWorkers

CHUNK = 128 * KIB


def test_every_phase_of_a_slab_has_its_row_in_the_table() -> None:
    assert set(NEXT_PHASES) == set(SlabPhase)


@given(seed=st.integers(0, 9999), code=st.sampled_from([(2, 1), (4, 2), (1, 1)]))
@settings(max_examples=25, deadline=None)
def test_rows_come_and_go_and_a_reopened_store_agrees(seed: int, code: tuple[int, int]) -> None:
    async def main() -> None:
        rig = StripeRig(*code, sum(code) + 1, chunk_bytes=CHUNK, seed=seed)
        for _ in range(40):
            if rig.live and rig.random.random() < 0.45:
                rig.release(rig.random.choice(sorted(rig.live)))
            else:
                await rig.write(rig.random.randrange(1, CHUNK))
        await rig.check_all(ranges=1)
        now, then = rig.store.space(), rig.reopened().space()
        assert (now.raw_free_bytes, now.data_free_bytes) == (then.raw_free_bytes, then.data_free_bytes)
        assert now.raw_used_bytes == rig.live_raw_bytes()
        for stripe_id in list(rig.live):
            rig.release(stripe_id)
        assert rig.store.space().raw_free_bytes == rig.store.space().raw_bytes

    trio.run(main)


@pytest.mark.parametrize("use_reserve", [False, True])
def test_a_full_pool_refuses_before_the_reserve_and_allocates_nothing(use_reserve: bool) -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        count = 0
        with pytest.raises(NoSpace, match="delete something or add disks"):
            while True:
                await rig.write(CHUNK, use_reserve=use_reserve)
                count += 1
        kept = RESERVE_CHUNKS_FOR_LOG if use_reserve else RESERVE_CHUNKS
        assert rig.store.space().slabs == 10 - kept
        for disk in rig.disks:
            assert (await disk.space()).free_bytes == kept * CHUNK
        free = rig.store.space().raw_free_bytes
        with pytest.raises(NoSpace):
            await rig.write(CHUNK, use_reserve=use_reserve)
        assert rig.store.space().raw_free_bytes == free
        await rig.check_all(ranges=1)
        for stripe_id in list(rig.live):
            rig.release(stripe_id)
        for _ in range(count):
            await rig.write(CHUNK)

    trio.run(main)


def test_a_pool_with_one_full_disk_goes_on_narrower() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=CHUNK, capacity_bytes=40 * CHUNK)
        await rig.disks[2].create("other", 37 * CHUNK)
        written = await rig.write(CHUNK)
        assert written.slab.data_units == 3
        assert 2 not in written.slab.disks
        await rig.check_all()

    trio.run(main)


def test_room_for_use_is_what_can_be_written() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=CHUNK, capacity_bytes=20 * CHUNK)
        await rig.pool.probe()
        promised = rig.store.space().usable_free_bytes
        assert rig.store.space().usable_total_bytes == 20 * CHUNK * 4
        assert promised == (20 - RESERVE_CHUNKS) * CHUNK * 4
        written = 0
        with pytest.raises(NoSpace):
            while True:
                await rig.write(CHUNK)
                written += CHUNK
        assert written == promised
        await rig.pool.probe()
        assert rig.store.space().usable_free_bytes == 0
        for stripe_id in sorted(rig.live)[::2]:
            rig.release(stripe_id)
        assert rig.store.space().usable_free_bytes == written // 2
        await rig.store.punch_released()
        await rig.pool.probe()
        assert rig.store.space().usable_free_bytes == written // 2, "punched rows count once"

    trio.run(main)


@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.FULL, FaultKind.LOST, FaultKind.MISDIRECTED, None])
def test_whichever_operation_of_a_write_fails_the_stripe_is_durable(kind: FaultKind | None) -> None:
    async def run(number: int) -> bool:
        """Let one operation fail; whether it came to that."""
        rig = StripeRig(2, 1, 4, chunk_bytes=CHUNK, seed=number)
        await rig.write(20_000)
        rig.release(min(rig.live))
        await rig.write(CHUNK)
        rig.fail_operation(number, kind)
        await rig.write(90_000)
        await rig.write(90_000)
        failed = rig.has_failed
        assert rig.store.space().raw_used_bytes == rig.live_raw_bytes()
        away = [disk for disk in rig.disks if not rig.pool.is_up(disk.disk_id)]
        rig.crash(number)
        for disk in away:
            disk.disappear()
        await rig.check_all(ranges=1)
        await rig.store.collect_strays()
        for disk in rig.disks:
            if disk not in away:
                assert {entry.name for entry in await disk.list("slab/")} == rig.chunk_names(disk.disk_id)
        return failed

    number = 1
    while trio.run(run, number):
        number += 1
        assert number < 500
    assert number > (2 if kind in (FaultKind.LOST, FaultKind.MISDIRECTED) else 16), "the faults did strike"


def test_a_slab_that_cannot_be_made_whole_leaves_no_files() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 4, chunk_bytes=CHUNK)
        rig.disks[2].fail_full("create", "slab/")
        rig.disks[3].fail("create", "slab/")
        for _ in range(8):
            await rig.write(CHUNK)
        assert rig.disks[2].faults[0].fired and rig.disks[3].faults[0].fired
        for disk in rig.disks:
            assert set(disk.names) == rig.chunk_names(disk.disk_id)

    trio.run(main)


def test_a_slab_that_failed_a_write_is_tried_last_and_trusted_again_when_it_takes_one() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=5 * CHUNK)
        first = await rig.write(1000)
        rig.disks[0].fail("write", chunk_name(first.slab_id, first.slab.disks.index(DiskId(0))))
        second = await rig.write(1000)
        assert second.slab_id != first.slab_id
        assert rig.store.space().suspect_slabs == 1
        third = await rig.write(CHUNK // 2)
        assert third.slab_id == second.slab_id
        while rig.store.space().suspect_slabs:
            last = await rig.write_runs([CHUNK // 2])
        assert last[-1].slab_id == first.slab_id, "when nothing else has room"
        await rig.check_all()

    trio.run(main)


@pytest.mark.parametrize(
    ("chunks", "data_chunks"),
    [([5] * 6, 20), ([5, 5, 5, 0, 0, 0], 5), ([9, 9, 0, 0, 0, 0], 0), ([3, 2, 1, 1, 1, 1], 4), ([2] * 9, 12), ([], 0)],
)
def test_room_on_too_few_disks_is_not_counted(chunks: list[int], data_chunks: int) -> None:
    assert data_chunks_in(chunks, 4, 2) == data_chunks


def test_disks_on_one_device_share_its_room() -> None:
    async def main() -> None:
        capacity = 20 * CHUNK
        disks = [SimDisk(DiskId(index), capacity_bytes=capacity, device=7) for index in range(3)]
        pool = Pool(disks, SimFanout(), SimRandom(0), SimClock())
        store = StripeStore(pool, data_units=2, parity_units=1, chunk_bytes=CHUNK, workers=SimWorkers())
        await pool.probe()
        assert store.space().usable_total_bytes == capacity * 2 // 3
        wide, left = divmod(20 - 3 * RESERVE_CHUNKS, 3)
        assert left == 2, "room for a slab of one data unit"
        assert store.space().usable_free_bytes == (wide * 2 + 1) * CHUNK
        await store.write_runs([Run([bytes(1000)], 1000)], tier=Tier.DIRECT)
        await store.write_runs([Run([bytes(CHUNK)], CHUNK)], tier=Tier.DIRECT)
        for disk in disks:  # just too little for two more chunks, the narrowest slab
            disk.capacity_bytes = disk.used_bytes + 3 * RESERVE_CHUNKS * CHUNK + 2 * CHUNK - 1
        with pytest.raises(NoSpace):
            await store.write_runs([Run([bytes(CHUNK)], CHUNK)], tier=Tier.DIRECT)
        for disk in disks:
            disk.capacity_bytes += 1
        await store.write_runs([Run([bytes(CHUNK)], CHUNK)], tier=Tier.DIRECT)

    trio.run(main)


def test_a_write_waits_for_the_slowest_disk_to_tell_its_room_not_for_one_after_the_other() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        for disk in rig.disks:
            disk.slow(1.0, "space")
        await rig.write(CHUNK)
        assert all(fault.fired for disk in rig.disks for fault in disk.faults)
        assert trio.current_time() == pytest.approx(rig.disks[0].faults[0].fired * 1.0)

    trio.run(main, clock=autojump())


def test_a_write_in_which_m_disks_vanish_goes_to_the_others() -> None:
    async def main() -> None:
        rig = StripeRig(4, 2, 6, chunk_bytes=CHUNK)
        first = await rig.write(50_000)
        for disk_id in first.slab.disks[1:3]:
            rig.disks[disk_id].disappear()
        second = await rig.write(50_000)
        assert second.slab.data_units == 2
        assert second.slab_id != first.slab_id
        assert rig.store.statistics().failed_writes == 1
        await rig.check_all()

    trio.run(main)


def test_strays_of_a_crash_are_deleted_and_nothing_else() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        written = await rig.write(50_000)
        for disk in rig.disks:
            await disk.create("slab/0000ffff.1", CHUNK)
            await disk.create("slab/not-ours", 4096)
        moved = chunk_name(written.slab_id, written.slab.disks.index(DiskId(0)))
        await rig.disks[1].create(moved, CHUNK)
        names = [entry.name for entry in await rig.disks[0].list("slab/")]
        store = rig.reopened()
        assert await store.collect_strays() == 4
        assert [entry.name for entry in await rig.disks[0].list("slab/")] == [
            name for name in names if name != "slab/0000ffff.1"
        ]
        await rig.check_all()
        assert await store.collect_strays() == 0

    trio.run(main)


def test_a_written_slab_that_nobody_recorded_is_a_stray_after_reopening() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        run = Run([b"x" * 5000], 5000)
        pieces = await rig.store.write_runs([run, run], tier=Tier.DIRECT)
        assert all(piece.written.new_slab for piece in pieces), "until a commit every batch must carry the record"
        rig.store.note_committed(pieces[0].written)
        assert not (await rig.store.write_runs([run], tier=Tier.DIRECT))[0].written.new_slab
        assert await rig.reopened().collect_strays() == 3

    trio.run(main)


@given(
    seed=st.integers(0, 9999),
    batches=st.lists(
        st.lists(st.one_of(st.integers(1, 16 * KIB), st.integers(1, CHUNK)), min_size=1, max_size=20), max_size=8
    ),
)
@settings(max_examples=25, deadline=None)
def test_runs_of_any_lengths_are_written_together_and_fill_what_is_left_over(
    seed: int, batches: list[list[int]]
) -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=7 * CHUNK, seed=seed)
        for sizes in batches:
            before = rig.store.space().raw_used_bytes
            try:
                await rig.write_runs(sizes)
            except NoSpace:
                assert rig.store.space().raw_used_bytes == before
            for stripe_id in rig.random.sample(sorted(rig.live), len(rig.live) // 3):
                rig.release(stripe_id)
        await rig.check_all()
        assert rig.store.space().raw_used_bytes == rig.live_raw_bytes()

    trio.run(main)


def test_a_long_run_is_cut_where_only_short_runs_of_rows_are_free() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=4 * CHUNK)
        short = await rig.write_runs([2 * ROW_BYTES] * (CHUNK // ROW_BYTES))
        for written in short[::2]:
            rig.release(written.stripe_id)
        pieces = await rig.write_runs([CHUNK])
        assert len(pieces) == CHUNK // (2 * ROW_BYTES)
        assert rig.store.space().data_free_bytes == 0
        with pytest.raises(NoSpace):
            await rig.write_runs([1])
        await rig.check_all()

    trio.run(main)


def test_runs_of_which_a_disk_fails_go_elsewhere_and_leave_nothing() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 4, chunk_bytes=CHUNK, capacity_bytes=20 * CHUNK)
        first = await rig.write_runs([1000] * 4)
        rig.disks[first[0].slab.disks[0]].fail("flush", "slab/")
        second = await rig.write_runs([1000, CHUNK, 20_000, 5])
        assert rig.store.statistics().failed_writes == 1
        assert not {written.slab_id for written in first} & {written.slab_id for written in second}
        await rig.check_all()
        assert rig.store.space().raw_used_bytes == rig.live_raw_bytes()

    trio.run(main)


def test_an_abandoned_write_gives_its_rows_back() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        await rig.write(5000)
        free = rig.store.space().raw_free_bytes
        for piece in await rig.store.write_runs([Run([b"x" * 9000], 9000)], tier=Tier.DIRECT):
            rig.store.abandon(piece.written)
        assert rig.store.space().raw_free_bytes == free

    trio.run(main)


def test_empty_slabs_are_dropped_but_the_one_to_keep() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        for _ in range(12):
            await rig.write(CHUNK)
        kept = max(rig.live)
        for stripe_id in list(rig.live):
            if stripe_id != kept:
                rig.release(stripe_id)
        before = rig.store.space().slabs
        empty = rig.store.take_empty_slabs(keep=1)
        assert len(empty) == before - 2
        assert rig.store.take_empty_slabs(keep=1) == []
        for slab_id in empty:
            del rig.slabs[slab_id]
            await rig.store.drop_slab(slab_id)
        assert rig.store.space().slabs == 2
        for disk in rig.disks:
            assert len(await disk.list("slab/")) == 2
        await rig.check_all()
        for _ in range(6):
            assert SlabId((await rig.write(CHUNK)).slab_id) not in empty

    trio.run(main)


@given(seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_punching_gives_room_back_and_leaves_live_stripes_alone(seed: int) -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, seed=seed)
        for _ in range(20):
            await rig.write(rig.random.randrange(1, CHUNK))
        before = [(await disk.space()).free_bytes for disk in rig.disks]
        released = 0
        for stripe_id in sorted(rig.live)[::2]:
            released += rig.live[stripe_id][0].stripe.unit_bytes * 3
            rig.release(stripe_id)
        assert await rig.store.punch_released() == released
        assert await rig.store.punch_released() == 0
        after = [(await disk.space()).free_bytes for disk in rig.disks]
        assert sum(after) - sum(before) == released
        await rig.check_all(ranges=1)
        for _ in range(10):
            await rig.write(rig.random.randrange(1, CHUNK))
        await rig.check_all(ranges=1)
        rig.store = rig.reopened()
        for _ in range(10):
            await rig.write(rig.random.randrange(1, CHUNK))
        await rig.check_all(ranges=1)

    trio.run(main)


def test_rows_of_many_stripes_are_punched_together_and_only_as_many_as_are_asked_for() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        await rig.write_runs([2 * ROW_BYTES] * 256)
        for stripe_id in sorted(rig.live)[::2]:
            rig.release(stripe_id)
        slabs = rig.store.space().slabs
        assert slabs == 8
        calls = rig.sim.fanout.punches
        assert await rig.store.punch_released(1) == CHUNK * 3 // 2, "one slab"
        assert rig.sim.fanout.punches == calls + 3, "a call for each of its files"
        assert await rig.store.punch_released() == (slabs - 1) * CHUNK * 3 // 2
        assert not rig.store.slabs.puncher.has_idle
        rig.release(max(rig.live))
        calls = rig.sim.fanout.punches
        assert await rig.store.punch_released() == 3 * ROW_BYTES
        assert rig.sim.fanout.punches == calls + 3, "slabs in which nothing came free are not looked at"
        await rig.check_all()

    trio.run(main)


def test_a_write_waits_for_rows_that_are_being_punched() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        with pytest.raises(NoSpace):
            while True:
                await rig.write(CHUNK)
        for stripe_id in list(rig.live)[:2]:
            rig.release(stripe_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.store.punch_released)
            while not rig.store.slabs.puncher.is_punching:
                await trio.lowlevel.checkpoint()
            await rig.write(CHUNK)
        await rig.check_all()

    trio.run(main)


def test_punched_rows_are_not_written_into_the_reserve() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        with pytest.raises(NoSpace):
            while True:
                await rig.write(CHUNK)
        for stripe_id in list(rig.live)[:8]:
            rig.release(stripe_id)
        await rig.store.punch_released()
        for disk in rig.disks:  # something else takes what was given back
            await disk.create("other", (await disk.space()).free_bytes - RESERVE_CHUNKS * CHUNK)
        with pytest.raises(NoSpace):
            await rig.write(CHUNK)
        for disk in rig.disks:
            await disk.delete("other")
        await rig.write(CHUNK)
        await rig.check_all()

    trio.run(main)


def test_a_chunk_file_takes_room_that_is_held_back_only_where_that_is_said() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        slabs, disk = rig.store.slabs, rig.disks[0]
        free = (await disk.space()).free_bytes
        slabs.disk_room.hold_back(free - 4 * CHUNK)
        assert await slabs.disk_room.has_room(disk.disk_id, CHUNK)
        slabs.disk_room.hold_back(free - 3 * CHUNK)
        assert not await slabs.disk_room.has_room(disk.disk_id, CHUNK)
        assert await slabs.disk_room.has_room(disk.disk_id, CHUNK, use_reserve=True)
        slabs.disk_room.hold_back(free - 2 * CHUNK)
        assert not await slabs.disk_room.has_room(disk.disk_id, CHUNK, use_reserve=True)
        assert await slabs.disk_room.has_room(disk.disk_id, CHUNK, use_reserve=True, use_held_back=True)

    trio.run(main)


def test_rows_with_blocks_behind_them_are_found_among_punched_ones_when_the_disks_are_full() -> None:
    """Best fit prefers punched rows here: they are the lower ones of the same length."""

    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        with pytest.raises(NoSpace):
            while True:
                await rig.write(2 * ROW_BYTES)
        stripes = sorted(rig.live)
        for stripe_id in stripes[0:64:4]:
            rig.release(stripe_id)
        await rig.store.punch_released()
        for disk in rig.disks:  # something else takes what was given back
            await disk.create("other", (await disk.space()).free_bytes - RESERVE_CHUNKS * CHUNK)
        for stripe_id in stripes[2:64:4]:
            rig.release(stripe_id)
        for _ in range(16):
            await rig.write(2 * ROW_BYTES)
        with pytest.raises(NoSpace):
            await rig.write(2 * ROW_BYTES)
        await rig.check_all()

    trio.run(main)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("is_punched", [False, True])
def test_rows_found_free_at_open_can_be_written_when_the_pool_is_full(first: int, is_punched: bool) -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK, capacity_bytes=10 * CHUNK)
        with pytest.raises(NoSpace):
            while True:
                await rig.write(CHUNK)
        for stripe_id in sorted(rig.live)[first : first + 4]:
            rig.release(stripe_id)
        if is_punched:
            await rig.store.punch_released()
        rig.store = rig.reopened()
        for _ in range(4):
            await rig.write(CHUNK)
        await rig.check_all()
        for disk in rig.disks:
            assert (await disk.space()).free_bytes >= RESERVE_CHUNKS * CHUNK

    trio.run(main)


def test_records_that_contradict_each_other_are_corrupt() -> None:
    async def main() -> None:
        rig = StripeRig(2, 1, 3, chunk_bytes=CHUNK)
        await rig.write(ROW_BYTES)
        rig.slabs.clear()
        with pytest.raises(Corrupt, match="run fsck"):
            rig.reopened()

    trio.run(main)
