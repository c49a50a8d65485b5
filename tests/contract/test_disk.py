"""What every Disk and every Fanout does, held by the real ones and the simulated ones alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.parts import part_folder
from siltstone.engine.disk.prefixed import PrefixedDisk, PrefixedFanout
from siltstone.engine.format.superblock import SUPERBLOCK_NAME, Superblock, pack_superblock
from siltstone.errors import DiskError, DiskFull, DiskMissing, FileMissing
from siltstone.ports import Disk, DiskPunch, DiskRead, DiskWrite, Fanout, FileEntry, Lane
from siltstone.types import DiskId
from sim.clock import autojump
from sim.disk import SimDisk
from sim.fanout import SimFanout

KIB = 1024
LIMIT_BYTES = 256 * KIB


class Bench:
    """A disk under test, a fan-out for it, and how to take the disk away."""

    disk: Disk
    other: Disk
    fanout: Fanout
    own_names: tuple[str, ...] = (SUPERBLOCK_NAME,)
    """What is there from the start."""

    async def open(self) -> None:
        """Make the disks."""
        raise NotImplementedError

    async def fill_to(self, free_bytes: int) -> None:
        """Take room with a file until that much is free under the limit of LIMIT_BYTES."""
        space = await self.disk.space()
        await self.disk.create("filler", space.free_bytes - free_bytes)

    def disappear(self) -> None:
        """Take the disk away."""
        raise NotImplementedError

    def return_(self) -> None:
        """Put it back as it was."""
        raise NotImplementedError


def superblock(disk_id: DiskId) -> Superblock:
    """What the disk of a bench is."""
    return Superblock(bytes(16), bytes([disk_id]) * 16, disk_id, 2, 1, 1, 64 * KIB, 0)


class SimBench(Bench):
    """Simulated disks."""

    def __init__(self, folder: Path) -> None:
        self.sim = SimDisk(DiskId(3), capacity_bytes=LIMIT_BYTES)
        self.disk = self.sim
        self.other = self.other_sim = SimDisk(DiskId(4), capacity_bytes=LIMIT_BYTES)
        self.fanout = SimFanout()

    async def open(self) -> None:
        for disk in (self.sim, self.other_sim):
            disk.format(pack_superblock(superblock(disk.disk_id)))
        await trio.lowlevel.checkpoint()

    def disappear(self) -> None:
        self.sim.disappear()

    def return_(self) -> None:
        self.sim.return_()


class LocalBench(Bench):
    """Directories."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fanout = LocalFanout()

    async def open(self) -> None:
        disks = []
        for disk_id in (DiskId(3), DiskId(4)):
            path = self.folder / f"disk{disk_id}"
            identity = bytes([disk_id]) * 16
            await format_disk(path, superblock(disk_id))
            disks.append(LocalDisk(disk_id, path, identity, LIMIT_BYTES))
        self.disk, self.other = disks

    def disappear(self) -> None:
        os.rename(self.folder / "disk3", self.folder / "away")

    def return_(self) -> None:
        os.rename(self.folder / "away", self.folder / "disk3")


class PrefixedSimBench(SimBench):
    """Parts of simulated disks."""

    own_names = ()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk, self.other = PrefixedDisk(self.sim, "shard-2"), PrefixedDisk(self.other_sim, "shard-2")
        self.fanout = PrefixedFanout(SimFanout())


class PrefixedLocalBench(LocalBench):
    """Parts of directories."""

    own_names = ()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fanout = PrefixedFanout(LocalFanout())

    async def open(self) -> None:
        disks: list[Disk] = []
        for disk_id in (DiskId(3), DiskId(4)):
            path = self.folder / f"disk{disk_id}"
            await format_disk(path, superblock(disk_id))
            real = LocalDisk(disk_id, path, bytes([disk_id]) * 16, LIMIT_BYTES, part=2)
            disks.append(PrefixedDisk(real, part_folder(2)))
        self.disk, self.other = disks


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "local": LocalBench,
    "sim": SimBench,
    "part-local": PrefixedLocalBench,
    "part-sim": PrefixedSimBench,
}


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return BENCHES[request.param](tmp_path)


def run(bench: Bench, body: Callable[[Disk], Awaitable[None]]) -> None:
    async def main() -> None:
        await bench.open()
        try:
            await body(bench.disk)
        finally:
            await bench.disk.close()
            await bench.other.close()

    trio.run(main, clock=autojump() if isinstance(bench, SimBench) else None)


def test_a_created_file_is_zeros_of_its_length(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("log/a", 10_000)
        assert await disk.read("log/a", 0, 10_000) == bytes(10_000)
        assert await disk.list("log/") == [FileEntry("log/a", 10_000)]

    run(bench, body)


def test_an_empty_file_may_be_created_and_read(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("empty", 0)
        assert await disk.read("empty", 0, 0) == b""
        assert await disk.list("empty") == [FileEntry("empty", 0)]

    run(bench, body)


def test_creating_a_name_that_is_taken_is_an_error_and_changes_nothing(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("log/a", 4096)
        await disk.write("log/a", 0, [b"precious"])
        with pytest.raises(DiskError, match="exists"):
            await disk.create("log/a", 8192)
        assert await disk.read("log/a", 0, 8) == b"precious"
        assert await disk.list("log/") == [FileEntry("log/a", 4096)]

    run(bench, body)


def test_buffers_are_written_one_after_the_other(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 4096)
        await disk.write("a", 100, [b"one", bytearray(b"two"), memoryview(b"xthreex")[1:-1], b""])
        await disk.flush("a")
        assert await disk.read("a", 99, 13) == b"\0onetwothree\0"

    run(bench, body)


def test_more_buffers_than_one_system_call_takes_are_written(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        pieces = [bytes([number % 251]) * (number % 7) for number in range(3000)]
        whole = b"".join(pieces)
        await disk.create("a", len(whole) + 10)
        await disk.write("a", 5, pieces)
        assert await disk.read("a", 5, len(whole)) == whole

    run(bench, body)


def test_a_write_behind_the_end_extends_the_file(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 10)
        await disk.write("a", 20, [b"end"])
        assert await disk.read("a", 0, 23) == bytes(20) + b"end"
        assert await disk.list("a") == [FileEntry("a", 23)]

    run(bench, body)


def test_a_short_file_is_an_error_and_not_short_data(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 100)
        with pytest.raises(DiskError, match="short"):
            await disk.read("a", 50, 51)
        assert disk.read_nowait("a", 50, 51) is None

    run(bench, body)


def test_read_nowait_gives_the_bytes_or_nothing(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        for size in (1, 100, 16 * KIB, 16 * KIB + 1, 100 * KIB):
            name = f"f{size}"
            data = bytes(number % 251 for number in range(size))
            await disk.create(name, size)
            await disk.write(name, 0, [data])
            await disk.read(name, 0, size)
            assert disk.read_nowait(name, 0, size) in (data, None)
            assert disk.read_nowait(name, size - 1, 1) in (data[-1:], None)
            await disk.delete(name)
        assert disk.read_nowait("nothing", 0, 1) is None

    run(bench, body)


def test_a_missing_file_is_file_missing_for_every_operation(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("folder/there", 1)
        for name in ("absent", "folder/absent", "nofolder/absent"):
            with pytest.raises(FileMissing):
                await disk.read(name, 0, 1)
            with pytest.raises(FileMissing):
                await disk.write(name, 0, [b"x"])
            with pytest.raises(FileMissing):
                await disk.flush(name)
            with pytest.raises(FileMissing):
                await disk.punch(name, 0, 1)
            with pytest.raises(FileMissing):
                await disk.delete(name)
            with pytest.raises(FileMissing):
                await disk.rename(name, "target")
            with pytest.raises(FileMissing):
                await disk.rename(name, name)

    run(bench, body)


def test_a_deleted_file_is_gone_at_once_and_its_name_is_free(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 4096)
        await disk.write("a", 0, [b"old"])
        assert await disk.read("a", 0, 3) == b"old"
        await disk.delete("a")
        assert disk.read_nowait("a", 0, 3) is None
        with pytest.raises(FileMissing):
            await disk.read("a", 0, 3)
        assert await disk.list("a") == []
        await disk.create("a", 4096)
        assert await disk.read("a", 0, 3) == bytes(3)

    run(bench, body)


def test_rename_replaces_the_target(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        for name in ("log/a", "slab/b"):
            await disk.create(name, 4096)
            await disk.write(name, 0, [name.encode()])
            assert await disk.read(name, 0, 6)
        await disk.rename("log/a", "slab/b")
        assert await disk.read("slab/b", 0, 5) == b"log/a"
        assert disk.read_nowait("log/a", 0, 5) is None
        with pytest.raises(FileMissing):
            await disk.read("log/a", 0, 5)
        await disk.rename("slab/b", "new/c")
        await disk.rename("new/c", "new/c")
        assert await disk.read("new/c", 0, 5) == b"log/a"

    run(bench, body)


def test_list_gives_names_with_the_prefix_in_order(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        for name in ("log/b", "log/a", "log/free-1", "logs", "slab/0"):
            await disk.create(name, 1)
        assert [entry.name for entry in await disk.list("log/")] == ["log/a", "log/b", "log/free-1"]
        assert [entry.name for entry in await disk.list("log/free-")] == ["log/free-1"]
        assert [entry.name for entry in await disk.list("log")] == ["log/a", "log/b", "log/free-1", "logs"]
        everything = [entry.name for entry in await disk.list("")]
        assert everything == ["log/a", "log/b", "log/free-1", "logs", "slab/0", *bench.own_names]
        assert await disk.list("nothing/") == []

    run(bench, body)


def test_a_punched_range_reads_as_zeros_and_gives_room_back(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 128 * KIB)
        await disk.write("a", 0, [b"\xff" * 128 * KIB])
        await disk.flush("a")
        before = await disk.space()
        await disk.punch("a", 10_000, 50_000)
        expected = b"\xff" * 10_000 + bytes(50_000) + b"\xff" * (128 * KIB - 60_000)
        assert await disk.read("a", 0, 128 * KIB) == expected
        assert (await disk.space()).free_bytes >= before.free_bytes + 44 * KIB
        await disk.punch("a", 100 * KIB, 1024 * KIB)
        assert await disk.list("a") == [FileEntry("a", 128 * KIB)]

    run(bench, body)


def test_places_of_several_files_are_punched_together_and_one_that_is_not_there_spares_the_others(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        for each, name in ((disk, "a"), (bench.other, "b")):
            await each.create(name, 128 * KIB)
            await each.write(name, 0, [b"\xff" * 128 * KIB])
        before = await disk.space()
        places = [(0, 16 * KIB), (32 * KIB, 16 * KIB)]
        missing, *errors = await bench.fanout.punch(
            [DiskPunch(disk, "c", places), DiskPunch(disk, "a", places), DiskPunch(bench.other, "b", places[1:])]
        )
        assert isinstance(missing, FileMissing)
        assert errors == [None, None]
        kept = b"\xff" * 16 * KIB
        assert await disk.read("a", 0, 64 * KIB) == bytes(16 * KIB) + kept + bytes(16 * KIB) + kept
        assert await bench.other.read("b", 0, 64 * KIB) == kept + kept + bytes(16 * KIB) + kept
        assert (await disk.space()).free_bytes == before.free_bytes + 32 * KIB
        assert await bench.fanout.punch([]) == []

    run(bench, body)


def test_replace_makes_and_overwrites(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.replace("folder/config", b"first and long")
        assert await disk.read("folder/config", 0, 14) == b"first and long"
        await disk.replace("folder/config", memoryview(b"second"))
        assert await disk.list("folder/") == [FileEntry("folder/config", 6)]
        assert await disk.read("folder/config", 0, 6) == b"second"

    run(bench, body)


def test_room_is_counted_and_a_full_disk_is_disk_full(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        before = await disk.space()
        assert before.total_bytes == LIMIT_BYTES
        await disk.create("a", 64 * KIB)
        assert (await disk.space()).free_bytes == before.free_bytes - 64 * KIB
        with pytest.raises(DiskFull):
            await disk.create("b", LIMIT_BYTES)
        with pytest.raises(DiskFull):
            await disk.replace("b", bytes(LIMIT_BYTES))
        assert await disk.list("b") == []
        await bench.fill_to(0)
        await disk.write("a", 0, [b"x" * 64 * KIB])  # its room is reserved
        with pytest.raises(DiskFull):
            await disk.write("a", 64 * KIB, [b"x"])
        await disk.punch("a", 0, 32 * KIB)
        await disk.create("c", 32 * KIB)
        with pytest.raises(DiskFull):
            await disk.write("a", 0, [b"x" * 4096])
        await disk.delete("c")
        await disk.write("a", 0, [b"x" * 4096])
        await disk.delete("a")
        await disk.delete("filler")
        assert (await disk.space()).free_bytes == before.free_bytes

    run(bench, body)


def test_a_disk_that_is_away_is_disk_missing_until_it_is_back(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("log/a", 4096)
        await disk.write("log/a", 0, [b"kept"])
        await disk.flush("log/a")
        await disk.probe()
        bench.disappear()
        with pytest.raises(DiskMissing):
            await disk.probe()
        assert disk.read_nowait("log/a", 0, 4) is None
        operations: list[Callable[[], Awaitable[object]]] = [
            lambda: disk.read("log/a", 0, 4),
            lambda: disk.write("log/a", 0, [b"lost"]),
            lambda: disk.flush("log/a"),
            lambda: disk.punch("log/a", 0, 4096),
            lambda: disk.create("log/b", 4096),
            lambda: disk.delete("log/a"),
            lambda: disk.rename("log/a", "log/b"),
            lambda: disk.replace("x", b"x"),
            lambda: disk.list(""),
            lambda: disk.space(),
            lambda: disk.probe(),
        ]
        for operation in operations:
            with pytest.raises(DiskMissing):
                await operation()
        bench.return_()
        await disk.probe()
        assert await disk.read("log/a", 0, 4) == b"kept"
        assert [entry.name for entry in await disk.list("log/")] == ["log/a"]

    run(bench, body)


def test_a_fan_out_writes_and_reads_several_disks_and_tells_errors_by_position(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        other, fanout = bench.other, bench.fanout
        await disk.create("a", 4096)
        await other.create("a", 4096)
        for lane in Lane:
            text = lane.value.encode()
            errors = await fanout.write_durable(
                [
                    DiskWrite(disk, "a", 0, [text, b"!"]),
                    DiskWrite(other, "absent", 0, [text]),
                    DiskWrite(other, "a", 8, [text]),
                    DiskWrite(disk, "a", 100, [text]),
                ],
                lane,
            )
            assert [type(error) for error in errors] == [type(None), FileMissing, type(None), type(None)]
            reads = [
                DiskRead(disk, "a", 0, 5),
                DiskRead(other, "a", 8, 4),
                DiskRead(disk, "absent", 0, 1),
                DiskRead(disk, "a", 4000, 200),
                DiskRead(disk, "a", 100, 4),
            ]
            found = await fanout.read(reads, lane)
            assert found[0] == (text + b"!\0")[:5]
            assert found[1] == (text + b"\0")[:4]
            assert isinstance(found[2], FileMissing) and isinstance(found[3], DiskError)
            assert found[4] == (text + b"\0")[:4]
        assert await fanout.write_durable([], Lane.LOG) == []
        assert await fanout.read([], Lane.BULK) == []

    run(bench, body)


def test_a_fan_out_to_a_disk_that_is_away_still_writes_the_others(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 4096)
        await bench.other.create("a", 4096)
        bench.disappear()
        with pytest.raises(DiskMissing):
            await disk.probe()
        writes = [DiskWrite(disk, "a", 0, [b"x"]), DiskWrite(bench.other, "a", 0, [b"x"])]
        first, second = await bench.fanout.write_durable(writes, Lane.LOG)
        assert isinstance(first, DiskMissing) and first.disk_id == 3 and second is None
        bench.return_()

    run(bench, body)


def test_many_tasks_at_once_each_get_their_own_bytes(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 64 * KIB)

        async def use(index: int) -> None:
            data = bytes([index]) * 1000
            for lane in Lane:
                assert await bench.fanout.write_durable([DiskWrite(disk, "a", index * 1000, [data])], lane) == [None]
            assert await disk.read("a", index * 1000, 1000) == data

        async with trio.open_nursery() as nursery:
            for index in range(60):
                nursery.start_soon(use, index)

    run(bench, body)


def test_an_operation_that_is_cancelled_before_it_begins_has_no_effect(bench: Bench) -> None:
    async def body(disk: Disk) -> None:
        await disk.create("a", 4096)
        with trio.CancelScope() as scope:
            scope.cancel()
            await disk.write("a", 0, [b"x"])
            raise AssertionError("not reached")
        with trio.CancelScope() as scope:
            scope.cancel()
            await bench.fanout.write_durable([DiskWrite(disk, "a", 0, [b"x"])], Lane.LOG)
            raise AssertionError("not reached")
        assert await disk.read("a", 0, 1) == b"\0"

    run(bench, body)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", ".hidden", "a/", "a\0b"])
def test_a_name_that_could_leave_the_disk_is_a_bug_of_ours(bench: Bench, name: str) -> None:
    async def body(disk: Disk) -> None:
        with pytest.raises(AssertionError):
            await disk.create(name, 1)
        with pytest.raises(AssertionError):
            await disk.read(name, 0, 1)

    run(bench, body)


@pytest.mark.parametrize("damage", ["rotten", "missing", "foreign", "sound"])
@pytest.mark.parametrize("witnesses", [[], ["log/a"], ["log/a", "log/gone"], ["log/gone"]])
def test_a_superblock_is_restored_only_where_none_is_sound_and_the_disks_files_are(
    bench: Bench, damage: str, witnesses: list[str]
) -> None:
    async def body(disk: Disk) -> None:
        whole = disk.disk if isinstance(disk, PrefixedDisk) else disk
        await disk.create("log/a", 100)
        own, foreign = pack_superblock(superblock(DiskId(3))), pack_superblock(superblock(DiskId(9)))
        if damage == "rotten":
            await whole.replace(SUPERBLOCK_NAME, b"x" + own[1:])
        elif damage == "missing":
            await whole.delete(SUPERBLOCK_NAME)
        elif damage == "foreign":
            await whole.replace(SUPERBLOCK_NAME, foreign)
        if damage != "sound":
            with pytest.raises(DiskMissing):
                await disk.probe()
            with pytest.raises(DiskMissing):
                await disk.read("log/a", 0, 1)
        if damage in ("sound", "foreign"):
            assert not await disk.restore_superblock(own, witnesses)
        elif "log/a" not in witnesses:
            with pytest.raises(DiskError, match="another directory"):
                await disk.restore_superblock(own, witnesses)
            with pytest.raises(DiskMissing):
                await disk.probe()
        else:
            assert await disk.restore_superblock(own, witnesses)
        if damage == "foreign":
            with pytest.raises(DiskMissing):
                await disk.probe()
        elif damage == "sound" or "log/a" in witnesses:
            await disk.probe()
            assert await whole.read(SUPERBLOCK_NAME, 0, len(own)) == own
            assert await disk.read("log/a", 0, 100) == bytes(100)

    run(bench, body)


STEP = st.one_of(
    st.tuples(st.just("create"), st.sampled_from("abc"), st.integers(0, 9000)),
    st.tuples(st.just("write"), st.sampled_from("abc"), st.integers(0, 9000), st.binary(max_size=600)),
    st.tuples(st.just("punch"), st.sampled_from("abc"), st.integers(0, 9000), st.integers(0, 9000)),
    st.tuples(st.just("delete"), st.sampled_from("abc")),
    st.tuples(st.just("rename"), st.sampled_from("abc"), st.sampled_from("abc")),
    st.tuples(st.just("replace"), st.sampled_from("abc"), st.binary(max_size=600)),
    st.tuples(st.just("reopen")),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(STEP, max_size=25))
def test_real_and_simulated_disks_do_the_same(tmp_path: Path, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    folder = tmp_path / "same"
    benches = [LocalBench(folder), SimBench(folder)]

    async def outcome(disk: Disk, step: tuple) -> object:  # type: ignore[type-arg]
        operation, *arguments = step
        if operation == "write":
            arguments[2] = [arguments[2]]
        try:
            await getattr(disk, operation)(*arguments)
            entries = await disk.list("")
            return [(entry.name, await disk.read(entry.name, 0, entry.size)) for entry in entries[:-1]]
        except DiskError as error:
            return type(error), error.operation, error.name

    async def main() -> None:
        for bench in benches:
            await bench.open()
        local, sim = benches
        try:
            for step in steps:
                if step[0] == "reopen":
                    await local.disk.close()
                    local.disk = LocalDisk(DiskId(3), folder / "disk3", bytes([3]) * 16, LIMIT_BYTES)
                else:
                    assert await outcome(local.disk, step) == await outcome(sim.disk, step)
        finally:
            for bench in benches:
                await bench.disk.close()

    try:
        trio.run(main)
    finally:
        shutil.rmtree(folder)
