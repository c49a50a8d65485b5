"""The asking end of a connection: many requests at a time, each with a number, and a new connection when one breaks.

A request whose connection broke fails with PeerLost, whether the other side got it or not; one that comes while there
is no connection fails at once. Who asked decides whether to ask again. What is under way is bounded: more have to wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from siltstone.errors import FormatInvalid, Unavailable
from siltstone.limits import MIB
from siltstone.meta.shards.frames import NUMBERS, Splitter
from siltstone.meta.shards.messages import PeerLost
from siltstone.meta.shards.outbox import Outbox, Window
from siltstone.ports import Clock

REQUESTS_MAX = 256
REQUEST_BYTES_MAX = 32 * MIB
"""What may be under way on one connection."""

RECEIVE_BYTES = 256 * 1024

RECONNECT_SECONDS = 0.01
RECONNECT_SECONDS_MAX = 0.25
"""How long it is waited before a connection is tried again: a time that doubles."""

Connect = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens a stream to the other side. Raises Unavailable."""


class _Waiting:
    """A task that waits for an answer."""

    __slots__ = ("answer", "task")

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.answer: bytes | PeerLost = b""

    def end(self, answer: bytes | PeerLost) -> None:
        """Wake it up with an answer, or why there is none."""
        self.answer = answer
        trio.lowlevel.reschedule(self.task)


class Link:
    """A connection to ``peer``, which is what error messages call it. Works while ``run`` does."""

    def __init__(self, peer: str, connect: Connect, clock: Clock) -> None:
        self.peer = peer
        self._connect = connect
        self._clock = clock
        self._window = Window(REQUESTS_MAX, REQUEST_BYTES_MAX)
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0
        self._outbox: Outbox | None = None
        self._away_because = "not connected yet"
        self._connected = trio.Event()

    async def call(self, payload: bytes) -> bytes:
        """The answer to a request. Raises PeerLost. Cancelled, it is carried out all the same, or not."""
        await self._window.enter(len(payload))
        try:
            if self._outbox is None:
                raise PeerLost(f"{self.peer} is away: {self._away_because}")
            self._number = number = (self._number + 1) % NUMBERS
            assert number not in self._waiting
            waiting = self._waiting[number] = _Waiting(trio.lowlevel.current_task())
            self._outbox.put(number, payload)

            def forget(_: object) -> trio.lowlevel.Abort:
                self._waiting.pop(number, None)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(forget)
            if isinstance(waiting.answer, PeerLost):
                raise waiting.answer
            return waiting.answer
        finally:
            self._window.leave(len(payload))

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._connected.wait()

    async def run(self) -> None:
        """Keep a connection, for ever."""
        pause = RECONNECT_SECONDS
        while True:
            try:
                stream = await self._connect()
            except Unavailable as error:
                self._away_because = str(error)
            else:
                pause = RECONNECT_SECONDS
                await self._converse(stream)
            await self._clock.sleep(pause)
            pause = min(2 * pause, RECONNECT_SECONDS_MAX)

    async def _converse(self, stream: trio.abc.Stream) -> None:
        """Use a connection until it breaks; then all that wait for an answer fail."""
        self._outbox = Outbox()
        self._connected.set()
        self._away_because = "it hung up"
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._send, self._outbox, stream, nursery.cancel_scope)
                await self._receive(stream)
                nursery.cancel_scope.cancel()
        finally:
            self._outbox = None
            self._connected = trio.Event()
            waiting, self._waiting = self._waiting, {}
            lost = f"the connection to {self.peer} broke: {self._away_because}; whether it got the request is not known"
            for each in waiting.values():
                each.end(PeerLost(lost))

    async def _send(self, outbox: Outbox, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        try:
            await outbox.send_all(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _receive(self, stream: trio.abc.Stream) -> None:
        splitter = Splitter()
        try:
            while data := await stream.receive_some(RECEIVE_BYTES):
                for number, payload in splitter.feed(data):
                    waiting = self._waiting.pop(number, None)
                    if waiting is not None:
                        waiting.end(payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except FormatInvalid as error:
            self._away_because = str(error)
