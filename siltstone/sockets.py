"""Sockets of this machine at paths: listening and connecting. Only whoever may open the file (0600) gets through."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import trio

from siltstone.errors import Unavailable

CONNECTIONS_MAX = 64
"""Connections that wait to be taken."""


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """An address for a socket whose path may be longer than the 107 bytes that the kernel takes."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen_at(path: Path) -> trio.SocketListener:
    """Listen at a path; a socket that is left over there is nobody's, as the caller knows."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(_listen(path)))


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as address:
            listening.bind(address)
        path.chmod(0o600)  # before listen: until then nobody can connect
        listening.listen(CONNECTIONS_MAX)
    except BaseException:
        listening.close()
        raise
    return listening


async def connect_to(path: Path) -> trio.SocketStream:
    """A connection to whoever listens at a path. Raises Unavailable."""
    connecting = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as address:
            await connecting.connect(address)
    except OSError as error:
        connecting.close()
        raise Unavailable(f"{path}: {error.strerror}") from error
    except BaseException:
        connecting.close()
        raise
    return trio.SocketStream(connecting)
