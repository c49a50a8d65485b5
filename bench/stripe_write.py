"""How fast do stripes get onto the disks, against plain sequential writes of the same disk?

Stripes of 4 MiB are written, a few in flight, every one flushed before it counts. The baseline writes as many bytes to
one file, 4 MiB at a time, flushes it once at the end, and is divided by (k+m)/k: what the disk could do with the parity
that there has to be. All disks of the pool are directories of one device here. Rounds of both alternate, the best of
each counts. Also: Python's share of a stripe (encode, hash, allocate; disks that do nothing), and reads from the page
cache. `python bench/stripe_write.py [--quick] [--json] [--folder DIR]`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk, format_disk
from siltstone.engine.disk.system import SystemClock, SystemRandom, TrioWorkers
from siltstone.engine.format.superblock import Superblock
from siltstone.engine.pool import Pool
from siltstone.engine.stripe.store import Run, StripeStore, Tier, WrittenStripe
from siltstone.errors import DiskError
from siltstone.limits import CHUNK_BYTES_DEFAULT, KIB, MIB
from siltstone.ports import DiskPunch, DiskRead, DiskWrite, Lane, Reading
from siltstone.types import DiskId


class NullFanout:
    """Disks that are infinitely fast."""

    async def write_durable(self, writes: Sequence[DiskWrite], lane: Lane) -> list[DiskError | None]:
        """Do nothing."""
        return [None] * len(writes)

    async def punch(self, punches: Sequence[DiskPunch]) -> list[DiskError | None]:
        """Do nothing."""
        return [None] * len(punches)

    def start_read(self, reads: Sequence[DiskRead], lane: Lane) -> Reading:
        """Never called."""
        raise AssertionError

    async def read(self, reads: Sequence[DiskRead], lane: Lane) -> list[bytes | DiskError]:
        """Never called."""
        raise AssertionError


def plain_write(folder: Path, buffer: bytes, size: int) -> float:
    """Seconds for one file of ``size`` bytes, written and flushed."""
    path = folder / "plain"
    start = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    for offset in range(0, size, len(buffer)):
        os.pwrite(fd, buffer, offset)
    os.fdatasync(fd)
    elapsed = time.perf_counter() - start
    os.close(fd)
    path.unlink()
    return elapsed


async def make_disks(folder: Path, k: int, m: int) -> list[LocalDisk]:
    """A pool's disks, as directories."""
    disks = []
    volume_uuid = os.urandom(16)
    for index in range(k + m):
        uuid = os.urandom(16)
        path = folder / f"disk{index}"
        superblock = Superblock(volume_uuid, uuid, DiskId(index), k + m, k, m, CHUNK_BYTES_DEFAULT, time.time_ns())
        await format_disk(path, superblock)
        disks.append(LocalDisk(DiskId(index), path, uuid))
    return disks


def make_store(disks: list[LocalDisk], fanout: LocalFanout | NullFanout, k: int, m: int) -> StripeStore:
    """A store over the disks."""
    pool = Pool(disks, fanout, SystemRandom(), SystemClock())
    return StripeStore(pool, data_units=k, parity_units=m, chunk_bytes=CHUNK_BYTES_DEFAULT, workers=TrioWorkers())


async def write_one(store: StripeStore, buffers: list[bytes]) -> WrittenStripe:
    """One long stripe."""
    run = Run(buffers, sum(map(len, buffers)))
    (piece,) = await store.write_runs([run], tier=Tier.DIRECT)
    return piece.written


async def stripe_write(store: StripeStore, buffers: list[bytes], count: int, in_flight: int) -> list[WrittenStripe]:
    """Write ``count`` stripes, ``in_flight`` at a time."""
    written: list[WrittenStripe] = []
    left = count

    async def writer() -> None:
        nonlocal left
        while left:
            left -= 1
            written.append(await write_one(store, buffers))

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(writer)
    return written


async def time_python(disks: list[LocalDisk], buffers: list[bytes], k: int, m: int, rounds: int) -> float:
    """Seconds that a stripe takes where disks take none; the best."""
    store = make_store(disks, NullFanout(), k, m)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        written = await write_one(store, buffers)
        best = min(best, time.perf_counter() - start)
        store.abandon(written)
    return best


def time_cached_reads(store: StripeStore, written: WrittenStripe, size: int, rounds: int) -> float:
    """Seconds of one read of ``size`` bytes from the page cache, verified; the best of several averages."""
    best = float("inf")
    offsets = range(0, written.stripe.data_bytes - size + 1, size)
    for _ in range(rounds):
        start = time.perf_counter()
        for offset in offsets:
            data = store.read_nowait(written.slab, written.stripe_id, written.stripe, written.checksums, offset, size)
            assert data is not None, "the page cache lost it"
        best = min(best, (time.perf_counter() - start) / len(offsets))
    return best


async def measure(folder: Path, k: int, m: int, size: int, rounds: int, in_flight: int) -> dict[str, object]:
    """One line of the table."""
    stripe_bytes = min(k, 4) * MIB
    buffers = [os.urandom(MIB) for _ in range(stripe_bytes // MIB)]
    plain_buffer = b"".join(buffers)
    disks = await make_disks(folder, k, m)
    python = await time_python(disks, buffers, k, m, 20)
    store = make_store(disks, LocalFanout(), k, m)
    plain, fresh, reused = float("inf"), float("inf"), float("inf")
    written: list[WrittenStripe] = []
    for _ in range(rounds):
        plain = min(plain, plain_write(folder, plain_buffer, size))
        start = time.perf_counter()
        written = await stripe_write(store, buffers, size // stripe_bytes, in_flight)
        fresh = min(fresh, time.perf_counter() - start)
        for stripe in written:
            store.release(stripe.stripe_id, stripe.stripe)
        start = time.perf_counter()
        written = await stripe_write(store, buffers, size // stripe_bytes, in_flight)
        reused = min(reused, time.perf_counter() - start)
        small, large = (
            time_cached_reads(store, written[-1], 4 * KIB, 5),
            time_cached_reads(store, written[-1], 128 * KIB, 5),
        )
        for stripe in written:
            store.release(stripe.stripe_id, stripe.stripe)
        for slab_id in store.take_empty_slabs(keep=0):
            await store.drop_slab(slab_id)
    for disk in disks:
        await disk.close()
    ceiling = size / plain * k / (k + m)
    return {
        "code": f"{k}+{m}",
        "stripe_bytes": stripe_bytes,
        "in_flight": in_flight,
        "bytes_per_s_with_new_slabs": round(size / fresh),
        "bytes_per_s_in_used_rows": round(size / reused),
        "plain_bytes_per_s": round(size / plain),
        "ratio_with_new_slabs": round(size / fresh / ceiling, 3),
        "ratio_in_used_rows": round(size / reused / ceiling, 3),
        "python_us_per_stripe": round(python * 1e6),
        "cached_read_4k_us": round(small * 1e6, 1),
        "cached_read_128k_us": round(large * 1e6, 1),
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--folder", default=None, help="where to write (default: a new temporary directory)")
    options = parser.parse_args()
    size, rounds = (256 * MIB, 2) if options.quick else (1024 * MIB, 3)
    cases = [(4, 2, 4)] if options.quick else [(4, 2, 1), (4, 2, 4), (8, 3, 4)]
    results = []
    for k, m, in_flight in cases:
        folder = Path(tempfile.mkdtemp(prefix="stripe_write.", dir=options.folder))
        try:
            results.append(trio.run(measure, folder, k, m, size, rounds, in_flight))
        finally:
            shutil.rmtree(folder)
    if options.json:
        print(json.dumps({"bench": "stripe_write", "results": results}, indent=1))
        return
    for line in results:
        print(", ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
