"""The connection: order, limits, timeouts, 100-continue, and what becomes of bodies that nobody read."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.s3gw.body import Framing, read_whole
from siltstone.s3gw.connection import PROGRESS_BYTES, Connection, Timeouts
from siltstone.s3gw.counters import Counters
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.head import HEAD_BYTES_MAX, RequestHead
from siltstone.s3gw.reply import Reply
from sim.s3 import PATIENT, Client

Respond = Callable[[RequestHead, Framing], Awaitable[Reply]]


def refuse(error: S3Error) -> Reply:
    return Reply(error.status, body=error.code.encode())


@asynccontextmanager
async def connected(
    respond: Respond, timeouts: Timeouts = PATIENT, counters: Counters | None = None
) -> AsyncIterator[tuple[Connection, Client]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = Connection(theirs, respond, refuse, lambda: [("Date", "now")], timeouts, counters)

    async def serve() -> None:
        with theirs:
            await connection.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.socket.from_stdlib_socket(ours) as client:
            yield connection, Client(trio.SocketStream(client))


async def echo(head: RequestHead, framing: Framing) -> Reply:
    """Answers with what was asked."""
    try:
        body = await read_whole(framing, 1 << 20)
    except S3Error as error:
        return refuse(error)
    return Reply(200, [("Path", head.path)], body)


async def ignore(head: RequestHead, framing: Framing) -> Reply:
    """Answers without a look at the body."""
    return Reply(200, [("Path", head.path)], b"ignored")


bodies = st.binary(max_size=60)


def as_request(index: int, body: bytes, cuts: list[int] | None) -> bytes:
    """A request with Content-Length, or in chunks cut at ``cuts``."""
    if cuts is None:
        return f"PUT /{index} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(edges) if start < end]
    text = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    return f"PUT /{index} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + text + b"0\r\n\r\n"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(bodies, st.none() | st.lists(st.integers(0, 60), max_size=3)), min_size=1, max_size=4),
    st.lists(st.integers(0, 1000), max_size=6),
    st.random_module(),
)
def test_requests_are_answered_in_order_however_their_bytes_arrive(
    requests: list[tuple[bytes, list[int] | None]], places: list[int], seed: object
) -> None:
    stream = b"".join(as_request(index, body, cuts) for index, (body, cuts) in enumerate(requests))
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]

    async def main() -> None:
        async with connected(echo) as (_, client):
            for start, end in itertools.pairwise(edges):
                if start < end:
                    await client.send(stream[start:end])
                    await trio.testing.wait_all_tasks_blocked()
            for index, (body, _) in enumerate(requests):
                answer = await client.receive()
                assert (answer.status, answer.headers["path"], answer.body) == (200, f"/{index}", body)

    trio.run(main)


def test_100_continue_is_said_when_the_body_is_wanted_and_not_before() -> None:

    async def main() -> None:
        wants_body = trio.Event()

        async def respond(head: RequestHead, framing: Framing) -> Reply:
            await wants_body.wait()
            return await echo(head, framing)

        async with connected(respond) as (_, client):
            await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01):
                raise AssertionError(await client.receive_head())
            wants_body.set()
            assert (await client.receive_head())[0] == 100
            await client.send(b"ab")
            assert (await client.receive()).body == b"ab"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_a_refused_body_that_was_expected_is_never_asked_for_and_ends_the_connection() -> None:
    async def main() -> None:
        async with connected(ignore) as (_, client):
            await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            answer = await client.receive()
            assert answer.interim == [] and answer.headers["connection"] == "close"
            assert await client.is_closed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_an_empty_body_that_was_expected_gets_its_100_so_that_botocore_may_reuse_the_connection() -> None:
    async def main() -> None:
        async with connected(echo) as (_, client):
            for _ in range(2):
                await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
                answer = await client.receive()
                assert (answer.status, answer.interim) == (200, [100])

    trio.run(main)


def test_a_short_body_that_nobody_read_does_not_end_the_connection() -> None:
    async def main() -> None:
        async with connected(ignore) as (_, client):
            for index in range(3):
                await client.send(as_request(index, b"x" * 100_000, None))
                answer = await client.receive()
                assert answer.headers["path"] == f"/{index}" and "connection" not in answer.headers

    trio.run(main)


def test_the_reply_to_a_long_body_that_nobody_read_reaches_a_client_that_still_sends() -> None:
    async def main() -> None:
        async with connected(ignore) as (_, client):
            head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 33554432\r\n\r\n"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, head + bytes(32 * 1024 * 1024))
                answer = await client.receive()
            assert (answer.status, answer.headers["connection"]) == (200, "close")

    trio.run(main)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"nonsense\r\n\r\n", "BadRequest"),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", "BadRequest"),
        (b"GET / HTTP/1.1\r\nBad\x00Name: x\r\n\r\n", "BadRequest"),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", "InvalidURI"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", "BadRequest"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "BadRequest"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "BadRequest"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", "BadRequest"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n", "RequestHeaderSectionTooLarge"),
        (b"GET / HTTP/1.1\r\n" + b"x" * HEAD_BYTES_MAX + b"xxx", "RequestHeaderSectionTooLarge"),
    ],
)
def test_what_is_not_http_gets_a_400_and_the_end(data: bytes, code: str) -> None:
    async def main() -> None:
        async with connected(echo) as (_, client):
            await client.send(data)
            answer = await client.receive()
            assert (answer.status, answer.body.decode()) == (400, code)
            assert answer.headers["connection"] == "close"
            assert await client.is_closed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_never_break_the_connection_task(data: bytes, is_head: bool) -> None:
    async def main() -> None:
        async with connected(echo) as (_, client):
            await client.send(b"PUT / HTTP/1.1\r\n" + data + b"\r\n\r\n" if is_head else data)
            await client.stream.send_eof()
            while await client.stream.receive_some():
                pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"", False),
        (b"GET / HT", True),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", False),
    ],
)
def test_a_silent_client_is_let_go_and_told_why_when_it_was_saying_something(said: bytes, answered: bool) -> None:
    async def main() -> None:
        async with connected(echo, Timeouts(10, 10, 10)) as (_, client):
            await client.send(said)
            if said.startswith(b"GET / HTTP"):
                assert (await client.receive()).status == 200
            if answered:
                answer = await client.receive()
                assert (answer.status, answer.body) == (400, b"RequestTimeout")
            assert await client.is_closed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_a_client_that_does_not_read_its_reply_is_let_go() -> None:
    async def respond(head: RequestHead, framing: Framing) -> Reply:
        return Reply(200, body=bytes(64 * 1024 * 1024))

    async def main() -> None:
        async with connected(respond, Timeouts(10, 10, 10)) as (_, client):
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await trio.sleep(30)
            with pytest.raises(EOFError):
                await client.receive()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_stopping_closes_an_idle_connection_at_once_and_a_busy_one_after_its_reply() -> None:
    async def main() -> None:
        async with connected(echo) as (connection, client):
            await trio.testing.wait_all_tasks_blocked()
            connection.stop()
            assert await client.is_closed()
        async with connected(echo) as (connection, client):
            await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
            await trio.testing.wait_all_tasks_blocked()
            connection.stop()
            await client.send(b"b")
            answer = await client.receive()
            assert (answer.body, answer.headers["connection"]) == (b"ab", "close")
            assert await client.is_closed()

    trio.run(main)


def test_head_and_http_1_0_are_honoured() -> None:
    async def main() -> None:
        async with connected(ignore) as (_, client):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.0\r\n\r\n")
            answer = await client.receive(with_body=False)
            assert answer.headers["content-length"] == "7"
            answer = await client.receive()
            assert (answer.body, answer.headers["connection"]) == (b"ignored", "close")
            assert await client.is_closed()

    trio.run(main)


def test_a_body_that_ends_early_is_incomplete() -> None:
    async def main() -> None:
        seen: list[str] = []

        async def respond(head: RequestHead, framing: Framing) -> Reply:
            reply = await echo(head, framing)
            seen.append(reply.body.decode())
            return reply

        for said in (b"Content-Length: 5\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
            async with connected(respond) as (_, client):
                await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\n" + said)
                await client.stream.send_eof()
                assert (await client.receive()).body == b"IncompleteBody"
        assert seen == ["IncompleteBody"] * 2

    trio.run(main)


def test_a_large_reply_arrives_whole() -> None:
    data = bytes(range(256)) * 40_000

    async def respond(head: RequestHead, framing: Framing) -> Reply:
        return Reply(200, body=data)

    async def main() -> None:
        async with connected(respond) as (_, client):
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.receive()).body == data

    trio.run(main)


@pytest.mark.parametrize(("piece", "is_patient"), [(1, False), (PROGRESS_BYTES // 4, False), (PROGRESS_BYTES, True)])
def test_a_client_that_dribbles_its_body_is_let_go_and_a_slow_one_is_not(piece: int, is_patient: bool) -> None:
    async def main() -> None:
        counters = Counters()
        async with connected(echo, Timeouts(10, 10, 10), counters) as (_, client):
            head = f"PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: {8 * piece}\r\n\r\n"
            await client.send(head.encode())
            with suppress(trio.BrokenResourceError):
                for _ in range(8):
                    await trio.sleep(4)
                    await client.send(bytes(piece))
            answer = await client.receive()
            assert answer.status == (200 if is_patient else 400)
            assert counters.bodies_broken == (0 if is_patient else 1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_a_head_that_comes_a_byte_at_a_time_is_read_and_one_that_takes_too_long_is_counted() -> None:
    async def main() -> None:
        counters = Counters()
        async with connected(echo, Timeouts(10, 10, 10), counters) as (_, client):
            for byte in b"\r\nGET /path HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n":
                await client.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await client.receive()).headers["path"] == "/path"
            assert (await client.receive()).headers["path"] == "/next"
            for _ in range(8):
                await trio.sleep(3)
                with suppress(trio.BrokenResourceError):
                    await client.send(b"G")
            assert (await client.receive()).body == b"RequestTimeout"
        assert (counters.requests, counters.heads_refused) == (2, 1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))
