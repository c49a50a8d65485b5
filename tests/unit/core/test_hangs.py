"""A volume of which a disk hangs: what lands late never lands on what was given to somebody else (invariant T12)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.meta import space
from siltstone.types import ROOT_INO, Ino, slab_of
from sim.clock import autojump
from sim.volume import SimVolume, small_config

PROBATION_SECONDS = 20
LARGE = 300_000
"""Goes to a stripe at once; the chunk files of a slab have room for three."""


def run(body: Callable[[SimVolume, Volume], Awaitable[None]]) -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await body(world, volume)

    trio.run(main, clock=autojump())


async def write(volume: Volume, name: bytes, size: int) -> tuple[Ino, bytes]:
    """A durable file of random bytes."""
    data = random.Random(name).randbytes(size)
    made = await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)
    await volume.write(made.ino, 0, data)
    await volume.fsync(made.ino)
    return made.ino, data


def slabs_of(volume: Volume) -> dict[int, tuple[int, ...]]:
    """The disks of each slab that has a stripe."""
    slabs = dict(space.slabs(volume.ledger.store))
    used = {slab_of(stripe_id) for stripe_id, _ in space.stripes(volume.ledger.store)}
    return {slab_id: tuple(slabs[slab_id].disks) for slab_id in used}


def state(volume: Volume, disk_id: int) -> str:
    """A disk's, as status shows it."""
    return volume.status().disks[disk_id].state


@pytest.mark.parametrize("call", ["write", "flush"])
def test_units_that_land_late_damage_nothing_that_was_written_meanwhile(call: str) -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        files = [await write(volume, b"before", LARGE)]
        hang = world.disks[0].hang(call, "slab/")
        await write(volume, b"stuck", LARGE)
        # Its bytes are on other disks now. With them gone, what is stuck is like nothing that the volume has.
        await volume.unlink(ROOT_INO, b"stuck")
        files.append(await write(volume, b"after", LARGE))
        # For as long as it is stuck, however long that is.
        await trio.sleep(10 * PROBATION_SECONDS)
        assert hang.fired and state(volume, 0) == "failed"
        files += [await write(volume, b"later %d" % number, LARGE) for number in range(3)]
        late = [disks for disks in slabs_of(volume).values() if 0 not in disks]
        assert late, "what was written meanwhile is on other disks"
        world.disks[0].release()
        assert world.disks[0].late_effects
        await trio.sleep(PROBATION_SECONDS)
        assert state(volume, 0) == "up"
        assert await fsck(volume, deep=True) == []
        # Its rows are free again, and used.
        files += [await write(volume, b"again %d" % number, LARGE) for number in range(3)]
        assert await fsck(volume, deep=True) == []
        for ino, data in files:
            assert await volume.read(ino, 0, len(data)) == data
        assert volume.status().repaired_blocks == 0

    run(body)


def test_a_log_goes_on_without_a_disk_that_hangs_and_every_fsync_is_kept() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        (segment,) = volume.ledger.log.segments()[-1:]
        hung = world.disks[segment.disks[0]]
        hung.hang("flush", "log/")
        started = trio.current_time()
        files = [await write(volume, b"small %d" % number, 2000) for number in range(20)]
        assert trio.current_time() - started < 2 * world.config.disk_timeout, "the limit is waited for once"
        assert hung.disk_id not in volume.ledger.log.segments()[-1].disks
        hung.release()
        await trio.sleep(PROBATION_SECONDS)
        assert not volume.status().log_is_degraded
        for ino, data in files:
            assert await volume.read(ino, 0, len(data)) == data
        assert await fsck(volume, deep=True) == []

    run(body)


def test_a_volume_is_opened_and_closed_with_disks_that_hang() -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        limit = world.config.disk_timeout
        async with world.opened() as volume:
            ino, data = await write(volume, b"a", LARGE)
        for disk in world.disks[:2]:
            disk.hang()
        with trio.fail_after(10 * limit):
            async with world.opened() as volume:
                assert [state(volume, disk_id) for disk_id in range(3)] == ["failed", "failed", "up"]
                assert await volume.read(ino, 0, LARGE) == data
                world.disks[0].release()
                world.disks[1].release()
                await trio.sleep(PROBATION_SECONDS)
                assert {disk.state for disk in volume.status().disks} == {"up"}
                world.disks[2].hang()
                ino, data = await write(volume, b"b", LARGE)
        world.disks[2].heal()
        async with world.opened() as volume:
            assert await volume.read(ino, 0, LARGE) == data

    trio.run(main, clock=autojump())
