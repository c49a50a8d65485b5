"""What do two shard processes give over one, and what does a call cost in shard and client?

Client processes keep calls in flight (create, lookup, unlink, each a third, in directories spread over all partitions)
against one shard process, and against two, each in a new volume; the owner's own shard has no partition, so that it
does nothing. Changes are answered when they are durable on three disks. `ratio` is the rate of two over that of one.
Where clients and shards share the processors, it says little: `ratio_by_processor` is what the measured processor times
allow on two processors that do nothing else, `ratio_clients_elsewhere` the same if the clients ran elsewhere.
`--quick`: short; `--json`: one object on stdout. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import trio

from siltstone.birth import make_volume, plan_volume
from siltstone.core.caller import Caller
from siltstone.engine.disk.system import SystemClock, SystemRandom
from siltstone.home import Home
from siltstone.limits import GIB, PARTITION_COUNT
from siltstone.meta.shards.map import MapView, map_of
from siltstone.operations import perform
from siltstone.shard_service import link_to
from siltstone.supervisor import processor_seconds
from siltstone.types import ROOT_INO, Ino, ShardId

CLIENTS = 2
IN_FLIGHT = 128
"""Calls that each client keeps under way for each shard: with fewer each flush and each wakeup serves fewer."""

DIRECTORIES = 64
OWNER = {"uid": 0, "gid": 0}


async def make_directories(caller: Caller, directories: list[Ino]) -> None:
    """Directories for all clients; which partition each is in is chance, as always."""
    for number in range(DIRECTORIES):
        made = await caller.call("mkdir", ROOT_INO, b"directory %d" % number, mode=0o755, **OWNER)
        directories.append(made.ino)


def run_client(home: Home, client: int, tasks: int, directories: list[Ino], seconds: float, pipe: Connection) -> None:
    """One client process: says that it is ready, starts when told to, and sends what it did."""
    counts: Counter[str] = Counter()

    async def work(caller: Caller, task: int, until: float) -> None:
        number = 0
        while time.perf_counter() < until:
            directory = directories[(task + tasks * client + number) % DIRECTORIES]
            name = b"%d-%d-%d" % (client, task, number)
            await caller.call("create", directory, name, mode=0o100644, **OWNER)
            await caller.call("lookup", directory, name)
            await caller.call("unlink", directory, name)
            counts["operations"] += 3
            number += 1

    async def main() -> None:
        pipe.send("ready")
        await trio.to_thread.run_sync(pipe.recv)
        before, begun = own_seconds(), time.perf_counter()
        await with_caller(home, lambda caller: all_tasks(caller, begun + seconds))
        pipe.send((counts["operations"], time.perf_counter() - begun, own_seconds() - before))

    async def all_tasks(caller: Caller, until: float) -> None:
        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(work, caller, task, until)

    trio.run(main)


async def with_caller(home: Home, body: Any) -> None:
    """Run something with a front-end."""
    clock, partitions = SystemClock(), MapView(map_of(home.load_config()))
    caller = Caller(partitions, partial(link_to, home, clock), clock, SystemRandom())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        await body(caller)
        nursery.cancel_scope.cancel()


def own_seconds() -> float:
    """Processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path, shards: int, seconds: float) -> dict[str, Any]:
    """All of it with so many shard processes at work."""
    home = Home(folder / f"shards-{shards}")
    plan = plan_volume(home, [], code=None, bytes_max=2 * GIB, few_disks_allowed=False, shards=shards + 1)
    owners = bytes(1 + partition % shards for partition in range(PARTITION_COUNT))
    config = msgspec.structs.replace(plan.config, partition_owners=owners.hex(), balance_shards=False)
    trio.run(make_volume, home, plan._replace(config=config))
    command = [sys.executable, "-P", "-m", "siltstone", "serve", str(home.path), "--detached"]
    with home.log_file.open("ab") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n", home.log_file.read_text()
        pids = [shard["pid"] for shard in perform(home, "status")["meta"]["shards"] if shard["shard"] != ShardId(0)]
        directories: list[Ino] = []
        trio.run(with_caller, home, lambda caller: make_directories(caller, directories))
        results, shard_seconds = run_clients(home, IN_FLIGHT * shards, directories, seconds, pids)
    finally:
        server.terminate()
        server.wait()
    operations = sum(result[0] for result in results)
    return {
        "shards": shards,
        "clients": CLIENTS,
        "in_flight": CLIENTS * IN_FLIGHT * shards,
        "operations_per_second": sum(count / taken for count, taken, _ in results),
        "shard_us": shard_seconds / operations * 1e6,
        "client_us": sum(result[2] for result in results) / operations * 1e6,
        "shard_share": shard_seconds / shards / max(result[1] for result in results),
    }


def run_clients(
    home: Home, tasks: int, directories: list[Ino], seconds: float, pids: list[int]
) -> tuple[list[tuple[int, float, float]], float]:
    """What each client did: operations, seconds, processor seconds; and the processor seconds of the shards."""
    context = get_context("spawn")
    pipes, processes = [], []
    for client in range(CLIENTS):
        near, far = context.Pipe()
        process = context.Process(target=run_client, args=(home, client, tasks, directories, seconds, far), daemon=True)
        process.start()
        far.close()  # so that the end of a client that fails is noticed
        pipes.append(near)
        processes.append(process)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    before = sum(map(processor_seconds, pids))
    for pipe in pipes:
        pipe.send("go")
    results = [pipe.recv() for pipe in pipes]
    shard_seconds = sum(map(processor_seconds, pids)) - before
    for process in processes:
        process.join()
    return results, shard_seconds


def ratios(one: dict[str, Any], two: dict[str, Any]) -> dict[str, float]:
    """What two shards give over one."""

    def rate_alone(result: dict[str, Any]) -> float:
        """Operations a second on two processors: each shard has at most one, and clients need the rest."""
        shards, shard_us, client_us = (float(result[name]) for name in ("shards", "shard_us", "client_us"))
        return min(shards / shard_us, 2 / (shard_us + client_us))

    return {
        "ratio": two["operations_per_second"] / one["operations_per_second"],
        "ratio_by_processor": rate_alone(two) / rate_alone(one),
        "ratio_clients_elsewhere": 2 * one["shard_us"] / two["shard_us"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seconds each")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--dir", metavar="DIR", help="where to put the volumes (default: a temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        results = [measure(Path(folder), shards, 2 if options.quick else 15) for shards in (1, 2)]
    results[1] |= ratios(*results)
    load = os.getloadavg()[0]
    if options.json:
        json.dump({"bench": "meta_shards", "load_average": load, "results": results}, sys.stdout, indent=1)
        return
    for result in results:
        print(
            f"{result['shards']} shards, {result['in_flight']} calls in flight: {result['operations_per_second']:,.0f} "
            f"operations/s; processor: {result['shard_us']:,.0f} us in shards (each had {result['shard_share']:.2f} of "
            f"one), {result['client_us']:,.0f} us in clients"
        )
    shown = ", ".join(f"{name} {value:.2f}" for name, value in results[1].items() if name.startswith("ratio"))
    print(f"two over one: {shown} (load average {load:.1f})")


if __name__ == "__main__":
    main()
