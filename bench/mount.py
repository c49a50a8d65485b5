"""How fast is the mount, against a plain directory on the same disk and against the ceiling of Python filesystems?

`plain` is a directory beside the volume's six (all on the disk of --directory), `memfs` is bench/ceiling/memfs.py, the
least that pyfuse3 allows. All are measured in one run, in turns; a figure is the median of the turns. Rates are of one
program doing one thing after the other; `cold`: with nothing in the kernel's caches (needs root, otherwise left out).
Where plain and memfs are much faster, remember what they do not do: a Siltstone fsync is on three disks.
`daemon_us` is the processor time of the serving process for one operation, or for one MiB.
`python bench/mount.py [--quick] [--json] [--directory DIR]`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

KIB, MIB = 1024, 1024 * 1024
MEMFS = Path(__file__).resolve().parent / "ceiling" / "memfs.py"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
BLOCK = os.urandom(4 * KIB)
CHUNK = os.urandom(MIB)


class Target(NamedTuple):
    """Where it is measured; ``pid`` serves it, 0 for a plain directory."""

    name: str
    directory: Path
    pid: int


class Sizes(NamedTuple):
    """How much is done in one turn."""

    files: int
    synced_files: int
    stream_mib: int
    turns: int


class Turn:
    """One turn on one target: the steps build on what those before them left in ``place``."""

    def __init__(self, target: Target, sizes: Sizes, number: int) -> None:
        self.place = target.directory / f"turn-{number}"
        self.rates: dict[str, float] = {}
        self.daemon_us: dict[str, float] = {}
        self._target = target
        self._sizes = sizes

    def run(self) -> None:
        """Measure everything, and clean up."""
        files, synced = self._sizes.files, self._sizes.synced_files
        self.place.mkdir()
        self._measure("create", files, lambda: self._create(files))
        self._measure("stat cold", files, lambda: self._stat(files), cold=True)
        self._measure("stat warm", files, lambda: self._stat(files))
        self._measure("write 4 KiB + close", files, lambda: self._write("written", files, sync=False))
        self._measure("write 4 KiB + fsync", synced, lambda: self._write("synced", synced, sync=True))
        self._measure("read 4 KiB file cold", files, lambda: self._read(files), cold=True)
        self._measure("read 4 KiB file warm", files, lambda: self._read(files))
        self._measure("list with stat cold", files * 2 + synced, self._list, cold=True)
        self._measure("rename", files, lambda: self._rename(files))
        self._measure("unlink", files, lambda: self._unlink(files))
        amount = self._sizes.stream_mib
        self._measure("stream write MiB", amount, lambda: self._stream_write(amount))
        self._measure("stream read MiB cold", amount, self._stream_read, cold=True)
        self._measure("stream read MiB warm", amount, self._stream_read)
        shutil.rmtree(self.place)

    def _measure(self, name: str, count: int, step: Callable[[], None], *, cold: bool = False) -> None:
        if cold:
            if not os.access(DROP_CACHES, os.W_OK):
                return
            os.sync()
            DROP_CACHES.write_text("3")
        cpu = cpu_seconds(self._target.pid)
        start = time.perf_counter()
        step()
        self.rates[name] = count / (time.perf_counter() - start)
        self.daemon_us[name] = (cpu_seconds(self._target.pid) - cpu) / count * 1e6

    def _create(self, count: int) -> None:
        for number in range(count):
            os.close(os.open(f"{self.place}/empty-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def _stat(self, count: int) -> None:
        for number in range(count):
            os.stat(f"{self.place}/empty-{number}")

    def _write(self, name: str, count: int, *, sync: bool) -> None:
        for number in range(count):
            descriptor = os.open(f"{self.place}/{name}-{number}", os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, BLOCK)
            if sync:
                os.fsync(descriptor)
            os.close(descriptor)

    def _read(self, count: int) -> None:
        for number in range(count):
            descriptor = os.open(f"{self.place}/written-{number}", os.O_RDONLY)
            assert os.read(descriptor, 8 * KIB) == BLOCK
            os.close(descriptor)

    def _list(self) -> None:
        with os.scandir(self.place) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)

    def _rename(self, count: int) -> None:
        for number in range(count):
            os.rename(f"{self.place}/empty-{number}", f"{self.place}/renamed-{number}")

    def _unlink(self, count: int) -> None:
        for number in range(count):
            os.unlink(f"{self.place}/renamed-{number}")

    def _stream_write(self, amount: int) -> None:
        descriptor = os.open(self.place / "stream", os.O_WRONLY | os.O_CREAT)
        for _ in range(amount):
            os.write(descriptor, CHUNK)
        os.fsync(descriptor)
        os.close(descriptor)

    def _stream_read(self) -> None:
        descriptor = os.open(self.place / "stream", os.O_RDONLY)
        while os.read(descriptor, MIB):
            pass
        os.close(descriptor)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken, its threads included."""
    if pid == 0:
        return 0.0
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextlib.contextmanager
def served(name: str, command: list[str], directory: Path) -> Iterator[Target]:
    """A mount on ``directory`` that ``command`` serves, and which ends when it is unmounted."""
    directory.mkdir()
    process = subprocess.Popen([*command, str(directory)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        if not process.stdout.readline().startswith(b"ready"):
            raise SystemExit(f"{name} did not start")
        yield Target(name, directory, process.pid)
    finally:
        subprocess.run(["fusermount3", "-u", directory], check=True)
        process.wait(60)
        process.stdout.close()


@contextlib.contextmanager
def targets(place: Path) -> Iterator[list[Target]]:
    """Everything that is measured, on one disk."""
    siltstone = [sys.executable, "-P", "-m", "siltstone"]
    subprocess.run([*siltstone, "init", place / "home"], check=True, capture_output=True)
    serve = [*siltstone, "serve", str(place / "home"), "--mount"]
    (place / "plain").mkdir()
    with (
        served("siltstone", serve, place / "mounted") as volume,
        served("memfs", [sys.executable, str(MEMFS)], place / "memfs") as memfs,
    ):
        yield [Target("plain", place / "plain", 0), memfs, volume]


def measure(place: Path, sizes: Sizes) -> list[dict[str, object]]:
    """One line of the table for each operation."""
    with targets(place) as found:
        turns: dict[str, list[Turn]] = {target.name: [] for target in found}
        for number in range(sizes.turns):
            for target in found:
                turn = Turn(target, sizes, number)
                turn.run()
                turns[target.name].append(turn)
    lines: list[dict[str, object]] = []
    for operation in turns["siltstone"][0].rates:
        rate = {name: statistics.median(turn.rates[operation] for turn in done) for name, done in turns.items()}
        daemon_us = statistics.median(turn.daemon_us[operation] for turn in turns["siltstone"])
        ceiling_us = statistics.median(turn.daemon_us[operation] for turn in turns["memfs"])
        lines.append(
            {
                "operation": operation,
                "siltstone_per_s": round(rate["siltstone"], 1),
                "memfs_per_s": round(rate["memfs"], 1),
                "plain_per_s": round(rate["plain"], 1),
                "ratio_to_memfs": round(rate["siltstone"] / rate["memfs"], 3),
                "ratio_to_plain": round(rate["siltstone"] / rate["plain"], 4),
                "daemon_us": round(daemon_us, 1),
                "memfs_daemon_us": round(ceiling_us, 1),
            }
        )
    return lines


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--directory", type=Path, help="where the volume and the plain directory are made")
    options = parser.parse_args()
    sizes = Sizes(1000, 200, 128, 3) if options.quick else Sizes(5000, 1000, 512, 5)
    with tempfile.TemporaryDirectory(prefix="siltstone-bench-", dir=options.directory) as place:
        results = measure(Path(place), sizes)
    if options.json:
        print(json.dumps({"bench": "mount", "results": results}, indent=1))
        return
    columns = ("siltstone_per_s", "memfs_per_s", "plain_per_s", "ratio_to_memfs", "ratio_to_plain", "daemon_us")
    print(f"{'':22}" + "".join(f"{column:>17}" for column in (*columns, "memfs_daemon_us")))
    for line in results:
        print(
            f"{line['operation']!s:22}" + "".join(f"{line[column]!s:>17}" for column in (*columns, "memfs_daemon_us"))
        )


if __name__ == "__main__":
    main()
