"""A disk that hangs under a mounted volume: users wait for the time limit once, and everything goes on.

The disk is a filesystem of a process that is stopped: its calls hang in the kernel, until the process goes on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from siltstone.birth import check_answers
from siltstone.errors import Unavailable
from siltstone.home import Home
from sim.command import PATIENCE_SECONDS, siltstone, started, succeed

LIMIT_SECONDS = 2.0
MEMORY_FILES = Path(__file__).parents[2] / "bench" / "ceiling" / "memfs.py"


class Place(NamedTuple):
    """A volume on six disks, of which the last hangs while ``server`` is stopped."""

    home: Path
    mount: Path
    spare: Path
    server: subprocess.Popen[str]
    daemons: list[subprocess.Popen[str]]

    def serve(self) -> subprocess.Popen[str]:
        """Have the volume mounted."""
        command: list[str | Path] = [sys.executable, "-P", "-m", "siltstone", "serve"]
        command += [self.home, "--mount", self.mount]
        self.daemons.append(started(command, "ready mount"))
        return self.daemons[-1]

    def hang(self) -> None:
        """The disk hangs from now on."""
        self.server.send_signal(signal.SIGSTOP)

    def let_go(self) -> None:
        """It goes on."""
        self.server.send_signal(signal.SIGCONT)

    def disk(self) -> dict[str, Any]:
        """What `disk list` tells of it."""
        found: list[dict[str, Any]] = json.loads(succeed("disk", "list", self.home, "--json"))
        return next(disk for disk in found if disk["disk_id"] == 5)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """All of it, with a time limit of some seconds."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    disks = [tmp_path / f"disk{index}" for index in range(6)]
    disks[5].mkdir()
    server = started([sys.executable, MEMORY_FILES, disks[5]], "ready")
    place = Place(tmp_path / "home", tmp_path / "mount", tmp_path / "spare", server, [])
    place.mount.mkdir()
    arguments = [argument for disk in disks for argument in ("--disk", disk)]
    succeed("init", place.home, *arguments, "--disk-size", "256M")
    settings = json.loads((place.home / "volume.json").read_text())
    settings["disk_timeout"] = LIMIT_SECONDS
    (place.home / "volume.json").write_text(json.dumps(settings))
    yield place
    place.let_go()
    siltstone("stop", place.home)
    for process in place.daemons:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    subprocess.run(["fusermount3", "-u", "-z", "-q", place.mount], check=False)
    subprocess.run(["fusermount3", "-u", "-z", "-q", disks[5]], check=False)
    server.kill()
    server.communicate(timeout=PATIENCE_SECONDS)


def write_files(place: Place, seed: int) -> dict[str, bytes]:
    """Files of several sizes, durable, through the mount."""
    source = random.Random(seed)
    files = {f"{seed}-{size}": source.randbytes(size) for size in (10, 5000, 100_000, 1_000_000, 9_000_000)}
    for name, data in files.items():
        with open(place.mount / name, "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
    return files


def check_files(place: Place, files: dict[str, bytes]) -> None:
    """They are as they were written."""
    assert {name: (place.mount / name).read_bytes() for name in files} == files


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_mount_goes_on_without_a_disk_that_hangs_and_takes_it_back(place: Place) -> None:
    place.serve()
    files = write_files(place, 1)
    place.hang()
    files |= write_files(place, 2)
    check_files(place, files)
    disk = place.disk()
    assert disk["state"] == "failed" and "no answer to" in disk["reason"] and "for 2 s" in disk["reason"]
    assert "no answer" in succeed("status", place.home)
    # Another disk can take its place meanwhile, and what was to be taken out can be.
    assert "disk 6 added" in succeed("disk", "add", place.home, place.spare, "--size", "256M")
    place.let_go()
    files |= write_files(place, 3)
    wait_until(lambda: place.disk()["state"] == "up")
    files |= write_files(place, 4)
    check_files(place, files)
    succeed("stop", place.home)
    place.serve()
    check_files(place, files)
    succeed("fsck", place.home, "--deep")


def test_a_volume_with_a_disk_that_hangs_is_closed_and_nobody_opens_it_before_that_is_over(place: Place) -> None:
    daemon = place.serve()
    files = write_files(place, 1)
    place.hang()
    files |= write_files(place, 2)
    # The kernel waits for the disk when the process ends: it has done all that it can, and says so.
    stopping = siltstone("stop", place.home)
    assert stopping.returncode == 1 and "a call to a disk that hangs keeps it from going" in stopping.stderr
    assert "in use by process" in siltstone("status", place.home).stderr
    place.let_go()
    assert daemon.wait(PATIENCE_SECONDS) == 0
    place.serve()
    check_files(place, files)
    succeed("fsck", place.home, "--deep")


def test_a_volume_is_opened_with_a_disk_that_hangs(place: Place) -> None:
    place.serve()
    files = write_files(place, 1)
    succeed("stop", place.home)
    place.hang()
    place.serve()
    check_files(place, files)
    assert place.disk()["state"] == "failed"
    files |= write_files(place, 3)
    place.let_go()
    wait_until(lambda: place.disk()["state"] == "up")
    check_files(place, files)
    succeed("fsck", place.home, "--deep")


def test_a_disk_that_hangs_is_replaced(place: Place) -> None:
    place.serve()
    files = write_files(place, 1)
    place.hang()
    files |= write_files(place, 2)
    assert "has taken the place of disk 5" in succeed("disk", "replace", place.home, "5", place.spare)
    place.let_go()
    check_files(place, files)
    succeed("fsck", place.home, "--deep")


def test_a_volume_is_not_made_on_a_disk_that_hangs(place: Place) -> None:
    disks = [str(place.home.parent / f"disk{index}") for index in range(6)]
    place.hang()
    with pytest.raises(Unavailable, match=r"disk5: no answer for 0\.5 s"):
        trio.run(partial(check_answers, limit_seconds=0.5), Home(place.spare), disks)
    place.let_go()
    trio.run(check_answers, Home(place.spare), disks)
