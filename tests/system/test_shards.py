"""A volume of two shards in real processes: calls over sockets, processes killed, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kills.sharded import OWNER, ShardedPlace
from siltstone.control import request
from siltstone.core.caller import Caller
from siltstone.types import ROOT_INO, Ino, ShardId
from sim.command import PATIENCE_SECONDS, siltstone


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ShardedPlace]:
    place = ShardedPlace(tmp_path, 2)
    yield place
    place.kill()
    place.wait_no_process()


async def directories(place: ShardedPlace, caller: Caller) -> dict[ShardId, Ino]:
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


def test_a_tree_over_two_processes_is_one_tree_and_all_end_with_the_owner(place: ShardedPlace) -> None:
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


def test_a_shard_that_is_killed_under_load_is_a_delay_and_all_that_was_answered_is_there(place: ShardedPlace) -> None:
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
    place.fsck()
    place.stop()
    place.start()
    place.ask(check)
    place.stop()
    place.fsck()


def test_a_shard_that_gives_no_answer_is_said_to_be_silent_until_it_does(place: ShardedPlace) -> None:
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


def test_when_the_owner_is_killed_no_process_stays_and_all_that_was_answered_is_there(place: ShardedPlace) -> None:
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


def test_a_shard_that_does_not_start_is_an_error_that_says_why(place: ShardedPlace) -> None:
    (place.home.shard_meta(ShardId(1)) / "data.mdb").write_bytes(b"not a database" * 1000)
    served = siltstone("serve", place.home.path)
    assert served.returncode == 1
    last = served.stderr.splitlines()[-1]
    assert last.startswith("siltstone: shard 1 does not start: "), served.stderr
    assert "internal error" not in last
    place.wait_no_process()


def test_a_sync_makes_durable_what_is_in_all_processes(place: ShardedPlace) -> None:
    """What `siltstone umount` counts on."""
    place.start()
    kept: dict[ShardId, Ino] = {}

    async def build(caller: Caller) -> None:
        for shard, directory in (await directories(place, caller)).items():
            kept[shard] = (await caller.call("create", directory, b"file", mode=0o100644, **OWNER)).ino
        for ino in kept.values():
            await caller.call("write", ino, 0, b"bytes" * 100)
        await trio.to_thread.run_sync(request, place.home, "sync")
        place.kill()

    async def check(caller: Caller) -> None:
        for ino in kept.values():
            assert await caller.call("read", ino, 0, 1000) == b"bytes" * 100

    place.ask(build)
    place.start()
    place.ask(check)
    place.stop()


def test_work_on_the_whole_volume_is_done_in_all_processes(place: ShardedPlace) -> None:
    place.start()

    async def build(caller: Caller) -> None:
        for directory in (await directories(place, caller)).values():
            made = await caller.call("create", directory, b"file", mode=0o100644, **OWNER)
            await caller.call("write", made.ino, 0, bytes(range(256)) * 400)
            await caller.call("fsync", made.ino)

    place.ask(build)
    settled = siltstone("settle", place.home.path)
    assert settled.stdout == "settled 200.0 KiB; 0 B stay in the log\n", settled
    scrubbed = siltstone("scrub", place.home.path, "--json")
    assert sum(disk["units"] for disk in json.loads(scrubbed.stdout)["disks"]) >= 2 * 6, scrubbed
    assert siltstone("rebuild", place.home.path).returncode == 0
    listed = json.loads(siltstone("disk", "list", place.home.path, "--json").stdout)
    assert [disk["state"] for disk in listed] == ["up"] * 6
    assert sum(disk["chunk_files"] for disk in listed) >= 2 * 6
    space = json.loads(siltstone("df", place.home.path, "--json").stdout)
    assert space["live_bytes"] == sum(shard["live_bytes"] for shard in space["shards"].values()) == 204_800
    status = siltstone("status", place.home.path)
    assert "200.0 KiB" in status.stdout, status
    place.fsck()
    place.stop()
    place.fsck()
