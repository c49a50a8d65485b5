"""Encryption as requests ask for it: with the client's key (SSE-C) or the volume's (SSE-S3), and bodies on their way.

What is kept with an object says how it is encrypted (``sealing``): with the client's key a value to recognise that by,
with the volume's the object's own key, encrypted with the volume's. Sizes that the core knows are of what is kept;
``shown`` makes of them what clients see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from siltstone.core.object_types import ObjectInfo
from siltstone.ports import Random, Workers
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Header
from siltstone.s3gw.sealed import KEY_BYTES, SALT_BYTES, Sealer, Segments
from siltstone.s3gw.store import ObjectReader, Writer
from siltstone.types import Buffer

SSE = "x-amz-server-side-encryption"
CUSTOMER = SSE + "-customer-"
COPY_SOURCE = "x-amz-copy-source-server-side-encryption-customer-"
AES256 = "AES256"
SSE_C = "SSE-C"

INLINE_BYTES_MAX = 32 * 1024

Sealing = Mapping[str, str]
"""How an object is kept, as its record has it; empty: as it came."""


class ServerKey(Protocol):
    """The volume's own key."""

    def server_key(self) -> bytes | None:
        """32 bytes, None where there is none."""


class CustomerKey(NamedTuple):
    """A key that a request brings."""

    key: bytes
    md5: str


class Sealed(NamedTuple):
    """How an object is to be kept, and with which key."""

    sealing: dict[str, str]
    key: bytes


def customer_key(headers: Mapping[str, str], prefix: str = CUSTOMER) -> CustomerKey | None:
    """The client's key in a request's headers, None without one. Raises InvalidArgument."""
    algorithm, text, md5 = (headers.get(prefix + name) for name in ("algorithm", "key", "key-md5"))
    if algorithm is None and text is None and md5 is None:
        return None
    if algorithm is None:
        raise S3Error(
            "InvalidArgument",
            "Requests with a customer provided key must provide a valid encryption algorithm.",
        )
    if algorithm != AES256:
        raise S3Error("InvalidEncryptionAlgorithmError")
    if text is None or md5 is None:
        raise S3Error(
            "InvalidArgument",
            "Requests with a customer provided key must provide an appropriate secret key and its MD5.",
        )
    try:
        key = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise S3Error("InvalidArgument", "The secret key was invalid for the specified algorithm.")
    found = base64.b64encode(hashlib.md5(key, usedforsecurity=False).digest()).decode()
    if not hmac.compare_digest(found.encode(), md5.encode("latin-1", "replace")):
        raise S3Error("InvalidArgument", "The calculated MD5 hash of the key did not match the hash that was provided.")
    return CustomerKey(key, md5)


def wanted(headers: Mapping[str, str], *, by_default: bool, server: ServerKey, random: Random) -> Sealed | None:
    """How a request wants its object to be kept; ``by_default``: the bucket encrypts. None: as it comes."""
    own = customer_key(headers)
    algorithm = headers.get(SSE)
    if algorithm in ("aws:kms", "aws:kms:dsse") or SSE + "-aws-kms-key-id" in headers:
        if own is None and algorithm is not None and algorithm.startswith("aws:kms"):
            raise S3Error("NotImplemented", "Keys of a key management service are not implemented.")
        raise S3Error("InvalidArgument", "The encryption headers contradict each other.")
    if algorithm is not None and algorithm != AES256:
        raise S3Error("InvalidArgument", "The encryption method specified is not supported")
    if own is not None:
        if algorithm is not None:
            raise S3Error(
                "InvalidArgument",
                "A customer provided key is incompatible with the encryption method specified",
            )
        salt = random.bytes(16)
        return Sealed({"mode": SSE_C, "salt": salt.hex(), "check": _check(own.key, salt), "md5": own.md5}, own.key)
    if algorithm is None and not by_default:
        return None
    master = _master(server)
    key, nonce = random.bytes(KEY_BYTES), random.bytes(12)
    wrapped = base64.b64encode(nonce + AESGCM(master).encrypt(nonce, key, b"siltstone object key")).decode()
    return Sealed({"mode": AES256, "key": wrapped}, key)


def key_of(sealing: Sealing, headers: Mapping[str, str], server: ServerKey, prefix: str = CUSTOMER) -> bytes | None:
    """The key of an object, None for one that is not encrypted. Raises InvalidRequest where the request brings no key
    for one that needs it, or one that is not needed; InvalidArgument for a wrong one."""
    own = customer_key(headers, prefix)
    mode = sealing.get("mode")
    if mode != SSE_C:
        if own is not None:
            raise S3Error("InvalidRequest", "The encryption parameters are not applicable to this object.")
        if mode is None:
            return None
        raw = base64.b64decode(sealing["key"])
        try:
            return AESGCM(_master(server)).decrypt(raw[:12], raw[12:], b"siltstone object key")
        except InvalidTag:
            raise S3Error(
                "InternalError", "The volume's key is not the one that the object was encrypted with."
            ) from None
    if own is None:
        raise S3Error(
            "InvalidRequest",
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to "
            "retrieve the object.",
        )
    if not hmac.compare_digest(_check(own.key, bytes.fromhex(sealing["salt"])).encode(), sealing["check"].encode()):
        raise S3Error("InvalidArgument", "The provided encryption parameters did not match the ones used originally.")
    return own.key


def refuse_mode(headers: Mapping[str, str]) -> None:
    """Raise InvalidArgument where a read says how to encrypt."""
    if SSE in headers:
        raise S3Error("InvalidArgument", f"The header {SSE} is not valid for this request.", ArgumentName=SSE)


def _check(key: bytes, salt: bytes) -> str:
    return hmac.digest(key, b"siltstone check" + salt, "sha256").hex()


def _master(server: ServerKey) -> bytes:
    key = server.server_key()
    if key is None:
        raise S3Error("NotImplemented", "This volume has no key of its own to encrypt with.")
    return key


def reply_headers(sealing: Sealing) -> list[Header]:
    """What a reply says of an object's encryption."""
    match sealing.get("mode"):
        case "SSE-C":
            return [(CUSTOMER + "algorithm", AES256), (CUSTOMER + "key-MD5", sealing["md5"])]
        case "AES256":
            return [(SSE, AES256)]
        case _:
            return []


def shown(info: ObjectInfo) -> ObjectInfo:
    """An object with the sizes that clients see."""
    if not info.sealing:
        return info
    segments = Segments(info.part_sizes or (info.size,))
    part_sizes = tuple(segments.plain) if info.part_sizes else ()
    return msgspec.structs.replace(info, size=segments.size, part_sizes=part_sizes)


class SealingWriter:
    """Encrypts what it passes on, as one segment. ``finish`` before the writer's commit."""

    def __init__(self, writer: Writer, key: bytes, workers: Workers, random: Random) -> None:
        self._writer = writer
        self._workers = workers
        self._sealer = Sealer(key, random.bytes(SALT_BYTES))

    async def write(self, buffer: Buffer) -> None:
        """See Writer."""
        if len(buffer) <= INLINE_BYTES_MAX:
            sealed = self._sealer.update(buffer)
        else:
            sealed = await self._workers.run(self._sealer.update, buffer)
        if sealed:
            await self._writer.write(sealed)

    async def finish(self) -> None:
        """Write the end."""
        await self._writer.write(self._sealer.finish())

    async def abort(self) -> None:
        """See Writer."""
        await self._writer.abort()


class OpenedReader:
    """An encrypted object, read as it was before. An ObjectReader."""

    def __init__(self, reader: ObjectReader, key: bytes) -> None:
        self._reader = reader
        self._key = key
        kept = reader.info
        self._segments = Segments(kept.part_sizes or (kept.size,))
        self._salts: dict[int, bytes] = {}
        self.info = shown(kept)

    async def read(self, offset: int, size: int) -> bytes:
        """See ObjectReader. Raises Corrupt."""
        found: list[bytes] = []
        for piece in self._segments.pieces(offset, size):
            salt = self._salts.get(piece.segment)
            if salt is None:
                salt = self._salts[piece.segment] = await self._reader.read(piece.segment, SALT_BYTES)
            found.append(piece.opened(self._key, salt, await self._reader.read(piece.start, piece.length)))
        return b"".join(found)

    def close(self) -> None:
        """See ObjectReader."""
        self._reader.close()
