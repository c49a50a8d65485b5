"""How soon does a volume of a million files serve again after `kill -9`?

`siltstone init` makes a volume on six directories (4+2); one process fills it through Volume and goes on creating files
until it is killed with SIGKILL, so that the log's newest part has to be replayed. Then `siltstone serve` with a mount
and an S3 address is started, and `seconds` counts from that until both doors say that they are ready (the start of
Python and its imports included); the kill and the start are repeated, the median counts. `cpu_seconds`: what the
process used of a processor until then, which tells more where others work beside.

ratio: over `siltstone serve` of an empty volume on the same disks, which has to start Python, too.
`python bench/restart.py [--quick] [--json] [--folder DIR] [--files N] [--bytes N] [--keep]`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import trio
from local.report import folder_for, options_of, show

from siltstone.core.volume import Volume
from siltstone.home import Home
from siltstone.owner import open_owner
from siltstone.types import ROOT_INO, Ino

FILES = 1_000_000
FILES_QUICK = 20_000
DIRECTORY_FILES = 1000
TASKS = 16
KILL_SECONDS = 2.0
"""So long files are created before each kill."""

PATTERN = random.Random(0).randbytes(1 << 20)


def siltstone(*arguments: str | Path) -> list[str]:
    """A command as it is started."""
    return [sys.executable, "-P", "-m", "siltstone", *map(str, arguments)]


async def fill(home: Path, files: int, size: int, prefix: bytes) -> None:
    """Create files of ``size`` bytes, in directories of a thousand, and go on for ever; says how many there are."""
    async with open_owner(Home(home)) as owner:
        volume = owner.volume
        numbers = iter(range(sys.maxsize))
        begun = time.monotonic()
        done = 0

        async def create_directories() -> None:
            nonlocal done
            for number in numbers:
                directory = await volume.mkdir(ROOT_INO, prefix + b"%d" % number, mode=0o755, uid=0, gid=0)
                for index in range(DIRECTORY_FILES):
                    await create_file(volume, directory.ino, b"file%d" % index, size)
                    done += 1
                    if done % (files // 20) == 0:
                        print(f"filled {done} {done / (time.monotonic() - begun):.0f}/s", flush=True)
                    if done == files:
                        print(f"enough {done}", flush=True)

        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(create_directories)


async def create_file(volume: Volume, directory: Ino, name: bytes, size: int) -> None:
    """A file of ``size`` bytes."""
    await trio.lowlevel.checkpoint()  # as every request of a front-end is one: the volume itself need not wait
    made = await volume.create(directory, name, mode=0o100644, uid=0, gid=0)
    if size:
        start = made.ino * 7919 % (len(PATTERN) - size)
        await volume.write(made.ino, 0, PATTERN[start : start + size])
        await volume.flush(made.ino)


def fill_and_kill(home: Path, files: int, size: int, prefix: str) -> None:
    """Fill in another process, and kill that in the middle of its work."""
    command = [sys.executable, __file__, "--fill", str(home), "--files", str(files), "--bytes", str(size)]
    process = subprocess.Popen([*command, "--prefix", prefix], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        if line.startswith("enough"):
            break
    time.sleep(KILL_SECONDS)
    assert process.poll() is None, "the process that fills the volume has ended"
    process.kill()
    process.communicate()


class Start(NamedTuple):
    """From the start of `serve` until both doors are ready: seconds of the clock, and of the processor."""

    seconds: float
    cpu_seconds: float


def start(home: Path, mount: Path) -> Start:
    """Start `serve`; when both doors are ready it is killed."""
    begun = time.monotonic()
    process = subprocess.Popen(
        siltstone("serve", home, "--mount", mount, "--s3", "127.0.0.1:0"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    taken = time.monotonic() - begun
    assert all(line.startswith("ready") for line in lines), lines
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    os.listdir(mount)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    subprocess.run(["fusermount3", "-u", "-z", "-q", mount], check=False)
    return Start(taken, cpu_seconds)


def measure(folder: Path, files: int, size: int, rounds: int) -> dict[str, object]:
    """Everything, on one volume."""
    mount = folder / "mount"
    mount.mkdir()
    volumes = {}
    for name in ("empty", "full"):
        disks = [argument for index in range(6) for argument in ("--disk", folder / f"{name}{index}")]
        subprocess.run(siltstone("init", folder / name, *disks), check=True, stdout=subprocess.DEVNULL)
        volumes[name] = folder / name
    empty = [start(volumes["empty"], mount) for _ in range(rounds)]
    begun = time.monotonic()
    fill_and_kill(volumes["full"], files, size, "a")
    filled = time.monotonic() - begun
    full = [start(volumes["full"], mount)]
    for number in range(rounds - 1):
        fill_and_kill(volumes["full"], max(20, files // 50), size, f"b{number}-")
        full.append(start(volumes["full"], mount))
    seconds, seconds_empty = (statistics.median(each.seconds for each in starts) for starts in (full, empty))
    return {
        "files": files,
        "file_bytes": size,
        "seconds_to_fill": round(filled, 1),
        "seconds": round(seconds, 2),
        "seconds_of_each": [round(each.seconds, 2) for each in full],
        "cpu_seconds": round(statistics.median(each.cpu_seconds for each in full), 2),
        "seconds_empty": round(seconds_empty, 2),
        "cpu_seconds_empty": round(statistics.median(each.cpu_seconds for each in empty), 2),
        "ratio": round(seconds / seconds_empty, 2),
    }


def main() -> None:
    """Print the figures."""
    parser = options_of(__doc__, files_quick=FILES_QUICK)
    parser.add_argument("--keep", action="store_true", help="leave the volume there")
    parser.add_argument("--fill", default="", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = options.files or (FILES_QUICK if options.quick else FILES)
    if options.fill:
        trio.run(fill, Path(options.fill), files, options.bytes, options.prefix.encode())
        return
    with folder_for("restart", options.folder, keep=options.keep) as folder:
        result = measure(folder, files, options.bytes, 3)
    show("restart", result, as_json=options.json)


if __name__ == "__main__":
    main()
