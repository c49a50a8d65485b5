"""Heads of HTTP/1.1 messages: bytes to a request head, and a reply's status and headers to bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.router import split_target

HEAD_BYTES_MAX = 64 * 1024
HEAD_END = b"\r\n\r\n"
SIZE_DIGITS_MAX = 18
NO_SIZE = -1
"""``RequestHead.content_length`` of a body in HTTP chunks."""


class RequestHead(NamedTuple):
    """A request without its body.

    ``path`` and ``query`` are as sent. Header names are lower case, values are latin-1 so that every byte survives,
    several of one name are joined by ``,``. ``content_length`` is 0 without a body, NO_SIZE for a chunked one.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    content_length: int
    keep_alive: bool
    expects_continue: bool


class _Collector:
    """What httptools calls."""

    __slots__ = ("complete", "headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if key in self.headers:
            text = f"{self.headers[key]},{text}"
        self.headers[key] = text

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(data: bytes) -> RequestHead:
    """The head in ``data``, which ends with the empty line. Raises S3Error (BadRequest, NotImplemented)."""
    assert data.endswith(HEAD_END)
    collector = _Collector()
    parser = HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # whatever it wants to become, it is answered as HTTP/1.1
    except HttpParserError as error:
        raise S3Error("BadRequest", f"The request is not valid HTTP: {error}") from None
    if not collector.complete:
        raise S3Error("BadRequest")
    path, query = split_target(collector.target.decode("latin-1"))
    headers = collector.headers
    return RequestHead(
        parser.get_method().decode("latin-1"),
        path,
        query,
        headers,
        _content_length(headers),
        parser.should_keep_alive(),
        headers.get("expect", "").lower() == "100-continue",
    )


def _content_length(headers: dict[str, str]) -> int:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise S3Error("BadRequest", "A request cannot have both Content-Length and Transfer-Encoding.")
        if coding.strip().lower() != "chunked":
            raise S3Error("NotImplemented", f"Transfer-Encoding {coding} is not supported.")
        return NO_SIZE
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > SIZE_DIGITS_MAX:
        raise S3Error("BadRequest", "Content-Length is not a number of bytes.")
    return int(length)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: Siltstone\r\n" for status in HTTPStatus
}


def render_head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """A reply's head, with the empty line. Values must not hold line ends; what is not latin-1 becomes ``?``."""
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    text = f"{_STATUS_LINES[status]}{''.join(lines)}\r\n"
    assert text.count("\n") == len(lines) + 3, "a header's value holds a line end"
    return text.encode("latin-1", "replace")
