"""The other shards, over connections to each.

A Fetch may wait for the end of a transaction, and what ends it must not wait behind: so Fetches have a connection of
their own (docs/decisions/0012), and so has what carries many bytes: partitions that move, and files of these.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from siltstone.meta.shards.link import Link
from siltstone.meta.shards.messages import Copy, Failed, Fetch, ListLent, Message, PeerLost, ReadLent, Release, Reply
from siltstone.types import ShardId

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply | Failed).decode

CONNECT_SECONDS = 0.25
"""How long the first requests to a shard wait for a connection."""

MakeLink = Callable[[ShardId], Link]


class LinkedPeers:
    """The Peers port. Works while ``run`` does."""

    def __init__(self, make_link: MakeLink) -> None:
        self._make_link = make_link
        self._nursery: trio.Nursery | None = None
        self._links: dict[tuple[ShardId, str], Link] = {}
        self._new: set[Link] = set()
        self._scopes: dict[tuple[ShardId, str], trio.CancelScope] = {}

    async def call(self, shard: ShardId, message: Message) -> Reply:
        """The answer of a shard. Raises PeerLost."""
        lane = _lane_of(message)
        link = self._links.get((shard, lane)) or self._connect(shard, lane)
        if link in self._new:
            await self._first_connection(link)
        answer: Reply | Failed = _decode(await link.call(_encode(message)))
        if isinstance(answer, Failed):
            raise PeerLost(f"{link.peer} could not: {answer.message}")
        return answer

    async def run(self) -> None:
        """Keep the connections, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for where in self._links:
                nursery.start_soon(self._keep, *where)
            await trio.sleep_forever()

    def forget(self, shard: ShardId) -> None:
        """A shard is gone for good: let go of the connections to it."""
        for where in [where for where in self._links if where[0] == shard]:
            del self._links[where]
            if where in self._scopes:
                self._scopes[where].cancel()

    async def _keep(self, shard: ShardId, lane: str) -> None:
        link = self._links.get((shard, lane))
        if link is None:
            return  # it was forgotten before it began
        with trio.CancelScope() as scope:
            self._scopes[shard, lane] = scope
            await link.run()

    def _connect(self, shard: ShardId, lane: str) -> Link:
        """A connection to a shard, from when it is first asked for."""
        link = self._links[shard, lane] = self._make_link(shard)
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, shard, lane)
            self._new.add(link)
        return link

    async def _first_connection(self, link: Link) -> None:
        """Wait for it, for a while: a request that failed at once would be sent again only after a pause."""
        with trio.move_on_after(CONNECT_SECONDS):
            await link.wait_connected()
        self._new.discard(link)


def _lane_of(message: Message) -> str:
    match message:
        case Fetch():
            return "fetch"
        case Copy() | ListLent() | ReadLent() | Release():
            return "bytes"
        case _:
            return "rest"
