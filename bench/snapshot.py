"""What does a snapshot of the metadata cost, and how soon is a volume back from its disks alone?

A volume on six directories (4+2) is filled through Volume. A full snapshot is taken with nobody else there; then files
are created without one and while full snapshots are taken again and again, and the loop's delay is noted; then HOME is
put away and the volume imported from four of its six disks.

ratio_snapshot: the time of a full snapshot over that of a compacting copy of LMDB, written and flushed once.
ratio_creates: files created in a second beside snapshots, over those without.
ratio_import: the time of the import over that of putting the same keys and values into an empty LMDB, in order.
`python bench/snapshot.py [--quick] [--json] [--folder DIR] [--files N] [--bytes N]`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import trio
from local.report import folder_for, options_of, show
from restart import FILES, FILES_QUICK, TASKS, create_file, siltstone

from siltstone.core.types import Progress
from siltstone.core.volume import Volume
from siltstone.home import Home
from siltstone.importing import ImportReport, import_volume, plan_import
from siltstone.loop_delay import LoopDelay
from siltstone.owner import open_owner
from siltstone.types import ROOT_INO

ROUNDS = 3
DIRECTORY_FILES = 1000


def quiet(_: Progress) -> None:
    """Nobody wants to see how far it is."""


class Creator:
    """Creates files, in directories of a thousand."""

    def __init__(self, volume: Volume, size: int) -> None:
        self._volume = volume
        self._size = size
        self._directories = 0
        self.created = 0

    async def _create(self, target: int) -> None:
        while self.created < target:
            name = b"dir%d" % self._directories
            self._directories += 1
            directory = await self._volume.mkdir(ROOT_INO, name, mode=0o755, uid=0, gid=0)
            for index in range(DIRECTORY_FILES):
                await create_file(self._volume, directory.ino, b"file%d" % index, self._size)
                self.created += 1
                if self.created >= target:
                    return

    async def fill(self, files: int) -> None:
        """So many, by several tasks."""
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(self._create, files)

    async def rate(self, seconds: float) -> float:
        """Files a second, for some seconds."""
        before, begun = self.created, time.monotonic()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(self._create, sys.maxsize)
        return (self.created - before) / (time.monotonic() - begun)


def plain_copy_seconds(meta: Path, target: Path) -> float:
    """A compacting copy of LMDB into a file, flushed."""
    environment = lmdb.open(str(meta), readonly=True, lock=False, max_dbs=2, map_size=1 << 36)
    begun = time.monotonic()
    with target.open("wb") as file:
        environment.copyfd(file.fileno(), compact=True)
        os.fsync(file.fileno())
    taken = time.monotonic() - begun
    environment.close()
    target.unlink()
    return taken


def plain_load_seconds(meta: Path, target: Path) -> float:
    """All keys and values of one LMDB put into another, in order, flushed."""
    source = lmdb.open(str(meta), readonly=True, lock=False, max_dbs=2, map_size=1 << 36)
    records = source.open_db(b"records", create=False)
    empty = lmdb.open(str(target), max_dbs=2, map_size=1 << 36)
    begun = time.monotonic()
    with source.begin(records) as reading, empty.begin(write=True, db=empty.open_db(b"records")) as writing:
        writing.cursor().putmulti(iter(reading.cursor()), append=True)
    taken = time.monotonic() - begun
    source.close()
    empty.close()
    shutil.rmtree(target)
    return taken


async def beside_snapshots(volume: Volume, creator: Creator, seconds: float) -> float:
    """Creates a second while one full snapshot follows the other."""
    rates: list[float] = []

    async def take() -> None:
        while True:
            await volume.snapshots.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        rates.append(await creator.rate(seconds))
        nursery.cancel_scope.cancel()
    return rates[0]


async def measure_volume(home: Home, folder: Path, files: int, size: int, seconds: float) -> dict[str, object]:
    """Snapshots of a full volume."""
    async with open_owner(home) as owner:
        volume = owner.volume
        creator = Creator(volume, size)
        begun = time.monotonic()
        await creator.fill(files)
        filled = time.monotonic() - begun
        await volume.settle()
        taken: list[float] = []
        for _ in range(ROUNDS):
            begun = time.monotonic()
            await volume.snapshots.take(is_hurried=True)
            taken.append(time.monotonic() - begun)
        status = volume.status().snapshots
        used_bytes = volume.ledger.store.statistics().space.used_bytes
        alone: list[float] = []
        beside: list[float] = []
        delays: list[float] = []
        for _ in range(ROUNDS):
            alone.append(await creator.rate(seconds))
            delay = LoopDelay(owner.clock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(delay.run)
                beside.append(await beside_snapshots(volume, creator, seconds))
                nursery.cancel_scope.cancel()
            delays.append(delay.statistics()["p99"])
    plain = plain_copy_seconds(home.meta, folder / "copy")
    return {
        "files": files,
        "seconds_to_fill": round(filled, 1),
        "lmdb_bytes": used_bytes,
        "lmdb_bytes_a_file": round(used_bytes / files),
        "snapshot_bytes": status.newest_bytes,
        "snapshot_bytes_a_file": round(status.newest_bytes / files),
        "snapshot_seconds": round(statistics.median(taken), 2),
        "plain_copy_seconds": round(plain, 2),
        "ratio_snapshot": round(statistics.median(taken) / plain, 2),
        "creates_per_s": round(statistics.median(alone)),
        "creates_beside_snapshots_per_s": round(statistics.median(beside)),
        "ratio_creates": round(statistics.median(beside) / statistics.median(alone), 3),
        "loop_delay_p99_ms": round(statistics.median(delays), 2),
    }


async def measure_import(folder: Path, disks: list[Path]) -> tuple[float, ImportReport]:
    """How long an import takes."""
    home = Home(folder / "imported")
    begun = time.monotonic()
    report = await import_volume(home, await plan_import(home, disks), quiet)
    return time.monotonic() - begun, report


def measure(folder: Path, files: int, size: int, seconds: float) -> dict[str, object]:
    """Everything, on one volume."""
    disks = [folder / f"disk{index}" for index in range(6)]
    arguments = [argument for disk in disks for argument in ("--disk", disk)]
    subprocess.run(siltstone("init", folder / "home", *arguments), check=True, stdout=subprocess.DEVNULL)
    home = Home(folder / "home")
    results = trio.run(measure_volume, home, folder, files, size, seconds)
    taken, report = trio.run(measure_import, folder, disks[:2] + disks[4:])
    plain = plain_load_seconds(home.meta, folder / "load")
    return {
        **results,
        "imported_inodes": report.inodes,
        "import_seconds": round(taken, 2),
        "plain_load_seconds": round(plain, 2),
        "ratio_import": round(taken / plain, 2),
    }


def main() -> None:
    """Print the figures."""
    options = options_of(__doc__, files_quick=FILES_QUICK).parse_args()
    files = options.files or (FILES_QUICK if options.quick else FILES)
    with folder_for("snapshot", options.folder) as folder:
        result = measure(folder, files, options.bytes, 2.0 if options.quick else 8.0)
    show("snapshot", result, as_json=options.json)


if __name__ == "__main__":
    main()
