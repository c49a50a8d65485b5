"""Freed space waits for durability and for the reads that began before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from siltstone.core.reclaim import ReadFence, Reclaimer
from siltstone.types import Lsn


def _run(body: Callable[[ReadFence, Reclaimer, list[str], trio.Event], Awaitable[None]]) -> None:
    async def main() -> None:
        durable, fence, released = trio.Event(), ReadFence(), list[str]()

        async def wait_durable(lsn: Lsn) -> None:
            await durable.wait()

        reclaimer = Reclaimer(fence, wait_durable)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reclaimer.run)
            await body(fence, reclaimer, released, durable)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_space_is_not_released_before_its_batch_is_durable() -> None:
    async def body(fence: ReadFence, reclaimer: Reclaimer, released: list[str], durable: trio.Event) -> None:
        reclaimer.free(Lsn(1), lambda: released.append("a"))
        await trio.testing.wait_all_tasks_blocked()
        assert released == []
        durable.set()
        await reclaimer.wait_idle()
        assert released == ["a"]

    _run(body)


def test_space_is_not_released_under_a_read_that_began_before() -> None:
    async def body(fence: ReadFence, reclaimer: Reclaimer, released: list[str], durable: trio.Event) -> None:
        durable.set()
        before = fence.enter()
        reclaimer.free(Lsn(1), lambda: released.append("a"))
        after = fence.enter()
        await trio.testing.wait_all_tasks_blocked()
        assert released == []
        fence.leave(before)
        await reclaimer.wait_idle()
        assert released == ["a"], "a read that began after the batch does not hold it back"
        fence.leave(after)

    _run(body)


def test_an_older_read_holds_back_everything_freed_after_it_began() -> None:
    async def body(fence: ReadFence, reclaimer: Reclaimer, released: list[str], durable: trio.Event) -> None:
        durable.set()
        read = fence.enter()
        for name in "abc":
            reclaimer.free(Lsn(1), lambda name=name: released.append(name))  # type: ignore[misc]
        await trio.testing.wait_all_tasks_blocked()
        assert released == [] and len(reclaimer) == 3
        fence.leave(read)
        await reclaimer.wait_idle()
        assert released == ["a", "b", "c"]

    _run(body)
