"""Keys as paths: which have a place in the tree, and where they lead when either door moves what is on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.object_paths import KeyPath, split_key
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.volume import Volume
from siltstone.errors import InvalidArgument, NameTooLong, NotADirectory, NotFound
from siltstone.types import ROOT_INO
from sim.bucket import in_bucket

elements = st.sampled_from([b"", b".", b"..", b"...", b"a", b".a", b"a.", b"\0", b"n" * 255, b"n" * 256, b"\xff"])


@given(st.lists(elements, min_size=1, max_size=5).map(b"/".join))
def test_a_key_of_ordinary_elements_is_its_own_path(key: bytes) -> None:
    parts = (key[:-1] if key.endswith(b"/") else key).split(b"/")
    if not key:
        with pytest.raises(InvalidArgument):
            split_key(key)
    elif len(key) > 1024:
        with pytest.raises(NameTooLong):
            split_key(key)
    elif not any(part in (b"", b".", b"..") or b"\0" in part or len(part) > 255 for part in parts):
        assert split_key(key) == KeyPath(b"/".join(parts[:-1]), parts[-1], key.endswith(b"/"))


async def put(store: ObjectStore, key: bytes) -> None:
    await (await store.begin_put("bucket", key)).commit(PutAttributes(etag=key.decode()))


async def etag(store: ObjectStore, key: bytes) -> str | None:
    try:
        return (await store.head("bucket", key)).etag
    except NotFound:
        return None


def test_a_key_leads_where_the_mount_has_moved_its_directories() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
        await put(store, b"a/b/c/deep")
        await put(store, b"x/b/c/deep")
        a, x = (await volume.lookup(bucket, b"a")).ino, (await volume.lookup(bucket, b"x")).ino
        assert await etag(store, b"a/b/c/deep") == "a/b/c/deep"

        await volume.rename(a, b"b", x, b"b", exchange=True)
        assert await etag(store, b"a/b/c/deep") == "x/b/c/deep"
        assert await etag(store, b"x/b/c/deep") == "a/b/c/deep"

        await volume.rename(bucket, b"a", bucket, b"moved")
        assert await etag(store, b"a/b/c/deep") is None
        assert await etag(store, b"moved/b/c/deep") == "x/b/c/deep"

        await volume.mkdir(bucket, b"a", mode=0o755, uid=0, gid=0)
        assert await etag(store, b"a/b/c/deep") is None
        await volume.rename(bucket, b"x", bucket, b"a")
        assert await etag(store, b"a/b/c/deep") == "a/b/c/deep"

    in_bucket(body)


def test_a_directory_that_went_with_its_last_key_is_made_again_for_the_next() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
        for _ in range(3):
            await put(store, b"a/b/c/key")
            assert (await store.delete("bucket", b"a/b/c/key")).was_there
            assert await volume.list_directory(bucket, after=None, limit=9) == []
        await put(store, b"a/b")
        await put(store, b"a/b/c/key")
        assert await etag(store, b"a/b") == "a/b"

    in_bucket(body)


def test_a_file_moves_into_the_directory_that_a_key_makes_of_its_name_and_out_again() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
        file = await volume.create(bucket, b"a", mode=0o100640, uid=7, gid=7)
        await put(store, b"a/b/c")
        a = (await volume.lookup(bucket, b"a")).ino
        moved = await volume.lookup(a, b".s3=")
        assert (moved.ino, moved.uid, moved.nlink) == (file.ino, 7, 1)
        await volume.write(file.ino, 0, b"through the old handle")
        assert (await store.head("bucket", b"a")).size == 22
        assert (await store.delete("bucket", b"a/b/c")).was_there
        assert (await volume.lookup(bucket, b"a")).ino == file.ino

    in_bucket(body)


def test_what_is_in_the_way_of_a_key_and_no_object_stays() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
        await volume.symlink(bucket, b"link", b"target", uid=0, gid=0)
        for key in (b"link", b"link/b", b"link/"):
            with pytest.raises(NotADirectory):
                await put(store, key)
        assert await volume.readlink((await volume.lookup(bucket, b"link")).ino) == b"target"

    in_bucket(body)


def test_a_bucket_that_the_mount_renames_takes_its_keys_along() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        await put(store, b"a/b/key")
        await volume.rename(ROOT_INO, b"bucket", ROOT_INO, b"other")
        assert (await store.head("other", b"a/b/key")).etag == "a/b/key"
        await store.create_bucket("bucket", owner="me")
        assert await etag(store, b"a/b/key") is None

    in_bucket(body)
