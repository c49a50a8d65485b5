"""Checksums agree with known values, with themselves in pieces, and with each other combined."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.checksums import ALGORITHMS, Digests, combine, expectation, upload_type
from siltstone.s3gw.errors import S3Error


def checksum(algorithm: str, data: bytes) -> str:
    digests = Digests((algorithm,))
    digests.update(data)
    return digests.base64(algorithm)


def test_each_algorithm_gives_its_published_check_value() -> None:
    values = {name: base64.b64decode(checksum(name, b"123456789")).hex() for name in (*ALGORITHMS, "MD5")}
    assert values == {
        "CRC32": "cbf43926",
        "CRC32C": "e3069283",
        "CRC64NVME": "ae8b14860a799888",
        "SHA1": hashlib.sha1(b"123456789").hexdigest(),
        "SHA256": hashlib.sha256(b"123456789").hexdigest(),
        "MD5": "25f9e794323b453885f5181f1b624d0b",
    }


@given(st.sampled_from(ALGORITHMS), st.lists(st.binary(max_size=50), min_size=1, max_size=6))
def test_pieces_and_views_give_what_the_whole_gives(algorithm: str, pieces: list[bytes]) -> None:
    digests = Digests((algorithm,))
    for piece in pieces:
        digests.update(memoryview(bytearray(piece)))
    assert digests.base64(algorithm) == checksum(algorithm, b"".join(pieces))


@given(
    st.sampled_from(("CRC32", "CRC32C", "CRC64NVME")),
    st.lists(st.binary(min_size=1, max_size=99), min_size=1, max_size=6),
)
def test_a_full_object_checksum_combines_from_its_parts(algorithm: str, parts: list[bytes]) -> None:
    combined = combine(algorithm, "FULL_OBJECT", [(checksum(algorithm, part), len(part)) for part in parts])
    assert combined == checksum(algorithm, b"".join(parts))


def test_a_composite_checksum_is_one_of_the_parts_checksums() -> None:
    raw = [zlib.crc32(part).to_bytes(4, "big") for part in (b"a", b"b")]
    whole = base64.b64encode(zlib.crc32(b"".join(raw)).to_bytes(4, "big")).decode()
    parts = [(base64.b64encode(value).decode(), 1) for value in raw]
    assert combine("CRC32", "COMPOSITE", parts) == f"{whole}-2"


def verdict(headers: dict[str, str], body: bytes, trailers: dict[str, str] | None = None) -> str:
    """The code of what is wrong, "" when nothing is."""
    try:
        expected = expectation(headers)
        digests = Digests({"MD5", expected.algorithm})
        digests.update(body)
        expected.check(digests, trailers or {})
    except S3Error as error:
        return error.code
    return ""


@given(st.sampled_from(ALGORITHMS), st.binary(max_size=20))
def test_right_checksums_pass_and_wrong_ones_are_bad_digests(algorithm: str, body: bytes) -> None:
    name, value = f"x-amz-checksum-{algorithm.lower()}", checksum(algorithm, body)
    assert verdict({name: value}, body) == ""
    assert verdict({name: value}, body + b"x") == "BadDigest"
    assert verdict({"x-amz-trailer": name}, body, {name: value}) == ""
    assert verdict({"x-amz-trailer": name}, body + b"x", {name: value}) == "BadDigest"
    assert verdict({"x-amz-trailer": name}, body) == "MalformedTrailerError"


def test_malformed_checksum_headers_are_told_apart() -> None:
    md5 = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    assert verdict({"content-md5": md5}, b"x") == ""
    assert verdict({"content-md5": md5}, b"y") == "BadDigest"
    for bad in ("", "zzz", "YWJj", "\xe9"):
        assert verdict({"content-md5": bad}, b"x") == "InvalidDigest"
    assert verdict({"x-amz-checksum-crc32": "YWJj"}, b"") == "BadDigest"
    assert verdict({"x-amz-checksum-xxh3": "YWJj"}, b"") == "InvalidRequest"
    assert verdict({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="}, b"") == "InvalidRequest"
    assert verdict({"x-amz-sdk-checksum-algorithm": "adler"}, b"") == "InvalidRequest"


def test_checksum_types_go_with_the_algorithms_that_can_have_them() -> None:
    assert upload_type("CRC32", "") == "COMPOSITE"
    assert upload_type("CRC64NVME", "") == "FULL_OBJECT"
    assert upload_type("", "") == ""
    for algorithm, asked in (("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE"), ("", "COMPOSITE"), ("CRC32", "X")):
        with pytest.raises(S3Error):
            upload_type(algorithm, asked)
