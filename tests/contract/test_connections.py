"""Requests over a connection: link.py and service.py over real sockets and over memory streams alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from siltstone.engine.disk.system import SystemClock
from siltstone.errors import Unavailable
from siltstone.meta.shards.frames import PAYLOAD_BYTES_MAX, pack_header
from siltstone.meta.shards.link import REQUESTS_MAX, Link
from siltstone.meta.shards.messages import PeerLost
from siltstone.meta.shards.service import Handler, serve
from siltstone.sockets import connect_to, listen_at


class Side:
    """A server that can be stopped and started, and the way to it."""

    def __init__(self) -> None:
        self.scope: trio.CancelScope | None = None
        self.connections = 0

    async def start(self, nursery: trio.Nursery, handler: Handler) -> None:
        """Serve."""
        raise NotImplementedError

    async def connect(self) -> trio.abc.Stream:
        """Open a stream to the server. Raises Unavailable."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it and all its connections, as the death of its process does."""
        assert self.scope is not None
        self.scope.cancel()
        self.scope = None


class SocketSide(Side):
    """Over Unix sockets."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "socket"

    async def start(self, nursery: trio.Nursery, handler: Handler) -> None:
        async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                listener = listen_at(self._path)
                async with listener:
                    task_status.started(scope)

                    async def answer(stream: trio.SocketStream) -> None:
                        await serve(stream, handler)

                    await trio.serve_listeners(answer, [listener])

        self.scope = await nursery.start(run)

    async def connect(self) -> trio.abc.Stream:
        self.connections += 1
        return await connect_to(self._path)


class MemorySide(Side):
    """Over memory streams."""

    def __init__(self) -> None:
        super().__init__()
        self._nursery: trio.Nursery | None = None
        self._handler: Handler | None = None

    async def start(self, nursery: trio.Nursery, handler: Handler) -> None:
        async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            async with trio.open_nursery() as inner:
                self._nursery, self._handler = inner, handler
                task_status.started(inner.cancel_scope)
                await trio.sleep_forever()

        self.scope = await nursery.start(run)

    async def connect(self) -> trio.abc.Stream:
        self.connections += 1
        if self.scope is None or self._nursery is None or self._handler is None:
            raise Unavailable("nobody listens")
        near, far = memory_stream_pair()
        self._nursery.start_soon(serve, far, self._handler)
        await trio.lowlevel.checkpoint()
        return near


@pytest.fixture(params=["sockets", "memory"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Side:
    return SocketSide(tmp_path) if request.param == "sockets" else MemorySide()


def converse(side: Side, handler: Handler, client: Callable[[Link, trio.Nursery], Awaitable[None]]) -> None:
    """Run a client while the handler serves."""

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await side.start(nursery, handler)
                link = Link("shard 3", side.connect, SystemClock())
                nursery.start_soon(link.run)
                await link.wait_connected()
                await client(link, nursery)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def echo(payload: bytes) -> bytes:
    return payload


def test_each_gets_its_own_answer_in_whatever_order_they_are_ready(side: Side) -> None:
    ended: list[bytes] = []
    rest_ended = trio.Event()

    async def handler(payload: bytes) -> bytes:
        if payload == b"0":
            await rest_ended.wait()
        ended.append(payload)
        if len(ended) == 99:
            rest_ended.set()
        return b"answer " + payload

    async def client(link: Link, nursery: trio.Nursery) -> None:
        async def ask(number: int) -> None:
            assert await link.call(b"%d" % number) == b"answer %d" % number

        async with trio.open_nursery() as asking:
            for number in range(100):
                asking.start_soon(ask, number)
        assert ended[-1] == b"0"
        assert side.connections == 1

    converse(side, handler, client)


def test_payloads_of_every_size_arrive_whole_both_ways(side: Side) -> None:
    async def client(link: Link, nursery: trio.Nursery) -> None:
        async def ask(size: int) -> None:
            payload = (b"%d " % size * (size // 2 + 1))[:size]
            assert await link.call(payload) == payload

        async with trio.open_nursery() as asking:
            for size in (0, 1, 7, 8, 9, 4096, 300_000, 1 << 20, PAYLOAD_BYTES_MAX):
                asking.start_soon(ask, size)

    converse(side, echo, client)


def test_a_connection_that_breaks_is_told_and_made_again(side: Side) -> None:
    async def stuck(payload: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def client(link: Link, nursery: trio.Nursery) -> None:
        lost: list[str] = []

        async def ask() -> None:
            with pytest.raises(PeerLost) as caught:
                await link.call(b"anything")
            lost.append(str(caught.value))

        async with trio.open_nursery() as asking:
            for _ in range(5):
                asking.start_soon(ask)
            await trio.sleep(0.02)
            side.stop()
        assert len(lost) == 5
        assert lost[0].startswith("the connection to shard 3 broke")
        with pytest.raises(PeerLost, match="shard 3 is away: "):
            await link.call(b"while it is away")
        await side.start(nursery, echo)
        await link.wait_connected()
        assert await link.call(b"again") == b"again"

    converse(side, stuck, client)


def test_who_gives_up_waiting_leaves_the_connection_as_it_was(side: Side) -> None:
    go = trio.Event()
    carried_out: list[bytes] = []

    async def handler(payload: bytes) -> bytes:
        if payload == b"slow":
            await go.wait()
        carried_out.append(payload)
        return payload

    async def client(link: Link, nursery: trio.Nursery) -> None:
        with trio.move_on_after(0.02):
            await link.call(b"slow")
        go.set()
        assert await link.call(b"next") == b"next"
        assert await link.call(b"last") == b"last"
        assert carried_out[0] == b"slow", "a request that was sent is carried out"

    converse(side, handler, client)


def test_more_than_may_be_under_way_waits_and_goes_on(side: Side) -> None:
    begun = most = 0
    go, full = trio.Event(), trio.Event()

    async def handler(payload: bytes) -> bytes:
        nonlocal begun, most
        begun += 1
        most = max(most, begun)
        if begun == REQUESTS_MAX:
            full.set()
        await go.wait()
        begun -= 1
        return payload

    async def client(link: Link, nursery: trio.Nursery) -> None:
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await link.call(b"x"))

        async with trio.open_nursery() as asking:
            for _ in range(REQUESTS_MAX + 50):
                asking.start_soon(ask)
            await full.wait()
            await trio.sleep(0.02)
            assert most == REQUESTS_MAX
            go.set()
        assert len(answers) == REQUESTS_MAX + 50

    converse(side, handler, client)


def test_who_does_not_read_the_answers_keeps_nobody_else_waiting(side: Side) -> None:
    handled = 0
    full = trio.Event()

    async def handler(payload: bytes) -> bytes:
        nonlocal handled
        handled += 1
        if handled == REQUESTS_MAX:
            full.set()
        return bytes(1 << 20)

    async def client(link: Link, nursery: trio.Nursery) -> None:
        lazy = await side.connect()
        requests = b"".join(pack_header(0, number) for number in range(5000))

        async def send() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:  # until it is closed: a stream in memory takes everything at once
                    await lazy.send_all(requests)
                    await trio.sleep(0.001)

        nursery.start_soon(send)
        await full.wait()
        await trio.sleep(0.05)
        assert handled < 2 * REQUESTS_MAX, "no more is taken on than may be under way"
        assert len(await link.call(b"")) == 1 << 20
        await lazy.aclose()

    converse(side, handler, client)


def test_nonsense_ends_only_the_connection_that_it_comes_on(side: Side) -> None:
    async def client(link: Link, nursery: trio.Nursery) -> None:
        async with await side.connect() as mad:
            await mad.send_all(pack_header(PAYLOAD_BYTES_MAX + 1, 1))
            assert await mad.receive_some(1) == b""
        assert await link.call(b"still here") == b"still here"

    converse(side, echo, client)
