"""Is a tree cloned at once, and what do clones and snapshots cost those who write to it? What do usage and quotas cost?

A volume on six directories (4+2), opened in this process. A tree of small files, a hundred in a directory, is made
through Volume and cloned; beside it the loop's delay is noted. Then every file of a sample is written to for the first
time, in the clone and in a tree that was never cloned.

files_per_second: of the clone. ratio_creates: the time of a clone over that of making the same files (less is better).
ratio_first_write: a first write of 4 KiB, flushed, to a cloned file, over the same to a plain one (at most 2).
loop_delay_ms: what others in the loop waited for while it was cloned. `seconds`: at most 5 for 100,000 files.
The change feed: `ratio_notes`: creates with batches that say what they changed over such that do not; `ratio_watchers`:
creates while 100 watchers on sockets get everything, over creates while nobody watches (at most 1.1).
feed_latency_ms: from the return of a create to the arrival of its event at a watcher (at most 20).
feed_resume_ms: reading the last thousand changes of all, and feed_all_ms: all of them.

snapshot_seconds: a snapshot of the tree, while somebody creates files, writes to them and renames them in it all the
time. snapshot_us_per_file: by processor time, the writer's included. snapshot_blocked_ms_max: the longest of what the
writer waited for one of its operations beyond the processor time that such a one takes alone (at most 50).
ratio_writes_held: 4 KiB writes, flushed, to files of a tree with ten snapshots, over the same to a tree without (at
most 1.1); of each file the second write after the last snapshot. ratio_first_writes_held: the first.
ratio_creates_held: creates in the same two trees, over the same before there were snapshots. ratio_delete: the time
that deleting a snapshot takes over that of making it.

ratio_counted_*: a create, or a first write of 4 KiB and its flush, five directories deep, where usage is kept over one
where it is not. ratio_quota_*: the same under two nested quotas over none. Blocks of 100 take turns; the lower quartile
of each. du_reads: records that the usage of a tree takes, after a restart.
Ratios are of the processor time of the loop's thread, so that what else runs on the machine matters less.
`python bench/trees.py [--quick] [--json] [--folder DIR] [--files N]`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio
from churn import config_for
from local.volume import opened

from siltstone.control import StreamSink
from siltstone.core.cloning import ClonesHere, clone_path
from siltstone.core.quotas import Quotas
from siltstone.core.tree_snapshots import TreeSnapshots
from siltstone.core.volume import Volume
from siltstone.limits import GIB, KIB
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS
from siltstone.meta.store.store import Store
from siltstone.meta.usage import TreeUsage
from siltstone.meta.usage_count import forget_usage
from siltstone.types import ROOT_INO, Ino

FILES = 100_000
FILES_QUICK = 20_000
DIRECTORY_FILES = 100
FILE_BYTES = 4 * KIB
SAMPLE = 2_000
FEED_FILES = 5_000
WATCHERS = 100
BLOCKS = 80
BLOCKS_QUICK = 30
DISK_BYTES = 8 * GIB
HELD = 10
"""Snapshots that are held while writes are measured."""


class Taken(NamedTuple):
    """By the clock, and of the processor by this thread."""

    seconds: float
    processor_seconds: float


class Stopwatch:
    """From its making on."""

    def __init__(self) -> None:
        self._began = time.monotonic(), time.thread_time()

    def read(self) -> Taken:
        """Until now."""
        return Taken(time.monotonic() - self._began[0], time.thread_time() - self._began[1])


class Turns:
    """How long the loop's turns take: a task that does nothing but come around."""

    def __init__(self) -> None:
        self.delays_ms: list[float] = []

    async def run(self) -> None:
        """Note them, for ever."""
        while True:
            began = time.thread_time()
            await trio.lowlevel.checkpoint()
            self.delays_ms.append(1e3 * (time.thread_time() - began))
            await trio.sleep(0.001)

    def percentile(self, share: float) -> float:
        """The delay that so many of a hundred are below."""
        ordered = sorted(self.delays_ms) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def make_tree(volume: Volume, name: bytes, files: int) -> list[Ino]:
    """A tree of small files; their inodes."""
    root = (await volume.mkdir(ROOT_INO, name, mode=0o755, uid=0, gid=0)).ino
    found: list[Ino] = []
    data = os.urandom(FILE_BYTES)
    directory = root
    for number in range(files):
        if number % DIRECTORY_FILES == 0:
            directory = (await volume.mkdir(root, b"d%d" % number, mode=0o755, uid=0, gid=0)).ino
        ino = (await volume.create(directory, b"f%d" % number, mode=0o644, uid=0, gid=0)).ino
        await volume.write(ino, 0, data)
        await volume.flush(ino)
        found.append(ino)
        if number % 16 == 0:
            await trio.lowlevel.checkpoint()
    return found


async def first_writes(volume: Volume, inos: list[Ino]) -> Taken:
    """4 KiB to each, flushed."""
    data = os.urandom(FILE_BYTES)
    watch = Stopwatch()
    for ino in inos:
        await volume.write(ino, 0, data)
        await volume.flush(ino)
    return watch.read()


async def files_below(volume: Volume, name: bytes, limit: int) -> list[Ino]:
    """Some files of a tree."""
    root = (await volume.lookup(ROOT_INO, name)).ino
    found: list[Ino] = []
    for directory in await volume.list_directory(root, after=None, limit=limit):
        found += [entry.ino for entry in await volume.list_directory(directory.ino, after=None, limit=DIRECTORY_FILES)]
        if len(found) >= limit:
            break
    return found[:limit]


READER = """
import os, selectors, sys
waiting = selectors.DefaultSelector()
for number in map(int, sys.argv[1:]):
    waiting.register(number, selectors.EVENT_READ)
while waiting.get_map():
    for key, _ in waiting.select():
        if not os.read(key.fd, 1 << 20):
            waiting.unregister(key.fd)
"""


class TimedSink:
    """A watcher in this process that notes when things arrive."""

    def __init__(self) -> None:
        self.arrived: list[float] = []
        self.size = 0

    def send_nowait(self, data: bytes) -> int:
        """See core/feed.py."""
        self.arrived += [time.monotonic()] * data.count(b'"create"')
        self.size += len(data)
        return len(data)

    async def send_all(self, data: bytes) -> None:
        """See core/feed.py."""
        self.send_nowait(data)


async def creates(volume: Volume, name: bytes, count: int) -> Taken:
    """So many files in a directory of their own."""
    directory = (await volume.mkdir(ROOT_INO, name, mode=0o755, uid=0, gid=0)).ino
    watch = Stopwatch()
    for number in range(count):
        await volume.create(directory, b"f%d" % number, mode=0o644, uid=0, gid=0)
        if number % 16 == 0:
            await trio.lowlevel.checkpoint()
    taken = watch.read()
    await volume.sync()
    return taken


def start_reader(sockets: list[socket.socket]) -> subprocess.Popen[bytes]:
    """Another process that reads all of these until they are closed."""
    numbers = [each.fileno() for each in sockets]
    return subprocess.Popen([sys.executable, "-c", READER, *map(str, numbers)], pass_fds=numbers)


@contextlib.asynccontextmanager
async def watched(volume: Volume, count: int) -> AsyncIterator[None]:
    """So many watchers of everything, each on a socket that another process reads."""
    pairs = [socket.socketpair() for _ in range(count)]
    reader = start_reader([other for _, other in pairs])
    async with trio.open_nursery() as nursery:
        for ours, other in pairs:
            other.close()
            sink = StreamSink(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
            nursery.start_soon(partial(volume.feed.watch, b"", None, sink, follow=True))
        await trio.sleep(0.5)
        yield
        nursery.cancel_scope.cancel()
    for ours, _ in pairs:
        ours.close()
    reader.wait()


async def measure_feed(volume: Volume, count: int) -> dict[str, float]:
    """What notes, watchers and going on cost."""
    with_notes: list[float] = []
    with_watchers: list[float] = []
    for number in range(5):
        plain = await creates(volume, b"plain-%d" % number, count)
        volume.ledger.store.keeps_notes = False
        bare = await creates(volume, b"bare-%d" % number, count)
        volume.ledger.store.keeps_notes = True
        async with watched(volume, WATCHERS):
            seen = await creates(volume, b"seen-%d" % number, count)
        with_notes.append(plain.processor_seconds / bare.processor_seconds)
        with_watchers.append(seen.processor_seconds / plain.processor_seconds)
    sink, made = TimedSink(), list[float]()
    begin = volume.ledger.store.last_lsn
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(volume.feed.watch, b"", None, sink, follow=True))
        await trio.sleep(0.1)
        for number in range(200):
            await volume.create(ROOT_INO, b"timed-%d" % number, mode=0o644, uid=0, gid=0)
            made.append(time.monotonic())
            await trio.sleep(0.011)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    delays = sorted(1e3 * (there - here) for here, there in zip(made, sink.arrived, strict=True))
    await creates(volume, b"many", count * 4)
    middle = volume.ledger.store.last_lsn
    await creates(volume, b"few", 1_000)
    resumes: list[float] = []
    for after in (middle, begin):
        watch = Stopwatch()
        await volume.feed.watch(b"", after, TimedSink(), follow=False)
        resumes.append(1e3 * watch.read().processor_seconds)
    return {
        "ratio_notes": round(sorted(with_notes)[2], 3),
        "ratio_watchers": round(sorted(with_watchers)[2], 3),
        "feed_latency_ms_p50": round(delays[len(delays) // 2], 1),
        "feed_latency_ms_p99": round(delays[len(delays) * 99 // 100], 1),
        "feed_resume_ms": round(resumes[0], 1),
        "feed_all_ms": round(resumes[1], 1),
        "feed_all_changes": count * 4 + 1_202,
    }


class Writer:
    """Somebody who changes a tree all the time."""

    def __init__(self, volume: Volume, parent: Ino, known: list[Ino]) -> None:
        self._volume = volume
        self._parent = parent
        self._known = known
        self.waits_ms: list[float] = []
        self.own_ms: list[float] = []

    async def run(self) -> None:
        """Go on for ever; note how long each operation took of this thread, whoever used it."""
        number = 0
        while True:
            began = time.thread_time()
            await trio.lowlevel.checkpoint()  # it waits for its turn, as a request does that has arrived
            await self.step(number)
            self.waits_ms.append(1e3 * (time.thread_time() - began))
            number += 1
            await trio.sleep(0.0005)

    async def step(self, number: int) -> None:
        """One operation."""
        volume, kind = self._volume, number % 3
        if kind == 0:
            await volume.create(self._parent, b"new%d" % number, mode=0o644, uid=0, gid=0)
        elif kind == 1:
            await volume.rename(self._parent, b"new%d" % (number - 1), self._parent, b"old%d" % number)
        else:
            ino = self._known[number % len(self._known)]
            await volume.write(ino, 0, b"x" * FILE_BYTES)
            await volume.flush(ino)


async def more_files(volume: Volume, parent: Ino, prefix: bytes, count: int) -> Taken:
    """So many files in a directory."""
    watch = Stopwatch()
    for number in range(count):
        await volume.create(parent, prefix + b"%d" % number, mode=0o644, uid=0, gid=0)
    return watch.read()


def middle(values: list[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


async def measure_snapshots(volume: Volume, files: int) -> dict[str, float]:
    """A snapshot under a writer; ten held; one deleted. Of the tree ``source``."""
    sample = min(SAMPLE, files // 2)
    root = (await volume.lookup(ROOT_INO, b"source")).ino
    other = (await volume.lookup(ROOT_INO, b"plain")).ino
    known = await files_below(volume, b"source", sample)
    snapshots = TreeSnapshots(volume)
    writer = Writer(volume, root, known)
    part = sample // 8
    before: list[float] = []
    for start in range(0, sample - part + 1, part):
        one = await more_files(volume, other, b"x%d-" % start, part)
        two = await more_files(volume, root, b"x%d-" % start, part)
        before.append(two.processor_seconds / one.processor_seconds)
    for number in range(600):
        watch = Stopwatch()
        await writer.step(number + 3_000_000)
        writer.own_ms.append(1e3 * watch.read().processor_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await trio.sleep(0.01)
        watch = Stopwatch()
        info = await snapshots.create(root, b"held0")
        taken = watch.read()
        nursery.cancel_scope.cancel()
    for number in range(1, HELD):
        await snapshots.create(root, b"held%d" % number)
    await volume.settle()
    held, plain = await files_below(volume, b"source", sample), await files_below(volume, b"plain", sample)
    ratios: dict[str, list[float]] = {"first": [], "second": [], "creates": []}
    for start in range(0, sample - part + 1, part):
        for name in ("first", "second"):
            one = await first_writes(volume, plain[start : start + part])
            two = await first_writes(volume, held[start : start + part])
            ratios[name].append(two.processor_seconds / one.processor_seconds)
        one = await more_files(volume, other, b"y%d-" % start, part)
        two = await more_files(volume, root, b"y%d-" % start, part)
        ratios["creates"].append(two.processor_seconds / one.processor_seconds)
    used = volume.ledger.store.statistics().space.used_bytes
    watch = Stopwatch()
    await snapshots.wait_purged(await snapshots.delete(root, b"held0"))
    deleted = watch.read()
    return {
        "snapshot_entries": info.entries,
        "snapshot_seconds": round(taken.seconds, 2),
        "snapshot_us_per_file": round(1e6 * taken.processor_seconds / info.entries, 1),
        "snapshot_blocked_ms_max": round(max(writer.waits_ms) - middle(writer.own_ms), 1),
        "snapshot_blocked_ms_p99": round(sorted(writer.waits_ms)[int(0.99 * len(writer.waits_ms))], 1),
        "snapshot_writer_operations": len(writer.waits_ms),
        "ratio_first_writes_held": round(middle(ratios["first"]), 2),
        "ratio_writes_held": round(middle(ratios["second"]), 2),
        "ratio_creates_held": round(middle(ratios["creates"]) / middle(before), 2),
        "ratio_delete": round(deleted.processor_seconds / taken.processor_seconds, 2),
        "metadata_bytes_held": used,
    }


async def measure(folder: Path, files: int) -> dict[str, float]:
    """All of it."""
    async with opened(folder, config_for(folder, DISK_BYTES)) as (volume, _):
        sample = min(SAMPLE, files // 2)
        watch = Stopwatch()
        await make_tree(volume, b"source", files)
        made = watch.read()
        await make_tree(volume, b"plain", sample)
        await volume.settle()
        turns = Turns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            watch = Stopwatch()
            report = await clone_path(volume, ClonesHere(volume), b"source", b"clone")
            taken = watch.read()
            nursery.cancel_scope.cancel()
        await volume.sync()
        feed = await measure_feed(volume, min(FEED_FILES, files // 4))
        plain, cloned = await files_below(volume, b"plain", sample), await files_below(volume, b"clone", sample)
        ratios: list[float] = []
        for start in range(0, sample, sample // 4):
            # Side by side, so that both meet the same load.
            one = await first_writes(volume, plain[start : start + sample // 4])
            two = await first_writes(volume, cloned[start : start + sample // 4])
            ratios.append(two.processor_seconds / one.processor_seconds)
        snapshots = await measure_snapshots(volume, files)
    return {
        "files": files,
        "entries": report.entries,
        "seconds": round(taken.seconds, 2),
        "processor_seconds": round(taken.processor_seconds, 2),
        "files_per_second": round(files / taken.seconds),
        "files_per_processor_second": round(files / taken.processor_seconds),
        "ratio_creates": round(taken.processor_seconds / made.processor_seconds, 3),
        "ratio_first_write": round(sorted(ratios)[len(ratios) // 2], 2),
        "loop_delay_ms_p50": round(turns.percentile(0.5), 2),
        "loop_delay_ms_p99": round(turns.percentile(0.99), 2),
        "loop_delay_ms_max": round(turns.percentile(1.0), 2),
        **feed,
        **snapshots,
        "load": round(os.getloadavg()[0], 1),
    }


async def block(volume: Volume, directory: Ino, name: bytes) -> tuple[float, float]:
    """Processor time of making files, and of writing to them."""
    watch = Stopwatch()
    inos = [
        (await volume.create(directory, b"%b%d" % (name, number), mode=0o644, uid=0, gid=0)).ino
        for number in range(DIRECTORY_FILES)
    ]
    made = watch.read().processor_seconds
    return made, (await first_writes(volume, inos)).processor_seconds


async def measure_usage(folder: Path, blocks: int) -> dict[str, float]:
    """What usage and quotas cost, and reads."""
    times: dict[str, list[tuple[float, float]]] = {"off": [], "counted": [], "quota": []}
    async with opened(folder, config_for(folder, DISK_BYTES)) as (volume, _):
        usage = volume.ledger.usage
        path, directory = b"", ROOT_INO
        limited: list[bytes] = []
        for name in (b"a", b"b", b"c", b"d", b"e"):
            directory = (await volume.mkdir(directory, name, mode=0o755, uid=0, gid=0)).ino
            path += b"/" + name
            limited.append(path)
        for number in range(blocks):
            for kind in sorted(times, key=lambda kind: hash((kind, number))):
                if kind == "quota":
                    for path in limited[::3]:
                        await Quotas(volume).set(path, {"bytes": 1 << 40, "files": 1 << 30})
                usage.is_known = kind != "off"
                times[kind].append(await block(volume, directory, b"%b%d." % (kind.encode(), number)))
                usage.is_known = True
                if kind == "quota":
                    for path in limited[::3]:
                        await Quotas(volume).remove(path)
                await trio.lowlevel.checkpoint()
        await volume.sync()
        await volume.ledger.store.checkpoint()
        reader = CountingReads(volume.ledger.store)
        TreeUsage(reader).usage(directory)
        usage.is_known = False  # it was not kept all the time
        forget_usage(volume.ledger.store)
    quartiles = {
        kind: [sorted(one[at] for one in found)[len(found) // 4] for at in (0, 1)] for kind, found in times.items()
    }
    return {
        "ratio_counted_create": round(quartiles["counted"][0] / quartiles["off"][0], 3),
        "ratio_counted_write": round(quartiles["counted"][1] / quartiles["off"][1], 3),
        "ratio_quota_create": round(quartiles["quota"][0] / quartiles["counted"][0], 3),
        "ratio_quota_write": round(quartiles["quota"][1] / quartiles["counted"][1], 3),
        "create_us": round(1e6 * quartiles["off"][0] / DIRECTORY_FILES, 1),
        "write_us": round(1e6 * quartiles["off"][1] / DIRECTORY_FILES, 1),
        "du_reads": reader.reads,
    }


class CountingReads:
    """A store that counts what is read of it."""

    def __init__(self, store: Store) -> None:
        self.reads = 0
        self.is_settled = True
        self.owns, self.expect, self.scan = store.owns, store.expect, store.scan
        self._store = store

    def get(self, key: bytes) -> bytes | None:
        """See Store."""
        self.reads += 1
        return self._store.get(key)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the files")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the disks are made")
    parser.add_argument("--files", type=int, help=f"how many (default {FILES:,})")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    files = options.files or (FILES_QUICK if options.quick else FILES)
    folder = Path(tempfile.mkdtemp(prefix="trees-", dir=options.folder))
    try:
        (folder / "usage").mkdir()
        found = trio.run(partial(measure_usage, folder / "usage", BLOCKS_QUICK if options.quick else BLOCKS))
        found |= trio.run(partial(measure, folder, files))
    finally:
        shutil.rmtree(folder)
    if options.json:
        ratios = {name: value for name, value in found.items() if name.startswith("ratio_")}
        print(json.dumps({"bench": "trees", "ratios": ratios} | found))
        return
    for name, value in found.items():
        print(f"{name:28} {value:,}")


if __name__ == "__main__":
    main()
