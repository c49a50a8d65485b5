"""HOME's disk hangs under a mounted volume: what is synced is safe, `status` says so, and the volume can be stopped.

The metadata lies on a filesystem of a process that is stopped: its calls hang in the kernel, until the process goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from siltstone.errors import Unavailable
from siltstone.operations import wait_for_end
from sim.command import PATIENCE_SECONDS, siltstone, started, succeed

LIMIT_SECONDS = 2.0
MEMORY_FILES = Path(__file__).parents[2] / "bench" / "ceiling" / "memfs.py"


class Place(NamedTuple):
    """A volume whose metadata hangs while ``server`` is stopped."""

    home: Path
    mount: Path
    server: subprocess.Popen[str]
    daemons: list[subprocess.Popen[str]]

    def serve(self) -> None:
        """Have the volume mounted."""
        command: list[str | Path] = [sys.executable, "-P", "-m", "siltstone", "serve"]
        self.daemons.append(started([*command, self.home, "--mount", self.mount], "ready mount"))

    def write(self, name: str) -> None:
        """A file, durable on return."""
        with open(self.mount / name, "wb") as file:
            file.write(name.encode() * 1000)
            os.fsync(file.fileno())

    def warnings(self) -> list[str]:
        """What `status` warns of."""
        found: list[str] = json.loads(succeed("status", self.home, "--json"))["volume"]["warnings"]
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """All of it, with a time limit of some seconds."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    hanging = tmp_path / "hanging"
    hanging.mkdir()
    server = started([sys.executable, MEMORY_FILES, hanging], "ready")
    place = Place(tmp_path / "home", tmp_path / "mount", server, [])
    place.mount.mkdir()
    disks = [argument for index in range(3) for argument in ("--disk", tmp_path / f"disk{index}")]
    succeed("init", place.home, *disks, "--disk-size", "256M")
    settings = json.loads((place.home / "volume.json").read_text())
    (place.home / "volume.json").write_text(json.dumps({**settings, "disk_timeout": LIMIT_SECONDS}))
    shutil.copytree(place.home / "meta", hanging / "meta")
    shutil.rmtree(place.home / "meta")
    (place.home / "meta").symlink_to(hanging / "meta")
    yield place
    server.send_signal(signal.SIGCONT)
    siltstone("stop", place.home)
    for process in place.daemons:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    for mounted in (place.mount, hanging):
        subprocess.run(["fusermount3", "-u", "-z", "-q", mounted], check=False)
    server.kill()
    server.communicate(timeout=PATIENCE_SECONDS)


def wait_for_warning(place: Place, *, is_there: bool) -> None:
    """Until `status` warns of HOME, or does not any more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any("the disk that HOME is on" in warning for warning in place.warnings()) != is_there:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_writes_are_durable_without_home_and_status_says_what_is_the_matter(place: Place) -> None:
    place.serve()
    place.write("before")
    place.server.send_signal(signal.SIGSTOP)
    place.write("one")
    wait_for_warning(place, is_there=True)
    place.write("two")
    place.server.send_signal(signal.SIGCONT)
    wait_for_warning(place, is_there=False)
    succeed("settle", place.home)
    place.write("three")
    for name in ("before", "one", "two", "three"):
        assert (place.mount / name).read_bytes() == name.encode() * 1000


def test_a_volume_whose_home_hangs_is_stopped_and_has_everything_when_home_is_back(place: Place) -> None:
    place.serve()
    place.write("before")
    place.server.send_signal(signal.SIGSTOP)
    place.write("one")
    wait_for_warning(place, is_there=True)
    subprocess.run(["fusermount3", "-u", place.mount], check=True)  # with its last door the process ends
    with pytest.raises(Unavailable, match="has ended, but a call to a disk that hangs keeps it"):
        wait_for_end(place.daemons[-1].pid)
    done = siltstone("status", place.home)
    assert done.returncode == 1 and "is in use by process" in done.stderr, "nobody else may open it meanwhile"
    place.server.send_signal(signal.SIGCONT)
    place.daemons.pop().communicate(timeout=PATIENCE_SECONDS)
    place.serve()
    for name in ("before", "one"):
        assert (place.mount / name).read_bytes() == name.encode() * 1000
    succeed("fsck", place.home, "--deep")


def test_a_loop_that_stands_still_is_not_waited_for(place: Place) -> None:
    place.serve()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (place.home / "control.sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    place.daemons[-1].send_signal(signal.SIGSTOP)
    done = siltstone("status", place.home)
    place.daemons[-1].send_signal(signal.SIGCONT)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"process {place.daemons[-1].pid}, which serves" in done.stderr and "has not answered for" in done.stderr
