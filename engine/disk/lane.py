"""A queue of a disk and the thread that stands at it.

The thread takes whatever waits, up to a limit, writes all of it and then flushes each file once: jobs that wait at the
same time share the flush. A lane's thread starts with its first job.

A thread that is stuck in a system call cannot be stopped. A lane that is given up fails every job that it has, and the
thread begins nothing more when it comes back, but ends; until then it may still be doing what it was doing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

from siltstone.engine.disk.open_files import OpenFile

BATCH_JOBS_MAX = 64
"""Jobs that share one round of flushes: the first waits for the last, so there must not be any number of them. Those
that were submitted together always do."""

_working = threading.local()


def note_step() -> None:
    """Called from within a long job of many system calls: it is not stuck, it has got on with its work."""
    lane: DiskLane | None = getattr(_working, "lane", None)
    if lane is not None:
        lane.note_step()


class Job(Protocol):
    """What stands in a lane. No method raises."""

    def carry_out(self) -> OpenFile | None:
        """Do it. Returns the pinned file that must be flushed before it is done; None if it has finished."""

    def flushed(self, error: OSError | None) -> None:
        """The file of ``carry_out`` was flushed, or not; finishes the job and unpins the file."""

    def describe(self) -> str:
        """The operation and the file, for messages."""

    def give_up(self, cause: str) -> None:
        """Tell who waits that there was no answer, if there was none. From any thread, while another may be at it."""


class DiskLane:
    """The queue and its thread. ``flush`` makes an open file durable, raising OSError. ``on_start`` is called when the
    thread has been started."""

    def __init__(self, name: str, flush: Callable[[OpenFile], None], on_start: Callable[[], None]) -> None:
        self._name = name
        self._flush = flush
        self._on_start = on_start
        self._queue: SimpleQueue[Sequence[Job] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()  # so that a lane that is given up has a thread that runs, or never has one
        self._given_up = ""
        self._batch: Sequence[Job] = ()
        self._current: Job | None = None
        self._steps = 0
        """Counts what the thread has got done, so that one who looks twice sees whether it is stuck."""

    @property
    def is_started(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    @property
    def is_busy(self) -> bool:
        """Whether something waits in the queue or is carried out."""
        return bool(self._batch) or not self._queue.empty()

    @property
    def steps(self) -> int | None:
        """A number that changes as long as the thread gets on with its work; None while it has none."""
        return self._steps if self._batch else None

    def submit(self, *jobs: Job) -> None:
        """Put jobs in the queue, with one wakeup of the thread. From the loop's thread only."""
        if self._thread is None:
            self._start()
        self._queue.put(jobs)
        if self._given_up:  # looked at after the jobs are in: either we see them here, or ``fail_all`` does
            self._fail_queued()

    def note_step(self) -> None:
        """The thread has got on with its work. From the lane's thread only."""
        self._steps += 1

    def stop(self) -> None:
        """Let the thread end after what is in the queue. Does not wait."""
        if self._thread is not None:
            self._queue.put(None)

    def stuck_at(self) -> str:
        """What the thread is at, or was at last, for messages."""
        return "" if self._current is None else self._current.describe()

    def give_up(self, cause: str) -> None:
        """Take nothing from now on: what is submitted fails. From a thread other than the lane's; once."""
        with self._starting:
            self._given_up = cause

    def fail_all(self) -> None:
        """Fail what there is in a lane that was given up, and let the thread end as soon as it can. As ``give_up``."""
        self._fail_queued()
        for job in self._batch:
            job.give_up(self._given_up)
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end: from then on nothing is done any more."""
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if not self._given_up:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
                self._on_start()

    def _fail_queued(self) -> None:
        has_end = False
        while True:
            try:
                jobs = self._queue.get_nowait()
            except Empty:
                break
            if jobs is None:
                has_end = True
                continue
            for job in jobs:
                job.give_up(self._given_up)
        if has_end:
            self._queue.put(None)  # it is for the thread

    def _run(self) -> None:
        _working.lane = self
        queue = self._queue
        is_stopping = False
        while not is_stopping:
            jobs: list[Job] = []
            while True:
                found = queue.get()
                if found is None:
                    is_stopping = True
                    break
                jobs.extend(found)
                if queue.empty() or len(jobs) >= BATCH_JOBS_MAX:  # the others who take from it end it
                    break
            self._batch = jobs
            self._carry_out(jobs)
            self._batch = ()
        if self._given_up:
            self._fail_queued()

    def _carry_out(self, jobs: list[Job]) -> None:
        waiting: dict[OpenFile, list[Job]] = {}
        for job in jobs:
            if self._given_up:
                job.give_up(self._given_up)
                continue
            self._current = job
            file = job.carry_out()
            self._steps += 1
            if file is None:
                continue
            if file in waiting:
                waiting[file].append(job)
            else:
                waiting[file] = [job]
        for file, sharing in waiting.items():
            error: OSError | None = None
            self._current = sharing[0]
            try:
                if not self._given_up:
                    self._flush(file)
            except OSError as raised:
                error = raised
            self._steps += 1
            for job in sharing:
                if self._given_up:
                    job.give_up(self._given_up)
                job.flushed(error)
