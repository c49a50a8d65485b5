"""Calls of front-ends to shards: routed, carried out once, errors by class, over shards that die and come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio

from siltstone.core.caller import Caller
from siltstone.core.calls import METHODS, Call, error_of, failed
from siltstone.core.types import SetAttributes
from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    DiskFull,
    NotADirectory,
    NotFound,
    SiltstoneError,
    Unavailable,
)
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.meta.shards.answers import FORGET_SECONDS, FORGET_STEP
from siltstone.meta.shards.messages import Failed, PeerLost
from siltstone.types import ROOT_INO, DiskId, Ino, PartitionId, ShardId, partition_of
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes

OWNER: dict[str, Any] = {"uid": 0, "gid": 0}


def run(body: Callable[[SimShardVolumes, Caller], Awaitable[None]], *, shards: int = 2) -> None:
    async def main() -> None:
        world = SimShardVolumes(shards)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            caller = world.caller()
            nursery.start_soon(caller.run)
            await body(world, caller)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


async def directories(world: SimShardVolumes, caller: Caller) -> dict[ShardId, Ino]:
    """A directory on each shard."""
    found: dict[ShardId, Ino] = {}
    number = 0
    while len(found) < len(world.shards):
        made = await caller.call("mkdir", ROOT_INO, b"directory %d" % number, mode=0o755, **OWNER)
        found.setdefault(world.partitions().owner(partition_of(made.ino)), made.ino)
        number += 1
    return found


def test_every_method_of_the_table_can_be_sent_and_its_result_read() -> None:
    for method in METHODS.values():
        first = next(iter(method.arguments.__struct_fields__), "ino")
        assert first.endswith("ino") or first in ("near", "parent", "wanted", "source", "clone"), method.name


def test_a_tree_over_two_shards_is_one_tree() -> None:
    async def body(world: SimShardVolumes, caller: Caller) -> None:
        here = await directories(world, caller)
        for shard, directory in here.items():
            made = await caller.call("create", directory, b"file", mode=0o100644, **OWNER)
            assert world.partitions().owner(partition_of(made.ino)) == shard
            assert await caller.call("write", made.ino, 0, b"bytes of %d" % shard) == 10
            await caller.call("fsync", made.ino)
        first, second = here.values()
        await caller.call("rename", first, b"file", second, b"moved")
        moved = await caller.call("lookup", second, b"moved")
        assert await caller.call("read", moved.ino, 0, 100) == b"bytes of %d" % next(iter(here))
        with pytest.raises(NotFound):
            await caller.call("lookup", first, b"file")
        with pytest.raises(DirectoryNotEmpty):
            name = next(
                entry.name
                for entry in await caller.call("list_directory", ROOT_INO, after=None, limit=100)
                if entry.ino == second
            )
            await caller.call("rmdir", ROOT_INO, name)
        with pytest.raises(AlreadyExists):
            await caller.call("mkdir", second, b"moved", mode=0o755, **OWNER)
        with pytest.raises(NotADirectory):
            await caller.call("lookup", moved.ino, b"x")
        changed = await caller.call("set_attributes", moved.ino, SetAttributes(mode=0o600))
        assert changed.mode == 0o100600
        await caller.call("set_xattr", moved.ino, b"user.a", b"value")
        assert await caller.call("get_xattr", moved.ino, b"user.a") == b"value"
        await caller.call("link", moved.ino, first, b"again")
        await caller.call("unlink", second, b"moved")
        assert (await caller.call("attributes", moved.ino)).nlink == 1
        await caller.call("unlink", first, b"again")
        await world.wait_quiet()
        with pytest.raises(NotFound):
            await caller.call("attributes", moved.ino)

    run(body)


def test_what_another_shard_unlinked_is_purged_by_the_shard_that_has_it() -> None:
    async def body(world: SimShardVolumes, caller: Caller) -> None:
        here = await directories(world, caller)
        first, second = here.values()
        made = await caller.call("create", first, b"file", mode=0o100644, **OWNER)
        await caller.call("rename", first, b"file", second, b"moved")
        await caller.call("unlink", second, b"moved")
        await world.wait_quiet()
        owner = world.volumes[world.partitions().owner(partition_of(made.ino))]
        assert len(owner.orphans) == 0
        with pytest.raises(NotFound):
            await caller.call("attributes", made.ino)

    run(body)


def test_a_shard_that_dies_under_load_is_a_delay_and_nothing_is_done_twice() -> None:
    async def body(world: SimShardVolumes, caller: Caller) -> None:
        here = await directories(world, caller)
        done: list[bytes] = []

        async def work(task: int) -> None:
            for number in range(40):
                name = b"%d-%d" % (task, number)
                source, target = list(here.values())[:: 1 if number % 2 else -1]
                await caller.call("create", source, name, mode=0o100644, **OWNER)
                await caller.call("rename", source, name, target, name)
                if number % 3 == 0:
                    await caller.call("unlink", target, name)
                else:
                    done.append(name)
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(work, task)
            for victim in (0, 1, 0, 1):
                await trio.sleep(0.3)
                await world.restart(ShardId(victim))
        assert caller.resent > 0, "no call was interrupted: the test tests nothing"
        found = [
            entry.name
            for directory in here.values()
            for entry in await caller.call("list_directory", directory, after=None, limit=1000)
        ]
        assert sorted(found) == sorted(done)

    run(body)


def test_a_call_whose_answer_dies_with_the_shard_is_not_carried_out_again() -> None:
    async def body(world: SimShardVolumes, caller: Caller) -> None:
        here = await directories(world, caller)
        for directory in here.values():
            other = next(ino for ino in here.values() if ino != directory)

            async def survive(name: str, *arguments: Any, **named: Any) -> Any:
                results: list[Any] = []

                async def ask() -> None:
                    results.append(await caller.call(name, *arguments, **named))

                world.is_losing_answers, world.answers_lost = True, trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    await world.answers_lost.wait()
                    world.is_losing_answers = False
                    await world.restart(world.partitions().owner(partition_of(arguments[0])))
                return results[0]

            made = await survive("create", directory, b"file", mode=0o100644, **OWNER)
            assert (await caller.call("lookup", directory, b"file")).ino == made.ino
            await survive("rename", directory, b"file", other, b"moved")
            await caller.call("rename", other, b"moved", directory, b"file")
            linked = await survive("link", made.ino, directory, b"again")
            assert linked.nlink == 2
            changed = await survive("set_attributes", made.ino, SetAttributes(mode=0o600))
            assert changed.mode == 0o100600
            await survive("unlink", directory, b"file")
            await survive("unlink", directory, b"again")
            assert (await survive("mkdir", directory, b"sub", mode=0o700, **OWNER)).mode == 0o40700
            await survive("rmdir", directory, b"sub")
            assert await caller.call("list_directory", directory, after=None, limit=10) == []

    run(body)


def test_a_shard_that_stays_away_is_an_error_at_last() -> None:
    async def main() -> None:
        world = SimShardVolumes(1)
        caller = world.caller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.run)
            begun = trio.current_time()
            with pytest.raises(PeerLost, match="shard 0 is away: nobody listens"):
                await caller.call("attributes", ROOT_INO)
            assert 59 < trio.current_time() - begun < 62
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def test_a_shard_refuses_what_it_does_not_have_or_know() -> None:
    async def body(world: SimShardVolumes, caller: Caller) -> None:
        served, _ = world.serving[ShardId(0)]
        assert b"not a request" in await served.handle(b"nonsense")
        method = METHODS["attributes"]
        elsewhere = Ino(1)  # the root, which shard 1 has
        for name, arguments, said in (
            ("shutdown", method.encode_arguments(elsewhere), b"no method"),
            ("attributes", method.encode_arguments(elsewhere), b"not-mine"),
            ("lookup", method.encode_arguments(elsewhere), b"arguments of lookup"),
        ):
            call = msgspec.msgpack.encode(Call(name, arguments, bytes(16), 0, 1))
            assert said in await served.handle(call)

    run(body)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFound("no such name"), NotFound),
        (DiskFull(DiskId(1), "write", "log/a", "no space"), Unavailable),
        (PeerLost("away"), Unavailable),
    ],
)
def test_errors_travel_by_their_class_or_the_nearest_that_is_a_text(
    error: SiltstoneError, kind: type[SiltstoneError]
) -> None:
    received = error_of(failed(error))
    assert type(received) is kind
    assert str(received) == str(error)
    assert type(error_of(Failed("os", "not a class of errors"))) is Unavailable


def marks(world: SimShardVolumes) -> int:
    """The marks of calls that the shards keep."""
    return sum(
        1
        for volume in world.volumes.values()
        for partition in range(PARTITION_COUNT)
        for _ in volume.ledger.store.scan(*keys.prefix_range(keys.all_of(keys.ANSWER, PartitionId(partition))))
    )


def test_the_marks_of_front_ends_that_are_gone_are_dropped_those_of_others_stay_as_long_as_needed() -> None:
    async def body(world: SimShardVolumes, caller: Caller) -> None:
        here = await directories(world, caller)
        gone = world.caller(seed=7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gone.run)
            for directory in here.values():
                await gone.call("create", directory, b"of one that is gone", mode=0o100644, **OWNER)
            nursery.cancel_scope.cancel()
        before = marks(world)
        await trio.sleep(FORGET_SECONDS / 2)
        assert marks(world) == before
        for shard in world.shards:
            await world.restart(shard)
        for number in range(30):
            for directory in here.values():
                await caller.call("create", directory, b"%d" % number, mode=0o100644, **OWNER)
            await trio.sleep(FORGET_SECONDS / 10)
        mine = marks(world)
        assert 0 < mine <= 2 * (FORGET_STEP + 2), "only what the front-end that goes on may ask again"
        await trio.sleep(3 * FORGET_SECONDS)
        assert marks(world) == 0
        await caller.call("unlink", here[ShardId(0)], b"7")
        assert marks(world) > 0

    run(body)
