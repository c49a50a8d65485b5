"""What several tasks get that ask a shard for the first time (meta/shards/peers.py)."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from siltstone.errors import Unavailable
from siltstone.meta.shards.link import Link
from siltstone.meta.shards.messages import Ask, PeerLost, Reply, Told, Verdict
from siltstone.meta.shards.peers import CONNECT_SECONDS, LinkedPeers
from siltstone.meta.shards.service import serve
from siltstone.types import ShardId
from sim.clock import SimClock, autojump

_ask = Ask(b"t" * 16)
_told = Told(Verdict.COMMITTED)


def _peers(connect_seconds: float, *, is_there: bool, nursery: trio.Nursery) -> LinkedPeers:
    async def answer(request: bytes) -> bytes:
        return msgspec.msgpack.encode(_told)

    async def connect() -> trio.abc.Stream:
        await trio.sleep(connect_seconds)
        if not is_there:
            raise Unavailable("nobody is there")
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, theirs, answer)
        return ours

    return LinkedPeers(lambda shard: Link(f"shard {shard}", connect, SimClock()))


def _ask_three_times(connect_seconds: float, *, is_there: bool) -> tuple[list[Reply | PeerLost], float]:
    """What three get that ask at the same time, and when the last of them has it, in seconds."""
    got: list[Reply | PeerLost] = []

    async def ask(peers: LinkedPeers) -> None:
        try:
            got.append(await peers.call(ShardId(1), _ask))
        except PeerLost as error:
            got.append(error)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            peers = _peers(connect_seconds, is_there=is_there, nursery=nursery)
            nursery.start_soon(peers.run)
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
            async with trio.open_nursery() as asking:
                for _ in range(3):
                    asking.start_soon(ask, peers)
            taken = trio.current_time() - begun
            nursery.cancel_scope.cancel()
        return taken

    return got, trio.run(main, clock=autojump())


def test_all_that_ask_while_the_first_connection_is_made_wait_for_it() -> None:
    got, taken = _ask_three_times(CONNECT_SECONDS / 2, is_there=True)
    assert got == [_told] * 3
    assert taken == pytest.approx(CONNECT_SECONDS / 2)


def test_a_shard_that_is_not_there_is_waited_for_once() -> None:
    got, taken = _ask_three_times(CONNECT_SECONDS / 10, is_there=False)
    assert [type(each) for each in got] == [PeerLost] * 3
    assert taken == pytest.approx(CONNECT_SECONDS)
