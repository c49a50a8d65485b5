"""The trash: what is taken away stays for a time, can be brought back, and makes room for what comes."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.tree_snapshots import TreeSnapshots
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import AlreadyExists, NotFound
from siltstone.limits import MIB
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.metadata import check_metadata
from sim.trees import make_directory, make_file
from sim.volume import SimVolume, small_config


def with_volume(body: Callable[[Volume], Awaitable[None]], *, days: float = 30.0, capacity_bytes: int = 0) -> None:
    """Run ``body`` with a fresh volume with a trash; then everything agrees with itself."""

    async def main() -> None:
        world = SimVolume(small_config(), capacity_bytes=capacity_bytes or 64 * MIB)
        await world.create()
        async with world.opened() as volume:
            volume.trash.days = days
            await body(volume)
            await trio.sleep(3)
            assert not list(check_metadata(volume.ledger.store))
            assert await fsck(volume, deep=True) == []
            files, size = volume.trash.files, volume.trash.size
        async with world.opened() as volume:
            await trio.sleep(0.1)
            assert (volume.trash.files, volume.trash.size) == (files, size), "counted anew it is another number"

    trio.run(main, clock=autojump())


async def content(volume: Volume, *names: bytes) -> bytes:
    """The bytes of a file."""
    ino = ROOT_INO
    for name in names:
        ino = (await volume.lookup(ino, name)).ino
    return await volume.read(ino, 0, 8 * MIB)


async def paths(volume: Volume, path: bytes = b"") -> list[bytes | None]:
    """What is in the trash below a path."""
    return [item.path for item in await volume.trash.items(path)]


def test_what_each_way_of_taking_away_took_is_there_with_all_that_it_had() -> None:
    async def body(volume: Volume) -> None:
        d = await make_directory(volume, ROOT_INO, b"d")
        a = await make_file(volume, d, b"a", b"first" * 50_000)
        await volume.set_xattr(a, b"user.x", b"kept")
        await volume.link(a, d, b"a2")
        await volume.unlink(d, b"a")
        assert await paths(volume) == [], "it has another name"
        await volume.unlink(d, b"a2")
        await make_file(volume, d, b"b", b"replaced")
        await make_file(volume, d, b"c", b"new")
        await volume.rename(d, b"c", d, b"b")
        cut = (await volume.lookup(d, b"b")).ino
        await volume.set_attributes(cut, SetAttributes(size=100))
        await volume.set_attributes(cut, SetAttributes(size=1))
        await volume.symlink(d, b"s", b"target", uid=0, gid=0)
        await volume.unlink(d, b"s")
        await volume.create(d, b"fifo", mode=stat.S_IFIFO | 0o600, uid=0, gid=0)
        await volume.unlink(d, b"fifo")
        await volume.rename(ROOT_INO, b"d", ROOT_INO, b"e")
        await volume.settle()
        items = await volume.trash.items(b"")
        assert [(item.path, item.is_cut) for item in items] == [
            (b"/e/a2", False),
            (b"/e/b", False),
            (b"/e/b", True),
            (b"/e/s", False),
        ]
        assert volume.status().trash_files == 4 and volume.status().trash_bytes >= 250_000 + 8
        assert (await volume.trash.restore(b"/e/a2")).entries == 1
        assert (await volume.lookup(d, b"a2")).ino == a and await content(volume, b"e", b"a2") == b"first" * 50_000
        assert await volume.get_xattr(a, b"user.x") == b"kept"
        with pytest.raises(AlreadyExists, match="/e/b"):
            await volume.trash.restore(b"/e/b")
        before = await volume.trash.restore(b"/e/b", before_ns=items[1].removed_ns, target=b"/old")
        assert before.entries == 1
        assert await content(volume, b"old") in (b"replaced", b"new" + bytes(97))
        with pytest.raises(NotFound, match="/e/nothing"):
            await volume.trash.restore(b"/e/nothing")
        assert (await volume.trash.restore(b"/e/s")).entries == 1
        assert await volume.readlink((await volume.lookup(d, b"s")).ino) == b"target"

    with_volume(body)


def test_a_tree_that_was_removed_comes_back_whole_also_somewhere_else() -> None:
    async def body(volume: Volume) -> None:
        for number in range(2):
            top = await make_directory(volume, ROOT_INO, b"top")
            inner = await make_directory(volume, top, b"inner")
            await make_file(volume, inner, b"a", b"%d a" % number)
            await make_file(volume, top, b"b", b"%d b" % number)
            await trio.sleep(10)
            await volume.unlink(inner, b"a")
            await volume.rmdir(top, b"inner")
            await volume.unlink(top, b"b")
            await volume.rmdir(ROOT_INO, b"top")
            await trio.sleep(10)
        items = await volume.trash.items(b"/top")
        first = min(item.removed_ns for item in items) + 5 * 10**9
        assert len(items) == 8
        report = await volume.trash.restore(b"/top", before_ns=first, target=b"/found")
        assert (report.entries, report.skipped) == (4, 0)
        assert await content(volume, b"found", b"inner", b"a") == b"0 a"
        assert (await volume.trash.restore(b"/top/inner/a")).entries == 1  # its directories are made
        assert await content(volume, b"top", b"inner", b"a") == b"1 a"
        assert (await volume.trash.restore(b"/top")).entries == 1  # the rest, but for directories that are there
        assert await content(volume, b"top", b"b") == b"1 b"
        left = await volume.trash.empty(b"/top")
        assert left.entries == len(items) - 4 - 2 and await paths(volume) == []

    with_volume(body)


def test_objects_that_are_deleted_or_replaced_come_back_as_objects() -> None:
    async def body(volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        for text in (b"first", b"second"):
            writer = await store.begin_put("bucket", b"a/k")
            await writer.write(text)
            await writer.commit(PutAttributes(etag=text.hex()))
            await trio.sleep(1)
        await store.delete("bucket", b"a/k")
        items = await volume.trash.items(b"/bucket")
        assert [item.path for item in items] == [b"/bucket/a", b"/bucket/a/k", b"/bucket/a/k"]
        report = await volume.trash.restore(b"/bucket/a/k")
        assert report.entries == 1
        assert (await store.head("bucket", b"a/k")).etag == b"second".hex()

    with_volume(body)


def test_it_expires_and_nothing_is_kept_when_it_is_off() -> None:
    async def body(volume: Volume) -> None:
        await make_file(volume, ROOT_INO, b"a", b"a" * 100_000)
        await volume.unlink(ROOT_INO, b"a")
        await trio.sleep(20)
        await make_file(volume, ROOT_INO, b"b", b"b" * 100_000)
        await volume.unlink(ROOT_INO, b"b")
        assert await paths(volume) == [b"/a", b"/b"]
        await trio.sleep(10)
        assert await paths(volume) == [b"/b"]
        volume.trash.days = 0.0
        await make_file(volume, ROOT_INO, b"c", b"c")
        await volume.unlink(ROOT_INO, b"c")
        await trio.sleep(5)
        assert await paths(volume) == []
        assert volume.trash.files == volume.trash.size == 0 == volume.status().file_bytes

    with_volume(body, days=25 / 86400)


def test_the_oldest_makes_room_when_the_pool_fills() -> None:
    async def body(volume: Volume) -> None:
        total = (await volume.space()).total_bytes
        written = 0
        for number in range(1000):
            if written > 2 * total:
                break
            ino = await make_file(volume, ROOT_INO, b"%d" % number, bytes([number % 251]) * (2 * MIB))
            await volume.flush(ino)
            await volume.unlink(ROOT_INO, b"%d" % number)
            written += 2 * MIB
        names = [item.name for item in await volume.trash.items(b"")]
        assert sorted(map(int, names)) == list(range(number - len(names), number)), "not the oldest went"
        assert 0 < len(names) < number

    with_volume(body, capacity_bytes=24 * MIB)


def test_what_is_written_after_the_last_name_went_is_there_too() -> None:
    async def body(volume: Volume) -> None:
        ino = await make_file(volume, ROOT_INO, b"a", b"before")
        volume.orphans.hold(ino)
        await volume.unlink(ROOT_INO, b"a")
        await volume.write(ino, 6, b" and after")
        volume.orphans.let_go(ino)
        await trio.sleep(0.1)
        await volume.trash.restore(b"/a")
        assert await content(volume, b"a") == b"before and after"

    with_volume(body)


def test_a_snapshot_that_is_deleted_is_gone_and_its_tree_is_not_in_the_trash() -> None:
    async def body(volume: Volume) -> None:
        d = await make_directory(volume, ROOT_INO, b"d")
        await make_file(volume, await make_directory(volume, d, b"inner"), b"a", b"a" * 100_000)
        snapshots = TreeSnapshots(volume)
        for name in (b"one", b"two"):
            await snapshots.create(d, name)
        for name in (b"one", b"two"):
            await snapshots.wait_purged(await snapshots.delete(d, name))
        assert await paths(volume) == []
        await trio.sleep(5)
        assert not volume.status().orphans and volume.status().file_bytes == 100_000

    with_volume(body)
