"""How long does a durable write to three disks take, against three plain pwrite+fdatasync in a row and a bare one?

Three buffers of 4 KiB together, into space written before, as the log does. `busy` has a task that keeps the loop
occupied all the time: what then matters is how soon a thread that returns from fdatasync gets the interpreter back
(sys.setswitchinterval). `python bench/disk_write.py [--quick] [--json] [--folder DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

import trio

from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.format.superblock import Superblock
from siltstone.ports import DiskWrite, Lane
from siltstone.types import DiskId

FILE_BYTES = 8 * 1024 * 1024
BUFFERS = (b"h" * 64, b"p" * 3900, b"b" * 132)
NAME = "log/bench"


def percentiles(samples: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds."""
    samples = sorted(samples)
    return {"p50_us": round(samples[len(samples) // 2], 1), "p99_us": round(samples[len(samples) * 99 // 100], 1)}


async def make_disks(folder: Path) -> list[LocalDisk]:
    """Three disks with a file each whose blocks have been written."""
    disks = []
    for index in range(3):
        identity = uuid.uuid4().bytes
        await format_disk(folder / f"d{index}", Superblock(bytes(16), identity, DiskId(index), 3, 1, 2, 1 << 20, 0))
        disk = LocalDisk(DiskId(index), folder / f"d{index}", identity)
        await disk.create(NAME, FILE_BYTES)
        await disk.write(NAME, 0, [bytes(FILE_BYTES)])
        await disk.flush(NAME)
        disks.append(disk)
    return disks


def plain(folder: Path, count: int, files: int) -> dict[str, float]:
    """pwritev and fdatasync, file after file, in one thread."""
    fds = [os.open(folder / f"d{index}" / NAME, os.O_RDWR) for index in range(files)]
    samples = []
    for number in range(count):
        start = time.perf_counter()
        for fd in fds:
            os.pwritev(fd, BUFFERS, number * 4096 % FILE_BYTES)
            os.fdatasync(fd)
        samples.append((time.perf_counter() - start) * 1e6)
    for fd in fds:
        os.close(fd)
    return percentiles(samples)


async def fanned_out(disks: list[LocalDisk], count: int, lane: Lane = Lane.LOG) -> dict[str, float]:
    """The product's way."""
    fanout = LocalFanout()
    samples = []
    for number in range(count):
        writes = [DiskWrite(disk, NAME, number * 4096 % FILE_BYTES, BUFFERS) for disk in disks]
        start = time.perf_counter()
        errors = await fanout.write_durable(writes, lane)
        samples.append((time.perf_counter() - start) * 1e6)
        assert errors == [None, None, None]
    return percentiles(samples)


async def fanned_out_busy(disks: list[LocalDisk], count: int) -> dict[str, float]:
    """The same while another task computes in the loop; ``turns_per_s`` is what that task still gets done."""
    turns = 0

    async def compute() -> None:
        nonlocal turns
        while True:
            sum(range(20_000))
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute)
        start = time.perf_counter()
        result = await fanned_out(disks, count)
        result["turns_per_s"] = round(turns / (time.perf_counter() - start))
        nursery.cancel_scope.cancel()
    return result


async def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """All of it, interleaved so that drift of the machine hits every row alike."""
    disks = await make_disks(folder)
    results: dict[str, dict[str, float]] = {}
    for _ in range(2):  # the first round warms up
        results["plain, one file"] = plain(folder, count, 1)
        results["plain, three files in a row"] = plain(folder, count, 3)
        results["three disks fanned out"] = await fanned_out(disks, count)
    before = sys.getswitchinterval()
    for interval in (0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001):
        sys.setswitchinterval(interval)
        results[f"busy loop, switch interval {interval * 1e6:.0f} us"] = await fanned_out_busy(disks, count // 4)
    sys.setswitchinterval(before)
    for disk in disks:
        await disk.close()
    base = results["plain, three files in a row"]["p50_us"]
    for row in results.values():
        row["ratio"] = round(row["p50_us"] / base, 2)
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", default=".", help="on the filesystem to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = trio.run(measure, Path(folder), 300 if options.quick else 2000)
    if options.json:
        print(json.dumps(results))
        return
    for name, row in results.items():
        print(f"{name:40}", "  ".join(f"{key} {value:>9}" for key, value in row.items()))


if __name__ == "__main__":
    main()
