"""How long the event loop keeps its tasks waiting: the time that any one of them held it, as the others feel it."""

from __future__ import annotations

from collections import deque

from siltstone.ports import Clock

INTERVAL_SECONDS = 0.01
SAMPLES_MAX = 6_000
"""A minute of samples."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a worker thread may keep the interpreter when the loop wants it (Python's own default is ten times that)."""


class LoopDelay:
    """Wakes every 10 ms and records how much later than asked that was."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent_ns: deque[int] = deque(maxlen=SAMPLES_MAX)
        self._longest_ns = 0
        self.beats = 0
        """Grows as long as the loop gets on."""

    async def run(self) -> None:
        """Measure until cancelled."""
        interval_ns = round(INTERVAL_SECONDS * 1e9)
        while True:
            begun_ns = self._clock.monotonic_ns()
            await self._clock.sleep(INTERVAL_SECONDS)
            self.record(self._clock.monotonic_ns() - begun_ns - interval_ns)
            self.beats += 1

    def record(self, delay_ns: int) -> None:
        """Note one delay."""
        self._recent_ns.append(max(delay_ns, 0))
        self._longest_ns = max(self._longest_ns, delay_ns)

    def statistics(self) -> dict[str, float]:
        """Milliseconds: p99 and max over the last minute, and the longest since the start."""
        ordered = sorted(self._recent_ns) or [0]
        values = {
            "p99": ordered[len(ordered) * 99 // 100],
            "max": ordered[-1],
            "max_since_start": self._longest_ns,
        }
        return {name: round(value / 1e6, 3) for name, value in values.items()}
