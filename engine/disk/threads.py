"""The threads of a disk: four lanes, and a watcher that gives them up when one of them gets no answer.

A thread that is stuck in the kernel cannot be stopped, and what it is doing may take effect at any later time. So a
disk that was given up stays out of service until every thread that was at work has come back: from then on nothing
happens on it that was not asked for afterwards, and new threads may be made for it (docs/decisions/0006).
"""

from __future__ import annotations

import math
import threading

from siltstone.engine.disk.directory import DiskDirectory
from siltstone.engine.disk.lane import DiskLane
from siltstone.ports import Lane

TICK_SECONDS_MAX = 1.0
"""How often the watcher looks. It counts looks, not time: one that was itself stopped has seen nothing meanwhile."""

TICKS_MIN = 8


class DiskThreads:
    """Lanes that take jobs until they are stopped, or given up after ``limit_seconds`` without an answer."""

    def __init__(self, directory: DiskDirectory, limit_seconds: float) -> None:
        assert limit_seconds > 0
        self._directory = directory
        self._limit_seconds = limit_seconds
        self._watcher: threading.Thread | None = None
        self._stopped = threading.Event()
        self._hung_because = ""
        self._has_ended = False
        name = f"disk-{directory.disk_id}"
        self._name = name
        self.log = DiskLane(f"{name}-log", directory.flush, self._watch)
        self.bulk = DiskLane(f"{name}-bulk", directory.flush, self._watch)
        self.background = DiskLane(f"{name}-background", directory.flush, self._watch)
        self.reader = DiskLane(f"{name}-read", directory.flush, self._watch)

    @property
    def lanes(self) -> tuple[DiskLane, DiskLane, DiskLane, DiskLane]:
        """All of them."""
        return self.log, self.bulk, self.background, self.reader

    def of(self, lane: Lane) -> DiskLane:
        """The queue of writes."""
        match lane:
            case Lane.LOG:
                return self.log
            case Lane.BULK:
                return self.bulk
            case Lane.BACKGROUND:
                return self.background

    @property
    def is_hung(self) -> bool:
        """Whether they were given up."""
        return bool(self._hung_because)

    @property
    def has_ended(self) -> bool:
        """Whether they were given up and nothing is stuck any more: nothing that was asked for can happen now."""
        return self._has_ended

    def stop(self) -> None:
        """Let the threads end after what is in the queues. Does not wait."""
        for lane in self.lanes:
            lane.stop()
        self._stopped.set()

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._look, name=f"{self._name}-watch", daemon=True)
            self._watcher.start()

    def _look(self) -> None:
        tick = min(TICK_SECONDS_MAX, self._limit_seconds / TICKS_MIN)
        ticks_max = math.ceil(self._limit_seconds / tick)
        seen: dict[DiskLane, int | None] = dict.fromkeys(self.lanes)
        ticks = dict.fromkeys(self.lanes, 0)
        while not self._stopped.wait(tick):
            for lane in self.lanes:
                steps = lane.steps
                ticks[lane] = ticks[lane] + 1 if steps is not None and steps == seen[lane] else 0
                seen[lane] = steps
                if ticks[lane] >= ticks_max:
                    self._give_up(lane.stuck_at())
                    return

    def _give_up(self, stuck_at: str) -> None:
        self._hung_because = f"no answer to {stuck_at} for {self._limit_seconds:g} s"
        self._directory.files.revoke()
        for lane in self.lanes:
            lane.give_up(self._hung_because)
        # Only now: who hears of it may ask at once whether the disk is back, and no lane may say so.
        for lane in self.lanes:
            lane.fail_all()
        for lane in self.lanes:
            lane.join()
        self._directory.lose(self._hung_because)
        self._has_ended = True
