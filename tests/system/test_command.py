"""The command against a running process: doors open and close, disks are checked, every end is clean."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from siltstone.home import Home

PATIENCE_SECONDS = 60

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


class Outcome(NamedTuple):
    """What a command left behind."""

    status: int
    output: str
    errors: str


def siltstone(*arguments: str | Path) -> Outcome:
    """Run a command to its end."""
    command = [sys.executable, "-P", "-m", "siltstone", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return Outcome(done.returncode, done.stdout, done.stderr)


def succeed(*arguments: str | Path) -> str:
    """Run a command that must succeed; returns what it printed."""
    outcome = siltstone(*arguments)
    assert outcome.status == 0, outcome
    return outcome.output


def fail(*arguments: str | Path) -> str:
    """Run a command that must fail with one line; returns that line."""
    outcome = siltstone(*arguments)
    assert outcome.status == 1, outcome
    assert outcome.errors.count("\n") == 1, outcome.errors
    assert "internal error" not in outcome.errors
    return outcome.errors


class Serving:
    """A `siltstone serve` in the foreground."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-P", "-m", "siltstone", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = ""
        """What it wrote to its log until it ended."""

    def wait_line(self) -> str:
        """The next line that it prints, empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit status, when it has ended."""
        try:
            _, self.said = self.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode


class Place(NamedTuple):
    """Directories of one test."""

    home: Path
    mount: Path
    disks: list[Path]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A small volume on six disks, and a mount point. Whatever a test leaves running is ended."""
    place = Place(tmp_path / "home", tmp_path / "mount", [tmp_path / f"disk{index}" for index in range(6)])
    place.mount.mkdir()
    disks = [argument for disk in place.disks for argument in ("--disk", disk)]
    succeed("init", place.home, *disks, "--disk-size", "256M")
    yield place
    siltstone("stop", place.home)
    subprocess.run(["fusermount3", "-u", "-z", "-q", place.mount], check=False)


def status_of(place: Place) -> dict[str, Any]:
    """What `status --json` says."""
    status: dict[str, Any] = json.loads(succeed("status", place.home, "--json"))
    return status


def wait_for_disks(place: Place, up_count: int) -> None:
    """Wait until so many disks are up: the volume probes them, nobody tells it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(disk["state"] == "up" for disk in status_of(place)["volume"]["disks"]) != up_count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- doors -----------------------------------------------------------------------------------------------------------


def test_serve_says_when_each_door_is_ready_and_sigterm_ends_it_cleanly(place: Place) -> None:
    serving = Serving(place.home, "--mount", place.mount, "--s3", "127.0.0.1:0")
    assert serving.wait_line() == f"ready mount {place.mount}"
    assert re.fullmatch(r"ready s3 http://127\.0\.0\.1:\d+", serving.wait_line())
    (place.mount / "file").write_bytes(b"bytes")
    status = status_of(place)
    assert [door["kind"] for door in status["process"]["doors"]] == ["mount", "s3"]
    assert status["process"]["pid"] == serving.process.pid
    assert serving.end() == 0
    assert not os.path.ismount(place.mount)
    assert list(place.mount.iterdir()) == []
    serving = Serving(place.home, "--mount", place.mount)
    assert serving.wait_line().startswith("ready")
    assert (place.mount / "file").read_bytes() == b"bytes"
    assert serving.end(signal.SIGINT) == 0
    assert not os.path.ismount(place.mount)


def test_mount_starts_a_process_that_umount_ends(place: Place) -> None:
    assert succeed("mount", place.home, place.mount) == f"ready mount {place.mount}\n"
    (place.mount / "file").write_bytes(b"bytes")
    succeed("umount", place.mount)
    assert not os.path.ismount(place.mount)
    with Home(place.home).owned():
        pass
    succeed("mount", place.home, place.mount)
    assert (place.mount / "file").read_bytes() == b"bytes"
    assert re.fullmatch(r"stopped process \d+\n", succeed("stop", place.home))
    assert not os.path.ismount(place.mount)


def test_one_process_opens_both_doors_one_after_the_other(place: Place) -> None:
    ready = succeed("s3", place.home, "--listen", "127.0.0.1:0")
    assert ready.startswith("ready s3 http://127.0.0.1:")
    succeed("mount", place.home, place.mount)
    assert [door["kind"] for door in status_of(place)["process"]["doors"]] == ["s3", "mount"]
    succeed("umount", place.mount)
    assert [door["kind"] for door in status_of(place)["process"]["doors"]] == ["s3"]
    succeed("stop", place.home)


def test_a_mount_in_use_is_not_taken_away(place: Place) -> None:
    succeed("mount", place.home, place.mount)
    with (place.mount / "file").open("wb") as file:
        file.write(b"bytes")
        assert "in use" in fail("umount", place.mount)
        assert os.path.ismount(place.mount)
    succeed("umount", place.mount)


def test_a_killed_process_leaves_a_volume_that_opens_with_everything_that_was_synced(place: Place) -> None:
    serving = Serving(place.home, "--mount", place.mount)
    serving.wait_line()
    with (place.mount / "file").open("wb") as file:
        file.write(b"bytes" * 100_000)
        os.fsync(file.fileno())
    # As a fault in a library would end it: no chance to do anything, but its log says where it was.
    assert serving.end(signal.SIGSEGV) == -signal.SIGSEGV
    assert "Segmentation fault" in serving.said and "trio" in serving.said
    succeed("umount", place.mount)
    succeed("mount", place.home, place.mount)
    assert (place.mount / "file").read_bytes() == b"bytes" * 100_000
    assert succeed("fsck", place.home, "--deep") == "no findings\n"


# --- one owner -------------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_owns_the_volume(place: Place) -> None:
    serving = Serving(place.home)
    while not Home(place.home).control_socket.exists():
        time.sleep(0.01)
    assert str(serving.process.pid) in fail("serve", place.home)
    assert serving.end() == 0


def test_commands_do_the_same_with_and_without_a_process(place: Place) -> None:
    alone = status_of(place)
    assert "doors" not in alone["process"]
    succeed("mount", place.home, place.mount)
    key = json.loads(succeed("key", "add", place.home, "--json"))
    assert key["access"] in succeed("key", "list", place.home)
    for number in range(20):
        (place.mount / f"file{number}").write_bytes(os.urandom(10_000))
    assert succeed("settle", place.home).startswith("settled ")
    assert succeed("lifecycle", place.home).startswith("0 versions looked at, ")
    assert succeed("fsck", place.home, "--deep") == "no findings\n"
    assert json.loads(succeed("fsck", place.home, "--json")) == {"findings": []}
    serving = status_of(place)
    assert serving["volume"]["log_live_bytes"] == 0
    assert serving["volume"]["inodes"] >= 20
    assert serving["process"]["loop_delay_ms"]["max_since_start"] >= 0
    assert f"door       mount {place.mount}" in succeed("status", place.home)
    succeed("umount", place.mount)
    assert key["access"] in succeed("key", "list", place.home)
    assert succeed("settle", place.home).startswith("settled ")
    assert json.loads(succeed("lifecycle", place.home, "--json"))["passes"] == 1
    assert succeed("fsck", place.home, "--deep") == "no findings\n"
    assert status_of(place)["volume"]["inodes"] == serving["volume"]["inodes"]


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_mount_point_that_will_not_do_is_refused_and_nothing_stays_running(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for directory in ("absent", "file", "full"):
        assert directory in fail("mount", place.home, tmp_path / directory)
    assert "nobody serves" in fail("stop", place.home)
    assert "not a mount" in fail("umount", tmp_path)


def test_a_busy_port_is_refused_and_the_other_doors_stay(place: Place) -> None:
    ready = succeed("s3", place.home, "--listen", "127.0.0.1:0")
    port = ready.strip().rpartition(":")[2]
    assert port in fail("s3", place.home, "--listen", f"127.0.0.1:{port}")
    assert len(status_of(place)["process"]["doors"]) == 1


def test_a_directory_is_mounted_on_once(place: Place) -> None:
    succeed("mount", place.home, place.mount)
    assert "already" in fail("mount", place.home, place.mount)
    assert os.path.ismount(place.mount)


# --- disks -----------------------------------------------------------------------------------------------------------


def test_as_many_disks_as_the_code_allows_may_be_missing_and_no_more(place: Place) -> None:
    succeed("mount", place.home, place.mount)
    (place.mount / "file").write_bytes(b"bytes" * 1_000_000)
    succeed("umount", place.mount)
    for disk in place.disks[:2]:
        disk.rename(f"{disk}.away")
    serving = Serving(place.home, "--mount", place.mount)
    serving.wait_line()
    assert (place.mount / "file").read_bytes() == b"bytes" * 1_000_000
    assert len(status_of(place)["volume"]["warnings"]) >= 2
    assert serving.end() == 0
    place.disks[2].rename(f"{place.disks[2]}.away")
    assert "3 of 6 disks are missing" in fail("mount", place.home, place.mount)
    for disk in place.disks[:3]:
        Path(f"{disk}.away").rename(disk)
    assert succeed("fsck", place.home, "--deep") == "no findings\n"


def test_a_disk_that_goes_away_and_comes_back_under_way_is_noticed_both_times(place: Place) -> None:
    succeed("mount", place.home, place.mount)
    (place.mount / "file").write_bytes(b"bytes" * 1_000_000)
    for disk in place.disks[4:]:
        disk.rename(f"{disk}.away")
    wait_for_disks(place, 4)
    (place.mount / "other").write_bytes(b"other" * 1_000_000)
    succeed("settle", place.home)
    for disk in place.disks[4:]:
        Path(f"{disk}.away").rename(disk)
    wait_for_disks(place, 6)
    chunk = next((place.disks[0] / "slab").iterdir())
    with chunk.open("r+b") as file:
        file.write(b"rot" * 10_000)
    (place.disks[0] / "superblock").write_bytes(b"rot")
    wait_for_disks(place, 5)
    assert "1 mended superblocks" in succeed("scrub", place.home)
    wait_for_disks(place, 6)
    assert succeed("scrub", place.home).count("all sound") == 6
    succeed("umount", place.mount)
    assert succeed("fsck", place.home, "--deep") == "no findings\n"


def test_disks_that_changed_places_are_refused_by_name(place: Place, tmp_path: Path) -> None:
    place.disks[0].rename(tmp_path / "between")
    place.disks[1].rename(place.disks[0])
    (tmp_path / "between").rename(place.disks[1])
    line = fail("status", place.home)
    assert str(place.disks[0]) in line
    assert "swapped" in line


def test_a_disk_of_another_volume_is_refused_by_name(place: Place, tmp_path: Path) -> None:
    others = [tmp_path / f"other{index}" for index in range(3)]
    succeed("init", tmp_path / "other", *[argument for disk in others for argument in ("--disk", disk)])
    place.disks[3].rename(tmp_path / "away")
    others[0].rename(place.disks[3])
    line = fail("status", place.home)
    assert str(place.disks[3]) in line
    assert "another volume" in line


def test_a_copy_of_a_disk_in_the_place_of_another_is_refused(place: Place) -> None:
    shutil.rmtree(place.disks[5])
    shutil.copytree(place.disks[4], place.disks[5])
    line = fail("status", place.home)
    assert str(place.disks[5]) in line


def test_a_disk_with_a_damaged_superblock_counts_as_missing_and_is_named(place: Place) -> None:
    superblock = place.disks[2] / "superblock"
    data = bytearray(superblock.read_bytes())
    data[20] ^= 1
    superblock.write_bytes(data)
    outcome = siltstone("status", place.home)
    assert outcome.status == 0
    assert f"{place.disks[2]}: superblock does not match its checksum" in outcome.errors


def test_init_takes_neither_a_home_nor_a_disk_that_belongs_to_a_volume(tmp_path: Path) -> None:
    disks = [tmp_path / f"disk{index}" for index in range(3)]
    arguments = [argument for disk in disks for argument in ("--disk", disk)]
    succeed("init", tmp_path / "home", *arguments)
    assert "holds a volume already" in fail("init", tmp_path / "home", *arguments)
    assert "belongs to a volume already" in fail("init", tmp_path / "second", *arguments)
    assert not (tmp_path / "second").exists()
    assert succeed("fsck", tmp_path / "home") == "no findings\n"


def test_a_second_signal_ends_at_once_and_leaves_no_dead_mount(place: Place) -> None:
    serving = Serving(place.home, "--mount", place.mount)
    serving.wait_line()
    (place.mount / "file").write_bytes(b"bytes")
    file = os.open(place.mount / "file", os.O_RDONLY)  # keeps the orderly way from being over too soon
    serving.process.send_signal(signal.SIGINT)
    assert serving.end(signal.SIGINT) in (0, 130)
    with contextlib.suppress(OSError):  # its mount is gone
        os.close(file)
    assert not os.path.ismount(place.mount)
    assert list(place.mount.iterdir()) == []
    assert succeed("fsck", place.home) == "no findings\n"
