"""Copies through S3 of files that the mount writes to at the same time: bytes and digest are of one moment."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio

from siltstone.core.object_bytes import SharedBytes
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import ObjectInfo, PutAttributes
from siltstone.core.volume import Volume
from siltstone.errors import Conflict
from siltstone.types import Ino
from sim.bucket import in_bucket

OLD, NEW = Random(1).randbytes(200_000), Random(2).randbytes(200_000)


def with_object(
    monkeypatch: pytest.MonkeyPatch, times: int, body: Callable[[Volume, ObjectStore], Awaitable[None]]
) -> None:
    """Run ``body`` with an object of OLD bytes, to which the mount writes NEW ones while it is shared; so often."""

    async def whole(volume: Volume, store: ObjectStore) -> None:
        put = await store.begin_put("bucket", b"a")
        await put.write(OLD)
        info = await put.commit(PutAttributes(etag=hashlib.md5(OLD).hexdigest()))
        append, left = SharedBytes.append, times

        async def overwritten_first(self: SharedBytes, source: Ino, offset: int, size: int) -> None:
            nonlocal left
            if left:
                left -= 1
                await volume.write(info.ino, 0, NEW)
                await volume.flush(info.ino)
            await append(self, source, offset, size)

        monkeypatch.setattr(SharedBytes, "append", overwritten_first)
        await body(volume, store)
        await trio.sleep(3)
        assert not volume.status().orphans

    in_bucket(whole)


async def content(store: ObjectStore, key: bytes) -> tuple[ObjectInfo, bytes]:
    """An object and its bytes."""
    reader = await store.open("bucket", key)
    try:
        return reader.info, await reader.read(0, 1_000_000)
    finally:
        reader.close()


def test_a_copy_has_no_digest_of_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(_: Volume, store: ObjectStore) -> None:
        await store.copy("bucket", b"a", "bucket", b"b", None)
        info, data = await content(store, b"b")
        assert data == NEW
        assert info.etag != hashlib.md5(OLD).hexdigest()

    with_object(monkeypatch, 1, body)


def test_a_copy_of_what_never_rests_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(_: Volume, store: ObjectStore) -> None:
        with pytest.raises(Conflict):
            await store.copy("bucket", b"a", "bucket", b"b", None)

    with_object(monkeypatch, 1000, body)


def test_the_digest_of_a_copied_part_is_that_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Volume.read

    async def body(volume: Volume, store: ObjectStore) -> None:
        source = (await store.head("bucket", b"a")).ino
        upload_id = await store.create_upload("bucket", b"b", owner="me", headers={}, metadata={})

        async def overwritten_first(self: Volume, ino: Ino, offset: int, size: int) -> bytes:
            await volume.write(source, 0, NEW)
            await volume.flush(source)
            return await read(self, ino, offset, size)

        with monkeypatch.context() as patched:
            patched.setattr(Volume, "read", overwritten_first)
            part = await store.copy_part("bucket", b"a", (10, 150_009), "bucket", b"b", upload_id, 1)
        assert part.etag == hashlib.md5(OLD[10:150_010]).hexdigest()

    with_object(monkeypatch, 0, body)
