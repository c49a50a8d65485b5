"""Encrypted objects: every range reads as it was written, and whatever is changed of what is kept is noticed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siltstone.errors import Corrupt
from siltstone.s3gw.sealed import (
    CHUNK_BYTES,
    KEY_BYTES,
    SALT_BYTES,
    SEALED_CHUNK_BYTES,
    Sealer,
    Segments,
    plain_size,
    sealed_size,
)
from sim.s3 import ALT, Client, Door, run_on_each_store

KEY = bytes(range(KEY_BYTES))
SIZES = st.integers(0, 200) | st.integers(-2, 2).map(lambda n: CHUNK_BYTES + n) | st.integers(0, 3 * CHUNK_BYTES)


def plain_of(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def sealed(plain: bytes, salt: bytes, cuts: int = 1) -> bytes:
    sealer = Sealer(KEY, salt)
    step = max(1, len(plain) // cuts)
    return b"".join(sealer.update(plain[at : at + step]) for at in range(0, len(plain), step)) + sealer.finish()


def read(kept: bytes, segments: Segments, offset: int, size: int, key: bytes = KEY) -> bytes:
    return b"".join(
        piece.opened(
            key, kept[piece.segment : piece.segment + SALT_BYTES], kept[piece.start : piece.start + piece.length]
        )
        for piece in segments.pieces(offset, size)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=3), st.data())
@example([0], None)
@example([CHUNK_BYTES, 0, CHUNK_BYTES + 1], None)
def test_any_range_reads_as_it_was_written(sizes: list[int], data: st.DataObject | None) -> None:
    plains = [plain_of(size) for size in sizes]
    parts = [sealed(plain, bytes([number]) * SALT_BYTES, number + 1) for number, plain in enumerate(plains)]
    assert [len(part) for part in parts] == [sealed_size(size) for size in sizes]
    assert [plain_size(len(part)) for part in parts] == sizes
    whole, kept = b"".join(plains), b"".join(parts)
    segments = Segments([len(part) for part in parts])
    assert segments.size == len(whole)
    offset, size = 0, len(whole)
    if data is not None:
        offset = data.draw(st.integers(0, len(whole)))
        size = data.draw(st.integers(0, len(whole) + 10))
    assert read(kept, segments, offset, size) == whole[offset : offset + size]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2 * CHUNK_BYTES + 5), st.data())
def test_a_changed_byte_is_noticed(size: int, data: st.DataObject) -> None:
    kept = bytearray(sealed(plain_of(size), b"s" * SALT_BYTES))
    at = data.draw(st.integers(0, len(kept) - 1))
    kept[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Corrupt):
        read(bytes(kept), Segments([len(kept)]), 0, size)


def test_chunks_that_are_swapped_or_cut_off_are_noticed() -> None:
    kept = sealed(plain_of(3 * CHUNK_BYTES), b"s" * SALT_BYTES)
    head, chunks = (
        kept[:SALT_BYTES],
        [kept[SALT_BYTES + at :][:SEALED_CHUNK_BYTES] for at in range(0, 3 * SEALED_CHUNK_BYTES, SEALED_CHUNK_BYTES)],
    )
    for wrong in ([chunks[1], chunks[0], chunks[2]], chunks[:2], [chunks[0], chunks[2]]):
        found = head + b"".join(wrong)
        segments = Segments([len(found)])
        with pytest.raises(Corrupt):
            read(found, segments, 0, segments.size)
    with pytest.raises(Corrupt):
        read(kept, Segments([len(kept)]), 0, 10, key=bytes(KEY_BYTES))


PREFIX = "x-amz-server-side-encryption-customer-"
OWN = {
    PREFIX + "algorithm": "AES256",
    PREFIX + "key": "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=",
    PREFIX + "key-md5": "DWygnHRtgiJ77HCm+1rvHw==",
}
OTHER = {
    PREFIX + "algorithm": "AES256",
    PREFIX + "key": "6b+WOZ1T3cqZMxgThRcXAQBrS5mXKdDUphvpxptl9/4=",
    PREFIX + "key-md5": "arxBvwY2V4SiOne6yppVPQ==",
}


def test_an_object_with_the_clients_key_is_read_with_that_key_only() -> None:
    async def body(door: Door, client: Client) -> None:
        plain = plain_of(100_000)
        answer = await client.request("PUT", "/bucket/k", headers=OWN, body=plain)
        assert answer.status == 200 and answer.headers[PREFIX + "key-md5"] == OWN[PREFIX + "key-md5"]
        assert (await client.request("GET", "/bucket/k", headers=OWN)).body == plain
        ranged = await client.request("GET", "/bucket/k", headers=OWN | {"range": "bytes=65530-65545"})
        assert (ranged.status, ranged.body) == (206, plain[65530:65546])
        assert (await client.request("GET", "/bucket/k")).code == "InvalidRequest"
        wanted = {"x-amz-object-attributes": "ObjectSize"}
        assert (await client.request("GET", "/bucket/k", "attributes", headers=wanted)).code == "InvalidRequest"
        told = (await client.request("GET", "/bucket/k", "attributes", headers=OWN | wanted)).xml
        assert told.text_of("ObjectSize") == "100000"
        assert (await client.request("GET", "/bucket/k", headers=OTHER)).code == "InvalidArgument"
        assert (await client.request("HEAD", "/bucket/k")).status == 400
        assert (await client.request("HEAD", "/bucket/k", headers=OWN)).headers["content-length"] == "100000"
        assert b"<Size>100000</Size>" in (await client.request("GET", "/bucket")).body
        reader = await door.store.open("bucket", b"k")
        kept = await reader.read(0, 200_000)
        reader.close()
        assert plain[:64] not in kept
        source = {name.replace("x-amz-server", "x-amz-copy-source-server"): value for name, value in OWN.items()}
        answer = await client.request(
            "PUT",
            "/bucket/copy",
            headers=source | {"x-amz-copy-source": "/bucket/k", "x-amz-metadata-directive": "COPY"},
        )
        assert answer.status == 200
        assert (await client.request("GET", "/bucket/copy")).body == plain
        await client.put("/bucket/plain", b"x")
        assert (await client.request("GET", "/bucket/plain", headers=OWN)).code == "InvalidRequest"
        assert (await client.request("GET", "/bucket/k", headers=OWN, key=ALT)).status == 403

    run_on_each_store(body)


def test_parts_of_an_upload_with_the_clients_key_come_with_that_key_only() -> None:
    async def body(door: Door, client: Client) -> None:
        begun = await client.request("POST", "/bucket/k", "uploads", headers=OWN)
        upload_id = begun.xml.text_of("UploadId")
        query, part = f"uploadId={upload_id}", f"partNumber=1&uploadId={upload_id}"
        await client.put("/bucket/source", b"source")
        source = {"x-amz-copy-source": "/bucket/source"}
        for wrong in ({}, OTHER):
            assert (await client.request("PUT", "/bucket/k", part, headers=wrong, body=b"x")).status == 400
            assert (await client.request("PUT", "/bucket/k", part, headers=wrong | source)).status == 400
        assert (await client.request("PUT", "/bucket/k", part, headers=OWN | source)).status == 200
        etag = (await client.request("PUT", "/bucket/k", part, headers=OWN, body=b"bytes")).headers["etag"]
        document = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
        text = f"{document}</CompleteMultipartUpload>".encode()
        for wrong in ({}, OTHER):
            assert (await client.request("POST", "/bucket/k", query, headers=wrong, body=text)).status == 400
        assert await door.keys() == [b"source"]
        assert (await client.request("POST", "/bucket/k", query, headers=OWN, body=text)).status == 200
        assert (await client.request("GET", "/bucket/k", headers=OWN)).body == b"bytes"
        # That there is no such part is said without a key.
        assert (await client.request("GET", "/bucket/k", "partNumber=2")).code == "InvalidPart"

    run_on_each_store(body)
