"""The thread of LMDB's write transactions: one, since LMDB's lock on them belongs to the thread that began.

Not one of a pool of the standard library's: Python waits for those when it ends, and this one may be stuck in the
kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class WriterThread:
    """Carries out what is submitted, in order. The process ends without it."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="siltstone-lmdb", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Have the thread call ``job``, which raises nothing."""
        self._queue.put(job)

    def end(self) -> None:
        """End it when all is done, and wait for that."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            job()
