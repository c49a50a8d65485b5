"""TLS: bytes in both directions, a certificate that is replaced, and clients that do not speak it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from siltstone.errors import ConfigInvalid
from siltstone.s3gw.server import serve_s3
from siltstone.s3gw.tls import Certificate, Tls
from sim.certificates import write_certificate
from sim.objects import SimStore
from sim.randomness import SimRandom
from sim.s3 import KEYS, MAIN, PATIENT, Client, FixedClock, InlineWorkers


class TlsDoor(NamedTuple):
    """A door with TLS."""

    tls: Tls
    files: Certificate
    address: tuple[str, int]

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        """A new connection, with a certificate that is checked."""
        context = ssl.create_default_context(cafile=self.files.chain)
        plain = await trio.open_tcp_stream(*self.address)
        stream = trio.SSLStream(plain, context, server_hostname=self.address[0], https_compatible=True)
        await stream.do_handshake()
        return stream


@asynccontextmanager
async def tls_door(folder: Path) -> AsyncIterator[TlsDoor]:
    files = write_certificate(folder)
    tls = Tls(files)
    clock = FixedClock()
    store = SimStore(clock.now_ns)
    await store.create_bucket("bucket", owner=MAIN.owner)

    async def serve(*, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        await serve_s3(
            store,
            KEYS.get,
            host="127.0.0.1",
            port=0,
            tls=tls,
            clock=clock,
            random=SimRandom(1),
            workers=InlineWorkers(),
            timeouts=PATIENT,
            grace_seconds=1.0,
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve)
        yield TlsDoor(tls, files, address)
        nursery.cancel_scope.cancel()


def serial_of(stream: trio.SSLStream[trio.SocketStream]) -> str:
    found: str = stream.getpeercert()["serialNumber"]
    return found


def test_bodies_of_any_size_go_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        async with tls_door(tmp_path) as door:
            client = Client(await door.connect())  # type: ignore[arg-type]
            for size in (0, 1, 20_000, 70_000, 3_000_000):
                body = bytes(range(251)) * (size // 251 + 1)
                body = body[:size]
                assert (await client.put("/bucket/key", body)).status == 200
                answer = await client.request("GET", "/bucket/key")
                assert (answer.status, answer.body) == (200, body)
            await client.stream.aclose()

    trio.run(main)


def test_new_connections_get_the_new_certificate_and_old_ones_live_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with tls_door(tmp_path) as door:
            stream = await door.connect()
            old, client = serial_of(stream), Client(stream)  # type: ignore[arg-type]
            assert (await client.put("/bucket/key", b"before")).status == 200
            write_certificate(tmp_path)
            assert door.tls.reload() and not door.tls.error
            assert (await client.request("GET", "/bucket/key")).body == b"before"
            fresh = await door.connect()
            assert serial_of(fresh) != old
            for opened in (stream, fresh):
                await opened.aclose()

    trio.run(main)


@pytest.mark.parametrize("wrong", ["no file", "nonsense", "another key"])
def test_a_certificate_that_is_none_is_refused_and_leaves_the_old_one(tmp_path: Path, wrong: str) -> None:
    files = write_certificate(tmp_path)
    tls = Tls(files)
    context = tls.context
    key = Path(files.key).read_bytes()
    if wrong == "no file":
        Path(files.chain).unlink()
    elif wrong == "nonsense":
        Path(files.chain).write_bytes(b"nonsense")
    else:
        write_certificate(tmp_path)
        Path(files.key).write_bytes(key)
    assert not tls.reload()
    assert tls.context is context
    assert files.chain in str(tls.status()["error"])
    with pytest.raises(ConfigInvalid, match=r"chain\.pem"):
        Tls(files)


def test_who_speaks_no_tls_is_let_go_and_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with tls_door(tmp_path) as door:
            async with await trio.open_tcp_stream(*door.address) as plain:
                await plain.send_all(b"GET / HTTP/1.1\r\nHost: s3\r\n\r\n")
                with suppress(trio.BrokenResourceError):
                    while await plain.receive_some():
                        pass
            assert door.tls.status()["failed_handshakes"] == 1
            client = Client(await door.connect())  # type: ignore[arg-type]
            assert (await client.put("/bucket/key", b"x")).status == 200
            await client.stream.aclose()

    trio.run(main)
