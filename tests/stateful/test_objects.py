"""Objects against a dict of keys: put, copy, delete, multipart, listing in any page size; nothing is left behind."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from siltstone.core.object_types import CompletePart, Conditions, PutAttributes
from siltstone.errors import (
    InvalidArgument,
    InvalidPart,
    InvalidPartOrder,
    NameTooLong,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    PartTooSmall,
    PreconditionFailed,
    Refused,
)
from siltstone.limits import MULTIPART_PART_BYTES_MIN
from siltstone.types import ROOT_INO
from sim.two_doors import AnyStore, Sim, in_simulation

LONG = "a" * 260
common = st.sampled_from(["a", "b", "a!", "a.b", "aa", "é", "z"])
odd = st.sampled_from(["", "", ".", "..", "a\0", "a\1", LONG, LONG + "b", ".s3=", ".s3~", ".s3~..", ".s3~a", ".s3+a"])
elements = st.one_of(common, common, odd)
keys = st.lists(elements, min_size=1, max_size=4).map("/".join).map(str.encode).filter(lambda key: 0 < len(key) < 1024)
directory_keys = keys.map(lambda key: key + b"/")
any_keys = st.one_of(keys, keys, keys, directory_keys)
prefixes = st.sampled_from(
    [b"", b"a", b"a/", b"a!", b"aa/b", b"b/", b"x", b"a.", b"z/a/", b"/", b"//", b".", b"../", b"a//", b"a" * 259]
)
delimiters = st.sampled_from([b"", b"/", b"a", b"!"])


on_all = pytest.mark.parametrize("shards", [1, 3])


def attributes_of(data: bytes) -> PutAttributes:
    """What a client's PUT stores."""
    return PutAttributes(etag=hashlib.md5(data).hexdigest(), owner="me", metadata={"k": "v"})


async def put(store: AnyStore, key: bytes, data: bytes, conditions: Conditions = Conditions()) -> None:  # noqa: B008
    """PUT in two pieces."""
    writer = await store.begin_put("bucket", key)
    try:
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            if piece:
                await writer.write(piece)
        await writer.commit(attributes_of(data), conditions)
    except BaseException:
        await writer.abort()
        raise


async def read(store: AnyStore, key: bytes) -> bytes:
    """GET."""
    reader = await store.open("bucket", key)
    try:
        pieces, at = [], 0
        while piece := await reader.read(at, 100_000):
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)
    finally:
        reader.close()


def expected_listing(found: list[bytes], prefix: bytes, delimiter: bytes) -> list[bytes]:
    """Keys and folded prefixes as S3 defines them, in byte order."""
    lines: list[bytes] = []
    for key in sorted(found):
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            line = key if at < 0 else key[: at + len(delimiter)]
            if line not in lines:
                lines.append(line)
    return lines


@on_all
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(["put", "put", "put", "delete", "copy"]), any_keys, keys), max_size=25),
    prefixes,
    delimiters,
    st.integers(1, 7),
)
@example([("put", b"a/b", b"a"), ("put", b"a!", b"a"), ("put", b"aa/b", b"a"), ("put", b"a.b/a", b"a")], b"", b"", 7)
@example([("put", b"a", b"a"), ("put", b"a/b", b"a"), ("put", b"a/", b"a"), ("delete", b"a/b", b"a")], b"", b"/", 1)
def test_a_bucket_is_a_dict_of_keys_listed_in_byte_order(
    shards: int, steps: list[tuple[str, bytes, bytes]], prefix: bytes, delimiter: bytes, page: int
) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        model: dict[bytes, bytes] = {}
        for serial, (kind, key, other) in enumerate(steps):
            data = bytes([serial]) * (300_000 if serial % 7 == 0 else serial % 3 * 50)
            if kind == "put":
                await put(store, key, data)
                model[key] = data
            elif kind == "delete":
                assert (await store.delete("bucket", key)).was_there == (key in model)
                model.pop(key, None)
            elif other in model:
                await store.copy("bucket", other, "bucket", key, None)
                model[key] = model[other]
        for key, data in model.items():
            assert await read(store, key) == data
        expected = expected_listing(list(model), prefix, delimiter)
        found: list[bytes] = []
        after = b""
        while True:
            listing = await store.list_keys("bucket", prefix=prefix, delimiter=delimiter, start_after=after, limit=page)
            page_keys = [entry.key for entry in listing.entries]
            assert page_keys == sorted(page_keys) and listing.common_prefixes == sorted(listing.common_prefixes)
            found += sorted([*page_keys, *listing.common_prefixes])
            if not listing.is_truncated:
                break
            after = listing.last
        assert found == expected
        for key in list(model):
            assert (await store.delete("bucket", key)).was_there
        bucket = (await sim.tree.lookup(ROOT_INO, b"bucket")).ino
        assert await sim.tree.list_directory(bucket, after=None, limit=9) == []

    in_simulation(shards, body)


@on_all
@settings(max_examples=30, deadline=None)
@given(st.lists(keys, min_size=1, max_size=12), st.binary(max_size=6))
def test_a_listing_starts_behind_any_key_whether_it_exists_or_not(
    shards: int, found: list[bytes], start: bytes
) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        model: set[bytes] = set()
        for key in found:
            await put(store, key, b"x")
            model.add(key)
        listing = await store.list_keys("bucket", prefix=b"", delimiter=b"", start_after=start, limit=1000)
        assert [entry.key for entry in listing.entries] == sorted(key for key in model if key > start)

    in_simulation(shards, body)


@on_all
def test_a_reader_keeps_the_version_that_it_opened(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        await put(store, b"key", b"old" * 100_000)
        reader = await store.open("bucket", b"key")
        await put(store, b"key", b"new")
        assert await reader.read(0, 1_000_000) == b"old" * 100_000
        assert await read(store, b"key") == b"new"
        await store.delete("bucket", b"key")
        assert await reader.read(299_997, 10) == b"old"
        reader.close()

    in_simulation(shards, body)


@on_all
def test_conditions_decide_whether_a_put_happens(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        with pytest.raises(NotFound):
            await put(store, b"key", b"1", Conditions(if_match="x"))
        await put(store, b"key", b"1", Conditions(if_none_match="*"))
        with pytest.raises(PreconditionFailed):
            await put(store, b"key", b"2", Conditions(if_none_match="*"))
        with pytest.raises(PreconditionFailed):
            await put(store, b"key", b"2", Conditions(if_match="x"))
        await put(store, b"key", b"3", Conditions(if_match=hashlib.md5(b"1").hexdigest()))
        assert await read(store, b"key") == b"3"
        with pytest.raises(PreconditionFailed):
            await store.delete("bucket", b"key", Conditions(if_match="x"))
        assert (await store.delete("bucket", b"key")).was_there

    in_simulation(shards, body)


@on_all
def test_a_write_through_the_mount_changes_the_etag_and_drops_the_digests(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        await put(store, b"key", b"1")
        before = await store.head("bucket", b"key")
        await sim.tree.write(before.ino, 0, b"2")
        after = await store.head("bucket", b"key")
        assert after.etag != before.etag and "-" in after.etag
        assert after.metadata == {"k": "v"}
        await sim.tree.write(before.ino, 1, b"3")
        assert (await store.head("bucket", b"key")).etag != after.etag

    in_simulation(shards, body)


@on_all
def test_an_upload_becomes_an_object_of_its_parts(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        upload = await store.create_upload("bucket", b"d/key", owner="me", headers={}, metadata={"a": "b"})
        first, last = b"1" * MULTIPART_PART_BYTES_MIN, b"tail"
        etags = []
        for number, data in ((2, b"replaced"), (1, first), (2, last)):
            part = await store.begin_part("bucket", b"d/key", upload, number)
            for at in range(0, len(data), 1 << 20):
                await part.write(data[at : at + (1 << 20)])
            etags.append((await part.commit(etag=hashlib.md5(data).hexdigest(), checksums={})).etag)
        parts = [CompletePart(1, etags[1]), CompletePart(2, etags[2])]
        listed, _ = await store.list_parts("bucket", b"d/key", upload, after=0, limit=9)
        assert [part.number for part in listed] == [1, 2]
        for wrong, error in (
            ([], InvalidPart),
            (parts[::-1], InvalidPartOrder),
            ([CompletePart(1, "x")], InvalidPart),
            ([CompletePart(9, etags[1])], InvalidPart),
        ):
            with pytest.raises(error):
                await store.complete_upload("bucket", b"d/key", upload, wrong, checksums={})
        info = await store.complete_upload("bucket", b"d/key", upload, parts, checksums={})
        assert info.etag.endswith("-2") and info.part_sizes == (len(first), len(last))
        assert await read(store, b"d/key") == first + last
        with pytest.raises(NoSuchUpload):
            await store.upload("bucket", b"d/key", upload)
        assert (await sim.counts()).orphans == 0
        assert (await store.copy("bucket", b"d/key", "bucket", b"copy", None)).part_sizes == info.part_sizes
        await store.delete("bucket", b"d/key")
        assert await read(store, b"copy") == first + last

    in_simulation(shards, body)


@on_all
def test_a_small_part_that_is_not_the_last_is_refused(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        upload = await store.create_upload("bucket", b"key", owner="me", headers={}, metadata={})
        parts = []
        for number in (1, 2):
            part = await store.begin_part("bucket", b"key", upload, number)
            await part.write(b"small")
            parts.append(CompletePart(number, (await part.commit(etag="e" * 32, checksums={})).etag))
        with pytest.raises(PartTooSmall):
            await store.complete_upload("bucket", b"key", upload, parts, checksums={})
        await store.abort_upload("bucket", b"key", upload)
        with pytest.raises(NoSuchUpload):
            await store.begin_part("bucket", b"key", upload, 1)
        assert (await sim.counts()).inodes == 2

    in_simulation(shards, body)


@on_all
def test_an_aborted_put_leaves_nothing(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        writer = await store.begin_put("bucket", b"key")
        for _ in range(4):
            await writer.write(bytes(300_000))
        await writer.abort()
        assert await sim.counts() == (2, 0, 0, 0)

    in_simulation(shards, body)


@on_all
@pytest.mark.parametrize(("key", "error"), [(b"", InvalidArgument), (b"a/" * 600, NameTooLong)])
def test_what_is_no_key_is_refused(shards: int, key: bytes, error: type[Refused]) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        with pytest.raises(error):
            await store.begin_put("bucket", key)

    in_simulation(shards, body)


@on_all
def test_a_bucket_with_uploads_can_be_deleted_and_leaves_nothing(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        upload = await store.create_upload("bucket", b"key", owner="me", headers={}, metadata={})
        part = await store.begin_part("bucket", b"key", upload, 1)
        await part.write(b"x" * 1000)
        await part.commit(etag="e" * 32, checksums={})
        await store.delete_bucket("bucket")
        with pytest.raises(NoSuchBucket):
            await store.head("bucket", b"key")
        assert (await sim.counts()).inodes == 1
        assert await sim.tree.list_directory(ROOT_INO, after=None, limit=9) == []

    in_simulation(shards, body)
