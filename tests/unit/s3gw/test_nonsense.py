"""Requests that are signed rightly and otherwise random: each gets an answer that is not our failure."""

from __future__ import annotations

from urllib.parse import quote, quote_from_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.s3 import Client, Door, run_on_each_store

methods = st.sampled_from(("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"))
paths = st.one_of(
    st.just("/"),
    st.just("/bucket"),
    st.binary(max_size=8).map(lambda key: "/bucket/" + quote_from_bytes(key)),
    st.sampled_from(("/bucket/k", "/bucket/multi", "/nowhere/k", "//k", "/%ff/k", "/../k")),
)
numbers = st.sampled_from(("0", "1", "-1", "10001", "x", "", "99999999999999999999", "²"))
texts = st.text(max_size=6)
parameters = st.one_of(
    st.tuples(st.sampled_from(("max-keys", "partNumber", "max-parts", "max-uploads", "part-number-marker")), numbers),
    st.tuples(
        st.sampled_from(("prefix", "delimiter", "marker", "start-after", "continuation-token", "key-marker")), texts
    ),
    st.tuples(st.sampled_from(("uploadId", "upload-id-marker", "versionId", "response-content-type")), texts),
    st.tuples(st.sampled_from(("acl", "uploads", "delete", "location", "policy", "list-type")), st.just("")),
    st.just(("list-type", "2")),
    st.just(("encoding-type", "url")),
)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
headers = st.dictionaries(
    st.sampled_from(
        (
            "range",
            "if-match",
            "if-none-match",
            "if-modified-since",
            "content-md5",
            "content-type",
            "content-encoding",
            "x-amz-checksum-crc32",
            "x-amz-checksum-algorithm",
            "x-amz-checksum-type",
            "x-amz-checksum-mode",
            "x-amz-copy-source",
            "x-amz-copy-source-range",
            "x-amz-copy-source-if-match",
            "x-amz-metadata-directive",
            "x-amz-meta-a",
            "x-amz-mp-object-size",
            "x-amz-sdk-checksum-algorithm",
            "x-amz-trailer",
        )
    ),
    st.one_of(
        values, st.sampled_from(("*", "bytes=0-3", "/bucket/k", "bucket/multi", "CRC32", "COMPOSITE", "REPLACE"))
    ),
    max_size=3,
)
documents = st.sampled_from(
    (
        b"",
        b"<",
        b"<Delete><Object><Key>k</Key></Object></Delete>",
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>",
        b"<CreateBucketConfiguration><LocationConstraint/></CreateBucketConfiguration>",
    )
)


@settings(max_examples=100, deadline=None)
@given(methods, paths, st.lists(parameters, max_size=3, unique_by=lambda pair: pair[0]), headers, documents)
def test_a_signed_request_of_any_content_is_never_our_failure(
    method: str, path: str, query: list[tuple[str, str]], sent: dict[str, str], body: bytes
) -> None:
    text = "&".join(sorted(f"{quote(name, safe='')}={quote(value, safe='-_.~')}" for name, value in query))

    async def ask(door: Door, client: Client) -> None:
        await client.put("/bucket/k", b"data")
        answer = await client.request(method, path, text, headers=sent, body=body)
        assert answer.status in (200, 204, 206, 304, 400, 403, 404, 405, 409, 411, 412, 416, 501), answer
        assert answer.headers["x-amz-request-id"]
        if answer.status >= 400 and method != "HEAD":
            assert answer.code

    run_on_each_store(ask)
