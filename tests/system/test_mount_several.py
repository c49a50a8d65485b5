"""Several mounts of one volume, each beside the first in a process of its own: what one does the others show."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sim.mounted import KINDS, SILTSTONE, MountedVolume, is_mounted, mounted

PATIENCE_SECONDS = 30


def command(*arguments: str | Path) -> str:
    """Run a command that must succeed; what it printed."""
    done = subprocess.run([*SILTSTONE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


on_every_kind = pytest.mark.parametrize("volume", KINDS, indirect=True)


@pytest.fixture
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountedVolume]:
    with mounted(tmp_path, kind=getattr(request, "param", KINDS[0])) as volume:
        yield volume


@pytest.fixture
def other(volume: MountedVolume, tmp_path: Path) -> Iterator[Path]:
    """A second mount, gone at the end whatever happened to it."""
    directory = tmp_path / "other"
    directory.mkdir()
    command("mount", volume.home, directory)
    yield directory
    while is_mounted(directory):
        subprocess.run(["fusermount3", "-u", "-z", directory], check=True)


def pid_of(directory: Path) -> int:
    """The process beside the owner that serves a mount."""
    listed = subprocess.run(["pgrep", "-f", f"siltstone.mount_process .* {directory}"], capture_output=True, text=True)
    return int(listed.stdout)


def is_empty(directory: Path) -> bool:
    return not os.listdir(directory)


def errno_of(path: Path) -> int:
    """What a look at a directory gives, asked of whoever serves it; 0 if all is well."""
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno or -1
    return 0


@on_every_kind
def test_what_one_mount_does_the_other_shows(volume: MountedVolume, other: Path) -> None:
    one = volume.directory
    for here, there in ((one, other), (other, one)):
        name = here.name
        assert not (there / name).exists()
        (here / name).mkdir()
        wait_until((there / name).is_dir)
        (here / name / "file").write_bytes(b"first")
        wait_until((there / name / "file").exists)
        with (there / name / "file").open("rb", buffering=0) as open_there:
            assert open_there.read() == b"first"
            with (here / name / "file").open("r+b", buffering=0) as file:
                file.write(b"FI")
            wait_until(lambda: os.pread(open_there.fileno(), 10, 0) == b"FIrst")
        (here / name / "file").rename(here / name / "moved")
        wait_until((there / name / "moved").exists)
        assert not (there / name / "file").exists()
        with (there / name / "moved").open("rb") as held:
            (here / name / "moved").unlink()
            wait_until(partial(is_empty, there / name))
            assert held.read() == b"FIrst"


def test_each_is_unmounted_by_itself(volume: MountedVolume, other: Path) -> None:
    (other / "file").write_bytes(b"x")
    doors = json.loads(command("status", volume.home, "--json"))["process"]["doors"]
    assert [door["address"] for door in doors] == [str(volume.directory), str(other)]
    command("umount", other)
    assert not is_mounted(other) and list(other.iterdir()) == []
    assert (volume.directory / "file").read_bytes() == b"x"
    command("mount", volume.home, other)
    assert (other / "file").read_bytes() == b"x"
    command("umount", volume.directory)
    assert (other / "file").read_bytes() == b"x"
    command("umount", other)  # the last door: the process ends
    volume.wait()
    assert "no findings" in command("fsck", "--deep", volume.home)


def test_a_mounts_process_that_dies_is_that_mounts_trouble_only(volume: MountedVolume, other: Path) -> None:
    (other / "file").write_bytes(b"x")
    os.kill(pid_of(other), signal.SIGKILL)
    wait_until(lambda: errno_of(other) == errno.ENOTCONN)
    assert (volume.directory / "file").read_bytes() == b"x"
    command("mount", volume.home, other)
    assert (other / "file").read_bytes() == b"x"
    volume.log.write_text("")  # it has told of the death, as it should


@on_every_kind
def test_when_the_owner_dies_all_its_mounts_say_so_and_are_repaired(volume: MountedVolume, other: Path) -> None:
    (other / "file").write_bytes(b"x")
    file = os.open(other / "file", os.O_RDWR)
    os.fsync(file)
    volume.kill()
    wait_until(lambda: errno_of(other) == errno.ENOTCONN)
    for use in (lambda: os.write(file, b"y"), lambda: os.fsync(file), lambda: os.close(file)):
        with pytest.raises(OSError) as failed:
            use()
        assert failed.value.errno in (errno.ENOTCONN, errno.EIO)
    assert errno_of(volume.directory) == errno.ENOTCONN
    volume.start()
    command("mount", volume.home, other)
    assert (volume.directory / "file").read_bytes() == (other / "file").read_bytes() == b"x"
