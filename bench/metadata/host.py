"""What the machine says of this process: processor time, memory, and how busy everybody else is."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from siltstone.limits import KIB, MIB

MADV_PAGEOUT = 21


class Memory(NamedTuple):
    """Resident memory of this process, in MiB.

    ``own``: what only it has, and what the machine must have free for it. ``mapped``: pages of files that it has looked
    at, LMDB's above all; they are the kernel's page cache, which it takes back when somebody needs memory.
    """

    own: float
    mapped: float


class Took(NamedTuple):
    """Seconds that something took: by the clock, and of the processor in this thread (the event loop's)."""

    wall: float
    processor: float


class Rate(NamedTuple):
    """Operations a second, by the clock and by the processor's time of the event loop's thread: the latter is what the
    clock would say with the core to itself and nothing to wait for."""

    per_second: float
    per_processor_second: float


def memory() -> Memory:
    """Resident memory now."""
    kib: dict[str, int] = {}
    with open("/proc/self/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile", "RssShmem"):
                kib[name] = int(value.split()[0])
    return Memory(round(kib["RssAnon"] * KIB / MIB, 1), round((kib["RssFile"] + kib["RssShmem"]) * KIB / MIB, 1))


def drop_mapped(file_name: str) -> None:
    """Let the kernel take back all pages of the files of that name that this process has mapped, as it would if memory
    were short: what is looked at next comes from the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/maps") as maps:
        found = [line.split()[0].split("-") for line in maps if line.rstrip().endswith("/" + file_name)]
    for first, last in found:
        start, end = int(first, 16), int(last, 16)
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT):
            raise OSError(ctypes.get_errno(), "madvise with MADV_PAGEOUT")


def load() -> float:
    """Runnable tasks of the whole machine, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


async def timed(work: Callable[[], Awaitable[object]]) -> Took:
    """What it took."""
    wall, processor = time.perf_counter(), time.thread_time()
    await work()
    return Took(time.perf_counter() - wall, time.thread_time() - processor)


async def rate(work: Callable[[], Awaitable[object]], count: int, rounds: int = 1) -> Rate:
    """Operations a second; of several rounds the best."""
    best = Rate(0.0, 0.0)
    for _ in range(rounds):
        took = await timed(work)
        best = Rate(max(best.per_second, count / took.wall), max(best.per_processor_second, count / took.processor))
    return best
