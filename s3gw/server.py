"""The door itself: listens, hands each connection to its task, and stops in order."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import socket
from collections.abc import Sequence
from functools import partial

import trio

from siltstone.errors import Refused, SiltstoneError
from siltstone.ports import Clock, Random, Workers
from siltstone.s3gw.acl import Users
from siltstone.s3gw.connection import DEFAULT_TIMEOUTS, Connection, Timeouts
from siltstone.s3gw.counters import Counters
from siltstone.s3gw.encryption import ServerKey
from siltstone.s3gw.gateway import NO_USERS, Gateway
from siltstone.s3gw.lifecycle_rules import REAL_DAYS, Calendar
from siltstone.s3gw.sigv4 import Lookup
from siltstone.s3gw.store import Store
from siltstone.s3gw.tls import Tls, TlsSocket

log = logging.getLogger("siltstone.s3gw")

BACKLOG = 1024
CONNECTIONS_MAX = 4096
"""When there are so many, one that is idle is closed for one that comes; where none is idle those wait in the backlog
of the listening socket."""

GRACE_SECONDS = 5.0
"""What requests in flight get to end when the door closes."""

ACCEPT_RETRY_SECONDS = 0.1
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


async def serve_s3(
    store: Store,
    lookup: Lookup,
    *,
    host: str,
    port: int,
    shares_port: bool = False,
    clock: Clock,
    workers: Workers,
    random: Random,
    region: str = "us-east-1",
    domains: Sequence[str] = (),
    tls: Tls | None = None,
    users: Users = NO_USERS,
    server: ServerKey = NO_USERS,
    calendar: Calendar = REAL_DAYS,
    counters: Counters | None = None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    grace_seconds: float = GRACE_SECONDS,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve S3 until cancelled; reports (host, port) when connections are taken.

    ``shares_port``: other processes listen there as well, and the kernel deals out the connections. ``domains``:
    buckets are also names under them in the host. ``tls``: connections are encrypted. ``calendar``: how long days of
    lifecycle rules are.

    When cancelled, no more connections are taken, those that are idle are closed, and requests in flight get
    ``grace_seconds``. Raises Refused when the address cannot be listened at.
    """
    gateway = Gateway(
        store,
        lookup,
        clock=clock,
        workers=workers,
        random=random,
        region=region,
        domains=domains,
        users=users,
        server=server,
        calendar=calendar,
        is_secure=tls is not None,
        counters=counters,
    )
    listeners = await listen(host, port, shares_port=shares_port)
    door = _Door(gateway, timeouts, tls)
    try:
        async with trio.open_nursery() as nursery:
            connections = await nursery.start(door.run)
            nursery.start_soon(gateway.access_log.run)
            try:
                address = listeners[0].getsockname()
                task_status.started((address[0], address[1]))
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(door.accept, listener, connections)
            finally:
                for listener in listeners:
                    listener.close()
                door.stop(grace_seconds)
    finally:
        for listener in listeners:
            listener.close()
        with trio.CancelScope(shield=True), trio.move_on_after(grace_seconds):
            await gateway.access_log.deliver(math.inf)


async def listen(host: str, port: int, *, shares_port: bool = False) -> list[trio.socket.SocketType]:
    """Sockets that listen at an address; of several that a name stands for, at each. Raises Refused."""
    try:
        if shares_port:
            sockets = await _bind(host, port, socket.SO_REUSEPORT)
            for shared in sockets:
                shared.listen(BACKLOG)
            return sockets
        listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error
    return [listener.socket for listener in listeners]


async def reserve(host: str, port: int) -> list[trio.socket.SocketType]:
    """Sockets that keep an address for those that share it, and listen to nothing. Raises Refused, also when others
    share it already: the kernel would deal out connections to them as well."""
    try:
        for alone in await _bind(host, port, socket.SO_REUSEADDR):
            alone.close()
        return await _bind(host, port, socket.SO_REUSEPORT)
    except OSError as error:
        raise _refused(host, port, error) from error


async def _bind(host: str, port: int, option: int) -> list[trio.socket.SocketType]:
    """A socket at each address that a name stands for, at the same port."""
    found = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[trio.socket.SocketType] = []
    try:
        for family, kind, protocol, _, address in found:
            made = trio.socket.socket(family, kind, protocol)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await made.bind((address[0], port, *address[2:]))
            port = made.getsockname()[1]
    except BaseException:
        for made in sockets:
            made.close()
        raise
    return sockets


def _refused(host: str, port: int, error: OSError) -> Refused:
    return Refused(f"cannot listen at {host or '*'}:{port} for S3: {error.strerror or error}")


class _Door:
    """The connections that are open. They live in a scope that the cancellation of the server does not reach."""

    def __init__(self, gateway: Gateway, timeouts: Timeouts, tls: Tls | None) -> None:
        self._gateway = gateway
        self._tls = tls
        self._timeouts = timeouts
        self._open: dict[Connection, None] = {}
        """In the order in which they came."""
        self._places = trio.Semaphore(CONNECTIONS_MAX)
        self._scope = trio.CancelScope(shield=True)
        self._stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Hold the connections until ``stop``, and until they have ended."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await self._stopped.wait()

    def stop(self, grace_seconds: float) -> None:
        """Take leave of every connection."""
        self._stopped.set()
        self._scope.deadline = trio.current_time() + grace_seconds if grace_seconds < math.inf else math.inf
        for connection in list(self._open):
            connection.stop()

    async def accept(self, listener: trio.socket.SocketType, connections: trio.Nursery) -> None:
        """Take connections for ever."""
        while True:
            try:
                self._places.acquire_nowait()
            except trio.WouldBlock:
                self._close_an_idle_one()
                await self._places.acquire()
            try:
                client, _ = await listener.accept()
            except OSError as error:
                self._places.release()
                if error.errno not in _FULL:
                    continue  # the client was gone before we got to it
                self._gateway.counters.connections_refused += 1
                log.error("cannot take a connection: %s", error.strerror)
                await trio.sleep(ACCEPT_RETRY_SECONDS)
            except BaseException:
                self._places.release()
                raise
            else:
                connections.start_soon(self._serve, client)

    def _close_an_idle_one(self) -> None:
        """Have a connection that asks for nothing make room, the oldest: whoever opens many and is silent keeps nobody
        else out."""
        for connection in self._open:
            if connection.is_idle:
                connection.stop()
                return

    async def _serve(self, accepted: trio.socket.SocketType) -> None:
        client = socket.socket(fileno=accepted.detach())
        counters = self._gateway.counters
        counters.connections_taken += 1
        counters.connections += 1
        try:
            client.setblocking(False)
            with contextlib.suppress(OSError):  # gone already
                await self._serve_client(client, str(client.getpeername()[0]))
        finally:
            client.close()
            counters.connections -= 1
            self._places.release()

    async def _serve_client(self, client: socket.socket, peer: str) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spoken: socket.socket | TlsSocket = client
        if self._tls is not None:
            agreed = await self._tls.accept(client)
            if agreed is None or self._stopped.is_set():
                return
            spoken = agreed
        gateway = self._gateway
        respond = partial(gateway.respond, peer=peer)
        connection = Connection(
            spoken, respond, gateway.refuse, gateway.common_headers, self._timeouts, gateway.counters
        )
        self._open[connection] = None
        try:
            await connection.run()
            if isinstance(spoken, TlsSocket):
                spoken.end()
        except SiltstoneError as error:
            gateway.counters.replies_broken += 1
            log.warning("a reply was broken off: %s", error)
        except Exception:
            log.exception("a connection ended in the middle of a reply")
        finally:
            del self._open[connection]
            spoken.close()
