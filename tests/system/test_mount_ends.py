"""Mounts that end while programs are at work on them: busy, taken off the tree, the process killed.

Whatever happens no program hangs: each gets an answer or an error and ends, and what was acknowledged is there.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sim.mounted import KIND, KINDS, SILTSTONE, MountedVolume, is_mounted, mounted

PATIENCE_SECONDS = 120
WORKERS = ("write", "sync", "stream", "read", "list", "map")

WORKER = """
import itertools, mmap, os, sys
how, place, notes = sys.argv[1:]
os.chdir(place)
notes = open(notes, "ab", buffering=0)
shared = os.open("shared", os.O_RDWR)
try:
    for number in itertools.count():
        if how == "list":
            for name in os.listdir("."):
                os.stat(name)
        elif how == "read":
            os.posix_fadvise(shared, 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(shared, 1 << 20, number % 8 << 20)
        elif how == "map":
            with mmap.mmap(shared, 1 << 20) as view:
                view[number % 256 << 12] = number % 256
                view.flush()
        elif how == "stream":
            if number % 16 == 0:
                stream = os.open("stream", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(stream, bytes(1 << 20))
        else:
            name = f"{how}-{number}"
            file = os.open(name, os.O_WRONLY | os.O_CREAT)
            os.write(file, name.encode() * 100)
            if how == "sync":
                os.fsync(file)
            os.close(file)
            if how == "sync":
                notes.write(f"{name}\\n".encode())
        if number == 0:
            notes.write(b"at work\\n")
except OSError as error:
    notes.write(f"error {error.errno}\\n".encode())
"""


class Workers:
    """Programs of each kind on a mount. ``promised``: the files that were acknowledged as durable."""

    def __init__(self, place: Path, notes: Path) -> None:
        self._notes = notes
        self._notes.mkdir(exist_ok=True)
        with (place / "shared").open("wb") as shared:
            shared.write(os.urandom(8 << 20))
        self.processes = {
            how: subprocess.Popen([sys.executable, "-c", WORKER, how, place, self._notes / how], stderr=subprocess.PIPE)
            for how in WORKERS
        }
        wait_until(lambda: all("at work" in self.notes(how) for how in WORKERS), "all are at work")

    def notes(self, how: str) -> list[str]:
        """What one of them has noted."""
        file = self._notes / how
        return file.read_text().splitlines() if file.exists() else []

    def end(self, signals: int = 0) -> dict[str, int]:
        """Wait for all to end, after a signal if there is one; why each did: an errno, or a negative signal."""
        ends = {}
        for how, process in self.processes.items():
            if signals:
                process.send_signal(signals)
            process.communicate(timeout=PATIENCE_SECONDS)
            said = [line for line in self.notes(how) if line.startswith("error ")]
            ends[how] = int(said[-1].split()[1]) if said else process.returncode
        return ends

    def clear(self) -> None:
        """Leave none."""
        for process in self.processes.values():
            process.kill()
            process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def at_work(place: Path, notes: Path) -> Iterator[Workers]:
    workers = Workers(place, notes)
    try:
        yield workers
    finally:
        workers.clear()


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.02)


def check_promised(volume: MountedVolume, workers: Workers) -> None:
    """What was synced is there whole."""
    names = [line for line in workers.notes("sync") if line.startswith("sync-")]
    assert names
    for name in names:
        assert (volume.directory / name).read_bytes() == name.encode() * 100, name


@pytest.fixture
def volume(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MountedVolume]:
    with mounted(tmp_path, kind=getattr(request, "param", KIND)) as volume:
        yield volume


def test_a_busy_mount_is_not_taken_away_and_a_lazy_unmount_lets_programs_end_in_order(
    volume: MountedVolume, tmp_path: Path
) -> None:
    with at_work(volume.directory, tmp_path / "notes") as workers:
        for command in (["umount"], ["fusermount3", "-u"]):
            busy = subprocess.run([*command, volume.directory], capture_output=True, text=True)
            assert busy.returncode != 0 and "busy" in busy.stderr
        assert all(process.poll() is None for process in workers.processes.values())
        subprocess.run(["fusermount3", "-u", "-z", volume.directory], check=True)
        assert not is_mounted(volume.directory) and os.listdir(volume.directory) == []
        done = len(workers.notes("sync"))
        wait_until(lambda: len(workers.notes("sync")) > done + 3, "they go on where they are")
        ends = workers.end(signal.SIGTERM)
        assert set(ends.values()) == {-signal.SIGTERM}, ends
        volume.wait()  # the last that used it has gone
    volume.start()
    check_promised(volume, workers)


@pytest.mark.parametrize("volume", KINDS, indirect=True)
def test_when_the_process_dies_under_load_all_programs_end_and_the_next_mount_repairs_it(
    volume: MountedVolume, tmp_path: Path
) -> None:
    with at_work(volume.directory, tmp_path / "notes") as workers:
        volume.kill()
        ends = workers.end()
        assert set(ends.values()) <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, -signal.SIGBUS}, ends
        with pytest.raises(OSError) as dead:
            os.statvfs(volume.directory)
        assert dead.value.errno == errno.ENOTCONN
    command = [*SILTSTONE, "mount", str(volume.home), str(volume.directory)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS * 2)
    check_promised(volume, workers)
    (volume.directory / "after").write_bytes(b"it goes on")
    subprocess.run([*SILTSTONE, "umount", str(volume.directory)], check=True, capture_output=True)
    checked = subprocess.run([*SILTSTONE, "fsck", "--deep", str(volume.home)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_programs_that_are_killed_in_the_middle_of_calls_leave_nothing_behind(
    volume: MountedVolume, tmp_path: Path
) -> None:
    with at_work(volume.directory, tmp_path / "notes") as workers:
        assert set(workers.end(signal.SIGKILL).values()) == {-signal.SIGKILL}
        check_promised(volume, workers)
    # Nothing is held that somebody had open: an unmount in order has nothing to wait for.
    subprocess.run(["umount", volume.directory], check=True)
    volume.wait()
