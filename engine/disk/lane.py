"""A queue of a disk and the thread that stands at it.

The thread takes whatever waits, up to a limit, writes all of it and then flushes each file once: jobs that wait at the
same time share the flush. A lane's thread starts with its first job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from siltstone.engine.disk.open_files import OpenFile

BATCH_JOBS_MAX = 64
"""Jobs that share one round of flushes: the first waits for the last, so there must not be any number of them."""


class Job(Protocol):
    """What stands in a lane. Neither method raises."""

    def carry_out(self) -> OpenFile | None:
        """Do it. Returns the pinned file that must be flushed before it is done; None if it has finished."""

    def flushed(self, error: OSError | None) -> None:
        """The file of ``carry_out`` was flushed, or not; finishes the job and unpins the file."""


class DiskLane:
    """The queue and its thread. ``flush`` makes an open file durable, raising OSError."""

    def __init__(self, name: str, flush: Callable[[OpenFile], None]) -> None:
        self._name = name
        self._flush = flush
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def submit(self, job: Job) -> None:
        """Put a job in the queue. From the loop's thread only."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put(job)

    def stop(self) -> None:
        """Let the thread end after what is in the queue. Does not wait."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread = None

    def _run(self) -> None:
        queue = self._queue
        is_stopping = False
        while not is_stopping:
            jobs: list[Job] = []
            while True:
                job = queue.get()
                if job is None:
                    is_stopping = True
                    break
                jobs.append(job)
                if queue.empty() or len(jobs) == BATCH_JOBS_MAX:  # nobody else takes from it
                    break
            self._carry_out(jobs)

    def _carry_out(self, jobs: list[Job]) -> None:
        waiting: dict[OpenFile, list[Job]] = {}
        for job in jobs:
            file = job.carry_out()
            if file is None:
                continue
            if file in waiting:
                waiting[file].append(job)
            else:
                waiting[file] = [job]
        for file, sharing in waiting.items():
            error: OSError | None = None
            try:
                self._flush(file)
            except OSError as raised:
                error = raised
            for job in sharing:
                job.flushed(error)
