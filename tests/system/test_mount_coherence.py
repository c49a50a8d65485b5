"""Changes made elsewhere are seen through the mount at once, although the kernel caches everything for minutes.

The mount is served in this process, over a volume in memory, and "elsewhere" is a call of that volume; files are
touched in threads. What is tested is the way from the volume's news to the kernel.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest
import trio

from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import Refused
from siltstone.fuse.mount import ServedMount, serve_mount
from siltstone.fuse.options import DEFAULTS
from siltstone.types import ROOT_INO, Ino
from sim.memory_volume import MemoryVolume
from sim.mounted import is_mounted

R = TypeVar("R")
FORGETS_NAMES = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 16)
"""Whether this kernel can be told to ask for all names anew."""

FILE_MODE = stat.S_IFREG | 0o644


class Shore:
    """Both sides: the volume, and its mount's directory."""

    def __init__(self, volume: MemoryVolume, directory: Path, mount: ServedMount) -> None:
        self.volume = volume
        self.directory = directory
        self.mount = mount

    async def do(self, function: Callable[..., R], *args: object) -> R:
        """Call something that touches the mount, in a thread."""
        return await trio.to_thread.run_sync(function, *args)

    async def make(self, name: bytes, data: bytes) -> Ino:
        """Make a file elsewhere."""
        ino = (await self.volume.create(ROOT_INO, name, mode=FILE_MODE, uid=0, gid=0)).ino
        await self.volume.write(ino, 0, data)
        return ino

    async def replace(self, name: bytes, data: bytes) -> None:
        """Give a name to a new file elsewhere, as an S3 PUT does."""
        await self.make(b"new", data)
        await self.volume.rename(ROOT_INO, b"new", ROOT_INO, name)

    def deafen(self) -> None:
        """From now on the kernel hears of nothing, as if every invalidation came too late."""
        self.volume.mute()


def on_a_mount(path: Path, body: Callable[[Shore], Awaitable[None]]) -> None:
    """Run ``body`` with a mounted volume."""
    assert os.path.exists("/dev/fuse"), "system tests need /dev/fuse: run them where FUSE is to be had"
    directory = path / "mnt"
    directory.mkdir()

    async def main() -> None:
        volume = MemoryVolume()
        mounts: list[ServedMount] = []

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            await serve_mount(cast("Volume", volume), str(directory), watch=mounts.append, task_status=task_status)

        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            await body(Shore(volume, directory, *mounts))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not is_mounted(directory)


def test_a_name_that_was_looked_for_in_vain_appears_when_made_elsewhere(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        assert not await shore.do(file.exists)
        await shore.make(b"file", b"from elsewhere")
        await shore.volume.wait_seen()
        assert await shore.do(file.read_bytes) == b"from elsewhere"

    on_a_mount(tmp_path, body)


def test_a_name_removed_elsewhere_is_gone(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        await shore.do(file.write_bytes, b"x")
        await shore.volume.unlink(ROOT_INO, b"file")
        await shore.volume.wait_seen()
        assert not await shore.do(file.exists)
        assert await shore.do(os.listdir, shore.directory) == []

    on_a_mount(tmp_path, body)


def test_a_name_that_is_given_to_another_file_elsewhere_leads_to_it(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        await shore.do(file.write_bytes, b"the old bytes")
        await shore.replace(b"file", b"new")
        await shore.volume.wait_seen()
        assert await shore.do(file.read_bytes) == b"new"
        assert (await shore.do(file.stat)).st_size == 3

    on_a_mount(tmp_path, body)


def test_names_from_before_another_tree_is_served_are_asked_for_anew(tmp_path: Path) -> None:
    """Older kernels go on believing them: the first assertions are what it would be like."""

    async def body(shore: Shore) -> None:
        file, absent = shore.directory / "file", shore.directory / "absent"
        await shore.do(file.write_bytes, b"old bytes")
        assert not await shore.do(absent.exists)
        shore.deafen()
        await shore.replace(b"file", b"new")
        await shore.make(b"absent", b"there")
        assert (await shore.do(file.stat)).st_size == 9
        assert not await shore.do(absent.exists)
        turn = shore.mount.use(cast("Volume", shore.volume), DEFAULTS.limited(1.0))
        await turn.wait_over()
        assert ((await shore.do(file.stat)).st_size == 3) == FORGETS_NAMES
        assert await shore.do(absent.exists) == FORGETS_NAMES

    on_a_mount(tmp_path, body)


def test_bytes_and_size_changed_elsewhere_are_read_also_where_the_file_is_open(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        ino = await shore.make(b"file", b"a" * 10_000)
        opened = await shore.do(os.open, file, os.O_RDONLY)
        assert await shore.do(os.pread, opened, 30_000, 0) == b"a" * 10_000
        await shore.volume.write(ino, 100, b"b" * 20_000)
        await shore.volume.wait_seen()
        assert await shore.do(os.pread, opened, 30_000, 0) == b"a" * 100 + b"b" * 20_000
        await shore.volume.set_attributes(ino, SetAttributes(size=50))
        await shore.volume.wait_seen()
        assert await shore.do(os.pread, opened, 30_000, 0) == b"a" * 50
        assert (await shore.do(file.stat)).st_size == 50
        await shore.do(os.close, opened)

    on_a_mount(tmp_path, body)


def test_attributes_changed_elsewhere_are_seen(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        ino = await shore.make(b"file", b"")
        assert stat.S_IMODE((await shore.do(file.stat)).st_mode) == 0o644
        await shore.volume.set_attributes(ino, SetAttributes(mode=0o600, uid=1234))
        await shore.volume.wait_seen()
        status = await shore.do(file.stat)
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 1234)

    on_a_mount(tmp_path, body)


def test_a_file_made_elsewhere_a_moment_ago_is_opened_not_refused_by_create(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        assert not await shore.do(file.exists)
        shore.deafen()
        await shore.make(b"file", b"made elsewhere")
        with pytest.raises(FileExistsError):
            await shore.do(os.open, file, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        descriptor = await shore.do(os.open, file, os.O_CREAT | os.O_RDWR)
        assert await shore.do(os.read, descriptor, 100) == b"made elsewhere"
        await shore.do(os.close, descriptor)

    on_a_mount(tmp_path, body)


def test_a_file_replaced_between_lookup_and_open_is_opened_whole(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        await shore.make(b"file", b"old")
        await shore.do(file.stat)
        shore.deafen()
        await shore.replace(b"file", b"newer")
        assert await shore.do(file.read_bytes) in (b"old", b"newer")

    on_a_mount(tmp_path, body)


def test_readers_of_a_name_that_is_overwritten_all_the_time_see_one_version_whole(tmp_path: Path) -> None:
    versions = [b"%06d" % number * 1000 for number in range(300)]

    async def body(shore: Shore) -> None:
        file = shore.directory / "file"
        await shore.make(b"file", versions[0])
        stop = threading.Event()
        counts: list[int] = []

        def read_on() -> int:
            count = 0
            while not stop.is_set():
                data = file.read_bytes()
                assert data == data[:6] * 1000
                count += 1
            return count

        async def reader() -> None:
            counts.append(await shore.do(read_on))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(reader)
            try:
                for version in versions[1:]:
                    await shore.replace(b"file", version)
                    await shore.volume.wait_seen()
            finally:
                stop.set()
        assert await shore.do(file.read_bytes) == versions[-1]
        assert all(counts)

    on_a_mount(tmp_path, body)


def keep_busy(directory: Path) -> None:
    """Have the kernel take the lock of a directory again and again, which an invalidation needs too."""
    for _ in range(200):
        (directory / "own").write_bytes(b"")
        (directory / "own").unlink()


def test_many_changes_under_a_directory_in_use_are_all_seen(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        names = [b"%04d" % number for number in range(1000)]
        missing = [shore.directory / os.fsdecode(name) for name in names]
        assert not await shore.do(lambda: any(path.exists() for path in missing))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shore.do, keep_busy, shore.directory)
            for name in names:
                await shore.make(name, name)
                await trio.lowlevel.checkpoint()
        await shore.volume.wait_seen()
        assert await shore.do(lambda: [path.read_bytes() for path in missing]) == names

    on_a_mount(tmp_path, body)


def test_an_unexpected_failure_of_the_volume_is_an_error_of_the_call_not_the_end_of_the_mount(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(shore: Shore) -> None:
        def fail(*args: object, **kwargs: object) -> object:
            raise ZeroDivisionError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(shore.volume, "lookup", fail)
            with pytest.raises(OSError, match="Input/output error"):
                await shore.do(os.stat, shore.directory / "file")
        await shore.do((shore.directory / "file").write_bytes, b"x")

    on_a_mount(tmp_path, body)
    assert any(record.exc_info for record in caplog.records)


def test_a_second_mount_of_a_directory_is_refused(tmp_path: Path) -> None:
    async def body(shore: Shore) -> None:
        with pytest.raises(Refused, match="mounted there already"):
            await serve_mount(cast("Volume", shore.volume), str(shore.directory))

    on_a_mount(tmp_path, body)
