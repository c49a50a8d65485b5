"""Each operation answers as S3 does, each fault has its own error, and a fault changes nothing."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from urllib.parse import quote

import pytest

from siltstone.errors import Corrupt, NoSpace, SiltstoneError, TooFewDisks
from siltstone.s3gw.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED_PAYLOAD,
    sign_chunk,
    sign_trailer,
)
from sim.s3 import (
    ALT,
    HOST,
    REGION,
    START_NS,
    Client,
    Door,
    Key,
    object_path,
    run_in_memory,
    run_on_each_store,
    signed_head,
)

MIB = 1024 * 1024
MINUTE_NS = 60 * 1_000_000_000


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


# --- buckets -------------------------------------------------------------------------------------------------------


def test_a_bucket_is_made_listed_and_removed() -> None:
    async def body(door: Door, client: Client) -> None:
        assert (await client.put("/second")).headers["location"] == "/second"
        document = (await client.request("GET", "/")).xml
        buckets = document.child("Buckets")
        assert buckets is not None
        assert [node.text_of("Name") for node in buckets.children] == ["bucket", "second"]
        owner = document.child("Owner")
        assert owner is not None and (owner.text_of("ID"), owner.text_of("DisplayName")) == ("main-id", "Main")
        assert (await client.request("HEAD", "/second")).headers["x-amz-bucket-region"] == REGION
        assert (await client.request("DELETE", "/second")).status == 204
        assert (await client.request("DELETE", "/second")).code == "NoSuchBucket"
        assert (await client.request("HEAD", "/second")).status == 404

    run_on_each_store(body)


def test_a_bucket_is_its_makers_and_one_that_the_mount_made_is_everybodys() -> None:
    async def body(door: Door, client: Client) -> None:
        await door.store.create_bucket("shared", owner="")
        await client.put("/bucket/k", b"secret")
        names = (await client.request("GET", "/", key=ALT)).body
        assert b"shared" in names and b"<Name>bucket" not in names
        for method, path in (
            ("GET", "/bucket"),
            ("HEAD", "/bucket"),
            ("DELETE", "/bucket"),
            ("GET", "/bucket/k"),
            ("HEAD", "/bucket/k"),
            ("PUT", "/bucket/k"),
            ("DELETE", "/bucket/k"),
            ("GET", "/bucket/missing"),
        ):
            assert (await client.request(method, path, key=ALT)).status == 403, (method, path)
        copied = await client.request("PUT", "/shared/k", headers={"x-amz-copy-source": "/bucket/k"}, key=ALT)
        assert copied.code == "AccessDenied"
        assert (await client.request("GET", "/bucket/k")).body == b"secret"
        assert (await client.request("PUT", "/shared/k", key=ALT)).status == 200
        assert (await client.request("PUT", "/bucket", key=ALT)).code == "BucketAlreadyExists"

    run_on_each_store(body)


def test_making_ones_own_bucket_again_is_success() -> None:
    async def first(door: Door, client: Client) -> None:
        assert (await client.put("/bucket")).status == 200

    run_on_each_store(first)


def test_a_directory_whose_name_no_xml_can_hold_does_not_break_the_list_of_buckets() -> None:
    async def body(door: Door, client: Client) -> None:
        await door.store.create_bucket("bad\x01name", owner="")
        buckets = (await client.request("GET", "/")).xml.child("Buckets")
        assert buckets is not None and [node.text_of("Name") for node in buckets.children] == ["bucket"]

    run_on_each_store(body)


def test_bucket_names_and_configurations_are_checked() -> None:
    async def body(door: Door, client: Client) -> None:
        assert (await client.put("/No_Good")).code == "InvalidBucketName"
        where = "<CreateBucketConfiguration><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>"
        assert (await client.put("/third", where.format("mars").encode())).code == "IllegalLocationConstraintException"
        assert (await client.put("/third", b"<Other/>")).code == "MalformedXML"
        assert (await client.put("/third", b"<<")).code == "MalformedXML"
        assert (await client.put("/third", where.format(REGION).encode())).status == 200
        assert (await client.put("/fourth", x_amz_acl="public")).code == "InvalidArgument"
        await client.put("/bucket/k")
        assert (await client.request("DELETE", "/bucket")).code == "BucketNotEmpty"
        assert [info.name for info in await door.store.list_buckets()] == ["bucket", "third"]

    run_on_each_store(body)


def test_what_is_not_there_yet_says_so() -> None:
    async def body(door: Door, client: Client) -> None:
        for method, path, query in (
            ("GET", "/bucket", "website"),
            ("PUT", "/bucket", "inventory"),
            ("PUT", "/bucket/k", "restore"),
        ):
            answer = await client.request(method, path, query)
            assert (answer.status, answer.code) == (501, "NotImplemented"), (method, path, query)
        assert (await client.request("PATCH", "/bucket/k")).code == "MethodNotAllowed"
        assert (await client.request("GET", "/bucket/k")).headers["x-amz-delete-marker"] == "false"
        for header in ("x-amz-website-redirect-location",):
            assert (await client.request("PUT", "/bucket/k", headers={header: "x"})).code == "NotImplemented"
        assert await door.keys() == []
        grants = (await client.request("GET", "/bucket", "acl")).body
        assert b'xsi:type="CanonicalUser"><ID>main-id</ID>' in grants and b"FULL_CONTROL" in grants
        assert (await client.request("GET", "/bucket", "location")).body.endswith(b"></LocationConstraint>")
        assert (await client.request("GET", "/bucket", "versioning")).xml.children == []

    run_on_each_store(body)


# --- objects -------------------------------------------------------------------------------------------------------


def test_an_object_comes_back_with_all_that_was_stored_beside_it() -> None:
    async def body(door: Door, client: Client) -> None:
        data = bytes(range(256))
        path = object_path("a b/ü+%".encode())
        answer = await client.put(
            path,
            data,
            content_type="text/x-test",
            cache_control="no-cache",
            content_encoding="aws-chunked,gzip",
            x_amz_meta_Color="blue",
            x_amz_checksum_crc32=crc32(data),
        )
        assert answer.headers["etag"] == etag(data)
        assert answer.headers["x-amz-checksum-crc32"] == crc32(data)
        for method in ("GET", "HEAD"):
            answer = await client.request(method, path, headers={"x-amz-checksum-mode": "ENABLED"})
            assert answer.body == (data if method == "GET" else b"")
            expected = {
                "etag": etag(data),
                "content-length": "256",
                "content-type": "text/x-test",
                "cache-control": "no-cache",
                "content-encoding": "gzip",
                "x-amz-meta-color": "blue",
                "x-amz-checksum-crc32": crc32(data),
                "x-amz-checksum-type": "FULL_OBJECT",
                "accept-ranges": "bytes",
                "server": "Siltstone",
            }
            assert expected.items() <= answer.headers.items()
            assert answer.headers["x-amz-request-id"] and answer.headers["last-modified"].endswith("GMT")
        assert (await client.request("DELETE", path)).status == 204
        assert (await client.request("DELETE", path)).status == 204
        assert (await client.request("GET", path)).code == "NoSuchKey"

    run_on_each_store(body)


@pytest.mark.parametrize(
    ("headers", "payload", "code"),
    [
        ({"content-md5": md5(b"other")}, None, "BadDigest"),
        ({"content-md5": "nonsense"}, None, "InvalidDigest"),
        ({"x-amz-checksum-crc32": crc32(b"other")}, None, "BadDigest"),
        ({"x-amz-checksum-sha256": "short"}, None, "BadDigest"),
        ({}, hashlib.sha256(b"other").hexdigest(), "XAmzContentSHA256Mismatch"),
        ({}, "nonsense", "InvalidArgument"),
        ({"if-none-match": "*"}, None, "PreconditionFailed"),
        ({"if-match": '"other"'}, None, "PreconditionFailed"),
        ({"x-amz-meta-big": "x" * 2048}, None, "MetadataTooLarge"),
        ({"x-amz-storage-class": "GLACIER"}, None, "InvalidStorageClass"),
    ],
)
def test_a_put_with_a_fault_changes_nothing(headers: dict[str, str], payload: str | None, code: str) -> None:
    async def body(door: Door, client: Client) -> None:
        await client.put("/bucket/k", b"before")
        answer = await client.request("PUT", "/bucket/k", headers=headers, body=b"after", payload=payload)
        assert answer.code == code
        assert (await client.request("GET", "/bucket/k")).body == b"before"

    run_on_each_store(body)


def test_keys_and_bodies_have_their_limits() -> None:
    async def body(door: Door, client: Client) -> None:
        assert (await client.put(object_path(b"k" * 1025))).code == "KeyTooLongError"
        head, _ = signed_head("PUT", "/bucket/k", payload=UNSIGNED_PAYLOAD)
        await client.send(head + b"content-length: 5368709121\r\n\r\n")
        assert (await client.receive()).code == "EntityTooLarge"
        assert await door.keys() == []

    run_on_each_store(body)


def test_a_body_that_breaks_off_leaves_nothing_behind() -> None:
    async def body(door: Door, client: Client) -> None:
        head, _ = signed_head("PUT", "/bucket/k", payload=UNSIGNED_PAYLOAD)
        await client.send(head + b"content-length: 3000000\r\n\r\n" + bytes(2_000_000))
        await client.stream.send_eof()
        assert (await client.receive()).code == "IncompleteBody"
        assert await door.keys() == []

    run_on_each_store(body)


def test_a_signature_that_is_wrong_is_refused_before_the_body_is_asked_for() -> None:
    async def body(door: Door, client: Client) -> None:
        wrong = Key("AKMAIN", "guessed", "main-id", "Main")
        head, _ = signed_head("PUT", "/bucket/k", payload=UNSIGNED_PAYLOAD, key=wrong)
        await client.send(head + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        answer = await client.receive()
        assert (answer.status, answer.code, answer.interim) == (403, "SignatureDoesNotMatch", [])

    run_on_each_store(body)


@pytest.mark.parametrize(
    ("key", "at_ns", "code"),
    [
        (Key("nobody", "x", "", ""), START_NS, "InvalidAccessKeyId"),
        (Key("AKMAIN", "wrong", "", ""), START_NS, "SignatureDoesNotMatch"),
        (ALT, START_NS + 16 * MINUTE_NS, "RequestTimeTooSkewed"),
    ],
)
def test_who_is_not_known_gets_nothing(key: Key, at_ns: int, code: str) -> None:
    async def body(door: Door, client: Client) -> None:
        assert (await client.request("PUT", "/bucket/k", body=b"x", key=key, at_ns=at_ns)).code == code
        await client.send(f"GET /bucket/k HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
        assert (await client.receive()).code == "AccessDenied"
        assert await door.keys() == []

    run_on_each_store(body)


def test_ranges_select_bytes_and_carry_no_whole_object_checksum() -> None:
    async def body(door: Door, client: Client) -> None:
        data = bytes(range(100))
        await client.put("/bucket/k", data, x_amz_checksum_crc32=crc32(data))
        headers = {"range": "bytes=10-19", "x-amz-checksum-mode": "ENABLED"}
        answer = await client.request("GET", "/bucket/k", headers=headers)
        assert (answer.status, answer.body) == (206, data[10:20])
        assert answer.headers["content-range"] == "bytes 10-19/100"
        assert "x-amz-checksum-crc32" not in answer.headers
        answer = await client.request("GET", "/bucket/k", headers={"range": "bytes=-5"})
        assert answer.body == data[-5:]
        answer = await client.request("GET", "/bucket/k", headers={"range": "bytes=100-"})
        assert (answer.status, answer.code, answer.headers["content-range"]) == (416, "InvalidRange", "bytes */100")
        answer = await client.request("HEAD", "/bucket/k", headers={"range": "bytes=0-0"})
        assert (answer.status, answer.headers["content-length"]) == (206, "1")

    run_on_each_store(body)


def test_reads_are_conditional() -> None:
    async def body(door: Door, client: Client) -> None:
        put = await client.put("/bucket/k", b"data")
        tag, date = put.headers["etag"], (await client.request("HEAD", "/bucket/k")).headers["last-modified"]
        old = "Sun, 06 Nov 1994 08:49:37 GMT"

        async def status(**headers: str) -> int:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = await client.request("GET", "/bucket/k", headers=sent)
            assert (answer.body == b"data") == (answer.status == 200)
            return answer.status

        assert await status(if_match=tag) == 200
        assert await status(if_match=f'"x", W/{tag}') == 200
        assert await status(if_match='"x"') == 412
        assert await status(if_none_match=tag) == 304
        assert await status(if_none_match="*") == 304
        assert await status(if_none_match='"x"') == 200
        assert await status(if_modified_since=date) == 304
        assert await status(if_modified_since=old) == 200
        assert await status(if_unmodified_since=old) == 412
        assert await status(if_unmodified_since=date) == 200
        assert await status(if_match=tag, if_unmodified_since=old) == 200
        assert await status(if_none_match='"x"', if_modified_since=date) == 200
        assert await status(if_modified_since="nonsense") == 200
        assert (await client.request("GET", "/bucket/no", headers={"if-none-match": "*"})).code == "NoSuchKey"

    run_on_each_store(body)


def test_writes_are_conditional() -> None:
    async def body(door: Door, client: Client) -> None:
        assert (await client.put("/bucket/k", b"1", if_match='"x"')).code == "NoSuchKey"
        first = await client.put("/bucket/k", b"1", if_none_match="*")
        assert first.status == 200
        assert (await client.put("/bucket/k", b"2", if_none_match="*")).code == "PreconditionFailed"
        assert (await client.put("/bucket/k", b"2", if_match=first.headers["etag"])).status == 200
        stale = {"if-match": first.headers["etag"]}
        assert (await client.request("DELETE", "/bucket/k", headers=stale)).code == "PreconditionFailed"
        assert (await client.request("GET", "/bucket/k")).body == b"2"

    run_on_each_store(body)


def test_the_query_replaces_headers_of_the_reply_but_cannot_add_lines() -> None:
    async def body(door: Door, client: Client) -> None:
        await client.put("/bucket/k", b"data", content_type="a/b")
        query = f"response-content-type={quote('text/é', safe='')}&response-expires=never"
        headers = (await client.request("GET", "/bucket/k", query)).headers
        assert headers["content-type"].encode("latin-1").decode() == "text/é" and headers["expires"] == "never"
        answer = await client.request("GET", "/bucket/k", "response-content-type=a%0D%0AX-Evil%3A%20b")
        assert answer.code == "InvalidArgument"

    run_on_each_store(body)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_bodies_of_any_size_pass_both_ways(size: int) -> None:
    async def body(door: Door, client: Client) -> None:
        data = hashlib.shake_128(b"seed").digest(size)
        answer = await client.put("/bucket/k", data, content_md5=md5(data))
        assert answer.headers["etag"] == etag(data)
        assert (await client.request("GET", "/bucket/k")).body == data
        if size > 2:
            answer = await client.request("GET", "/bucket/k", headers={"range": f"bytes=1-{size - 2}"})
            assert answer.body == data[1:-1]

    run_on_each_store(body)


@pytest.mark.parametrize(("error", "status"), [(NoSpace("full"), 507), (TooFewDisks("few"), 503)])
def test_what_the_core_refuses_while_a_body_arrives_reaches_the_client(error: SiltstoneError, status: int) -> None:
    async def body(door: Door, client: Client) -> None:
        door.memory.fail_write = error
        assert (await client.put("/bucket/k", bytes(2 * MIB))).status == status
        door.memory.fail_write = None
        assert await door.keys() == []
        other = await door.connect()
        assert (await other.put("/bucket/k", b"x")).status == 200

    run_in_memory(body)


def test_damage_in_the_first_piece_is_a_500_and_later_a_reply_that_ends_short() -> None:
    async def body(door: Door, client: Client) -> None:
        await client.put("/bucket/k", bytes(4 * MIB))
        door.memory.fail_read_at = (0, Corrupt("rot"))
        assert (await client.request("GET", "/bucket/k")).code == "InternalError"
        door.memory.fail_read_at = (3 * MIB, Corrupt("rot"))
        with pytest.raises((EOFError, Corrupt)):
            await client.request("GET", "/bucket/k")

    with pytest.raises(BaseExceptionGroup):  # the server logs it; here the connection's task lets it out
        run_in_memory(body)


def test_a_copy_keeps_or_replaces_what_is_stored_beside_the_bytes() -> None:
    async def body(door: Door, client: Client) -> None:
        await client.put("/bucket/a%20b", b"data", content_type="a/b", x_amz_meta_x="1")
        answer = await client.put("/bucket/copy", x_amz_copy_source="/bucket/a%20b")
        assert answer.xml.text_of("ETag") == etag(b"data")
        headers = (await client.request("HEAD", "/bucket/copy")).headers
        assert (headers["content-type"], headers["x-amz-meta-x"]) == ("a/b", "1")
        answer = await client.put(
            "/bucket/copy",
            x_amz_copy_source="bucket/copy",
            x_amz_metadata_directive="REPLACE",
            content_type="c/d",
            x_amz_meta_y="2",
        )
        assert answer.status == 200
        headers = (await client.request("HEAD", "/bucket/copy")).headers
        assert headers["content-type"] == "c/d" and headers["x-amz-meta-y"] == "2" and "x-amz-meta-x" not in headers
        for changes, code in (
            ({"x-amz-copy-source": "/bucket/copy"}, "InvalidRequest"),
            ({"x-amz-copy-source": "/bucket/no"}, "NoSuchKey"),
            ({"x-amz-copy-source": "/no/k"}, "NoSuchBucket"),
            ({"x-amz-copy-source": "nonsense"}, "InvalidArgument"),
            ({"x-amz-copy-source": "/bucket/a%20b", "x-amz-copy-source-if-match": '"x"'}, "PreconditionFailed"),
            (
                {"x-amz-copy-source": "/bucket/a%20b", "x-amz-copy-source-if-none-match": etag(b"data")},
                "PreconditionFailed",
            ),
            ({"x-amz-copy-source": "/bucket/a%20b", "if-none-match": "*"}, "PreconditionFailed"),
        ):
            assert (await client.request("PUT", "/bucket/copy", headers=changes)).code == code, changes

    run_on_each_store(body)


# --- streamed bodies -----------------------------------------------------------------------------------------------


def streamed(
    form: str, data: bytes, *, chunk_bytes: int = 8192, spoil: bool = False, trailer: Mapping[str, str] | None = None
) -> bytes:
    """A PUT of /bucket/k in aws-chunks."""
    headers = {"x-amz-decoded-content-length": str(len(data)), "content-encoding": "aws-chunked"}
    if trailer:
        headers["x-amz-trailer"] = ",".join(trailer)
    head, verified = signed_head("PUT", "/bucket/k", "", headers, payload=form)
    previous, out = verified.signature, bytearray()
    pieces = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    for piece in [*pieces, b""]:
        out += f"{len(piece):x}".encode()
        if form != STREAMING_UNSIGNED_TRAILER:
            previous = sign_chunk(verified, previous, hashlib.sha256(piece).hexdigest())
            out += f";chunk-signature={previous}".encode()
        out += b"\r\n"
        if piece:
            out += (bytes(len(piece)) if spoil else piece) + b"\r\n"
    text = "".join(f"{name}:{value}\n" for name, value in (trailer or {}).items())
    out += text.replace("\n", "\r\n").encode()
    if form == STREAMING_SIGNED_TRAILER:
        signature = sign_trailer(verified, previous, hashlib.sha256(text.encode()).hexdigest())
        out += f"x-amz-trailer-signature:{signature}\r\n".encode()
    out += b"\r\n"
    return head + f"content-length: {len(out)}\r\n\r\n".encode() + bytes(out)


DATA = hashlib.shake_128(b"streamed").digest(100_000)


@pytest.mark.parametrize(
    ("form", "trailer"),
    [
        (STREAMING_SIGNED, {}),
        (STREAMING_SIGNED_TRAILER, {"x-amz-checksum-crc32": crc32(DATA)}),
        (STREAMING_UNSIGNED_TRAILER, {"x-amz-checksum-crc32": crc32(DATA)}),
    ],
)
def test_streamed_bodies_are_decoded_and_verified(form: str, trailer: dict[str, str]) -> None:
    async def body(door: Door, client: Client) -> None:
        for chunk_bytes in (8192, 65536, 200_000):
            await client.send(streamed(form, DATA, chunk_bytes=chunk_bytes, trailer=trailer))
            answer = await client.receive()
            assert answer.headers["etag"] == etag(DATA)
            if trailer:
                assert answer.headers["x-amz-checksum-crc32"] == crc32(DATA)
        answer = await client.request("GET", "/bucket/k")
        assert answer.body == DATA and "content-encoding" not in answer.headers

    run_on_each_store(body)


@pytest.mark.parametrize(
    ("form", "trailer", "code"),
    [
        (STREAMING_SIGNED, {}, "SignatureDoesNotMatch"),
        (STREAMING_SIGNED_TRAILER, {"x-amz-checksum-crc32": crc32(DATA)}, "SignatureDoesNotMatch"),
        (STREAMING_UNSIGNED_TRAILER, {"x-amz-checksum-crc32": crc32(DATA)}, "BadDigest"),
    ],
)
def test_streamed_bodies_that_were_tampered_with_change_nothing(form: str, trailer: dict[str, str], code: str) -> None:
    async def body(door: Door, client: Client) -> None:
        await client.send(streamed(form, DATA, spoil=True, trailer=trailer))
        assert (await client.receive()).code == code
        assert await door.keys() == []

    run_on_each_store(body)


def test_a_streamed_body_of_another_length_than_announced_is_incomplete() -> None:
    async def body(door: Door, client: Client) -> None:
        for announced in (len(DATA) - 1, len(DATA) + 1):
            headers = {"x-amz-decoded-content-length": str(announced)}
            head, _ = signed_head("PUT", "/bucket/k", "", headers, payload=STREAMING_UNSIGNED_TRAILER)
            text = f"{len(DATA):x}\r\n".encode() + DATA + b"\r\n0\r\n\r\n"
            await client.send(head + b"transfer-encoding: chunked\r\n\r\n")
            await client.send(f"{len(text):x}\r\n".encode() + text + b"\r\n0\r\n\r\n")
            assert (await client.receive()).code == "IncompleteBody"
            client = await door.connect()
        head, _ = signed_head("PUT", "/bucket/k", payload=STREAMING_UNSIGNED_TRAILER)
        await client.send(head + b"content-length: 5\r\n\r\n0\r\n\r\n")
        assert (await client.receive()).code == "MissingContentLength"
        assert await door.keys() == []

    run_on_each_store(body)


# --- multi-delete --------------------------------------------------------------------------------------------------


def delete_document(keys: list[str], *, quiet: bool = False) -> bytes:
    objects = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    return f"<Delete>{'<Quiet>true</Quiet>' if quiet else ''}{objects}</Delete>".encode()


def test_many_keys_are_deleted_and_told_in_order() -> None:
    async def body(door: Door, client: Client) -> None:
        keys = [f"k{index}" for index in range(100)]
        for key in keys[::2]:
            await client.put(f"/bucket/{key}", b"x")
        document = delete_document(keys)
        for headers in ({"content-md5": md5(document)}, {"x-amz-checksum-crc32": crc32(document)}):
            answer = await client.request("POST", "/bucket", "delete", headers=headers, body=document)
            assert [node.text_of("Key") for node in answer.xml.all("Deleted")] == keys
        assert await door.keys() == []
        quiet = delete_document(keys, quiet=True)
        answer = await client.request("POST", "/bucket", "delete", headers={"content-md5": md5(quiet)}, body=quiet)
        assert answer.xml.children == []

    run_on_each_store(body)


@pytest.mark.parametrize(
    ("document", "headers", "code"),
    [
        (delete_document(["k"]), {}, "InvalidRequest"),
        (delete_document(["k"]), {"content-md5": md5(b"")}, "BadDigest"),
        (delete_document(["k"] * 1001), None, "MalformedXML"),
        (delete_document([]), None, "MalformedXML"),
        (b"<Delete><Object/></Delete>", None, "MalformedXML"),
        (b"<Delete>", None, "MalformedXML"),
        (b"", None, "MissingRequestBodyError"),
        (b'<!DOCTYPE x [<!ENTITY e "k">]><Delete><Object><Key>&e;</Key></Object></Delete>', None, "MalformedXML"),
    ],
)
def test_a_multi_delete_with_a_fault_deletes_nothing(
    document: bytes, headers: dict[str, str] | None, code: str
) -> None:
    async def body(door: Door, client: Client) -> None:
        await client.put("/bucket/k", b"x")
        sent = {"content-md5": md5(document)} if headers is None else headers
        answer = await client.request("POST", "/bucket", "delete", headers=sent, body=document)
        assert (answer.status, answer.code) == (400, code)
        assert await door.keys() == [b"k"]

    run_on_each_store(body)
