"""Frames: how requests and answers stand one behind the other in a stream of bytes. Pure.

A frame is the length of its payload (u32), a number (u32) that an answer has in common with its request, both
little-endian, and the payload.
"""

from __future__ import annotations

import struct

from siltstone.errors import FormatInvalid
from siltstone.limits import MIB

PAYLOAD_BYTES_MAX = 16 * MIB
"""A longer one is a peer that has gone mad: it must not take the memory."""

_HEADER = struct.Struct("<II")
HEADER_BYTES = _HEADER.size
NUMBERS = 1 << 32

pack_header = _HEADER.pack


class Splitter:
    """Cuts what arrives into frames."""

    __slots__ = ("_buffer", "_needed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = HEADER_BYTES

    def feed(self, data: bytes | bytearray) -> list[tuple[int, bytes]]:
        """The frames that ``data`` completes: number and payload. Raises FormatInvalid if one is too long."""
        if not self._buffer:
            frames, used = self._cut(data)
            self._buffer += memoryview(data)[used:]
            return frames
        self._buffer += data
        if len(self._buffer) < self._needed:
            return []
        frames, used = self._cut(self._buffer)
        del self._buffer[:used]
        return frames

    def _cut(self, data: bytes | bytearray) -> tuple[list[tuple[int, bytes]], int]:
        """The whole frames at the start of ``data``, and how long they are together."""
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        self._needed = HEADER_BYTES
        with memoryview(data) as view:
            while end - at >= HEADER_BYTES:
                size, number = _HEADER.unpack_from(view, at)
                if size > PAYLOAD_BYTES_MAX:
                    raise FormatInvalid(f"a frame of {size} bytes, more than {PAYLOAD_BYTES_MAX}")
                start = at + HEADER_BYTES
                if end - start < size:
                    self._needed = HEADER_BYTES + size
                    break
                at = start + size
                frames.append((number, bytes(view[start:at])))
        return frames, at
