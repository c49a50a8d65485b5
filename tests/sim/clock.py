"""Time that jumps ahead when everybody waits."""

from __future__ import annotations

import trio
from trio.testing import MockClock

EPOCH_NS = 1_700_000_000_000_000_000
"""Wall clock at the start of a simulation."""


def autojump() -> MockClock:
    """The clock for ``trio.run(..., clock=autojump())``: sleeping costs nothing."""
    return MockClock(autojump_threshold=0)


class SimClock:
    """The Clock port over trio's clock; ``jump`` moves the wall clock alone, as an administrator or NTP would."""

    def __init__(self) -> None:
        self._jumped_ns = 0
        self.jumps = 0

    def now_ns(self) -> int:
        """Wall clock."""
        return EPOCH_NS + self.monotonic_ns() + self._jumped_ns

    def monotonic_ns(self) -> int:
        """Time since the simulation's origin; 0 outside of trio, so that set-up code may ask."""
        try:
            return round(trio.current_time() * 1e9)
        except RuntimeError:
            return 0

    async def sleep(self, seconds: float) -> None:
        """Wait; jumps there when nothing else is to do."""
        await trio.sleep(seconds)

    def jump(self, seconds: float) -> None:
        """Move the wall clock, forwards or backwards."""
        self._jumped_ns += round(seconds * 1e9)
        self.jumps += 1
