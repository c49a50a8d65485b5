"""The answering end of a connection: requests are carried out side by side, and answered in whatever order they end.

No more is read while too much is under way, so that the other side has to wait, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from siltstone.errors import FormatInvalid
from siltstone.meta.shards.frames import Splitter
from siltstone.meta.shards.link import RECEIVE_BYTES, REQUEST_BYTES_MAX, REQUESTS_MAX
from siltstone.meta.shards.outbox import Outbox, Window

Handler = Callable[[bytes], Awaitable[bytes]]
"""Carries out one request and returns the answer. What it raises is a bug, and ends whoever serves."""

logger = logging.getLogger("siltstone.shards")


async def serve(stream: trio.abc.Stream, handler: Handler) -> None:
    """Answer requests until the other side hangs up; what is under way then is carried out, and not answered."""
    outbox, window = Outbox(), Window(REQUESTS_MAX, REQUEST_BYTES_MAX)

    async def answer(number: int, payload: bytes) -> None:
        outbox.put(number, await handler(payload))
        await outbox.wait_room()
        window.leave(len(payload))

    async def send() -> None:
        try:
            await outbox.send_all(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.aclose()  # ends the reading below

    async with stream, trio.open_nursery() as sending:
        sending.start_soon(send)
        async with trio.open_nursery() as answering:
            await _receive(stream, window, lambda number, payload: answering.start_soon(answer, number, payload))
            outbox.close()
        sending.cancel_scope.cancel()


async def _receive(stream: trio.abc.Stream, window: Window, take: Callable[[int, bytes], None]) -> None:
    """Hand on each request as soon as there is room for it, until the other side hangs up or sends nonsense."""
    splitter = Splitter()
    try:
        while data := await stream.receive_some(RECEIVE_BYTES):
            for number, payload in splitter.feed(data):
                await window.enter(len(payload))
                take(number, payload)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    except FormatInvalid as error:
        logger.warning("a connection is closed: %s", error)
