"""Reads of files whose bytes lie in many places."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from siltstone.core.reader import FETCHES_TOGETHER
from siltstone.core.volume import Volume
from siltstone.errors import Corrupt
from siltstone.limits import KIB
from siltstone.meta import extents
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config

PIECES = 24
PIECE_BYTES = 16 * KIB
READ_SECONDS = 0.01

Body = Callable[[SimVolume, Volume, Ino, bytes], Awaitable[None]]


def with_fragments(body: Body, *, is_settled: bool) -> None:
    """Run ``body`` with a file of so many extents."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            ino = (await volume.create(ROOT_INO, b"file", mode=0o100644, uid=0, gid=0)).ino
            other = (await volume.create(ROOT_INO, b"other", mode=0o100644, uid=0, gid=0)).ino
            expected = b""
            for number in range(PIECES):
                data = bytes([number + 1]) * PIECE_BYTES
                # What lies between two pieces keeps them from being one extent.
                for target in (ino, other):
                    await volume.write(target, number * PIECE_BYTES, data)
                    await volume.fsync(target)
                    if is_settled and target == ino:
                        await volume.settle()
                expected += data
            assert len(extents.find(volume.ledger.store, ino, 0, len(expected))) == PIECES
            await body(world, volume, ino, expected)

    trio.run(main, clock=autojump())


async def timed_read(volume: Volume, ino: Ino, expected: bytes) -> float:
    """Read a whole file; how long it took."""
    started = trio.current_time()
    assert await volume.read(ino, 0, len(expected)) == expected
    return trio.current_time() - started


@pytest.mark.parametrize("is_settled", [False, True])
def test_what_lies_in_many_places_is_fetched_side_by_side_but_not_all_at_once(is_settled: bool) -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino, expected: bytes) -> None:
        for disk in world.disks:
            disk.slow(READ_SECONDS, "read")
        rounds = PIECES / FETCHES_TOGETHER
        assert await timed_read(volume, ino, expected) == pytest.approx(rounds * READ_SECONDS)

    with_fragments(body, is_settled=is_settled)


def test_what_is_at_hand_does_not_wait_for_the_rest() -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino, expected: bytes) -> None:
        world.disks[0].slow(READ_SECONDS, "read")
        assert await timed_read(volume, ino, expected) <= READ_SECONDS * PIECES / FETCHES_TOGETHER
        part = expected[100 : 7 * PIECE_BYTES + 50]
        assert await volume.read(ino, 100, len(part)) == part

    with_fragments(body, is_settled=True)


def test_a_piece_that_cannot_be_read_fails_the_read_with_its_own_error() -> None:
    async def body(world: SimVolume, volume: Volume, ino: Ino, expected: bytes) -> None:
        piece = expected[3 * PIECE_BYTES : 4 * PIECE_BYTES]
        for disk in world.disks:
            for name in disk.names:
                if name.startswith("log/") and (place := disk.contents(name).find(piece)) >= 0:
                    disk.rot(name, place + 5)
            disk.slow(READ_SECONDS, "read")
        with pytest.raises(Corrupt):
            await volume.read(ino, 0, len(expected))

    with_fragments(body, is_settled=False)
