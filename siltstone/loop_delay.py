"""How long the event loop keeps its tasks waiting: the time that any one of them held it, as the others feel it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import repeat

from siltstone.ports import Clock

INTERVAL_SECONDS = 0.01
SAMPLES_MAX = 6_000
"""A minute of samples."""

IDLE_INTERVALS = 20
"""Where little is done it is looked so many times more rarely: most of what an idle process does would be looking."""

IDLE_SHARE = 0.05
"""That is where the process has used less of a processor than this since the last look."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a worker thread may keep the interpreter when the loop wants it (Python's own default is ten times that)."""


class LoopDelay:
    """Wakes every 10 ms, or less often while little is done, and records how much later than asked that was."""

    def __init__(self, clock: Clock, processor_ns: Callable[[], int] = time.process_time_ns) -> None:
        """``processor_ns``: what the process has used."""
        self._clock = clock
        self._processor_ns = processor_ns
        self._recent_ns: deque[int] = deque(maxlen=SAMPLES_MAX)
        self._longest_ns = 0
        self.beats = 0
        """Grows as long as the loop gets on."""

    async def run(self) -> None:
        """Measure until cancelled."""
        intervals = 1
        used_ns = self._processor_ns()
        while True:
            begun_ns = self._clock.monotonic_ns()
            await self._clock.sleep(intervals * INTERVAL_SECONDS)
            taken_ns = self._clock.monotonic_ns() - begun_ns
            self.record(taken_ns - round(intervals * INTERVAL_SECONDS * 1e9), intervals)
            self.beats += 1
            used_before_ns, used_ns = used_ns, self._processor_ns()
            is_idle = used_ns - used_before_ns < taken_ns * IDLE_SHARE
            intervals = min(2 * intervals, IDLE_INTERVALS) if is_idle else 1

    def record(self, delay_ns: int, intervals: int = 1) -> None:
        """Note one delay; it stands for as many samples as there were intervals."""
        self._recent_ns.extend(repeat(max(delay_ns, 0), intervals))
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
