"""Does a volume get slower as it fills? Creates/s, stat latency, LMDB and memory from 10,000 files on.

64 writers make directories of 1,000 files, 100 of them in one of their own; every second directory has names that
ascend (a camera's), the others names in no order (hashes). At 1, 2, 5 times each power of ten the writers pause, what
they made is applied to LMDB, and files picked at random among all are looked up by directory and name, then by number.
At the end the kernel is told to take LMDB's pages back, and some are looked up cold: that is what a machine gives that
has no memory to spare. What is known of the files is computed, so that the memory is the volume's own.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio
import xxhash

from metadata.host import Took, drop_mapped, load, memory, timed
from siltstone.core.volume import Volume
from siltstone.types import ROOT_INO, Ino

WRITERS = 64
FILES_PER_DIRECTORY = 1_000
DIRECTORIES_PER_GROUP = 100
STATS = 20_000
COLD_STATS = 1_000

T = TypeVar("T")


class Point(NamedTuple):
    """How the volume was at one size. Rates are of the stretch since the point before."""

    files: int
    creates_per_second: float
    creates_per_processor_second: float
    """Of the event loop's thread: what it would be with a core of its own."""
    stat_p50_us: float
    stat_p99_us: float
    """By number (getattr)."""
    lookup_p50_us: float
    lookup_p99_us: float
    """By directory and name."""
    lmdb_bytes: int
    """Pages in use."""
    lmdb_bytes_per_file: float
    own_mib: float
    mapped_mib: float
    load: float


def marks(files: int) -> list[int]:
    """Where to measure: 10,000, 20,000, 50,000, 100,000 ... and at the end."""
    wanted = (step * 10**power for power in range(4, 10) for step in (1, 2, 5))
    return sorted({mark for mark in wanted if mark < files} | {files})


def name_of(serial: int) -> bytes:
    """The name of a file by its number among all."""
    directory, index = divmod(serial, FILES_PER_DIRECTORY)
    if directory % 2:
        return b"%016x.dat" % xxhash.xxh3_64_intdigest(serial.to_bytes(8, "big"))
    return b"IMG_%06d.jpg" % index


class Cold(NamedTuple):
    """Lookups by directory and name with nothing of LMDB in memory; microseconds."""

    p50_us: float
    p99_us: float


class Latencies(NamedTuple):
    """Microseconds of each operation, in order of size."""

    stats: list[float]
    lookups: list[float]


class Filling:
    """A volume that is being filled."""

    def __init__(self, volume: Volume, *, seed: int) -> None:
        self._volume = volume
        self._source = random.Random(seed)
        self._directories: list[Ino] = []
        self._groups: dict[int, Ino] = {}
        self._files = 0
        """Whole directories only, so that every number below is a file."""

    async def fill(self, files: int) -> Took:
        """Let the writers make files until there are so many; what was made is durable and in LMDB at the end."""
        first = len(self._directories)
        last = max(first, files // FILES_PER_DIRECTORY)
        for directory in range(first, last):
            self._directories.append(await self._make_directory(directory))
        waiting = iter(range(first, last))

        async def write() -> None:
            for directory in waiting:
                await self._fill_directory(directory)

        async def write_all() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(WRITERS):
                    nursery.start_soon(write)
            await self._volume.ledger.store.checkpoint()

        took = await timed(write_all)
        self._files = last * FILES_PER_DIRECTORY
        return took

    async def _make_directory(self, directory: int) -> Ino:
        group, index = divmod(directory, DIRECTORIES_PER_GROUP)
        if group not in self._groups:
            made = await self._volume.mkdir(ROOT_INO, b"group%d" % group, mode=0o755, uid=1000, gid=1000)
            self._groups[group] = made.ino
        made = await self._volume.mkdir(self._groups[group], b"day%02d" % index, mode=0o755, uid=1000, gid=1000)
        return made.ino

    async def _fill_directory(self, directory: int) -> None:
        parent = self._directories[directory]
        for serial in range(directory * FILES_PER_DIRECTORY, (directory + 1) * FILES_PER_DIRECTORY):
            await self._volume.create(parent, name_of(serial), mode=0o100644, uid=1000, gid=1000)
            # Every request of a front-end lets others run, whether it had to wait or not.
            await trio.lowlevel.checkpoint()

    async def measure(self) -> Latencies:
        """Look files up, picked at random."""
        look_up, places = self._volume.lookup, self._pick(STATS)
        lookups = await latencies(lambda place: look_up(*place), places)
        found = [(await look_up(*place)).ino for place in places]
        self._source.shuffle(found)
        return Latencies(await latencies(self._volume.attributes, found), lookups)

    async def measure_cold(self) -> Cold:
        """Look files up when LMDB's pages have been taken away: last, since the next ones would feel it, too."""
        places = self._pick(COLD_STATS)
        drop_mapped("data.mdb")
        found = await latencies(lambda place: self._volume.lookup(*place), places)
        return Cold(percentile(found, 50), percentile(found, 99))

    def _pick(self, count: int) -> list[tuple[Ino, bytes]]:
        picked = [self._source.randrange(self._files) for _ in range(count)]
        return [(self._directories[serial // FILES_PER_DIRECTORY], name_of(serial)) for serial in picked]


async def latencies(operation: Callable[[T], Awaitable[object]], items: Sequence[T]) -> list[float]:
    """Microseconds of each, the shortest first."""
    found: list[float] = []
    for index, item in enumerate(items):
        began = time.perf_counter_ns()
        await operation(item)
        found.append((time.perf_counter_ns() - began) / 1000)
        if index % 64 == 0:
            await trio.lowlevel.checkpoint()
    return sorted(found)


async def measure_scale(volume: Volume, files: int) -> tuple[list[Point], Cold]:
    """Fill an empty volume and measure on the way."""
    filling = Filling(volume, seed=1)
    points: list[Point] = []
    before = 0
    for mark in marks(files):
        took = await filling.fill(mark)
        used_bytes = volume.ledger.store.statistics().space.used_bytes
        now = memory()
        found = await filling.measure()
        points.append(
            Point(
                files=mark,
                creates_per_second=round((mark - before) / took.wall),
                creates_per_processor_second=round((mark - before) / took.processor),
                stat_p50_us=percentile(found.stats, 50),
                stat_p99_us=percentile(found.stats, 99),
                lookup_p50_us=percentile(found.lookups, 50),
                lookup_p99_us=percentile(found.lookups, 99),
                lmdb_bytes=used_bytes,
                lmdb_bytes_per_file=round(used_bytes / mark, 1),
                own_mib=now.own,
                mapped_mib=now.mapped,
                load=load(),
            )
        )
        print(points[-1], file=sys.stderr, flush=True)
        before = mark
    return points, await filling.measure_cold()


def percentile(found: list[float], percent: int) -> float:
    """Of values in order of size."""
    return round(found[len(found) * percent // 100], 1)


def plot(path: Path, points: list[Point]) -> None:
    """Four pictures over the number of files."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("no plot: matplotlib is not installed (pip install -e .[bench])", file=sys.stderr)
        return
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    files = [point.files for point in points]
    pictures = {
        "creates/s": ("creates_per_second", "creates_per_processor_second"),
        "latency, us": ("stat_p50_us", "stat_p99_us", "lookup_p50_us", "lookup_p99_us"),
        "LMDB, bytes per file": ("lmdb_bytes_per_file",),
        "resident memory, MiB": ("own_mib", "mapped_mib"),
    }
    for axes, (label, fields) in zip(panels.flat, pictures.items(), strict=True):
        for field in fields:
            axes.plot(files, [getattr(point, field) for point in points], marker="o", label=field.replace("_", " "))
        axes.set(xscale="log", xlabel="files", ylabel=label)
        if label.startswith("latency"):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)
    print(f"plot: {path}", file=sys.stderr)
