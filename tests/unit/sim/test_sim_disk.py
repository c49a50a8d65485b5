"""The simulated disk is as bad as the port allows, no worse, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.errors import DiskError, DiskFull, DiskMissing
from siltstone.ports import Clock, Disk, DiskWrite, Fanout, Lane, Random, Workers
from siltstone.types import DiskId
from sim.clock import SimClock, autojump
from sim.disk import SimDisk
from sim.fanout import SimFanout
from sim.randomness import SimRandom
from sim.workers import SimWorkers

T = TypeVar("T")


def run(body: Callable[[SimDisk], Awaitable[T]]) -> T:
    async def main() -> T:
        return await body(SimDisk(DiskId(0)))

    return trio.run(main, clock=autojump())


def test_the_simulations_fit_their_ports() -> None:
    disk: Disk = SimDisk(DiskId(0))
    fanout: Fanout = SimFanout()
    clock: Clock = SimClock()
    random: Random = SimRandom(0)
    workers: Workers = SimWorkers()
    assert disk and fanout and clock and random and workers


@given(seed=st.integers(0, 1000))
def test_what_was_flushed_survives_every_crash(seed: int) -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create("a", 4096)
        await disk.write("a", 100, [b"x" * 2000])
        await disk.flush("a")
        await disk.replace("b", b"whole")
        disk.crash(SimRandom(seed))
        assert disk.contents("a") == bytes(100) + b"x" * 2000 + bytes(1996)
        assert disk.contents("b") == b"whole"

    run(body)


def test_unflushed_sectors_survive_each_on_its_own() -> None:
    async def body(disk: SimDisk, seed: int) -> tuple[bytes, ...]:
        await disk.create("a", 2048)
        await disk.write("a", 0, [b"o" * 2048])
        await disk.flush("a")
        await disk.write("a", 0, [b"1" * 2048])
        await disk.write("a", 512, [b"2" * 1024])
        disk.crash(SimRandom(seed))
        content = disk.contents("a")
        sectors = tuple(content[start : start + 512] for start in range(0, 2048, 512))
        assert all(len(set(sector)) == 1 for sector in sectors), "sectors are whole"
        return tuple(sector[:1] for sector in sectors)

    seen = {run(lambda disk, seed=seed: body(disk, seed)) for seed in range(400)}  # type: ignore[misc]
    assert len(seen) == 2 * 3 * 3 * 2
    assert run(lambda disk: body(disk, 5)) == run(lambda disk: body(disk, 5))


def test_a_delete_may_be_undone_by_a_crash_and_a_name_made_anew_stays() -> None:
    async def body(disk: SimDisk, seed: int) -> tuple[str, ...]:
        for name in ("a", "b"):
            await disk.create(name, 10)
            await disk.delete(name)
        await disk.create("b", 20)
        disk.crash(SimRandom(seed))
        assert len(disk.contents("b")) == 20
        return disk.names

    assert {run(lambda disk, seed=seed: body(disk, seed)) for seed in range(20)} == {("a", "b"), ("b",)}  # type: ignore[misc]


@given(seed=st.integers(0, 1000), steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=30))
def test_what_a_crash_brings_back_fits_on_the_disk(seed: int, steps: list[tuple[int, int]]) -> None:
    """A filesystem does not give away room before it is durable that it is free."""

    async def body(disk: SimDisk) -> None:
        disk.capacity_bytes = 10 * 4096
        for number, (kind, place) in enumerate(steps):
            names = disk.names
            with suppress(DiskFull):
                if kind == 0:
                    await disk.create(f"f{number}", (1 + place) * 4096)
                    await disk.write(f"f{number}", 0, [b"x" * 4096])
                elif kind == 1 and names:
                    await disk.delete(names[place % len(names)])
                elif names:
                    await disk.punch(names[place % len(names)], 0, 2 * 4096)
            assert disk.used_bytes <= disk.held_bytes <= disk.capacity_bytes
        disk.crash(SimRandom(seed))
        assert disk.used_bytes <= disk.held_bytes <= disk.capacity_bytes

    run(body)


def test_what_was_deleted_and_punched_makes_room_though_a_crash_could_undo_it() -> None:
    async def body(disk: SimDisk) -> None:
        disk.capacity_bytes = 8 * 4096
        await disk.create("a", 4 * 4096)
        await disk.create("b", 4 * 4096)
        await disk.write("b", 0, [b"y" * 4 * 4096])
        await disk.flush("b")
        await disk.delete("a")
        await disk.create("c", 4 * 4096)
        await disk.punch("b", 0, 2 * 4096)
        await disk.write("b", 3 * 4096, [b"z" * 4096])
        await disk.create("d", 2 * 4096)
        with pytest.raises(DiskFull):
            await disk.create("e", 4096)
        disk.crash(SimRandom(1))
        assert disk.names == ("b", "c", "d")
        assert disk.contents("b")[: 3 * 4096] == bytes(2 * 4096) + b"y" * 4096

    run(body)


@pytest.mark.parametrize("operation", ["create", "rename", "replace"])
def test_a_change_of_names_under_way_happened_or_not_after_a_crash(operation: str) -> None:
    async def body(disk: SimDisk, seed: int) -> tuple[str, ...]:
        await disk.create("old", 10)
        calls = {
            "create": lambda: disk.create("new", 10),
            "rename": lambda: disk.rename("old", "new"),
            "replace": lambda: disk.replace("new", b"0123456789"),
        }
        failures: list[DiskError] = []

        async def change() -> None:
            try:
                await calls[operation]()
            except DiskMissing as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            disk.crash(SimRandom(seed))
        assert len(failures) == 1, "what a crash interrupts never reports success"
        assert all(len(disk.contents(name)) == 10 for name in disk.names)
        return disk.names

    seen = {run(lambda disk, seed=seed: body(disk, seed)) for seed in range(60)}  # type: ignore[misc]
    after = {"create": ("new", "old"), "rename": ("new",), "replace": ("new", "old")}[operation]
    assert seen == {("old",), after}


def test_a_flush_covers_only_what_was_written_before_it_began() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create("a", 4096)
        await disk.write("a", 0, [b"x"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.flush, "a")
            await trio.testing.wait_all_tasks_blocked()
        await disk.write("a", 512, [b"y"])
        assert disk.pending_writes == 1

    run(body)


def test_power_off_leaves_operations_under_way_without_an_answer_of_success() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create("a", 4096)
        results: list[DiskError | None] = []

        async def write() -> None:
            results.extend(await SimFanout().write_durable([DiskWrite(disk, "a", 0, [b"x"])], Lane.LOG))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.lowlevel.checkpoint()
            disk.power_off()
        assert isinstance(results[0], DiskMissing)
        with pytest.raises(DiskMissing):
            await disk.list("")
        disk.crash(SimRandom(0))
        assert await disk.read("a", 0, 1) in (b"\0", b"x")

    run(body)


def test_faults_strike_when_and_where_they_are_told_and_count() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create("log/a", 4096)
        await disk.create("slab/a", 4096)
        fault = disk.fail("write", "log/", skip=1, count=2)
        outcomes = []
        for name in ("log/a", "slab/a", "log/a", "log/a", "log/a"):
            try:
                await disk.write(name, 0, [b"x"])
                outcomes.append("ok")
            except DiskError as error:
                outcomes.append(error.cause)
        assert outcomes == ["ok", "ok", "EIO", "EIO", "ok"] and fault.fired == 2
        full = disk.fail_full("flush")
        with pytest.raises(DiskFull):
            await disk.flush("log/a")
        assert full.fired == 1

    run(body)


def test_lost_misdirected_slow_and_rotten() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create("a", 4096)
        lost, misdirected = disk.lose_write(), disk.misdirect_write(512, skip=1)
        await disk.write("a", 0, [b"lost"])
        assert lost.fired == 1 and await disk.read("a", 0, 4) == bytes(4)
        await disk.write("a", 0, [b"astray"])
        assert misdirected.fired == 1 and await disk.read("a", 512, 6) == b"astray"
        disk.rot("a", 512)
        assert await disk.read("a", 512, 6) == bytes([ord("a") ^ 0xFF]) + b"stray"
        slow = disk.slow(30, "read")
        before = trio.current_time()
        await disk.read("a", 0, 1)
        assert trio.current_time() - before == 30 and slow.fired == 1
        disk.heal()
        await disk.read("a", 0, 1)
        assert trio.current_time() - before == 30

    run(body)


def test_the_cache_misses_by_its_seed() -> None:
    async def main() -> None:
        disk = SimDisk(DiskId(0), cache_random=SimRandom(1))
        await disk.create("a", 10)
        answers = [disk.read_nowait("a", 0, 1) for _ in range(100)]
        assert 20 < answers.count(None) < 80

    trio.run(main)


def test_every_method_lets_other_tasks_run() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create("a", 4096)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: disk.create("b", 1),
            lambda: disk.write("a", 0, [b"x"]),
            lambda: disk.flush("a"),
            lambda: disk.read("a", 0, 1),
            lambda: disk.punch("a", 0, 1),
            lambda: disk.rename("b", "c"),
            lambda: disk.replace("d", b""),
            lambda: disk.list(""),
            lambda: disk.space(),
            lambda: disk.probe(),
            lambda: disk.delete("d"),
            lambda: disk.close(),
        ]
        for call in calls:
            with trio.testing.assert_checkpoints():
                await call()

    run(body)


def test_the_wall_clock_jumps_alone() -> None:
    async def main() -> None:
        clock = SimClock()
        wall, monotonic = clock.now_ns(), clock.monotonic_ns()
        await clock.sleep(5)
        clock.jump(-3600)
        assert clock.monotonic_ns() - monotonic == 5 * 10**9
        assert clock.now_ns() - wall == (5 - 3600) * 10**9 and clock.jumps == 1

    trio.run(main, clock=autojump())
