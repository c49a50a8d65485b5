"""How many objects a second does the S3 door take and give, against plain files and against the ceiling of Python?

One `siltstone serve` process, and kept connections driven by one epoll loop that sends requests signed beforehand: it
takes about 10 us of the other core for one. A PUT or DELETE counts when it is answered, and is durable then. `plain`
does the same with files on the same disk and as many threads: write, fdatasync, rename; open, read; stat; unlink.
`ceiling` is bench/ceiling/http_memory.py: HTTP and a dict, without signatures, checksums, metadata, disks.
`daemon_us` is the processor time of the serving process for one request, `growth_mib` how far its memory rose in it.
`python bench/s3.py [--quick] [--json] [--directory DIR]`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import json
import os
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

KIB = 1024
MIB = 1024 * KIB
SMALL_BYTES = 4 * KIB
LARGE_BYTES = 64 * MIB
HUGE_BYTES = 1024 * MIB
LISTED = 1000
BUCKET = "bench"
REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"
CEILING = Path(__file__).resolve().parent / "ceiling" / "http_memory.py"
BODY = os.urandom(LARGE_BYTES)


class Request(NamedTuple):
    """A request that is ready to be sent: its head with the signature, and how often BODY's first bytes follow."""

    head: bytes
    body_bytes: int


class Connection:
    """One kept connection: sends a request, then takes the answer piece by piece."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begun = 0.0
        self._buffer = bytearray(MIB)
        self._left = -1
        self._bodiless = False

    def send(self, request: Request) -> None:
        """Send all of it; blocks while the server's window is full."""
        self._left = -1
        self._bodiless = request.head.startswith((b"HEAD", b"DELETE"))
        self.begun = time.perf_counter()
        if request.body_bytes <= SMALL_BYTES:
            self.socket.sendall(request.head + BODY[: request.body_bytes])
            return
        self.socket.sendall(request.head)
        left = request.body_bytes
        while left:
            piece = memoryview(BODY)[: min(left, len(BODY))]
            self.socket.sendall(piece)
            left -= len(piece)

    def receive(self) -> bool:
        """Take what has arrived; whether the answer is whole. Raises RuntimeError unless it is a success."""
        count = self.socket.recv_into(self._buffer)
        if not count:
            raise RuntimeError("the server hung up")
        if self._left < 0:
            end = self._buffer.find(b"\r\n\r\n", 0, count)
            assert end >= 0, "a head in two pieces"
            if not self._buffer.startswith(b"HTTP/1.1 20"):
                raise RuntimeError(self._buffer[:count].decode(errors="replace"))
            found = re.search(rb"\r\ncontent-length: (\d+)", self._buffer[:end].lower())
            self._left = 0 if self._bodiless or found is None else int(found[1])
            count -= end + 4
        self._left -= count
        return self._left == 0


def drive(host: str, port: int, requests: Sequence[Request], clients: int) -> tuple[float, list[float]]:
    """Send all requests over so many connections; the seconds for all and for each."""
    connections = [Connection(host, port) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    waiting = iter(requests)
    taken: list[float] = []
    begun = time.perf_counter()
    for connection, request in zip(connections, waiting, strict=False):
        connection.send(request)
    while len(taken) < len(requests):
        for key, _ in selector.select():
            connection = key.data
            if connection.receive():
                taken.append(time.perf_counter() - connection.begun)
                following = next(waiting, None)
                if following is not None:
                    connection.send(following)
    seconds = time.perf_counter() - begun
    for connection in connections:
        connection.socket.close()
    return seconds, taken


class Server:
    """A process that serves HTTP and says where in its first line; signs requests if there is a key to do it with."""

    def __init__(self, command: Sequence[object], access: str = "", secret: str = "") -> None:
        self._access, self._secret = access, secret
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        words = self.process.stdout.readline().decode().split()
        if words[:1] != ["ready"]:
            raise SystemExit(f"{command} did not start")
        address = urlsplit(words[-1])
        assert address.hostname is not None and address.port is not None
        self.host, self.port = address.hostname, address.port

    def request(self, method: str, path: str, query: str = "", body_bytes: int = 0) -> Request:
        """A request, signed in its headers; the query is in canonical order."""
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        signed = {"host": f"{self.host}:{self.port}", "x-amz-content-sha256": UNSIGNED, "x-amz-date": now}
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{UNSIGNED}"
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self._secret.encode()
        for word in (*scope.split("/"), text):
            key = hmac.digest(key, word.encode(), "sha256")
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self._access}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
        )
        head = f"{method} {path}{'?' if query else ''}{query} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        head += f"authorization: {authorization}\r\ncontent-length: {body_bytes}\r\n\r\n"
        return Request(head.encode(), body_bytes)

    def cpu_seconds(self) -> float:
        """Processor time that the process has taken, its threads included."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in tasks) / 1e9

    def reset_peak(self) -> None:
        """Forget the largest size that the process has had."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def memory_mib(self, name: str) -> float:
        """VmRSS, or VmHWM: the largest since ``reset_peak``."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / KIB

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(60)


class Plain:
    """What a careful program does with files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def do(self, method: str, name: str, size: int) -> None:
        """One operation on one file."""
        getattr(self, f"_{method.lower()}")(self._directory / name, size)

    def _put(self, path: Path, size: int) -> None:
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        left = size
        while left:
            left -= os.write(descriptor, memoryview(BODY)[: min(left, len(BODY))])
        os.fdatasync(descriptor)
        os.close(descriptor)
        os.rename(f"{path}.new", path)

    def _get(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        while size and (piece := os.read(descriptor, MIB)):
            size -= len(piece)
        os.close(descriptor)

    def _head(self, path: Path, _size: int) -> None:
        os.stat(path)

    def _delete(self, path: Path, _size: int) -> None:
        os.unlink(path)

    def _list(self, _path: Path, _size: int) -> None:
        with os.scandir(self._directory) as entries:
            for entry in [next(entries) for _ in range(LISTED)]:
                entry.stat()


class Case(NamedTuple):
    """One line of the table; so many ``requests`` by so many ``clients``, each on an object of its own."""

    method: str
    size: int
    requests: int
    clients: int

    def path(self, index: int) -> str:
        """Where the object is; GET and the rest use what the PUTs of as many clients left."""
        return f"/{BUCKET}/{self.size}-{self.clients}-{index}"

    def signed(self, server: Server) -> list[Request]:
        """All of them, signed."""
        if self.method == "LIST":
            return [server.request("GET", f"/{BUCKET}", f"list-type=2&max-keys={LISTED}")] * self.requests
        body_bytes = self.size if self.method == "PUT" else 0
        return [server.request(self.method, self.path(index), "", body_bytes) for index in range(self.requests)]


def timed(function: Callable[[int], None], count: int, clients: int) -> float:
    """Seconds that so many calls take, with so many threads."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(function, range(count)):
            pass
    return time.perf_counter() - begun


def measure(case: Case, server: Server, ceiling: Server, plain: Plain) -> dict[str, object]:
    """One line of the table."""
    plain_seconds = timed(
        lambda index: plain.do(case.method, f"{case.size}-{case.clients}-{index}", case.size),
        case.requests,
        case.clients,
    )
    has_ceiling = case.method in ("PUT", "GET", "HEAD") and case.size < HUGE_BYTES
    ceiling_seconds, _ = (
        drive(ceiling.host, ceiling.port, case.signed(ceiling), case.clients) if has_ceiling else (0.0, [])
    )
    requests = case.signed(server)
    server.reset_peak()
    cpu, memory = server.cpu_seconds(), server.memory_mib("VmRSS")
    seconds, each = drive(server.host, server.port, requests, case.clients)
    each.sort()
    return {
        "operation": case.method,
        "object_bytes": case.size,
        "clients": case.clients,
        "siltstone_per_s": round(case.requests / seconds, 1),
        "siltstone_mb_per_s": round(case.requests * case.size / seconds / 1e6, 1),
        "p50_ms": round(statistics.median(each) * 1e3, 3),
        "p99_ms": round(each[len(each) * 99 // 100] * 1e3, 3),
        "plain_per_s": round(case.requests / plain_seconds, 1),
        "ratio_to_plain": round(plain_seconds / seconds, 4),
        "ceiling_per_s": round(case.requests / ceiling_seconds, 1) if has_ceiling else None,
        "ratio_to_ceiling": round(ceiling_seconds / seconds, 4) if has_ceiling else None,
        "daemon_us": round((server.cpu_seconds() - cpu) / case.requests * 1e6, 1),
        "growth_mib": round(server.memory_mib("VmHWM") - memory, 1),
    }


def cases(quick: bool) -> list[Case]:
    """What is measured, in this order: each works on what those before it left."""
    small, large = (4_000, 4) if quick else (20_000, 12)
    found = [
        Case("PUT", SMALL_BYTES, small // 4, 1),
        Case("GET", SMALL_BYTES, small // 4, 1),
        Case("PUT", SMALL_BYTES, small, 16),
        Case("GET", SMALL_BYTES, small, 16),
        Case("HEAD", SMALL_BYTES, small, 16),
        Case("LIST", 0, small // 100, 4),
        Case("DELETE", SMALL_BYTES, small, 16),
        Case("PUT", LARGE_BYTES, large, 1),
        Case("GET", LARGE_BYTES, large, 1),
    ]
    return found if quick else [*found, Case("PUT", HUGE_BYTES, 1, 1), Case("GET", HUGE_BYTES, 1, 1)]


@contextlib.contextmanager
def served(command: Sequence[object], access: str = "", secret: str = "") -> Iterator[Server]:
    """A server that ends with the context."""
    server = Server(command, access, secret)
    try:
        yield server
    finally:
        server.stop()


def measure_all(place: Path, quick: bool) -> list[dict[str, object]]:
    """The whole table, and a line on how long the daemon's event loop made its tasks wait meanwhile."""
    home, files = place / "home", place / "plain"
    files.mkdir()
    siltstone = [sys.executable, "-P", "-m", "siltstone"]
    subprocess.run([*siltstone, "init", home], check=True, capture_output=True)
    made = subprocess.run([*siltstone, "key", "add", home, "--json"], check=True, capture_output=True)
    key = json.loads(made.stdout)
    command = [*siltstone, "serve", home, "--s3", "127.0.0.1:0"]
    with served([sys.executable, CEILING]) as ceiling, served(command, key["access"], key["secret"]) as server:
        drive(server.host, server.port, [server.request("PUT", f"/{BUCKET}")], 1)
        results = [measure(case, server, ceiling, Plain(files)) for case in cases(quick)]
        said = subprocess.run([*siltstone, "status", home, "--json"], check=True, capture_output=True)
        results.append({"operation": "loop delay", "milliseconds": json.loads(said.stdout)["process"]["loop_delay_ms"]})
    return results


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--directory", "--folder", help="where the volume and the plain files are made")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="siltstone-bench-", dir=options.directory))
    try:
        results = measure_all(place, options.quick)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if options.json:
        print(json.dumps({"bench": "s3", "results": results}, indent=1))
        return
    columns = list(results[0])
    print("".join(f"{column:>19}" for column in columns))
    for line in results[:-1]:
        print("".join(f"{'-' if line[column] is None else line[column]!s:>19}" for column in columns))
    print(results[-1])


if __name__ == "__main__":
    main()
