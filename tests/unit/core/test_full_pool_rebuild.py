"""A full pool that loses a disk: it is rebuilt onto a spare one; without one the volume stays of use, and says why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.engine.pool import DiskRole
from siltstone.errors import NoSpace, Refused
from siltstone.limits import KIB, MIB
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId
from sim.clock import autojump
from sim.volume import SimVolume, small_config

CAPACITY = 24 * MIB
DATA = bytes(range(251)) * 20_000
LOST = DiskId(2)


class FullPool:
    """A volume that is filled up, and what is in it."""

    def __init__(self, disk_count: int) -> None:
        config = small_config(disk_count=disk_count)
        # Segments and chunks are to the disks about as they are in life.
        config = msgspec.structs.replace(
            config,
            segment_bytes=256 * KIB,
            log_bytes_low=256 * KIB,
            log_bytes_high=1 * MIB,
            rebuild_grace=20.0,
        )
        self.sim = SimVolume(config, capacity_bytes=CAPACITY)
        self.files: dict[bytes, bytes] = {}
        self.serial = 0

    async def write(self, volume: Volume, size: int) -> None:
        """A new durable file; raises NoSpace, with nothing left of it."""
        self.serial += 1
        name, data = b"%d" % self.serial, DATA[self.serial : self.serial + size]
        ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
        try:
            await volume.write(ino, 0, data)
            await volume.fsync(ino)
        except NoSpace:
            await volume.set_attributes(ino, SetAttributes(size=0))
            await volume.unlink(ROOT_INO, name)
            raise
        self.files[name] = data
        await trio.sleep(0.1)  # disks are looked at each second, and no faster is a disk filled in life

    async def fill(self, volume: Volume) -> None:
        """Write large and small files until no byte more is taken."""
        for size in (1 * MIB, 300 * KIB, 20_000, 4 * KIB):
            while True:
                try:
                    await self.write(volume, size)
                except NoSpace:
                    break

    async def delete(self, volume: Volume, count: int) -> int:
        """Delete some of the largest files; returns their bytes."""
        size = 0
        for name in sorted(self.files, key=lambda name: -len(self.files[name]))[:count]:
            await volume.unlink(ROOT_INO, name)
            size += len(self.files.pop(name))
        return size

    async def compare(self, volume: Volume) -> None:
        for name, data in self.files.items():
            assert await volume.read((await volume.lookup(ROOT_INO, name)).ino, 0, 2 * MIB) == data

    async def lose(self, volume: Volume) -> None:
        self.sim.disks[LOST].disappear()
        await volume.ledger.pool.probe()
        await trio.sleep(3)

    def add_disk(self, volume: Volume) -> DiskId:
        disk = self.sim.make_disk()
        self.sim.set_role(disk.disk_id, "new")
        volume.ledger.pool.add(disk, DiskRole.NEW)
        return disk.disk_id


def disks_in_use(volume: Volume) -> set[DiskId]:
    return {disk_id for _, slab in space.slabs(volume.ledger.store) for disk_id in slab.disks}


def run(body: Callable[[FullPool, Volume], Awaitable[None]], *, disk_count: int = 6) -> None:
    async def main() -> None:
        pool = FullPool(disk_count)
        await pool.sim.create()
        async with pool.sim.opened() as volume:
            await pool.fill(volume)
            await body(pool, volume)
            await pool.compare(volume)
            assert await fsck(volume, deep=True) == []
        async with pool.sim.opened() as volume:
            await pool.compare(volume)

    trio.run(main, clock=autojump())


async def use(pool: FullPool, volume: Volume) -> None:
    """Everything that makes room, or needs none, goes on."""
    await pool.compare(volume)
    name = max(pool.files, key=lambda name: len(pool.files[name]))
    await volume.set_attributes((await volume.lookup(ROOT_INO, name)).ino, SetAttributes(size=1000))
    pool.files[name] = pool.files[name][:1000]
    await pool.delete(volume, 2)
    await volume.sync()
    await trio.sleep(15)
    await volume.settle()
    await pool.compare(volume)


def test_a_full_pool_is_rebuilt_onto_a_spare_disk() -> None:
    async def body(pool: FullPool, volume: Volume) -> None:
        await pool.lose(volume)
        pool.add_disk(volume)
        await volume.rebuild()
        assert LOST not in disks_in_use(volume)
        await use(pool, volume)
        pool.sim.disks[LOST].return_()
        await trio.sleep(20)

    run(body)


def test_a_full_pool_with_room_for_no_chunk_file_says_so_and_goes_on_when_something_is_deleted() -> None:
    """Seven disks: every slab has a disk that it does not use, but all of them are full."""

    async def body(pool: FullPool, volume: Volume) -> None:
        await pool.lose(volume)
        with pytest.raises(Refused, match="no other disk has room"):
            await volume.rebuild()
        assert any("no other disk has room" in warning for warning in volume.status().warnings)
        await use(pool, volume)
        await pool.delete(volume, len(pool.files) // 3)
        await trio.sleep(60)
        await volume.rebuild()
        assert LOST not in disks_in_use(volume)
        await pool.write(volume, MIB)
        pool.sim.disks[LOST].return_()
        await trio.sleep(20)

    run(body, disk_count=7)


def test_a_full_pool_without_a_spare_disk_waits_for_room_and_takes_writes_when_there_is_some() -> None:
    async def body(pool: FullPool, volume: Volume) -> None:
        await pool.lose(volume)
        with pytest.raises(Refused, match="add a disk"):
            await volume.rebuild()
        assert any("add a disk" in warning for warning in volume.status().warnings)
        with pytest.raises(NoSpace):
            await pool.write(volume, MIB)
        await use(pool, volume)
        freed = await pool.delete(volume, len(pool.files) * 2 // 3)
        await trio.sleep(60)
        assert (await volume.space()).available_bytes > freed // 3
        await pool.write(volume, MIB)
        await pool.write(volume, 5000)
        await trio.sleep(120)
        assert LOST not in disks_in_use(volume), "what there is room for is written anew, narrower"
        await volume.rebuild()
        pool.sim.disks[LOST].return_()
        await trio.sleep(20)

    run(body)


def test_a_full_worn_pool_that_loses_a_disk_moves_little_though_writers_wait_for_room() -> None:
    """Rows of slabs that lost a disk are of no use to anybody, and what is carried to narrower stripes fills their
    rows: else the copies were as worn as what they came of, and were moved again and again."""

    async def main() -> None:
        pool = FullPool(6)
        await pool.sim.create()
        async with pool.sim.opened() as volume:
            for _ in range(900):
                await pool.write(volume, 6000)
            await volume.settle()
            small = list(pool.files)
            await pool.fill(volume)
            await volume.settle()
            for name in small[::3]:
                await volume.unlink(ROOT_INO, name)
                del pool.files[name]
            before = volume.relocator.relocated_bytes
            await pool.lose(volume)
            await pool.delete(volume, 8)
            refusals = 0
            for second in range(40):
                if second == 25:
                    pool.sim.disks[LOST].return_()
                await trio.sleep(1)
                try:
                    await pool.write(volume, 300 * KIB)
                except NoSpace:
                    refusals += 1
                assert volume.relocator.relocated_bytes - before < 4 * MIB
            assert refusals, "writers waited for room"
            await pool.compare(volume)
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())
