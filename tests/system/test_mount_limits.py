"""What the mount has not says so at once, waits that are the kernel's end by a signal, and huge files cost nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.mounted import KINDS, SILTSTONE, MountedVolume, mounted

KIB, MIB = 1024, 1024 * 1024
LARGEST = 1 << 62


@pytest.fixture(scope="module", params=KINDS)
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    with mounted(tmp_path_factory.mktemp("limits"), kind=request.param) as volume:
        yield volume


@pytest.fixture
def here(volume: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """A directory of the mount for one test."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    directory = volume.directory / name[:100]
    directory.mkdir()
    return directory


def process_of(volume: MountedVolume) -> Any:
    """What `status` says of the process."""
    done = subprocess.run([*SILTSTONE, "status", volume.home, "--json"], check=True, capture_output=True)
    return json.loads(done.stdout)["process"]


def resident_bytes(volume: MountedVolume) -> int:
    return int(process_of(volume)["resident_bytes"])


# --- what pyfuse3 cannot say (docs/pyfuse3.md) -----------------------------------------------------------------------


def test_what_is_not_offered_is_refused_with_what_programs_expect(here: Path) -> None:
    file = os.open(here / "file", os.O_RDWR | os.O_CREAT)
    other = os.open(here / "other", os.O_RDWR | os.O_CREAT)
    os.write(file, b"x" * 10_000)
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    calls: list[Callable[[], object]] = [
        lambda: os.open(here, os.O_TMPFILE | os.O_RDWR),
        lambda: os.setxattr(here / "file", "system.posix_acl_access", acl),
        lambda: fcntl.ioctl(other, 0x40049409, file),  # FICLONE, of cp --reflink
    ]
    for call in calls:
        with pytest.raises(OSError) as refused:
            call()
        assert refused.value.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL), refused.value
    # Where there is another way the system takes it.
    os.posix_fallocate(other, 0, 100_000)
    assert os.fstat(other).st_size == 100_000
    assert os.copy_file_range(file, other, 10_000, 0, 0) == 10_000
    assert os.pread(other, 10_000, 0) == b"x" * 10_000
    assert (os.lseek(file, 0, os.SEEK_DATA), os.lseek(file, 0, os.SEEK_HOLE)) == (0, 10_000)
    os.close(file)
    os.close(other)


WAITER = """
import fcntl, os, signal, sys
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
how, path = sys.argv[1:]
file = os.open(path, os.O_RDWR)
signal.alarm(1)
try:
    fcntl.flock(file, fcntl.LOCK_EX) if how == "flock" else fcntl.lockf(file, fcntl.LOCK_EX)
except Alarm:
    sys.exit(7)
"""


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_locks_exclude_and_waits_for_them_end_by_a_signal(here: Path, how: str) -> None:
    file = os.open(here / "file", os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX) if how == "flock" else fcntl.lockf(file, fcntl.LOCK_EX)
    command = [sys.executable, "-c", WAITER, how, str(here / "file")]
    assert subprocess.run(command).returncode == 7
    fcntl.flock(file, fcntl.LOCK_UN) if how == "flock" else fcntl.lockf(file, fcntl.LOCK_UN)
    assert subprocess.run(command).returncode == 0
    os.close(file)


def test_a_program_that_waits_for_a_fifo_can_be_killed(here: Path) -> None:
    os.mkfifo(here / "fifo")
    waiting = subprocess.Popen(["cat", here / "fifo"])
    time.sleep(0.2)
    waiting.kill()
    assert waiting.wait(10) == -signal.SIGKILL


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_sparse_file_of_any_size_costs_nothing(volume: MountedVolume, here: Path) -> None:
    before = resident_bytes(volume)
    descriptor = os.open(here / "file", os.O_RDWR | os.O_CREAT)
    for size in (1 << 40, 1 << 50, LARGEST):
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        assert os.fstat(descriptor).st_size == size
        assert os.pread(descriptor, MIB, size - MIB) == bytes(MIB)
        assert os.pread(descriptor, MIB, size // 2) == bytes(MIB)
    os.pwrite(descriptor, b"at the end", LARGEST - 10)
    os.pwrite(descriptor, b"in the middle", 1 << 61)
    os.fsync(descriptor)
    assert os.fstat(descriptor).st_size == LARGEST
    assert os.pread(descriptor, 13, 1 << 61) == b"in the middle"
    assert os.fstat(descriptor).st_blocks * 512 < 64 * KIB
    with mmap.mmap(descriptor, 1 << 20, offset=1 << 61) as mapping:
        assert mapping[:13] == b"in the middle"
    os.ftruncate(descriptor, (1 << 61) + 2)
    assert os.pread(descriptor, 100, 1 << 61) == b"in"
    os.close(descriptor)
    (here / "file").rename(here / "renamed")
    (here / "renamed").unlink()
    assert resident_bytes(volume) - before < 64 * MIB


def test_a_write_beyond_the_largest_size_is_refused(here: Path) -> None:
    descriptor = os.open(here / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError) as refused:
        os.pwrite(descriptor, b"x" * 8192, LARGEST - 4096)
    assert refused.value.errno in (errno.EFBIG, errno.EINVAL)
    os.close(descriptor)
    assert (here / "file").stat().st_size == 0


# --- what the kernel holds -------------------------------------------------------------------------------------------


def test_the_kernel_forgets_files_when_it_knows_too_many_and_none_that_is_in_use(tmp_path: Path) -> None:
    with mounted(tmp_path, options="inode_cache=300") as volume:
        here = volume.directory / "directory"
        here.mkdir()
        (here / "file-0000").write_bytes(b"0")
        with (here / "file-0000").open("rb") as file:
            in_use = subprocess.Popen(["sleep", "60"], cwd=here)
            try:
                for number in range(1, 1000):
                    (here / f"file-{number:04}").write_bytes(b"%d" % number)
                deadline = time.monotonic() + 60
                while (door := process_of(volume)["doors"][0])["known_inodes"] > 300:
                    assert time.monotonic() < deadline, door
                    time.sleep(0.1)
                assert door["open_files"] == 1
                assert os.readlink(f"/proc/self/fd/{file.fileno()}") == str(here / "file-0000")
                assert os.readlink(f"/proc/{in_use.pid}/cwd") == str(here)
            finally:
                in_use.kill()
                in_use.wait()
            assert file.read() == b"0"
        for number in range(1000):
            assert (here / f"file-{number:04}").read_bytes() == b"%d" % number
