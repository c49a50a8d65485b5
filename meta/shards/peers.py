"""The other shards, over connections to each.

A Fetch may wait for the end of a transaction, and what ends it must not wait behind: so Fetches have a connection of
their own (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import trio

from siltstone.meta.shards.link import Link
from siltstone.meta.shards.messages import Failed, Fetch, Message, PeerLost, Reply
from siltstone.types import ShardId

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply | Failed).decode

MakeLink = Callable[[ShardId], Link]


class LinkedPeers:
    """The Peers port. Works while ``run`` does."""

    def __init__(self, shards: Iterable[ShardId], make_link: MakeLink) -> None:
        self._fetching = {shard: make_link(shard) for shard in shards}
        self._others = {shard: make_link(shard) for shard in self._fetching}

    async def call(self, shard: ShardId, message: Message) -> Reply:
        """The answer of a shard. Raises PeerLost."""
        links = self._fetching if isinstance(message, Fetch) else self._others
        answer: Reply | Failed = _decode(await links[shard].call(_encode(message)))
        if isinstance(answer, Failed):
            raise PeerLost(f"{links[shard].peer} could not: {answer.message}")
        return answer

    async def run(self) -> None:
        """Keep the connections, for ever."""
        async with trio.open_nursery() as nursery:
            for link in (*self._fetching.values(), *self._others.values()):
                nursery.start_soon(link.run)
