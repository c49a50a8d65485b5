"""What front-ends hear of a shard, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio

from siltstone.core.calls import News, Poll, Spread
from siltstone.core.sessions import POLL_SECONDS
from siltstone.core.shard import Shard
from siltstone.core.types import EntryChanged
from siltstone.core.volume import Volume
from siltstone.meta.shards.link import REQUESTS_MAX
from siltstone.types import ROOT_INO, ShardId
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes

CLIENT = b"the front-end!!!"


def run(body: Callable[[Shard, Volume], Awaitable[None]]) -> None:
    async def main() -> None:
        world = SimShardVolumes(1)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            first = ShardId(0)
            await body(world.serving[first][0], world.volumes[first])
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


async def poll(shard: Shard, session: int = 0, seen: int = 0) -> News:
    """What a shard answers."""
    request = msgspec.msgpack.encode(Poll(CLIENT, session, seen, [], hears=True))
    return msgspec.msgpack.decode(await shard.handle(request), type=News)


async def begin(shard: Shard) -> tuple[int, int]:
    """A session, and what has been seen when there is nothing to hear of."""
    opened = await poll(shard)
    told = await poll(shard, opened.session, opened.number)
    return opened.session, told.number


@pytest.mark.parametrize("given_up", [0, 1])
def test_news_come_at_once_to_who_has_given_a_poll_up_and_asks_again(given_up: int) -> None:
    """``given_up``: whether that is the first or the second to arrive: one message may overtake another."""

    async def body(shard: Shard, volume: Volume) -> None:
        session, seen = await begin(shard)
        heard: list[object] = []
        has_heard = trio.Event()

        async def listen() -> None:
            while not heard:
                heard.extend((await poll(shard, session, seen)).items)
            has_heard.set()

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(*((poll, shard, session, seen) if number == given_up else (listen,)))
                await trio.testing.wait_all_tasks_blocked()
            ino = (await volume.create(ROOT_INO, b"name", mode=0o100644, uid=0, gid=0)).ino
            with trio.fail_after(POLL_SECONDS / 10):
                await has_heard.wait()
            assert heard == [EntryChanged(ROOT_INO, b"name", ino, False)]

    run(body)


def test_polls_that_were_given_up_do_not_fill_the_connection() -> None:
    async def body(shard: Shard, volume: Volume) -> None:
        session, seen = await begin(shard)
        async with trio.open_nursery() as nursery:
            for _ in range(2 * REQUESTS_MAX):
                nursery.start_soon(poll, shard, session, seen)
                await trio.testing.wait_all_tasks_blocked()
            assert shard.load().under_way == 1
            nursery.cancel_scope.cancel()

    run(body)


def test_who_announces_how_many_shards_there_are_waits_until_every_front_end_has_taken_it_in() -> None:
    async def body(shard: Shard, volume: Volume) -> None:
        session, seen = await begin(shard)
        is_told = False

        async def announce() -> None:
            nonlocal is_told
            await shard.announce(2, [])
            is_told = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll, shard, session, seen)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(announce)
            await trio.sleep(1)
            news = await poll(shard, session, seen)
            assert [type(item) for item in news.items] == [Spread]
            await trio.sleep(1)
            assert not is_told, "it has heard, and not said yet that it knows"
            nursery.start_soon(poll, shard, session, news.number)
            await trio.sleep(1)
            assert is_told
            nursery.cancel_scope.cancel()

    run(body)
