"""Replies on their way to the connection."""

from __future__ import annotations

from collections.abc import Iterable

from siltstone.s3gw.budget import Budget
from siltstone.s3gw.store import ObjectReader
from siltstone.s3gw.xml import Element, render

Header = tuple[str, str]


class ObjectStream:
    """The rest of an object's bytes, after those that went with the head. Must be closed, once."""

    def __init__(self, reader: ObjectReader, offset: int, end: int, budget: Budget) -> None:
        self._reader = reader
        self._budget = budget
        budget.enter()
        self._offset = offset
        self._end = end

    async def next_piece(self) -> bytes:
        """The following bytes, empty at the end. An object that turns out shorter than it was is an assertion."""
        size = min(self._budget.piece_bytes, self._end - self._offset)
        if size == 0:
            return b""
        piece = await self._reader.read(self._offset, size)
        assert len(piece) == size, "the version that was opened became shorter"
        self._offset += size
        return piece

    def close(self) -> None:
        """Let go of the object."""
        self._budget.leave()
        self._reader.close()


class Reply:
    """A status, headers in order, and a body: bytes at hand, and more to come in ``stream``.

    ``content_length`` defaults to the bytes at hand.
    """

    __slots__ = ("body", "content_length", "headers", "status", "stream")

    def __init__(
        self,
        status: int,
        headers: list[Header] | None = None,
        body: bytes = b"",
        *,
        content_length: int | None = None,
        stream: ObjectStream | None = None,
    ) -> None:
        self.status = status
        self.headers: list[Header] = headers if headers is not None else []
        self.body = body
        self.content_length = len(body) if content_length is None else content_length
        self.stream = stream


def xml_reply(name: str, children: Iterable[Element], headers: Iterable[Header] = ()) -> Reply:
    """A reply with a document."""
    return Reply(200, [("Content-Type", "application/xml"), *headers], render(name, children))
