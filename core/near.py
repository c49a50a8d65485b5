"""A front-end's way to the shards from the process of one of them: what that one has is called, others are asked.

A call about a partition that is here goes through the gate that moves close, as one that came by a socket does. If the
partition goes meanwhile, it is asked for where it went. See docs/decisions/0019.
"""

from __future__ import annotations

import inspect
from typing import Any

import trio

from siltstone.core.caller import Caller
from siltstone.core.calls import METHODS, Method, News, subject_of
from siltstone.core.shard import Shard
from siltstone.core.volume import Volume
from siltstone.meta.shards.messages import NotMine
from siltstone.types import Ino, ShardId

_NAMES = {
    name: list(list(inspect.signature(getattr(method.owner, name)).parameters)[1:]) for name, method in METHODS.items()
}


class NearCaller:
    """The Calls port. ``here``: the shard in this process; ``far``: the way to all."""

    def __init__(self, number: ShardId, here: Shard, volume: Volume, far: Caller) -> None:
        self._number = number
        self._here = here
        self._volume = volume
        self._far = far
        self.run = far.run

    async def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """See Calls."""
        subject = subject_of(arguments or list(named.values()))
        if subject is not None and self._here.owns(subject):
            method = METHODS[name]
            answer = await self._here.call_here(method, _all(method, arguments, named), self._far.client)
            if not isinstance(answer, NotMine):
                return answer
            self._far.partitions.learn(answer.placements)
        return await self._far.call(name, *arguments, **named)

    async def call_on(self, shard: ShardId, name: str) -> Any:
        """See Calls."""
        if shard == self._number:
            return await getattr(self._volume, name)()
        return await self._far.call_on(shard, name)

    async def call_all(self, name: str) -> None:
        """See Calls."""
        async with trio.open_nursery() as nursery:
            for shard in self._far.partitions().shards():
                nursery.start_soon(self.call_on, shard, name)

    async def poll(self, shard: ShardId, session: int, seen: int, let_go: list[Ino]) -> News:
        """See Calls."""
        return await self._far.poll(shard, session, seen, let_go)

    async def end_reads(self, shard: ShardId, leases: list[int]) -> None:
        """See Calls."""
        await self._far.end_reads(shard, leases)

    def forget(self, shard: ShardId) -> None:
        """See Calls."""
        self._far.forget(shard)


def _all(method: Method, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(_NAMES[method.name], arguments, strict=False)) | named
