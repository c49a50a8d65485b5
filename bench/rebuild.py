"""How fast is a lost disk rebuilt, or everything scrubbed, against what the disks allow, and what do users notice?

A volume (4+2 on six directories of one device) is filled with large files and small ones that are settled. A disk is
taken away and rebuilt onto a spare one, nobody else doing anything; another is drained onto a second spare; a third is
taken away and rebuilt while clients work. `*_bytes_per_s` counts the units that were written to the new disk. Rebuild
and drain are measured several times, on other disks each time; medians count.

ratio_rebuild, ratio_drain: over plain threads that read as many bytes of the same k chunk files (drain: of the one),
side by side, a megabyte at a time, and meanwhile write as many to a new file for each chunk, flushed (fdatasync) when
it is whole. Before each of these, and before each move and each run of the clients, all chunk files are flushed and
dropped from the page cache (posix_fadvise DONTNEED): both read from the disk. The baseline is measured before and
after; the mean counts.
ratio_foreground_small, _large: what clients get done while a rebuild runs, over what they get done before and after it:
one writes 4 KiB and calls fsync; one writes 1 MiB, calls fsync, and reads 1 MiB elsewhere; both again and again.
ratio_scrub: a scrub of everything, without a limit, over threads that read the chunk files of a disk each.
ratio_read_one_away, _two_away: megabytes read at random while one or two disks are away, over the same with all disks.
All from the disk.
`python bench/rebuild.py [--quick] [--json] [--folder DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio
from local.volume import disk_config, make_disk, opened

from siltstone.config import VolumeConfig
from siltstone.core.volume import Volume
from siltstone.engine.disk.local import LocalDisk
from siltstone.engine.pool import DiskRole
from siltstone.engine.stripe.layout import chunk_name
from siltstone.engine.stripe.store import Tier
from siltstone.limits import KIB, MIB
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId, Ino

DATA_UNITS, PARITY_UNITS = 4, 2
DISKS = DATA_UNITS + PARITY_UNITS
BIG_FILE_BYTES = 64 * MIB
SMALL_FILE_BYTES = 20 * KIB
PATTERN = random.Random(0).randbytes(MIB + 64 * KIB)


class Chunk(NamedTuple):
    """A chunk file that was lost or drained: the files that it can be computed from, and its length."""

    sources: list[Path]
    size: int


class Done(NamedTuple):
    """What clients got done, a second."""

    small_writes_per_s: float
    large_bytes_per_s: float


class Bench:
    """An open volume in a folder, and what is done with it."""

    def __init__(self, folder: Path, config: VolumeConfig, volume: Volume, disks: list[LocalDisk]) -> None:
        self.folder = folder
        self.config = config
        self.volume = volume
        self.disks = disks
        self.pool = volume.ledger.pool
        self.random = random.Random(1)
        self.big: list[Ino] = []
        self._serial = 0

    async def create(self) -> Ino:
        """A new file."""
        self._serial += 1
        return (await self.volume.create(ROOT_INO, b"%d" % self._serial, mode=0o100644, uid=0, gid=0)).ino

    def some(self, size: int) -> bytes:
        """Bytes to write."""
        start = self.random.randrange(len(PATTERN) - size)
        return PATTERN[start : start + size]

    async def fill(self, size: int) -> None:
        """Seven eighths in large files, the rest in small ones, all of it in stripes."""
        for _ in range(size * 7 // 8 // BIG_FILE_BYTES):
            self.big.append(await self.create())
            for offset in range(0, BIG_FILE_BYTES, MIB):
                await self.volume.write(self.big[-1], offset, self.some(MIB))
        for _ in range(size // 8 // SMALL_FILE_BYTES):
            await self.volume.write(await self.create(), 0, self.some(SMALL_FILE_BYTES))
        await self.volume.settle()

    async def add_spare(self) -> DiskId:
        """Another disk, empty."""
        disk_id = DiskId(len(self.disks))
        self.disks.append(await make_disk(self.config, disk_config(self.folder, disk_id)))
        self.pool.add(self.disks[-1], DiskRole.MEMBER)
        await self.pool.probe()
        return disk_id

    async def take_away(self, disk_id: DiskId) -> None:
        """The disk is gone; nothing is rebuilt before somebody asks for it."""
        path = self.path(disk_id)
        path.rename(path.with_name(f"{path.name}.away"))
        await self.pool.probe()

    def path(self, disk_id: DiskId) -> Path:
        """The directory of a disk."""
        return Path(self.disks[disk_id].path)

    def chunks_of(self, disk_id: DiskId, *, is_lost: bool) -> list[Chunk]:
        """What a disk holds."""
        chunks = []
        for slab_id, slab in space.slabs(self.volume.ledger.store):
            files = {unit: self.path(disk) / chunk_name(slab_id, unit) for unit, disk in enumerate(slab.disks)}
            for unit, disk in enumerate(slab.disks):
                if disk == disk_id:
                    others = [file for other, file in files.items() if other != unit][: slab.data_units]
                    chunks.append(Chunk(others if is_lost else [files[unit]], slab.file_bytes(unit)))
        return chunks

    def drop_caches(self) -> None:
        """Nothing of the disks is in the page cache afterwards."""
        for file in self.folder.glob("disk*/slab/*"):
            fd = os.open(file, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    async def rate_of_moves(self, move: Callable[[], Awaitable[None]]) -> float:
        """Bytes that ``move`` writes to new chunk files in a second."""
        counts = self.volume.ledger.stripes.statistics
        before, began = counts().raw_bytes_written[Tier.MOVE], time.perf_counter()
        await move()
        return (counts().raw_bytes_written[Tier.MOVE] - before) / (time.perf_counter() - began)

    async def rate_of_plain_copy(self, chunks: Sequence[Chunk]) -> float:
        """Bytes that plain threads write in a second while they read what a rebuild reads."""
        await trio.to_thread.run_sync(self.drop_caches)
        return await trio.to_thread.run_sync(copy_plainly, self.folder, chunks)

    async def come_back(self, disk_id: DiskId) -> None:
        """The disk is there again."""
        path = self.path(disk_id)
        path.with_name(f"{path.name}.away").rename(path)
        await self.pool.probe()

    async def rate_of_reads(self, count: int) -> float:
        """Bytes a second of so many megabytes that are read at random, the page cache being empty at first."""
        await trio.to_thread.run_sync(self.drop_caches)
        began = time.perf_counter()
        for _ in range(count):
            offset = self.random.randrange(BIG_FILE_BYTES // MIB) * MIB
            await self.volume.read(self.random.choice(self.big), offset, MIB)
        return count * MIB / (time.perf_counter() - began)

    async def clients(self, until: Callable[[], Awaitable[None]]) -> Done:
        """What clients get done until something returns, the page cache being empty at first."""
        await trio.to_thread.run_sync(self.drop_caches)
        small = large = 0

        async def write_small() -> None:
            nonlocal small
            ino = await self.create()
            while True:
                await self.volume.write(ino, self.random.randrange(1024) * 4 * KIB, self.some(4 * KIB))
                await self.volume.fsync(ino)
                small += 1

        async def write_and_read_large() -> None:
            nonlocal large
            while True:
                ino = await self.create()
                for number in range(32):
                    await self.volume.write(ino, number * MIB, self.some(MIB))
                    await self.volume.fsync(ino)
                    offset = self.random.randrange(BIG_FILE_BYTES // MIB) * MIB
                    await self.volume.read(self.random.choice(self.big), offset, MIB)
                    large += 2 * MIB

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_small)
            nursery.start_soon(write_and_read_large)
            await until()
            nursery.cancel_scope.cancel()
        elapsed = time.perf_counter() - began
        return Done(small / elapsed, large / elapsed)


def copy_plainly(folder: Path, chunks: Sequence[Chunk]) -> float:
    """Read the sources of chunk files in a thread each, and write as much as the chunk files hold in another, all side
    by side; bytes written a second."""
    threads = [
        threading.Thread(target=read_plainly, args=(sources,))
        for sources in zip(*(chunk.sources for chunk in chunks), strict=True)
    ]
    threads.append(threading.Thread(target=write_plainly, args=(folder, [chunk.size for chunk in chunks])))
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    for file in folder.glob("plain*"):
        file.unlink()
    return sum(chunk.size for chunk in chunks) / elapsed


def read_plainly(files: Iterable[Path]) -> None:
    """Read files one after the other, a megabyte at a time."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        offset = 0
        while data := os.pread(fd, MIB, offset):
            offset += len(data)
        os.close(fd)


def write_plainly(folder: Path, sizes: Iterable[int]) -> None:
    """Write files one after the other, a megabyte at a time, each flushed at its end."""
    for number, size in enumerate(sizes):
        fd = os.open(folder / f"plain{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        for offset in range(0, size, MIB):
            os.pwrite(fd, PATTERN[: min(MIB, size - offset)], offset)
        os.fdatasync(fd)
        os.close(fd)


@asynccontextmanager
async def opened_bench(folder: Path) -> AsyncIterator[Bench]:
    """A new volume, with the settings that `siltstone init` gives to disks of this size."""
    config = VolumeConfig(
        uuid=uuid.uuid4().hex,
        data_units=DATA_UNITS,
        parity_units=PARITY_UNITS,
        disks=tuple(disk_config(folder, index) for index in range(DISKS)),
        rebuild_grace=10_000.0,
    )
    async with opened(folder, config) as (volume, disks):
        yield Bench(folder, config, volume, disks)


async def measure_rebuild(bench: Bench, lost: DiskId) -> tuple[float, float]:
    """Rates of a rebuild onto a spare disk, and of plain copies before and after it."""
    chunks = bench.chunks_of(lost, is_lost=True)
    before = await bench.rate_of_plain_copy(chunks)
    await bench.add_spare()
    await bench.take_away(lost)
    await trio.to_thread.run_sync(bench.drop_caches)
    rate = await bench.rate_of_moves(bench.volume.rebuild)
    return rate, (before + await bench.rate_of_plain_copy(chunks)) / 2


async def measure_drain(bench: Bench, drained: DiskId) -> tuple[float, float]:
    """The same of a disk that is drained."""

    async def drain() -> None:
        bench.pool.set_role(drained, DiskRole.DRAINING)
        await bench.volume.mover.drain(drained)

    before = await bench.rate_of_plain_copy(bench.chunks_of(drained, is_lost=False))
    spare = await bench.add_spare()
    await trio.to_thread.run_sync(bench.drop_caches)
    rate = await bench.rate_of_moves(drain)
    return rate, (before + await bench.rate_of_plain_copy(bench.chunks_of(spare, is_lost=False))) / 2


async def measure_scrub(bench: Bench) -> tuple[float, float]:
    """Seconds of a scrub without a limit, and of plain threads that read all chunk files, before and after it."""

    def files_of(disk: LocalDisk) -> list[Path]:
        return sorted(Path(disk.path).glob("slab/*"))

    async def read_all() -> float:
        await trio.to_thread.run_sync(bench.drop_caches)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for disk in bench.disks:
                nursery.start_soon(trio.to_thread.run_sync, read_plainly, files_of(disk))
        return time.perf_counter() - began

    before = await read_all()
    await trio.to_thread.run_sync(bench.drop_caches)
    began = time.perf_counter()
    report = await bench.volume.scrub()
    elapsed = time.perf_counter() - began
    assert report.is_sound
    return elapsed, (before + await read_all()) / 2


async def measure_reads(bench: Bench, count: int) -> list[float]:
    """Rates of reads with no disk away, one, and two."""
    rates = [await bench.rate_of_reads(count)]
    away = [DiskId(0), DiskId(1)]
    for disk_id in away:
        await bench.take_away(disk_id)
        rates.append(await bench.rate_of_reads(count))
    for disk_id in away:
        await bench.come_back(disk_id)
    return rates


async def measure_load(bench: Bench, lost: DiskId, seconds: float) -> tuple[float, Done, Done]:
    """The rate of a rebuild beside clients; what they get done meanwhile, and without it."""
    rates: list[float] = []

    async def wait() -> None:
        await trio.sleep(seconds)

    async def rebuild() -> None:
        rates.append(await bench.rate_of_moves(bench.volume.rebuild))

    before = await bench.clients(wait)
    await bench.add_spare()
    await bench.take_away(lost)
    beside = await bench.clients(rebuild)
    after = await bench.clients(wait)
    alone = Done(*(statistics.fmean(pair) for pair in zip(before, after, strict=True)))
    return rates[0], beside, alone


async def measure(folder: Path, size: int, rounds: int, seconds: float) -> dict[str, object]:
    """Everything, on one volume."""
    async with opened_bench(folder) as bench:
        await bench.fill(size)
        chunk_files = len(bench.chunks_of(DiskId(0), is_lost=True))
        scrub_seconds, plain_scrub_seconds = await measure_scrub(bench)
        reads = await measure_reads(bench, size // (8 * MIB))
        # Every round takes the next of the oldest disks, and adds one.
        rebuilds = [await measure_rebuild(bench, DiskId(number)) for number in range(rounds)]
        drains = [await measure_drain(bench, DiskId(rounds + number)) for number in range(rounds)]
        loaded, beside, alone = await measure_load(bench, DiskId(2 * rounds), seconds)
    plain = statistics.median(plain for _, plain in rebuilds)
    return {
        "chunk_files": chunk_files,
        "scrub_seconds": round(scrub_seconds, 1),
        "plain_scrub_seconds": round(plain_scrub_seconds, 1),
        "ratio_scrub": round(plain_scrub_seconds / scrub_seconds, 3),
        "read_bytes_per_s": round(reads[0]),
        "ratio_read_one_away": round(reads[1] / reads[0], 3),
        "ratio_read_two_away": round(reads[2] / reads[0], 3),
        "rebuild_bytes_per_s": round(statistics.median(rate for rate, _ in rebuilds)),
        "plain_rebuild_bytes_per_s": round(plain),
        "ratio_rebuild": round(statistics.median(rate / plain for rate, plain in rebuilds), 3),
        "rebuild_of_each_round": [round(rate / plain, 3) for rate, plain in rebuilds],
        "drain_bytes_per_s": round(statistics.median(rate for rate, _ in drains)),
        "plain_drain_bytes_per_s": round(statistics.median(plain for _, plain in drains)),
        "ratio_drain": round(statistics.median(rate / plain for rate, plain in drains), 3),
        "rebuild_under_load_bytes_per_s": round(loaded),
        "ratio_rebuild_under_load": round(loaded / plain, 3),
        "small_writes_per_s": round(alone.small_writes_per_s),
        "small_writes_during_rebuild_per_s": round(beside.small_writes_per_s),
        "ratio_foreground_small": round(beside.small_writes_per_s / alone.small_writes_per_s, 3),
        "large_bytes_per_s": round(alone.large_bytes_per_s),
        "large_during_rebuild_bytes_per_s": round(beside.large_bytes_per_s),
        "ratio_foreground_large": round(beside.large_bytes_per_s / alone.large_bytes_per_s, 3),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the data, under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--folder", default=None, help="where to write (default: a new temporary directory)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rebuild.", dir=options.folder))
    try:
        size, rounds, seconds = (1024 * MIB, 3, 3.0) if options.quick else (4096 * MIB, 5, 8.0)
        result = trio.run(measure, folder, size, rounds, seconds)
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps({"bench": "rebuild", "results": [{"code": f"{DATA_UNITS}+{PARITY_UNITS}", **result}]}))
        return
    for name, value in result.items():
        print(f"{name:36} {value}")


if __name__ == "__main__":
    main()
