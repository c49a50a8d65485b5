"""Multipart uploads through the door: parts, completion and its checksums, copies of parts, listings."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from siltstone.s3gw.checksums import Digests, combine
from sim.s3 import ALT, Client, Door, run_on_each_store

MIB = 1024 * 1024
PARTS = [hashlib.shake_128(bytes((index,))).digest(size) for index, size in enumerate((5 * MIB, 5 * MIB + 1, 10))]


def checksum(algorithm: str, data: bytes) -> str:
    digests = Digests((algorithm,))
    digests.update(data)
    return digests.base64(algorithm)


async def create(client: Client, path: str = "/bucket/k", **headers: str) -> str:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.request("POST", path, "uploads", headers=sent)
    assert answer.status == 200, answer.body
    return answer.xml.text_of("UploadId") or ""


async def upload(client: Client, upload_id: str, number: int, data: bytes, **headers: str) -> str:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    query = f"partNumber={number}&uploadId={upload_id}"
    answer = await client.request("PUT", "/bucket/k", query, headers=sent, body=data)
    assert answer.status == 200, answer.body
    return answer.headers["etag"]


def completion(parts: list[tuple[int, str]], **checksums: list[str]) -> bytes:
    entries = ""
    for index, (number, etag) in enumerate(parts):
        more = "".join(f"<{name}>{values[index]}</{name}>" for name, values in checksums.items())
        entries += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>{more}</Part>"
    return f"<CompleteMultipartUpload>{entries}</CompleteMultipartUpload>".encode()


def test_parts_become_one_object_and_completing_again_is_success() -> None:
    async def body(door: Door, client: Client) -> None:
        upload_id = await create(client, content_type="a/b", x_amz_meta_x="1")
        etags = [
            (number, await upload(client, upload_id, number, data))
            for number, data in zip((2, 4, 9), PARTS, strict=True)
        ]
        assert await door.keys() == []
        document = completion(etags)
        first = await client.request("POST", "/bucket/k", f"uploadId={upload_id}", body=document)
        again = await client.request("POST", "/bucket/k", f"uploadId={upload_id}", body=document)
        digest = hashlib.md5(b"".join(hashlib.md5(data).digest() for data in PARTS)).hexdigest()
        for answer in (first, again):
            assert (answer.status, answer.xml.text_of("ETag")) == (200, f'"{digest}-3"')
        whole = b"".join(PARTS)
        assert first.xml.text_of("ChecksumCRC64NVME") == checksum("CRC64NVME", whole)
        answer = await client.request("GET", "/bucket/k", headers={"x-amz-checksum-mode": "ENABLED"})
        assert answer.body == whole and answer.headers["x-amz-checksum-crc64nvme"] == checksum("CRC64NVME", whole)
        assert answer.headers["content-type"] == "a/b" and answer.headers["x-amz-meta-x"] == "1"
        answer = await client.request("GET", "/bucket/k", "partNumber=4", headers={"x-amz-checksum-mode": "ENABLED"})
        assert (answer.status, answer.body, answer.headers["x-amz-mp-parts-count"]) == (206, PARTS[1], "3")
        assert answer.headers["x-amz-checksum-crc64nvme"] == checksum("CRC64NVME", PARTS[1])
        assert (await client.request("GET", "/bucket/k", "partNumber=3")).code == "InvalidPart"
        assert (await client.request("GET", "/bucket/k", "partNumber=0")).code == "InvalidArgument"
        await client.put("/bucket/k", b"other")
        answer = await client.request("POST", "/bucket/k", f"uploadId={upload_id}", body=document)
        assert (answer.status, answer.code) == (404, "NoSuchUpload")

    run_on_each_store(body)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("SHA256", "COMPOSITE"), ("CRC64NVME", "FULL_OBJECT")],
)
def test_the_checksum_of_the_whole_comes_from_the_parts(algorithm: str, kind: str) -> None:
    async def body(door: Door, client: Client) -> None:
        upload_id = await create(client, x_amz_checksum_algorithm=algorithm, x_amz_checksum_type=kind)
        header, values = f"x_amz_checksum_{algorithm.lower()}", [checksum(algorithm, data) for data in PARTS]
        etags = [
            (number, await upload(client, upload_id, number, data, **{header: value}))
            for number, (data, value) in enumerate(zip(PARTS, values, strict=True), 1)
        ]
        query, name = f"uploadId={upload_id}", f"Checksum{algorithm}"
        wrong = completion(etags, **{name: values[::-1]})
        assert (await client.request("POST", "/bucket/k", query, body=wrong)).code == "InvalidPart"
        document = completion(etags, **{name: values})
        bad = {header.replace("_", "-"): values[0]}
        assert (await client.request("POST", "/bucket/k", query, body=document, headers=bad)).code == "BadDigest"
        size = {"x-amz-mp-object-size": "7"}
        assert (await client.request("POST", "/bucket/k", query, body=document, headers=size)).code == "InvalidRequest"
        assert await door.keys() == []
        expected = combine(algorithm, kind, list(zip(values, map(len, PARTS), strict=True)))
        good = {header.replace("_", "-"): expected}
        answer = await client.request("POST", "/bucket/k", query, body=document, headers=good)
        assert (answer.xml.text_of(name), answer.xml.text_of("ChecksumType")) == (expected, kind)
        if kind == "FULL_OBJECT":
            assert expected == checksum(algorithm, b"".join(PARTS))
        told = {"x-amz-object-attributes": "ObjectParts,ObjectSize"}
        attributes = (await client.request("GET", "/bucket/k", "attributes", headers=told)).xml
        parts = attributes.all("ObjectParts")[0].all("Part")
        assert [(part.text_of("Size"), part.text_of(name)) for part in parts] == [
            (str(len(data)), value) for data, value in zip(PARTS, values, strict=True)
        ]
        for number, value in enumerate(values, 1):
            enabled = {"x-amz-checksum-mode": "ENABLED"}
            answer = await client.request("HEAD", "/bucket/k", f"partNumber={number}", headers=enabled)
            assert (answer.headers[f"x-amz-checksum-{algorithm.lower()}"], answer.headers["x-amz-checksum-type"]) == (
                value,
                kind,
            )

    run_on_each_store(body)


def test_a_completion_or_part_with_a_fault_changes_nothing() -> None:
    async def body(door: Door, client: Client) -> None:
        upload_id = await create(client, x_amz_checksum_algorithm="CRC32")
        crc = base64.b64encode(zlib.crc32(b"x").to_bytes(4, "big")).decode()
        tag = await upload(client, upload_id, 1, b"x", x_amz_checksum_crc32=crc)
        await upload(client, upload_id, 2, b"x")
        for document, code in (
            (b"", "MalformedXML"),
            (b"<Complete/>", "MalformedXML"),
            (b"<CompleteMultipartUpload/>", "MalformedXML"),
            (
                b"<CompleteMultipartUpload><Part><PartNumber>x</PartNumber></Part></CompleteMultipartUpload>",
                "MalformedXML",
            ),
            (completion([(2, tag), (1, tag)]), "InvalidPartOrder"),
            (completion([(3, tag)]), "InvalidPart"),
            (completion([(1, '"other"')]), "InvalidPart"),
            (completion([(1, tag), (2, tag)]), "EntityTooSmall"),
        ):
            answer = await client.request("POST", "/bucket/k", f"uploadId={upload_id}", body=document)
            assert answer.code == code, document
        for query, headers, code in (
            (f"partNumber=0&uploadId={upload_id}", {}, "InvalidArgument"),
            (f"partNumber=10001&uploadId={upload_id}", {}, "InvalidArgument"),
            (f"partNumber=1&uploadId={'0' * 32}", {}, "NoSuchUpload"),
            ("partNumber=1&uploadId=nonsense", {}, "NoSuchUpload"),
            (f"partNumber=1&uploadId={upload_id}", {"x-amz-checksum-crc32": crc}, "BadDigest"),
            (f"partNumber=1&uploadId={upload_id}", {"x-amz-checksum-sha1": checksum("SHA1", b"y")}, "InvalidRequest"),
        ):
            assert (await client.request("PUT", "/bucket/k", query, headers=headers, body=b"y")).code == code, query
        assert (await client.request("GET", "/bucket/k", f"uploadId={upload_id}", key=ALT)).code == "AccessDenied"
        for headers in ({"x-amz-checksum-algorithm": "XXH3"}, {"x-amz-checksum-type": "COMPOSITE"}):
            assert (await client.request("POST", "/bucket/k", "uploads", headers=headers)).code == "InvalidRequest"
        assert await door.keys() == []
        assert (await client.request("DELETE", "/bucket/k", f"uploadId={upload_id}")).status == 204
        assert (await client.request("DELETE", "/bucket/k", f"uploadId={upload_id}")).code == "NoSuchUpload"

    run_on_each_store(body)


def test_a_part_may_be_copied_from_an_object() -> None:
    async def body(door: Door, client: Client) -> None:
        await client.put("/bucket/source", bytes(range(100)))
        upload_id = await create(client)
        query = f"partNumber=1&uploadId={upload_id}"
        headers = {"x-amz-copy-source": "/bucket/source", "x-amz-copy-source-range": "bytes=10-19"}
        answer = await client.request("PUT", "/bucket/k", query, headers=headers)
        tag = answer.xml.text_of("ETag") or ""
        for text, code in (
            ("bytes=10-100", "InvalidRange"),
            ("bytes=-5", "InvalidArgument"),
            ("10-19", "InvalidArgument"),
        ):
            wrong = {**headers, "x-amz-copy-source-range": text}
            assert (await client.request("PUT", "/bucket/k", query, headers=wrong)).code == code
        # Of a part that was sent again while it was completed, the one that is named last counts.
        document = completion([(1, '"what was there before"'), (1, tag)])
        assert (await client.request("POST", "/bucket/k", f"uploadId={upload_id}", body=document)).status == 200
        assert (await client.request("GET", "/bucket/k")).body == bytes(range(10, 20))

    run_on_each_store(body)


def test_parts_and_uploads_are_listed_in_pages() -> None:
    async def body(door: Door, client: Client) -> None:
        first = await create(client)
        for number in (1, 5, 7):
            await upload(client, first, number, b"x" * number)
        document = (await client.request("GET", "/bucket/k", f"uploadId={first}&max-parts=2")).xml
        assert [(node.text_of("PartNumber"), node.text_of("Size")) for node in document.all("Part")] == [
            ("1", "1"),
            ("5", "5"),
        ]
        assert (document.text_of("IsTruncated"), document.text_of("NextPartNumberMarker")) == ("true", "5")
        document = (await client.request("GET", "/bucket/k", f"part-number-marker=5&uploadId={first}")).xml
        assert [node.text_of("PartNumber") for node in document.all("Part")] == ["7"]
        ids = [*sorted((first, await create(client))), await create(client, "/bucket/z")]
        found: list[str | None] = []
        query, is_truncated = "max-uploads=1&uploads", "true"
        while is_truncated == "true":
            document = (await client.request("GET", "/bucket", query)).xml
            found += [node.text_of("UploadId") for node in document.all("Upload")]
            is_truncated = document.text_of("IsTruncated") or ""
            query = "key-marker={}&max-uploads=1&upload-id-marker={}&uploads".format(
                document.text_of("NextKeyMarker"), document.text_of("NextUploadIdMarker")
            )
        assert found == ids
        assert (
            await client.request("GET", "/bucket", "key-marker=k&upload-id-marker=x&uploads")
        ).code == "InvalidArgument"

    run_on_each_store(body)
