"""Files without a name go, whatever they look like, and hold up nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from siltstone.core.fsck import fsck
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config

Body = Callable[[Volume], Awaitable[None]]


def with_volume(body: Body) -> None:
    """Run ``body`` with a fresh volume in simulation."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await body(volume)

    trio.run(main, clock=autojump())


async def make_scattered(volume: Volume, name: bytes, extents: int) -> Ino:
    """A file of so many extents of one byte, with holes between them."""
    ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
    for index in range(extents):
        await volume.write(ino, index * 10, b"x")
    await volume.flush(ino)
    return ino


def test_a_small_file_of_many_extents_can_be_unlinked_and_replaced() -> None:
    async def body(volume: Volume) -> None:
        await make_scattered(volume, b"a", 1000)
        await make_scattered(volume, b"b", 1000)
        await make_scattered(volume, b"c", 3)
        await volume.unlink(ROOT_INO, b"a")
        await volume.rename(ROOT_INO, b"c", ROOT_INO, b"b")
        await trio.sleep(1)
        assert volume.status().inodes == 2
        assert await fsck(volume) == []

    with_volume(body)


def test_others_run_between_the_steps_of_a_long_purge_or_truncate() -> None:
    async def body(volume: Volume) -> None:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        purged = await make_scattered(volume, b"a", 3000)
        cut = await make_scattered(volume, b"b", 3000)
        volume.orphans.hold(purged)
        await volume.unlink(ROOT_INO, b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await trio.lowlevel.checkpoint()
            turns = 0
            await volume.set_attributes(cut, SetAttributes(size=0))
            assert turns >= 10, "a truncate of 3000 extents takes 12 steps"
            turns = 0
            volume.orphans.let_go(purged)
            while volume.status().inodes > 2:
                await trio.lowlevel.checkpoint()
            assert turns >= 10
            nursery.cancel_scope.cancel()

    with_volume(body)
