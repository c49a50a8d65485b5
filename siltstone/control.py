"""The control socket: how a command talks to the process that owns the volume. JSON lines over HOME/control.sock.

One request a connection: the client sends one line ``{"operation": ..., "arguments": {...}}``; the owner answers with
any number of ``{"progress": [done, total, unit]}`` and exactly one ``{"result": ...}`` or ``{"error": [kind,
message]}``. A client that hangs up cancels its operation. Whoever may open the socket (0600) may do everything.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import trio

from siltstone.core.types import Progress
from siltstone.errors import Corrupt, Refused, SiltstoneError, Unavailable
from siltstone.home import Home
from siltstone.sockets import listen_at, short_path

LINE_BYTES_MAX = 16 * 1024 * 1024

LAST_WORD_SECONDS = 10.0
"""How long a client may take to receive its answer."""

KINDS: dict[str, type[SiltstoneError]] = {"unavailable": Unavailable, "corrupt": Corrupt, "refused": Refused}


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks."""

    operation: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer."""

    progress: Progress | None = None
    result: Any = msgspec.UNSET
    error: tuple[str, str] | None = None


class Handler(Protocol):
    """Carries out one request: returns what JSON can hold, or raises a SiltstoneError."""

    def __call__(
        self, operation: str, arguments: Mapping[str, Any], report: Callable[[Progress], None]
    ) -> Awaitable[object]: ...


# --- the owner's side ---------------------------------------------------------------------------------------------


class StreamHandler(Protocol):
    """Carries out one request whose answer is lines of JSON without an end, or raises a SiltstoneError."""

    def __call__(self, arguments: Mapping[str, Any], sink: StreamSink) -> Awaitable[None]: ...


NO_STREAMS: Mapping[str, StreamHandler] = {}


class StreamSink:
    """Where such lines go (core/feed.py: Sink)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    def send_nowait(self, data: bytes) -> int:
        """Send what the socket has room for: how many bytes. Raises nothing: of who is gone all is taken."""
        try:
            return os.write(self._stream.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    async def send_all(self, data: bytes) -> None:
        """Send all of it. Raises trio.BrokenResourceError when who asked is gone."""
        await self._stream.send_all(data)


async def serve_control(
    home: Home,
    handler: Handler,
    streams: Mapping[str, StreamHandler] = NO_STREAMS,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests until cancelled; ``streams``: operations whose answer is a stream. The caller owns the volume, so
    a socket that is left over is nobody's."""
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(home.control_socket.unlink, missing_ok=True)
        listener = listen_at(home.control_socket)

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await _answer(stream, handler, streams)
                except* (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # whoever asked is gone; before Python 3.12 `suppress` does not look into groups

        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, answer, [listener])
            task_status.started()


async def _answer(stream: trio.SocketStream, handler: Handler, streams: Mapping[str, StreamHandler]) -> None:
    line = await _receive_line(stream)
    if line is None:
        return
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        await _send(stream, Reply(error=("refused", f"not a request: {error}")))
        return
    if request.operation in streams:
        await _answer_on_and_on(stream, streams[request.operation], request.arguments)
        return
    latest, arriving = trio.open_memory_channel[Progress](1)

    def report(progress: Progress) -> None:
        with contextlib.suppress(trio.WouldBlock):  # a slow client sees fewer lines, the work never waits for it
            latest.send_nowait(progress)

    async with trio.open_nursery() as nursery:

        async def forward() -> None:
            async for progress in arriving:
                await _send(stream, Reply(progress=progress))

        nursery.start_soon(_cancel_on_hang_up, stream, nursery.cancel_scope)
        with trio.CancelScope() as answering:
            async with trio.open_nursery() as sending:
                sending.start_soon(forward)
                with latest:
                    try:
                        reply = Reply(result=await handler(request.operation, request.arguments, report))
                    except SiltstoneError as error:
                        reply = Reply(error=(_kind_of(error), str(error)))
                # Sent even if everything is about to end: it may be this request that ends it.
                answering.shield = True
                answering.deadline = trio.current_time() + LAST_WORD_SECONDS
            await _send(stream, reply)
        nursery.cancel_scope.cancel()


async def _answer_on_and_on(stream: trio.SocketStream, handler: StreamHandler, arguments: Mapping[str, Any]) -> None:
    """Lines of a stream until it ends, or whoever asked hangs up; then a reply as always."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_hang_up, stream, nursery.cancel_scope)
        reply = Reply(result=None)
        try:
            await handler(arguments, StreamSink(stream))
        except SiltstoneError as error:
            reply = Reply(error=(_kind_of(error), str(error)))
        await _send(stream, reply)
        nursery.cancel_scope.cancel()


async def _cancel_on_hang_up(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(4096):
            pass
    scope.cancel()


def _kind_of(error: SiltstoneError) -> str:
    return next(name for name, base in KINDS.items() if isinstance(error, base))


async def _receive_line(stream: trio.SocketStream) -> bytes | None:
    received = bytearray()
    while not received.endswith(b"\n"):
        piece = await stream.receive_some(65536)
        if not piece or len(received) > LINE_BYTES_MAX:
            return None
        received += piece
    return bytes(received)


async def _send(stream: trio.SocketStream, reply: Reply) -> None:
    await stream.send_all(msgspec.json.encode(reply) + b"\n")


# --- the client's side --------------------------------------------------------------------------------------------


class NoOwner(Unavailable):
    """No process listens on the volume's control socket."""


def request(
    home: Home,
    operation: str,
    arguments: Mapping[str, Any] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    limit_seconds: float | None = None,
) -> Any:
    """Have the owner carry out an operation; blocks. Raises NoOwner, or what the operation raised, by its kind.

    ``limit_seconds``: how long the answer may take, for what the owner does at once; Unavailable after that.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(limit_seconds)
        try:
            _connect(connection, home)
        except TimeoutError as error:
            raise _no_answer(home, limit_seconds) from error
        try:
            connection.sendall(msgspec.json.encode(Request(operation, dict(arguments or {}))) + b"\n")
            for line in connection.makefile("rb"):
                reply = msgspec.json.decode(line, type=Reply)
                if reply.progress is not None:
                    report(reply.progress)
                elif reply.error is not None:
                    kind, message = reply.error
                    raise KINDS[kind](message)
                else:
                    return None if reply.result is msgspec.UNSET else reply.result
        except TimeoutError as error:
            raise _no_answer(home, limit_seconds) from error
        except OSError as error:
            raise Unavailable(f"the process that serves {home.path} hung up: {error.strerror}") from error
    raise Unavailable(f"the process that serves {home.path} ended before it answered (see {home.log_file})")


def stream(home: Home, operation: str, arguments: Mapping[str, Any]) -> Iterator[bytes]:
    """The lines of a stream, as they come, without their ends; blocks. Raises as ``request`` does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, home)
        try:
            connection.sendall(msgspec.json.encode(Request(operation, dict(arguments))) + b"\n")
            for line in connection.makefile("rb"):
                if not line.startswith((b'{"result"', b'{"error"')):
                    yield line.rstrip(b"\n")
                    continue
                reply = msgspec.json.decode(line, type=Reply)
                if reply.error is not None:
                    kind, message = reply.error
                    raise KINDS[kind](message)
                return
        except OSError as error:
            raise Unavailable(f"the process that serves {home.path} hung up: {error.strerror}") from error
    raise Unavailable(f"the process that serves {home.path} has ended (see {home.log_file})")


def _connect(connection: socket.socket, home: Home) -> None:
    try:
        with short_path(home.control_socket) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NoOwner(f"nobody serves {home.path}") from error
    except TimeoutError:
        raise
    except OSError as error:
        raise Unavailable(f"cannot reach the process that serves {home.path}: {error.strerror}") from error


def _no_answer(home: Home, limit_seconds: float | None) -> Unavailable:
    pid = home.busy().pid
    return Unavailable(
        f"process {pid or 'unknown'}, which serves {home.path}, has not answered for {limit_seconds:g} s: does the "
        f"disk that HOME is on hang? Its log may tell ({home.log_file})"
    )
