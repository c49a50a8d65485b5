"""The log as its callers see it: group commit, deadlines, pending reads, failing disks, clean and unclean ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.engine.format.frame import FRAME_HEADER_BYTES, Frame
from siltstone.engine.format.segment import SEGMENT_HEADER_BYTES, parse_segment_header, segment_name
from siltstone.engine.log.log import EARLY_COMMIT_BYTES, Log
from siltstone.engine.log.segment import TRANSITIONS, Segment, SegmentEvent, SegmentState
from siltstone.engine.pace import CREDIT_MAX, HEDGED_SHARE_MAX, PATIENCE_SECONDS_UNKNOWN, STALL_SECONDS
from siltstone.engine.pool import DiskState
from siltstone.errors import AlreadyExists, Corrupt, DiskError, LogDamaged, TooFewDisks, VolumeClosed
from siltstone.limits import KIB, MIB
from siltstone.types import Lsn
from sim.clock import SimClock, autojump
from sim.pool import SimPool, crash_sim_pool, make_sim_pool, reopen_sim_pool
from sim.randomness import SimRandom

UUID = bytes(range(16))
SEGMENT_BYTES = 64 * KIB


async def create(sim: SimPool, *, replicas: int = 3, segment_bytes: int = SEGMENT_BYTES) -> Log:
    return await Log.create(
        sim.pool, SimClock(), volume_uuid=UUID, segment_bytes=segment_bytes, replicas=replicas, commit_interval=1.0
    )


async def recover(
    sim: SimPool, found: list[Frame], *, applied: int = 0, replicas: int = 3, segment_bytes: int = SEGMENT_BYTES
) -> Log:
    return await Log.recover(
        sim.pool,
        SimClock(),
        volume_uuid=UUID,
        segment_bytes=segment_bytes,
        replicas=replicas,
        applied_lsn=Lsn(applied),
        on_frame=found.append,
    )


def run_with_log(
    sim: SimPool, body: Callable[[Log], Awaitable[None]], *, replicas: int = 3, segment_bytes: int = SEGMENT_BYTES
) -> None:
    """Run ``body`` beside a new log's run()."""

    async def main() -> None:
        log = await create(sim, replicas=replicas, segment_bytes=segment_bytes)
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run)
            await body(log)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def crash(sim: SimPool, seed: int = 0) -> SimPool:
    for disk in sim.disks:
        disk.heal()
    return crash_sim_pool(sim, SimRandom(seed))


def bodies_after(sim: SimPool, *, applied: int = 0) -> list[bytes]:
    found: list[Frame] = []

    async def main() -> None:
        await recover(sim, found, applied=applied)

    trio.run(main, clock=autojump())
    return [frame.body for frame in found]


# --- group commit -----------------------------------------------------------------------------------------------------


def test_tasks_that_wait_together_share_a_flush() -> None:
    async def body(log: Log) -> None:
        async def writer() -> None:
            for _ in range(10):
                await log.wait_durable(log.append_nowait(1, [b"p" * 100], b"b"))

        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(writer)
        assert log.statistics().appends == 320
        assert log.statistics().flushes <= 40

    run_with_log(make_sim_pool(3), body)


def test_who_waits_alone_commits_without_the_task_that_commits_for_many() -> None:
    class Steps(trio.abc.Instrument):
        def __init__(self) -> None:
            self.names: set[str] = set()

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.names.add(task.name.rsplit(".")[-1])

    async def body(log: Log) -> None:
        await trio.testing.wait_all_tasks_blocked()  # all have begun
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for _ in range(10):
            end = log.append_nowait(1, [], b"b")
            await log.wait_durable(end)
            assert log.durable_lsn == end
        assert "_commit_when_due" not in steps.names
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(log.wait_durable, log.append_nowait(1, [], b"b"))
                await trio.lowlevel.checkpoint()
        assert "_commit_when_due" in steps.names

    sim = make_sim_pool(3)
    for disk in sim.disks:
        disk.is_in_memory = True
    run_with_log(sim, body)


def test_what_nobody_waits_for_is_durable_within_the_commit_interval() -> None:
    async def body(log: Log) -> None:
        for _ in range(5):
            end = log.append_nowait(1, [], b"un-awaited")
            await trio.sleep(1.0)
            assert log.durable_lsn >= end
        assert log.statistics().flushes <= 6

    run_with_log(make_sim_pool(3), body)


def test_much_pending_memory_is_written_before_anybody_asks() -> None:
    async def body(log: Log) -> None:
        piece = bytes(512 * KIB)
        while log.pending_bytes < EARLY_COMMIT_BYTES:
            log.append_nowait(1, [piece], b"")
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        assert log.pending_bytes < EARLY_COMMIT_BYTES

    run_with_log(make_sim_pool(3), body, segment_bytes=16 * MIB)


def test_the_address_of_the_next_payload_is_known_before_the_append() -> None:
    async def body(log: Log) -> None:
        for number in range(300):
            address = log.next_payload_lsn
            payload = b"%d" % number * 100
            end = log.append_nowait(1, [payload[:7], payload[7:]], b"x" * (number % 50))
            assert log.read_nowait(address, len(payload)) == payload
            assert log.read_nowait(Lsn(address + 3), 9) == payload[3:12]
            if number % 3 == 0:
                await log.wait_durable(end)
                assert log.read_nowait(address, len(payload)) == payload
                assert await log.read(address, len(payload), lambda _: True) == payload
        assert len(log.segments()) > 1

    run_with_log(make_sim_pool(4), body)


def test_a_range_that_is_not_one_payload_is_not_served_from_memory() -> None:
    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        log.append_nowait(1, [b"payload"], b"body")
        assert log.read_nowait(address, 8) is None
        assert log.read_nowait(Lsn(address - 1), 2) is None

    run_with_log(make_sim_pool(3), body)


# --- disks that fail --------------------------------------------------------------------------------------------------


def test_a_failed_write_goes_on_in_another_segment_and_addresses_stay() -> None:
    sim = make_sim_pool(4)

    async def body(log: Log) -> None:
        first = log.append_nowait(1, [b"before"], b"0")
        await log.wait_durable(first)
        fault = sim.disks[log.segments()[0].disks[1]].fail("flush", "log/")
        address = log.next_payload_lsn
        end = log.append_nowait(1, [b"payload"], b"1")
        await log.wait_durable(end)
        assert fault.fired
        assert [segment.start for segment in log.segments()] == [0, first]
        assert await log.read(address, 7, lambda data: data == b"payload") == b"payload"

    run_with_log(sim, body)
    assert bodies_after(crash(sim)) == [b"0", b"1"]


@pytest.mark.parametrize("operation", ["write", "flush", "create", "rename", "delete", "list", "punch"])
def test_no_single_failure_loses_a_frame(operation: str) -> None:
    """The N-th such operation of a disk fails, for N = 0, 1, 2 ... until the run passes untouched."""
    for index in range(1000):
        sim = make_sim_pool(4, seed=index)
        faults = [disk.fail(operation, "log/", skip=index) for disk in sim.disks[:2]]
        bodies: list[bytes] = []

        async def body(log: Log, bodies: list[bytes] = bodies) -> None:
            for number in range(6):
                bodies.append(b"%d" % number)
                await log.wait_durable(log.append_nowait(1, [b"p" * 3000], bodies[-1]))
                if number == 2:
                    await log.seal()
                    await log.heal()
            await trio.sleep(3)
            await log.close()

        try:
            run_with_log(sim, body, segment_bytes=16 * KIB)
        except DiskError:
            assert any(fault.fired for fault in faults)
            assert not bodies, "a log may refuse to be laid, not to go on"
            continue
        assert bodies_after(crash(sim, index)) == bodies
        if not any(fault.fired for fault in faults):
            assert index > 0 or operation in ("delete", "punch")
            return
    raise AssertionError("the sweep did not end")


@pytest.mark.parametrize("operation", ["read", "list", "write", "flush", "rename", "create"])
def test_no_single_failure_keeps_the_log_from_opening(operation: str) -> None:
    for index in range(1000):
        sim = make_sim_pool(4, seed=index)

        async def body(log: Log) -> None:
            for number in range(6):
                await log.wait_durable(log.append_nowait(1, [b"p" * 3000], b"%d" % number))

        run_with_log(sim, body, segment_bytes=16 * KIB)
        sim = crash(sim, index)
        fault = sim.disks[index % 4].fail(operation, "log/", skip=index // 4)
        assert bodies_after(sim) == [b"%d" % number for number in range(6)]
        if not fault.fired and index % 4 == 3:
            return
    raise AssertionError("the sweep did not end")


def test_with_two_of_three_disks_the_log_goes_on_and_says_so() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        await log.wait_durable(log.append_nowait(1, [], b"0"))
        assert not log.is_degraded
        sim.disks[0].disappear()
        await log.wait_durable(log.append_nowait(1, [], b"1"))
        assert log.is_degraded
        assert len(log.segments()[-1].disks) == 2
        sim.disks[0].return_()
        await sim.pool.probe()
        await trio.sleep(3)
        assert not log.is_degraded
        assert all(len(segment.disks) == 3 for segment in log.segments())

    run_with_log(sim, body)
    assert bodies_after(crash(sim)) == [b"0", b"1"]


def test_with_too_few_disks_waiters_wait_until_one_returns() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        for disk in sim.disks[:2]:
            disk.disappear()
        end = log.append_nowait(1, [], b"patient")
        with trio.move_on_after(100):
            await log.wait_durable(end)
        assert log.durable_lsn < end
        assert log.statistics().is_stalled
        assert log.pending_bytes == end
        sim.disks[0].return_()
        await sim.pool.probe()
        await log.wait_durable(end)
        assert not log.statistics().is_stalled

    run_with_log(sim, body)
    assert bodies_after(crash(sim)) == [b"patient"]


def test_a_commit_whose_only_waiter_goes_away_is_still_carried_out() -> None:
    sim = make_sim_pool(3)
    for disk in sim.disks:
        disk.is_in_memory = True

    async def body(log: Log) -> None:
        for disk in sim.disks[:2]:
            disk.disappear()
        end = log.append_nowait(1, [], b"left alone")
        with trio.move_on_after(5):
            await log.wait_durable(end)
        assert log.durable_lsn < end
        sim.disks[0].return_()
        await sim.pool.probe()
        await trio.sleep(0.1)  # less than the commit interval: it had been asked for
        assert log.durable_lsn == end

    run_with_log(sim, body)
    assert bodies_after(crash(sim)) == [b"left alone"]


def test_closing_with_too_few_disks_fails_and_tells_the_waiters() -> None:
    sim = make_sim_pool(3)
    outcomes: list[type[BaseException]] = []

    async def body(log: Log) -> None:
        async def wait(end: Lsn) -> None:
            with pytest.raises(TooFewDisks) as caught:
                await log.wait_durable(end)
            outcomes.append(caught.type)

        async with trio.open_nursery() as nursery:
            for disk in sim.disks[:2]:
                disk.disappear()
            nursery.start_soon(wait, log.append_nowait(1, [], b"lost"))
            await trio.sleep(5)
            with pytest.raises(TooFewDisks), trio.fail_after(10):
                await log.close()
        with pytest.raises(VolumeClosed):
            log.append_nowait(1, [], b"late")

    run_with_log(sim, body)
    assert outcomes == [TooFewDisks]


def test_a_volume_of_one_disk_has_a_log_of_one_copy() -> None:
    sim = make_sim_pool(1)

    async def body(log: Log) -> None:
        await log.wait_durable(log.append_nowait(1, [], b"alone"))
        assert not log.is_degraded

    run_with_log(sim, body, replicas=1)
    found: list[Frame] = []

    async def main() -> None:
        await recover(crash(sim), found, replicas=1)

    trio.run(main, clock=autojump())
    assert [frame.body for frame in found] == [b"alone"]


def test_damaged_payload_is_read_from_another_replica_and_mended() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        (segment,) = log.segments()
        name = segment_name(segment.start, segment.epoch)
        offset = SEGMENT_HEADER_BYTES + address - segment.start
        for disk_id in segment.disks[:2]:
            sim.disks[disk_id].rot(name, offset, 3)
        assert await log.read(address, 7, lambda data: data == b"payload") == b"payload"
        for disk in sim.disks:
            assert disk.contents(name)[offset : offset + 7] == b"payload"
            disk.rot(name, offset, 3)
        with pytest.raises(Corrupt):
            await log.read(address, 7, lambda data: data == b"payload")

    run_with_log(sim, body)


async def timed_read(log: Log, address: Lsn) -> float:
    started = trio.current_time()
    assert await log.read(address, 7, lambda data: data == b"payload") == b"payload"
    return trio.current_time() - started


def test_a_replica_that_is_late_is_read_around_and_not_mended() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        (segment,) = log.segments()
        sim.disks[segment.disks[0]].slow(5.0, "read")
        writes = sim.fanout.writes
        assert await timed_read(log, address) == pytest.approx(PATIENCE_SECONDS_UNKNOWN)
        assert log.statistics().hedged_reads == 1 and sim.fanout.writes == writes
        assert all(status.state is DiskState.UP for status in sim.pool.status())

    run_with_log(sim, body)


def test_a_late_replica_that_comes_before_the_next_is_taken() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        first, *others = log.segments()[0].disks
        sim.disks[first].slow(1.0, "read")
        for disk_id in others:
            sim.disks[disk_id].slow(2.0, "read")
        assert await timed_read(log, address) == pytest.approx(1.0)

    run_with_log(sim, body)


def test_a_replica_that_hangs_is_asked_last_once_that_is_known() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        sim.disks[log.segments()[0].disks[0]].slow(1000.0, "read")
        assert await timed_read(log, address) < STALL_SECONDS
        await trio.sleep(STALL_SECONDS)
        for _ in range(100):
            assert await timed_read(log, address) == 0.0
        assert log.statistics().hedged_reads == 1

    run_with_log(sim, body)


def test_a_log_of_slow_disks_is_not_read_twice_as_often() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        for disk in sim.disks:
            disk.slow(0.5, "read")
        for _ in range(100):
            assert await timed_read(log, address) == pytest.approx(0.5)
        assert log.statistics().hedged_reads <= CREDIT_MAX + 100 * HEDGED_SHARE_MAX

    run_with_log(sim, body)


def test_a_late_replica_is_waited_for_when_the_others_are_damaged() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        (segment,) = log.segments()
        name = segment_name(segment.start, segment.epoch)
        sim.disks[segment.disks[0]].slow(1.0, "read")
        for disk_id in segment.disks[1:]:
            sim.disks[disk_id].rot(name, SEGMENT_HEADER_BYTES + address - segment.start, 3)
        assert await timed_read(log, address) == pytest.approx(1.0)
        for disk in sim.disks:
            assert b"payload" in disk.contents(name)

    run_with_log(sim, body)


# --- segments ---------------------------------------------------------------------------------------------------------


def test_the_table_of_a_segments_life_has_no_way_back() -> None:
    order = [SegmentState.OPEN, SegmentState.SEALING, SegmentState.SEALED, SegmentState.RETIRED]
    for (state, event), following in TRANSITIONS.items():
        assert order.index(following) > order.index(state) or (state is following and event is SegmentEvent.CLOSE)
    segment = Segment(start=Lsn(0), end=Lsn(0), epoch=1, disks=[], segment_bytes=SEGMENT_BYTES)
    with pytest.raises(AssertionError):
        segment.happen(SegmentEvent.RETIRE)


def test_retired_segments_are_recycled_and_their_frames_do_not_come_back() -> None:
    sim = make_sim_pool(3)
    ends: list[Lsn] = []

    async def body(log: Log) -> None:
        for number in range(8):
            # Nearly full segments, so that they are recycled and not trimmed.
            for piece in range(7):
                end = log.append_nowait(1, [b"p" * 8000], b"%d.%d" % (number, piece))
            ends.append(end)
            await log.wait_durable(end)
            await log.seal()
            for segment in log.segments():
                if segment.sealed:
                    await log.retire(segment.start)
        assert len(log.segments()) == 1
        assert all(len(disk.names) <= 4 for disk in sim.disks), "files are used again, not piled up"
        await log.wait_durable(log.append_nowait(1, [], b"last"))

    run_with_log(sim, body)
    assert bodies_after(crash(sim), applied=ends[-1]) == [b"last"]


def test_a_segment_is_not_recycled_while_somebody_reads_it() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        address = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"payload"], b""))
        await log.seal()
        for disk in sim.disks:
            disk.slow(5.0, "read", "log/")
        got: list[bytes] = []

        async def read() -> None:
            got.append(await log.read(address, 7, lambda data: data == b"payload"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            await log.retire(Lsn(0))
            assert got == [b"payload"]
        with pytest.raises(Corrupt):
            await log.read(address, 7, lambda _: True)

    run_with_log(sim, body)


def test_punching_gives_room_back_and_spares_the_rest() -> None:
    sim = make_sim_pool(3)

    async def body(log: Log) -> None:
        first = log.next_payload_lsn
        log.append_nowait(1, [b"a" * 30000], b"")
        second = log.next_payload_lsn
        await log.wait_durable(log.append_nowait(1, [b"b" * 20000], b""))
        await log.seal()
        await log.heal()
        used = sim.disks[0].used_bytes
        await log.punch(first, Lsn(first + 30000))
        assert sim.disks[0].used_bytes <= used - 24 * KIB
        assert await log.read(second, 20000, lambda data: data == b"b" * 20000)

    run_with_log(sim, body)


def test_a_lost_disk_is_made_up_for_and_its_copies_are_strays_when_it_returns() -> None:
    sim = make_sim_pool(4)

    async def body(log: Log) -> None:
        await log.wait_durable(log.append_nowait(1, [b"payload"], b"0"))
        await log.seal()
        victim = log.segments()[0].disks[0]
        name = segment_name(log.segments()[0].start, log.segments()[0].epoch)
        sim.disks[victim].disappear()
        await sim.pool.probe()
        await trio.sleep(3)
        assert victim not in log.segments()[0].disks
        assert len(log.segments()[0].disks) == 3
        sim.disks[victim].return_()
        await sim.pool.probe()
        await trio.sleep(3)
        assert name not in sim.disks[victim].names

    run_with_log(sim, body)
    assert bodies_after(crash(sim)) == [b"0"]


def test_a_log_is_not_laid_over_another() -> None:
    sim = make_sim_pool(3)

    async def main() -> None:
        await create(sim)
        with pytest.raises(AlreadyExists):
            await create(sim)

    trio.run(main, clock=autojump())


# --- recovery ---------------------------------------------------------------------------------------------------------


def test_an_applied_lsn_beyond_the_log_is_damage() -> None:
    sim = make_sim_pool(3)
    ends: list[Lsn] = []

    async def body(log: Log) -> None:
        ends.append(log.append_nowait(1, [b"p"], b"b"))
        await log.wait_durable(ends[0])

    run_with_log(sim, body)
    for beyond in (8, FRAME_HEADER_BYTES, SEGMENT_BYTES, 10 * SEGMENT_BYTES):
        with pytest.raises(LogDamaged) as caught:
            bodies_after(crash(sim), applied=ends[0] + beyond)
        assert caught.value.lsn == ends[0]
    assert bodies_after(crash(sim), applied=ends[0]) == []


def test_a_frame_damaged_everywhere_is_damage_when_a_later_one_says_it_was_durable() -> None:
    """No mark is needed: frames of a later write carry how far the log was durable."""
    sim = make_sim_pool(3)
    ends: list[Lsn] = []

    async def body(log: Log) -> None:
        for number in range(4):
            ends.append(log.append_nowait(1, [b"p" * 500], b"%d" % number))
            await log.wait_durable(ends[-1])

    run_with_log(sim, body)
    sim = crash(sim)
    for disk in sim.disks:
        disk.rot(segment_name(Lsn(0), 1), SEGMENT_HEADER_BYTES + ends[0], 600)
    with pytest.raises(LogDamaged) as caught:
        bodies_after(sim)
    assert caught.value.lsn == ends[0]


def test_with_as_many_disks_missing_as_there_are_copies_the_log_is_not_opened() -> None:
    sim = make_sim_pool(6)

    async def body(log: Log) -> None:
        await log.wait_durable(log.append_nowait(1, [], b"0"))

    run_with_log(sim, body)
    sim = crash(sim)
    for disk in sim.disks[:3]:
        disk.disappear()
    with pytest.raises(TooFewDisks):
        bodies_after(sim)
    sim.disks[0].return_()
    assert bodies_after(reopen_sim_pool(sim.disks, SimRandom(0))) == [b"0"]


def test_recovery_reads_only_what_comes_after_applied_lsn() -> None:
    sim = make_sim_pool(3)
    ends: list[Lsn] = []

    async def body(log: Log) -> None:
        for number in range(40):
            ends.append(log.append_nowait(1, [b"p" * 5000], b"%d" % number))
            await log.wait_durable(ends[-1])
        await trio.sleep(3)

    run_with_log(sim, body)
    sim = crash(sim)
    reads_before = sim.fanout.reads
    assert bodies_after(sim, applied=ends[-2]) == [b"39"]
    segments = 40 * 5100 // (SEGMENT_BYTES - SEGMENT_HEADER_BYTES) + 1
    assert sim.fanout.reads - reads_before <= 3 * (segments + 4)


def test_a_frame_longer_than_a_piece_of_reading_is_recovered() -> None:
    sim = make_sim_pool(3)
    payload = bytes(range(256)) * (6 * 1024 * KIB // 256)

    async def body(log: Log) -> None:
        for number in range(2):
            await log.wait_durable(log.append_nowait(1, [payload], b"%d" % number))

    run_with_log(sim, body, segment_bytes=16 * MIB)
    found: list[Frame] = []

    async def main() -> None:
        await recover(crash(sim), found, segment_bytes=16 * MIB)

    trio.run(main, clock=autojump())
    assert [(frame.body, frame.payload_bytes) for frame in found] == [(b"0", len(payload)), (b"1", len(payload))]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=20), st.integers(0, 2**32), st.random_module())
def test_what_was_closed_is_recovered_whole(sizes: list[int], seed: int, _scheduler: object) -> None:
    sim = make_sim_pool(5, seed=seed)

    async def body(log: Log) -> None:
        for number, size in enumerate(sizes):
            log.append_nowait(1, [bytes(size)], b"%d" % number)
        await log.close()
        assert log.pending_bytes == 0

    run_with_log(sim, body)
    assert bodies_after(crash(sim, seed)) == [b"%d" % number for number in range(len(sizes))]


@pytest.mark.parametrize("operation", ["write", "flush"])
def test_no_disk_says_established_before_every_disk_is_prepared(operation: str) -> None:
    """Power goes at each moment of opening a segment on disks of unlike speed."""
    for index in range(8):
        sim = make_sim_pool(3)

        async def body(log: Log, sim: SimPool = sim, index: int = index) -> None:
            await log.wait_durable(log.append_nowait(1, [], b"0"))
            for disk in sim.disks:
                disk.slow(0.1 * disk.disk_id, operation, "log/")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.seal)
                await trio.sleep(0.05 + 0.1 * index)
                for disk in sim.disks:
                    disk.power_off()
                nursery.cancel_scope.cancel()

        run_with_log(sim, body)
        sim = crash(sim, index)
        for disk in sim.disks:
            for name in disk.names:
                header = parse_segment_header(disk.contents(name))
                if header is not None and header.is_established:
                    others = [parse_segment_header(other.contents(name)) for other in sim.disks]
                    assert all(other is not None and other.epoch == header.epoch for other in others)
        assert bodies_after(sim) == [b"0"]


def test_rot_is_not_copied_to_another_disk() -> None:
    sim = make_sim_pool(4)

    async def body(log: Log) -> None:
        for number in range(10):
            await log.wait_durable(log.append_nowait(1, [b"p" * 3000], b"%d" % number))
        await log.seal()
        await trio.sleep(3)
        segment = log.segments()[0]
        name = segment_name(segment.start, segment.epoch)
        used = slice(SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + segment.end - segment.start)
        whole = sim.disks[segment.disks[0]].contents(name)[used]
        # Each of the two that stay has another frame damaged.
        sim.disks[segment.disks[0]].rot(name, SEGMENT_HEADER_BYTES + 100)
        sim.disks[segment.disks[1]].rot(name, SEGMENT_HEADER_BYTES + 20000)
        sim.disks[segment.disks[2]].disappear()
        await sim.pool.probe()
        await trio.sleep(3)
        assert len(log.segments()[0].disks) == 3
        assert segment.disks[2] not in log.segments()[0].disks
        for disk_id in log.segments()[0].disks:
            assert sim.disks[disk_id].contents(name)[used] == whole

    run_with_log(sim, body)


def test_a_crash_in_the_middle_of_marking_leaves_as_many_copies_as_there_were() -> None:
    """The replicas that were not marked are as good; until they are vouched for again, one disk would hold it all."""
    sim = make_sim_pool(6)
    end = Lsn(0)

    async def body(log: Log) -> None:
        nonlocal end
        end = log.append_nowait(1, [b"payload"], b"body")
        await log.wait_durable(end)
        segment = log._active
        marked = Segment(
            start=segment.start,
            end=segment.end,
            epoch=segment.epoch,
            disks=segment.disks[:1],
            segment_bytes=segment.segment_bytes,
        )
        assert await log._files.mark(marked, end) == segment.disks[:1]

    run_with_log(sim, body)
    again = crash(sim)

    async def main() -> None:
        log = await recover(again, [], applied=end)
        (sealed, _) = log.segments()
        assert sealed.end == end and len(sealed.disks) == 3

    trio.run(main, clock=autojump())
