"""Paths, hosts and queries name the operation that S3's reference says."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.router import (
    Operation,
    Target,
    check_new_bucket_name,
    parse_copy_source,
    route,
    split_target,
    target_of,
)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("GET /", "ListBuckets"),
        ("PUT /b", "CreateBucket"),
        ("PUT /b/", "CreateBucket"),
        ("HEAD /b", "HeadBucket"),
        ("DELETE /b", "DeleteBucket"),
        ("GET /b", "ListObjects"),
        ("GET /b?list-type=2", "ListObjectsV2"),
        ("GET /b?location", "GetBucketLocation"),
        ("GET /b?versioning", "GetBucketVersioning"),
        ("GET /b?acl", "GetBucketAcl"),
        ("GET /b?uploads", "ListMultipartUploads"),
        ("POST /b?delete", "DeleteObjects"),
        ("GET /b/k", "GetObject"),
        ("GET /b/k/", "GetObject"),
        ("HEAD /b/k", "HeadObject"),
        ("PUT /b/k", "PutObject"),
        ("PUT /b/k copy", "CopyObject"),
        ("DELETE /b/k", "DeleteObject"),
        ("GET /b/k?acl", "GetObjectAcl"),
        ("POST /b/k?uploads", "CreateMultipartUpload"),
        ("PUT /b/k?partNumber=1&uploadId=x", "UploadPart"),
        ("PUT /b/k?partNumber=1&uploadId=x copy", "UploadPartCopy"),
        ("GET /b/k?partNumber=1", "GetObject"),
        ("GET /b/k?uploadId=x", "ListParts"),
        ("POST /b/k?uploadId=x", "CompleteMultipartUpload"),
        ("DELETE /b/k?uploadId=x", "AbortMultipartUpload"),
        ("GET /b?policy", "GetBucketPolicy"),
        ("PUT /b?versioning", "PutBucketVersioning"),
        ("GET /b?versions", "ListObjectVersions"),
        ("PUT /b/k?tagging", "PutObjectTagging"),
        ("POST /b", "PostObject"),
        ("OPTIONS /b/k", "Preflight"),
        ("PUT /b/k?acl copy", "PutObjectAcl"),
    ],
)
def test_each_form_of_request_is_its_operation(line: str, name: str) -> None:
    method, _, rest = line.partition(" ")
    request_target, _, copy = rest.partition(" ")
    path, query = split_target(request_target)
    parameters = dict(part.partition("=")[::2] for part in query.split("&") if part)
    headers = {"x-amz-copy-source": "/a/b"} if copy else {}
    assert route(method, target_of(path, "localhost", ()), parameters, headers) is Operation(name)


@pytest.mark.parametrize(("method", "path"), [("POST", "/"), ("PATCH", "/b"), ("TRACE", "/b/k"), ("DELETE", "/")])
def test_what_s3_does_not_have_is_not_allowed(method: str, path: str) -> None:
    with pytest.raises(S3Error) as caught:
        route(method, target_of(path, "h", ()), {}, {})
    assert caught.value.code == "MethodNotAllowed"


@given(st.binary(min_size=1, max_size=30), st.booleans())
def test_any_key_comes_out_as_it_was_encoded(key: bytes, virtual: bool) -> None:
    encoded = quote_from_bytes(key)
    if virtual:
        assert target_of("/" + encoded, "bucket.s3.local:9000", ("s3.local",)) == Target("bucket", key)
    assert target_of("/bucket/" + encoded, "s3.local:9000", ("s3.local",)) == Target("bucket", key)


def test_absolute_targets_are_read_and_others_refused() -> None:
    assert split_target("http://host:1/b/k?x=1") == ("/b/k", "x=1")
    assert split_target("http://host") == ("/", "")
    for bad in ("*", "host:443", "ftp://x/y", ""):
        with pytest.raises(S3Error) as caught:
            split_target(bad)
        assert caught.value.code == "InvalidURI"


def test_a_copy_source_names_a_bucket_and_a_key() -> None:
    assert parse_copy_source("/b/a%20b/c") == (Target("b", b"a b/c"), "")
    assert parse_copy_source("b/k?versionId=null") == (Target("b", b"k"), "null")
    assert parse_copy_source("b/%C3%A9%3F") == (Target("b", "é?".encode()), "")
    for bad in ("", "b", "/b/", "//k"):
        with pytest.raises(S3Error):
            parse_copy_source(bad)


def test_bucket_names_follow_the_rules() -> None:
    for good in ("abc", "a.b-c", "1bucket", "a" * 63):
        check_new_bucket_name(good)
    for bad in ("ab", "a" * 64, "Abc", "a_b", "-ab", "ab-", "a..b", "192.168.5.4", "xn--abc", "abc-s3alias", "a\nb"):
        with pytest.raises(S3Error) as caught:
            check_new_bucket_name(bad)
        assert caught.value.code == "InvalidBucketName"
