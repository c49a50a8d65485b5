"""Quotas of trees: exact while many write, whichever door it is, through renames, clones, crashes and older volumes."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import pytest
import trio

from siltstone.core.administration import Administration
from siltstone.core.cloning import ClonesHere, clone_path
from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.quotas import Quotas
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import InvalidArgument, NotADirectory, NotFound, NotSupported, QuotaExceeded, Refused
from siltstone.meta import keys
from siltstone.meta.inodes import put_inode
from siltstone.meta.records import decode_inode
from siltstone.meta.usage_count import forget_usage
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.metadata import check_metadata
from sim.volume import SimVolume, small_config

Body = Callable[[Volume], Awaitable[None]]


def with_volume(*lives: Body, before_last: Callable[[SimVolume], Awaitable[None]] | None = None) -> None:
    """Run each body with the same volume, opened anew; everything agrees with itself after each."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        for number, body in enumerate(lives):
            if before_last is not None and number == len(lives) - 1:
                await before_last(world)
            async with world.opened() as volume:
                await body(volume)
                await trio.sleep(3)
                assert not list(check_metadata(volume.ledger.store))
                assert await fsck(volume) == []

    trio.run(main, clock=autojump())


async def directory(volume: Volume, parent: Ino, name: bytes) -> Ino:
    """A directory."""
    return (await volume.mkdir(parent, name, mode=0o755, uid=0, gid=0)).ino


async def make(volume: Volume, parent: Ino, name: bytes, size: int = 0) -> Ino:
    """A file of so many bytes, dirty ones."""
    ino = (await volume.create(parent, name, mode=0o644, uid=0, gid=0)).ino
    if size:
        await volume.write(ino, 0, bytes(size))
    return ino


async def limit(volume: Volume, path: bytes, **limits: int) -> None:
    """As the command does."""
    await Quotas(volume).set(path, limits)


async def used(volume: Volume, path: bytes) -> tuple[int, int]:
    """Bytes, and files with directories, of a tree with a quota."""
    quota = (await Quotas(volume).get(path))[0]
    return quota.used_bytes, quota.used_files


async def usage(volume: Volume, path: bytes) -> tuple[int, int, int]:
    """Bytes, files and directories."""
    found = await Quotas(volume).usage(path)
    return found.bytes, found.files, found.directories


def test_usage_is_of_every_tree_and_files_count_by_their_size() -> None:
    async def body(volume: Volume) -> None:
        one = await directory(volume, ROOT_INO, b"one")
        two = await directory(volume, one, b"two")
        ino = await make(volume, two, b"f", 5000)
        await volume.symlink(one, b"s", b"target", uid=0, gid=0)
        await volume.set_attributes(ino, SetAttributes(size=1_000_000))
        await volume.flush(ino)
        assert await usage(volume, b"/") == (1_000_000, 2, 2)
        assert await usage(volume, b"one") == (1_000_000, 2, 1)
        assert await usage(volume, b"one/two") == (1_000_000, 1, 0)
        assert await usage(volume, b"one/two/f") == (1_000_000, 1, 0)
        await volume.rename(two, b"f", ROOT_INO, b"f")
        assert await usage(volume, b"one") == (0, 1, 1)
        await volume.unlink(ROOT_INO, b"f")
        assert await usage(volume, b"/") == (0, 1, 2)

    with_volume(body)


def test_many_writers_come_exactly_to_the_quota() -> None:
    async def body(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        inos = [await make(volume, top, b"%d" % number) for number in range(8)]
        await limit(volume, b"top", bytes=100_000)
        refused = 0

        async def write(ino: Ino) -> None:
            nonlocal refused
            for piece in range(20):
                try:
                    await volume.write(ino, piece * 1000, bytes(1000))
                except QuotaExceeded:
                    refused += 1
                    return
                if piece % 7 == 6:
                    await volume.flush(ino)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for ino in inos:
                nursery.start_soon(write, ino)
        assert refused == 8
        assert await used(volume, b"top") == (100_000, 8)
        await volume.sync()
        assert await usage(volume, b"top") == (100_000, 8, 0)
        await volume.write(inos[0], 0, bytes(5000))  # nothing is added
        with pytest.raises(QuotaExceeded):
            await volume.set_attributes(inos[0], SetAttributes(size=100_000))
        await volume.unlink(top, b"7")
        assert (await used(volume, b"top"))[0] < 100_000

    with_volume(body)


def test_files_and_nested_quotas_limit_together() -> None:
    async def body(volume: Volume) -> None:
        outer = await directory(volume, ROOT_INO, b"outer")
        inner = await directory(volume, outer, b"inner")
        await limit(volume, b"outer", files=3)
        await limit(volume, b"outer/inner", bytes=10)
        await make(volume, inner, b"a", 10)
        await make(volume, outer, b"b", 1000)
        for parent in (outer, inner):
            with pytest.raises(QuotaExceeded):
                await make(volume, parent, b"c")
            with pytest.raises(QuotaExceeded):
                await directory(volume, parent, b"c")
        assert [quota.path for quota in await Quotas(volume).get(b"outer/inner/a")] == ["/outer/inner", "/outer"]
        assert [quota.path for quota in await Quotas(volume).all()] == ["/outer", "/outer/inner"]
        await volume.set_attributes((await volume.lookup(inner, b"a")).ino, SetAttributes(size=4))
        assert (await used(volume, b"outer/inner"))[0] == 4
        await Quotas(volume).remove(b"outer")
        await make(volume, inner, b"c", 6)

    with_volume(body)


def test_a_tree_is_renamed_into_a_quota_where_it_fits_and_the_quota_goes_along() -> None:
    async def body(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        tree = await directory(volume, ROOT_INO, b"tree")
        deep = await directory(volume, tree, b"deep")
        ino = await make(volume, deep, b"f", 600)
        await limit(volume, b"top", bytes=1000)
        await make(volume, top, b"g", 500)
        with pytest.raises(QuotaExceeded):
            await volume.rename(ROOT_INO, b"tree", top, b"tree")
        with pytest.raises(QuotaExceeded):
            await volume.rename(deep, b"f", top, b"f")
        assert await usage(volume, b"tree") == (600, 1, 1)
        await volume.rename(deep, b"f", top, b"g")  # what it replaces makes room
        assert await used(volume, b"top") == (600, 1)
        await volume.rename(ROOT_INO, b"top", tree, b"moved")
        assert await used(volume, b"tree/moved") == (600, 1)
        assert await usage(volume, b"tree") == (600, 1, 2)
        with pytest.raises(QuotaExceeded):
            await volume.write(ino, 600, bytes(401))
        await volume.unlink(top, b"g")
        await volume.rmdir(tree, b"moved")
        assert await Quotas(volume).all() == []

    with_volume(body)


def test_what_a_program_still_writes_moves_with_its_tree() -> None:
    async def body(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        tree = await directory(volume, ROOT_INO, b"tree")
        await limit(volume, b"top", bytes=1000)
        await limit(volume, b"tree", bytes=5000)
        ino = await make(volume, tree, b"f", 700)
        await volume.rename(ROOT_INO, b"tree", top, b"tree")
        assert await used(volume, b"top") == (700, 2)
        with pytest.raises(QuotaExceeded):
            await volume.write(ino, 700, bytes(301))
        await volume.write(ino, 700, bytes(300))
        await volume.sync()
        assert await used(volume, b"top") == (1000, 2)

    with_volume(body)


def test_s3_and_clones_are_limited_and_leave_nothing_when_refused() -> None:
    async def body(volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        await limit(volume, b"bucket", bytes=100_000, files=3)

        async def put(key: bytes, size: int) -> None:
            put = await store.begin_put("bucket", key)
            try:
                await put.write(bytes(size))
                await put.commit(PutAttributes(etag=hashlib.md5(bytes(size)).hexdigest()))
            except BaseException:
                await put.abort()
                raise

        await put(b"d/a", 60_000)
        with pytest.raises(QuotaExceeded):
            await put(b"d/b", 40_001)
        await put(b"d/a", 100_000)  # in place of the other
        with pytest.raises(QuotaExceeded):
            await clone_path(volume, ClonesHere(volume), b"bucket/d", b"bucket/e")
        with pytest.raises(QuotaExceeded):
            await clone_path(volume, ClonesHere(volume), b"bucket/d/a", b"bucket/x")
        await clone_path(volume, ClonesHere(volume), b"bucket", b"other")
        assert await usage(volume, b"other") == (100_000, 1, 1)
        assert await used(volume, b"bucket") == (100_000, 2)
        await trio.sleep(1)
        assert not volume.status().orphans

    with_volume(body)


def test_of_a_file_with_two_names_the_tree_that_keeps_one_counts_it() -> None:
    async def body(volume: Volume) -> None:
        one = await directory(volume, ROOT_INO, b"one")
        two = await directory(volume, ROOT_INO, b"two")
        ino = await make(volume, one, b"f", 900)
        await limit(volume, b"two", bytes=100)
        await volume.link(ino, two, b"f")
        assert (await used(volume, b"two"))[0] == 0
        await volume.unlink(one, b"f")  # can always be taken away, although the other passes its quota so
        assert await used(volume, b"two") == (900, 1)
        with pytest.raises(QuotaExceeded):
            await make(volume, two, b"g", 1)
        await volume.unlink(two, b"f")
        assert await used(volume, b"two") == (0, 1)

    with_volume(body)


def test_bad_quotas_are_refused_and_change_nothing() -> None:
    async def body(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        ino = await make(volume, top, b"f", 500)
        for limits in ({"bytes": 499}, {"bytes": 10_000, "files": 1}):
            await make(volume, top, b"g%d" % len(limits))
            with pytest.raises(Refused, match="already"):
                await limit(volume, b"top", **limits)
        for path, error in ((b"none", NotFound), (b"top/f", NotADirectory), (b"../top", InvalidArgument)):
            with pytest.raises(error):
                await limit(volume, path, bytes=1)
        with pytest.raises(InvalidArgument):
            await limit(volume, b"top")
        with pytest.raises(NotFound):
            await Quotas(volume).remove(b"top")
        assert await Quotas(volume).all() == []
        await volume.write(ino, 0, bytes(1_000_000))
        await limit(volume, b"top", bytes=1_000_000)
        await limit(volume, b"top", files=7)
        assert (await Quotas(volume).all())[0].bytes == 1_000_000

    with_volume(body)


def test_who_is_too_fast_waits_at_either_door_and_nested_limits_hold_together() -> None:
    async def body(volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        top = (await volume.lookup(ROOT_INO, b"bucket")).ino
        inner = await directory(volume, top, b"inner")
        ino = await make(volume, inner, b"f", 1_000_000)
        await limit(volume, b"bucket", write_bytes=100_000, read_bytes=500_000)
        await limit(volume, b"bucket/inner", write_bytes=1_000_000, read_bytes=250_000, operations=5)

        async def seconds(work: Awaitable[object]) -> float:
            began = trio.current_time()
            await work
            return trio.current_time() - began

        async def write() -> None:
            for _ in range(10):
                await volume.write(ino, 0, bytes(50_000))

        async def read() -> None:
            for _ in range(10):
                await volume.read(ino, 0, 100_000)

        async def touch() -> None:
            for _ in range(20):
                await volume.set_attributes(ino, SetAttributes(mtime_ns=1))

        async def put() -> None:
            put = await store.begin_put("bucket", b"key")
            for _ in range(10):
                await put.write(bytes(50_000))
            await put.commit(PutAttributes(etag="x"))

        async def both() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put)
                nursery.start_soon(write)

        # A second's worth is free, and the last need not be paid for.
        for work, least in ((write, 3.4), (read, 2.5), (touch, 2.7), (put, 3.4), (both, 8.4)):
            await trio.sleep(20)
            taken = await seconds(work())
            assert least <= taken <= least + 1.3, work.__name__
        await limit(volume, b"bucket", write_bytes=0, read_bytes=0)
        await Quotas(volume).remove(b"bucket/inner")
        assert await seconds(write()) < 0.5

    with_volume(body)


def test_space_inside_a_tree_is_what_its_quotas_leave() -> None:
    async def body(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        whole = await volume.space()
        await limit(volume, b"top", bytes=1_000_000, files=10)
        ino = await make(volume, top, b"f", 300_000)
        space = volume.space_in(ino)
        assert (space.total_bytes, space.available_bytes, space.inodes, space.inodes_max) == (1_000_000, 700_000, 1, 10)
        assert (await volume.space()).total_bytes == whole.total_bytes

    with_volume(body)


def test_quotas_and_usage_are_there_after_a_crash_and_when_home_is_lost() -> None:
    async def first(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        await limit(volume, b"top", bytes=1000)
        await make(volume, top, b"f", 400)
        await volume.link((await volume.lookup(top, b"f")).ino, ROOT_INO, b"g")
        await volume.sync()

    async def second(volume: Volume) -> None:
        assert await used(volume, b"top") == (400, 1)
        top = (await volume.lookup(ROOT_INO, b"top")).ino
        with pytest.raises(QuotaExceeded):
            await make(volume, top, b"h", 601)

    async def lose_home(world: SimVolume) -> None:
        await world.lose_home()

    with_volume(first, second)
    with_volume(first, second, before_last=lose_home)


def test_a_volume_of_a_program_that_kept_no_usage_is_counted_when_it_is_opened() -> None:
    async def first(volume: Volume) -> None:
        top = await directory(volume, ROOT_INO, b"top")
        inner = await directory(volume, top, b"inner")
        for number in range(5):
            ino = await make(volume, inner, b"f%d" % number, 100)
        await volume.link(ino, top, b"again")
        await volume.link(ino, ROOT_INO, b"again")
        await volume.sync()
        store = volume.ledger.store
        volume.ledger.usage.forget()
        forget_usage(store)
        transaction = store.begin()
        for key, value in list(store.scan(b"p", b"q")):
            if keys.kind_of(key) in (keys.HOME, keys.USAGE):
                transaction.delete(key)
            elif keys.kind_of(key) == keys.INODE and not (inode := decode_inode(value)).is_directory:
                inode.home = 0
                put_inode(transaction, keys.inode_ino(key), inode)
        transaction.commit()
        with pytest.raises(NotSupported):
            Quotas(volume)

    async def second(volume: Volume) -> None:
        assert await usage(volume, b"top") in ((500, 5, 1), (400, 4, 1))  # one file may count in the root
        assert await usage(volume, b"/") == (500, 5, 2)
        inner = (await volume.lookup((await volume.lookup(ROOT_INO, b"top")).ino, b"inner")).ino
        await volume.unlink(inner, b"f4")
        assert await usage(volume, b"/") == (500, 5, 2)

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await first(volume)
        async with world.opened() as volume:
            await second(volume)
            assert not list(check_metadata(volume.ledger.store))
            assert await fsck(volume) == []
            volume.ledger.usage._tally(ROOT_INO, 1, 0, 0, 0)
            assert {finding.invariant for finding in await fsck(volume)} == {"I19"}

    trio.run(main, clock=autojump())


def test_a_volume_with_quotas_does_not_become_several_shards() -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            top = await directory(volume, ROOT_INO, b"top")
            await limit(volume, b"top", bytes=10)
            administration = Administration(volume)
            with pytest.raises(Refused, match="has quotas"):
                await administration.forget_usage()
            await make(volume, top, b"f", 10)
            await Quotas(volume).remove(b"top")
            await administration.forget_usage()
            with pytest.raises(NotSupported, match="several shards"):
                Quotas(volume)
            await make(volume, top, b"g", 20)
        async with world.opened() as volume:
            assert await usage(volume, b"top") == (30, 2, 0)

    trio.run(main, clock=autojump())
