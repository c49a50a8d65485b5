"""How many objects a second does the S3 door take and give, against plain files on the same disk?

One serving process; `clients` connections that are kept, driven by one epoll loop over presigned URLs, so that the
client takes as little of the two cores as Python allows. A PUT counts when it is answered, and is durable then. `plain`
does the same with files and as many threads: write, fsync, rename; open, read.
`python bench/s3.py [--quick] [--json] [--directory DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3
import botocore.config

KIB = 1024
MIB = 1024 * KIB
SMALL_BYTES = 4 * KIB
LARGE_BYTES = 64 * MIB
BUCKET = "bench"


class Request(NamedTuple):
    """A request that is ready to be sent: its head with the signature in the URL, and its body."""

    head: bytes
    body: bytes


class Connection:
    """One kept connection: sends a request, then takes the answer piece by piece."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(4 * MIB)
        self._head = bytearray()
        self._left: int | None = None

    def send(self, request: Request) -> None:
        """Send all of it; blocks while the server's window is full."""
        self._head.clear()
        self._left = None
        self.socket.setblocking(True)
        if len(request.body) <= SMALL_BYTES:
            self.socket.sendall(request.head + request.body)
        else:
            self.socket.sendall(request.head)
            self.socket.sendall(request.body)
        self.socket.setblocking(False)

    def receive(self) -> bool:
        """Take what has arrived; whether the answer is whole. Raises RuntimeError unless it is a 200."""
        count = self.socket.recv_into(self._buffer)
        if not count:
            raise RuntimeError("the server hung up")
        if self._left is None:
            self._head += memoryview(self._buffer)[:count]
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self._head[:end])
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(self._head[:500].decode(errors="replace"))
            lines = head.lower().split(b"\r\n")
            length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            self._left = length - (len(self._head) - end - 4)
        else:
            self._left -= count
        return self._left == 0


def drive(host: str, port: int, requests: Sequence[Request], clients: int) -> float:
    """Send all requests over so many connections; returns the seconds that it took."""
    connections = [Connection(host, port) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    waiting = iter(requests)
    left = len(requests)
    begun = time.perf_counter()
    for connection, request in zip(connections, waiting, strict=False):
        connection.send(request)
    while left:
        for key, _ in selector.select():
            connection = key.data
            if connection.receive():
                left -= 1
                following = next(waiting, None)
                if following is not None:
                    connection.send(following)
    seconds = time.perf_counter() - begun
    for connection in connections:
        connection.socket.close()
    return seconds


class Server:
    """A volume in a directory and the process that serves it."""

    def __init__(self, directory: Path) -> None:
        home = directory / "home"
        self._siltstone("init", home)
        key = json.loads(self._siltstone("key", "add", home, "--json"))
        command = [sys.executable, "-P", "-m", "siltstone", "serve", str(home), "--s3", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.endpoint = self.process.stdout.readline().split()[-1]
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key["access"],
            aws_secret_access_key=key["secret"],
            region_name="us-east-1",
            config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self.client.create_bucket(Bucket=BUCKET)
        address = urlsplit(self.endpoint)
        assert address.hostname is not None and address.port is not None
        self.host, self.port = address.hostname, address.port

    def _siltstone(self, *arguments: object) -> str:
        command = [sys.executable, "-P", "-m", "siltstone", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def request(self, method: str, key: str, body: bytes = b"") -> Request:
        """A presigned request."""
        operation = {"PUT": "put_object", "GET": "get_object"}[method]
        url = urlsplit(self.client.generate_presigned_url(operation, Params={"Bucket": BUCKET, "Key": key}))
        head = f"{method} {url.path}?{url.query} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-length: {len(body)}\r\n\r\n"
        return Request(head.encode(), body)

    def cpu_seconds(self) -> float:
        """CPU time of the serving process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(60)


def plain_put(directory: Path, name: str, body: bytes) -> None:
    """What a careful program does with files: write, flush, rename."""
    partial = directory / (name + ".new")
    with partial.open("wb", buffering=0) as file:
        file.write(body)
        os.fsync(file.fileno())
    partial.rename(directory / name)


def plain_get(directory: Path, name: str) -> None:
    """Read a file whole."""
    (directory / name).read_bytes()


def timed(function: Callable[[str], None], names: Sequence[str], clients: int) -> float:
    """Seconds that it takes to do it for every name, with so many threads."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(function, names):
            pass
    return time.perf_counter() - begun


def measure(server: Server, directory: Path, size: int, count: int, clients: int) -> Iterator[dict[str, object]]:
    """PUT and GET of objects of one size."""
    body = os.urandom(size)
    names = [f"{size}-{clients}-{index}" for index in range(count)]
    plain = {
        "PUT": timed(lambda name: plain_put(directory, name, body), names, clients),
        "GET": timed(lambda name: plain_get(directory, name), names, clients),
    }
    for method in ("PUT", "GET"):
        requests = [server.request(method, name, body if method == "PUT" else b"") for name in names]
        cpu = server.cpu_seconds()
        seconds = drive(server.host, server.port, requests, clients)
        yield {
            "operation": method,
            "object_bytes": size,
            "clients": clients,
            "siltstone_per_s": round(count / seconds, 1),
            "siltstone_mb_per_s": round(count * size / seconds / 1e6, 1),
            "plain_per_s": round(count / plain[method], 1),
            "ratio_to_plain": round(plain[method] / seconds, 4),
            "daemon_us": round((server.cpu_seconds() - cpu) / count * 1e6, 1),
        }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--directory", help="where volume and plain files go (default: TMPDIR)")
    options = parser.parse_args()
    small, large = (2_000, 4) if options.quick else (20_000, 16)
    directory = Path(tempfile.mkdtemp(prefix="siltstone-bench-", dir=options.directory))
    try:
        plain = directory / "plain"
        plain.mkdir()
        server = Server(directory)
        try:
            cases = [(SMALL_BYTES, small // 4, 1), (SMALL_BYTES, small, 16), (LARGE_BYTES, large, 1)]
            results = [result for case in cases for result in measure(server, plain, *case)]
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.json:
        print(json.dumps({"bench": "s3", "results": results}, indent=1))
        return
    line = (
        "{operation} {object_bytes:>10,} B, {clients:>2} clients: {siltstone_per_s:>9,.1f} /s, "
        "{siltstone_mb_per_s:>7,.1f} MB/s, {ratio_to_plain:.2f} of plain files, {daemon_us:,.0f} us of CPU each"
    )
    for result in results:
        print(line.format(**result))


if __name__ == "__main__":
    main()
