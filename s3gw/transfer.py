"""A body from the connection into a writer of the core, with its checksums: hashed beside being written.

Small bodies are hashed in line. Of a large one at most two pieces are in memory: while one is hashed in a worker and
written, the next is received. The writer is given each buffer for good, so each piece has a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

from siltstone.ports import Workers
from siltstone.s3gw.body import Body, fill
from siltstone.s3gw.budget import Budget
from siltstone.s3gw.checksums import Digests
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.store import Writer

INLINE_HASH_BYTES_MAX = 32 * 1024
"""Hashing this much takes about as long as a hop to a worker and back."""

A = TypeVar("A")
B = TypeVar("B")


async def receive(
    body: Body, writer: Writer, algorithms: Iterable[str], workers: Workers, budget: Budget, size_max: int
) -> tuple[Digests, int]:
    """Write the whole body; returns its checksums and its size. Raises EntityTooLarge beyond ``size_max``."""
    digests = Digests(algorithms)
    size = 0
    budget.enter()
    try:
        piece = await _next_piece(body, body.size, budget)
        while piece:
            size += len(piece)
            if size > size_max:
                raise S3Error("EntityTooLarge", MaxSizeAllowed=str(size_max))
            if size == body.size:  # the last: nothing but trailers to receive, and nothing to wait for meanwhile
                await _take(piece, writer, digests, workers)
                piece = await _next_piece(body, 0, budget)
            else:
                left = None if body.size is None else body.size - size
                take = partial(_take, piece, writer, digests, workers)
                _, piece = await side_by_side(take, partial(_next_piece, body, left, budget))
    finally:
        budget.leave()
    return digests, size


async def _next_piece(body: Body, left: int | None, budget: Budget) -> memoryview:
    """The following bytes in a fresh buffer; empty at the end, which is read too, so that trailers are known."""
    room = budget.piece_bytes
    buffer = memoryview(bytearray(room if left is None else max(1, min(left, room))))
    return buffer[: await fill(body, buffer)]


async def _take(piece: memoryview, writer: Writer, digests: Digests, workers: Workers) -> None:
    if len(piece) <= INLINE_HASH_BYTES_MAX:
        digests.update(piece)
        await writer.write(piece)
    else:
        await side_by_side(partial(workers.run, digests.update, piece), partial(writer.write, piece))


async def side_by_side(first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]]) -> tuple[A, B]:
    """Run both and return what they return. If one raises, the other is cancelled and the error comes out plain."""
    results: list[A] = []
    errors: list[BaseException] = []

    async def run_first(scope: trio.CancelScope) -> None:
        try:
            results.append(await first())
        except Exception as error:
            errors.append(error)
            scope.cancel()

    result: list[B] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_first, nursery.cancel_scope)
        try:
            result.append(await second())
        except Exception as error:
            errors.append(error)
            nursery.cancel_scope.cancel()
    if errors:
        raise errors[0]
    return results[0], result[0]
