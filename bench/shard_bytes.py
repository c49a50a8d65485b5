"""What does a MiB cost over shards: read and written as S3 objects of 8 MiB, and read from front to back in a mount?

A volume of one process and one of two shards with two S3 workers, each with a mount, are served at the same time and
driven in turns, so that the load of the machine is the same for both as far as it can be. `us` is processor time of all
serving processes together for one MiB, the median of the rounds; the mount's file is read with nothing in the kernel's
cache for it. `python bench/shard_bytes.py [--quick] [--json] [--directory DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s3 import drive, served
from s3_shards import SILTSTONE, Mode, begin

MIB = 1024 * 1024
OBJECT_MIB = 8
CLIENTS = 4
OPERATIONS = ("PUT", "GET", "mount read", "mount read small")
SMALL_READ_BYTES = 4096


class Round:
    """One operation on one volume, a number of times."""

    def __init__(self, mode: Mode, mount: Path, number: int, objects: int) -> None:
        self._mode = mode
        self._mount = mount
        self._first = number * objects
        self._objects = objects

    def run(self, operation: str) -> tuple[float, float]:
        """MiB/s, and processor seconds for a MiB."""
        act = self._act(operation)
        before, begun = self._mode.seconds_used(), time.perf_counter()
        amount = act()
        seconds = time.perf_counter() - begun
        return amount / seconds, (self._mode.seconds_used() - before) / amount

    def _act(self, operation: str) -> Callable[[], int]:
        if operation.startswith("mount"):
            piece = SMALL_READ_BYTES if operation.endswith("small") else MIB
            return lambda: sum(self._read(number, piece) for number in range(min(4, self._objects)))
        server = self._mode.server
        body_bytes = OBJECT_MIB * MIB if operation == "PUT" else 0
        numbers = range(self._first, self._first + self._objects)
        requests = [server.request(operation, f"/bench/d{number % 16}/{number}", "", body_bytes) for number in numbers]

        def send() -> int:
            drive(server.host, server.port, requests, CLIENTS)
            return OBJECT_MIB * len(requests)

        return send

    def _read(self, number: int, piece_bytes: int) -> int:
        number += self._first
        file = os.open(self._mount / "bench" / f"d{number % 16}" / str(number), os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            size = 0
            while data := os.read(file, piece_bytes):
                size += len(data)
        finally:
            os.close(file)
        assert size == OBJECT_MIB * MIB
        return OBJECT_MIB


def measure(place: Path, *, quick: bool) -> list[dict[str, Any]]:
    """The whole table."""
    objects, rounds = (8, 3) if quick else (24, 7)
    names = ("one", "sharded")
    homes = {name: place / name for name in names}
    mounts = {name: place / f"mount-{name}" for name in names}
    for mount in mounts.values():
        mount.mkdir()
    commands = {name: begin(homes[name], shards) for name, shards in (("one", 1), ("sharded", 2))}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        operation: {name: [] for name in names} for operation in OPERATIONS
    }
    with (
        served(commands["one"], "bench", "bench-secret") as one,
        served(commands["sharded"], "bench", "bench-secret") as sharded,
    ):
        modes = {"one": Mode(one, homes["one"]), "sharded": Mode(sharded, homes["sharded"])}
        for name, mode in modes.items():
            subprocess.run([*SILTSTONE, "mount", homes[name], mounts[name]], check=True, capture_output=True)
            drive(mode.server.host, mode.server.port, [mode.server.request("PUT", "/bench")], 1)
        for number in range(rounds):
            for operation in OPERATIONS:
                for name, mode in modes.items():
                    found[operation][name].append(Round(mode, mounts[name], number, objects).run(operation))
        for mount in mounts.values():
            subprocess.run(["fusermount3", "-u", mount], check=True)
    return [line_of(operation, found[operation]) for operation in OPERATIONS]


def line_of(operation: str, found: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """One line of the table."""
    line: dict[str, Any] = {"operation": operation}
    for name, rounds in found.items():
        line[f"{name}_mib_per_s"] = round(statistics.median(rate for rate, _ in rounds), 1)
    ratios = [ours[0] / one[0] for ours, one in zip(found["sharded"], found["one"], strict=True)]
    line["ratio"] = round(statistics.median(ratios), 3)
    for name, rounds in found.items():
        line[f"{name}_us"] = round(statistics.median(used for _, used in rounds) * 1e6)
    line["load"] = round(os.getloadavg()[0], 1)
    return line


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
        print(json.dumps({"bench": "shard_bytes", "results": results}, indent=1))
        return
    print("".join(f"{column:>19}" for column in results[0]))
    for line in results:
        print("".join(f"{value!s:>19}" for value in line.values()))


if __name__ == "__main__":
    main()
