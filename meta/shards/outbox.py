"""What waits to be sent on a connection: all that has come together goes out in one piece.

The bytes that are under way are bounded: who has too many waits before more are taken on (``Window``).
"""

from __future__ import annotations

from collections import deque

import trio

from siltstone.meta.shards.frames import PAYLOAD_BYTES_MAX, pack_header

JOINED_BYTES_MAX = 256 * 1024
"""Up to here one copy is cheaper than one more system call."""

UNSENT_BYTES_MAX = 16 * 1024 * 1024
"""More is not taken on while so much waits to be sent."""


class Outbox:
    """Frames of one connection, in the order in which they were put in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._sender: trio.lowlevel.Task | None = None
        self._sent = trio.Event()
        self._is_closed = False

    async def wait_room(self) -> None:
        """Return when little enough waits to be sent; at once, mostly."""
        while self._size > UNSENT_BYTES_MAX:
            await self._sent.wait()

    def close(self) -> None:
        """Nobody reads any more: what is put in from now on is dropped."""
        self._is_closed = True
        self._size = 0
        self._sent.set()

    def put(self, number: int, payload: bytes) -> None:
        """Send a frame soon."""
        assert len(payload) <= PAYLOAD_BYTES_MAX, f"a frame of {len(payload)} bytes"
        if self._is_closed:
            return
        self._pieces.append(pack_header(len(payload), number))
        self._pieces.append(payload)
        self._size += len(payload)
        if self._sender is not None:
            sender, self._sender = self._sender, None
            trio.lowlevel.reschedule(sender)

    async def send_all(self, stream: trio.abc.SendStream) -> None:
        """Send what is put in, for ever. Raises trio.BrokenResourceError when nobody reads."""
        while True:
            if not self._pieces:
                self._sender = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._leave)
            pieces, size = self._pieces, self._size
            self._pieces, self._size = [], 0
            if size <= JOINED_BYTES_MAX:
                await stream.send_all(b"".join(pieces))
            else:
                for piece in pieces:
                    await stream.send_all(piece)
            if size > UNSENT_BYTES_MAX:
                sent, self._sent = self._sent, trio.Event()
                sent.set()

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._sender = None
        return trio.lowlevel.Abort.SUCCEEDED


class Window:
    """How much may be under way: ``requests`` of together ``size`` bytes, or a single larger one."""

    def __init__(self, requests: int, size: int) -> None:
        self._requests = requests
        self._size = size
        self._waiting: deque[tuple[int, trio.lowlevel.Task]] = deque()
        self.requests = 0
        self.bytes = 0

    async def enter(self, size: int) -> None:
        """Return when there is room, in the order of those who wait; it is taken then."""
        if self._waiting or not self._has_room(size):
            entry = (size, trio.lowlevel.current_task())
            self._waiting.append(entry)

            def leave(_: object) -> trio.lowlevel.Abort:
                self._waiting.remove(entry)
                self._admit()
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(leave)
            return
        self.requests += 1
        self.bytes += size

    def leave(self, size: int) -> None:
        """Give the room back."""
        self.requests -= 1
        self.bytes -= size
        assert self.requests >= 0 and self.bytes >= 0
        if self._waiting:
            self._admit()

    def _has_room(self, size: int) -> bool:
        return self.requests < self._requests and (not self.requests or self.bytes + size <= self._size)

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, task = self._waiting.popleft()
            self.requests += 1
            self.bytes += size
            trio.lowlevel.reschedule(task)
