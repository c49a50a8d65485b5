"""The asking side of calls: a front-end's way to the shards of a volume, wherever they are.

A shard that dies comes back by itself: its callers wait, and send again what was not answered, under the same number,
so that nothing is carried out twice. Only when a shard stays away for long do they get an error.
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from siltstone.core.calls import METHODS, Answered, Call, EndReads, News, Poll, error_of, subject_of
from siltstone.meta.shards.link import Link
from siltstone.meta.shards.map import MapView
from siltstone.meta.shards.messages import Failed, NotMine, PeerLost
from siltstone.meta.shards.peers import MakeLink
from siltstone.ports import Clock, Random
from siltstone.types import Ino, PartitionId, ShardId, partition_of

PATIENCE_SECONDS = 60.0
"""How long a shard may be away before its callers are told."""

CLIENT_BYTES = 16

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answered | News | NotMine | Failed).decode

MOVED_SECONDS = 0.002
MOVED_SECONDS_MAX = 0.02
"""How long is waited where it is said that another shard has a partition which says that it has not: a time that
doubles. Either is about to hear."""


class Caller:
    """One front-end. Works while ``run`` does."""

    def __init__(
        self,
        partitions: MapView,
        make_link: MakeLink,
        clock: Clock,
        random: Random,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        hears: bool = True,
    ) -> None:
        """``hears``: whether the front-end caches what changes, and is to hear of that."""
        self.partitions = partitions
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._hears = hears
        self.client = random.bytes(CLIENT_BYTES)
        self._number = 0
        self._unanswered: dict[int, None] = {}
        """The numbers that are under way, in order."""
        self._make_link = make_link
        self._nursery: trio.Nursery | None = None
        self._links: dict[ShardId, Link] = {}
        self._polling: dict[ShardId, Link] = {}
        """Of their own: a poll waits, and calls must not wait behind it."""
        self._scopes: dict[Link, trio.CancelScope] = {}
        self.resent = 0
        """Calls that were sent again."""
        self.moved = 0
        """Calls that went to a shard which had given their partition away."""

    async def run(self) -> None:
        """Keep the connections, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for link in (*self._links.values(), *self._polling.values()):
                nursery.start_soon(self._keep, link)
            await trio.sleep_forever()

    def forget(self, shard: ShardId) -> None:
        """A shard is gone for good: let go of the connections to it. What waits there is asked for elsewhere."""
        for links in (self._links, self._polling):
            link = links.pop(shard, None)
            if link in self._scopes:
                self._scopes.pop(link).cancel()

    async def _keep(self, link: Link) -> None:
        if link not in (*self._links.values(), *self._polling.values()):
            return  # it was forgotten before it began
        with trio.CancelScope() as scope:
            self._scopes[link] = scope
            await link.run()

    async def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Have a method of the volume carried out; returns, or raises, what it does. Raises PeerLost, too."""
        method = METHODS[name]
        encoded = method.encode_arguments(*arguments, **named)
        subject = subject_of(arguments or list(named.values()))
        assert subject is not None, f"{name} is about no inode"
        partition = partition_of(subject)
        if not method.is_once:
            return method.decode_result(await self._send(partition, name, encoded, 0))
        self._number += 1
        number = self._number
        self._unanswered[number] = None
        try:
            return method.decode_result(await self._send(partition, name, encoded, number))
        finally:
            del self._unanswered[number]

    async def poll(self, shard: ShardId, session: int, seen: int, let_go: list[Ino]) -> News:
        """Hear from a shard what has changed there (see calls.Poll). Raises PeerLost at once."""
        poll = Poll(self.client, session, seen, let_go, self._hears)
        answer = _decode(await self._link(self._polling, shard).call(_encode(poll)))
        assert isinstance(answer, News)
        return answer

    async def end_reads(self, shard: ShardId, leases: list[int]) -> None:
        """Tell a shard of leases that are not needed any more. Raises PeerLost at once; they have ended then."""
        await self._link(self._links, shard).call(_encode(EndReads(self.client, leases)))

    async def call_on(self, shard: ShardId, name: str) -> Any:
        """Have one shard carry out a method that is about no inode, and may be carried out twice."""
        method = METHODS[name]
        assert not method.is_once
        answer = await self._ask(shard, name, method.encode_arguments(), 0)
        assert isinstance(answer, Answered)
        return method.decode_result(answer.result)

    async def call_all(self, name: str) -> None:
        """Have every shard carry out a method that is about no inode, and may be carried out twice."""
        async with trio.open_nursery() as nursery:
            for shard in self.partitions().shards():
                nursery.start_soon(self.call_on, shard, name)

    async def _send(self, partition: PartitionId, name: str, arguments: msgspec.Raw, number: int) -> msgspec.Raw:
        """What the shard answers that has a partition, whichever that is by then."""
        pause = MOVED_SECONDS
        while True:
            answer = await self._ask(self.partitions().owner(partition), name, arguments, number)
            if isinstance(answer, Answered):
                return answer.result
            self.moved += 1
            if not self.partitions.learn(answer.placements):
                await self._clock.sleep(pause)
                pause = min(2 * pause, MOVED_SECONDS_MAX)

    async def _ask(self, shard: ShardId, name: str, arguments: msgspec.Raw, number: int) -> Answered | NotMine:
        """What a shard answers, in whichever of its lives."""
        link = self._link(self._links, shard)
        lost_ns: int | None = None
        while True:
            answered_below = next(iter(self._unanswered), self._number + 1)
            call = _encode(Call(name, arguments, self.client, number, answered_below))
            try:
                answer: Answered | News | NotMine | Failed = _decode(await link.call(call))
            except PeerLost:
                now_ns = self._clock.monotonic_ns()
                lost_ns = now_ns if lost_ns is None else lost_ns
                if shard >= self.partitions().count:
                    return NotMine([])  # gone for good, with nothing: another one has the partition
                if now_ns - lost_ns > self._patience_seconds * 1e9:
                    raise
                await self._wait_connected(link, lost_ns)
                self.resent += 1
                continue
            assert not isinstance(answer, News)
            if isinstance(answer, Failed):
                raise error_of(answer)
            return answer

    def _link(self, links: dict[ShardId, Link], shard: ShardId) -> Link:
        """The connection to a shard, from when it is first asked for."""
        link = links.get(shard)
        if link is None:
            link = links[shard] = self._make_link(shard)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, link)
        return link

    async def _wait_connected(self, link: Link, lost_ns: int) -> None:
        """Return when there is a connection again, or patience is at its end."""
        left_ns = lost_ns + self._patience_seconds * 1e9 - self._clock.monotonic_ns()
        with trio.move_on_after(max(0.0, left_ns / 1e9) + 0.001):
            await link.wait_connected()
