"""Reads of several local disks that nobody has to wait for to the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import trio
from trio.lowlevel import Abort, Task

from siltstone.errors import DiskError


class LocalReading:
    """The Reading port. Threads finish each index; whoever waits is woken once, when there is enough."""

    def __init__(self, count: int) -> None:
        self._results: list[bytes | BaseException | None] = [None] * count
        self._answered_ns = [0] * count
        self._started_ns = time.monotonic_ns()
        self._answered = 0
        self._wanted = 0
        self._on_late: Callable[[int], None] | None = None
        self._lock = threading.Lock()
        self._task: Task | None = None
        self._token = trio.lowlevel.current_trio_token()

    def finish(self, index: int, result: bytes | BaseException) -> None:
        """Note a result, unless there is one. From any thread."""
        now_ns = time.monotonic_ns()
        with self._lock:
            if self._results[index] is not None:
                return
            self._answered_ns[index] = now_ns
            self._results[index] = result
            self._answered += 1
            is_enough = 0 < self._wanted <= self._answered
            if is_enough:
                self._wanted = 0
            on_late = self._on_late
        try:
            if is_enough:
                self._token.run_sync_soon(self._wake)
            elif on_late is not None:
                self._token.run_sync_soon(on_late, index)
        except trio.RunFinishedError:
            return  # the loop has ended; nobody waits any more

    def result(self, index: int) -> bytes | DiskError | None:
        """What a read gave; None as long as there is no answer."""
        result = self._results[index]
        if result is not None and not isinstance(result, bytes | DiskError):
            raise result
        return result

    def seconds(self, index: int) -> float:
        """How long an answer took."""
        assert self._results[index] is not None
        return (self._answered_ns[index] - self._started_ns) / 1e9

    async def wait(self, count: int) -> None:
        """Return when so many have answers."""
        assert count <= len(self._results)
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            with self._lock:
                if self._answered >= count:
                    return
                self._wanted = count
                self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def leave(self, on_late: Callable[[int], None]) -> None:
        """Wait no more; ``on_late`` gets the index of each answer from now on."""
        with self._lock:
            self._on_late = on_late

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> Abort:
        with self._lock:
            self._wanted = 0
        self._task = None
        return Abort.SUCCEEDED
