"""HOME's own disk gives no answer: what is acknowledged is safe in the log, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.errors import Unavailable
from siltstone.limits import MIB
from siltstone.types import ROOT_INO
from sim.clock import autojump
from sim.volume import SimVolume, small_config

LIMIT = small_config().disk_timeout


class Files:
    """Small files that were written and synced; all that was acknowledged."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self._serial = 0

    async def write(self, volume: Volume, size: int = 3000) -> None:
        """One more, durable on return. Raises what keeps it from that, and then it may be there or not."""
        name = b"f%d" % self._serial
        self._serial += 1
        ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
        data = Random(self._serial).randbytes(size)
        await volume.write(ino, 0, data)
        await volume.fsync(ino)
        self.data[name] = data

    async def write_until_refused(self, volume: Volume, size: int = 3000) -> Unavailable:
        """As many as go; every one must take less than a little more than the limit."""
        for _ in range(10_000):
            try:
                with trio.fail_after(LIMIT * 1.5):
                    await self.write(volume, size)
            except Unavailable as error:
                return error
        raise AssertionError("there is no end to what the memory takes")

    async def compare(self, volume: Volume) -> None:
        """All of them are there."""
        for name, data in self.data.items():
            ino = (await volume.lookup(ROOT_INO, name)).ino
            assert await volume.read(ino, 0, MIB) == data


def run(body: Callable[[SimVolume], Awaitable[None]]) -> None:
    async def main() -> None:
        world = SimVolume(small_config(), seed=5)
        await world.create()
        with trio.fail_after(2000):
            await body(world)

    trio.run(main, clock=autojump())


def hang(world: SimVolume) -> None:
    world.backing.gated = True


def go_on(world: SimVolume) -> None:
    world.backing.gated = False
    world.backing.open_gate()


def test_writes_go_on_in_memory_and_then_fail_with_what_is_the_matter_until_home_answers() -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            volume.ledger.store._memtable_bytes_max = 40_000
            await files.write(volume)
            hang(world)
            before = len(files.data)
            error = await files.write_until_refused(volume)
            assert "does the disk that HOME is on hang" in str(error) and "\n" not in str(error)
            assert len(files.data) - before > 20, "what fits into memory is taken"
            await files.compare(volume)
            assert any("disk that HOME is on" in warning for warning in volume.status().warnings)
            with trio.fail_after(LIMIT / 2), pytest.raises(Unavailable, match="HOME"):
                await files.write(volume)  # nobody waits for the limit again
            with trio.fail_after(LIMIT * 2), pytest.raises(Unavailable, match="HOME"):
                await volume.settle()
            go_on(world)
            await trio.sleep(3)
            assert not any("HOME" in warning for warning in volume.status().warnings)
            await files.write(volume)
            await volume.settle()
            await files.compare(volume)
            assert await fsck(volume, deep=True) == []

    run(body)


def test_a_log_that_cannot_get_shorter_refuses_writers() -> None:
    """Payload takes little memory: it is the log that is full first."""

    async def body(world: SimVolume) -> None:
        files = Files()
        async with world.opened() as volume:
            await files.write(volume)
            hang(world)
            await trio.sleep(3)  # an apply is under way
            for _ in range(3):
                error = await files.write_until_refused(volume, 200_000)
            assert "the log is full, and cannot get shorter: the metadata in HOME could not be written" in str(error)
            await volume.unlink(ROOT_INO, next(iter(files.data)))  # deletes pass
            del files.data[next(iter(files.data))]
            go_on(world)
            await trio.sleep(5)
            await files.write(volume, 200_000)
            await files.compare(volume)

    run(body)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_volume_whose_home_hangs_can_be_closed_and_nothing_acknowledged_is_lost(is_lost: bool) -> None:
    async def body(world: SimVolume) -> None:
        files = Files()
        with trio.fail_after(LIMIT * 4):
            async with world.opened() as volume:
                await files.write(volume)
                await volume.settle()
                hang(world)
                for _ in range(20):
                    await files.write(volume)
        if is_lost:
            await world.lose_home()
        else:
            world.backing.gated = False
            world.backing = world.backing.crash()
        async with world.opened() as volume:
            await files.compare(volume)
            assert await fsck(volume, deep=True) == []

    run(body)
