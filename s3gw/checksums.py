"""Checksums of bodies: which one a request asks for or sends, computing them as bytes pass, and combining parts'. Pure.

MD5 is always computed, since an object's ETag is one. When the client names no checksum we add CRC64NVME, as S3 does:
it costs 1 % of the MD5. CRC32C and CRC64NVME come from awscrt (23 and 90 GB/s here, and it can combine them), CRC32
from zlib, the rest from hashlib; all let other threads run while they work on large buffers but awscrt's, which are too
fast for it to matter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from awscrt import checksums as crt  # type: ignore[import-untyped]

from siltstone.s3gw.errors import S3Error
from siltstone.types import Buffer

COMPOSITE = "COMPOSITE"
FULL_OBJECT = "FULL_OBJECT"
DEFAULT_ALGORITHM = "CRC64NVME"
DIGEST_BYTES = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}
ALGORITHMS = tuple(DIGEST_BYTES)
HEADERS = {f"x-amz-checksum-{name.lower()}": name for name in ALGORITHMS}
"""Header or trailer -> algorithm."""
_NOT_VALUES = frozenset(("x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-checksum-type"))


class Hash(Protocol):
    """A checksum under way."""

    def update(self, data: Buffer, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """The checksum of all bytes so far."""


class Crc:
    """A CRC with the interface of a hash."""

    __slots__ = ("_extend", "_size", "_value")

    def __init__(self, extend: Callable[[Buffer, int], int], size: int) -> None:
        self._extend = extend
        self._value = 0
        self._size = size

    def update(self, data: Buffer, /) -> None:
        """Take more bytes."""
        self._value = self._extend(data, self._value)

    def digest(self) -> bytes:
        """The checksum of all bytes so far, big endian."""
        return self._value.to_bytes(self._size, "big")


_MAKERS: dict[str, Callable[[], Hash]] = {
    "CRC32": lambda: Crc(zlib.crc32, 4),
    "CRC32C": lambda: Crc(crt.crc32c, 4),
    "CRC64NVME": lambda: Crc(crt.crc64nvme, 8),
    "SHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "SHA256": hashlib.sha256,
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
}
_COMBINERS: dict[str, Callable[[int, int, int], int]] = {
    "CRC32": crt.combine_crc32,
    "CRC32C": crt.combine_crc32c,
    "CRC64NVME": crt.combine_crc64nvme,
}


class Digests:
    """Several checksums of the same bytes."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {name: _MAKERS[name]() for name in algorithms}

    def update(self, data: Buffer) -> None:
        """Take more bytes; may run in a worker thread, one call at a time."""
        for hash_ in self._hashes.values():
            hash_.update(data)

    def digest(self, algorithm: str) -> bytes:
        """The raw checksum."""
        return self._hashes[algorithm].digest()

    def base64(self, algorithm: str) -> str:
        """The checksum as S3 writes it."""
        return base64.b64encode(self.digest(algorithm)).decode()


class Expectation(NamedTuple):
    """What a request says of its body's checksums.

    ``algorithm`` is the one to store; ``named`` whether the client chose it. ``value`` is what it must come to, None
    when only a trailer (``trailer``) will tell or nobody does. ``md5`` is Content-MD5.
    """

    algorithm: str
    named: bool
    value: bytes | None
    trailer: str
    md5: bytes | None

    def check(self, digests: Digests, trailers: Mapping[str, str]) -> None:
        """Raise BadDigest unless the body came to what was announced."""
        if self.md5 is not None and digests.digest("MD5") != self.md5:
            raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
        value = self.value
        if self.trailer:
            if self.trailer not in trailers:
                raise S3Error("MalformedTrailerError", f"The announced trailer {self.trailer} did not come.")
            value = decode_value(self.algorithm, trailers[self.trailer], self.trailer)
        if value is not None and digests.digest(self.algorithm) != value:
            raise S3Error("BadDigest", f"The {self.algorithm} you specified did not match the calculated checksum.")


def expectation(headers: Mapping[str, str], *, default: str = DEFAULT_ALGORITHM) -> Expectation:
    """Read the checksum headers of an upload. Raises S3Error when they are malformed or contradict each other."""
    values = {name: headers[name] for name in headers if name.startswith("x-amz-checksum-") and name not in _NOT_VALUES}
    trailer = announced_trailer(headers)
    for name in (*values, *((trailer,) if trailer else ())):
        if name not in HEADERS:
            raise S3Error("InvalidRequest", f"{name} is not a checksum that is supported.")
    if len(values) + bool(trailer) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    announced = headers.get("x-amz-sdk-checksum-algorithm", "").upper()
    if announced and announced not in DIGEST_BYTES:
        raise S3Error("InvalidRequest", f"Checksum algorithm {announced!r} provided is unsupported.")
    md5 = content_md5(headers)
    for name, text in values.items():
        return Expectation(HEADERS[name], True, decode_value(HEADERS[name], text, name), "", md5)
    if trailer:
        return Expectation(HEADERS[trailer], True, None, trailer, md5)
    return Expectation(announced or default, bool(announced), None, "", md5)


def announced_trailer(headers: Mapping[str, str]) -> str:
    """The checksum trailer that x-amz-trailer announces, "" without one."""
    for name in headers.get("x-amz-trailer", "").lower().split(","):
        if name.strip().startswith("x-amz-checksum-"):
            return name.strip()
    return ""


def content_md5(headers: Mapping[str, str]) -> bytes | None:
    """The value of Content-MD5. Raises InvalidDigest when it is not the base64 of 16 bytes."""
    text = headers.get("content-md5")
    if text is None:
        return None
    try:
        value = base64.b64decode(text.encode("latin-1"), validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != 16:
        raise S3Error("InvalidDigest")
    return value


def decode_value(algorithm: str, text: str, name: str) -> bytes:
    """A checksum's base64 as bytes. Raises BadDigest when it cannot be one of that algorithm."""
    try:
        value = base64.b64decode(text.encode("latin-1"), validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != DIGEST_BYTES[algorithm]:
        raise S3Error("BadDigest", f"Value for {name} header is invalid.")
    return value


def upload_type(algorithm: str, asked: str) -> str:
    """The checksum type of a multipart upload. Raises InvalidRequest for a pair that does not go together."""
    if asked not in ("", COMPOSITE, FULL_OBJECT):
        raise S3Error("InvalidRequest", f"Value for x-amz-checksum-type header is invalid: {asked!r}")
    if asked and not algorithm:
        raise S3Error(
            "InvalidRequest", "The x-amz-checksum-type header can only be used with x-amz-checksum-algorithm."
        )
    if asked == FULL_OBJECT and algorithm not in _COMBINERS:
        raise S3Error("InvalidRequest", f"The FULL_OBJECT checksum type cannot be used with {algorithm}.")
    if asked == COMPOSITE and algorithm == "CRC64NVME":
        raise S3Error("InvalidRequest", "The COMPOSITE checksum type cannot be used with CRC64NVME.")
    if asked or not algorithm:
        return asked
    return FULL_OBJECT if algorithm == "CRC64NVME" else COMPOSITE


def combine(algorithm: str, checksum_type: str, parts: Sequence[tuple[str, int]]) -> str:
    """The checksum of a whole object from its parts' (base64 value, size in bytes).

    COMPOSITE: checksum of the concatenated checksums, with ``-N``. FULL_OBJECT: the checksum of the concatenated bytes.
    """
    assert parts
    raw = [base64.b64decode(value) for value, _ in parts]
    if checksum_type == COMPOSITE:
        digests = Digests((algorithm,))
        digests.update(b"".join(raw))
        return f"{digests.base64(algorithm)}-{len(parts)}"
    assert checksum_type == FULL_OBJECT
    extend = _COMBINERS[algorithm]
    value = int.from_bytes(raw[0], "big")
    for digest, (_, size) in zip(raw[1:], parts[1:], strict=True):
        value = extend(value, int.from_bytes(digest, "big"), size)
    return base64.b64encode(value.to_bytes(DIGEST_BYTES[algorithm], "big")).decode()
