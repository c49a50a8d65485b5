"""LocalDisk beyond the contract: what the operating system does to it."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from siltstone.engine.disk import kernel
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import AT_ONCE_BYTES_MAX, LocalDisk, format_disk
from siltstone.engine.disk.open_files import OPEN_FILES_MAX, OpenFile, OpenFiles
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.engine.format.superblock import SUPERBLOCK_NAME, Superblock, pack_superblock
from siltstone.errors import ConfigInvalid, DiskError, DiskFull, DiskMissing, FileMissing
from siltstone.ports import Clock, Disk, DiskWrite, Fanout, Lane, Random, Workers
from siltstone.types import DiskId
from sim.memory_folder import folder_in_memory

UUID = b"this disk's uuid"


def superblock(uuid: bytes = UUID) -> Superblock:
    return Superblock(bytes(16), uuid, DiskId(1), 1, 1, 0, 4096, 0)


def run(tmp_path: Path, body: Callable[[LocalDisk], Awaitable[None]], *, bytes_max: int = 0) -> None:
    async def main() -> None:
        await format_disk(tmp_path / "disk", superblock())
        disk = LocalDisk(DiskId(1), tmp_path / "disk", UUID, bytes_max)
        try:
            await body(disk)
        finally:
            await disk.close()

    trio.run(main)


def open_descriptors(path: Path) -> int:
    """Descriptors of this process that lead to somewhere under a path."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(path))
        except FileNotFoundError:
            continue
    return found


def test_the_implementations_fit_their_ports() -> None:
    disk: Disk = LocalDisk(DiskId(9), "nowhere", UUID)
    fanout: Fanout = LocalFanout()
    workers: Workers = TrioWorkers()
    clock: Clock = SystemClock()
    random: Random = SystemRandom()
    assert disk.disk_id == 9 and all((fanout, workers))
    assert clock.now_ns() > 10**18 and clock.monotonic_ns() <= clock.monotonic_ns()
    assert len(random.bytes(9)) == 9 and {random.below(2) for _ in range(100)} == {0, 1}


def test_workers_run_in_another_thread_and_hand_on_what_is_raised() -> None:
    async def main() -> None:
        workers = TrioWorkers()
        assert await workers.run(threading.get_ident) != threading.get_ident()
        assert await workers.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 7, 0)

    trio.run(main)


def test_what_is_in_the_page_cache_is_read_without_a_thread(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        data = os.urandom(300_000)
        await disk.create("a", len(data))
        await disk.write("a", 0, [data])
        with (tmp_path / "disk/a").open("rb") as file:
            try:
                os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            except OSError:  # tmpfs, for one, has no RWF_NOWAIT: then every read takes a thread
                assert disk.read_nowait("a", 0, 1) is None
                return
        for offset, size in ((0, 300_000), (5, 4096), (1, 16384), (7, 16385), (299_999, 1), (9, 0)):
            assert disk.read_nowait("a", offset, size) == data[offset : offset + size]
        await disk.delete("a")
        assert disk.read_nowait("a", 0, 1) is None

    run(tmp_path, body)


def test_small_appends_to_a_log_in_memory_take_no_thread() -> None:
    memory = folder_in_memory()
    if memory is None:
        pytest.skip("no tmpfs")

    async def body(disk: LocalDisk) -> None:
        def threads() -> set[str]:
            return {thread.name for thread in threading.enumerate() if "-log" in thread.name}

        async def append(name: str, offset: int, data: bytes) -> DiskError | None:
            (result,) = await LocalFanout().write_durable([DiskWrite(disk, name, offset, [data])], Lane.LOG)
            return result

        await disk.create("log/a", 1 << 20)
        await disk.write("log/a", 0, [b"opens it"])
        before = threads()
        assert await append("log/a", 4096, b"x" * 4096) is None
        assert threads() == before
        assert await disk.read("log/a", 4095, 3) == b"\0xx"
        # A file that is not open may have to be looked for, and much takes long: not in the loop.
        assert isinstance(await append("log/b", 0, b"x"), FileMissing)
        assert await append("log/a", 0, b"y" * (AT_ONCE_BYTES_MAX + 1)) is None
        assert threads() > before
        assert await disk.read("log/a", 0, 2) == b"yy"

    with tempfile.TemporaryDirectory(dir=memory) as folder:
        run(Path(folder), body)


def test_a_removed_directory_is_disk_missing_without_waiting_for_a_probe(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 4096)
        shutil.rmtree(tmp_path / "disk")
        with pytest.raises(DiskMissing):
            await disk.read("log/b", 0, 1)
        with pytest.raises(DiskMissing):
            await disk.create("log/c", 1)
        with pytest.raises(DiskMissing):
            await disk.read("log/a", 0, 1)
        assert open_descriptors(tmp_path) == 0

    run(tmp_path, body)


def test_a_directory_renamed_away_is_let_go_of_and_never_written_again(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 4096)
        await disk.write("log/a", 0, [b"before"])
        assert open_descriptors(tmp_path) > 0
        os.rename(tmp_path / "disk", tmp_path / "away")
        with pytest.raises(DiskMissing):
            await disk.probe()
        assert open_descriptors(tmp_path) == 0
        with pytest.raises(DiskMissing):
            await disk.write("log/a", 0, [b"after!"])
        assert (tmp_path / "away/log/a").read_bytes()[:6] == b"before"

    run(tmp_path, body)


def test_another_disk_at_the_path_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 4096)
        os.rename(tmp_path / "disk", tmp_path / "away")
        await format_disk(tmp_path / "disk", superblock(b"another one's id"))
        for _ in range(2):
            with pytest.raises(DiskMissing):
                await disk.probe()
        with pytest.raises(DiskMissing, match="another disk"):
            await disk.create("log/b", 4096)
        shutil.rmtree(tmp_path / "disk")
        os.rename(tmp_path / "away", tmp_path / "disk")
        await disk.probe()
        assert [entry.name for entry in await disk.list("log/")] == ["log/a"]

    run(tmp_path, body)


@pytest.mark.parametrize("damage", ["removed", "emptied", "flipped"])
def test_a_disk_without_its_superblock_is_missing(tmp_path: Path, damage: str) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.probe()
        path = tmp_path / "disk" / SUPERBLOCK_NAME
        if damage == "removed":
            path.unlink()
        elif damage == "emptied":
            path.write_bytes(b"")
        else:
            path.write_bytes(b"X" + path.read_bytes()[1:])
        with pytest.raises(DiskMissing):
            await disk.probe()
        path.write_bytes(pack_superblock(superblock()))
        await disk.probe()

    run(tmp_path, body)


def test_a_disk_that_was_never_there_is_missing_and_usable_once_it_comes(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LocalDisk(DiskId(1), tmp_path / "late", UUID)
        with pytest.raises(DiskMissing):
            await disk.create("a", 1)
        await format_disk(tmp_path / "late", superblock())
        with pytest.raises(DiskMissing):
            await disk.create("a", 1)
        await disk.probe()
        await disk.create("a", 1)
        await disk.close()

    trio.run(main)


def test_a_file_removed_behind_our_back_is_noticed_by_the_next_probe(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 4096)
        await disk.write("log/a", 0, [b"x"])
        (tmp_path / "disk/log/a").unlink()
        await disk.probe()
        with pytest.raises(FileMissing):
            await disk.write("log/a", 0, [b"x"])

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.ENODEV, DiskMissing),
        (errno.EIO, DiskError),
        (errno.EROFS, DiskError),
    ],
)
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_errors_of_the_operating_system_get_our_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[DiskError], call: str
) -> None:
    fired = 0

    def fail(*_: object) -> int:
        nonlocal fired
        fired += 1
        raise OSError(code, os.strerror(code))

    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 4096)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            writes = [DiskWrite(disk, "log/a", 0, [b"x"])] * 3
            for error in await LocalFanout().write_durable(writes, Lane.LOG):
                assert type(error) is kind and error.disk_id == 1
            with pytest.raises(kind):
                await (disk.write("log/a", 0, [b"x"]) if call == "pwritev" else disk.flush("log/a"))
        assert await LocalFanout().write_durable(writes, Lane.BULK) == [None] * 3

    run(tmp_path, body)
    assert fired >= 2


def test_room_is_counted_though_two_threads_change_one_file(tmp_path: Path) -> None:
    """What users write at once and what is settled may go to the same chunk file."""
    size, row = 1 << 20, 4096

    async def body(disk: LocalDisk) -> None:
        await disk.create("slab/a", size)
        fanout = LocalFanout()
        for _ in range(4):
            await disk.punch("slab/a", 0, size)

            async def write(lane: Lane, first: int) -> None:
                for offset in range(first * row, size, 2 * row):
                    assert await fanout.write_durable([DiskWrite(disk, "slab/a", offset, [bytes(row)])], lane) == [None]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, Lane.BULK, 0)
                nursery.start_soon(write, Lane.BACKGROUND, 1)
            taken = sum(entry.stat().st_blocks * 512 for entry in (folder / "disk").rglob("*") if entry.is_file())
            space = await disk.space()
            assert space.total_bytes - space.free_bytes == taken

    # On a tmpfs, if there is one: others count blocks of their own maps with the file, and not always at once.
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else tmp_path) as name:
        folder = Path(name)
        run(folder, body, bytes_max=4 << 20)


def test_jobs_that_wait_together_share_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_flush = threading.Event()
    in_flush = threading.Event()
    flushes = 0
    real_flush = os.fdatasync

    def flush(fd: int) -> None:
        nonlocal flushes
        flushes += 1
        in_flush.set()
        may_flush.wait()
        real_flush(fd)

    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 64 * 4096)
        monkeypatch.setattr(os, "fdatasync", flush)
        async with trio.open_nursery() as nursery:
            fanout = LocalFanout()
            nursery.start_soon(fanout.write_durable, [DiskWrite(disk, "log/a", 0, [b"first"])], Lane.LOG)
            await trio.to_thread.run_sync(in_flush.wait)
            for index in range(1, 21):
                write = DiskWrite(disk, "log/a", index * 4096, [b"x"])
                nursery.start_soon(fanout.write_durable, [write], Lane.LOG)
            await trio.testing.wait_all_tasks_blocked()
            may_flush.set()
        assert flushes == 2

    run(tmp_path, body)


@pytest.mark.parametrize("operation", ["create", "rename", "replace"])
def test_a_new_name_is_flushed_with_its_folder_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path / "disk"))
        real(fd)

    async def body(disk: LocalDisk) -> None:
        await disk.create("log/old", 4096)
        monkeypatch.setattr(os, "fsync", fsync)
        if operation == "create":
            await disk.create("slab/new", 4096)
        elif operation == "rename":
            await disk.rename("log/old", "slab/new")
        else:
            await disk.replace("slab/new", b"data")
        # The new folder in the root, the file's contents, its name; for a rename the name that went as well.
        contents = [] if operation == "rename" else ["slab/.new.new"]
        assert synced == [".", *contents, "slab", *(["log"] if operation == "rename" else [])]

    run(tmp_path, body)


def test_short_writes_of_the_kernel_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    calls = 0

    def short(fd: int, buffers: Sequence[bytes], offset: int) -> int:
        nonlocal calls
        calls += 1
        return real(fd, [b"".join(buffers)[:7]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    kernel.write_all(fd, 3, [b"0123456789", b"", bytearray(b"abcdefgh"), memoryview(b"ZYX")])
    assert os.pread(fd, 100, 0) == b"\0\0\0" + b"0123456789abcdefghZYX"
    os.close(fd)
    assert calls == 3


def test_a_filesystem_without_fallocate_still_gives_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no fallocate here")

    def refuse_punch(*_: object) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(kernel, "_fallocate", refuse_punch)

    async def body(disk: LocalDisk) -> None:
        await disk.create("a", 3 << 20)
        await disk.write("a", 0, [b"\xff" * (3 << 20)])
        await disk.punch("a", 100, (2 << 20) + 100)
        data = await disk.read("a", 0, 3 << 20)
        assert data == b"\xff" * 100 + bytes((2 << 20) + 100) + b"\xff" * ((1 << 20) - 200)

    run(tmp_path, body)


def test_what_an_unfinished_create_left_is_hidden_and_removed_at_the_next_opening(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 1)
        leftover = tmp_path / "disk/log/.b.new"
        leftover.write_bytes(b"half")
        assert [entry.name for entry in await disk.list("log/")] == ["log/a"]
        await disk.close()
        again = LocalDisk(DiskId(1), tmp_path / "disk", UUID)
        await again.probe()
        assert not leftover.exists()
        await again.close()

    run(tmp_path, body)


def test_a_symbolic_link_leads_nowhere(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        (tmp_path / "outside").write_bytes(b"secret")
        os.symlink(tmp_path / "outside", tmp_path / "disk/link")
        with pytest.raises(DiskError):
            await disk.read("link", 0, 6)
        assert [entry.name for entry in await disk.list("l")] == []

    run(tmp_path, body)


def test_many_more_files_than_are_kept_open_can_be_used(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        for index in range(OPEN_FILES_MAX + 50):
            await disk.create(f"slab/{index:04}", 10)
            await disk.write(f"slab/{index:04}", 0, [b"%04d" % index])
        assert open_descriptors(tmp_path) <= OPEN_FILES_MAX + 1
        for index in range(OPEN_FILES_MAX + 50):
            assert await disk.read(f"slab/{index:04}", 0, 4) == b"%04d" % index

    run(tmp_path, body)


def test_a_file_in_use_is_closed_only_when_nobody_uses_it(tmp_path: Path) -> None:
    files = OpenFiles(1)

    def opened(name: str) -> OpenFile:
        fd = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
        file = files.add(name, fd, files.generation)
        assert file is not None
        return file

    first = opened("a")
    second = opened("b")  # the cache has room for one
    os.fstat(first.fd)
    files.unpin(first)
    with pytest.raises(OSError):
        os.fstat(first.fd)
    files.revoke()
    os.fstat(second.fd)
    files.unpin(second)
    with pytest.raises(OSError):
        os.fstat(second.fd)
    assert files.add("c", os.open(tmp_path / "c", os.O_RDWR | os.O_CREAT), 0) is None
    assert open_descriptors(tmp_path) == 0


def test_close_lets_go_of_descriptors_and_threads(tmp_path: Path) -> None:
    before = threading.active_count()

    async def body(disk: LocalDisk) -> None:
        await disk.create("a", 4096)
        await LocalFanout().write_durable([DiskWrite(disk, "a", 0, [b"x"])], Lane.LOG)
        assert await disk.read("a", 0, 1) == b"x"
        await disk.close()
        await disk.close()
        assert open_descriptors(tmp_path) == 0
        assert disk.read_nowait("a", 0, 1) is None

    run(tmp_path, body)
    for thread in threading.enumerate():
        if thread.name.startswith("disk-1-"):
            thread.join(10)
    assert threading.active_count() <= before + 1  # trio keeps a worker thread for a while


def test_the_limit_counts_what_was_there_before(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("a", 64 * 1024)
        await disk.close()
        again = LocalDisk(DiskId(1), tmp_path / "disk", UUID, bytes_max=128 * 1024)
        assert (await again.space()).free_bytes in (0, (128 - 64 - 4) * 1024)
        with pytest.raises(DiskFull):
            await again.create("b", 64 * 1024)
        await again.close()

    run(tmp_path, body)


def test_a_disk_that_is_open_belongs_to_nobody_else(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("log/a", 1)
        other = LocalDisk(DiskId(1), tmp_path / "disk", UUID)
        with pytest.raises(DiskMissing, match="another process uses this disk"):
            await other.list("")
        with pytest.raises(DiskMissing):
            await other.probe()
        await disk.close()
        await other.probe()
        assert [entry.name for entry in await other.list("log/")] == ["log/a"]
        await other.close()

    run(tmp_path, body)


def test_one_that_only_reads_sees_the_files_of_all_parts_and_disturbs_nobody(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        await disk.create("shard-1/slab/1.0", 8192)
        await disk.write("shard-1/slab/1.0", 0, [b"first"])
        await disk.flush("shard-1/slab/1.0")
        unfinished = tmp_path / "disk" / ".making.new"
        unfinished.write_bytes(b"another process is at it")
        reader = LocalDisk(DiskId(1), tmp_path / "disk", UUID, only_reads=True)
        await reader.probe()
        assert await reader.read("shard-1/slab/1.0", 0, 5) == b"first"
        assert unfinished.exists()
        assert reader.read_nowait("shard-1/slab/1.0", 0, 5) == b"first"
        with pytest.raises(DiskError):
            await reader.write("shard-1/slab/1.0", 0, [b"x"])
        # A name that means another file is known after the next probe.
        await disk.delete("shard-1/slab/1.0")
        await disk.create("shard-1/slab/1.0", 8192)
        await disk.write("shard-1/slab/1.0", 0, [b"other"])
        await reader.probe()
        assert await reader.read("shard-1/slab/1.0", 0, 5) == b"other"
        await reader.close()
        assert await disk.read("shard-1/slab/1.0", 0, 5) == b"other"

    run(tmp_path, body)


def test_a_disk_whose_limit_binds_shares_its_room_with_nobody(tmp_path: Path) -> None:
    async def body(disk: LocalDisk) -> None:
        device = (await disk.space()).device
        await disk.close()
        limited = LocalDisk(DiskId(1), tmp_path / "disk", UUID, bytes_max=128 * 1024)
        assert (await limited.space()).device != device
        await limited.close()
        roomy = LocalDisk(DiskId(1), tmp_path / "disk", UUID, bytes_max=1 << 60)
        assert (await roomy.space()).device == device
        await roomy.close()

    run(tmp_path, body)


def test_format_refuses_what_is_not_an_empty_directory(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "full").mkdir()
        (tmp_path / "full/something").write_bytes(b"")
        (tmp_path / "mount/lost+found").mkdir(parents=True)
        with pytest.raises(ConfigInvalid, match="cannot become a disk"):
            await format_disk(tmp_path / "file", superblock())
        with pytest.raises(ConfigInvalid, match="not empty"):
            await format_disk(tmp_path / "full", superblock())
        await format_disk(tmp_path / "mount", superblock())
        with pytest.raises(ConfigInvalid, match="already"):
            await format_disk(tmp_path / "mount", superblock(b"x" * 16))
        disk = LocalDisk(DiskId(1), tmp_path / "mount", UUID)
        assert [entry.name for entry in await disk.list("")] == [SUPERBLOCK_NAME]
        await disk.close()

    trio.run(main)


def run_parts(tmp_path: Path, bytes_max: int, body: Callable[[LocalDisk, LocalDisk], Awaitable[None]]) -> None:
    """Two processes' views of one disk: the first has part 0, the other part 2."""

    async def main() -> None:
        await format_disk(tmp_path / "disk", superblock())
        first, second = (LocalDisk(DiskId(1), tmp_path / "disk", UUID, bytes_max, part=part) for part in (0, 2))
        try:
            await body(first, second)
        finally:
            await first.close()
            await second.close()

    trio.run(main)


def test_each_part_of_a_disk_sees_at_once_what_the_others_take(tmp_path: Path) -> None:
    limit = 1024 * 1024

    async def body(first: LocalDisk, second: LocalDisk) -> None:
        before = (await first.space()).free_bytes
        await second.create("shard-2/log/a", 512 * 1024)
        assert (await first.space()).free_bytes == before - 512 * 1024
        assert (await second.space()).free_bytes == before - 512 * 1024
        with pytest.raises(DiskFull):
            await first.create("slab/a", 600 * 1024)
        await second.delete("shard-2/log/a")
        await first.create("slab/a", 600 * 1024)
        with pytest.raises(DiskFull):
            await second.create("shard-2/log/b", 512 * 1024)
        await first.punch("slab/a", 0, 600 * 1024)
        await second.create("shard-2/log/b", 512 * 1024)

    run_parts(tmp_path, limit, body)


def test_what_a_part_takes_is_counted_anew_when_it_is_opened(tmp_path: Path) -> None:
    async def main() -> None:
        await format_disk(tmp_path / "disk", superblock())
        for part, name in ((2, "shard-2/log/a"), (0, "log/a"), (None, "alone")):
            disk = LocalDisk(DiskId(1), tmp_path / "disk", UUID, 1024 * 1024, part=part)
            await disk.create(name, 128 * 1024)
            await disk.close()
        (tmp_path / "disk" / ".usage").unlink()
        free = []
        for part in (2, 0, None):
            disk = LocalDisk(DiskId(1), tmp_path / "disk", UUID, 1024 * 1024, part=part)
            free.append((await disk.space()).free_bytes // 1024)
            await disk.close()
        used = [1024 - left for left in free]
        assert used[0] == 128, "others that never opened it are not known"
        assert used[1] // 128 == 3, "the file that the process made alone is part 0's"
        assert used[2] // 128 == 3, "a process that is alone counts everything"

    trio.run(main)


def test_opening_a_disk_takes_away_unfinished_files_of_its_own_part_only(tmp_path: Path) -> None:
    names = {0: "log/.a.new", 2: "shard-2/log/.a.new", 3: "shard-3/log/.a.new"}

    def left() -> set[int]:
        return {part for part, name in names.items() if (tmp_path / "disk" / name).exists()}

    async def main() -> None:
        await format_disk(tmp_path / "disk", superblock())
        for name in names.values():
            scratch = tmp_path / "disk" / name
            scratch.parent.mkdir(parents=True)
            scratch.write_bytes(b"half")
        for part, expected in ((2, {0, 3}), (0, {3}), (None, set[int]())):
            disk = LocalDisk(DiskId(1), tmp_path / "disk", UUID, part=part)
            await disk.probe()
            await disk.close()
            assert left() == expected

    trio.run(main)


def test_processes_with_parts_share_a_disk_and_keep_out_one_that_wants_it_alone(tmp_path: Path) -> None:
    async def body(first: LocalDisk, second: LocalDisk) -> None:
        await first.probe()
        await second.probe()
        alone = LocalDisk(DiskId(1), tmp_path / "disk", UUID)
        with pytest.raises(DiskMissing, match="another process uses this disk"):
            await alone.probe()
        await first.close()
        with pytest.raises(DiskMissing, match="another process uses this disk"):
            await alone.probe()
        await second.close()
        await alone.probe()
        await alone.close()

    run_parts(tmp_path, 0, body)


def test_a_disk_in_memory_is_read_without_a_thread() -> None:
    """A tmpfs refuses RWF_NOWAIT, so that every read of it would go through a thread."""
    in_memory = folder_in_memory()
    if in_memory is None:
        pytest.skip("needs a tmpfs")

    async def body(disk: LocalDisk) -> None:
        await disk.create("a", 8192)
        await disk.write("a", 4096, [b"in memory"])
        assert disk.read_nowait("a", 4096, 9) == b"in memory"
        assert disk.read_nowait("a", 0, 8192) == bytes(4096) + b"in memory" + bytes(4096 - 9)
        assert disk.read_nowait("a", 8000, 1000) is None

    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        run(Path(folder), body)


def test_a_disk_that_one_process_has_becomes_one_of_several_parts_and_back(tmp_path: Path) -> None:
    limit = 1024 * 1024

    async def main() -> None:
        await format_disk(tmp_path / "disk", superblock())
        first = LocalDisk(DiskId(1), tmp_path / "disk", UUID, limit)
        await first.create("log/a", 256 * 1024)
        second = LocalDisk(DiskId(1), tmp_path / "disk", UUID, limit, part=2)
        with pytest.raises(DiskMissing, match="another process uses this disk"):
            await second.probe()
        await first.share(0)
        await second.probe()
        free = (await second.space()).free_bytes
        assert free == (await first.space()).free_bytes, "what it took when it was alone counts as its part's"
        await second.create("shard-2/log/a", 128 * 1024)
        assert (await first.space()).free_bytes == free - 128 * 1024
        with pytest.raises(DiskError, match="another process uses this disk"):
            await first.share(None)
        await second.close()
        await first.drop_part(2)
        await first.drop_part(3)  # of which there is nothing
        assert not (tmp_path / "disk" / "shard-2").exists()
        assert (await first.space()).free_bytes == free
        await first.share(None)
        assert (await first.space()).free_bytes == free
        third = LocalDisk(DiskId(1), tmp_path / "disk", UUID, limit, part=2)
        with pytest.raises(DiskMissing, match="another process uses this disk"):
            await third.probe()
        await first.close()
        await third.probe()
        await third.create("shard-2/log/a", 128 * 1024)
        await third.close()
        alone = LocalDisk(DiskId(1), tmp_path / "disk", UUID, limit)
        assert (await alone.space()).free_bytes == free - 128 * 1024
        await alone.drop_part(2)
        assert (await alone.space()).free_bytes == free
        await alone.close()

    trio.run(main)
