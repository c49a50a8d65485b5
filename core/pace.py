"""How fast units move: as fast as the disks allow while nobody else asks for anything, else so that others come first.

Work goes in windows (core/windows.py). Alone, several are read, computed and written side by side. While others read
from disks or commit, there is one at a time, and after each a rest that is longer than the work: of the disks' time
others have half at least, and their operations queue behind one short one, not behind a dozen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush

import trio

from siltstone.core.ledger import Ledger
from siltstone.limits import MIB

WINDOWS_ALONE = 6
"""Windows side by side while nobody else asks for anything: enough to hide the flushes, the wakeups of a loaded
machine, and what lies between the end of one chunk file and the beginning of the next. One takes (k + 1) MiB of memory.
"""

REST = 1.5
"""While others are active, the rest after a window is so many times as long as the work. As long would leave them half
of the time by the clock, and less in fact: what was written goes on keeping the disk busy in the rest."""

BUSY_SECONDS = 0.5
"""Others count as active for so long after they did something."""

FLUSH_BYTES_ALONE = 32 * MIB
FLUSH_BYTES_BUSY = 8 * MIB
"""A new chunk file is flushed whenever so much was written to it: while it is, flushes of others on the same device
wait, so while there are any it should not be long."""


class Pace:
    """Lets windows of moves through. ``bytes_per_second``: of what is written, 0 without limit."""

    def __init__(self, ledger: Ledger, *, bytes_per_second: int) -> None:
        self._ledger = ledger
        self._bytes_per_second = bytes_per_second
        self._windows_max = WINDOWS_ALONE
        self._windows = 0
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._serial = 0
        self._own_reads = 0
        self._seen = (ledger.store.last_lsn, 0)
        self._looked_ns = 0
        self._busy_until_ns = 0
        self._due_ns = 0

    @property
    def is_busy(self) -> bool:
        """Whether others used the volume lately, as far as was seen."""
        return self._ledger.clock.monotonic_ns() < self._busy_until_ns

    @property
    def flush_bytes(self) -> int:
        """A chunk file is flushed when so much of it is not."""
        return FLUSH_BYTES_BUSY if self.is_busy else FLUSH_BYTES_ALONE

    @asynccontextmanager
    async def window(self, move: int) -> AsyncIterator[None]:
        """Work on one window inside the context; waits for its turn before, and rests after it.

        The move with the lowest number comes first, and another gets what it leaves: were they equally fast, they would
        end at the same time, and nothing would be read while the last of them is flushed and recorded.
        """
        clock = self._ledger.clock
        await self._take_turn(move)
        try:
            began_ns = clock.monotonic_ns()
            if began_ns - self._looked_ns > BUSY_SECONDS * 1e9:
                self._see()  # what others did since somebody looked last may be long ago
            yield
            self._look()
            if self.is_busy:
                await clock.sleep(REST * (clock.monotonic_ns() - began_ns) / 1e9)
        finally:
            self._windows -= 1
            self._hand_on()

    async def _take_turn(self, move: int) -> None:
        self._serial += 1
        turn = move, self._serial, trio.Event()
        heappush(self._waiting, turn)
        self._hand_on()
        try:
            await turn[2].wait()
        except BaseException:
            if turn[2].is_set():
                self._windows -= 1
            else:
                self._waiting.remove(turn)
                heapify(self._waiting)
            raise

    def _hand_on(self) -> None:
        while self._waiting and self._windows < self._windows_max:
            self._windows += 1
            heappop(self._waiting)[2].set()

    async def wait_for_budget(self, size: int) -> None:
        """Take ``size`` bytes out of what may be written a second; returns when they are there."""
        if not self._bytes_per_second:
            return
        now_ns = self._ledger.clock.monotonic_ns()
        self._due_ns = max(self._due_ns, now_ns) + size * 1_000_000_000 // self._bytes_per_second
        await self._ledger.clock.sleep((self._due_ns - now_ns) / 1e9)

    def enter_fence(self) -> int:
        """Enter the read fence without being taken for somebody else."""
        self._own_reads += 1
        return self._ledger.fence.enter()

    def note_own_commit(self) -> None:
        """The last commit was no user's."""
        self._seen = (self._ledger.store.last_lsn, self._seen[1])

    def _see(self) -> bool:
        """Note what others have done so far; whether that is more than before."""
        before = self._seen
        self._seen = (self._ledger.store.last_lsn, self._ledger.fence.entered - self._own_reads)
        self._looked_ns = self._ledger.clock.monotonic_ns()
        return self._seen != before

    def _look(self) -> None:
        if self._see():
            self._busy_until_ns = self._ledger.clock.monotonic_ns() + int(BUSY_SECONDS * 1e9)
        self._windows_max = 1 if self.is_busy else WINDOWS_ALONE
