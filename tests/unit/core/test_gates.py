"""What is held back while a partition goes to another shard, and what that waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from siltstone.core.calls import METHODS
from siltstone.core.gates import DRAIN_SECONDS, Gates
from siltstone.core.turns import Turns
from siltstone.core.volume import Volume
from siltstone.meta.shards.handover import HandoverFailed
from siltstone.types import ROOT_INO, Ino, PartitionId, ShardId, partition_of
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes

HERE = partition_of(ROOT_INO)
ELSEWHERE = PartitionId(HERE + 1)


class Gated:
    """The gates of a volume of one shard, and calls through them."""

    def __init__(self, volume: Volume, nursery: trio.Nursery) -> None:
        self.volume = volume
        self.forgotten: list[bool] = []
        self.gates = Gates(volume, lambda: self.forgotten.append(True))
        self.passed: list[str] = []
        self._nursery = nursery

    def call(self, name: str, until: trio.Event | None = None, partition: PartitionId = HERE) -> None:
        """Begin a call, which lasts until then."""

        async def call() -> None:
            async with self.gates.passing(partition):
                self.passed.append(name)
                if until is not None:
                    await until.wait()

        self._nursery.start_soon(call)

    async def write(self, name: bytes) -> Ino:
        """A file with dirty bytes."""
        ino = (await self.volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
        await self.volume.write(ino, 0, b"dirty")
        return ino


def run(body: Callable[[Gated], Awaitable[None]]) -> None:
    async def main() -> None:
        world = SimShardVolumes(1)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            await body(Gated(world.volumes[ShardId(0)], nursery))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def test_calls_wait_while_their_partition_is_held_back_and_others_do_not() -> None:
    async def body(gated: Gated) -> None:
        async with gated.gates.held_back(HERE):
            gated.call("waits")
            gated.call("of another", partition=ELSEWHERE)
            await wait_all_tasks_blocked()
            assert gated.passed == ["of another"]
        # Held back again at once, before who waited has gone on.
        async with gated.gates.held_back(HERE):
            await wait_all_tasks_blocked()
            assert gated.passed == ["of another"]
        await wait_all_tasks_blocked()
        assert gated.passed == ["of another", "waits"]

    run(body)


def test_calls_that_are_under_way_all_end_before_a_partition_is_held_back() -> None:
    async def body(gated: Gated) -> None:
        first, second = trio.Event(), trio.Event()
        gated.call("first", first)
        gated.call("second", second)
        await wait_all_tasks_blocked()
        is_held = False

        async def hold() -> None:
            nonlocal is_held
            async with gated.gates.held_back(HERE):
                is_held = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.sleep(DRAIN_SECONDS / 4)
            first.set()
            await trio.sleep(DRAIN_SECONDS / 4)
            assert not is_held
            second.set()
        assert is_held

    run(body)


def test_a_call_that_takes_too_long_ends_the_attempt_and_everybody_goes_on() -> None:
    async def body(gated: Gated) -> None:
        over = trio.Event()
        gated.call("long", over)
        await wait_all_tasks_blocked()
        with pytest.raises(HandoverFailed, match="take too long"):
            async with gated.gates.held_back(HERE):
                raise AssertionError
        gated.call("later")
        await wait_all_tasks_blocked()
        assert gated.passed == ["long", "later"]
        over.set()

    run(body)


def test_dirty_bytes_are_written_back_also_those_of_the_last_call() -> None:
    async def body(gated: Gated) -> None:
        await gated.write(b"before")
        written = trio.Event()

        async def call() -> None:
            async with gated.gates.passing(HERE):
                await trio.sleep(DRAIN_SECONDS / 2)
                await gated.write(b"by a call")
                written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            async with gated.gates.held_back(HERE):
                assert written.is_set()
                assert gated.gates.is_clean(HERE)
                # Of what began before there were gates: it is seen before anything is given away.
                await gated.write(b"past the gates")
                assert not gated.gates.is_clean(HERE) and gated.gates.is_clean(ELSEWHERE)

    run(body)


def test_of_what_has_left_nothing_is_remembered() -> None:
    async def body(gated: Gated) -> None:
        await gated.volume.mkdir(ROOT_INO, b"bucket", mode=0o755, uid=0, gid=0)
        gated.gates.left(HERE)
        assert gated.forgotten == [True]

    run(body)


def test_calls_of_a_front_end_in_the_same_process_pass_the_gates_as_others_do() -> None:
    async def main() -> None:
        world = SimShardVolumes(1)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            side = world.serving[ShardId(0)][0]
            before = side.load().partition_calls.get(HERE, 0)
            await side.call_here(METHODS["attributes"], {"ino": ROOT_INO}, b"client")
            assert side.load().partition_calls[HERE] == before + 1
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def test_a_turn_is_over_when_the_last_call_of_it_is_and_later_calls_are_of_the_next() -> None:
    turns = Turns()

    async def main() -> None:
        first, second, later = trio.Event(), trio.Event(), trio.Event()

        async def call(until: trio.Event) -> None:
            with turns.current:
                await until.wait()

        is_over = False

        async def wait_over() -> None:
            nonlocal is_over
            await old.wait_over()
            is_over = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, first)
            nursery.start_soon(call, second)
            await wait_all_tasks_blocked()
            old = turns.turn_over()
            nursery.start_soon(call, later)
            nursery.start_soon(wait_over)
            for ended in (first, second):
                await wait_all_tasks_blocked()
                assert not is_over
                ended.set()
            await wait_all_tasks_blocked()
            assert is_over and not later.is_set()
            later.set()

    trio.run(main)
