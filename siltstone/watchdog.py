"""A thread that sees whether the event loop gets on, and says so when it does not.

What the loop reads of the metadata lies in a mapped file in HOME. When HOME's disk gives no answer, the kernel keeps
the loop in a page fault: nothing in this process can end that, and nobody in the loop can tell (docs/decisions/0015).
Like the disks' watchers it counts looks, not time: a process that was stopped itself has seen nothing meanwhile.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_SECONDS_MAX = 1.0

TICKS_MIN = 8

logger = logging.getLogger("siltstone")


class Watchdog:
    """Looks at ``beats``, a number that grows as long as the loop gets on, and tells when it has not for a limit.

    ``what``: whose loop it is, for the message.
    """

    def __init__(self, beats: Callable[[], int], *, what: str, limit_seconds: float) -> None:
        self._beats = beats
        self._what = what
        self._limit_seconds = limit_seconds
        self._tick_seconds = min(TICK_SECONDS_MAX, limit_seconds / TICKS_MIN)
        self._ticks_max = math.ceil(limit_seconds / self._tick_seconds)
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look for as long as the context lasts. Entered in the loop's thread."""
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()
        try:
            yield
        finally:
            self._stopped.set()

    def _look(self) -> None:
        seen, ticks = self._beats(), 0
        while not self._stopped.wait(self._tick_seconds):
            beats = self._beats()
            if beats != seen:
                if ticks >= self._ticks_max:
                    logger.warning("%s: the loop gets on again, after %.0f s", self._what, ticks * self._tick_seconds)
                seen, ticks = beats, 0
                continue
            ticks += 1
            if ticks == self._ticks_max:
                logger.error(
                    "%s: the loop has not moved for %.0f s (at %s): nothing is answered. Does the disk that HOME is on "
                    "hang? What was acknowledged is safe on the volume's disks; it goes on when HOME answers",
                    self._what,
                    self._limit_seconds,
                    self._place(),
                )

    def _place(self) -> str:
        """The innermost lines of the loop's thread that are ours."""
        frame = sys._current_frames().get(self._loop_thread)
        places: list[str] = []
        while frame is not None and len(places) < 3:
            code = frame.f_code
            if "siltstone" in code.co_filename or not places:
                places.append(f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        return " < ".join(places) or "an unknown place"
