"""What a Disk and a Fanout do when a disk gives no answer, held by the real ones and the simulated ones alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.format.superblock import Superblock, pack_superblock
from siltstone.errors import DiskHung
from siltstone.ports import Disk, DiskRead, DiskWrite, Fanout, Lane
from siltstone.types import DiskId
from sim.clock import autojump
from sim.disk import SimDisk
from sim.fanout import SimFanout
from sim.stuck import Stuck

CALLS = ("write", "flush", "read")


class Bench:
    """A disk that can hang, a sound one, and a fan-out for both."""

    disk: Disk
    other: Disk
    fanout: Fanout
    limit_seconds: float

    async def open(self) -> None:
        """Make the disks."""
        raise NotImplementedError

    def hang(self, call: str) -> None:
        """Let a kind of call on the first disk hang."""
        raise NotImplementedError

    def release(self) -> None:
        """Nothing hangs any more; what was given up takes effect."""
        raise NotImplementedError


def superblock(disk_id: DiskId) -> Superblock:
    """What the disk of a bench is."""
    return Superblock(bytes(16), bytes([disk_id]) * 16, disk_id, 2, 1, 1, 64 * 1024, 0)


class SimBench(Bench):
    """Simulated disks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit_seconds = 30.0
        self.disk = self.sim = SimDisk(DiskId(3), limit_seconds=self.limit_seconds)
        self.other: SimDisk = SimDisk(DiskId(4), limit_seconds=self.limit_seconds)
        self.fanout = SimFanout()

    async def open(self) -> None:
        for disk in (self.sim, self.other):
            disk.format(pack_superblock(superblock(disk.disk_id)))
        await trio.lowlevel.checkpoint()

    def hang(self, call: str) -> None:
        self.sim.hang(call)

    def release(self) -> None:
        self.sim.release()


class LocalBench(Bench):
    """Directories, and system calls that hang."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit_seconds = 2.0  # of a machine that is busy with other tests, too
        self.folder = folder
        self.fanout = LocalFanout()
        self.stuck = Stuck(monkeypatch, folder / "disk3")

    async def open(self) -> None:
        disks = []
        for disk_id in (DiskId(3), DiskId(4)):
            path = self.folder / f"disk{disk_id}"
            await format_disk(path, superblock(disk_id))
            disks.append(LocalDisk(disk_id, path, bytes([disk_id]) * 16, limit_seconds=self.limit_seconds))
        self.disk, self.other = disks

    def hang(self, call: str) -> None:
        self.stuck.hang(call)

    def release(self) -> None:
        self.stuck.let_go()


BENCHES: dict[str, Callable[[Path, pytest.MonkeyPatch], Bench]] = {"local": LocalBench, "sim": SimBench}


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return BENCHES[request.param](tmp_path, monkeypatch)


def run(bench: Bench, body: Callable[[Disk], Awaitable[None]]) -> None:
    """``body`` gets the disk that can hang; both have a file of 4 KiB."""

    async def main() -> None:
        await bench.open()
        try:
            for disk in (bench.disk, bench.other):
                await disk.create("a", 4096)
                await disk.write("a", 0, [b"before"])
                await disk.flush("a")
            await body(bench.disk)
        finally:
            bench.release()
            await bench.disk.close()
            await bench.other.close()

    trio.run(main, clock=autojump() if isinstance(bench, SimBench) else None)


async def found_again(disk: Disk) -> None:
    """Probe until the disk is back."""
    with trio.fail_after(20):
        while True:
            try:
                await disk.probe()
                return
            except DiskHung:
                await trio.sleep(0.01)


async def one(bench: Bench, call: str, data: bytes = b"late!!") -> object:
    """One operation on the disk that ends in a call of this kind; what it returned or raised."""
    if call == "read":
        (found,) = await bench.fanout.read([DiskRead(bench.disk, "a", 0, 6)], Lane.BULK)
        return found
    (error,) = await bench.fanout.write_durable([DiskWrite(bench.disk, "a", 0, [data])], Lane.BULK)
    return error


@pytest.mark.parametrize("call", CALLS)
def test_an_operation_without_an_answer_is_disk_hung_and_so_is_all_that_comes(bench: Bench, call: str) -> None:
    async def body(disk: Disk) -> None:
        bench.hang(call)
        error = await one(bench, call)
        assert isinstance(error, DiskHung) and error.disk_id == 3
        assert f"no answer to {error.cause.split()[3]}" in error.cause
        assert error.cause.endswith(f"for {bench.limit_seconds:g} s")
        operations: list[Callable[[], Awaitable[object]]] = [
            lambda: disk.read("a", 0, 4),
            lambda: disk.write("a", 0, [b"x"]),
            lambda: disk.flush("a"),
            lambda: disk.punch("a", 0, 4096),
            lambda: disk.create("b", 4096),
            lambda: disk.delete("a"),
            lambda: disk.rename("a", "b"),
            lambda: disk.replace("x", b"x"),
            lambda: disk.list(""),
            lambda: disk.space(),
            lambda: disk.probe(),
            lambda: disk.restore_superblock(b"", ["a"]),
        ]
        for operation in operations:
            with pytest.raises(DiskHung):
                await operation()
        assert disk.read_nowait("a", 0, 4) is None
        assert isinstance(await one(bench, "read"), DiskHung)
        assert isinstance(await one(bench, "write"), DiskHung)

    run(bench, body)


@pytest.mark.parametrize("call", CALLS)
def test_other_disks_of_a_fan_out_are_written_and_read_all_the_same(bench: Bench, call: str) -> None:
    async def body(disk: Disk) -> None:
        bench.hang(call)
        if call == "read":
            reads = [DiskRead(disk, "a", 0, 6), DiskRead(bench.other, "a", 0, 6)]
            hung, found = await bench.fanout.read(reads, Lane.BULK)
            assert isinstance(hung, DiskHung) and found == b"before"
            return
        writes = [DiskWrite(disk, "a", 0, [b"x"]), DiskWrite(bench.other, "a", 0, [b"x"])]
        error, none = await bench.fanout.write_durable(writes, Lane.LOG)
        assert isinstance(error, DiskHung) and none is None
        assert await bench.other.read("a", 0, 6) == b"xefore"

    run(bench, body)


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_answers_again_is_found_by_a_probe_and_works(bench: Bench, call: str) -> None:
    async def body(disk: Disk) -> None:
        bench.hang(call)
        assert isinstance(await one(bench, call), DiskHung)
        bench.release()
        await found_again(disk)
        assert await disk.read("a", 0, 6) == (b"before" if call == "read" else b"late!!")
        assert await one(bench, "write", b"after!") is None
        assert await one(bench, "read") == b"after!"

    run(bench, body)


def test_nothing_is_found_while_something_is_stuck(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        bench.hang("write")
        assert isinstance(await one(bench, "write"), DiskHung)
        for _ in range(3):
            await trio.sleep(bench.limit_seconds / 3)
            with pytest.raises(DiskHung):
                await disk.probe()
        bench.release()
        await found_again(disk)
        # Late, but before the disk was found: from here on nothing lands that is not asked for.
        assert await disk.read("a", 0, 6) == b"late!!"

    run(bench, body)


@pytest.mark.parametrize("call", CALLS)
def test_a_stall_that_ends_within_the_limit_is_nothing_but_slow(bench: Bench, call: str) -> None:
    async def body(disk: Disk) -> None:
        bench.hang(call)
        async with trio.open_nursery() as nursery:

            async def later() -> None:
                await trio.sleep(bench.limit_seconds / 4)
                bench.release()

            nursery.start_soon(later)
            assert await one(bench, call) == (b"before" if call == "read" else None)
        await disk.probe()
        assert await disk.read("a", 0, 6) == (b"before" if call == "read" else b"late!!")

    run(bench, body)


def test_a_disk_is_closed_whatever_hangs(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        bench.hang("write")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, bench, "write")
            await trio.sleep(bench.limit_seconds / 4)
            with trio.fail_after(60):
                await disk.close()

    run(bench, body)
