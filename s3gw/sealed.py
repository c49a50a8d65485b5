"""How the bytes of an encrypted object are kept: encrypted and authenticated chunk by chunk, so that ranges are read
without the rest. Pure.

A *segment* is a salt of 32 bytes and chunks of at most 64 KiB, each with a tag of 16 bytes (AES-256-GCM). Its key is
HMAC-SHA256(object's key, "siltstone segment" + salt), so no key is ever used for two segments. The nonce of a chunk is
its number, with a mark on the last one: chunks cannot be left out, swapped or cut off unseen. An object put at once is
one segment, a multipart one has a segment for each part.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from itertools import accumulate

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from siltstone.errors import Corrupt
from siltstone.types import Buffer

SALT_BYTES = 32
TAG_BYTES = 16
CHUNK_BYTES = 64 * 1024
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
KEY_BYTES = 32


def sealed_size(size: int) -> int:
    """How long a segment of so many bytes is."""
    return SALT_BYTES + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))


def plain_size(size: int) -> int:
    """How many bytes are in a segment of that length; 0 where it is too short to be one."""
    size -= SALT_BYTES
    return max(0, size - TAG_BYTES * max(1, -(-size // SEALED_CHUNK_BYTES)))


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"siltstone segment" + salt, "sha256"))


def _nonce(number: int, is_last: bool) -> bytes:
    return (b"\1" if is_last else b"\0") + number.to_bytes(11, "big")


class Sealer:
    """Encrypts one segment. ``salt``: random, never used before."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        assert len(key) == KEY_BYTES and len(salt) == SALT_BYTES
        self._cipher = _cipher(key, salt)
        self._held = bytearray()
        self._number = 0
        self._head = salt

    def update(self, piece: Buffer) -> bytes:
        """Take further bytes; returns what of the segment is ready. The last chunk is held back: it is marked."""
        self._held += piece
        found = [self._head]
        self._head = b""
        at = 0
        while len(self._held) - at > CHUNK_BYTES:
            found.append(
                self._cipher.encrypt(_nonce(self._number, False), bytes(self._held[at : at + CHUNK_BYTES]), None)
            )
            self._number += 1
            at += CHUNK_BYTES
        del self._held[:at]
        return b"".join(found)

    def finish(self) -> bytes:
        """The end of the segment."""
        last = self._cipher.encrypt(_nonce(self._number, True), bytes(self._held), None)
        return self._head + last


class Segments:
    """Where the bytes of an object are in its segments. ``sizes``: of the segments as they are kept."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.plain = [plain_size(size) for size in sizes]
        self._sizes = list(sizes)
        self._starts = [0, *accumulate(sizes)]
        self._plain_starts = [0, *accumulate(self.plain)]

    @property
    def size(self) -> int:
        """Of the object."""
        return self._plain_starts[-1]

    def pieces(self, offset: int, size: int) -> list[Piece]:
        """What must be read for the bytes from ``offset`` on, in order."""
        found: list[Piece] = []
        end = min(offset + size, self.size)
        for index, start in enumerate(self._plain_starts[:-1]):
            first, last = max(offset, start) - start, min(end, self._plain_starts[index + 1]) - start
            if first < last:
                found.append(Piece(self._starts[index], self._sizes[index], first, last))
        return found


class Piece:
    """A part of one segment: where the segment is, and which of its plain bytes [first, end) are wanted."""

    def __init__(self, segment: int, segment_size: int, first: int, end: int) -> None:
        self.segment = segment
        self._segment_size = segment_size
        self._first = first
        self._end = end
        self._chunk = first // CHUNK_BYTES
        stop = -(-end // CHUNK_BYTES)
        self.start = segment + SALT_BYTES + self._chunk * SEALED_CHUNK_BYTES
        self.length = min(segment + SALT_BYTES + stop * SEALED_CHUNK_BYTES, segment + segment_size) - self.start

    def opened(self, key: bytes, salt: bytes, sealed: bytes) -> bytes:
        """The wanted bytes, from the chunks that were read. Raises Corrupt where they are not what was written."""
        cipher = _cipher(key, salt)
        end = self._segment_size - SALT_BYTES
        found: list[bytes] = []
        for index, at in enumerate(range(0, len(sealed), SEALED_CHUNK_BYTES)):
            number = self._chunk + index
            is_last = (number + 1) * SEALED_CHUNK_BYTES >= end
            try:
                found.append(cipher.decrypt(_nonce(number, is_last), sealed[at : at + SEALED_CHUNK_BYTES], None))
            except InvalidTag:
                raise Corrupt(
                    f"chunk {number} of an encrypted object is not what was written, or the key is wrong"
                ) from None
        skip = self._chunk * CHUNK_BYTES
        return b"".join(found)[self._first - skip : self._end - skip]
