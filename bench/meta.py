"""Is the metadata fast enough in one process, and does it stay so with many files, crowded directories, deep paths?

`store`, `namespace`: rates in one process (bench/metadata/operations.py). `contention`: 64 writers who make files in
one directory, beside 64 directories. `depth`: an object ten levels deep beside one level (paths.py). `bytes`: what a
file takes in the records and in LMDB (sizes.py). With `--files N`, up to 10,000,000, a volume is filled instead, and
how it does on the way is drawn (scale.py): about a minute for a million files on an idle core, 250 bytes each on disk.

Rates are told by the clock and by the processor time of the event loop's thread; ratios are by the latter, so that what
else runs on the machine matters less.
`python bench/meta.py [--quick] [--json] [--folder DIR] [--files N] [--plot FILE]`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import trio
from churn import config_for
from local.volume import opened
from metadata.host import Rate, load
from metadata.operations import Contention, Figure, measure_contention, measure_names, measure_store
from metadata.paths import Depths, IndexCost, measure_depths, measure_index
from metadata.scale import Cold, Point, measure_scale, plot
from metadata.sizes import FileBytes, measure_sizes

from siltstone.limits import GIB
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS

DISK_BYTES = 4 * GIB
"""What each of the six disks may take; empty files take nothing of it but the log."""

TARGETS = {"contention": 0.7, "depth": 1.3, "lmdb_gb": 6.0, "resident_gib": 1.0}
"""At least, at most, at most, at most."""


class Measured:
    """Everything that a run found."""

    def __init__(self, store: list[Figure], namespace: list[Figure], contention: Contention) -> None:
        self.store = store
        self.namespace = namespace
        self.contention = contention
        self.depths: Depths
        self.index: IndexCost
        self.sizes: list[FileBytes]


async def measure(folder: Path, is_quick: bool) -> Measured:
    """All but the scale, each on what the one before left, which is little."""
    count = 20_000 if is_quick else 100_000
    async with opened(folder, config_for(folder, DISK_BYTES)) as (volume, _):
        measured = Measured(
            [figure async for figure in measure_store(volume, folder, count)],
            [figure async for figure in measure_names(volume, folder, count // 2)],
            await measure_contention(volume, count // 4, rounds=3),
        )
        measured.depths = await measure_depths(volume, 5 if is_quick else 20)
        measured.index = measure_index()
        measured.sizes = await measure_sizes(volume, 1_000 if is_quick else 10_000)
    return measured


async def fill(folder: Path, files: int) -> tuple[list[Point], Cold]:
    """The scale run."""
    async with opened(folder, config_for(folder, DISK_BYTES)) as (volume, _):
        return await measure_scale(volume, files)


def document_of(measured: Measured) -> dict[str, Any]:
    """The JSON document."""

    def shown(rate: Rate) -> dict[str, float]:
        return {name: round(value) for name, value in rate._asdict().items()}

    figures = [*measured.store, *measured.namespace]
    return {
        "bench": "meta",
        "load": load(),
        "results": [
            {"what": figure.what, **shown(figure.rate), "ratio": figure.ratio}
            | {f"floor_{name}": value for name, value in shown(figure.floor).items()}
            | ({} if figure.target is None else {"target_per_second": figure.target})
            for figure in figures
        ],
        "ratios": {
            "64 writers in one directory over 64": measured.contention.ratio,
            "ten levels over one": measured.depths.ratio,
            "ten levels over one, an entry at a time": measured.depths.ratio_one_by_one,
        },
        "contention": {
            "apart": shown(measured.contention.apart),
            "together": shown(measured.contention.together),
        },
        "depth_us": measured.depths._asdict(),
        "index": measured.index._asdict(),
        "bytes": [found._asdict() | {"fill": found.fill} for found in measured.sizes],
        "targets": TARGETS,
    }


def show(measured: Measured) -> None:
    """The tables for people."""
    print(f"{'per second':26} {'clock':>11} {'processor':>11} {'floor':>11} {'ratio':>6} {'target':>9}")
    for figure in (*measured.store, *measured.namespace):
        target = "" if figure.target is None else f"{figure.target:,}"
        print(
            f"{figure.what:26} {figure.rate.per_second:11,.0f} {figure.rate.per_processor_second:11,.0f} "
            f"{figure.floor.per_processor_second:11,.0f} {figure.ratio:6.2f} {target:>9}"
        )
    both = measured.contention
    print(
        f"64 writers: {both.apart.per_processor_second:,.0f} creates/s in 64 directories, "
        f"{both.together.per_processor_second:,.0f} in one: {both.ratio:.2f} (at least {TARGETS['contention']})"
    )
    depths = measured.depths
    print(f"{'us for a key of elements':26}" + "".join(f"{depth:>8}" for depth in depths.indexed) + "   ten over one")
    for name, found in depths._asdict().items():
        row = "".join(f"{value:8.2f}" for value in found.values())
        limit = f" (at most {TARGETS['depth']})" if name == "indexed" else ""
        print(f"{name.replace('_', ' '):26}{row}   {found[10] / found[1]:.2f}{limit}")
    cost = measured.index
    print(
        f"directory index: {cost.bytes_per_directory} bytes a directory, {cost.mib_when_full} MiB when full, "
        f"{cost.us_per_batch} us a batch"
    )
    print(f"{'bytes for a file':26} {'pages':>8} {'fill':>6}  records")
    for size in measured.sizes:
        parts = ", ".join(f"{name} {value:.0f}" for name, value in size.records.items())
        print(f"{size.kind:26} {size.pages:8.0f} {size.fill:6.2f}  {parts}")
    print(f"load of the machine: {load()}")


def show_scale(points: list[Point], cold: Cold) -> None:
    """The table for people."""
    print(
        f"{'files':>11} {'creates/s':>10} {'processor':>10} {'stat p50/p99 us':>16} {'lookup p50/p99':>16} "
        f"{'LMDB MB':>8} {'a file':>7} {'own MiB':>8} {'mapped':>8} {'load':>6}"
    )
    for point in points:
        print(
            f"{point.files:11,} {point.creates_per_second:10,.0f} {point.creates_per_processor_second:10,.0f} "
            f"{point.stat_p50_us:8.1f}/{point.stat_p99_us:7.1f} "
            f"{point.lookup_p50_us:8.1f}/{point.lookup_p99_us:7.1f} "
            f"{point.lmdb_bytes / 1e6:8,.0f} {point.lmdb_bytes_per_file:7.1f} {point.own_mib:8,.0f} "
            f"{point.mapped_mib:8,.0f} {point.load:6.2f}"
        )
    print(f"with nothing of LMDB in memory: lookup p50/p99 {cold.p50_us:,.0f}/{cold.p99_us:,.0f} us")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the work, under a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the disks are made")
    parser.add_argument("--files", type=int, help="only the scale run, with so many files (from 10,000 on)")
    parser.add_argument("--plot", default="meta.png", help="the picture that the scale run writes (%(default)s)")
    options = parser.parse_args()
    if options.files is not None and not 10_000 <= options.files <= 10_000_000:
        parser.error("--files: from 10,000 to 10,000,000")
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    folder = Path(tempfile.mkdtemp(prefix="meta-", dir=options.folder))
    try:
        if options.files is not None:
            points, cold = trio.run(partial(fill, folder, options.files))
            plot(Path(options.plot), points)
            if options.json:
                scale = [point._asdict() for point in points]
                print(json.dumps({"bench": "meta", "scale": scale, "cold": cold._asdict(), "targets": TARGETS}))
            else:
                show_scale(points, cold)
            return
        measured = trio.run(partial(measure, folder, options.quick))
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(document_of(measured)))
    else:
        show(measured)


if __name__ == "__main__":
    main()
