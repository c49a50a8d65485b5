"""Disks are added, drained, replaced and removed under a running volume, by the commands that people type."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sim.command import PATIENCE_SECONDS, siltstone, succeed
from sim.mounted import KIND, KINDS

SHARDS = {"disks": 1, "shards": 2}
SIZE = "256M"
SMALLEST = {"disks": "128M", "shards": "256M"}
"""The smallest disks that there may be."""


def refused(*arguments: str | Path) -> str:
    """Run a command that must be refused; its one line."""
    done = siltstone(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


class Place(NamedTuple):
    """Directories of one test."""

    home: Path
    mount: Path
    disks: list[Path]
    spare: Path
    daemons: list[subprocess.Popen[str]]


class Daemon:
    """`siltstone serve` in the background, with a mount."""

    def __init__(self, place: Place) -> None:
        command = [sys.executable, "-P", "-m", "siltstone", "serve", str(place.home), "--mount", str(place.mount)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        place.daemons.append(self.process)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready mount")

    def kill(self, place: Place) -> None:
        """End it without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_SECONDS)
        subprocess.run(["fusermount3", "-u", "-z", "-q", place.mount], check=False)


IN_BOTH_MODES = pytest.mark.parametrize("place", [(SHARDS[kind], SIZE) for kind in KINDS], indirect=True)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A small volume on six disks, a mount point, and a directory for more disks. The parameter says how many shards it
    has, and how large the disks are."""
    shards, size = getattr(request, "param", (SHARDS[KIND], SIZE))
    place = Place(
        tmp_path / "home", tmp_path / "mount", [tmp_path / f"disk{index}" for index in range(6)], tmp_path / "spare", []
    )
    place.mount.mkdir()
    place.spare.mkdir()
    disks = [argument for disk in place.disks for argument in ("--disk", disk)]
    succeed("init", place.home, *disks, "--disk-size", size, "--shards", str(shards))
    yield place
    siltstone("stop", place.home)
    for process in place.daemons:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    subprocess.run(["fusermount3", "-u", "-z", "-q", place.mount], check=False)


def write_files(place: Place, seed: int) -> dict[str, bytes]:
    """Files of several sizes, through the mount."""
    source = random.Random(seed)
    sizes = (10, 5000, 100_000, 1_000_000, 9_000_000)
    files = {f"{seed}-{number}/{size}": source.randbytes(size) for number, size in enumerate(sizes)}
    for name, data in files.items():
        (place.mount / name).parent.mkdir()
        (place.mount / name).write_bytes(data)
    return files


def check_files(place: Place, files: dict[str, bytes]) -> None:
    """They are as they were written."""
    assert {name: (place.mount / name).read_bytes() for name in files} == files


def disks_of(place: Place) -> dict[int, dict[str, Any]]:
    """What `disk list` tells, by id."""
    return {disk["disk_id"]: disk for disk in json.loads(succeed("disk", "list", place.home, "--json"))}


@IN_BOTH_MODES
def test_disks_come_and_go_under_a_mounted_volume(place: Place) -> None:
    daemon = Daemon(place)
    files = write_files(place, 1)
    succeed("settle", place.home)
    assert "6 disks would stay" not in refused("disk", "drain", place.home, "1")
    assert "disk 6 added" in succeed("disk", "add", place.home, place.spare / "six", "--size", SIZE)
    files |= write_files(place, 2)
    assert "is empty" in succeed("disk", "drain", place.home, "1")
    assert disks_of(place)[1]["chunk_files"] == 0 and disks_of(place)[1]["state"] == "draining"
    check_files(place, files)
    succeed("disk", "remove", place.home, "1")
    assert sorted(disks_of(place)) == [0, 2, 3, 4, 5, 6]
    assert list(place.disks[1].iterdir()) == [], "a removed disk is an empty directory"
    # A disk that is gone is replaced by a new one.
    shutil.rmtree(place.disks[3])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while disks_of(place)[3]["state"] != "missing":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    files |= write_files(place, 3)
    check_files(place, files)
    assert "disk 7 has taken the place of disk 3" in succeed("disk", "replace", place.home, "3", place.spare / "seven")
    assert sorted(disks_of(place)) == [0, 2, 4, 5, 6, 7]
    check_files(place, files)
    assert "0 bytes" not in succeed("df", place.home)
    # It stays so after a kill, and the volume opens without the disks that went.
    daemon.kill(place)
    Daemon(place)
    check_files(place, files)
    assert {disk["state"] for disk in disks_of(place).values()} <= {"up", "new"}
    assert json.loads(succeed("scrub", place.home, "--json"))["lost_count"] == 0
    succeed("fsck", place.home, "--deep")


@IN_BOTH_MODES
def test_a_drain_goes_on_after_a_kill(place: Place) -> None:
    daemon = Daemon(place)
    files = write_files(place, 1)
    succeed("disk", "add", place.home, place.spare / "six", "--size", SIZE)
    succeed("disk", "drain", place.home, "0", "--no-wait")
    daemon.kill(place)
    Daemon(place)
    assert disks_of(place)[0]["role"] == "draining"
    succeed("disk", "drain", place.home, "0")
    succeed("disk", "remove", place.home, "0")
    check_files(place, files)


def test_what_is_refused_changes_nothing(place: Place) -> None:
    before = (place.home / "volume.json").read_bytes()
    (place.spare / "full").mkdir()
    (place.spare / "full" / "file").write_text("mine")
    assert "not empty" in refused("disk", "add", place.home, place.spare / "full")
    assert "given twice" in refused("disk", "add", place.home, place.disks[2])
    assert "is inside disk" in refused("disk", "add", place.home, place.disks[2] / "below")
    assert "does not exist" in refused("disk", "add", place.home, place.spare / "no" / "where")
    assert "room for" in refused("disk", "add", place.home, place.spare / "new", "--size", "900T")
    assert "no disk 17" in refused("disk", "drain", place.home, "17")
    assert "would stay" in refused("disk", "drain", place.home, "2")
    assert "would stay" in refused("disk", "remove", place.home, "2", "--lost")
    assert "say --lost, too" in refused("disk", "remove", place.home, "2", "--accept-loss")
    assert "drain it first" in refused("disk", "remove", place.home, "2")
    assert "not being drained" in refused("disk", "drain", place.home, "2", "--cancel")
    assert (place.home / "volume.json").read_bytes() == before
    assert [path.name for path in place.spare.iterdir()] == ["full"]


def test_a_directory_that_a_crash_left_formatted_is_added_again(place: Place) -> None:
    settings = (place.home / "volume.json").read_bytes()
    succeed("disk", "add", place.home, place.spare / "six", "--size", SIZE)
    for folder in ("log", "slab", "snapshot", "shard-1"):
        shutil.rmtree(place.spare / "six" / folder, ignore_errors=True)
    (place.home / "volume.json").write_bytes(settings)  # the crash came before it was written, and the labels after it
    for disk in (*place.disks, place.spare / "six"):
        (disk / "label").unlink(missing_ok=True)
    (place.spare / "six" / ".usage").unlink(missing_ok=True)
    assert "disk 6 added" in succeed("disk", "add", place.home, place.spare / "six", "--size", SIZE)
    assert sorted(disks_of(place)) == [0, 1, 2, 3, 4, 5, 6]


def fill(place: Place, files: dict[str, bytes]) -> None:
    """Write large and small files until the volume takes none any more."""
    source = random.Random(len(files))
    for size in (4_000_000, 300_000, 10_000):
        while True:
            name = f"full-{len(files)}"
            data = source.randbytes(size)
            try:
                with (place.mount / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                assert error.errno == errno.ENOSPC
                (place.mount / name).unlink(missing_ok=True)
                break
            files[name] = data


def write_in_the_end(place: Place, name: str, data: bytes) -> None:
    """Write a file as soon as the volume takes it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with (place.mount / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            assert error.errno == errno.ENOSPC and time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return


@pytest.mark.parametrize("place", [(SHARDS[KIND], SMALLEST[KIND])], indirect=True)
def test_a_full_volume_that_loses_a_disk_stays_of_use_and_is_rebuilt_when_there_is_a_spare_one(place: Place) -> None:
    Daemon(place)
    files = write_files(place, 1)
    fill(place, files)
    shutil.rmtree(place.disks[3])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while disks_of(place)[3]["state"] != "missing":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    check_files(place, files)
    # Nothing can be rebuilt, and it says what to do.
    done = siltstone("rebuild", place.home)
    assert done.returncode == 1 and "add a disk" in done.stderr.splitlines()[-1]
    assert "disk 3 is missing" in succeed("status", place.home)
    # What makes room goes on, and then writes do, without a restart.
    large = [name for name, data in files.items() if len(data) == 4_000_000]
    os.truncate(place.mount / large[0], 1000)
    files[large[0]] = files[large[0]][:1000]
    for name in large[1 : len(large) // 3]:
        (place.mount / name).unlink()
        del files[name]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (settled := siltstone("settle", place.home)).returncode:
        # Until the rows of what was deleted are given back to the disks, which is looked after each second.
        assert "no room" in settled.stderr and time.monotonic() < deadline
        time.sleep(0.5)
    files["again"] = random.Random(3).randbytes(4_000_000)
    write_in_the_end(place, "again", files["again"])
    check_files(place, files)
    # With a spare disk all of it is rebuilt.
    succeed("disk", "add", place.home, place.spare / "six", "--size", SMALLEST[KIND])
    assert "full redundancy" in succeed("rebuild", place.home)
    assert disks_of(place)[3]["chunk_files"] == 0
    succeed("disk", "remove", place.home, "3", "--lost")
    check_files(place, files)
    assert json.loads(succeed("scrub", place.home, "--json"))["lost_count"] == 0
    succeed("fsck", place.home, "--deep")
