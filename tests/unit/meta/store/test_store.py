"""What the store promises beside being a dict (tests/stateful/test_store_machine.py has that)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from siltstone.errors import Conflict, FormatInvalid, NoSpace, Unavailable, VolumeClosed
from siltstone.meta.store.port import BATCH_KIND
from siltstone.meta.store.store import Store
from siltstone.types import Lsn
from sim.backing import SimBacking
from sim.clock import autojump
from sim.fake_log import FakeLog


def put(store: Store, **values: bytes) -> Lsn:
    transaction = store.begin()
    for key, value in values.items():
        transaction.put(key.encode(), value)
    return transaction.commit()


def connected(backing: SimBacking, log: FakeLog, memtable_bytes_max: int = 1 << 20) -> Store:
    store = Store(backing, memtable_bytes_max=memtable_bytes_max)
    store.connect(log)
    return store


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(100):
            await main()

    trio.run(bounded, clock=autojump())


def test_a_commit_is_one_frame_that_carries_what_was_attached() -> None:
    log = FakeLog()
    store = connected(SimBacking(), log)
    transaction = store.begin()
    first, second = transaction.attach(b"pay"), transaction.attach(memoryview(b"load"))
    transaction.put(b"a", b"1")
    end = transaction.commit()
    assert [(frame.kind, frame.end_lsn) for frame in log.frames] == [(BATCH_KIND, end)]
    assert (log.payload(first, 3), log.payload(second, 4), second - first) == (b"pay", b"load", 3)


def test_a_transaction_without_writes_appends_nothing() -> None:
    log = FakeLog()
    store = connected(SimBacking(), log)
    last = put(store, a=b"1")
    transaction = store.begin()
    transaction.get(b"a")
    assert transaction.commit() == last
    assert len(log.frames) == 1


def test_an_attached_address_that_is_stale_stops_the_commit() -> None:
    log = FakeLog()
    store = connected(SimBacking(), log)
    transaction = store.begin()
    transaction.attach(b"payload")
    put(store, other=b"")
    with pytest.raises(AssertionError, match="moved"):
        transaction.commit()
    assert len(log.frames) == 1


def test_a_transaction_that_was_dropped_leaves_no_trace() -> None:
    log = FakeLog()
    store = connected(SimBacking(), log)
    transaction = store.begin()
    transaction.put(b"a", b"1")
    del transaction
    assert store.get(b"a") is None
    assert log.frames == []


def test_a_change_of_what_was_read_is_a_conflict_and_of_something_else_is_none() -> None:
    store = connected(SimBacking(), FakeLog())
    put(store, a=b"1", m=b"2")
    reader, other, phantom = store.begin(), store.begin(), store.begin()
    reader.get(b"a")
    other.get(b"m")
    assert list(phantom.scan(b"b", b"d")) == []
    for transaction in (reader, other, phantom):
        transaction.put(b"z", b"")
    put(store, a=b"3", c=b"")
    with pytest.raises(Conflict):
        reader.commit()
    with pytest.raises(Conflict):
        phantom.commit()
    other.commit()
    assert store.statistics().conflicts == 2
    assert store.statistics().commits == 3


def test_a_transaction_reads_a_key_the_same_each_time() -> None:
    store = connected(SimBacking(), FakeLog())
    transaction = store.begin()
    assert transaction.get(b"a") is None
    put(store, a=b"1")
    assert transaction.get(b"a") is None
    with pytest.raises(Conflict):
        transaction.commit()


def test_a_scan_goes_on_safely_across_commits_and_applies() -> None:
    async def main() -> None:
        store = connected(SimBacking(), FakeLog())
        put(store, **{f"k{number:03}": b"" for number in range(0, 300, 2)})
        seen = []
        for count, (key, _) in enumerate(store.scan(b"k", b"l")):
            seen.append(key)
            put(store, **{f"k{count:03}": b"new"})
            if count % 40 == 0:
                await store.checkpoint()
        assert seen == sorted(set(seen))
        assert set(seen) >= {b"k%03d" % number for number in range(0, 300, 2)}

    run(main)


def test_a_commit_is_applied_by_itself_within_the_interval() -> None:
    async def main() -> None:
        backing, log = SimBacking(), FakeLog()
        store = Store(backing, apply_interval=3)
        store.connect(log)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            lsn = put(store, a=b"1")
            await trio.sleep(2.9)
            assert backing.holds == {}
            await trio.sleep(0.2)
            assert backing.holds == {b"a": b"1"}
            assert store.applied_lsn == log.durable_lsn == lsn
            assert store.memtable_bytes == 0
            nursery.cancel_scope.cancel()

    run(main)


def test_a_full_memtable_is_applied_at_once() -> None:
    async def main() -> None:
        backing = SimBacking()
        store = Store(backing, apply_interval=10**6, memtable_bytes_max=1000)
        store.connect(FakeLog())
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await trio.testing.wait_all_tasks_blocked()
            put(store, a=bytes(1000))
            await trio.testing.wait_all_tasks_blocked()
            assert backing.holds == {b"a": bytes(1000)}
            nursery.cancel_scope.cancel()

    run(main)


def test_there_is_pressure_while_two_memtables_are_full_and_room_when_one_is_applied() -> None:
    async def main() -> None:
        backing = SimBacking(gated=True)
        store = Store(backing, apply_interval=1, memtable_bytes_max=1000)
        store.connect(FakeLog())
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            put(store, a=bytes(1000))
            await backing.wait_applying()
            assert not store.pressure
            put(store, b=bytes(1000))
            assert store.pressure
            assert 2000 < store.memtable_bytes < 3000
            with trio.move_on_after(10) as waiting:
                await store.wait_room()
            assert waiting.cancelled_caught
            backing.open_gate()
            await store.wait_room()
            assert not store.pressure
            await backing.wait_applying()
            backing.open_gate()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    run(main)


def test_nothing_is_applied_before_it_is_durable() -> None:
    async def main() -> None:
        backing, log = SimBacking(), FakeLog(automatic=False)
        store = connected(backing, log)
        lsn = put(store, a=b"1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.checkpoint)
            await trio.testing.wait_all_tasks_blocked()
            later = put(store, a=b"2", b=b"2")
            log.make_durable(Lsn(lsn - 1))
            await trio.testing.wait_all_tasks_blocked()
            assert (backing.holds, backing.applied_lsn) == ({}, 0)
            log.make_durable(lsn)
        assert (backing.holds, backing.applied_lsn) == ({b"a": b"1"}, lsn)
        assert (store.get(b"a"), store.applied_lsn, store.last_lsn) == (b"2", lsn, later)

    run(main)


def test_frames_of_others_are_passed_when_the_batches_before_them_are_applied() -> None:
    async def main() -> None:
        backing, log = SimBacking(), FakeLog()
        store = connected(backing, log)
        put(store, a=b"1")
        end = log.append_nowait(BATCH_KIND + 1, [b"another's"], b"")
        await store.checkpoint()
        assert backing.applied_lsn == store.applied_lsn == end

    run(main)


def test_a_batch_of_payload_alone_is_applied_too() -> None:
    async def main() -> None:
        backing = SimBacking()
        store = connected(backing, FakeLog())
        transaction = store.begin()
        transaction.attach(b"payload")
        lsn = transaction.commit()
        await store.checkpoint()
        assert backing.applied_lsn == store.applied_lsn == lsn

    run(main)


def test_replay_skips_what_is_applied_and_refuses_what_is_no_batch() -> None:
    async def main() -> None:
        backing, log = SimBacking(), FakeLog()
        store = connected(backing, log)
        put(store, a=b"1")
        await store.checkpoint()
        put(store, a=b"2")
        log.make_durable(log.next_lsn)
        again = Store(backing.crash())
        for frame in log.frames:
            again.replay(frame.end_lsn, frame.body)
        assert (again.get(b"a"), again.last_lsn) == (b"2", log.next_lsn)
        assert again.statistics().memtable_entries == 1
        with pytest.raises(FormatInvalid):
            again.replay(Lsn(log.next_lsn + 8), b"no batch")

    run(main)


@pytest.mark.parametrize("where", ["backing", "log"])
def test_a_failed_apply_stops_the_store_loudly(where: str) -> None:
    error = Unavailable("/home: Input/output error")

    async def main() -> None:
        backing, log = SimBacking(), FakeLog()
        store = connected(backing, log, memtable_bytes_max=1000)
        put(store, a=bytes(2000))
        if where == "backing":
            backing.failure = error
        else:
            log.failure = error
        with pytest.raises(Unavailable, match="Input/output error") as raised:
            await store.run()
        assert raised.value is error
        assert store.get(b"a") == bytes(2000)
        with pytest.raises(VolumeClosed, match="Input/output error"):
            put(store, b=b"")
        with pytest.raises(VolumeClosed, match="Input/output error"):
            store.begin().attach(b"payload")
        assert store.get(b"b") is None
        with pytest.raises(VolumeClosed, match="Input/output error"):
            await store.checkpoint()
        assert len(log.frames) == 1

    run(main)


def test_whoever_waits_for_room_hears_that_the_store_has_stopped() -> None:
    async def main() -> None:
        backing = SimBacking(gated=True)
        store = connected(backing, FakeLog(), memtable_bytes_max=1000)
        put(store, a=bytes(2000))

        async def fail() -> None:
            with pytest.raises(NoSpace):
                await store.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await backing.wait_applying()
            put(store, b=bytes(2000))
            backing.failure = NoSpace("the metadata is full")
            backing.open_gate()
            with pytest.raises(VolumeClosed, match="the metadata is full"):
                await store.wait_room()

    run(main)


def test_a_checkpoint_that_is_cancelled_loses_nothing() -> None:
    async def main() -> None:
        backing, log = SimBacking(), FakeLog(automatic=False)
        store = connected(backing, log)
        put(store, a=b"1")
        with trio.move_on_after(1):
            await store.checkpoint()
        put(store, b=b"2")
        log.make_durable(log.next_lsn)
        await store.checkpoint()
        assert backing.holds == {b"a": b"1", b"b": b"2"}

    run(main)
