"""Who reads the next request: takes the place of pyfuse3's way for its tasks to take turns.

pyfuse3 hands the right to read from one task to another with every request, which costs two rounds of the event loop
each. Here the task that reads goes on reading as long as its handlers end without waiting, and hands over only when one
really waits; requests that are there already are taken without any round. On an in-memory filesystem a request then
takes a third of the processor time (bench/mount.py).

At any time at most one task leads: it waits for a request, or handles one and has not waited yet. The others are idle,
or wait inside their handlers. Nobody is idle while nobody leads, so no request is left lying.

It stands on one name inside pyfuse3, ``_wait_fuse_readable``; where that is missing, pyfuse3's own way is used.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import select
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from types import coroutine
from typing import Any, TypeVar

import pyfuse3
import trio

from siltstone.core.turns import Turns

R = TypeVar("R")
Handler = Callable[..., Coroutine[Any, Any, Any]]

IN_A_ROW_MAX = 8
"""Requests handled without a round of the event loop: what else is ready (the log, S3) waits for that many at most."""

HOOK = "_wait_fuse_readable"
DEVICE = "/dev/fuse"


class Reader(trio.abc.Instrument):
    """The tasks of one session and who of them leads. Also a trio instrument, for tasks that end while they lead."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._poll = select.poll()
        self._leader: trio.lowlevel.Task | None = None
        self._idle: list[trio.lowlevel.Task] = []
        self._in_a_row = 0
        self._ended = False

    def attach(self, descriptor: int) -> None:
        """Read requests from this open file. To be called before the first task asks."""
        self._descriptor = descriptor
        self._poll.register(descriptor, select.POLLIN)

    async def wait_request(self) -> bool:
        """Return when the calling task is to read a request; False when there will be none any more."""
        task = trio.lowlevel.current_task()
        while not self._ended:
            if self._leader is None:
                self._leader = task
            if self._leader is not task:
                await self._be_idle(task)
                continue
            if self._in_a_row < IN_A_ROW_MAX:
                found = self._poll.poll(0)
                if found:
                    self._in_a_row += 1
                    return self._is_request(found)
            self._in_a_row = 0
            try:
                await trio.lowlevel.wait_readable(self._descriptor)
            except trio.ClosedResourceError:
                self.end()
                return False
            except BaseException:
                self._hand_over()
                raise
            return self._is_request(self._poll.poll(0))
        return False

    def handler_waits(self) -> None:
        """The calling task's handler is about to wait: somebody else has to read."""
        if self._leader is trio.lowlevel.current_task():
            self._hand_over()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """A task has ended (trio calls this): pyfuse3 ends one that finds the mount gone when it reads."""
        if task is self._leader:
            self._hand_over()

    def end(self) -> None:
        """There will be no more requests: every task is told so when it asks."""
        self._ended = True
        self._leader = None
        while self._idle:
            trio.lowlevel.reschedule(self._idle.pop())

    def _is_request(self, found: list[tuple[int, int]]) -> bool:
        """Whether what makes the file readable is a request. After an unmount it is an error, for all tasks."""
        if found and found[0][1] != select.POLLIN:  # there is one file only
            self.end()
            return False
        return True

    def _hand_over(self) -> None:
        self._leader = None
        if self._idle:
            # The one that became idle last: what it uses is still in the processor's caches.
            trio.lowlevel.reschedule(self._idle.pop())

    async def _be_idle(self, task: trio.lowlevel.Task) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)


def watched(operations: pyfuse3.Operations, reader: Reader, turns: Turns) -> pyfuse3.Operations:
    """The same operations, with handlers that tell ``reader`` when they wait for the first time, and are counted."""
    wrapper = copy.copy(operations)
    for name in dir(pyfuse3.Operations):
        if inspect.iscoroutinefunction(getattr(operations, name)):
            setattr(wrapper, name, _watched(getattr(operations, name), reader.handler_waits, turns))
    return wrapper


def _watched(handler: Handler, waits: Callable[[], None], turns: Turns) -> Handler:
    async def wrapper(*arguments: Any) -> Any:
        with turns.current:
            return await noticing(handler(*arguments), waits)

    return wrapper


@coroutine
def noticing(handler: Coroutine[Any, Any, R], waits: Callable[[], None]) -> Generator[Any, Any, R]:
    """Run a coroutine to its end, and call ``waits`` when it waits for the first time."""
    result: R
    try:
        trap = handler.send(None)
    except StopIteration as ended:
        result = ended.value
        return result
    waits()
    while True:
        try:
            try:
                sent = yield trap
            except BaseException as error:
                trap = handler.throw(error)
            else:
                trap = handler.send(sent)
        except StopIteration as ended:
            result = ended.value
            return result


def fuse_descriptors() -> set[int]:
    """The open files of this process that are sessions with the kernel."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link) == DEVICE:
                found.add(int(link.name))
        except OSError:
            # The listing's own descriptor is gone by now.
            continue
    return found


@contextlib.contextmanager
def taking_turns(reader: Reader) -> Iterator[None]:
    """Have pyfuse3's tasks take turns as ``reader`` says, where this pyfuse3 can do that."""
    original = getattr(pyfuse3, HOOK, None)
    if original is None:
        yield
        return
    setattr(pyfuse3, HOOK, reader.wait_request)
    trio.lowlevel.add_instrument(reader)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(reader)
        setattr(pyfuse3, HOOK, original)
