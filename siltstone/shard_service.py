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
from siltstone.meta.shards.map import MapView, map_of
from siltstone.meta.shards.peers import LinkedPeers
from siltstone.meta.shards.service import serve
from siltstone.ports import Clock
from siltstone.sockets import connect_to, listen_at
from siltstone.types import ShardId


def link_to(home: Home, clock: Clock, shard: ShardId) -> Link:
    """A connection to a shard of a volume on this machine."""
    return Link(f"shard {shard}", partial(connect_to, home.shard_socket(shard)), clock)


class ShardService:
    """A shard of a volume on this machine. ``side`` is there when it has joined.

    The only shard of a volume joins late, or never: when a front-end in another process wants to ask it, or others
    come.
    """

    def __init__(self, home: Home, config: VolumeConfig, shard: ShardId) -> None:
        self.side: Shard
        self.is_serving = False
        self._volume: tuple[Volume, trio.Nursery] | None = None
        self._home = home
        self._shard = shard
        self.partitions = MapView(map_of(config), shard)

    def join(self, volume: Volume, nursery: trio.Nursery) -> None:
        """Make what was opened a shard among others (``open_volume``'s ``join``)."""
        peers = LinkedPeers(partial(link_to, self._home, volume.ledger.clock))
        nursery.start_soon(peers.run)
        self.side = Shard(self._shard, volume, self.partitions, peers, nursery, forget_peer=peers.forget)

    def join_later(self, volume: Volume, nursery: trio.Nursery) -> None:
        """Remember what was opened (``open_volume``'s ``join``), for ``serve_alone``."""
        self._volume = volume, nursery

    async def serve_alone(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Make what was opened a shard, unless it is one, and answer front-ends until cancelled."""
        if self._volume is not None:
            volume, nursery = self._volume
            self._volume = None
            self.join(volume, nursery)
        async with self.serving():
            task_status.started()
            await trio.sleep_forever()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer front-ends and other shards for as long as the context lasts."""
        socket = self._home.shard_socket(self._shard)
        socket.parent.mkdir(parents=True, exist_ok=True)  # shard 0 has nothing else there
        listener = listen_at(socket)

        async def answer(stream: trio.SocketStream) -> None:
            async with self.side.connected() as handle:
                await serve(stream, handle)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            self.is_serving = True
            try:
                yield
            finally:
                self.is_serving = False
                nursery.cancel_scope.cancel()
                socket.unlink(missing_ok=True)
