"""Listings are made in short steps: however they are cut, they add up to the same page."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core import listing
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.volume import Volume
from siltstone.types import ROOT_INO
from sim.bucket import in_bucket

LONG = b"\xff" * 256
odd = st.sampled_from([b"", b".", b"..", b"a\0", LONG, LONG + b"a", b".s3=", b".s3~", b".s3~..", b".s3~a", b".s3+"])
common = st.sampled_from([b"a", b"b", b"a!", b"a.b", b"aa", b"\xff"])
elements = st.one_of(common, common, odd)
keys = st.lists(elements, min_size=1, max_size=4).map(b"/".join).filter(lambda key: 0 < len(key) < 1024)
delimiters = st.sampled_from([b"", b"/", b"a", b"!", b"/a", b"\xff"])


async def put(store: ObjectStore, key: bytes) -> None:
    """An empty object."""
    await (await store.begin_put("bucket", key)).commit(PutAttributes(etag="x"))


@settings(max_examples=80, deadline=None)
@given(st.lists(keys, max_size=12), delimiters, st.sampled_from([b"", b"a", b"a/"]), st.integers(1, 3))
def test_short_steps_list_the_same_as_one_long_step(
    found: list[bytes], delimiter: bytes, prefix: bytes, step_keys: int
) -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        for key in found:
            await put(store, key)
        bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
        await volume.symlink(bucket, b"a-link", b"a", uid=0, gid=0)
        await volume.mkdir(bucket, b"empty", mode=0o755, uid=0, gid=0)
        whole = await store.list_keys("bucket", prefix=prefix, delimiter=delimiter, limit=9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(listing, "STEP_KEYS", step_keys)
            patch.setattr(listing, "STEP_FOLDS", step_keys)
            assert await store.list_keys("bucket", prefix=prefix, delimiter=delimiter, limit=9) == whole

    in_bucket(body)


def test_a_long_list_lets_others_run() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        for number in range(60):
            await put(store, b"%02d/key" % number)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(listing, "STEP_KEYS", 10)
                patch.setattr(listing, "STEP_FOLDS", 10)
                found = await store.list_keys("bucket", delimiter=b"/", limit=1000)
            assert len(found.common_prefixes) == 60
            assert turns >= 6
            nursery.cancel_scope.cancel()

    in_bucket(body)


def test_a_key_of_many_directories_is_listed() -> None:
    async def body(_volume: Volume, store: ObjectStore) -> None:
        key = b"/".join([b"a"] * 512)
        await put(store, key)
        found = await store.list_keys("bucket", limit=10)
        assert [entry.key for entry in found.entries] == [key]

    in_bucket(body)


odd_prefixes = st.lists(st.sampled_from([b"a", b"/", b"\xff", b"!", b".", b"b"]), max_size=6).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(keys, min_size=1, max_size=10), st.data())
def test_a_list_that_begins_deep_in_the_tree_lists_what_has_the_prefix(found: list[bytes], data: st.DataObject) -> None:
    async def body(_volume: Volume, store: ObjectStore) -> None:
        there: set[bytes] = set()
        for key in found:
            for made in (key, key + b"/"):
                await put(store, made)
                there.add(made)
        cut = st.sampled_from(sorted(there)).flatmap(lambda key: st.integers(0, len(key)).map(lambda at: key[:at]))
        for _ in range(5):
            prefix, start = data.draw(cut | odd_prefixes), data.draw(cut | odd_prefixes)
            delimiter = data.draw(delimiters)
            expected: set[bytes] = set()
            for key in there:
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                line = key if at < 0 else key[: at + len(delimiter)]
                if key.startswith(prefix) and key > start and line != start:
                    expected.add(line)
            listed = await store.list_keys("bucket", prefix=prefix, delimiter=delimiter, start_after=start, limit=1000)
            assert sorted([entry.key for entry in listed.entries] + listed.common_prefixes) == sorted(expected)

    in_bucket(body)


def test_what_is_folded_may_end_where_its_directory_ends() -> None:
    async def body(_volume: Volume, store: ObjectStore) -> None:
        for key in (b"a/\xff\xff", b"a/\xff\xff\xff", b"b"):
            await put(store, key)
        listed = await store.list_keys("bucket", prefix=b"a/\xff", delimiter=b"\xff", limit=9)
        assert (listed.entries, listed.common_prefixes) == ([], [b"a/\xff\xff"])

    in_bucket(body)
