"""How threads of disks tell a waiting task that all it asked for is done: with one wakeup, by the last of them."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import trio
from trio.lowlevel import Abort

T = TypeVar("T")


class Completion(Generic[T]):
    """Counts results down. Made in the task that will wait; each index is finished once, by any thread.

    ``wait`` cannot be cancelled: what a thread works on (the caller's buffers, too) stays in use until it is done.
    """

    __slots__ = ("_left", "_lock", "_results", "_task", "_token")

    def __init__(self, count: int, initial: T) -> None:
        assert count > 0
        self._results = [initial] * count
        self._left = count
        self._lock = threading.Lock()
        self._task = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()

    def finish(self, index: int, result: T) -> None:
        """Note a result; the last one wakes the task."""
        self._results[index] = result
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            try:
                self._token.run_sync_soon(trio.lowlevel.reschedule, self._task)
            except trio.RunFinishedError:
                return  # the loop has crashed; nobody waits any more

    async def wait(self) -> list[T]:
        """Sleep until all is finished; once, by the task that made it, after handing out every index."""
        await trio.lowlevel.wait_task_rescheduled(_refuse)
        assert self._left == 0
        return self._results


def _refuse(_: object) -> Abort:
    return Abort.FAILED
