"""A volume of several shards in real processes, and clients whose calls must survive `kill -9` of any of them.

Each client works on names of its own, so that what must be there is known exactly: every call that was answered, and
since a call is sent again until it is answered, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from kills.s3_clients import S3Clients
from siltstone.control import request
from siltstone.core.caller import Caller
from siltstone.engine.disk.system import SystemClock, SystemRandom
from siltstone.errors import SiltstoneError
from siltstone.home import Home
from siltstone.meta.shards.map import MapView, map_of
from siltstone.shard_service import link_to
from siltstone.types import ROOT_INO, Ino, ShardId, partition_of
from sim.command import PATIENCE_SECONDS, siltstone
from sim.served import MAIN

OWNER = {"uid": 0, "gid": 0}

CLIENTS = 10
S3_CLIENTS = 4
DIRECTORIES = 9
DISKS = 6
PAUSE_SECONDS = (0.5, 4.0)
"""Between two kills."""


WORKER = "siltstone.s3_worker"


class ShardedPlace:
    """A volume of several shards, and who serves it."""

    def __init__(self, path: Path, shards: int, *, s3_port: int = 0, s3_workers: int = 2) -> None:
        """``s3_port``: serve S3 there, with so many workers."""
        self.home = Home(path / "volume")
        self.count = shards
        self.s3_port = s3_port
        self._s3_workers = s3_workers
        self._new_disks = 0
        self.process: subprocess.Popen[str] | None = None
        made = siltstone("init", self.home.path, "--shards", str(shards), "--disk-size", "512M")
        assert made.returncode == 0, made
        if s3_port:
            added = siltstone("key", "add", self.home.path, "--access", MAIN.access, "--secret", MAIN.secret)
            assert added.returncode == 0, added

    def start(self) -> None:
        """Serve, and return when it does."""
        command = [sys.executable, "-P", "-m", "siltstone", "serve", str(self.home.path), "--detached"]
        if self.s3_port:
            command += ["--s3", f"127.0.0.1:{self.s3_port}", "--s3-workers", str(self._s3_workers)]
        with self.home.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        with self.process.stdout:
            said = list(self.process.stdout)
            assert said and said[-1] == "ready\n", (said, self.home.log_file.read_text())

    def shards(self) -> list[dict[str, Any]]:
        """What `siltstone meta status` says."""
        shown = siltstone("meta", "status", self.home.path, "--json")
        assert shown.returncode == 0, shown
        shards: list[dict[str, Any]] = json.loads(shown.stdout)["shards"]
        return shards

    def pids(self, module: str = "siltstone.shard_process") -> set[int]:
        """The processes of shards (or workers) of this volume, by what the kernel says."""
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                    if module.encode() in arguments and os.fsencode(self.home.path) in arguments:
                        found.add(int(folder.name))
        return found

    def wait_no_process(self) -> None:
        """Return when none is left, and fail if one stays."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := self.pids() | self.pids(WORKER):
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order."""
        stopped = siltstone("stop", self.home.path)
        assert stopped.returncode == 0, stopped
        assert self.process is not None
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.home.log_file.read_text()

    def fsck(self) -> None:
        """fsck finds nothing, over all shards and to the last byte."""
        done = siltstone("fsck", self.home.path, "--deep")
        assert (done.returncode, done.stdout) == (0, "no findings\n"), done

    def spread(self, shards: int) -> int:
        """Have so many shards share all partitions; how many went. Raises what the command would say."""
        moved: int = request(self.home, "meta_spread", {"shards": shards})["moved"]
        return moved

    def change_disks(self, chance: random.Random) -> str:
        """Drain and remove a disk that is to leave or is one too many, or replace one; returns which of it was done.
        Raises what the command would say."""
        disks = request(self.home, "disk_list")
        leaving = [disk["disk_id"] for disk in disks if disk["role"] in ("draining", "lost")]
        chosen = {"disk_id": chance.choice(leaving or [disk["disk_id"] for disk in disks])}
        if leaving or len(disks) > DISKS:
            request(self.home, "disk_drain", {**chosen, "wait": True})
            request(self.home, "disk_remove", chosen)
            return "disks drained"
        self._new_disks += 1
        path = self.home.path.parent / f"new-disk{self._new_disks}"
        request(self.home, "disk_replace", {**chosen, "path": str(path)})
        return "disks replaced"

    def kill(self) -> None:
        """Kill the owner, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask(self, body: Callable[[Caller], Awaitable[None]], *, seconds: float = 2 * PATIENCE_SECONDS) -> None:
        """Run a front-end."""

        async def main() -> None:
            clock, partitions = SystemClock(), MapView(map_of(self.home.load_config()))
            caller = Caller(partitions, partial(link_to, self.home, clock), clock, SystemRandom())
            with trio.fail_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(caller.run)
                    await body(caller)
                    nursery.cancel_scope.cancel()

        trio.run(main)

    def owner_of(self, ino: Ino) -> ShardId:
        """The shard that has an inode."""
        return map_of(self.home.load_config()).owner(partition_of(ino))


class KilledShards:
    """Clients of a place, and what they were answered. ``seed``: of what they do, and of who is killed when."""

    def __init__(self, place: ShardedPlace, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest_seconds = 0.0
        """The longest that a call took."""
        self._place = place
        self._chance = random.Random(seed)
        self._s3 = S3Clients(place.s3_port, S3_CLIENTS, seed) if place.s3_port else None
        self._directories: list[Ino] = []
        self._names: list[dict[bytes, Ino]] = [{} for _ in range(DIRECTORIES)]
        """What must be in each directory."""

    async def run(self, caller: Caller, seconds: float) -> None:
        """Let clients work, and kill shards and the owner now and then."""
        for number in range(DIRECTORIES):
            made = await caller.call("mkdir", ROOT_INO, b"directory %d" % number, mode=0o755, **OWNER)
            self._directories.append(made.ino)
        if self._s3 is not None:
            await trio.to_thread.run_sync(self._s3.start)
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(self._work, caller, client, random.Random(self._chance.random()), over)
            nursery.start_soon(self._move, random.Random(self._chance.random()), over)
            nursery.start_soon(self._change_disks, random.Random(self._chance.random()), over)
            end = trio.current_time() + seconds
            while trio.current_time() < end:
                await trio.sleep(self._chance.uniform(*PAUSE_SECONDS))
                await trio.to_thread.run_sync(self._kill)
            over.set()
            self.counts["calls that followed a partition"] = caller.moved
        if self._s3 is not None:
            await trio.to_thread.run_sync(self._s3.stop)
            self.counts += self._s3.counts
            self.slowest_seconds = max(self.slowest_seconds, self._s3.slowest_seconds)
        self.counts["calls sent again"] = caller.resent

    async def check(self, caller: Caller) -> None:
        """Everything is there, and nothing else; sizes of directories and counts of links are exact."""
        links: Counter[Ino] = Counter()
        for ino, expected in zip(self._directories, self._names, strict=True):
            entries = await caller.call("list_directory", ino, after=None, limit=1_000_000)
            assert {entry.name: entry.ino for entry in entries} == expected
            assert (await caller.call("attributes", ino)).size == len(expected)
            links.update(expected.values())
        for ino, count in links.items():
            assert (await caller.call("attributes", ino)).nlink == count
        if self._s3 is not None:
            await trio.to_thread.run_sync(self._s3.check)

    def _kill(self) -> None:
        shards = sorted(self._place.pids())
        if self._chance.random() < 0.3 or not shards:
            self._place.kill()
            self._place.start()
            self.counts["owners killed"] += 1
            return
        workers = sorted(self._place.pids(WORKER))
        is_worker = bool(workers) and self._chance.random() < 0.4
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(workers if is_worker else shards), signal.SIGKILL)
            self.counts["workers killed" if is_worker else "shards killed"] += 1

    async def _move(self, chance: random.Random, over: trio.Event) -> None:
        """Have partitions go from shard to shard all the time."""
        while not over.is_set():
            count = chance.randint(1, self._place.count)
            try:
                moved = await trio.to_thread.run_sync(self._place.spread, count)
            except (SiltstoneError, OSError):
                self.counts["moves broken off"] += 1
                await trio.sleep(0.2)
            else:
                self.counts["partitions moved"] += moved

    async def _change_disks(self, chance: random.Random, over: trio.Event) -> None:
        """Have disks go and others come all the time."""
        while not over.is_set():
            try:
                done = await trio.to_thread.run_sync(self._place.change_disks, chance)
            except (SiltstoneError, OSError):
                self.counts["changes of disks broken off"] += 1
                await trio.sleep(0.2)
            else:
                self.counts[done] += 1

    async def _work(self, caller: Caller, client: int, chance: random.Random, over: trio.Event) -> None:
        mine: list[tuple[int, bytes, Ino]] = []
        number = 0
        while not over.is_set():
            number += 1
            begun = time.monotonic()
            await self._step(caller, mine, b"%d-%d" % (client, number), chance)
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)

    async def _step(
        self, caller: Caller, mine: list[tuple[int, bytes, Ino]], name: bytes, chance: random.Random
    ) -> None:
        """One operation on a new name, or on one of the client's own."""
        target = chance.randrange(DIRECTORIES)
        directory = self._directories[target]
        kind = chance.choices(["create", "rename", "link", "unlink", "mkdir"], [40, 30, 10, 12, 8])[0]
        kind = "create" if kind != "mkdir" and not mine else kind
        self.counts[f"{kind}s"] += 1
        if kind == "create":
            made = await caller.call("create", directory, name, mode=0o100644, **OWNER)
            self._names[target][name] = made.ino
            mine.append((target, name, made.ino))
            return
        if kind == "mkdir":
            await caller.call("mkdir", directory, name, mode=0o755, **OWNER)
            await caller.call("rmdir", directory, name)
            return
        source, old, ino = mine[index := chance.randrange(len(mine))]
        if kind == "link":
            await caller.call("link", ino, directory, name)
            self._names[target][name] = ino
            mine.append((target, name, ino))
        elif kind == "unlink":
            await caller.call("unlink", self._directories[source], old)
            del self._names[source][old], mine[index]
        else:
            await caller.call("rename", self._directories[source], old, directory, name)
            del self._names[source][old]
            self._names[target][name] = ino
            mine[index] = (target, name, ino)
