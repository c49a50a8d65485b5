"""Settling beside everything else that happens: no byte is lost, and what cannot be settled stops nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio

from siltstone.core.carrier import Carrier
from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.snapshots import SEGMENTS_MAX
from siltstone.core.volume import Volume
from siltstone.errors import Corrupt, SiltstoneError
from siltstone.limits import MIB
from siltstone.meta import extents, keys
from siltstone.types import ROOT_INO, Lsn
from sim.clock import autojump
from sim.disk import SimDisk
from sim.volume import SimVolume, small_config

Body = Callable[[SimVolume, Volume], Awaitable[None]]


def with_volume(body: Body, *, disk_count: int = 6, data_units: int = 4, parity_units: int = 2) -> None:
    """Run ``body`` with a fresh volume in simulation."""

    async def main() -> None:
        config = small_config(disk_count=disk_count, data_units=data_units, parity_units=parity_units)
        world = SimVolume(config)
        await world.create()
        async with world.opened() as volume:
            await body(world, volume)

    trio.run(main, clock=autojump())


async def put(store: ObjectStore, key: bytes, data: bytes) -> None:
    """An object of the bucket."""
    writer = await store.begin_put("bucket", key)
    await writer.write(data)
    await writer.commit(PutAttributes(etag="0"))


async def get(store: ObjectStore, key: bytes) -> bytes:
    """What is there."""
    reader = await store.open("bucket", key)
    try:
        return await reader.read(0, MIB)
    finally:
        reader.close()


@pytest.mark.parametrize("deleted", [b"a", b"b", b"c"])
def test_a_clone_keeps_its_bytes_when_another_goes_while_they_settle(
    deleted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other = Random(1).randbytes(3000), Random(2).randbytes(3000)
    carry = Carrier.carry

    async def body(_: SimVolume, volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        await put(store, b"a", shared)
        await put(store, b"b", other)
        await store.copy("bucket", b"a", "bucket", b"c", None)
        expected = {b"a": shared, b"b": other, b"c": shared}

        async def delete_first(*arguments: object, **options: object) -> object:
            await store.delete("bucket", deleted)
            expected.pop(deleted, None)
            return await carry(*arguments, **options)  # type: ignore[arg-type]

        # It is planned what shares a stripe, then it goes, then the plan is carried out.
        monkeypatch.setattr(Carrier, "carry", delete_first)
        await volume.settle()
        assert volume.status().log_live_bytes == 0
        for key, data in expected.items():
            assert await get(store, key) == data
        assert await fsck(volume, deep=True) == []

    with_volume(body)


def test_what_cannot_be_read_keeps_nothing_else_in_the_log() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        inos = []
        for name in (b"x", b"y", b"z"):
            inos.append((await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino)
            await volume.write(inos[-1], 0, name * 5000)
            await volume.fsync(inos[-1])
        _, damaged = extents.find(volume.ledger.store, inos[0], 0, 1)[0]
        (disk,) = world.disks
        (segment,) = (
            name
            for name in disk.names
            if name.startswith("log/") and damaged.address < 1 * MIB and b"xxxx" in disk.contents(name)
        )
        disk.rot(segment, disk.contents(segment).index(b"x" * 5000))
        with pytest.raises(Corrupt):
            await volume.settle()
        assert volume.status().log_live_bytes == 5000
        for ino, name in zip(inos[1:], (b"y", b"z"), strict=True):
            assert await volume.read(ino, 0, 9000) == name * 5000
        with pytest.raises(SiltstoneError):
            await volume.read(inos[0], 0, 9000)
        assert [
            str(reference) for reference, _ in extents.log_references(volume.ledger.store, Lsn(0), Lsn(1 << 60))
        ] == [str(keys.Reference(damaged.address, 0, inos[0], 0))]

    with_volume(body, disk_count=1, data_units=1, parity_units=0)


async def write_small_files(volume: Volume, numbers: range) -> Lsn:
    """Files whose bytes ride in the log; returns where the segment that holds the last of them ends, now sealed."""
    for number in numbers:
        ino = (await volume.create(ROOT_INO, b"small%d" % number, mode=0o100644, uid=0, gid=0)).ino
        await volume.write(ino, 0, Random(number).randbytes(60_000))
    await volume.sync()
    await volume.ledger.log.seal()
    return volume.ledger.log.segments()[-2].end


def kept_up_to(volume: Volume) -> Lsn:
    """Where the newest sealed segment ends that the log still has."""
    return max((segment.end for segment in volume.ledger.log.segments() if segment.sealed), default=Lsn(0))


def test_a_segment_stays_until_lmdb_has_its_metadata() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        await trio.sleep(3)  # what opening left is applied
        world.backing.gated = True
        try:
            for number in range(SEGMENTS_MAX + 1):  # so many that they would go at once
                await volume.mkdir(ROOT_INO, b"d%d" % number, mode=0o755, uid=0, gid=0)
                await volume.sync()
                await volume.ledger.log.seal()
            end = volume.ledger.log.segments()[-2].end
            await trio.sleep(10)
            assert volume.ledger.store.applied_lsn < end and kept_up_to(volume) == end
        finally:
            world.backing.gated = False
            world.backing.open_gate()
        await trio.sleep(10)
        assert kept_up_to(volume) < end

    with_volume(body)


def test_a_segment_stays_until_it_is_durable_that_its_payload_has_moved() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        def slow_down(disk: SimDisk, operation: str, name: str) -> None:
            if operation == "write" and name.startswith("slab/"):
                for other in world.disks:
                    other.on_operation = None
                    other.slow(20.0, "write", "log/")

        end = await write_small_files(volume, range(10))
        for disk in world.disks:
            disk.on_operation = slow_down
        await write_small_files(volume, range(10, 20))  # more than the low-water mark: the background settles
        await trio.sleep(8)
        assert volume.status().settled_bytes and volume.status().log_durable_lsn < volume.status().log_lsn
        assert any(segment.end == end for segment in volume.ledger.log.segments())
        await trio.sleep(60)
        assert not any(segment.end == end for segment in volume.ledger.log.segments())

    with_volume(body)


def test_a_segment_stays_as_long_as_a_read_may_be_on_its_way_to_it() -> None:
    async def body(_: SimVolume, volume: Volume) -> None:
        end = await write_small_files(volume, range(3))
        era = volume.ledger.fence.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.settle)
            await trio.sleep(10)
            assert volume.status().log_live_bytes == 0 and any(
                segment.end == end for segment in volume.ledger.log.segments()
            )
            volume.ledger.fence.leave(era)
        assert not any(segment.end == end for segment in volume.ledger.log.segments())

    with_volume(body)
