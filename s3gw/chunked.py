"""Decoder of chunked bodies: HTTP's own chunks and the aws-chunked encoding with its signatures and trailers. Pure.

The grammar is the same for both: ``hex-size[;chunk-signature=hex] CRLF data CRLF`` repeated, then a chunk of size 0,
then trailer lines if the form has them, then an empty line. Sources: "Signature Calculations for the Authorization
Header: Transferring Payload in Multiple Chunks", with and without trailers, of the Amazon S3 API reference; RFC 9112
section 7.1.

Payload is handed out before its chunk's signature is known, so that nothing is held back: the caller must not make use
of a body before ``complete`` is true.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.sigv4 import Verified, sign_chunk, sign_trailer

LINE_BYTES_MAX = 4096
TRAILERS_MAX = 16
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[ \t]*(.*))?", re.DOTALL)
_SIGNATURE = re.compile(rb"chunk-signature=([0-9a-f]{64})[ \t]*")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*")
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


class _State(enum.Enum):
    SIZE = "the line with a chunk's size"
    DATA = "a chunk's data"
    DATA_END = "the line end behind a chunk's data"
    TRAILER = "trailer lines"
    COMPLETE = "behind the end"


class ChunkedDecoder:
    """One body. ``verified``: check signatures as they continue from that request's; None for an unsigned body."""

    def __init__(self, verified: Verified | None, *, with_trailer: bool) -> None:
        self._verified = verified
        self._with_trailer = with_trailer
        self._previous = verified.signature if verified is not None else ""
        self._state = _State.SIZE
        self._line = bytearray()
        self._hash = hashlib.sha256()
        self._signature = b""
        self._trailer_text = b""
        self.data_pending = 0
        """Bytes of the present chunk's data that are still to come."""
        self.trailers: dict[str, str] = {}
        """Names in lower case; whole once ``complete``."""

    @property
    def complete(self) -> bool:
        """Whether the end was seen and every signature was right."""
        return self._state is _State.COMPLETE

    def feed(self, data: memoryview) -> tuple[list[memoryview], int]:
        """Take bytes as they came; returns the payload in them, as views, and how many bytes were used.

        Fewer are used than given only when the body ends inside them. Raises S3Error for a broken form
        (MalformedTrailerError) or a wrong signature (SignatureDoesNotMatch).
        """
        payload: list[memoryview] = []
        position = 0
        while position < len(data) and self._state is not _State.COMPLETE:
            if self._state is _State.DATA:
                piece = data[position : position + self.data_pending]
                self.feed_data(piece)
                payload.append(piece)
                position += len(piece)
            else:
                position += self._feed_line(data[position:])
        return payload, position

    def feed_data(self, piece: memoryview) -> None:
        """Take payload bytes that were received straight into their place; at most ``data_pending`` of them."""
        assert self._state is _State.DATA
        assert 0 < len(piece) <= self.data_pending
        if self._verified is not None:
            self._hash.update(piece)
        self.data_pending -= len(piece)
        if self.data_pending == 0:
            self._state = _State.DATA_END

    def _feed_line(self, data: memoryview) -> int:
        """Gather bytes up to a line feed, act on the line when it is there; returns how many bytes were used."""
        window = bytes(data[: LINE_BYTES_MAX + 1 - len(self._line)])
        end = window.find(b"\n")
        self._line += window if end < 0 else window[: end + 1]
        if len(self._line) > LINE_BYTES_MAX:
            raise S3Error("MalformedTrailerError", f"A line is longer than {LINE_BYTES_MAX} bytes.")
        if end < 0:
            return len(window)
        line = bytes(self._line)
        if self._state is _State.TRAILER and len(line) > 1 and not line.endswith(b"\r\n"):
            # the documentation's own example ends a trailer with LF CR LF: the line goes on until CR LF
            return end + 1
        if not line.endswith(b"\r\n"):
            raise S3Error("MalformedTrailerError", "A line of the chunked body does not end with CR LF.")
        self._line.clear()
        self._take_line(line[:-2])
        return end + 1

    def _take_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._take_size(line)
        elif self._state is _State.DATA_END:
            self._take_data_end(line)
        else:
            self._take_trailer(line)

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise S3Error("MalformedTrailerError", "A chunk does not begin with its size.")
        size = int(match.group(1), 16)
        if self._verified is not None:
            signature = _SIGNATURE.fullmatch(match.group(2) or b"")
            if signature is None:
                raise S3Error("SignatureDoesNotMatch", "A chunk has no chunk-signature.")
            self._signature = signature.group(1)
            self._hash = hashlib.sha256()
        self.data_pending = size
        if size:
            self._state = _State.DATA
            return
        self._check_chunk()
        self._state = _State.TRAILER

    def _take_data_end(self, line: bytes) -> None:
        if line:
            raise S3Error("MalformedTrailerError", "A chunk is longer than its size says.")
        self._check_chunk()
        self._state = _State.SIZE

    def _check_chunk(self) -> None:
        if self._verified is None:
            return
        expected = sign_chunk(self._verified, self._previous, self._hash.hexdigest())
        if not hmac.compare_digest(expected.encode(), self._signature):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk does not match its data.")
        self._previous = expected

    def _take_trailer(self, line: bytes) -> None:
        line = line.rstrip(b"\r\n")
        if not line:
            self._finish()
            return
        match = _TRAILER.fullmatch(line)
        if match is None or len(self.trailers) >= TRAILERS_MAX:
            raise S3Error("MalformedTrailerError")
        name = match.group(1).decode("ascii").lower()
        if name in self.trailers:
            raise S3Error("MalformedTrailerError", f"The trailer {name} is there twice.")
        self.trailers[name] = match.group(2).decode("latin-1")
        if name != _TRAILER_SIGNATURE:
            self._trailer_text += name.encode() + b":" + match.group(2) + b"\n"

    def _finish(self) -> None:
        signature = self.trailers.pop(_TRAILER_SIGNATURE, None)
        if not self._with_trailer and self.trailers:
            raise S3Error("MalformedTrailerError", "The body has trailers that its form does not allow.")
        if self._verified is not None and self._with_trailer:
            digest = hashlib.sha256(self._trailer_text).hexdigest()
            expected = sign_trailer(self._verified, self._previous, digest)
            if signature is None or not hmac.compare_digest(expected.encode(), signature.encode("latin-1")):
                raise S3Error("SignatureDoesNotMatch", "The signature of the trailers does not match them.")
        self._state = _State.COMPLETE
