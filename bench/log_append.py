"""What does a durable append to the log cost, against the same bytes by plain pwrite and fdatasync?

Three disks (directories on one filesystem), 4 KiB of payload an append. Rows: plain writes of a frame's length, file
after file and side by side in three threads, in space written before and in space only reserved; one task that appends
and waits, in a segment filled with zeros, one that a seal opened at once (the log soon leaves it for one that it fills
with zeros meanwhile), and one whose files were a segment before; 32 such tasks; the cost of
append_nowait alone. Ratios are of medians, over both floors in space written before: 1.00 is as fast as the floor.
`python bench/log_append.py [--quick] [--json] [--folder DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trio

from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.system import SystemClock, SystemRandom
from siltstone.engine.format.frame import frame_bytes
from siltstone.engine.format.superblock import Superblock
from siltstone.engine.log.log import Log
from siltstone.engine.pool import Pool
from siltstone.limits import MIB
from siltstone.types import DiskId

PAYLOAD = os.urandom(4096)
BODY = os.urandom(120)
FRAME = PAYLOAD + bytes(frame_bytes(len(PAYLOAD), len(BODY)) - len(PAYLOAD))
SEGMENT_BYTES = 64 * MIB
PLAIN_BYTES = 16 * MIB
WRITERS = 32

Row = dict[str, float]


def percentiles(samples: list[float]) -> Row:
    """p50 and p99 in microseconds."""
    samples = sorted(samples)
    return {"p50_us": round(samples[len(samples) // 2], 1), "p99_us": round(samples[len(samples) * 99 // 100], 1)}


def plain(folder: Path, count: int, *, is_written: bool, write: Callable[[list[int], int], None]) -> Row:
    """Frames one after the other to three files."""
    fds = []
    for index in range(3):
        fds.append(os.open(folder / f"plain{index}", os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        os.posix_fallocate(fds[-1], 0, PLAIN_BYTES)
        if is_written:
            os.pwrite(fds[-1], bytes(PLAIN_BYTES), 0)
        os.fsync(fds[-1])
    samples = []
    for number in range(count):
        start = time.perf_counter()
        write(fds, number * len(FRAME) % (PLAIN_BYTES - len(FRAME)))
        samples.append((time.perf_counter() - start) * 1e6)
    for fd in fds:
        os.close(fd)
    return percentiles(samples)


def write_one(fd: int, offset: int) -> None:
    """A durable write."""
    os.pwrite(fd, FRAME, offset)
    os.fdatasync(fd)


def in_a_row(fds: list[int], offset: int) -> None:
    """Durable writes, one after the other."""
    for fd in fds:
        write_one(fd, offset)


def side_by_side(threads: ThreadPoolExecutor) -> Callable[[list[int], int], None]:
    """Durable writes, each in a thread."""

    def write(fds: list[int], offset: int) -> None:
        for future in [threads.submit(write_one, fd, offset) for fd in fds]:
            future.result()

    return write


async def one_writer(log: Log, count: int) -> Row:
    """A task that appends and waits."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        await log.wait_durable(log.append_nowait(1, [PAYLOAD], BODY))
        samples.append((time.perf_counter() - start) * 1e6)
    return percentiles(samples)


async def many_writers(log: Log, count: int) -> Row:
    """``WRITERS`` of them."""
    samples: list[float] = []

    async def write() -> None:
        for _ in range(count // WRITERS):
            start = time.perf_counter()
            await log.wait_durable(log.append_nowait(1, [PAYLOAD], BODY))
            samples.append((time.perf_counter() - start) * 1e6)

    before = log.statistics()
    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(write)
    seconds = time.perf_counter() - start
    after = log.statistics()
    row = percentiles(samples)
    row["appends_per_s"] = round(len(samples) / seconds)
    row["appends_per_flush"] = round(len(samples) / (after.flushes - before.flushes), 1)
    return row


async def append_alone(log: Log, count: int) -> Row:
    """What append_nowait takes, in runs that stay in memory until they are flushed."""
    samples = []
    for _ in range(count // 100):
        start = time.perf_counter()
        for _ in range(100):
            end = log.append_nowait(1, [PAYLOAD], BODY)
        samples.append((time.perf_counter() - start) * 1e4)
        await log.wait_durable(end)
    return percentiles(samples)


async def measure(folder: Path, count: int) -> dict[str, Row]:
    """All rows, with their ratios to the floors of the same round."""
    disks = []
    for index in range(3):
        identity = uuid.uuid4().bytes
        await format_disk(folder / f"d{index}", Superblock(bytes(16), identity, DiskId(index), 3, 1, 2, 1 << 20, 0))
        disks.append(LocalDisk(DiskId(index), folder / f"d{index}", identity))
    pool = Pool(disks, LocalFanout(), SystemRandom(), SystemClock())
    log = await Log.create(pool, SystemClock(), volume_uuid=bytes(16), segment_bytes=SEGMENT_BYTES, replicas=3)
    results: dict[str, Row] = {}
    with ThreadPoolExecutor(3) as threads:
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run)
            for _ in range(2):  # the first round warms up
                results["plain, three in a row"] = plain(folder, count, is_written=True, write=in_a_row)
                results["log, 1 writer, zeroed segment"] = await one_writer(log, count)
                results["log, 32 writers, zeroed segment"] = await many_writers(log, count * 3)
                beside = side_by_side(threads)
                results["plain, three side by side"] = plain(folder, count, is_written=True, write=beside)
            results["append_nowait alone"] = await append_alone(log, count)
            results["plain, three in a row, reserved only"] = plain(folder, count, is_written=False, write=in_a_row)
            await log.seal()
            results["log, 1 writer, while zeros are written"] = await one_writer(log, count)
            results["log, 32 writers, after that"] = await many_writers(log, count * 3)
            await log.retire(log.segments()[0].start)
            await log.seal()
            results["log, 1 writer, recycled segment"] = await one_writer(log, count)
            results["log, 32 writers, recycled segment"] = await many_writers(log, count * 3)
            nursery.cancel_scope.cancel()
    await log.close()
    for disk in disks:
        await disk.close()
    base = results["plain, three in a row"]["p50_us"]
    beside_base = results["plain, three side by side"]["p50_us"]
    for row in results.values():
        row["ratio_to_plain_in_a_row"] = round(base / row["p50_us"], 2)
        row["ratio_to_plain_side_by_side"] = round(beside_base / row["p50_us"], 2)
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", default=".", help="on the filesystem to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = trio.run(measure, Path(folder), 400 if options.quick else 3000)
    if options.json:
        rows = [{"case": name, **row} for name, row in results.items()]
        print(json.dumps({"bench": "log_append", "results": rows}, indent=1))
        return
    for name, row in results.items():
        print(f"{name:38}", "  ".join(f"{key} {value:>8}" for key, value in row.items()))


if __name__ == "__main__":
    main()
