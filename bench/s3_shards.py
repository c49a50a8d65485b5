"""What do two shards and two S3 workers give over one process, for objects of 4 KiB?

Both are served at the same time and driven in turns, a few rounds, so that the load of the machine is the same for both
as far as it can be; the client of bench/s3.py sends over 32 connections. `directories`: keys in 16 directories of one
bucket; `buckets`: keys right in 16 buckets. Each goes to the shard that has that directory. `us` is processor time of
all serving processes together for one request. `python bench/s3_shards.py [--quick] [--json] [--directory DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from s3 import SMALL_BYTES, Request, Server, drive, served

PLACES = 16
CLIENTS = 32
SILTSTONE = [sys.executable, "-P", "-m", "siltstone"]
LAYOUTS = ("directories", "buckets")


class Mode:
    """A volume that is served."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        said = subprocess.run([*SILTSTONE, "status", home, "--json"], check=True, capture_output=True)
        status = json.loads(said.stdout)
        self._pids = {status["process"]["pid"]}
        self._pids |= {shard["pid"] for shard in status["meta"]["shards"]}
        self._pids |= {worker["pid"] for door in status["process"]["doors"] for worker in door["workers"]}

    def seconds_used(self) -> float:
        """Processor time of all its processes, their threads included."""
        return sum(
            int(file.read_text().split()[0]) / 1e9
            for pid in self._pids
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
        )

    def requests(self, method: str, layout: str, count: int, first: int) -> list[Request]:
        """Each for an object of its own, signed."""
        body_bytes = SMALL_BYTES if method == "PUT" else 0
        return [
            self.server.request(method, path_of(layout, number), "", body_bytes)
            for number in range(first, first + count)
        ]


def path_of(layout: str, number: int) -> str:
    """Where an object is."""
    place = number % PLACES
    return f"/bench/directory-{place}/{number}" if layout == "directories" else f"/bench-{place}/{number}"


def begin(home: Path, shards: int) -> list[object]:
    """Make a volume; the command that serves it."""
    subprocess.run([*SILTSTONE, "init", home, "--shards", str(shards)], check=True, capture_output=True)
    key = ["--access", "bench", "--secret", "bench-secret"]
    subprocess.run([*SILTSTONE, "key", "add", home, *key], check=True, capture_output=True)
    return [*SILTSTONE, "serve", home, "--s3", "127.0.0.1:0", "--s3-workers", str(shards)]


def measure(place: Path, *, quick: bool) -> list[dict[str, Any]]:
    """The whole table."""
    count, rounds = (300, 2) if quick else (2000, 5)
    homes = {"one": place / "one", "sharded": place / "sharded"}
    commands = {"one": begin(homes["one"], 1), "sharded": begin(homes["sharded"], 2)}
    with (
        served(commands["one"], "bench", "bench-secret") as one,
        served(commands["sharded"], "bench", "bench-secret") as sharded,
    ):
        modes = {"one": Mode(one, homes["one"]), "sharded": Mode(sharded, homes["sharded"])}
        for mode in modes.values():
            server = mode.server
            buckets = ["/bench", *(f"/bench-{number}" for number in range(PLACES))]
            drive(server.host, server.port, [server.request("PUT", bucket) for bucket in buckets], 1)
            for layout in LAYOUTS:
                drive(server.host, server.port, mode.requests("PUT", layout, PLACES, 0), 1)
        return [line_of(modes, method, layout, count, rounds) for layout in LAYOUTS for method in ("PUT", "GET")]


def line_of(modes: dict[str, Mode], method: str, layout: str, count: int, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    rates: dict[str, list[float]] = {name: [] for name in modes}
    used = dict.fromkeys(modes, 0.0)
    for round_ in range(rounds):
        for name, mode in modes.items():
            requests = mode.requests(method, layout, count, PLACES + round_ * count)
            before = mode.seconds_used()
            seconds, _ = drive(mode.server.host, mode.server.port, requests, CLIENTS)
            used[name] += mode.seconds_used() - before
            rates[name].append(count / seconds)
    ratios = [sharded / one for one, sharded in zip(rates["one"], rates["sharded"], strict=True)]
    return {
        "operation": method,
        "layout": layout,
        "one_per_s": round(statistics.median(rates["one"]), 1),
        "sharded_per_s": round(statistics.median(rates["sharded"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "one_us": round(used["one"] / (rounds * count) * 1e6, 1),
        "sharded_us": round(used["sharded"] / (rounds * count) * 1e6, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--directory", "--folder", help="where the volumes are made")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="siltstone-bench-", dir=options.directory))
    try:
        results = measure(place, quick=options.quick)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if options.json:
        print(json.dumps({"bench": "s3_shards", "results": results}, indent=1))
        return
    print("".join(f"{column:>15}" for column in results[0]))
    for line in results:
        print("".join(f"{value!s:>15}" for value in line.values()))


if __name__ == "__main__":
    main()
