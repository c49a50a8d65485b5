"""Freed space waits for durability and for the reads that began before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from siltstone.core.reclaim import ReadFence, Reclaimer
from siltstone.limits import MIB
from siltstone.meta import space
from siltstone.types import ROOT_INO, Lsn
from sim.clock import autojump
from sim.volume import SimVolume, small_config


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


def test_space_is_not_released_under_a_lease_and_who_need_not_wait_for_leases_does_not() -> None:
    async def body(fence: ReadFence, reclaimer: Reclaimer, released: list[str], durable: trio.Event) -> None:
        durable.set()
        lease = fence.enter(leased=True)
        reclaimer.free(Lsn(1), lambda: released.append("a"))
        await trio.testing.wait_all_tasks_blocked()
        assert released == []
        await fence.wait_past(fence.advance(), leased=False)
        fence.leave(lease, leased=True)
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


def test_the_files_of_an_empty_slab_stay_until_it_is_durable_that_its_record_is_gone() -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()

        def chunk_files() -> set[str]:
            return {name for disk in world.disks for name in disk.names if name.startswith("slab/")}

        async with world.opened() as volume:
            for number in range(4):
                ino = (await volume.create(ROOT_INO, b"%d" % number, mode=0o100644, uid=0, gid=0)).ino
                await volume.write(ino, 0, bytes(MIB))
            await volume.sync()
            await volume.settle()
            for number in range(4):
                await volume.unlink(ROOT_INO, b"%d" % number)
            await volume.sync()
            await trio.sleep(2)
            before, slabs = chunk_files(), len(list(space.slabs(volume.ledger.store)))
            for disk in world.disks:
                disk.slow(30.0, "write", "log/", count=3)
            await trio.sleep(20)
            assert len(list(space.slabs(volume.ledger.store))) < slabs, "the records are gone, and that is not durable"
            assert chunk_files() == before
            await trio.sleep(120)
            assert chunk_files() < before

    trio.run(main, clock=autojump())
