"""What do those notice who work on a volume while its partitions go from process to process?

A front-end keeps calls in flight (create, lookup, unlink, each a third, in directories spread over all partitions) on a
volume of three shards: first while nothing moves, then while all partitions are gathered in one shard and spread over
three, again and again (`siltstone meta shards`). `longest_ratio` is the longest call of then over that of before, and
`rate_ratio` the rate. Changes are answered when they are durable on three disks. No call may fail.
`--quick`: short; `--json`: one object on stdout. Run it alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio
from local.report import folder_for, options_of, show

from siltstone.birth import make_volume, plan_volume
from siltstone.control import request
from siltstone.core.caller import Caller
from siltstone.engine.disk.system import SystemClock, SystemRandom
from siltstone.home import Home
from siltstone.limits import GIB
from siltstone.meta.shards.map import MapView, map_of
from siltstone.shard_service import link_to
from siltstone.types import ROOT_INO, Ino

SHARDS = 3
IN_FLIGHT = 16
DIRECTORIES = 64
OWNER = {"uid": 0, "gid": 0}


async def work(caller: Caller, directories: list[Ino], goes_on: Callable[[], bool]) -> list[float]:
    """How long each call took, in seconds."""
    taken: list[float] = []

    async def timed(name: str, *arguments: object, **named: object) -> None:
        begun = time.perf_counter()
        await caller.call(name, *arguments, **named)
        taken.append(time.perf_counter() - begun)

    async def client(number: int) -> None:
        count = 0
        while goes_on():
            directory = directories[(number + count) % DIRECTORIES]
            name = b"%d-%d" % (number, count)
            await timed("create", directory, name, mode=0o100644, **OWNER)
            await timed("lookup", directory, name)
            await timed("unlink", directory, name)
            count += 1

    async with trio.open_nursery() as nursery:
        for number in range(IN_FLIGHT):
            nursery.start_soon(client, number)
    return sorted(taken)


async def measure(home: Home, seconds: float, files: int) -> dict[str, object]:
    """All of it."""
    caller = Caller(
        MapView(map_of(home.load_config())), partial(link_to, home, SystemClock()), SystemClock(), SystemRandom()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        directories: list[Ino] = []
        for number in range(DIRECTORIES):
            made = await caller.call("mkdir", ROOT_INO, b"directory %d" % number, mode=0o755, **OWNER)
            directories.append(made.ino)
        for number in range(files):
            name = b"file %d" % number
            await caller.call("create", directories[number % DIRECTORIES], name, mode=0o100644, **OWNER)

        async def for_a_while() -> tuple[list[float], float]:
            begun = time.perf_counter()
            return await work(caller, directories, lambda: time.perf_counter() < begun + seconds), seconds

        still, still_seconds = await for_a_while()
        moved = 0
        begun = time.perf_counter()
        is_moving = True
        during: list[float] = []

        async def keep_working() -> None:
            during.extend(await work(caller, directories, lambda: is_moving))

        async with trio.open_nursery() as both:
            both.start_soon(keep_working)
            while time.perf_counter() < begun + seconds:
                for count in (1, SHARDS):
                    done = await trio.to_thread.run_sync(request, home, "meta_spread", {"shards": count})
                    moved += done["moved"]
            is_moving = False
        moving_seconds = time.perf_counter() - begun
        nursery.cancel_scope.cancel()
    rate_still, rate_during = len(still) / still_seconds, len(during) / moving_seconds
    return {
        "files": files,
        "partitions_moved": moved,
        "partitions_moved_per_second": round(moved / moving_seconds, 1),
        "operations_per_second_still": round(rate_still),
        "operations_per_second_moving": round(rate_during),
        "p99_ms_still": round(still[len(still) * 99 // 100] * 1e3, 1),
        "p99_ms_moving": round(during[len(during) * 99 // 100] * 1e3, 1),
        "longest_ms_still": round(still[-1] * 1e3, 1),
        "longest_ms_moving": round(during[-1] * 1e3, 1),
        "longest_ratio": round(during[-1] / still[-1], 2),
        "rate_ratio": round(rate_during / rate_still, 2),
        "calls_that_followed": caller.moved,
        "load_average": os.getloadavg()[0],
    }


def run(folder: Path, seconds: float, files: int) -> dict[str, object]:
    """On a new volume."""
    home = Home(folder / "volume")
    plan = plan_volume(home, [], code=None, bytes_max=2 * GIB, few_disks_allowed=False, shards=SHARDS)
    trio.run(make_volume, home, plan)
    command = [sys.executable, "-P", "-m", "siltstone", "serve", str(home.path), "--detached"]
    with home.log_file.open("ab") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n", home.log_file.read_text()
        return trio.run(measure, home, seconds, files)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Measure and print."""
    options = options_of(__doc__, files_quick=2000).parse_args()
    with folder_for("meta_move", options.folder) as folder:
        files = options.files or (2000 if options.quick else 20_000)
        show("meta_move", run(folder, 5 if options.quick else 30, files), as_json=options.json)


if __name__ == "__main__":
    main()
