"""A real disk whose system calls hang: who waits is told in time, and nothing happens later that could do harm.

The calls hang for real, in the disk's own threads, until the test lets go of them.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from siltstone.engine.disk import kernel
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.lane import DiskLane
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.format.superblock import Superblock
from siltstone.errors import DiskError, DiskHung, DiskMissing
from siltstone.ports import DiskRead, DiskWrite, Lane
from siltstone.types import Buffer, DiskId
from sim.memory_folder import folder_in_memory
from sim.stuck import Stuck

UUID = bytes(range(16))
LIMIT_SECONDS = 1.0


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be had: while others use a real disk its flush may take longer than LIMIT_SECONDS, and
    is then a hang that no test asked for."""
    with tempfile.TemporaryDirectory(dir=folder_in_memory() or tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stuck]:
    calls = Stuck(monkeypatch, tmp_path / "disk1")
    yield calls
    calls.let_go()


def run(tmp_path: Path, body: Callable[[LocalDisk, LocalDisk], Awaitable[None]]) -> None:
    """``body`` gets the disk that will hang, and a sound one, with a file each of 64 KiB."""

    async def main() -> None:
        disks = []
        for disk_id in (DiskId(1), DiskId(2)):
            path = tmp_path / f"disk{disk_id}"
            await format_disk(path, Superblock(bytes(16), UUID, disk_id, 2, 1, 1, 64 * 1024, 0))
            disks.append(LocalDisk(disk_id, path, UUID, limit_seconds=LIMIT_SECONDS))
        try:
            for disk in disks:
                await disk.create("slab/a", 64 * 1024)
                await disk.create("log/a", 64 * 1024)
            await body(disks[0], disks[1])
        finally:
            for disk in disks:
                await disk.close()

    trio.run(main)


async def found_again(disk: LocalDisk) -> None:
    """Probe until the disk is back."""
    with trio.fail_after(10):
        while True:
            try:
                await disk.probe()
                return
            except DiskMissing:
                await trio.sleep(0.01)


@contextmanager
def hangs(match: str = "no answer") -> Iterator[None]:
    with pytest.raises(DiskHung, match=match):
        yield


@pytest.mark.parametrize("call", ["write", "flush"])
def test_a_write_that_hangs_fails_and_says_what_hung_and_how_long(tmp_path: Path, stuck: Stuck, call: str) -> None:
    async def body(disk: LocalDisk, other: LocalDisk) -> None:
        stuck.hang(call)
        writes = [DiskWrite(disk, "log/a", 0, [b"late"]), DiskWrite(other, "log/a", 0, [b"fine"])]
        error, none = await LocalFanout().write_durable(writes, Lane.LOG)
        assert none is None and isinstance(error, DiskHung)
        assert str(error) == f"disk 1: write log/a: no answer to write log/a for {LIMIT_SECONDS:g} s"

    run(tmp_path, body)


def test_every_operation_on_a_disk_that_hung_fails_at_once_and_touches_nothing(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        await disk.write("slab/a", 0, [b"before"])
        stuck.hang("flush")
        with hangs():
            await disk.flush("slab/a")
        begun = list(stuck.begun)
        operations: list[Callable[[], Awaitable[object]]] = [
            lambda: disk.create("slab/b", 4096),
            lambda: disk.delete("slab/a"),
            lambda: disk.rename("slab/a", "slab/b"),
            lambda: disk.list(""),
            lambda: disk.read("slab/a", 0, 1),
            lambda: disk.write("slab/a", 0, [b"x"]),
            lambda: disk.flush("slab/a"),
            lambda: disk.punch("slab/a", 0, 4096),
            lambda: disk.replace("probation", b"x"),
            lambda: disk.space(),
            lambda: disk.probe(),
            lambda: disk.restore_superblock(b"", ["slab/a"]),
        ]
        for operation in operations:
            with hangs("no answer to flush slab/a"):
                await operation()
        assert disk.read_nowait("slab/a", 0, 1) is None
        (read,) = await LocalFanout().read([DiskRead(disk, "slab/a", 0, 1)], Lane.BULK)
        assert isinstance(read, DiskHung)
        assert stuck.begun == begun

    run(tmp_path, body)


def test_what_waits_behind_a_hang_fails_with_it_and_is_never_carried_out(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        failed: list[str] = []

        async def write(*offsets: int) -> None:
            writes = [DiskWrite(disk, "slab/a", offset, [b"late"]) for offset in offsets]
            for error in await LocalFanout().write_durable(writes, Lane.BULK):
                assert isinstance(error, DiskHung)
                failed.append("write")

        async def read() -> None:
            with hangs():
                await disk.read("slab/a", 0, 1)
            failed.append("read")

        stuck.hang("write", "read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 0, 8, 16, 24, 32)  # mostly one batch of the thread
            assert await trio.to_thread.run_sync(stuck.entered.acquire)
            nursery.start_soon(read)
            for offset in range(40, 800, 8):
                nursery.start_soon(write, offset)
        assert len(failed) == 101
        stuck.let_go()
        await found_again(disk)
        # The one that had begun may have landed, and did; nothing else may.
        assert await disk.read("slab/a", 0, 800) == b"late" + bytes(796)

    run(tmp_path, body)


def test_a_disk_is_found_again_only_when_every_stuck_call_has_returned(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        await disk.write("log/a", 0, [b"old!"])
        stuck.hang("write", "flush")
        writes = [DiskWrite(disk, "log/a", 0, [b"late"])]
        (error,) = await LocalFanout().write_durable(writes, Lane.LOG)
        assert isinstance(error, DiskHung)
        for _ in range(3):
            with hangs():
                await disk.probe()
            await trio.sleep(LIMIT_SECONDS / 2)
        assert (tmp_path / "disk1/log/a").read_bytes()[:4] == b"old!"
        stuck.let_go()
        await found_again(disk)
        assert await disk.read("log/a", 0, 4) == b"late"
        # From here on nothing lands any more but what is asked for.
        (none,) = await LocalFanout().write_durable([DiskWrite(disk, "log/a", 0, [b"new!"])], Lane.LOG)
        assert none is None
        assert await disk.read("log/a", 0, 4) == b"new!"

    run(tmp_path, body)


def test_a_hang_in_one_lane_takes_the_whole_disk_and_a_second_hang_is_told_again(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        for call, lane in (("read", "read slab/a"), ("write", "write slab/a"), ("read", "read slab/a")):
            stuck.hang(call)
            with hangs(f"no answer to {lane}"):
                if call == "read":
                    await disk.read("slab/a", 0, 4)
                else:
                    await disk.write("slab/a", 0, [b"late"])
            with hangs(f"no answer to {lane}"):
                await disk.space()
            stuck.let_go()
            await found_again(disk)
            await disk.write("slab/a", 0, [b"fine"])

    run(tmp_path, body)


def test_nothing_is_found_again_by_who_hears_of_a_hang_before_all_lanes_were_given_up(
    tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher's thread fails what waits in one lane after the other, and the loop wakes up at the first."""
    heard = threading.Event()
    fail_all = DiskLane.fail_all

    def fail_all_slowly(lane: DiskLane) -> None:
        fail_all(lane)
        heard.wait(LIMIT_SECONDS)

    monkeypatch.setattr(DiskLane, "fail_all", fail_all_slowly)

    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        stuck.hang("write")
        writes = [DiskWrite(disk, "log/a", 0, [b"late"])]
        (error,) = await LocalFanout().write_durable(writes, Lane.LOG)
        assert isinstance(error, DiskHung)
        with hangs():
            await disk.probe()
        heard.set()

    run(tmp_path, body)


def test_a_probe_that_hangs_is_bounded_too(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        stuck.hang("read")
        with hangs("no answer to probe"):
            await disk.probe()
        stuck.let_go()
        await found_again(disk)
        assert await disk.read("slab/a", 0, 4) == bytes(4)

    run(tmp_path, body)


def test_closing_a_disk_that_hangs_returns(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        stuck.hang("write")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(LocalFanout().write_durable, [DiskWrite(disk, "log/a", 0, [b"late"])], Lane.LOG)
            assert await trio.to_thread.run_sync(stuck.entered.acquire)
            with trio.fail_after(10):
                await disk.close()

    run(tmp_path, body)


def test_what_was_open_is_closed_when_a_hang_is_over(tmp_path: Path, stuck: Stuck) -> None:
    def descriptors() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [path for link in links if os.path.lexists(link) and "/disk1" in (path := os.readlink(link))]

    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        stuck.hang("write")
        with hangs():
            await disk.write("slab/a", 0, [b"late"])
        assert descriptors()
        stuck.let_go()
        await found_again(disk)
        assert descriptors() == [str(tmp_path / "disk1")]
        assert await disk.read("slab/a", 0, 4) == b"late"

    run(tmp_path, body)


def test_a_slow_queue_that_gets_on_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all = kernel.write_all
    slept = threading.Event()

    def slow(fd: int, offset: int, buffers: Sequence[Buffer]) -> None:
        slept.wait(LIMIT_SECONDS / 4)
        write_all(fd, offset, buffers)

    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        monkeypatch.setattr(kernel, "write_all", slow)
        errors: list[DiskError | None] = []

        async def write(index: int) -> None:
            errors.extend(await LocalFanout().write_durable([DiskWrite(disk, "log/a", index, [b"x"])], Lane.LOG))

        async with trio.open_nursery() as nursery:
            for index in range(12):
                nursery.start_soon(write, index)
        assert errors == [None] * 12

    run(tmp_path, body)


def test_a_buffer_of_a_stuck_write_stays_alive_and_lands_as_it_was(tmp_path: Path, stuck: Stuck) -> None:
    async def body(disk: LocalDisk, _other: LocalDisk) -> None:
        stuck.hang("write")
        data = bytes(os.urandom(60_000))
        expected = bytes(bytearray(data))
        with hangs():
            await disk.write("slab/a", 0, [data])
        del data
        [os.urandom(60_000) for _ in range(20)]
        stuck.let_go()
        await found_again(disk)
        assert await disk.read("slab/a", 0, 60_000) == expected

    run(tmp_path, body)


def test_a_lane_that_is_given_up_while_its_thread_starts_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        """A job of no effect."""

        def __init__(self) -> None:
            self.answered = threading.Event()

        def carry_out(self) -> None:
            self.answered.set()

        def flushed(self, error: OSError | None) -> None:
            raise AssertionError("nothing was carried out")

        def describe(self) -> str:
            return "nothing"

        def give_up(self, cause: str) -> None:
            self.answered.set()

    lane, job, ended = DiskLane("lane", lambda file: None, lambda: None), Nothing(), threading.Event()
    start = threading.Thread.start

    def give_up() -> None:
        lane.give_up("no answer")
        lane.fail_all()
        lane.join()
        ended.set()

    def slow_start(thread: threading.Thread) -> None:
        if thread.name == "lane":
            start(threading.Thread(target=give_up))
            ended.wait(0.1)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow_start)
    lane.submit(job)
    assert ended.wait(10) and job.answered.wait(10)
