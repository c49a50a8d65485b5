"""When freed space may be used again, and the reads that hold it back.

Space that a batch freed is handed on only when (a) that batch is durable, since a crash would otherwise bring back
extents whose bytes were overwritten, and (b) every read that began before the batch has ended, since it may still look
at the old place (epoch-based reclamation: K. Fraser, "Practical lock-freedom", 2004).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from siltstone.types import Lsn


class ReadFence:
    """Counts reads by the era they began in. An era ends whenever space is freed.

    Reads under a lease are those of front-ends in other processes (core/read_plans.py); they read stripes only.
    """

    def __init__(self) -> None:
        self.era = 0
        self.entered = 0
        """Reads that ever began."""
        self._active: dict[int, int] = {}
        self._leased: dict[int, int] = {}
        self._left = trio.Event()

    def enter(self, *, leased: bool = False) -> int:
        """Begin a read; pass what this returns to ``leave``."""
        self.entered += 1
        active = self._leased if leased else self._active
        active[self.era] = active.get(self.era, 0) + 1
        return self.era

    def leave(self, era: int, *, leased: bool = False) -> None:
        """End a read that began in ``era``."""
        active = self._leased if leased else self._active
        count = active[era] - 1
        if count:
            active[era] = count
            return
        del active[era]
        self._left.set()
        self._left = trio.Event()

    def advance(self) -> int:
        """End the present era and return its number."""
        self.era += 1
        return self.era - 1

    async def wait_past(self, era: int, *, leased: bool = True) -> None:
        """Return when no read that began in ``era`` or before is in flight; without ``leased``, whatever leases there
        are."""
        while (self._active and min(self._active) <= era) or (leased and self._leased and min(self._leased) <= era):
            await self._left.wait()


class _Freed(NamedTuple):
    lsn: Lsn
    era: int
    release: Callable[[], None]


class Reclaimer:
    """A queue of freed space, released in the order in which it was freed."""

    def __init__(self, fence: ReadFence, wait_durable: Callable[[Lsn], Awaitable[None]]) -> None:
        self._fence = fence
        self._wait_durable = wait_durable
        self._queue: deque[_Freed] = deque()
        self._wakeup = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self.released = trio.Event()
        """Set, and made anew, whenever something was released."""
        self.releases = 0
        """How often that was."""
        self.hurried = trio.Event()
        """The same, whenever somebody cannot wait for that."""

    def hurry(self) -> None:
        """Tell whoever waits for batches to become durable that the space is needed now."""
        self.hurried.set()
        self.hurried = trio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def free(self, lsn: Lsn, release: Callable[[], None]) -> None:
        """Call ``release`` when the batch that ends at ``lsn`` is durable and no earlier read is in flight."""
        self._queue.append(_Freed(lsn, self._fence.advance(), release))
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._wakeup.set()

    async def wait_idle(self) -> None:
        """Return when everything freed so far has been released."""
        await self._idle.wait()

    async def run(self) -> None:
        """Release what is free, for ever."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while self._queue:
                freed = self._queue[0]
                await self._wait_durable(freed.lsn)
                await self._fence.wait_past(freed.era)
                # Nothing awaits between the release and the removal: a cancelled run never releases twice.
                freed.release()
                self._queue.popleft()
                self.releases += 1
                self.released.set()
                self.released = trio.Event()
            self._idle.set()
