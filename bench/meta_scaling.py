"""How many operations a second would 1, 2, 4, 8 shards do, each on a processor of its own?

A simulation with service times that are measured in the same run: `meta_shards.py` with one shard says what an
operation (create, lookup, unlink, a third each) costs in the shard's process. Then clients that always have the same
number of calls under way for each shard ask shards at random. What is assumed:

* each shard has a processor to itself, and clients have enough of their own; disks and memory are no limit;
* an operation takes its measured time in one shard, one after the other, and is answered `--flush-ms` later, which many
  share (a durable append), with a spread of a half;
* `--spanning` of the operations (1 %, as in production: FACTS) need a second shard: both are busy twice as long (a
  function that runs twice, and two messages there, two here), one after the other, and each waits for its own flush;
* partitions are evenly loaded, or as `--hot` says: so much of the load is about one partition, which one shard has.

`ratio` is the rate over that of one shard. `--quick`: shorter; `--json`: one object on stdout.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import tempfile
from itertools import count
from pathlib import Path

from meta_shards import measure

SHARDS = (1, 2, 4, 8)
IN_FLIGHT = 256
"""Calls under way for each shard."""

SPANNING_TIMES = 2.0
"""How much longer each of two shards is busy with an operation over both."""


class Station:
    """A shard's processor: one thing after the other."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.busy_seconds = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When something that comes now, and takes so long, is done."""
        begun = max(now, self.free_at)
        self.free_at = begun + seconds
        self.busy_seconds += seconds
        return self.free_at


def simulate(
    shards: int,
    *,
    service_seconds: float,
    flush_seconds: float,
    spanning: float,
    hot: float,
    operations: int,
    seed: int,
) -> tuple[float, float]:
    """Operations a second, and how busy the busiest shard was."""
    chance = random.Random(seed)
    stations = [Station() for _ in range(shards)]
    order = count()
    # What comes when: a new call, or (a shard) the second part there of one that has been prepared at another. In the
    # order of time, so that nobody is served before whoever came earlier.
    coming: list[tuple[float, int, int | None]] = [
        (chance.random() * service_seconds * IN_FLIGHT, next(order), None) for _ in range(IN_FLIGHT * shards)
    ]
    heapq.heapify(coming)
    done = 0
    now = 0.0
    while done < operations:
        now, _, prepared_for = heapq.heappop(coming)
        seconds = service_seconds * chance.uniform(0.5, 1.5)
        flush = flush_seconds * chance.uniform(0.5, 1.5)
        shard = 0 if chance.random() < hot else chance.randrange(shards)
        if prepared_for is not None:
            end, then = stations[prepared_for].serve(now, SPANNING_TIMES * seconds), None
        elif shards > 1 and chance.random() < spanning:
            other = (shard + 1 + chance.randrange(shards - 1)) % shards
            end, then = stations[other].serve(now, SPANNING_TIMES * seconds), shard
        else:
            end, then = stations[shard].serve(now, seconds), None
        done += then is None
        heapq.heappush(coming, (end + flush, next(order), then))
    return done / now, max(station.busy_seconds for station in stations) / now


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seconds of measuring, fewer operations")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--dir", metavar="DIR", help="where to put the measured volume (default: a temporary directory)"
    )
    parser.add_argument("--flush-ms", type=float, default=5.0, help="a durable append (%(default)s)")
    parser.add_argument(
        "--spanning", type=float, default=0.01, help="share of operations over two shards (%(default)s)"
    )
    parser.add_argument("--hot", type=float, default=0.0, help="share of the load that one partition has (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        measured = measure(Path(folder), 1, 2 if options.quick else 10)
    results = []
    for shards in SHARDS:
        rate, busiest = simulate(
            shards,
            service_seconds=measured["shard_us"] / 1e6,
            flush_seconds=options.flush_ms / 1e3,
            spanning=options.spanning,
            hot=options.hot,
            operations=shards * (20_000 if options.quick else 200_000),
            seed=1,
        )
        results.append({"shards": shards, "operations_per_second": round(rate), "busiest_share": round(busiest, 3)})
    for result in results:
        result["ratio"] = round(result["operations_per_second"] / results[0]["operations_per_second"], 2)
    if options.json:
        json.dump({"bench": "meta_scaling", "shard_us": measured["shard_us"], "results": results}, sys.stdout, indent=1)
        return
    print(f"an operation takes {measured['shard_us']:.0f} us of a shard's processor (measured)")
    for result in results:
        bar = "#" * round(5 * result["ratio"])
        print(f"{result['shards']} shards {result['operations_per_second']:>8,}/s  {result['ratio']:5.2f}  {bar}")


if __name__ == "__main__":
    main()
