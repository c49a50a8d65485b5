"""Slowing writers down as the log fills, so that each waits a little rather than all of them long at once.

Sooner or later writers add to the log faster than settling empties it. If they ran into the high-water mark, all would
stop there until a round of settling has ended. Instead each byte is delayed by f / (1 - f) times what it takes at
BYTES_PER_SECOND, f being how far the log is from where the delay begins to the mark: at whatever speed settling goes,
there is an f at which as much comes in as goes out, and there the log stays (the write throttle of OpenZFS: "OpenZFS
write throttle", A. Leventhal, 2013). Writers share one delay, so that many are no faster than one.
"""

from __future__ import annotations

from siltstone.limits import MIB
from siltstone.ports import Clock

BYTES_PER_SECOND = 32 * MIB
"""What writers get to half way between where the delay begins and the high-water mark."""

BEGIN_PERCENT = 40
"""Of the way from the low-water mark, where settling begins, to the high-water mark."""

FRAME_BYTES = 512
"""What a change takes in the log besides its bytes, about."""

DEBT_SECONDS_MAX = 0.001
"""Shorter delays are not worth a sleep: they add up first."""


class Throttle:
    """The delay of a volume's writers."""

    def __init__(self, clock: Clock, *, log_bytes_low: int, log_bytes_high: int) -> None:
        assert 0 <= log_bytes_low < log_bytes_high
        self._clock = clock
        self._begin = log_bytes_low + (log_bytes_high - log_bytes_low) * BEGIN_PERCENT // 100
        self._span = log_bytes_high - self._begin
        self._free_ns = 0
        """When all that was admitted so far has had its delay."""
        self.waits = 0
        self.waited_ns = 0

    def delay_ns(self, size: int, log_bytes: int) -> int:
        """What ``size`` bytes are delayed by while the log has ``log_bytes``."""
        over = log_bytes - self._begin
        if over <= 0:
            return 0
        left = max(self._span - over, self._span // 64 + 1)
        return (size + FRAME_BYTES) * 1_000_000_000 * over // (left * BYTES_PER_SECOND)

    async def wait(self, size: int, log_bytes: int) -> None:
        """Let a change that adds ``size`` bytes to the log wait for its turn; plain and free while the log is short."""
        delay_ns = self.delay_ns(size, log_bytes)
        if not delay_ns:
            return
        now_ns = self._clock.monotonic_ns()
        self._free_ns = max(self._free_ns, now_ns) + delay_ns
        debt = (self._free_ns - now_ns) / 1e9
        if debt >= DEBT_SECONDS_MAX:
            self.waits += 1
            self.waited_ns += self._free_ns - now_ns
            await self._clock.sleep(debt)
