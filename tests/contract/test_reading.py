"""What a Reading does, held by the real fan-out and the simulated one alike: reads that nobody waits for to the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.format.superblock import Superblock, pack_superblock
from siltstone.errors import DiskHung, FileMissing
from siltstone.ports import Disk, DiskRead, Fanout, Lane
from siltstone.types import DiskId
from sim.clock import autojump
from sim.disk import SimDisk
from sim.fanout import SimFanout
from sim.stuck import Stuck


class Bench(NamedTuple):
    """A disk whose reads hang from ``hang`` to ``let_go``, and one that is sound."""

    slow: Disk
    fast: Disk
    fanout: Fanout
    hang: Callable[[], object]
    let_go: Callable[[], object]


Body = Callable[[Bench], Awaitable[None]]


def superblock(disk_id: DiskId) -> Superblock:
    return Superblock(bytes(16), bytes([disk_id]) * 16, disk_id, 2, 1, 1, 64 * 1024, 0)


async def local_bench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    disks = []
    for disk_id in (DiskId(3), DiskId(4)):
        await format_disk(folder / f"disk{disk_id}", superblock(disk_id))
        disks.append(LocalDisk(disk_id, folder / f"disk{disk_id}", bytes([disk_id]) * 16, limit_seconds=2.0))
    stuck = Stuck(monkeypatch, folder / "disk3")
    return Bench(disks[0], disks[1], LocalFanout(), lambda: stuck.hang("read"), stuck.let_go)


async def sim_bench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    disks = [SimDisk(disk_id, limit_seconds=2.0) for disk_id in (DiskId(3), DiskId(4))]
    for disk in disks:
        disk.format(pack_superblock(superblock(disk.disk_id)))
    await trio.lowlevel.checkpoint()
    return Bench(disks[0], disks[1], SimFanout(), lambda: disks[0].hang("read"), disks[0].release)


BENCHES = {"local": local_bench, "sim": sim_bench}


@pytest.fixture(params=BENCHES)
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    def run_body(body: Body) -> None:
        async def main() -> None:
            bench = await BENCHES[request.param](tmp_path, monkeypatch)
            try:
                for disk, data in ((bench.slow, b"slow"), (bench.fast, b"fast")):
                    await disk.create("a", 4096)
                    await disk.write("a", 0, [data])
                await body(bench)
            finally:
                bench.let_go()
                await bench.slow.close()
                await bench.fast.close()

        trio.run(main, clock=autojump() if request.param == "sim" else None)

    return run_body


def reads(bench: Bench) -> list[DiskRead]:
    return [
        DiskRead(bench.slow, "a", 0, 4),
        DiskRead(bench.fast, "a", 0, 4),
        DiskRead(bench.fast, "absent", 0, 4),
    ]


def test_all_answers_come_in_order_and_say_how_long_they_took(run: Callable[[Body], None]) -> None:
    async def body(bench: Bench) -> None:
        reading = bench.fanout.start_read(reads(bench), Lane.BULK)
        await reading.wait(3)
        assert reading.result(0) == b"slow" and reading.result(1) == b"fast"
        assert isinstance(reading.result(2), FileMissing)
        assert all(0 <= reading.seconds(index) < 10 for index in range(3))
        await reading.wait(3)

    run(body)


def test_enough_is_returned_while_the_rest_hangs_and_the_rest_comes_when_it_may(run: Callable[[Body], None]) -> None:
    async def body(bench: Bench) -> None:
        bench.hang()
        reading = bench.fanout.start_read(reads(bench), Lane.BULK)
        await reading.wait(1)
        await reading.wait(2)
        assert reading.result(0) is None and reading.result(1) == b"fast"
        bench.let_go()
        await reading.wait(3)
        assert reading.result(0) == b"slow"

    run(body)


def test_waiting_can_be_cancelled_and_done_again(run: Callable[[Body], None]) -> None:
    async def body(bench: Bench) -> None:
        bench.hang()
        reading = bench.fanout.start_read(reads(bench), Lane.BULK)
        for _ in range(3):
            with trio.move_on_after(0.01) as scope:
                await reading.wait(3)
            assert scope.cancelled_caught
        bench.let_go()
        await reading.wait(3)
        assert reading.result(0) == b"slow"

    run(body)


def test_an_answer_that_nobody_waits_for_is_told_when_it_comes(run: Callable[[Body], None]) -> None:
    async def body(bench: Bench) -> None:
        bench.hang()
        reading = bench.fanout.start_read(reads(bench), Lane.BULK)
        await reading.wait(2)
        late: list[int] = []
        told = trio.Event()

        def on_late(index: int) -> None:
            late.append(index)
            told.set()

        reading.leave(on_late)
        bench.let_go()
        await told.wait()
        assert late == [0] and reading.result(0) == b"slow"

    run(body)


def test_a_read_that_never_comes_is_disk_hung_in_the_end(run: Callable[[Body], None]) -> None:
    async def body(bench: Bench) -> None:
        bench.hang()
        reading = bench.fanout.start_read(reads(bench), Lane.BULK)
        await reading.wait(3)
        assert isinstance(reading.result(0), DiskHung) and reading.seconds(0) >= 1.5

    run(body)
