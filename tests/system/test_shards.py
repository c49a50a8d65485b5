"""A volume of two shards in real processes: calls over sockets, processes killed, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from siltstone.core.caller import Caller
from siltstone.engine.disk.system import SystemClock, SystemRandom
from siltstone.home import Home
from siltstone.meta.shards.map import map_of
from siltstone.shard_service import link_to
from siltstone.types import ROOT_INO, Ino, ShardId, partition_of

PATIENCE_SECONDS = 60
OWNER = {"uid": 0, "gid": 0}


def siltstone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-P", "-m", "siltstone", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


class Place:
    """A volume of two shards, and who serves it."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path / "volume")
        self.process: subprocess.Popen[str] | None = None
        made = siltstone("init", self.home.path, "--shards", "2", "--disk-size", "256M")
        assert made.returncode == 0, made

    def start(self) -> None:
        """Serve, and return when it does."""
        command = [sys.executable, "-P", "-m", "siltstone", "serve", str(self.home.path), "--detached"]
        with self.home.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        with self.process.stdout:
            assert self.process.stdout.readline() == "ready\n", self.home.log_file.read_text()

    def shards(self) -> list[dict[str, Any]]:
        """What `siltstone meta status` says."""
        shown = siltstone("meta", "status", self.home.path, "--json")
        assert shown.returncode == 0, shown
        shards: list[dict[str, Any]] = json.loads(shown.stdout)["shards"]
        return shards

    def pids(self) -> set[int]:
        """The processes of shards of this volume, by what the kernel says."""
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                    if b"siltstone.shard_process" in arguments and os.fsencode(self.home.path) in arguments:
                        found.add(int(folder.name))
        return found

    def wait_no_process(self) -> None:
        """Return when none is left, and fail if one stays."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.pids():
            assert time.monotonic() < deadline, f"left behind: {self.pids()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order."""
        stopped = siltstone("stop", self.home.path)
        assert stopped.returncode == 0, stopped
        assert self.process is not None
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.home.log_file.read_text()

    def ask(self, body: Callable[[Caller], Awaitable[None]]) -> None:
        """Run a front-end."""

        async def main() -> None:
            clock, partitions = SystemClock(), map_of(self.home.load_config())
            caller = Caller(lambda: partitions, partial(link_to, self.home, clock), clock, SystemRandom())
            with trio.fail_after(2 * PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(caller.run)
                    await body(caller)
                    nursery.cancel_scope.cancel()

        trio.run(main)

    def owner_of(self, ino: Ino) -> ShardId:
        """The shard that has an inode."""
        return map_of(self.home.load_config()).owner(partition_of(ino))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.process is not None and place.process.poll() is None:
        place.process.kill()
        place.process.wait()
    place.wait_no_process()


async def directories(place: Place, caller: Caller) -> dict[ShardId, Ino]:
    """A directory on each shard."""
    found: dict[ShardId, Ino] = {}
    number = 0
    while len(found) < 2:
        made = await caller.call("mkdir", ROOT_INO, b"directory %d" % number, mode=0o755, **OWNER)
        found.setdefault(place.owner_of(made.ino), made.ino)
        number += 1
    return found


async def names(caller: Caller, directory: Ino) -> set[bytes]:
    """All names of a directory."""
    return {entry.name for entry in await caller.call("list_directory", directory, after=None, limit=10_000)}


def test_a_tree_over_two_processes_is_one_tree_and_all_end_with_the_owner(place: Place) -> None:
    place.start()
    assert len(place.pids()) == 1
    kept: dict[ShardId, Ino] = {}

    async def build(caller: Caller) -> None:
        kept.update(await directories(place, caller))
        first, second = kept.values()
        made = await caller.call("create", first, b"file", mode=0o100644, **OWNER)
        await caller.call("write", made.ino, 0, b"bytes" * 1000)
        await caller.call("fsync", made.ino)
        await caller.call("rename", first, b"file", second, b"moved")
        await caller.call("mkdir", first, b"sub", mode=0o755, **OWNER)
        await caller.call("rename", first, b"sub", second, b"sub moved")

    async def check(caller: Caller) -> None:
        first, second = kept.values()
        assert await names(caller, first) == set()
        assert await names(caller, second) == {b"moved", b"sub moved"}
        moved = await caller.call("lookup", second, b"moved")
        assert await caller.call("read", moved.ino, 0, 10_000) == b"bytes" * 1000

    place.ask(build)
    place.ask(check)
    shards = place.shards()
    assert [(shard["shard"], shard["state"], shard["partitions"]) for shard in shards] == [
        (0, "serving", 128),
        (1, "serving", 128),
    ]
    assert {shard["pid"] for shard in shards[1:]} == place.pids()
    assert "shard 1    serving" in siltstone("status", place.home.path).stdout
    place.stop()
    assert not place.pids()
    assert not place.home.shard_socket(ShardId(0)).exists()
    assert not place.home.shard_socket(ShardId(1)).exists()
    place.start()
    place.ask(check)
    place.stop()
    assert "error" not in place.home.log_file.read_text().lower()


def test_a_shard_that_is_killed_under_load_is_a_delay_and_all_that_was_answered_is_there(place: Place) -> None:
    place.start()
    kept: dict[ShardId, Ino] = {}
    expected: dict[ShardId, set[bytes]] = {ShardId(0): set(), ShardId(1): set()}

    async def load(caller: Caller) -> None:
        kept.update(await directories(place, caller))
        over = trio.Event()

        async def work(task: int) -> None:
            number = 0
            while not over.is_set():
                name = b"%d-%d" % (task, number)
                source, target = (ShardId(0), ShardId(1)) if (task + number) % 2 else (ShardId(1), ShardId(0))
                await caller.call("create", kept[source], name, mode=0o100644, **OWNER)
                if number % 3:
                    await caller.call("rename", kept[source], name, kept[target], name)
                    expected[target].add(name)
                elif number % 2:
                    await caller.call("unlink", kept[source], name)
                else:
                    expected[source].add(name)
                number += 1

        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(work, task)
            for _ in range(3):
                await trio.sleep(0.7)
                (pid,) = place.pids()
                os.kill(pid, signal.SIGKILL)
                while place.pids() in (set(), {pid}):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            await trio.sleep(1.5)
            over.set()
        assert caller.resent > 0, "nothing was under way: the test tests nothing"

    async def check(caller: Caller) -> None:
        for shard, directory in kept.items():
            assert await names(caller, directory) == expected[shard]

    place.ask(load)
    place.ask(check)
    assert [shard["restarts"] for shard in place.shards()] == [0, 3]
    assert all(len(found) > 20 for found in expected.values())
    place.stop()
    place.start()
    place.ask(check)
    place.stop()


def test_a_shard_that_gives_no_answer_is_said_to_be_silent_until_it_does(place: Place) -> None:
    place.start()
    (pid,) = place.pids()

    def wait_state(state: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (shown := place.shards()[1])["state"] != state:
            assert time.monotonic() < deadline, shown
        return shown

    async def ask(caller: Caller) -> None:
        assert (await caller.call("attributes", ROOT_INO)).ino == ROOT_INO

    os.kill(pid, signal.SIGSTOP)
    try:
        assert "gives no answer" in wait_state("silent")["reason"]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert wait_state("serving")["reason"] == ""
    place.ask(ask)
    assert place.pids() == {pid}
    place.stop()


def test_when_the_owner_is_killed_no_process_stays_and_all_that_was_answered_is_there(place: Place) -> None:
    place.start()
    kept: dict[ShardId, Ino] = {}
    created: list[tuple[ShardId, bytes]] = []

    async def load(caller: Caller) -> None:
        kept.update(await directories(place, caller))

        async def work(task: int, scope: trio.CancelScope) -> None:
            for number in range(10_000):
                name, shard = b"%d-%d" % (task, number), ShardId(number % 2)
                await caller.call("create", kept[shard], name, mode=0o100644, **OWNER)
                created.append((shard, name))

        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(work, task, nursery.cancel_scope)
            await trio.sleep(1)
            assert place.process is not None
            place.process.kill()
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()

    async def check(caller: Caller) -> None:
        found = {shard: await names(caller, directory) for shard, directory in kept.items()}
        assert len(created) > 20
        assert not [(shard, name) for shard, name in created if name not in found[shard]]

    place.ask(load)
    assert place.process is not None
    place.process.wait()
    place.start()  # at once: what is left of the last life must not be in the way, nor write any more
    place.ask(check)
    place.stop()
    place.wait_no_process()


def test_a_shard_that_does_not_start_is_an_error_that_says_why(place: Place) -> None:
    (place.home.shard_meta(ShardId(1)) / "data.mdb").write_bytes(b"not a database" * 1000)
    served = siltstone("serve", place.home.path)
    assert served.returncode == 1
    last = served.stderr.splitlines()[-1]
    assert last.startswith("siltstone: shard 1 does not start: "), served.stderr
    assert "internal error" not in last
    place.wait_no_process()


def test_what_does_not_work_over_shards_says_so(place: Place, tmp_path: Path) -> None:
    for command in (["fsck"], ["settle"], ["disk", "list"]):
        refused = siltstone(*command, place.home.path)
        assert refused.returncode == 1
        assert "2 shards" in refused.stderr and refused.stderr.count("\n") == 1, refused
    (tmp_path / "mount").mkdir()
    refused = siltstone("mount", place.home.path, tmp_path / "mount")
    assert refused.returncode == 1
    assert "has 2 shards" in refused.stderr, refused
