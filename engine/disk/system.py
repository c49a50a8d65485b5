"""Clock, Random and Workers of the real world."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

WORKER_THREADS = 4
"""Jobs at a time; the rest wait for a free thread. What runs there is LMDB, which is one writer, and hashing."""


class SystemClock:
    """The Clock port: the kernel's clocks."""

    def now_ns(self) -> int:
        """Wall clock."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Monotonic clock."""
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await trio.sleep(seconds)


class SystemRandom:
    """The Random port: the kernel's randomness."""

    def bytes(self, count: int) -> bytes:
        """``count`` bytes."""
        return secrets.token_bytes(count)

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return secrets.randbelow(bound)


class TrioWorkers:
    """The Workers port: trio's worker threads. A job that has begun is not cancelled."""

    def __init__(self, threads: int = WORKER_THREADS) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` in a thread."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
