"""Serving a shard on its socket, and the way to the sockets of others: in the owner's process and those it starts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import trio

from siltstone.config import VolumeConfig
from siltstone.core.shard import Shard
from siltstone.core.volume import Volume
from siltstone.home import Home
from siltstone.meta.shards.link import Link
from siltstone.meta.shards.map import map_of
from siltstone.meta.shards.peers import LinkedPeers
from siltstone.meta.shards.service import serve
from siltstone.ports import Clock
from siltstone.sockets import connect_to, listen_at
from siltstone.types import ShardId


def link_to(home: Home, clock: Clock, shard: ShardId) -> Link:
    """A connection to a shard of a volume on this machine."""
    return Link(f"shard {shard}", partial(connect_to, home.shard_socket(shard)), clock)


@contextlib.asynccontextmanager
async def served(home: Home, config: VolumeConfig, shard: ShardId, volume: Volume) -> AsyncIterator[Shard]:
    """Answer front-ends and other shards for as long as the context lasts."""
    partitions = map_of(config)
    others = [ShardId(other) for other in range(config.shards) if other != shard]
    async with trio.open_nursery() as nursery:
        peers = LinkedPeers(others, partial(link_to, home, volume.ledger.clock))
        nursery.start_soon(peers.run)
        side = Shard(shard, volume, lambda: partitions, peers, nursery)
        socket = home.shard_socket(shard)
        socket.parent.mkdir(parents=True, exist_ok=True)  # shard 0 has nothing else there
        listener = listen_at(socket)

        async def answer(stream: trio.SocketStream) -> None:
            await serve(stream, side.handle)

        nursery.start_soon(trio.serve_listeners, answer, [listener])
        try:
            yield side
        finally:
            nursery.cancel_scope.cancel()
            socket.unlink(missing_ok=True)
