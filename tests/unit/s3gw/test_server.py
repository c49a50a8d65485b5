"""The door as a whole: it opens where it says, refuses a busy port, and closes without cutting anyone off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from siltstone.errors import Refused
from siltstone.s3gw import server
from siltstone.s3gw.server import serve_s3
from siltstone.s3gw.sigv4 import UNSIGNED_PAYLOAD
from sim.objects import SimStore
from sim.randomness import SimRandom
from sim.s3 import KEYS, MAIN, PATIENT, Client, FixedClock, InlineWorkers, signed_head, signed_request


class Running:
    """A server in a scope of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.address = ("", 0)
        self.store = SimStore(FixedClock().now_ns)

    async def serve(self, *, port: int = 0, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        running = self

        class Started:
            """Keeps the address."""

            def started(self, value: tuple[str, int] = ("", 0)) -> None:
                running.address = value
                task_status.started()

        with self.scope:
            await serve_s3(
                self.store,
                KEYS.get,
                host="127.0.0.1",
                port=port,
                clock=FixedClock(),
                random=SimRandom(1),
                workers=InlineWorkers(),
                timeouts=PATIENT,
                task_status=Started(),
            )
        self.ended.set()


@asynccontextmanager
async def running_server() -> AsyncIterator[tuple[Running, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        running = Running()
        await nursery.start(running.serve)
        await running.store.create_bucket("bucket", owner=MAIN.owner)
        yield running, nursery
        running.scope.cancel()


def test_the_door_opens_where_it_says_and_serves_many_at_once() -> None:
    async def main() -> None:
        async with running_server() as (running, _nursery):
            streams = [await trio.open_tcp_stream(*running.address) for _ in range(20)]
            for index, stream in enumerate(streams):
                client = Client(stream)
                assert (await client.put(f"/bucket/{index}", b"x")).status == 200
            assert len(running.store.buckets["bucket"].objects) == 20
            for stream in streams:
                await stream.aclose()

    trio.run(main)


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    async def main() -> None:
        async with running_server() as (running, _nursery):
            with pytest.raises(BaseExceptionGroup) as caught:
                async with trio.open_nursery() as other:
                    await other.start(
                        lambda task_status: Running().serve(port=running.address[1], task_status=task_status)
                    )
            (error,) = caught.value.exceptions
            assert isinstance(error, Refused)
            assert "Address already in use" in str(error) and "\n" not in str(error)

    trio.run(main)


def test_closing_lets_a_request_in_flight_end_and_takes_no_more() -> None:
    async def main() -> None:
        async with running_server() as (running, _nursery):
            idle = Client(await trio.open_tcp_stream(*running.address))
            busy = Client(await trio.open_tcp_stream(*running.address))
            head, _ = signed_head("PUT", "/bucket/k", payload=UNSIGNED_PAYLOAD)
            await busy.send(head + b"content-length: 4\r\n\r\nda")
            await trio.testing.wait_all_tasks_blocked()
            running.scope.cancel()
            assert await idle.is_closed()
            with pytest.raises(OSError):
                await trio.open_tcp_stream(*running.address)
            await busy.send(b"ta")
            answer = await busy.receive()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert running.store.get("bucket", b"k")[1] == b"data"
            assert await busy.is_closed()
            await running.ended.wait()
            for client in (idle, busy):
                await client.stream.aclose()

    trio.run(main)


def test_closing_does_not_wait_for_ever() -> None:
    async def main() -> None:
        async with running_server() as (running, _nursery):
            client = Client(await trio.open_tcp_stream(*running.address))
            head, _ = signed_head("PUT", "/bucket/k", payload=UNSIGNED_PAYLOAD)
            await client.send(head + b"content-length: 4\r\n\r\nda")
            await trio.testing.wait_all_tasks_blocked()
            running.scope.cancel()
            await running.ended.wait()
            assert running.store.open_writers == 0
            assert not running.store.buckets["bucket"].objects
            await client.stream.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_an_error_of_ours_is_a_500_that_is_logged_and_the_door_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running_server() as (running, _nursery):
            client = Client(await trio.open_tcp_stream(*running.address))
            del running.store.buckets
            answer = await client.request("GET", "/bucket")
            assert (answer.status, answer.code) == (500, "InternalError")
            running.store.buckets = {}
            await client.send(signed_request("GET", "/"))
            assert (await client.receive()).status == 200
            await client.stream.aclose()

    trio.run(main)
    assert "AttributeError" in caplog.text


def test_many_silent_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running_server() as (running, _nursery):
            busy = Client(await trio.open_tcp_stream(*running.address))
            await busy.send(b"GET /bucket/one HTTP/1.1\r\n")  # in the middle of its head
            silent = [await trio.open_tcp_stream(*running.address) for _ in range(30)]
            client = Client(await trio.open_tcp_stream(*running.address))
            assert (await client.put("/bucket/key", b"x")).status == 200
            await busy.send(b"host: s3\r\n\r\n")
            assert (await busy.receive()).status == 403
            for stream in [*silent, client.stream, busy.stream]:
                await stream.aclose()

    monkeypatch.setattr(server, "CONNECTIONS_MAX", 10)
    trio.run(main)
