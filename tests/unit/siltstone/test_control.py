"""The control socket: requests are answered or refused, progress arrives, who hangs up cancels."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from siltstone.control import Handler, NoOwner, request, serve_control
from siltstone.core.types import Progress
from siltstone.errors import Corrupt, NotFound, Refused, StripeUnreadable
from siltstone.home import Home


def while_served(home: Home, handler: Handler, client: Callable[[], Any]) -> Any:
    """What the blocking ``client`` returns while ``handler`` answers."""

    async def main() -> Any:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, home, handler)
            result = await trio.to_thread.run_sync(client)
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main)


async def echo(operation: str, arguments: Mapping[str, Any], report: Callable[[Progress], None]) -> object:
    if operation == "refuse":
        raise NotFound("there is no such thing")
    if operation == "corrupt":
        raise StripeUnreadable("stripe 7 is gone")
    if operation == "work":
        report(Progress(1, 2, "steps"))
    return [operation, dict(arguments)]


def test_a_request_is_answered_with_what_the_handler_returns(tmp_path: Path) -> None:
    home = Home(tmp_path)
    answer = while_served(home, echo, lambda: request(home, "settle", {"deep": True, "name": "ä"}))
    assert answer == ["settle", {"deep": True, "name": "ä"}]


def test_an_error_arrives_as_its_kind_with_its_words(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def client() -> None:
        with pytest.raises(Refused, match="there is no such thing"):
            request(home, "refuse")
        with pytest.raises(Corrupt, match="stripe 7"):
            request(home, "corrupt")

    while_served(home, echo, client)


def test_progress_arrives_before_the_result(tmp_path: Path) -> None:
    home = Home(tmp_path)
    seen: list[Progress] = []
    assert while_served(home, echo, lambda: request(home, "work", report=seen.append)) == ["work", {}]
    assert seen == [Progress(1, 2, "steps")]


def test_only_the_owner_of_the_socket_may_open_it_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    home = Home(tmp_path)
    mode = while_served(home, echo, lambda: home.control_socket.stat().st_mode)
    assert mode & 0o777 == 0o600
    assert not home.control_socket.exists()


def test_without_an_owner_the_client_says_so_also_where_a_dead_one_left_its_socket(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NoOwner):
        request(home, "status")
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(home.control_socket))
    with pytest.raises(NoOwner):
        request(home, "status")
    assert while_served(home, echo, lambda: request(home, "status")) == ["status", {}]


def test_a_home_with_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    assert while_served(Home(deep), echo, lambda: request(Home(deep), "status")) == ["status", {}]


@pytest.mark.parametrize("line", [b"\n", b"status\n", b"[]\n", b"\xff\n", b'{"operation": 1}\n', b'{"x": 1}\n'])
def test_what_is_not_a_request_is_refused_and_the_owner_lives_on(tmp_path: Path, line: bytes) -> None:
    home = Home(tmp_path)

    def client() -> object:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(home.control_socket))
            connection.sendall(line)
            assert b"not a request" in connection.recv(4096)
        return request(home, "status")

    assert while_served(home, echo, client) == ["status", {}]


def test_a_client_that_hangs_up_cancels_its_operation(tmp_path: Path) -> None:
    home = Home(tmp_path)
    outcome: list[str] = []

    async def main() -> None:
        begun, ended = trio.Event(), trio.Event()

        def handler(operation: str, arguments: Mapping[str, Any], report: object) -> Awaitable[object]:
            async def work() -> None:
                begun.set()
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    outcome.append("cancelled")
                    raise
                finally:
                    ended.set()

            return work()

        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, home, handler)
            stream = await trio.open_unix_socket(str(home.control_socket))
            await stream.send_all(b'{"operation": "settle"}\n')
            await begun.wait()
            await stream.aclose()
            await ended.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert outcome == ["cancelled"]


@pytest.mark.parametrize("is_telling", [False, True])
def test_a_client_that_is_gone_when_its_answer_comes_disturbs_nobody(tmp_path: Path, is_telling: bool) -> None:
    """Nor one that goes while it is told of the progress."""
    home = Home(tmp_path)

    async def main() -> object:
        clients: list[trio.SocketStream] = []
        gone = trio.Event()

        async def handler(operation: str, arguments: Mapping[str, Any], report: Callable[[Progress], None]) -> object:
            if clients:
                clients.pop().socket.close()  # nobody has noticed yet when the answer is sent
                gone.set()
                if is_telling:
                    report(Progress(1, 2, "steps"))
            return operation

        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, home, handler)
            clients.append(await trio.open_unix_socket(str(home.control_socket)))
            await clients[0].send_all(b'{"operation": "go"}\n')
            await gone.wait()
            answer = await trio.to_thread.run_sync(request, home, "status")
            nursery.cancel_scope.cancel()
        return answer

    assert [trio.run(main) for _ in range(20)] == ["status"] * 20


def test_an_answer_that_is_there_arrives_even_if_it_ends_the_owner(tmp_path: Path) -> None:
    home = Home(tmp_path)

    async def main() -> Any:
        stopping = trio.Event()

        async def stop(operation: str, arguments: Mapping[str, Any], report: Callable[[Progress], None]) -> object:
            stopping.set()
            return "stopping"

        async with trio.open_nursery() as clients:
            results: list[Any] = []

            async def ask() -> None:
                results.append(await trio.to_thread.run_sync(request, home, "stop"))

            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, home, stop)
                clients.start_soon(ask)
                await stopping.wait()
                nursery.cancel_scope.cancel()
        return results

    for _ in range(30):
        assert trio.run(main) == ["stopping"]
