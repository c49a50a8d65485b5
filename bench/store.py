"""What does the metadata store cost beside a dict and a sorted list, and what does an apply cost the event loop?

Point reads, transactions of two puts, scans (long, and of a few entries), each once in the memtable and once in LMDB
where that differs, beside plain Python doing the same in the same run. Then the loop's delay while 50,000 entries are
applied to LMDB. `--quick`: a tenth of the work; `--json`: one object on stdout.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from siltstone.limits import GIB
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.meta.store.store import Store
from siltstone.types import Buffer, Lsn
from sim.fake_log import FakeLog

ENTRIES = 50_000
FILES = ENTRIES // 5
VALUE = bytes(60)


def key_of(number: int) -> bytes:
    """Five keys a file, as a create makes them: they share a prefix."""
    return b"p\x01e%08d%08d" % divmod(number, 5)


class ForgetfulLog(FakeLog):
    """Keeps nothing, so that only the store is measured."""

    def append_nowait(self, kind: int, payload: Sequence[Buffer], body: Buffer) -> Lsn:
        """Forget the frame at once."""
        end_lsn = super().append_nowait(kind, payload, body)
        self.frames.clear()
        self.payloads.clear()
        return end_lsn


def rate(function: Callable[[], object], count: int, rounds: int = 3) -> float:
    """Operations a second, the best of a few rounds."""
    best = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        best = max(best, count / (time.perf_counter() - begin))
    return best


def fill(store: Store, keys: list[bytes]) -> None:
    """Commit the keys, ten at a time."""
    for first in range(0, len(keys), 10):
        transaction = store.begin()
        for key in keys[first : first + 10]:
            transaction.put(key, VALUE)
        transaction.commit()


def commit_pairs(store: Store, keys: list[bytes]) -> None:
    """Transactions that read two keys and put them."""
    for first in range(0, len(keys) - 1, 2):
        transaction = store.begin()
        transaction.get(keys[first])
        transaction.get(keys[first + 1])
        transaction.put(keys[first], VALUE)
        transaction.put(keys[first + 1], VALUE)
        transaction.commit()


def get_all(store: Store, keys: list[bytes]) -> None:
    """Read each key."""
    get = store.get
    for key in keys:
        get(key)


def scan_files(store: Store, files: list[int], missing: bool = False) -> None:
    """Read the few entries of each file, or of a place where there are none."""
    tail = b"~" if missing else b""
    for number in files:
        prefix = b"p\x01e%08d" % number + tail
        for _ in store.scan(prefix, prefix + b"\xff"):
            pass


def scan_everything(store: Store) -> None:
    """Read all entries in order."""
    for _ in store.scan(b"", b"\xff"):
        pass


def measure_plain(keys: list[bytes], files: list[int]) -> dict[str, float]:
    """The same with a dict and a sorted list."""
    values = dict.fromkeys(keys, VALUE)
    ordered = sorted(keys)

    def get_all() -> None:
        get = values.get
        for key in keys:
            get(key)

    def commit_pairs() -> None:
        ordered: list[bytes] = []
        written: dict[bytes, bytes] = {}
        for first in range(0, len(keys) - 1, 2):
            for key in (keys[first], keys[first + 1]):
                if written.get(key) is None:
                    insort(ordered, key)
                written[key] = VALUE

    def scan_files() -> None:
        for number in files:
            prefix = b"p\x01e%08d" % number
            for key in ordered[bisect_left(ordered, prefix) : bisect_left(ordered, prefix + b"\xff")]:
                values[key]

    def scan_everything() -> None:
        for key in ordered:
            values[key]

    return {
        "reads": rate(get_all, len(keys)),
        "transactions": rate(commit_pairs, len(keys) // 2, rounds=1),
        "small_scans": rate(scan_files, len(files)),
        "scanned_entries": rate(scan_everything, len(keys)),
    }


async def measure_store(path: str, keys: list[bytes], files: list[int]) -> dict[str, float]:
    """The store, first all in the memtable, then all in LMDB."""
    backing = LmdbBacking(path, bytes_max=4 * GIB, create=True)
    store = Store(backing, memtable_bytes_max=GIB)
    store.connect(ForgetfulLog())
    numbers: dict[str, float] = {}

    def reads_and_scans(where: str) -> None:
        numbers[f"reads_{where}"] = rate(lambda: get_all(store, keys), len(keys))
        numbers[f"small_scans_{where}"] = rate(lambda: scan_files(store, files), len(files))
        numbers[f"empty_scans_{where}"] = rate(lambda: scan_files(store, files, missing=True), len(files))
        numbers[f"scanned_entries_{where}"] = rate(lambda: scan_everything(store), len(keys))

    numbers["transactions"] = rate(lambda: commit_pairs(store, keys), len(keys) // 2, rounds=1)
    reads_and_scans("memtable")
    await store.checkpoint()
    reads_and_scans("lmdb")
    numbers["transactions_over_lmdb"] = rate(lambda: commit_pairs(store, keys), len(keys) // 2, rounds=1)
    await store.checkpoint()
    backing.close()
    return numbers


async def measure_apply(path: str, count: int, pass_seconds: float) -> dict[str, float]:
    """How long tasks wait for their turn while a memtable is applied, when the loop is busy."""
    backing = LmdbBacking(path, bytes_max=4 * GIB, create=True)
    store = Store(backing, memtable_bytes_max=GIB)
    store.connect(ForgetfulLog())
    order = random.Random(1)
    fill(store, [key_of(order.randrange(100 * count)) for _ in range(4 * count)])
    await store.checkpoint()
    fill(store, [key_of(order.randrange(100 * count)) for _ in range(count)])
    delays: dict[str, list[float]] = {"alone": [], "beside": []}
    work: dict[str, float] = {}
    finished = False

    async def busy(label: str) -> None:
        begin = last = time.perf_counter()
        while not finished and (label == "beside" or last - begin < 0.5):
            while time.perf_counter() - last < pass_seconds:
                pass
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            delays[label].append(now - last - pass_seconds)
            last = now
        work[label] = len(delays[label]) / max(last - begin, 1e-9)
        delays[label].sort()

    await busy("alone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, "beside")
        begin = time.perf_counter()
        await store.checkpoint()
        seconds = time.perf_counter() - begin
        finished = True
    backing.close()
    return {
        "entries_per_second": count / seconds,
        "loop_delay_p99_ms": 1000 * delays["beside"][len(delays["beside"]) * 99 // 100],
        "loop_delay_max_ms": 1000 * delays["beside"][-1],
        "loop_delay_alone_p99_ms": 1000 * delays["alone"][len(delays["alone"]) * 99 // 100],
        "loop_delay_alone_max_ms": 1000 * delays["alone"][-1],
        "loop_work_left": work["beside"] / work["alone"],
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    count = ENTRIES // 10 if options.quick else ENTRIES
    keys = [key_of(number) for number in range(count)]
    random.Random(1).shuffle(keys)
    files = [number % (count // 5) for number in range(FILES // 10 if options.quick else FILES)]
    plain = measure_plain(keys, files)
    with tempfile.TemporaryDirectory() as path:
        store = trio.run(measure_store, path, keys, files)
    with tempfile.TemporaryDirectory() as path:
        apply = trio.run(measure_apply, path, count, 0.0003)
    ratios = {name: value / plain[name.removesuffix("_over_lmdb").removesuffix("_memtable").removesuffix("_lmdb")
        .replace("empty", "small")] for name, value in store.items()}  # fmt: skip
    if options.json:
        print(json.dumps({"bench": "store", "store": store, "plain": plain, "ratios": ratios, "apply": apply}))
        return
    print(f"{'per second':28} {'store':>12} {'plain Python':>13} {'ratio':>6}")
    for name, value in store.items():
        print(f"{name:28} {value:12,.0f} {value / ratios[name]:13,.0f} {ratios[name]:6.2f}")
    print(f"apply of {count:,} entries beside a busy loop: {apply['entries_per_second']:,.0f} entries/s")
    for name, value in apply.items():
        if name != "entries_per_second":
            print(f"  {name:26} {value:6.2f}")


if __name__ == "__main__":
    main()
