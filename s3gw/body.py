"""Bodies of requests as they arrive: plain, in HTTP chunks, in aws-chunks, or in aws-chunks inside HTTP chunks.

Each is a source that fills buffers of its caller and says 0 at its end; they stack. Nothing is read before the
caller asks, which is the back-pressure, and the first read makes the connection say 100-continue if it has to.
"""

from __future__ import annotations

from typing import Protocol

from siltstone.s3gw.chunked import ChunkedDecoder
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.head import NO_SIZE, SIZE_DIGITS_MAX, RequestHead
from siltstone.s3gw.sigv4 import STREAMING, STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER, Verified

RAW_BYTES = 16 * 1024
"""Read ahead of a chunk's size line; longer data of a chunk goes straight to its place."""


class Source(Protocol):
    """Where a body's bytes come from."""

    async def read_into(self, view: memoryview) -> int:
        """Put at least one byte at the start of ``view``; returns how many, 0 at the end. ``view`` is not empty."""

    async def finish(self, rest: memoryview) -> None:
        """Called once, when the reader has seen its end; ``rest`` was read beyond it."""


class Body(Source, Protocol):
    """A request's body as its handler sees it."""

    @property
    def size(self) -> int | None:
        """How many bytes it has, None when that is not known before its end."""

    @property
    def trailers(self) -> dict[str, str]:
        """Trailers by lower-case name; whole after the end was read."""


class PlainBody:
    """A body of known length."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self.size: int | None = size
        self.remaining = size
        self.trailers: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        """Whether all of it was read."""
        return self.remaining == 0

    @property
    def is_begun(self) -> bool:
        """Whether some of it was read."""
        return self.remaining != self.size

    async def read_into(self, view: memoryview) -> int:
        """See Source. Raises IncompleteBody when the connection ends first."""
        if self.remaining == 0:
            return 0
        count = await self._source.read_into(view[: self.remaining])
        if count == 0:
            raise S3Error("IncompleteBody")
        self.remaining -= count
        return count

    async def finish(self, rest: memoryview) -> None:
        """See Source. Raises when the body goes on behind the end of what is in it."""
        if len(rest) or self.remaining:
            raise S3Error("MalformedTrailerError", "There are bytes behind the last chunk.")


class ChunkedBody:
    """A body in chunks. ``size`` is what was announced for the payload; it must be that in the end."""

    def __init__(self, source: Source, decoder: ChunkedDecoder, size: int | None) -> None:
        self._source = source
        self._decoder = decoder
        self._raw: memoryview | None = None
        self._payload: list[memoryview] = []
        self._count = 0
        self.size = size
        self.complete = False

    @property
    def trailers(self) -> dict[str, str]:
        """See Body."""
        return self._decoder.trailers

    @property
    def is_begun(self) -> bool:
        """Whether some of it was read."""
        return self._raw is not None

    async def read_into(self, view: memoryview) -> int:
        """See Source. Raises S3Error for a broken form, a wrong signature, or another size than was announced."""
        while not self._payload and not self.complete:
            if self._decoder.data_pending:
                count = await self._receive(view[: self._decoder.data_pending])
                self._decoder.feed_data(view[:count])
                return self._counted(count)
            await self._read_ahead()
        if not self._payload:
            return 0
        piece = self._payload.pop(0)
        count = min(len(piece), len(view))
        view[:count] = piece[:count]
        if count < len(piece):
            self._payload.insert(0, piece[count:])
        return self._counted(count)

    async def finish(self, rest: memoryview) -> None:
        """See Source."""
        if len(rest) or await self.read_into(memoryview(bytearray(1))):
            raise S3Error("MalformedTrailerError", "There are bytes behind the last chunk.")

    async def _read_ahead(self) -> None:
        if self._raw is None:
            self._raw = memoryview(bytearray(RAW_BYTES))
        count = await self._receive(self._raw)
        self._payload, used = self._decoder.feed(self._raw[:count])
        if self._decoder.complete:
            total = self._count + sum(map(len, self._payload))
            if self.size is not None and total != self.size:
                raise S3Error("IncompleteBody", "The chunks do not add up to x-amz-decoded-content-length.")
            await self._source.finish(self._raw[used:count])
            self.complete = True

    async def _receive(self, view: memoryview) -> int:
        count = await self._source.read_into(view)
        if count == 0:
            raise S3Error("IncompleteBody")
        return count

    def _counted(self, count: int) -> int:
        self._count += count
        if self.size is not None and self._count > self.size:
            raise S3Error("IncompleteBody", "The chunks do not add up to x-amz-decoded-content-length.")
        return count


Framing = PlainBody | ChunkedBody


def framing_of(head: RequestHead, source: Source) -> Framing:
    """The body as HTTP delimits it."""
    if head.content_length == NO_SIZE:
        return ChunkedBody(source, ChunkedDecoder(None, with_trailer=True), None)
    return PlainBody(source, head.content_length)


def payload_of(head: RequestHead, framing: Framing, verified: Verified) -> Body:
    """The body without the encoding that its signature announces. Raises S3Error when its length is missing."""
    if verified.payload not in STREAMING:
        return framing
    length = head.headers.get("x-amz-decoded-content-length")
    if length is None:
        raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
    if not (length.isascii() and length.isdigit()) or len(length) > SIZE_DIGITS_MAX:
        raise S3Error("InvalidArgument", "x-amz-decoded-content-length is not a number of bytes.")
    signer = None if verified.payload == STREAMING_UNSIGNED_TRAILER else verified
    decoder = ChunkedDecoder(signer, with_trailer=verified.payload != STREAMING_SIGNED)
    return ChunkedBody(framing, decoder, int(length))


async def fill(body: Body, view: memoryview) -> int:
    """Fill ``view`` as far as the body goes; returns how many bytes."""
    count = 0
    while count < len(view):
        more = await body.read_into(view[count:])
        if more == 0:
            break
        count += more
    return count


async def read_whole(body: Body, bytes_max: int) -> bytes:
    """A small body. Raises MaxMessageLengthExceeded when it is longer than ``bytes_max``."""
    if body.size is not None and body.size > bytes_max:
        raise S3Error("MaxMessageLengthExceeded")
    whole = bytearray()
    buffer = memoryview(bytearray(min(RAW_BYTES, bytes_max) if body.size is None else max(1, body.size)))
    while count := await fill(body, buffer):
        whole += buffer[:count]
        if len(whole) > bytes_max:
            raise S3Error("MaxMessageLengthExceeded")
    return bytes(whole)
