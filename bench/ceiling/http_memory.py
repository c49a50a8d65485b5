"""Objects in a dict behind trio and httptools: the ceiling of what any HTTP door served from Python can reach.

It parses heads, keeps connections and takes bodies whole, with no signatures, checksums, metadata or disks. Started as
``python bench/ceiling/http_memory.py``; prints ``ready http://HOST:PORT`` when it listens, ends when it is terminated.
"""

from __future__ import annotations

import socket

import httptools
import trio

RECEIVE_BYTES = 64 * 1024
PIECE_BYTES = 1024 * 1024
HEAD_END = b"\r\n\r\n"

objects: dict[bytes, memoryview] = {}


class Head:
    """What httptools calls."""

    def __init__(self) -> None:
        self.path = b""
        self.body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """The request's target."""
        self.path = url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if name.lower() == b"content-length":
            self.body_bytes = int(value)


async def serve(stream: trio.SocketStream) -> None:
    """One connection: requests until the client leaves."""
    client = stream.socket
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    while True:
        while (end := data.find(HEAD_END)) < 0:
            more = await client.recv(RECEIVE_BYTES)
            if not more:
                return
            data += more
        end += len(HEAD_END)
        head = Head()
        parser = httptools.HttpRequestParser(head)
        parser.feed_data(data[:end])
        if parser.get_method() == b"PUT":
            body = memoryview(bytearray(head.body_bytes))
            count = min(len(data) - end, len(body))
            body[:count] = data[end : end + count]
            while count < len(body):
                received = await client.recv_into(body[count : count + PIECE_BYTES])
                if not received:
                    return
                count += received
            data = data[end + head.body_bytes :]
            objects[head.path] = body
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            continue
        data = data[end:]
        found = objects.get(head.path, memoryview(b""))
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(found)
        if parser.get_method() == b"HEAD":
            await client.send(reply)
        elif len(found) <= RECEIVE_BYTES:
            await client.send(reply + found)
        else:
            await stream.send_all(reply)
            await stream.send_all(found)


async def main() -> None:
    """Listen at a port of the system's choice."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        print(f"ready http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
        nursery.start_soon(trio.serve_listeners, serve, listeners)


if __name__ == "__main__":
    trio.run(main)
