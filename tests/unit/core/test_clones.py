"""Clones of trees: they hold what the source held, share its bytes, and are there whole or not at all."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio

from siltstone.core.cloning import CloneReport, ClonesHere, clone_path
from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.types import Change, EntryChanged, Progress
from siltstone.core.volume import Volume
from siltstone.errors import AlreadyExists, InvalidArgument, NoSpace, NotADirectory, NotFound, SiltstoneError
from siltstone.meta.clones import PAGE_ENTRIES, PAGE_EXTENTS, Page
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.metadata import check_metadata
from sim.trees import DATA, Node, make_directory, make_file, make_tree, read_tree
from sim.volume import SimVolume, small_config


def with_volume(body: Callable[[Volume], Awaitable[None]]) -> None:
    """Run ``body`` with a fresh volume in simulation; then everything agrees with itself."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await body(volume)
            await trio.sleep(3)
            assert not volume.status().orphans
            assert not list(check_metadata(volume.ledger.store))
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())


async def clone(volume: Volume, source: bytes, target: bytes) -> CloneReport:
    """As the command does."""
    return await clone_path(volume, ClonesHere(volume), source, target)


async def make_everything(volume: Volume) -> Ino:
    """A tree of all that there is, at /source."""
    source = await make_tree(volume)
    inner = (await volume.lookup(source, b"inner")).ino
    await volume.link((await volume.lookup(source, b"linked")).ino, inner, b"linked again")
    await volume.create(inner, b"device", mode=stat.S_IFCHR | 0o666, uid=0, gid=0, rdev=0x103)
    return source


def test_a_clone_holds_all_that_its_source_holds() -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        expected = await read_tree(volume, b"source")
        heard: list[Change] = []
        volume.subscribe(lambda _, change: heard.append(change))
        report = await clone(volume, b"/source", b"/clone")
        clone_ino = (await volume.lookup(ROOT_INO, b"clone")).ino
        assert EntryChanged(ROOT_INO, b"clone", clone_ino, False) in heard, "front-ends remember that it was not there"
        assert await read_tree(volume, b"clone") == expected
        assert report == CloneReport(entries=1 + 12, bytes=sum_of_files(expected))
        assert (await volume.lookup(ROOT_INO, b"clone")).nlink == 4
        assert await read_tree(volume, b"source") == expected

    with_volume(body)


def sum_of_files(tree: dict[bytes, Node]) -> int:
    """The bytes of its files, each once."""
    return sum({node.links: node.size for node in tree.values() if stat.S_ISREG(node.mode)}.values())


def test_neither_sees_what_is_written_to_the_other_and_no_bytes_are_moved() -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        await volume.settle()
        before = volume.status().live_bytes
        stripes = volume.ledger.stripes.space().usable_free_bytes
        await clone(volume, b"source", b"clone")
        assert volume.status().live_bytes > 1.9 * before
        assert volume.ledger.stripes.space().usable_free_bytes == stripes
        expected = await read_tree(volume, b"source")
        file = (await volume.lookup((await volume.lookup(ROOT_INO, b"clone")).ino, b"linked")).ino
        await volume.write(file, 100, b"other bytes")
        await volume.set_xattr(file, b"user.note", b"of another file")
        assert await read_tree(volume, b"source") == expected
        await volume.sync()
        changed = await read_tree(volume, b"clone")
        assert (
            changed[b"linked"].data == expected[b"linked"].data[:100] + b"other bytes" + expected[b"linked"].data[111:]
        )
        assert changed[b"inner/deep/striped"] == changed[b"linked"], "links of a clone lead to one file"
        await volume.settle()
        assert await read_tree(volume, b"source") == expected
        assert await read_tree(volume, b"clone") == changed

    with_volume(body)


def test_a_clone_outlives_its_source_and_can_be_cloned() -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        expected = await read_tree(volume, b"source")
        await clone(volume, b"source", b"clone")
        await clone(volume, b"clone/inner/", b"source/inner/deep/again")
        await remove(volume, ROOT_INO, b"source")
        await volume.settle()
        assert await read_tree(volume, b"clone") == expected
        await remove(volume, ROOT_INO, b"clone")
        await trio.sleep(3)
        assert volume.status().inodes == 1
        assert volume.status().live_bytes == 0

    with_volume(body)


async def remove(volume: Volume, parent: Ino, name: bytes) -> None:
    """rm -r."""
    found = await volume.lookup(parent, name)
    if not stat.S_ISDIR(found.mode):
        await volume.unlink(parent, name)
        return
    for entry in await volume.list_directory(found.ino, after=None, limit=1000):
        await remove(volume, found.ino, entry.name)
    await volume.rmdir(parent, name)


def test_many_entries_and_many_extents_take_several_batches() -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        for number in range(PAGE_ENTRIES + 10):
            await make_file(volume, source, b"f%04d" % number, b"%d" % number)
        for name, extents in ((b"a", PAGE_EXTENTS - 50), (b"b", 100), (b"c", PAGE_EXTENTS + 50), (b"d", 2000)):
            file = await make_file(volume, source, name)
            for index in range(extents):
                await volume.write(file, index * 10, b"x")
        expected = await read_tree(volume, b"source")
        told: list[Progress] = []
        pages = 0

        class Counted(ClonesHere):
            async def clone_entries(self, source: Ino, target: Ino, after: bytes | None) -> Page:
                nonlocal pages
                pages += 1
                return await super().clone_entries(source, target, after)

        report = await clone_path(volume, Counted(volume), b"source", b"clone", told.append)
        assert pages == 3, "`b` has too many extents for the batch of `a`"
        assert await read_tree(volume, b"clone") == expected
        assert report.entries == told[-1].done == told[-1].total == 1 + PAGE_ENTRIES + 14
        assert told[-1].unit == "files"
        await remove(volume, ROOT_INO, b"clone")

    with_volume(body)


def test_a_file_a_link_and_a_device_can_be_cloned_alone() -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        expected = await read_tree(volume, b"source")
        report = await clone(volume, b"source/linked", b"source/empty/file")
        await clone(volume, b"source/inner/symlink", b"symlink")
        await clone(volume, b"source/inner/device", b"device")
        assert report == CloneReport(entries=1, bytes=expected[b"linked"].size)
        found = await read_tree(volume, b"")
        assert found[b"source/empty/file"] == expected[b"linked"]._replace(links=frozenset({b"source/empty/file"}))
        assert found[b"symlink"]._replace(links=frozenset()) == expected[b"inner/symlink"]._replace(links=frozenset())
        assert found[b"device"].rdev == 0x103

    with_volume(body)


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        (b"source", b"source/inner", AlreadyExists),
        (b"source/inline", b"source/nothing", AlreadyExists),
        (b"source", b"/", AlreadyExists),
        (b"source", b"source/inner/new", InvalidArgument),
        (b"source", b"source/new", InvalidArgument),
        (b"/", b"new", InvalidArgument),
        (b"source/../source", b"new", InvalidArgument),
        (b"absent", b"new", NotFound),
        (b"source", b"absent/new", NotFound),
        (b"source", b"source/inline/new", NotADirectory),
        (b"source/inline", b"source/inline/new", NotADirectory),
        (b"source/inline/x", b"new", SiltstoneError),
        (b"source", b"n" * 300, SiltstoneError),
    ],
)
def test_what_cannot_be_cloned_changes_nothing(source: bytes, target: bytes, error: type[SiltstoneError]) -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        before, lsn = await read_tree(volume, b""), volume.ledger.store.last_lsn
        with pytest.raises(error) as raised:
            await clone(volume, source, target)
        assert "\n" not in str(raised.value)
        assert await read_tree(volume, b"") == before
        assert volume.ledger.store.last_lsn == lsn

    with_volume(body)


def test_a_name_that_is_taken_meanwhile_stays_and_the_clone_goes() -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)

        class Late(ClonesHere):
            async def name_clone(self, *arguments: object) -> None:
                await make_file(volume, ROOT_INO, b"clone", b"mine")
                await super().name_clone(*arguments)  # type: ignore[arg-type]

        inodes = volume.status().inodes
        with pytest.raises(AlreadyExists):
            await clone_path(volume, Late(volume), b"source", b"clone")
        assert (await read_tree(volume, b""))[b"clone"].data == b"mine"
        await trio.sleep(3)
        assert volume.status().inodes == inodes + 1

    with_volume(body)


def test_a_clone_that_is_given_up_leaves_nothing() -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        before, counted = await read_tree(volume, b""), volume.status().inodes
        for pages in range(1, 5):
            left = pages

            class Refused(ClonesHere):
                async def clone_entries(self, source: Ino, target: Ino, after: bytes | None) -> Page:
                    nonlocal left
                    left -= 1
                    if not left:
                        raise NoSpace("full")
                    return await super().clone_entries(source, target, after)

            with pytest.raises(NoSpace):
                await clone_path(volume, Refused(volume), b"source", b"clone")
            await trio.sleep(3)
            assert await read_tree(volume, b"") == before
            assert volume.status().inodes == counted

    with_volume(body)


def test_a_file_is_cloned_as_it_is_at_one_moment_though_it_is_written_all_the_time() -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        block_counts = {b"few": 400, b"many": PAGE_EXTENTS + 100}
        inos = {name: await make_file(volume, source, name) for name in block_counts}
        large = await make_file(volume, source, b"x large, so that others are written to while it is flushed")

        async def write(name: bytes) -> None:
            """From the end to the beginning, and batches go the other way."""
            round_ = 0
            while True:
                round_ += 1
                for block in reversed(range(block_counts[name])):
                    await volume.write(inos[name], block * 16, b"%08d" % round_)
                    if block % 16 == 0:
                        await trio.sleep(0.0001)

        async def write_large() -> None:
            while True:
                await volume.write(large, 0, DATA)
                await trio.sleep(0.01)

        async def flush() -> None:
            while True:
                await trio.sleep(0.003)
                for ino in inos.values():
                    await volume.flush(ino)

        async with trio.open_nursery() as nursery:
            for name in inos:
                nursery.start_soon(write, name)
            nursery.start_soon(write_large)
            nursery.start_soon(flush)
            for number in range(10):
                await trio.sleep(0.0123)
                await clone(volume, b"source", b"clone%d" % number)
            nursery.cancel_scope.cancel()
        for number in range(10):
            found = await read_tree(volume, b"clone%d" % number)
            for name, count in block_counts.items():
                data = found[name].data.ljust(16 * count, b"\0")
                rounds = [data[block * 16 : block * 16 + 8] for block in range(count)]
                changes = [(one, two) for one, two in pairwise(rounds) if one != two]
                assert len(changes) <= 1, "a block is older than one that was written after it"
                assert all(one < two for one, two in changes)

    with_volume(body)


def test_what_is_committed_out_of_order_is_not_cloned_before_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        file = await make_file(volume, source, b"file", b"old")
        flush, stripe = volume.flush, b"later" * (volume.ledger.stripes.stripe_bytes_max // 5 + 1)

        async def flush_and_write_on(ino: Ino) -> None:
            await flush(ino)
            await volume.write(ino, 0, b"first")
            await volume.write(ino, 100_000, stripe)
            await trio.sleep(0.05)
            seen = await volume.attributes(ino)
            assert seen.size >= 100_000 + len(stripe)
            assert (await read_tree(volume, b"source"))[b"file"].data[:5] == b"first"

        monkeypatch.setattr(volume, "flush", flush_and_write_on)
        await clone(volume, b"source", b"clone")
        data = (await read_tree(volume, b"clone"))[b"file"].data
        assert len(data) <= 100_000 or data[:5] == b"first", "it has what was written later, and not what came before"
        assert file in volume.write_back.files or len(data) > 100_000, "nothing was dirty, so nothing was tried"

    with_volume(body)


def test_a_clone_of_a_bucket_is_a_bucket_with_the_same_objects() -> None:
    async def body(volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="somebody")
        for key in (b"a", b"d/e/b", b"d/"):
            put = await store.begin_put("bucket", key)
            if not key.endswith(b"/"):
                await put.write(DATA)
            attributes = PutAttributes(
                etag=hashlib.md5(DATA).hexdigest(), metadata={"k": "v"}, checksums={"CRC32": "AAAAAA=="}, owner="me"
            )
            await put.commit(attributes)
        await clone(volume, b"bucket", b"other")
        assert (await store.bucket("other")).owner == "somebody"
        for key in (b"a", b"d/e/b", b"d/"):
            one, two = await store.head("bucket", key), await store.head("other", key)
            assert (one.etag, one.metadata, one.checksums, one.size) == (
                two.etag,
                two.metadata,
                two.checksums,
                two.size,
            )
        listed = await store.list_keys("other", limit=10)
        assert [info.key for info in listed.entries] == [b"a", b"d/", b"d/e/b"]
        await store.delete("other", b"d/e/b")
        assert (await store.head("bucket", b"d/e/b")).size == len(DATA)

    with_volume(body)


def test_others_go_on_while_a_large_tree_is_cloned_and_purged() -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        for number in range(20):
            parent = await make_directory(volume, source, b"d%d" % number)
            for inner in range(2 * PAGE_ENTRIES if number == 0 else 10):
                await make_file(volume, parent, b"f%d" % inner)
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await trio.lowlevel.checkpoint()
            turns = 0
            await clone(volume, b"source", b"clone")
            assert turns >= 20

            class Late(ClonesHere):
                async def name_clone(self, *_: object) -> None:
                    raise AlreadyExists("taken")

            with pytest.raises(AlreadyExists):
                await clone_path(volume, Late(volume), b"source", b"other")
            turns = 0
            while volume.status().orphans:
                await trio.lowlevel.checkpoint()
            assert turns >= 20
            nursery.cancel_scope.cancel()

    with_volume(body)


def test_a_full_metadata_store_is_told_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        statistics = volume.ledger.store.statistics()
        nearly = statistics._replace(space=statistics.space._replace(used_bytes=98, max_bytes=100))
        with monkeypatch.context() as patched:
            patched.setattr(volume.ledger.store, "statistics", lambda: nearly)
            with pytest.raises(NoSpace, match="lmdb_bytes_max"):
                await clone(volume, b"source", b"clone")

    with_volume(body)
