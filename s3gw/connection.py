"""One client's connection: heads in, bodies in when they are asked for, replies out, in order.

httptools parses heads only; bodies are received straight into the buffers of whoever reads them. A reply whose
request's body was not read to its end is followed by reading that away when it is small, and by closing the
connection gently when it is not.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import trio

from siltstone.s3gw.body import Framing, PlainBody, framing_of
from siltstone.s3gw.counters import Counters
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.head import CONTINUE, HEAD_BYTES_MAX, HEAD_END, RequestHead, parse_head, render_head
from siltstone.s3gw.reply import Header, ObjectStream, Reply
from siltstone.s3gw.tls import TlsSocket
from siltstone.s3gw.transfer import side_by_side

RECEIVE_BYTES = 64 * 1024
JOIN_BYTES_MAX = 64 * 1024
"""A body up to this size is joined to its head, one copy for one send; a longer one goes beside it."""

DRAIN_BYTES_MAX = 256 * 1024
LINGER_SECONDS = 2.0
LINGER_BYTES_MAX = 64 * 1024 * 1024
LAST_WORD_SECONDS = 1.0


PROGRESS_BYTES = 4 * 1024
"""Fewer bytes of a body or a reply are as good as silence: one at a time would hold a connection for ever."""


class Timeouts(NamedTuple):
    """How long a client is waited for, in seconds: between requests, for a head as a whole, and within a body or a
    reply for each ``PROGRESS_BYTES``."""

    idle: float = 75.0
    head: float = 30.0
    transfer: float = 60.0


DEFAULT_TIMEOUTS = Timeouts()


class ConnectionLost(Exception):
    """The client is gone; there is nobody to answer."""


Respond = Callable[[RequestHead, Framing], Awaitable[Reply]]
"""Answers a request; raises nothing but cancellation and ConnectionLost."""
Refuse = Callable[[S3Error], Reply]
"""The reply to something that is not even a request."""
CommonHeaders = Callable[[], list[Header]]
"""The headers that every reply has."""


class Connection:
    """A socket and its state. ``run`` returns when the connection is over; the caller closes the socket.

    The socket is a plain one that does not block: most calls succeed at once, and trio's own sockets spend 9 us of a
    request on what is not needed then. Each request waits for its first byte, so that others have their turn.
    """

    def __init__(
        self,
        client: socket.socket | TlsSocket,
        respond: Respond,
        refuse: Refuse,
        common_headers: CommonHeaders,
        timeouts: Timeouts,
        counters: Counters | None = None,
    ) -> None:
        assert not client.getblocking()
        self._counters = Counters() if counters is None else counters
        self._socket = client
        self._wait_readable: Callable[[Any], Awaitable[None]] = trio.lowlevel.wait_readable
        self._wait_writable: Callable[[Any], Awaitable[None]] = trio.lowlevel.wait_writable
        if isinstance(client, TlsSocket):
            self._wait_readable, self._wait_writable = TlsSocket.wait_readable, TlsSocket.wait_writable
        self._respond = respond
        self._refuse = refuse
        self._common_headers = common_headers
        self._timeouts = timeouts
        self._rest = b""
        self._scope = trio.CancelScope()
        self._idle = True
        self._progress = 0
        """Bytes of bodies that went to or fro since ``patience`` was full."""
        self._patience = timeouts.transfer
        """Seconds that are left to wait for the client."""
        self._is_in_head = False
        self._stopping = False
        self._sent = False
        self._owes_continue = False

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests, and will not be closed yet."""
        return self._idle and not self._stopping

    def stop(self) -> None:
        """Close the connection when the request that is under way, if any, is answered."""
        self._stopping = True
        if self._idle:
            self._scope.cancel()

    async def run(self) -> None:
        """Serve requests until the client leaves, breaks a rule, falls silent, or ``stop`` is called."""
        try:
            with self._scope:
                while await self._serve_one():
                    pass
            if self._scope.cancelled_caught and not self._idle:
                self._count_broken()
                if not self._sent:
                    await self._send_last_word(S3Error("RequestTimeout"))
        except (ConnectionLost, OSError):
            if not self._idle:
                self._count_broken()

    def _count_broken(self) -> None:
        """The client has left or fell silent in the middle of something."""
        if self._sent:
            self._counters.replies_broken += 1
        elif self._is_in_head:
            self._counters.heads_refused += 1
        else:
            self._counters.bodies_broken += 1

    # --- requests --------------------------------------------------------------------------------------------------

    async def _serve_one(self) -> bool:
        """Serve one request; returns whether another may follow."""
        try:
            head = await self._read_head()
            if head is None:
                return False
        except S3Error as error:
            self._counters.heads_refused += 1
            await self._send_last_word(error)
            return False
        self._counters.requests += 1
        self._owes_continue = head.expects_continue
        self._progress, self._patience = 0, self._timeouts.transfer
        framing = framing_of(head, self)
        self._scope.deadline = math.inf
        reply = await self._respond(head, framing)
        try:
            if self._owes_continue and framing.complete and reply.status < 300:
                # An empty body that was announced with Expect: botocore, answered without a 100, takes the first line
                # of the NEXT reply on this connection for a header.
                self._owes_continue = False
                await self._send_all(CONTINUE)
            goes_on = head.keep_alive and not self._stopping and self._can_drain(framing)
            await self._send(reply, with_body=head.method != "HEAD", keep_alive=goes_on)
            if goes_on:
                await self._drain(framing)
            elif not framing.complete:
                await self._linger()
        except S3Error:
            return False  # what was left of the body is not in the form that it should have; the reply is out
        finally:
            if reply.stream is not None:
                reply.stream.close()
        return goes_on

    async def _read_head(self) -> RequestHead | None:
        """The next head, None when the client closed the connection or fell silent between two requests."""
        self._sent = False
        self._is_in_head = True
        self._idle = not self._rest
        data: bytes | bytearray = self._rest
        self._rest = b""
        if self._idle:
            self._scope.deadline = trio.current_time() + self._timeouts.idle
        else:
            await trio.lowlevel.checkpoint()  # so that one who sends many requests at a time keeps nobody waiting
        is_timed = False
        searched = 0
        while True:
            if data[:1] in (b"\r", b"\n"):
                data = data.lstrip(b"\r\n")
                searched = 0
            end = data.find(HEAD_END, searched)
            if end >= 0:
                break
            searched = max(0, len(data) - len(HEAD_END) + 1)
            if len(data) > HEAD_BYTES_MAX:
                raise S3Error("RequestHeaderSectionTooLarge")
            if self._stopping and not data:
                return None
            if not self._idle and not is_timed:
                is_timed = True
                self._scope.deadline = trio.current_time() + self._timeouts.head
            more = await self._receive()
            if not more:
                return None
            self._idle = False
            if not data:
                data = more
            elif isinstance(data, bytearray):
                data += more
            else:  # in pieces: a client that sends a byte at a time must not have all of it copied for each
                data = bytearray(data + more)
        end += len(HEAD_END)
        if end > HEAD_BYTES_MAX:
            raise S3Error("RequestHeaderSectionTooLarge")
        self._rest = bytes(data[end:])
        self._is_in_head = False
        return parse_head(bytes(data[:end]) if self._rest or isinstance(data, bytearray) else data)

    # --- bodies: this is the source that framings read from ---------------------------------------------------------

    async def read_into(self, view: memoryview) -> int:
        """See body.Source."""
        if self._rest:
            count = min(len(view), len(self._rest))
            view[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        try:
            if self._owes_continue:
                self._owes_continue = False
                await self._send_all(CONTINUE)
            return await self._receive_into(view)
        except OSError as error:
            raise ConnectionLost from error

    async def finish(self, rest: memoryview) -> None:
        """See body.Source: what was read beyond a body begins the next request."""
        self._rest = bytes(rest) + self._rest

    def _can_drain(self, framing: Framing) -> bool:
        """Whether what was not read of a body is little enough to be read away; a client that still waits for
        100-continue may send it or not, so nothing behind it could be understood."""
        if self._owes_continue:
            return False
        return framing.complete or (isinstance(framing, PlainBody) and framing.remaining <= DRAIN_BYTES_MAX)

    async def _drain(self, framing: Framing) -> None:
        if framing.complete:
            return
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        while await framing.read_into(buffer):
            pass

    async def _linger(self) -> None:
        """Let the client read the reply while it still sends: closing at once would reset the connection under it."""
        self._socket.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES_MAX
        with trio.move_on_after(LINGER_SECONDS):
            while left > 0 and (piece := await self._receive()):
                left -= len(piece)

    # --- replies ---------------------------------------------------------------------------------------------------

    async def _send(self, reply: Reply, *, with_body: bool, keep_alive: bool) -> None:
        self._sent = True
        headers = self._common_headers() + reply.headers
        if reply.status not in (204, 304):
            headers.append(("Content-Length", str(reply.content_length)))
        if not keep_alive:
            headers.append(("Connection", "close"))
        head = render_head(reply.status, headers)
        if not with_body or reply.status in (204, 304):
            await self._send_all(head)
        elif len(reply.body) <= JOIN_BYTES_MAX:
            await self._send_all(head + reply.body)
        else:
            await self._send_both(head, reply.body)
        if with_body and reply.stream is not None:
            await self._send_stream(reply.stream)

    async def _send_stream(self, stream: ObjectStream) -> None:
        """Send piece by piece, reading one while the one before it is sent. An error cannot be told any more: the
        connection ends short of the promised length, which the client notices."""
        piece = await stream.next_piece()
        while piece:
            piece, _ = await side_by_side(stream.next_piece, partial(self._send_all, piece))

    async def _send_both(self, head: bytes, body: bytes) -> None:
        try:
            count = self._socket.sendmsg([head, body])
        except BlockingIOError:
            count = 0
        if count < len(head):
            await self._send_all(head[count:])
            count = len(head)
        await self._send_all(memoryview(body)[count - len(head) :])

    async def _send_all(self, data: bytes | memoryview) -> None:
        view: bytes | memoryview = data
        while view:
            try:
                count = self._socket.send(view)
            except BlockingIOError:
                await self._wait(self._wait_writable)
                continue
            self._progress += count
            if count == len(view):
                return
            view = memoryview(view)[count:]

    async def _send_last_word(self, error: S3Error) -> None:
        """Tell what was wrong and end the connection."""
        with trio.move_on_after(LAST_WORD_SECONDS):
            await self._send(self._refuse(error), with_body=True, keep_alive=False)
            await self._linger()

    # --- the socket ------------------------------------------------------------------------------------------------

    async def _receive(self) -> bytes:
        """The next bytes of a head, empty when the client has left. Always a checkpoint; the deadline is set."""
        while True:
            await self._wait_readable(self._socket)
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue

    async def _receive_into(self, view: memoryview) -> int:
        while True:
            try:
                count = self._socket.recv_into(view)
            except BlockingIOError:
                await self._wait(self._wait_readable)
            else:
                self._progress += count
                return count

    async def _wait(self, ready: Callable[[Any], Awaitable[None]]) -> None:
        """Wait for the client in the middle of a body or a reply, but not for ever."""
        if self._progress >= PROGRESS_BYTES:
            self._progress, self._patience = 0, self._timeouts.transfer
        begun = trio.current_time()
        self._scope.deadline = begun + self._patience
        await ready(self._socket)
        self._scope.deadline = math.inf
        self._patience -= trio.current_time() - begun
