"""Forms that browsers post (RFC 7578): fields first, then the part named ``file``, whose bytes are a Body. What comes
behind that part is read and counts for nothing. Bounded in memory whatever is sent."""

from __future__ import annotations

import re
from typing import NamedTuple

from siltstone.s3gw.body import Body
from siltstone.s3gw.errors import S3Error

FIELDS_BYTES_MAX = 64 * 1024
"""All fields together, with their heads."""
READ_BYTES = 64 * 1024
REST_BYTES_MAX = 64 * 1024

_BOUNDARY = re.compile(r'multipart/form-data\s*;.*?\bboundary\s*=\s*(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.I | re.S)
_PARAMETER = re.compile(r';\s*([A-Za-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')


class Form(NamedTuple):
    """The fields by lower-case name, the name and type that the file came with, and its bytes."""

    fields: dict[str, str]
    filename: str
    file: FileBody


def boundary_of(content_type: str) -> bytes:
    """The boundary of a form. Raises MalformedPOSTRequest for what is none."""
    found = _BOUNDARY.match(content_type)
    if found is None:
        raise S3Error("MalformedPOSTRequest")
    return (found[1] or found[2]).encode("latin-1", "replace")


class FileBody:
    """The bytes of the file: up to the delimiter. A Body without a size."""

    size: int | None = None

    def __init__(self, body: Body, held: bytes, delimiter: bytes) -> None:
        self._body = body
        self._held = bytearray(held)
        self._delimiter = delimiter
        self._ended = False
        self.trailers: dict[str, str] = {}

    async def read_into(self, view: memoryview) -> int:
        """See Source. Raises MalformedPOSTRequest when the form ends inside the file."""
        while not self._ended:
            at = self._held.find(self._delimiter)
            ready = at if at >= 0 else len(self._held) - len(self._delimiter) + 1
            if at == 0:
                self._ended = True
                await self._read_rest()
                break
            if ready > 0:
                count = min(ready, len(view))
                view[:count] = self._held[:count]
                del self._held[:count]
                return count
            more = memoryview(bytearray(READ_BYTES))
            count = await self._body.read_into(more)
            if count == 0:
                raise S3Error("MalformedPOSTRequest")
            self._held += more[:count]
        return 0

    async def finish(self, rest: memoryview) -> None:
        """See Source; nothing is inside it."""

    async def _read_rest(self) -> None:
        buffer = memoryview(bytearray(READ_BYTES))
        left = REST_BYTES_MAX
        while count := await self._body.read_into(buffer):
            left -= count
            if left < 0:
                raise S3Error("MalformedPOSTRequest")


async def read_form(body: Body, content_type: str) -> Form:
    """Read a form up to the bytes of its file. Raises MalformedPOSTRequest, MaxPostPreDataLengthExceeded."""
    boundary = boundary_of(content_type)
    delimiter = b"\r\n--" + boundary
    reader = _Reader(body)
    await reader.until(b"--" + boundary)
    fields: dict[str, str] = {}
    while True:
        if (await reader.exactly(2)) != b"\r\n":
            raise S3Error("InvalidArgument", "POST requires exactly one file upload per request.", ArgumentName="file")
        name, filename = _disposition(await reader.until(b"\r\n\r\n"))
        if name == "file":
            return Form(fields, filename, FileBody(body, reader.rest(), delimiter))
        value = await reader.until(delimiter)
        fields[name] = value.decode("utf-8", "surrogateescape")


class _Reader:
    """What was read of the form ahead of the file."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._held = bytearray()
        self._taken = 0

    def rest(self) -> bytes:
        """What was read and not taken."""
        return bytes(self._held)

    async def until(self, mark: bytes) -> bytes:
        """What comes before a mark, which is taken too."""
        start = 0
        while (at := self._held.find(mark, start)) < 0:
            start = max(0, len(self._held) - len(mark) + 1)
            await self._more()
        found = bytes(self._held[:at])
        self._take(at + len(mark))
        return found

    async def exactly(self, count: int) -> bytes:
        """The next bytes."""
        while len(self._held) < count:
            await self._more()
        found = bytes(self._held[:count])
        self._take(count)
        return found

    def _take(self, count: int) -> None:
        del self._held[:count]
        self._taken += count

    async def _more(self) -> None:
        left = FIELDS_BYTES_MAX - self._taken - len(self._held)
        if left <= 0:
            raise S3Error("MaxPostPreDataLengthExceeded")
        buffer = memoryview(bytearray(min(left, READ_BYTES)))
        count = await self._body.read_into(buffer)
        if count == 0:
            raise S3Error("MalformedPOSTRequest")
        self._held += buffer[:count]


def _disposition(head: bytes) -> tuple[str, str]:
    """(name in lower case, file name) of a part."""
    for line in head.decode("utf-8", "surrogateescape").split("\r\n"):
        title, _, value = line.partition(":")
        if title.strip().lower() != "content-disposition" or not value.strip().lower().startswith("form-data"):
            continue
        found = {one[0].lower(): re.sub(r"\\(.)", r"\1", one[1]) or one[2] for one in _PARAMETER.findall(value)}
        if "name" in found:
            return found["name"].lower(), found.get("filename", "")
    raise S3Error("MalformedPOSTRequest")
