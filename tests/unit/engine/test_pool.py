"""The pool: who is up, who is chosen, who is condemned and who comes back."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.pool import (
    ERRORS_MAX,
    NEXT_HEALTH,
    PROBATION_PROBES,
    DiskEvent,
    DiskRole,
    DiskState,
    Health,
)
from siltstone.errors import DiskError, DiskFull, DiskMissing, FileMissing
from siltstone.types import DiskId
from sim.clock import SimClock, autojump
from sim.pool import SimPool, make_sim_pool

ZERO, ONE = DiskId(0), DiskId(1)


def error(disk_id: DiskId = ZERO) -> DiskError:
    return DiskError(disk_id, "write", "log/a", "EIO")


async def watched_for(sim: SimPool, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await sim.pool.watch(SimClock())


def test_a_disk_of_the_pool_is_handed_out_while_it_is_up() -> None:
    sim = make_sim_pool(2)
    assert sim.pool.disk(ONE) is sim.disks[1]
    assert sim.pool.up() == [0, 1] and sim.pool.is_up(ONE)
    with pytest.raises(DiskMissing, match="not in this pool"):
        sim.pool.disk(DiskId(7))
    assert not sim.pool.is_up(DiskId(7))


def test_a_missing_disk_is_down_at_once_and_up_with_the_next_probe_that_finds_it() -> None:
    async def main() -> None:
        sim = make_sim_pool(3)
        heard: list[tuple[DiskId, bool]] = []
        sim.pool.subscribe(lambda disk_id, is_up: heard.append((disk_id, is_up)))
        sim.disks[1].disappear()
        await watched_for(sim, 0.5)
        assert sim.pool.up() == [0, 2]
        status = sim.pool.status()[1]
        assert status.state is DiskState.MISSING and "away" in status.reason
        with pytest.raises(DiskMissing, match="away"):
            sim.pool.disk(ONE)
        await watched_for(sim, 5)
        assert heard == [(ONE, False)]
        sim.disks[1].return_()
        await watched_for(sim, 0.5)
        assert heard == [(ONE, False), (ONE, True)]
        assert sim.pool.status()[1].reason == ""

    trio.run(main, clock=autojump())


def test_missing_files_and_full_disks_condemn_nobody() -> None:
    sim = make_sim_pool(1)
    for _ in range(10):
        sim.pool.report(FileMissing(ZERO, "read", "a", "no such file"))
        sim.pool.report(DiskFull(ZERO, "write", "a", "full"))
    assert sim.pool.is_up(ZERO) and sim.pool.status()[0].errors == 0


def test_errors_in_a_row_condemn_a_disk_and_probation_brings_it_back() -> None:
    async def main() -> None:
        sim = make_sim_pool(2)
        for number in range(ERRORS_MAX):
            assert sim.pool.is_up(ZERO), number
            sim.pool.report(error())
        assert sim.pool.status()[0].state is DiskState.FAILED
        assert sim.pool.up() == [1]
        fault = sim.disks[0].fail("replace", count=None)
        await watched_for(sim, 3 * PROBATION_PROBES)
        assert fault.fired > PROBATION_PROBES and not sim.pool.is_up(ZERO)
        sim.disks[0].heal()
        await watched_for(sim, PROBATION_PROBES - 2)
        assert not sim.pool.is_up(ZERO)
        await watched_for(sim, 3)
        assert sim.pool.is_up(ZERO)

    trio.run(main, clock=autojump())


def test_reporting_what_the_pool_itself_raised_does_not_shorten_a_probation() -> None:
    async def main() -> None:
        sim = make_sim_pool(1)
        for _ in range(ERRORS_MAX):
            sim.pool.report(error())
        with pytest.raises(DiskMissing) as raised:
            sim.pool.disk(ZERO)
        sim.pool.report(raised.value)
        assert sim.pool.status()[0].state is DiskState.FAILED
        await sim.pool.probe()
        assert not sim.pool.is_up(ZERO)

    trio.run(main, clock=autojump())


def test_a_full_disk_passes_its_probation() -> None:
    async def main() -> None:
        sim = make_sim_pool(1)
        for _ in range(ERRORS_MAX):
            sim.pool.report(error())
        fault = sim.disks[0].fail_full("replace", count=None)
        await watched_for(sim, PROBATION_PROBES + 1)
        assert fault.fired == PROBATION_PROBES and sim.pool.is_up(ZERO)

    trio.run(main, clock=autojump())


def test_rare_errors_between_sound_probes_are_forgiven() -> None:
    async def main() -> None:
        sim = make_sim_pool(1)
        for _ in range(10 * ERRORS_MAX):
            sim.pool.report(error())
            await sim.pool.probe()
        assert sim.pool.is_up(ZERO)
        assert sim.pool.status()[0].errors == 10 * ERRORS_MAX

    trio.run(main, clock=autojump())


def test_a_disk_that_hangs_does_not_hold_up_the_watch_of_others() -> None:
    async def main() -> None:
        sim = make_sim_pool(2)
        fault = sim.disks[0].slow(1000, "probe")
        sim.disks[1].disappear()
        await watched_for(sim, 2)
        assert fault.fired and sim.pool.up() == [0]

    trio.run(main, clock=autojump())


def test_the_emptiest_disks_are_chosen_first() -> None:
    async def main() -> None:
        sim = make_sim_pool(5, capacity_bytes=1024 * 1024)
        for index, disk in enumerate(sim.disks):
            await disk.create("filler", (5 - index) * 64 * 1024)
        await sim.pool.probe()
        assert sim.pool.choose(3) == [4, 3, 2]
        assert sim.pool.choose(3, exclude=(DiskId(4),)) == [3, 2, 1]
        sim.disks[3].disappear()
        await sim.pool.probe()
        assert sim.pool.choose(9) == [4, 2, 1, 0]

    trio.run(main, clock=autojump())


@given(seed=st.integers(0, 10_000), count=st.integers(0, 8))
def test_a_choice_is_of_distinct_disks_that_are_up_and_not_excluded(seed: int, count: int) -> None:
    sim = make_sim_pool(6, seed=seed)
    sim.pool.report(DiskMissing(DiskId(2), "probe", "", "away"))
    chosen = sim.pool.choose(count, exclude={DiskId(5)})
    assert len(chosen) == len(set(chosen)) == min(count, 4)
    assert set(chosen) <= {0, 1, 3, 4}


def test_equal_disks_are_chosen_evenly() -> None:
    sim = make_sim_pool(6)
    counts = [0] * 6
    for _ in range(600):
        for disk_id in sim.pool.choose(3):
            counts[disk_id] += 1
    assert all(200 < count < 400 for count in counts)


def test_every_health_is_left_and_reached_by_some_event() -> None:
    assert {health for health, _ in NEXT_HEALTH} == set(Health) == set(NEXT_HEALTH.values())
    assert {event for _, event in NEXT_HEALTH} == set(DiskEvent)


def test_one_error_makes_a_disk_suspect_and_others_are_chosen_before_it() -> None:
    async def main() -> None:
        sim = make_sim_pool(3)
        sim.pool.report(error(ONE))
        status = sim.pool.status_of(ONE)
        assert status.state is DiskState.SUSPECT and "EIO" in status.reason and status.since_ns > 0
        assert sim.pool.is_up(ONE) and sim.pool.is_placeable(ONE)
        assert sorted(sim.pool.choose(2)) == [0, 2]
        assert sim.pool.choose(3)[-1] == ONE
        await sim.pool.probe()
        assert sim.pool.status_of(ONE).state is DiskState.UP and sim.pool.status_of(ONE).reason == ""

    trio.run(main, clock=autojump())


def test_blocks_that_rot_make_a_disk_suspect_and_never_condemn_it() -> None:
    sim = make_sim_pool(2)
    for _ in range(10 * ERRORS_MAX):
        sim.pool.report_mismatch(ZERO)
    status = sim.pool.status_of(ZERO)
    assert (status.state, status.mismatches) == (DiskState.SUSPECT, 10 * ERRORS_MAX)


def test_a_draining_disk_is_read_and_gets_nothing_new() -> None:
    sim = make_sim_pool(3)
    heard: list[tuple[DiskId, bool]] = []
    sim.pool.subscribe(lambda disk_id, is_up: heard.append((disk_id, is_up)))
    sim.pool.set_role(ONE, DiskRole.DRAINING)
    assert sim.pool.status_of(ONE).state is DiskState.DRAINING
    assert sim.pool.is_up(ONE) and not sim.pool.is_placeable(ONE)
    assert sim.pool.placeable() == [0, 2] and sorted(sim.pool.choose(3)) == [0, 2]
    sim.pool.set_role(ONE, DiskRole.MEMBER)
    assert sim.pool.is_placeable(ONE) and heard == [(ONE, True), (ONE, True)]


def test_a_disk_that_is_declared_lost_is_not_used_though_it_answers() -> None:
    async def main() -> None:
        sim = make_sim_pool(3)
        sim.pool.set_role(ONE, DiskRole.LOST)
        await watched_for(sim, 5)
        status = sim.pool.status_of(ONE)
        assert (status.state, status.reason) == (DiskState.FAILED, "declared lost")
        assert not sim.pool.is_up(ONE) and not sim.pool.is_placeable(ONE)

    trio.run(main, clock=autojump())


def test_disks_come_and_go_while_the_pool_is_watched() -> None:
    async def main() -> None:
        sim, other = make_sim_pool(2), make_sim_pool(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sim.pool.watch, SimClock())
            await trio.sleep(3)
            sim.pool.add(other.disks[2])
            assert sim.pool.choose(1) == [2], "a new disk comes first"
            await trio.sleep(0.5)
            assert sim.pool.status_of(DiskId(2)).space is not None
            assert sim.pool.status_of(DiskId(2)).state is DiskState.NEW
            assert sim.pool.remove(ZERO) is sim.disks[0]
            assert not sim.pool.is_up(ZERO) and sim.pool.up() == [1, 2]
            await trio.sleep(3)
            other.disks[2].disappear()
            await trio.sleep(2)
            assert sim.pool.status_of(DiskId(2)).state is DiskState.MISSING
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


@pytest.mark.parametrize("before", [Health.SOUND, Health.SUSPECT, Health.MISSING])
def test_a_disk_that_hangs_has_failed_whatever_it_was_before_and_must_prove_itself(before: Health) -> None:
    async def main() -> None:
        sim = make_sim_pool(2)
        if before is Health.SUSPECT:
            sim.pool.report(error())
        if before is Health.MISSING:
            sim.disks[0].disappear()
            await sim.pool.probe()
            sim.disks[0].return_()
        errors = sim.pool.status()[0].errors
        hang = sim.disks[0].hang()
        await sim.pool.probe()
        status = sim.pool.status()[0]
        assert status.state is DiskState.FAILED and "no answer to probe for 30 s" in status.reason
        assert status.errors == errors + (before is not Health.MISSING)
        await watched_for(sim, 100)
        assert hang.fired and not sim.pool.is_up(ZERO) and sim.pool.status()[0] == status
        sim.disks[0].release()
        await watched_for(sim, PROBATION_PROBES - 2)
        assert not sim.pool.is_up(ZERO)
        await watched_for(sim, 4)
        assert sim.pool.is_up(ZERO)

    trio.run(main, clock=autojump())
