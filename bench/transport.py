"""What do requests between two processes cost on a local socket: rates, latency, processor time?

The server answers each request with as many bytes as it got; the client keeps 1 or 64 requests in flight. Candidates:
`link` (meta/shards/link.py and service.py: trio's own Unix sockets, numbered frames), `pynng` (a pair0 socket of pynng,
the same numbers before each message), `zmq` (DEALER and ROUTER of pyzmq, whose descriptor trio waits for). The floor is
`plain`: blocking sockets, one request after the other. `ratio` is the rate over that of `plain` with one in flight. The
candidates but `link` and `plain` are run where they are installed. `--quick`: a tenth; `--json`: one object on stdout.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import resource
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import trio

from siltstone.engine.disk.system import SystemClock
from siltstone.errors import Unavailable
from siltstone.meta.shards.link import Link
from siltstone.meta.shards.service import serve

SMALL_BYTES = 120
LARGE_BYTES = 1 << 20
SETTINGS = [(SMALL_BYTES, 1, 20_000), (SMALL_BYTES, 64, 100_000), (LARGE_BYTES, 1, 600), (LARGE_BYTES, 8, 1_500)]
"""Bytes of a request and of its answer, requests in flight, how many in all."""

_NUMBER = struct.Struct("<Q")

Call = Callable[[bytes], Awaitable[object]]
Work = Callable[[Call], Awaitable[None]]


# --- plain: the floor -----------------------------------------------------------------------------------------------


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes, or nothing at the end."""
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        received = connection.recv_into(view[at:])
        if not received:
            return b""
        at += received
    return bytes(data)


def plain_server(path: str) -> None:
    """Answer on a blocking socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        connection, _ = listening.accept()
        while header := receive_exactly(connection, 8):
            connection.sendall(header + receive_exactly(connection, _NUMBER.unpack(header)[0]))


async def plain_client(path: str, work: Work) -> None:
    """Ask on a blocking socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)

        async def call(payload: bytes) -> None:
            connection.sendall(_NUMBER.pack(len(payload)) + payload)
            receive_exactly(connection, _NUMBER.unpack(receive_exactly(connection, 8))[0])

        await work(call)


# --- link -----------------------------------------------------------------------------------------------------------


async def echo(payload: bytes) -> bytes:
    """The work of the server: none."""
    return payload


def link_server(path: str) -> None:
    """Answer as a shard does."""

    async def main() -> None:
        listening = trio.socket.socket(socket.AF_UNIX)
        await listening.bind(path)
        listening.listen()
        await trio.serve_listeners(partial(serve, handler=echo), [trio.SocketListener(listening)])

    trio.run(main)


async def link_client(path: str, work: Work) -> None:
    """Ask as a shard does."""

    async def connect() -> trio.SocketStream:
        try:
            return await trio.open_unix_socket(path)
        except OSError as error:
            raise Unavailable(str(error)) from error

    link = Link("the server", connect, SystemClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.wait_connected()
        await work(link.call)
        nursery.cancel_scope.cancel()


# --- what others have -----------------------------------------------------------------------------------------------


def pynng_server(path: str) -> None:
    """Answer on a pair0 socket."""
    pynng = importlib.import_module("pynng")

    async def main() -> None:
        with pynng.Pair0(listen=f"ipc://{path}", recv_max_size=0, recv_buffer_size=128, send_buffer_size=128) as pair:
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(pair.asend, await pair.arecv())

    trio.run(main)


class Waiters:
    """Callers that wait for the answer with their number."""

    def __init__(self) -> None:
        self._tasks: dict[int, trio.lowlevel.Task] = {}
        self._number = 0

    def number(self) -> bytes:
        """A new one, for the caller."""
        self._number += 1
        self._tasks[self._number] = trio.lowlevel.current_task()
        return _NUMBER.pack(self._number)

    def answered(self, message: bytes) -> None:
        """Wake the caller."""
        trio.lowlevel.reschedule(self._tasks.pop(_NUMBER.unpack_from(message)[0]))


async def wait_answer() -> None:
    """Until the answer has come."""
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


async def pynng_client(path: str, work: Work) -> None:
    """Ask on a pair0 socket."""
    pynng = importlib.import_module("pynng")
    waiters = Waiters()
    with pynng.Pair0(dial=f"ipc://{path}", recv_max_size=0, recv_buffer_size=128, send_buffer_size=128) as pair:

        async def receive() -> None:
            while True:
                waiters.answered(await pair.arecv())

        async def send(outgoing: trio.MemoryReceiveChannel[bytes]) -> None:
            async for message in outgoing:
                await pair.asend(message)

        async with trio.open_nursery() as nursery:
            outbox, outgoing = trio.open_memory_channel[bytes](1000)
            nursery.start_soon(receive)
            nursery.start_soon(send, outgoing)

            async def call(payload: bytes) -> None:
                outbox.send_nowait(waiters.number() + payload)
                await wait_answer()

            await work(call)
            nursery.cancel_scope.cancel()


def zmq_server(path: str) -> None:
    """Answer on a ROUTER socket."""
    zmq = importlib.import_module("zmq")

    async def main() -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.bind(f"ipc://{path}")
        outgoing: list[Any] = []
        await pump_zmq(zmq, router, outgoing, outgoing.append)

    trio.run(main)


async def pump_zmq(zmq: Any, zmq_socket: Any, outgoing: list[Any], received: Callable[[Any], None]) -> None:
    """Receive and send for ever; the descriptor tells only of changes, so all is done before it is waited for."""
    descriptor = zmq_socket.getsockopt(zmq.FD)
    while True:
        busy = False
        for _ in range(64):
            try:
                received(zmq_socket.recv_multipart(zmq.NOBLOCK))
                busy = True
            except zmq.Again:
                break
        sending = outgoing[:]
        outgoing.clear()
        for message in sending:
            zmq_socket.send_multipart(message)
        if busy or sending:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_after(0.0002):  # what is put in meanwhile is noticed then: good enough to compare
                await trio.lowlevel.wait_readable(descriptor)


async def zmq_client(path: str, work: Work) -> None:
    """Ask on a DEALER socket."""
    zmq = importlib.import_module("zmq")
    waiters, outgoing = Waiters(), list[Any]()
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"ipc://{path}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump_zmq, zmq, dealer, outgoing, lambda message: waiters.answered(message[0]))

        async def call(payload: bytes) -> None:
            outgoing.append([waiters.number(), payload])
            await wait_answer()

        await work(call)
        nursery.cancel_scope.cancel()


CANDIDATES: dict[str, tuple[Callable[[str], None], Callable[[str, Work], Awaitable[None]]]] = {
    "plain": (plain_server, plain_client),
    "link": (link_server, link_client),
    "pynng": (pynng_server, pynng_client),
    "zmq": (zmq_server, zmq_client),
}


# --- measuring ------------------------------------------------------------------------------------------------------


def processor_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, size: int, in_flight: int, count: int) -> dict[str, Any]:
    """One candidate under one setting, in two new processes."""
    run_server, run_client = CANDIDATES[name]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        server = get_context("spawn").Process(target=run_server, args=(path,), daemon=True)
        server.start()
        while not os.path.exists(path):
            time.sleep(0.01)
        pid = server.pid
        assert pid is not None

        async def work(call: Call) -> None:
            payload, delays = bytes(size), list[float]()
            for _ in range(10):
                await call(payload)
            server_before, own_before = processor_seconds(pid), own_seconds()
            begin = time.perf_counter()

            async def ask(requests: int) -> None:
                for _ in range(requests):
                    asked = time.perf_counter()
                    await call(payload)
                    delays.append(time.perf_counter() - asked)

            async with trio.open_nursery() as nursery:
                for _ in range(in_flight):
                    nursery.start_soon(ask, count // in_flight)
            seconds = time.perf_counter() - begin
            delays.sort()
            done = len(delays)
            result.update(
                transport=name,
                size_bytes=size,
                in_flight=in_flight,
                requests_per_second=done / seconds,
                p50_us=delays[done // 2] * 1e6,
                p99_us=delays[done * 99 // 100] * 1e6,
                client_us=(own_seconds() - own_before) / done * 1e6,
                server_us=(processor_seconds(pid) - server_before) / done * 1e6,
            )

        trio.run(run_client, path, work)
        server.kill()
        server.join()
    return result


def own_seconds() -> float:
    """Processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    names = [name for name in CANDIDATES if name in ("plain", "link") or importlib.util.find_spec(name)]
    results: list[dict[str, Any]] = []
    for size, in_flight, count in SETTINGS:
        floor = 0.0
        for name in names:
            shown_in_flight = 1 if name == "plain" else in_flight
            result = measure(name, size, shown_in_flight, count // 10 if options.quick else count)
            floor = floor or result["requests_per_second"]
            results.append(result | {"in_flight": in_flight, "ratio": result["requests_per_second"] / floor})
            if not options.json:
                print(
                    f"{name:6} {size:>9,} bytes, {in_flight:>2} in flight: {result['requests_per_second']:>7,.0f}/s, "
                    f"ratio {results[-1]['ratio']:.2f}, p50 {result['p50_us']:,.0f} us, p99 {result['p99_us']:,.0f}; "
                    f"processor: client {result['client_us']:,.0f} us, server {result['server_us']:,.0f} us"
                )
    if options.json:
        json.dump({"bench": "transport", "results": results}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
