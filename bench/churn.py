"""How much of the disks is useful under churn, and what does that cost?

A volume (4+2, small disks, everything else as `siltstone init` would have it) is filled until files with their parity
take 90 % of the raw space of its disks. Then they are overwritten and deleted at random until three times the pool's
size was written (with --quick, until the time is up): half of the changes replace a file by one of another size, a
quarter deletes one and makes another, a quarter overwrites a part of one in place; where less lives than should, more
files are made. Sizes: `mixed` 1 KiB ... 8 MiB (log-uniform), `small` 4 ... 16 KiB; files are picked at random
(`uniform`), or in 80 % of the cases among the first 20 % (`hot`). Eight clients, and every change is flushed (fsync)
before it counts.

utilisation: living bytes with their parity and the log's copies, as a share of what stripes and the log take on the
disks, sampled ten times a second (`status`: utilisation_with_log); _stripes: the same of stripes alone.
write_amplification_engine: all bytes written to disks, as a multiple of 3 copies of what went through the log plus
everything once with its parity; _total: of users' bytes. write_amplification_cleaner_*: pages that a simulated
log-structured cleaner writes for each page of the user when 90 % of its space lives (bench/baseline/cleaner.py).
p50/p99_ms_reclaim_on: how long changes took at 90 %, waits for room and refusals that were tried again included; _off:
the same changes with half of the pool full, where there is nothing to reclaim.

A picture of utilisation over time is written if matplotlib is installed (`pip install -e .[bench]`).
`python bench/churn.py [--quick] [--json] [--folder DIR] [--disk-mib N] [--plot FILE] [--workload NAME ...]`.
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
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio
from baseline.cleaner import hot_and_cold, uniform, write_amplification
from local.volume import disk_config, opened

from siltstone.config import VolumeConfig
from siltstone.core.status import VolumeStatus
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace
from siltstone.geometry import sizes_for
from siltstone.limits import KIB, LOG_REPLICAS, MIB
from siltstone.types import ROOT_INO, Ino

DISKS, DATA_UNITS = 6, 4
FILL = 0.90
"""Of the raw space, files with their parity."""

FULL_SHARE = 0.95
"""Where the pool is full before, so much of what it took; `fill` says what that is."""

CLIENTS = 8
RETRY_SECONDS = 0.1
RETRIES_MAX = 300
PATTERN = random.Random(0).randbytes(16 * MIB)
WORKLOADS = ("mixed-uniform", "mixed-hot", "small-uniform", "small-hot")

QUICK_DISK_MIB = {"mixed": 256, "small": 128}
QUICK_CHURN_SECONDS = 5.0
QUICK_FILL_SECONDS = 16.0


class Figures(NamedTuple):
    """What one workload came to."""

    disk_bytes: int
    fill: float
    """What really lived when the churn began; less than FILL where the time was up, or the pool full."""
    pools_written: float
    utilisation_min: float
    utilisation_mean: float
    utilisation_stripes_min: float
    engine: float
    total: float
    p50_on: float
    p99_on: float
    p50_off: float
    p99_off: float
    changes: int
    seconds: float
    user_mb_per_second: float
    refusals: int
    """How often a change was refused for want of room, and tried again."""
    tiers: dict[str, float]
    """Bytes written to disks for each byte of users, by what for."""
    series: list[tuple[float, float]]


class File(NamedTuple):
    """A file of the volume."""

    name: bytes
    ino: Ino
    size: int


class Churn:
    """Files of a volume that come, change and go."""

    def __init__(self, volume: Volume, *, is_small: bool, seed: int) -> None:
        self.volume = volume
        self.source = random.Random(seed)
        self.is_small = is_small
        self.is_hot = False
        self.files: list[File] = []
        self.busy: set[int] = set()
        self.live_bytes = 0
        self.target_bytes = 0
        self.written_bytes = 0
        self.refusals = 0
        self.latencies: list[float] = []
        self._serial = 0

    def size(self) -> int:
        """Of the next file: drawn, and cut where more would live than should."""
        if self.is_small:
            drawn = self.source.randint(4 * KIB, 16 * KIB)
        else:
            drawn = int(math.exp(self.source.uniform(math.log(KIB), math.log(8 * MIB))))
        return min(drawn, max(KIB, self.target_bytes - self.live_bytes))

    def data(self, size: int) -> bytes:
        """Bytes to write."""
        start = self.source.randrange(len(PATTERN) - size)
        return PATTERN[start : start + size]

    async def fill(self, target: int, seconds: float) -> None:
        """Write files until so many bytes live, the time is up or the pool is full; flushed at the end, all together.

        Of a full pool FULL_SHARE stays: who writes to it up to its last byte has nothing to change files with.
        """
        self.target_bytes = target
        deadline = time.perf_counter() + seconds

        async def client() -> None:
            while self.live_bytes < self.target_bytes and time.perf_counter() < deadline:
                size = self.size()
                try:
                    self.files.append(await self._create(size))
                    await self.volume.flush(self.files[-1].ino)
                except NoSpace:
                    self.target_bytes = min(self.target_bytes, int(self.live_bytes * FULL_SHARE))

        await self._side_by_side(client)
        await self.volume.sync()
        while self.live_bytes > self.target_bytes:
            file = self.files.pop()
            await self.volume.unlink(ROOT_INO, file.name)
            self.live_bytes -= file.size

    async def churn(self, size: int, seconds: float) -> None:
        """Change files until so many bytes were written, or the time is up; as much lives afterwards."""
        end = self.written_bytes + size
        deadline = time.perf_counter() + seconds
        largest = 16 * KIB if self.is_small else 8 * MIB

        async def client() -> None:
            while self.written_bytes < end and time.perf_counter() < deadline:
                if self.live_bytes + largest < self.target_bytes:
                    await self._add()
                    continue
                index = self._pick()
                self.busy.add(index)
                kind = self.source.randrange(4)
                change = self._overwrite_part if kind == 0 else self._delete_and_create if kind == 1 else self._replace
                await change(index)
                self.busy.discard(index)

        await self._side_by_side(client)

    # --- changes -----------------------------------------------------------------------------------------------------

    async def _create(self, size: int) -> File:
        self._serial += 1
        name = b"%d" % self._serial
        self.live_bytes += size
        self.written_bytes += size
        ino = (await self.volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
        await self.volume.write(ino, 0, self.data(size))
        return File(name, ino, size)

    async def _add(self) -> None:
        size = self.size()

        async def change() -> None:
            self.files.append(await self._create_durable(size))

        await self._timed(change)

    async def _replace(self, index: int) -> None:
        """As editors and S3 do: the new file is whole before the old one goes."""
        old = self.files[index]
        size = self.size() if self.live_bytes - old.size < self.target_bytes else KIB

        async def change() -> None:
            new = await self._create_durable(size)
            await self.volume.rename(ROOT_INO, new.name, ROOT_INO, old.name)
            self.live_bytes -= old.size
            self.files[index] = new._replace(name=old.name)

        await self._timed(change)

    async def _delete_and_create(self, index: int) -> None:
        old = self.files[index]
        await self.volume.unlink(ROOT_INO, old.name)
        self.live_bytes -= old.size
        size = self.size()

        async def change() -> None:
            self.files[index] = await self._create_durable(size)

        await self._timed(change)

    async def _overwrite_part(self, index: int) -> None:
        file = self.files[index]
        size = min(self.size(), file.size)
        at = self.source.randrange(file.size - size + 1)

        async def change() -> None:
            await self.volume.write(file.ino, at, self.data(size))
            await self.volume.fsync(file.ino)

        await self._timed(change)
        self.written_bytes += size

    async def _create_durable(self, size: int) -> File:
        live, written = self.live_bytes, self.written_bytes
        try:
            file = await self._create(size)
            await self.volume.fsync(file.ino)
        except NoSpace:
            self.live_bytes, self.written_bytes = self.live_bytes - size, written
            assert self.live_bytes <= live + 8 * CLIENTS * MIB
            raise
        return file

    async def _timed(self, change: Callable[[], Awaitable[None]]) -> None:
        """Make a change, as often as it takes; what it took in all is its latency."""
        began = time.perf_counter()
        for _ in range(RETRIES_MAX):
            try:
                await change()
            except NoSpace:
                self.refusals += 1
                await trio.sleep(RETRY_SECONDS)
            else:
                self.latencies.append((time.perf_counter() - began) * 1e3)
                return
        raise NoSpace("the volume takes no changes any more, though as much lives as before")

    def _pick(self) -> int:
        pick = hot_and_cold if self.is_hot else uniform
        while (index := pick(self.source, len(self.files))) in self.busy:
            pass
        return index

    async def _side_by_side(self, client: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(client)


def config_for(folder: Path, disk_bytes: int) -> VolumeConfig:
    """The settings of a new volume in a directory, with the sizes that `siltstone init` gives such disks."""
    sizes = sizes_for(disk_bytes, DISKS, LOG_REPLICAS)
    return VolumeConfig(
        uuid=uuid.uuid4().hex,
        data_units=DATA_UNITS,
        parity_units=DISKS - DATA_UNITS,
        disks=tuple(disk_config(folder, index, disk_bytes) for index in range(DISKS)),
        chunk_bytes=sizes.chunk_bytes,
        segment_bytes=sizes.segment_bytes,
        log_bytes_low=sizes.log_bytes_low,
        log_bytes_high=sizes.log_bytes_high,
    )


async def measure(folder: Path, workloads: list[str], disk_bytes: int, *, is_quick: bool) -> dict[str, Figures]:
    """Workloads with files of one kind, one after the other on the same volume."""
    pool = disk_bytes * DATA_UNITS
    churn_seconds = QUICK_CHURN_SECONDS if is_quick else math.inf
    fill_seconds = QUICK_FILL_SECONDS / 2 if is_quick else math.inf
    figures: dict[str, Figures] = {}
    async with opened(folder, config_for(folder, disk_bytes)) as (volume, _):
        churn = Churn(volume, is_small=workloads[0].startswith("small"), seed=1)
        await churn.fill(pool // 2, fill_seconds)
        await churn.churn(pool // 4, churn_seconds / 3)
        off = sorted(churn.latencies)
        await churn.fill(int(pool * FILL), fill_seconds)
        for workload in workloads:
            churn.is_hot = workload.endswith("hot")
            figures[workload] = await _at_fill(churn, pool, 3 * pool, churn_seconds, off)
    return figures


async def _at_fill(churn: Churn, pool: int, size: int, seconds: float, off: list[float]) -> Figures:
    volume = churn.volume
    churn.latencies.clear()
    churn.refusals = 0
    filled = churn.live_bytes / pool
    before = volume.status().write_amplification
    samples: list[tuple[float, VolumeStatus]] = []
    began = time.perf_counter()
    written = churn.written_bytes

    async def sample() -> None:
        while True:
            samples.append((time.perf_counter() - began, volume.status()))
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sample)
        await churn.churn(size, seconds)
        nursery.cancel_scope.cancel()
    took = time.perf_counter() - began
    after = volume.status().write_amplification
    on = sorted(churn.latencies)
    user = after.user_bytes - before.user_bytes
    logged = after.logged_bytes - before.logged_bytes
    tiers = {name: after.stripe_bytes[name] - before.stripe_bytes[name] for name in after.stripe_bytes}
    log_bytes = after.log_bytes - before.log_bytes
    everything = log_bytes + sum(tiers.values())
    used = [status.utilisation_with_log for _, status in samples]
    return Figures(
        disk_bytes=pool // DATA_UNITS,
        fill=round(filled, 4),
        pools_written=round(user / pool, 2),
        utilisation_min=round(min(used), 4),
        utilisation_mean=round(statistics.fmean(used), 4),
        utilisation_stripes_min=round(min(status.utilisation for _, status in samples), 4),
        engine=round(everything / (LOG_REPLICAS * logged + DISKS / DATA_UNITS * user), 3),
        total=round(everything / user, 3),
        p50_on=round(on[len(on) // 2], 2),
        p99_on=round(on[len(on) * 99 // 100], 2),
        p50_off=round(off[len(off) // 2], 2),
        p99_off=round(off[len(off) * 99 // 100], 2),
        changes=len(on),
        seconds=round(took, 1),
        user_mb_per_second=round((churn.written_bytes - written) / took / 1e6, 1),
        refusals=churn.refusals,
        tiers={"log": round(log_bytes / user, 3)} | {name: round(size / user, 3) for name, size in tiers.items()},
        series=[(round(at, 2), status.utilisation_with_log) for at, status in samples],
    )


def plot(path: Path, figures: dict[str, Figures]) -> None:
    """Utilisation over time."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("no plot: matplotlib is not installed (pip install -e .[bench])", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 5))
    axes = figure.subplots()
    for name, found in figures.items():
        axes.plot([at for at, _ in found.series], [share for _, share in found.series], label=name)
    axes.axhline(0.9, color="grey", linestyle=":")
    axes.set(xlabel="seconds of churn", ylabel="utilisation", ylim=(0.8, 1.0))
    axes.legend()
    figure.savefig(path)
    print(f"plot: {path}", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small disks, under a minute in all")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the disks are made")
    parser.add_argument("--disk-mib", type=int, help="size of each of the six disks (default: 512; quick: 256 and 128)")
    parser.add_argument("--plot", default="churn.png", help="the picture to write (default: %(default)s)")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only these")
    options = parser.parse_args()
    figures: dict[str, Figures] = {}
    wanted = options.workload or WORKLOADS
    for kind in ("mixed", "small"):
        workloads = [name for name in wanted if name.startswith(kind)]
        if not workloads:
            continue
        disk_bytes = (options.disk_mib or (QUICK_DISK_MIB[kind] if options.quick else 512)) * MIB
        folder = Path(tempfile.mkdtemp(prefix="churn-", dir=options.folder))
        try:
            figures |= trio.run(partial(measure, folder, workloads, disk_bytes, is_quick=options.quick))
        finally:
            shutil.rmtree(folder)
    cleaners = {
        f"{'hot' if pick is hot_and_cold else 'uniform'}_{policy}": round(
            write_amplification(FILL, pick, greedy=policy == "greedy", segments=100 if options.quick else 300), 2
        )
        for pick in (uniform, hot_and_cold)
        for policy in ("greedy", "cost_benefit")
    }
    plot(Path(options.plot), figures)
    document = {
        "bench": "churn",
        "fill": FILL,
        "utilisation_min": min(found.utilisation_min for found in figures.values()),
        "utilisation_mean": round(statistics.fmean(found.utilisation_mean for found in figures.values()), 4),
        "write_amplification_engine": max(found.engine for found in figures.values()),
        "write_amplification_total": max(found.total for found in figures.values()),
        "write_amplification_cleaner_greedy": cleaners["uniform_greedy"],
        "write_amplification_cleaners": cleaners,
        "p99_ms_reclaim_on": max(found.p99_on for found in figures.values()),
        "p99_ms_reclaim_off": max(found.p99_off for found in figures.values()),
        "p99_ratio": max(round(found.p99_on / found.p99_off, 2) for found in figures.values()),
        "results": [{"workload": name} | found._asdict() for name, found in figures.items()],
    }
    if options.json:
        print(json.dumps(document))
        return
    for name, found in figures.items():
        print(
            f"{name:14} {found.fill:.3f} of the pool lives, {found.pools_written} pools written in {found.seconds} s\n"
            f"    utilisation min {found.utilisation_min:.3f}, mean {found.utilisation_mean:.3f}; of stripes alone min "
            f"{found.utilisation_stripes_min:.3f}\n"
            f"    written: {found.engine:.2f} x what log and parity need, {found.total:.2f} x users': {found.tiers}\n"
            f"    p50/p99 {found.p50_on}/{found.p99_on} ms, with room {found.p50_off}/{found.p99_off} ms: "
            f"{found.p99_on / found.p99_off:.2f} x; {found.user_mb_per_second} MB/s, {found.changes} changes, "
            f"{found.refusals} refusals"
        )
    print(f"a log-structured cleaner at the same living share writes, for each page of users: {cleaners}")


if __name__ == "__main__":
    main()
