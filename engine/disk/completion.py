"""How threads of disks tell a waiting task that all it asked for is done: with one wakeup, by the last of them."""

from __future__ import annotations

import threading
from typing import Any, Generic, Protocol, TypeVar

import trio
from trio.lowlevel import Abort

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_UNANSWERED: Any = object()


class Answers(Protocol[T_contra]):
    """Where threads put results."""

    def finish(self, index: int, result: T_contra) -> None:
        """Note a result, unless there is one."""


class Completion(Generic[T]):
    """Counts results down. Made in the task that will wait; the first result of each index counts, from any thread.

    ``wait`` cannot be cancelled: what a thread works on (the caller's buffers, too) stays in use until it is done, or
    the disk is given up. Then a thread may still be stuck with it, and its late result is of no interest any more.
    """

    __slots__ = ("_is_awaited", "_left", "_lock", "_results", "_task", "_token")

    def __init__(self, count: int) -> None:
        assert count > 0
        self._results: list[T] = [_UNANSWERED] * count
        self._left = count
        self._is_awaited = False
        self._lock = threading.Lock()
        self._task = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()

    def finish(self, index: int, result: T) -> None:
        """Note a result, unless there is one; the last one wakes the task if it sleeps."""
        with self._lock:
            if self._results[index] is not _UNANSWERED:
                return
            self._results[index] = result
            self._left -= 1
            is_last = self._left == 0 and self._is_awaited
        if is_last:
            try:
                self._token.run_sync_soon(trio.lowlevel.reschedule, self._task)
            except trio.RunFinishedError:
                return  # the loop has crashed; nobody waits any more

    async def wait(self) -> list[T]:
        """Sleep until all is finished, if it is not; once, by the task that made it, after handing out every index."""
        with self._lock:
            self._is_awaited = self._left > 0
        if self._is_awaited:
            await trio.lowlevel.wait_task_rescheduled(_refuse)
        assert self._left == 0
        return self._results


def _refuse(_: object) -> Abort:
    return Abort.FAILED
