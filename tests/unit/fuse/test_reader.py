"""Who reads the next request: a socket stands for the session, and tasks do what pyfuse3's do."""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.turns import Turns
from siltstone.fuse.reader import HOOK, Reader, noticing, taking_turns, watched

END = 255


class Session:
    """Tasks that serve one-byte requests, as ``_session_loop`` of pyfuse3 does."""

    def __init__(self, handler: Callable[[int], Awaitable[None]]) -> None:
        self.kernel, self.daemon = socket.socketpair()
        self.daemon.setblocking(False)
        self.reader = Reader()
        self.reader.attach(self.daemon.fileno())
        self.handler = handler
        self.reading = 0
        self.ended = 0

    def ask(self, *requests: int) -> None:
        self.kernel.send(bytes(requests))

    async def serve(self) -> None:
        """One task. The request END has it end at once, as pyfuse3's does that finds the mount gone."""
        while await self.reader.wait_request():
            request = self.daemon.recv(1)[0]
            if request == END:
                return

            async def handle(request: int = request) -> None:
                await self.handler(request)

            await noticing(handle(), self.reader.handler_waits)
        self.ended += 1


def with_session(
    tasks: int, handler: Callable[[int], Awaitable[None]], body: Callable[[Session, trio.Nursery], Awaitable[None]]
) -> None:
    """Run ``body`` beside the tasks of a session; at the end all tasks must end when the session does."""

    async def main() -> None:
        session = Session(handler)
        with session.kernel, session.daemon, taking_turns(session.reader):
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(session.serve)
                await body(session, nursery)
                session.kernel.close()

    trio.run(main)


@given(st.random_module(), st.integers(1, 8), st.lists(st.integers(0, 3), max_size=200), st.booleans())
def test_every_request_is_handled_once_whatever_waits(
    seed: object, tasks: int, waits: list[int], at_once: bool
) -> None:
    handled: list[int] = []

    async def handler(request: int) -> None:
        for _ in range(waits[request]):
            await trio.lowlevel.checkpoint()
        handled.append(request)

    async def body(session: Session, nursery: trio.Nursery) -> None:
        for request in range(len(waits)):
            session.ask(request)
            if not at_once and random.random() < 0.5:
                await trio.lowlevel.checkpoint()
        while len(handled) < len(waits):
            await trio.lowlevel.checkpoint()

    with_session(tasks, handler, body)
    assert sorted(handled) == list(range(len(waits)))


def test_handlers_that_wait_leave_the_others_to_read_on() -> None:
    gate = trio.Event()
    handled: list[int] = []

    async def handler(request: int) -> None:
        if request < 3:
            await gate.wait()
        handled.append(request)

    async def body(session: Session, nursery: trio.Nursery) -> None:
        session.ask(0, 1, 2, 3, 4, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert handled == [3, 4, 5]
        session.ask(6)
        await trio.testing.wait_all_tasks_blocked()
        assert handled == [3, 4, 5, 6]
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(handled) == list(range(7))

    with_session(4, handler, body)


def test_when_all_tasks_wait_the_first_that_is_done_reads_on() -> None:
    gate = trio.Event()
    handled: list[int] = []

    async def handler(request: int) -> None:
        if request < 2:
            await gate.wait()
        handled.append(request)

    async def body(session: Session, nursery: trio.Nursery) -> None:
        session.ask(0, 1)
        await trio.testing.wait_all_tasks_blocked()
        session.ask(2)
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(handled) == [0, 1, 2]

    with_session(2, handler, body)


def test_a_steady_stream_of_requests_does_not_shut_others_out() -> None:
    rounds = 0
    stop = False

    async def handler(request: int) -> None:
        if not stop:
            session_of[0].ask(request)

    session_of: list[Session] = []

    async def body(session: Session, nursery: trio.Nursery) -> None:
        nonlocal rounds, stop
        session_of.append(session)
        session.ask(7)
        for _ in range(50):
            await trio.lowlevel.checkpoint()
            rounds += 1
        stop = True

    with_session(3, handler, body)
    assert rounds == 50


def test_a_task_that_ends_while_it_leads_is_replaced() -> None:
    handled: list[int] = []

    async def handler(request: int) -> None:
        handled.append(request)

    async def body(session: Session, nursery: trio.Nursery) -> None:
        session.ask(1, END, 2, END, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert handled == [1, 2, 3]

    with_session(3, handler, body)


def test_all_tasks_end_when_the_session_is_ended_from_here() -> None:
    async def handler(request: int) -> None:
        pass

    async def body(session: Session, nursery: trio.Nursery) -> None:
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(session.daemon)
        session.reader.end()
        await trio.testing.wait_all_tasks_blocked()
        assert session.ended == 3

    with_session(3, handler, body)


def test_cancelled_tasks_end() -> None:
    async def handler(request: int) -> None:
        await trio.sleep_forever()

    async def body(session: Session, nursery: trio.Nursery) -> None:
        session.ask(1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    with_session(3, handler, body)


def test_errors_and_results_of_a_handler_pass_unchanged() -> None:
    async def handler(fails: bool) -> int:
        await trio.lowlevel.checkpoint()
        if fails:
            raise ValueError("as it came")
        return 7

    async def main() -> None:
        waits: list[int] = []
        assert await noticing(handler(False), lambda: waits.append(1)) == 7
        with pytest.raises(ValueError, match="as it came"):
            await noticing(handler(True), lambda: waits.append(1))
        assert waits == [1, 1], "told once, though a handler may wait often"

    trio.run(main)


def test_this_pyfuse3_has_the_name_that_all_this_stands_on() -> None:
    assert hasattr(pyfuse3, HOOK)


def test_watched_operations_keep_what_is_no_handler() -> None:
    class Some(pyfuse3.Operations):
        enable_writeback_cache = True

        async def getxattr(self, inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
            return b"value of " + name

    wrapped = watched(Some(), Reader(), Turns())
    assert wrapped.enable_writeback_cache and wrapped.supports_dot_lookup
    asked: Any = (1, b"x", None)
    assert trio.run(wrapped.getxattr, *asked) == b"value of x"
