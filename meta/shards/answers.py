"""Requests that are carried out once, however often they are sent.

A client that gets no answer (the shard died, the connection broke) sends the request again, under the same number. The
answer is a record of the batch that the request made, so that it is there exactly if the request was carried out, in
this life of the shard or an earlier one. A request that failed has no record: it changed nothing. That it is not tried
once more by an earlier sending that is still under way, ``Requests`` sees to, which a shard has for the length of its
life. Answers are forgotten when the client says that it has them; a request from before that is refused. Those of a
client that is gone are forgotten after a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import trio

from siltstone.errors import InvalidArgument
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.ports import Clock
from siltstone.types import PartitionId

T = TypeVar("T")

FORGET_STEP = 32
"""Answers are forgotten so many at a time."""

FORGET_SECONDS = 600.0
"""A client that sends nothing for so long has no request under way, and its answers are forgotten: far longer than one
waits for a shard to come back (core/caller.py)."""

FORGET_BATCH = 256
"""Records that are deleted together."""

WATERMARK_NUMBER = 0

_encode = msgspec.msgpack.Encoder().encode


class Request(NamedTuple):
    """A request of a client. ``answered_below``: the client has the answers of all requests with smaller numbers."""

    client: bytes
    """16 random bytes."""
    number: int
    """From 1 on, counting up."""
    answered_below: int


class Requests:
    """The requests of all clients that are under way, or whose answers may not have arrived."""

    def __init__(self) -> None:
        self._clients: dict[bytes, _Client] = {}
        self._heard: set[bytes] = set()

    async def carry_out(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work`` unless that request is being worked on, or was; return or raise what came of it."""
        client = self._clients.setdefault(request.client, _Client())
        self._heard.add(request.client)
        client.forget_below(request.answered_below)
        while True:
            if request.number < client.below:
                raise InvalidArgument(f"request {request.number} was answered, and the client has the answer")
            other = client.sendings.get(request.number)
            if other is None:
                break
            await other.ended.wait()
            if other.is_answered:
                return cast(T, other.answer())
        sending = client.sendings[request.number] = _Sending()
        try:
            sending.result = await work()
            sending.is_answered = True
        except Exception as error:
            sending.error = error
            sending.is_answered = True
            raise
        finally:
            if not sending.is_answered and client.sendings.get(request.number) is sending:
                del client.sendings[request.number]
            sending.ended.set()
        return cast(T, sending.result)

    def living(self) -> set[bytes]:
        """The clients that were heard of since this was asked before, or have something under way; forgets others."""
        living = self._heard | {client for client, known in self._clients.items() if known.is_waited_for}
        self._heard = set()
        for client in self._clients.keys() - living:
            del self._clients[client]
        return living


async def forget_gone(
    requests: Requests,
    begin: Callable[[], Transaction],
    commit: Callable[[Transaction], object],
    clock: Clock,
    may_change: Callable[[PartitionId], bool],
) -> None:
    """Forget the answers of clients that are gone, of earlier lives of the shard included, for ever.

    ``may_change``: whether records of a partition are this shard's to change at the moment.
    """
    while True:
        await clock.sleep(FORGET_SECONDS)
        living = requests.living()
        for partition in range(PARTITION_COUNT):
            wanted = PartitionId(partition)
            while may_change(wanted) and _forget_others(begin(), wanted, living, commit):
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()


def _forget_others(
    transaction: Transaction, partition: PartitionId, living: set[bytes], commit: Callable[[Transaction], object]
) -> bool:
    """Forget some of the answers to clients that are not living; whether there may be more."""
    found = transaction.scan(*keys.prefix_range(keys.all_of(keys.ANSWER, partition)))
    gone = list(islice((key for key, _ in found if keys.answer_client(key) not in living), FORGET_BATCH))
    for key in gone:
        transaction.delete(key)
    if gone:
        commit(transaction)
    return len(gone) == FORGET_BATCH


class _Sending:
    """One attempt at a request, under way or over."""

    __slots__ = ("ended", "error", "is_answered", "result")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.is_answered = False
        self.result: Any = None
        self.error: Exception | None = None

    def answer(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class _Client:
    """What is kept of one client. ``below``: it has the answers of all requests with smaller numbers."""

    __slots__ = ("below", "sendings")

    def __init__(self) -> None:
        self.below = 1
        self.sendings: dict[int, _Sending] = {}

    @property
    def is_waited_for(self) -> bool:
        """Whether a request of it is under way."""
        return any(not sending.ended.is_set() for sending in self.sendings.values())

    def forget_below(self, number: int) -> None:
        # A client of an earlier life begins with a high number here: never count up to it.
        is_near = number - self.below <= len(self.sendings)
        for old in range(self.below, number) if is_near else [old for old in self.sendings if old < number]:
            self.sendings.pop(old, None)
        self.below = max(self.below, number)


def once(
    change: Callable[[Transaction], T], request: Request, partition: PartitionId, answer: type[T]
) -> Callable[[Transaction], T]:
    """``change``, carried out unless it was for this request already; then the recorded answer is returned.

    ``partition``: where the answer is kept; each time the same. ``answer``: the type, which msgspec can encode. What is
    returned raises InvalidArgument for a request that is older than what the client has the answers of.
    """
    assert request.number > WATERMARK_NUMBER
    key = keys.answer(partition, request.client, request.number)
    decoder = msgspec.msgpack.Decoder(answer)

    def change_once(transaction: Transaction) -> T:
        recorded = transaction.get(key)
        if recorded is not None:
            return decoder.decode(recorded)
        watermark = _watermark(transaction, request, partition)
        if request.number < watermark:
            raise InvalidArgument(f"request {request.number} was answered, and the client has the answer")
        result = change(transaction)
        transaction.put(key, _encode(result))
        if request.answered_below >= watermark + FORGET_STEP:
            _forget(transaction, request, partition, watermark)
        return result

    return change_once


def is_carried_out(reader: Reader, request: Request, partition: PartitionId) -> bool:
    """Whether there is an answer to a request."""
    return reader.get(keys.answer(partition, request.client, request.number)) is not None


def _watermark(transaction: Transaction, request: Request, partition: PartitionId) -> int:
    value = transaction.get(keys.answer(partition, request.client, WATERMARK_NUMBER))
    return 1 if value is None else msgspec.msgpack.decode(value, type=int)


def _forget(transaction: Transaction, request: Request, partition: PartitionId, watermark: int) -> None:
    start = keys.answer(partition, request.client, watermark)
    end = keys.answer(partition, request.client, request.answered_below)
    for key, _ in list(transaction.scan(start, end)):
        transaction.delete(key)
    watermark_key = keys.answer(partition, request.client, WATERMARK_NUMBER)
    transaction.put(watermark_key, _encode(request.answered_below))
