"""In which order shards come and go, and what that waits for: step by step, with nothing behind the ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, cast

import msgspec
import pytest
import trio

from siltstone.config import VolumeConfig
from siltstone.core.all_shards import AllShards
from siltstone.core.resizing import FIRST, Resizer
from siltstone.meta.shards.map import MapView, map_of
from siltstone.types import ShardId
from sim.clock import SimClock, autojump
from sim.volume import small_config


class World:
    """Notes what is done, in order. The Ground port, and what is asked of shards."""

    def __init__(self, shards: int, wanted: int) -> None:
        self.config: VolumeConfig = msgspec.structs.replace(small_config(), shards=shards, shards_wanted=wanted)
        self.steps: list[str] = []
        self.answers: dict[tuple[ShardId, str], list[Any]] = {}
        """What a shard says, one after the other, the last for ever."""
        self.shards = {ShardId(shard): FakeShard(self, ShardId(shard)) for shard in range(shards)}
        self.is_busy = False
        self.resizer = Resizer(self, cast(AllShards, self), MapView(map_of(self.config)), SimClock())

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        yield

    async def save(self, **changes: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)
        self._note(f"save {self.config.shards}/{self.config.shards_void}")

    def still_disks(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def check_room(self, shards: int) -> None:
        self._note("check room")

    async def share_disks(self, *, are_shared: bool) -> None:
        self._note(f"share {are_shared}")

    async def wipe(self, shard: ShardId) -> None:
        self._note(f"wipe {shard}")

    async def lay(self, config: VolumeConfig, shard: ShardId) -> None:
        self._note(f"lay {shard}")

    async def join(self) -> None:
        self._note("join")

    async def start(self, shard: ShardId) -> None:
        self._note(f"start {shard}")
        self.shards.setdefault(shard, FakeShard(self, shard))

    async def stop(self, shard: ShardId) -> None:
        self._note(f"stop {shard}")
        del self.shards[shard]

    async def follow_shards(self) -> None:
        self._note("follow")

    async def use_shards(self) -> None:
        self._note("use shards")

    async def use_volume(self) -> None:
        self._note("use volume")

    def _note(self, step: str) -> None:
        self.steps.append(step)


class FakeShard:
    """What the owner asks."""

    def __init__(self, world: World, shard: ShardId) -> None:
        self._world = world
        self._shard = shard

    async def ask(self, name: str, *arguments: Any) -> Any:
        answers = self._world.answers.get((self._shard, name), [None])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if name == "placements":
            return []
        if name in ("front_ends", "remains", "needs_of"):
            self._world.steps.append(f"{self._shard}: {name}" + (f" {arguments[0]}" if arguments else ""))
            return answer or ([] if name == "front_ends" else "")
        self._world.steps.append(" ".join([f"{self._shard}: {name}", *map(str, arguments[:1])]))
        return answer


def run(body: Callable[[], Awaitable[None]]) -> None:
    trio.run(body, clock=autojump())


def test_doors_go_over_when_every_front_end_listens_to_the_new_shard() -> None:
    """In other processes they hear of it from the first one; who does not listen to it would miss what it changes."""
    world = World(1, 0)
    world.answers[FIRST, "front_ends"] = [[b"a", b"b"], [b"b"]]
    world.answers[ShardId(1), "front_ends"] = [[], [b"a"], [b"b", b"c"]]

    async def body() -> None:
        await world.resizer.grow(2)

    run(body)
    assert world.steps == [
        *("share False", "check room", "share True", "save 1/2", "lay 1", "0: forget_usage", "save 2/0", "save 2/0"),
        *("join", "start 1", "0: note_shards 2", "1: note_shards 2", "follow", "0: announce 2"),
        *3 * ("0: front_ends", "1: front_ends"),
        "use shards",
    ]


def test_a_shard_goes_when_everybody_has_been_told_and_is_none_before_it_ends() -> None:
    world = World(2, 1)

    async def body() -> None:
        assert await world.resizer.retire() == ""

    run(body)
    assert world.steps == [
        *("1: remains", "0: needs_of 1", "0: note_shards 1", "follow", "0: announce 1", "use volume"),
        *("save 1/2", "stop 1", "wipe 1", "save 1/0", "share False"),
    ]


@pytest.mark.parametrize(
    ("who", "question", "said"),
    [
        (ShardId(2), "remains", "shard 2 stays: it lends"),
        (FIRST, "needs_of", "shard 2 stays, which shard 0 needs: it lends"),
        (ShardId(1), "needs_of", "shard 2 stays, which shard 1 needs: it lends"),
    ],
)
def test_a_shard_stays_while_it_has_something_or_another_thinks_so(who: ShardId, question: str, said: str) -> None:
    world = World(3, 1)
    world.answers[who, question] = ["it lends"]

    async def body() -> None:
        assert await world.resizer.retire() == said

    run(body)
    assert not [step for step in world.steps if "note_shards" in step or "stop" in step or "save" in step]
    assert world.config.shards == 3


def test_a_shard_stays_while_work_over_all_shards_is_under_way() -> None:
    world = World(2, 1)
    world.is_busy = True

    async def body() -> None:
        assert "is under way" in await world.resizer.retire()

    run(body)
    assert world.steps == []
