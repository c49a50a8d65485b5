"""How much of the disks is useful under churn, and what does that cost?

A volume (k+m = 4+2, small disks, segments and chunks small in proportion) is filled to 86 % of its raw space, data and
parity. Then files are deleted and written anew at random, each with another size, until three times the pool's size was
written
(or, with --quick, eight seconds are over). Workloads: `mixed` (1 KiB ... 8 MiB, log-uniform) and `small` (4 ... 16
KiB), each `uniform` and `hot` (80 % of the changes in 20 % of the files). Every write is flushed (fsync) before it
counts.

utilisation: living bytes with their parity / what stripes and the log take on the disks, sampled all along.
write_amplification_engine: all bytes written to disks / (3 copies of what went through the log + everything once with
its parity); _total: / bytes of users; _cleaner_*: the same overwrites on a simulated log-structured cleaner at the
same living share (bench/baseline/cleaner.py). p99_ms_reclaim_on: of the writes at 86 %; _off: of the same writes with
half of the pool full, where reclaim has nothing to do. Also a plot (PNG) of utilisation over time, if matplotlib is
installed. `python bench/churn.py [--quick] [--json] [--folder DIR] [--plot FILE] [--workload NAME ...]`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import trio
from baseline.cleaner import hot_and_cold, uniform, write_amplification

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.opening import create_volume, open_volume
from siltstone.core.superblocks import superblock_of
from siltstone.core.volume import Volume
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.errors import NoSpace
from siltstone.geometry import sizes_for
from siltstone.limits import KIB, LOG_REPLICAS, MIB
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.types import ROOT_INO, DiskId, Ino

DISKS = 6
FILL = 0.86
CLIENTS = 8
SAMPLES = 60
PATTERN = random.Random(0).randbytes(16 * MIB)
WORKLOADS = ("mixed-uniform", "mixed-hot", "small-uniform", "small-hot")


class Figures(NamedTuple):
    """What one workload came to."""

    fill: float
    times_written: float
    """Bytes that users wrote in the churn, in pools; less than three where the time was up."""
    utilisation_min: float
    utilisation_mean: float
    engine: float
    total: float
    p50_on: float
    p99_on: float
    p50_off: float
    p99_off: float
    seconds: float
    user_mb_per_second: float
    refused: int
    tiers: dict[str, float]
    series: list[tuple[float, float]]


class Churn:
    """Files of a volume that come and go."""

    def __init__(self, volume: Volume, workload: str, seed: int) -> None:
        self.volume = volume
        self.source = random.Random(seed)
        self.is_small = workload.startswith("small")
        self.is_hot = workload.endswith("hot")
        self.files: list[tuple[bytes, int]] = []
        self.busy: set[int] = set()
        self.live_bytes = 0
        self.written_bytes = 0
        self.refused = 0
        self.latencies: list[float] = []
        self._serial = 0

    def size(self) -> int:
        """Of the next file."""
        if self.is_small:
            return self.source.randint(4 * KIB, 16 * KIB)
        return int(math.exp(self.source.uniform(math.log(KIB), math.log(8 * MIB))))

    async def write(self, size: int) -> bytes:
        """A new file, flushed."""
        self._serial += 1
        name = b"%d" % self._serial
        start = self.source.randrange(len(PATTERN) - size)
        began = time.perf_counter()
        ino: Ino = (await self.volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
        await self.volume.write(ino, 0, PATTERN[start : start + size])
        await self.volume.fsync(ino)
        self.latencies.append((time.perf_counter() - began) * 1e3)
        self.live_bytes += size
        self.written_bytes += size
        return name

    async def fill(self, target: int) -> None:
        """Write files until so many bytes live, or no more fit."""

        async def client() -> None:
            while self.live_bytes < target:
                size = min(self.size(), max(4 * KIB, target - self.live_bytes))
                try:
                    name = await self.write(size)
                except NoSpace:
                    return
                self.files.append((name, size))

        await self._side_by_side(client)

    async def churn(self, size: int, seconds: float = math.inf) -> None:
        """Delete and write until so many bytes were written, or the time is up; as many live afterwards."""
        end = self.written_bytes + size
        deadline = time.perf_counter() + seconds
        live = self.live_bytes

        async def client() -> None:
            while self.written_bytes < end and time.perf_counter() < deadline:
                index = self._pick()
                self.busy.add(index)
                name, old = self.files[index]
                await self.volume.unlink(ROOT_INO, name)
                self.live_bytes -= old
                new = min(self.size(), max(KIB, live - self.live_bytes)) if self.live_bytes < live else 4 * KIB
                self.files[index] = await self._write_in_the_end(new)
                self.busy.discard(index)

        await self._side_by_side(client)

    async def _write_in_the_end(self, size: int) -> tuple[bytes, int]:
        """Write a file, as often as it takes; a refusal is counted."""
        for _ in range(300):
            try:
                return await self.write(size), size
            except NoSpace:
                self.refused += 1
                size = max(KIB, size // 2)
                await trio.sleep(0.1)
        raise NoSpace("the volume takes no writes any more, though files were deleted")

    def _pick(self) -> int:
        while True:
            pick = hot_and_cold if self.is_hot else uniform
            index = pick(self.source, len(self.files))
            if index not in self.busy:
                return index

    async def _side_by_side(self, client) -> None:  # type: ignore[no-untyped-def]
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(client)


@asynccontextmanager
async def opened(folder: Path, disk_bytes: int) -> AsyncIterator[Volume]:
    """A new volume in a directory."""
    sizes = sizes_for(disk_bytes, DISKS, LOG_REPLICAS)
    config = VolumeConfig(
        uuid=uuid.uuid4().hex,
        data_units=4,
        parity_units=2,
        disks=tuple(
            DiskConfig(disk_id=index, path=str(folder / f"disk{index}"), uuid=uuid.uuid4().hex, bytes_max=disk_bytes)
            for index in range(DISKS)
        ),
        chunk_bytes=sizes.chunk_bytes,
        segment_bytes=sizes.segment_bytes,
        log_bytes_low=sizes.log_bytes_low,
        log_bytes_high=sizes.log_bytes_high,
    )
    config.check()
    for disk in config.disks:
        await format_disk(disk.path, superblock_of(config, disk, created_ns=0))
    disks = [LocalDisk(DiskId(disk.disk_id), disk.path, UUID(disk.uuid).bytes, disk_bytes) for disk in config.disks]
    backing = LmdbBacking(str(folder / "meta"), bytes_max=1 << 34, create=True)
    clock, randomness = SystemClock(), SystemRandom()
    try:
        await create_volume(config, disks=disks, fanout=LocalFanout(), backing=backing, clock=clock, random=randomness)
        async with open_volume(
            config,
            disks=disks,
            fanout=LocalFanout(),
            backing=backing,
            clock=clock,
            random=randomness,
            workers=TrioWorkers(),
        ) as volume:
            yield volume
    finally:
        with trio.CancelScope(shield=True):
            for local in disks:
                await local.close()
        backing.close()


async def measure(folder: Path, workload: str, disk_bytes: int, times: float, limit: float) -> Figures:
    """One workload."""
    raw = DISKS * disk_bytes
    pool = raw * 4 // 6
    async with opened(folder, disk_bytes) as volume:
        churn = Churn(volume, workload, seed=1)
        await churn.fill(pool // 2)
        churn.latencies.clear()
        await churn.churn(pool // 4)
        off = sorted(churn.latencies)
        await churn.fill(int(pool * FILL))
        filled = churn.live_bytes / pool
        before = volume.status().write_amplification
        series: list[tuple[float, float]] = []
        churn.latencies.clear()
        began = time.perf_counter()
        written = churn.written_bytes

        async def sample() -> None:
            while True:
                taken = volume.ledger.stripes.space().raw_used_bytes + sum(
                    (segment.end - segment.start) * len(segment.disks) for segment in volume.ledger.log.segments()
                )
                series.append((time.perf_counter() - began, churn.live_bytes * 6 / 4 / taken))
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sample)
            await churn.churn(int(pool * times), limit)
            nursery.cancel_scope.cancel()
        seconds = time.perf_counter() - began
        after = volume.status().write_amplification
        on = sorted(churn.latencies)
        user = after.user_bytes - before.user_bytes
        logged = after.logged_bytes - before.logged_bytes
        tiers = {name: after.stripe_bytes[name] - before.stripe_bytes[name] for name in after.stripe_bytes}
        log_bytes = after.log_bytes - before.log_bytes
        everything = log_bytes + sum(tiers.values())
        used = [share for _, share in series]
        return Figures(
            fill=round(filled, 4),
            times_written=round(user / pool, 2),
            utilisation_min=round(min(used), 4),
            utilisation_mean=round(statistics.fmean(used), 4),
            engine=round(everything / (3 * logged + 1.5 * user), 3),
            total=round(everything / user, 3),
            p50_on=round(on[len(on) // 2], 2),
            p99_on=round(on[len(on) * 99 // 100], 2),
            p50_off=round(off[len(off) // 2], 2),
            p99_off=round(off[len(off) * 99 // 100], 2),
            seconds=round(seconds, 1),
            user_mb_per_second=round((churn.written_bytes - written) / seconds / 1e6, 1),
            refused=churn.refused,
            tiers={"log": round(log_bytes / user, 3)} | {name: round(size / user, 3) for name, size in tiers.items()},
            series=series,
        )


def plot(path: Path, figures: dict[str, Figures]) -> None:
    """Utilisation over time."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("no plot: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 5))
    axes = figure.subplots()
    for name, found in figures.items():
        axes.plot([at for at, _ in found.series], [share for _, share in found.series], label=name)
    axes.axhline(0.9, color="grey", linestyle=":")
    axes.set(xlabel="seconds of churn", ylabel="utilisation", ylim=(0.7, 1.0))
    axes.legend()
    figure.savefig(path)
    print(f"plot: {path}", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small disks, under a minute in all")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the disks are made")
    parser.add_argument("--plot", default="churn.png", help="the picture to write (default: %(default)s)")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only these")
    options = parser.parse_args()
    disk_bytes = (96 if options.quick else 256) * MIB
    limit = 8.0 if options.quick else math.inf
    figures: dict[str, Figures] = {}
    cleaners: dict[str, dict[str, float]] = {}
    for workload in options.workload or WORKLOADS:
        folder = Path(tempfile.mkdtemp(prefix="churn-", dir=options.folder))
        try:
            figures[workload] = trio.run(measure, folder, workload, disk_bytes, 3.0, limit)
        finally:
            shutil.rmtree(folder)
        pick = hot_and_cold if workload.endswith("hot") else uniform
        segments = 100 if options.quick else 300
        cleaners[workload] = {
            policy: round(write_amplification(FILL, pick, greedy=policy == "greedy", segments=segments), 2)
            for policy in ("greedy", "cost_benefit")
        }
    plot(Path(options.plot), figures)
    worst = max(figures.values(), key=lambda found: found.engine)
    document = {
        "benchmark": "churn",
        "disk_bytes": disk_bytes,
        "utilisation_min": min(found.utilisation_min for found in figures.values()),
        "utilisation_mean": round(statistics.fmean(found.utilisation_mean for found in figures.values()), 4),
        "write_amplification_engine": worst.engine,
        "write_amplification_total": max(found.total for found in figures.values()),
        "write_amplification_cleaner_greedy": cleaners[next(iter(cleaners))]["greedy"],
        "p99_ms_reclaim_on": max(found.p99_on for found in figures.values()),
        "p99_ms_reclaim_off": max(found.p99_off for found in figures.values()),
        "workloads": {
            name: found._asdict() | {"series": None, "cleaner": cleaners[name]} for name, found in figures.items()
        },
    }
    if options.json:
        print(json.dumps(document))
        return
    for name, found in figures.items():
        print(
            f"{name:14} filled to {found.fill:.3f}, {found.times_written} pools written; "
            f"utilisation min {found.utilisation_min:.3f}, mean "
            f"{found.utilisation_mean:.3f}; written {found.engine:.2f} x what is needed, {found.total:.2f} x users' "
            f"(cleaner: greedy {cleaners[name]['greedy']}, cost-benefit {cleaners[name]['cost_benefit']}); p50/p99 "
            f"{found.p50_on}/{found.p99_on} ms, with room {found.p50_off}/{found.p99_off} ms; "
            f"{found.user_mb_per_second} MB/s, {found.refused} refused; {found.tiers}"
        )


if __name__ == "__main__":
    main()
