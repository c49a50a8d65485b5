"""A simulated volume with a bucket in it, for tests of what objects do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from siltstone.core.object_store import ObjectStore
from siltstone.core.volume import Volume
from sim.clock import autojump
from sim.volume import SimVolume, small_config


def in_bucket(body: Callable[[Volume, ObjectStore], Awaitable[None]]) -> None:
    """Run ``body(volume, store)`` on a fresh volume with a bucket."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            store = ObjectStore(volume)
            await store.create_bucket("bucket", owner="me")
            await body(volume, store)

    trio.run(main, clock=autojump())
