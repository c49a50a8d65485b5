"""A signing S3 client on a plain socket, in the loop of the server: says exactly the bytes that a test wants said."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

import trio
import trio.testing

from siltstone.core.object_store import ObjectStore
from siltstone.s3gw.connection import Connection, Timeouts
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.gateway import Gateway
from siltstone.s3gw.policy import Policy
from siltstone.s3gw.sigv4 import Verified, sign, signing_key
from siltstone.s3gw.store import Store
from siltstone.s3gw.xml import Node, parse
from sim.objects import SimStore
from sim.randomness import SimRandom
from sim.volume import SimVolume, small_config

T = TypeVar("T")

REGION = "us-east-1"
HOST = "s3.test"
START_NS = 1_741_944_413_000_000_000
PATIENT = Timeouts(idle=1e6, head=1e6, transfer=1e6)


@dataclass(frozen=True)
class Key:
    """An access key."""

    access: str
    secret: str
    owner: str
    display_name: str
    policy: Policy | None = None


MAIN = Key("AKMAIN", "main-secret", "main-id", "Main")
ALT = Key("AKALT", "alt-secret", "alt-id", "Alt")
KEYS = {key.access: key for key in (MAIN, ALT)}


class FixedClock:
    """A wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time_ns = START_NS

    def now_ns(self) -> int:
        """The time that was set; every reading is a millisecond later, so that times differ."""
        self.time_ns += 1_000_000
        return self.time_ns

    def monotonic_ns(self) -> int:
        """The same."""
        return self.time_ns

    async def sleep(self, seconds: float) -> None:
        """Not needed."""
        raise AssertionError("the door sleeps by the loop's clock")


class InlineWorkers:
    """Work done where it is asked for, with a checkpoint as a thread would have."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Call it."""
        await trio.lowlevel.checkpoint()
        return function(*args)


@dataclass
class Answer:
    """A reply. ``interim`` are the 1xx status codes that came before it."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: list[int] = field(default_factory=list)

    @property
    def xml(self) -> Node:
        """The body as XML."""
        return parse(self.body)

    @property
    def code(self) -> str:
        """The code of an error reply, "" for another."""
        return (self.xml.text_of("Code") or "") if self.status >= 400 and self.body else ""


def signed_head(
    method: str,
    path: str,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    *,
    payload: str,
    key: Key = MAIN,
    at_ns: int = START_NS,
) -> tuple[bytes, Verified]:
    """A request's head without its last line end, signed; and what its signature goes on with."""
    timestamp = iso_date(at_ns)[:19].replace("-", "").replace(":", "") + "Z"
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    sent |= {"host": HOST, "x-amz-date": timestamp, "x-amz-content-sha256": payload}
    names = sorted(sent)
    scope = f"{timestamp[:8]}/{REGION}/s3/aws4_request"
    canonical_query = "&".join(sorted(part if "=" in part else part + "=" for part in query.split("&") if part))
    lines = "".join(f"{name}:{sent[name]}\n" for name in names)
    request = f"{method}\n{path}\n{canonical_query}\n{lines}\n{';'.join(names)}\n{payload}"
    day_key = signing_key(key.secret, timestamp[:8], REGION)
    signature = sign(day_key, timestamp, scope, request.encode("latin-1"))
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.access}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    target = path + ("?" + query if query else "")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return head.encode("latin-1"), Verified(key, payload, signature, day_key, timestamp, scope)


def signed_request(
    method: str,
    path: str,
    query: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    key: Key = MAIN,
    at_ns: int = START_NS,
    payload: str | None = None,
) -> bytes:
    """A whole request with Content-Length."""
    head, _ = signed_head(
        method,
        path,
        query,
        headers,
        payload=hashlib.sha256(body).hexdigest() if payload is None else payload,
        key=key,
        at_ns=at_ns,
    )
    return head + f"content-length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """One connection to a server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def send(self, data: bytes) -> None:
        """Say bytes."""
        await self.stream.send_all(data)

    async def receive_head(self) -> tuple[int, dict[str, str]]:
        """A status and its headers. Raises EOFError when the connection ends before."""
        while b"\r\n\r\n" not in self._rest:
            more = await self.stream.receive_some()
            if not more:
                raise EOFError(self._rest)
            self._rest += more
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split(" ")[1]), headers

    async def receive(self, *, with_body: bool = True) -> Answer:
        """The next reply."""
        interim = []
        status, headers = await self.receive_head()
        while status < 200:
            interim.append(status)
            status, headers = await self.receive_head()
        size = int(headers.get("content-length", "0")) if with_body else 0
        while len(self._rest) < size:
            more = await self.stream.receive_some()
            if not more:
                raise EOFError(f"{len(self._rest)} of {size} bytes")
            self._rest += more
        body, self._rest = self._rest[:size], self._rest[size:]
        return Answer(status, headers, body, interim)

    async def is_closed(self) -> bool:
        """Wait for what comes next; true when it is the end of the connection, with nothing before it."""
        return not self._rest and not await self.stream.receive_some()

    async def request(
        self,
        method: str,
        path: str,
        query: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        key: Key = MAIN,
        at_ns: int = START_NS,
        payload: str | None = None,
    ) -> Answer:
        """Sign and send a request, take the reply."""
        await self.send(
            signed_request(method, path, query, headers=headers, body=body, key=key, at_ns=at_ns, payload=payload)
        )
        return await self.receive(with_body=method != "HEAD")

    async def put(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        """PUT; an underscore in a header's name stands for a dash."""
        return await self.request(
            "PUT", path, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=body
        )


@dataclass
class Door:
    """A gateway over a store in memory, and how to connect to it."""

    store: Store
    clock: FixedClock
    gateway: Gateway
    nursery: trio.Nursery
    clients: list[Client] = field(default_factory=list)

    @property
    def memory(self) -> SimStore:
        """The store, which must be the one in memory: its faults can be set."""
        assert isinstance(self.store, SimStore)
        return self.store

    async def keys(self) -> list[bytes]:
        """The keys of the bucket ``bucket``."""
        listing = await self.store.list_keys("bucket", prefix=b"", delimiter=b"", start_after=b"", limit=1000)
        return [info.key for info in listing.entries]

    async def connect(self) -> Client:
        """A new connection."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)

        async def serve() -> None:
            with theirs:
                gateway = self.gateway
                await Connection(theirs, gateway.respond, gateway.refuse, gateway.common_headers, PATIENT).run()

        self.nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self.clients.append(client)
        return client


@contextlib.asynccontextmanager
async def open_door(store: Store | None = None, *, region: str = REGION) -> AsyncIterator[tuple[Door, Client]]:
    """A door with a bucket ``bucket`` of MAIN, and a client of it; without ``store`` over one in memory."""
    clock = FixedClock()
    if store is None:
        store = SimStore(clock.now_ns)
    gateway = Gateway(
        store,
        KEYS.get,
        clock=clock,
        random=SimRandom(1),
        workers=InlineWorkers(),
        region=region,
    )
    async with trio.open_nursery() as nursery:
        door = Door(store, clock, gateway, nursery)
        await store.create_bucket("bucket", owner=MAIN.owner)
        client = await door.connect()
        try:
            yield door, client
        finally:
            for opened in door.clients:
                opened.stream.socket.close()
            nursery.cancel_scope.cancel()
    if isinstance(store, SimStore):
        assert store.open_readers == 0, "a reader was not closed"
        assert store.open_writers == 0, "a writer was neither committed nor aborted"


Body = Callable[[Door, Client], Awaitable[None]]


def run_in_memory(body: Body, *, region: str = REGION) -> None:
    """Run with a door over a store in memory."""

    async def main() -> None:
        async with open_door(region=region) as (door, client):
            await body(door, client)

    trio.run(main)


def run_on_each_store(body: Body) -> None:
    """Run with a door over a store in memory, and again over the core's with simulated disks."""
    run_in_memory(body)
    run_on_core(body)


def run_on_core(body: Body) -> None:
    """Run with a door over the core's store with simulated disks: the one in memory knows no versions."""

    async def main() -> None:
        volume = SimVolume(small_config())
        await volume.create()
        async with volume.opened() as opened, open_door(ObjectStore(opened)) as (door, client):
            await body(door, client)

    trio.run(main)


def object_path(key: bytes) -> str:
    """The path of a key in the bucket, encoded."""
    return "/bucket/" + quote(key, safe="/-_.~")
