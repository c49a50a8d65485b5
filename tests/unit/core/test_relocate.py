"""Relocation: room comes of worn stripes, narrow stripes get their width back, and what lost a disk finds others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.carrier import Carrier
from siltstone.core.fsck import fsck
from siltstone.core.packing import Movable
from siltstone.core.reader import Reader
from siltstone.core.volume import Volume
from siltstone.core.worn import DEAD_BYTES_MIN, DEAD_SHARE_MIN, WornStripes, use_of
from siltstone.engine.stripe.store import Tier
from siltstone.limits import KIB, MIB, SLOT_BYTES
from siltstone.meta import space
from siltstone.meta.records import Place
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.volume import SimVolume, small_config

Body = Callable[[SimVolume, Volume], Awaitable[None]]


def run(body: Body, *, capacity_bytes: int = 64 * MIB, grace: float = 600.0, seed: int = 0) -> None:
    async def main() -> None:
        config = msgspec.structs.replace(small_config(), rebuild_grace=grace)
        world = SimVolume(config, capacity_bytes=capacity_bytes, seed=seed)
        await world.create()
        async with world.opened() as volume:
            await body(world, volume)

    trio.run(main, clock=autojump())


async def write(volume: Volume, name: bytes, data: bytes) -> Ino:
    ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
    await volume.write(ino, 0, data)
    await volume.fsync(ino)
    return ino


async def compare(volume: Volume, files: dict[Ino, bytes]) -> None:
    for ino, data in files.items():
        assert b"".join([await volume.read(ino, at, MIB) for at in range(0, len(data), MIB)]) == data


def test_what_is_rewritten_to_the_same_rows_while_it_is_carried_keeps_its_new_bytes() -> None:
    """Its extent looks as it did when it was read: the same place in the same stripe, of which the rows were used again
    in between. Only that rows with a reader stay taken tells them apart."""

    async def body(world: SimVolume, volume: Volume) -> None:
        size = 256 * KIB
        ino = await write(volume, b"a", bytes([1]) * size)
        chunk = [
            Movable(reference, length)
            for stripe_id, _ in space.stripes(volume.ledger.store)
            for reference, length in space.stripe_references(volume.ledger.store, stripe_id)
        ]
        carrier = Carrier(volume.ledger, Reader(volume.ledger), stripe_bytes=volume.ledger.stripes.stripe_bytes_max)
        blocked = trio.Event()
        write_runs = volume.ledger.stripes.write_runs

        async def write_slowly(*arguments: Any, **named: Any) -> Any:
            await blocked.wait()
            return await write_runs(*arguments, **named)

        async def carry() -> None:
            volume.ledger.stripes.write_runs = write_slowly  # type: ignore[method-assign]
            await carrier.carry(chunk, Place.STRIPE, Tier.RELOCATE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            await trio.sleep(0.1)
            volume.ledger.stripes.write_runs = write_runs  # type: ignore[method-assign]
            for value in range(2, 8):
                await volume.write(ino, 0, bytes([value]) * size)
                await volume.fsync(ino)
                await trio.sleep(2)  # the rows before come free, unless somebody may still read them
                used_again = [stripe_id for stripe_id, _ in space.stripes(volume.ledger.store)]
                if [reference.address for reference, _ in chunk] == used_again:
                    break
            blocked.set()
        assert await volume.read(ino, 0, size) == bytes([value]) * size

    run(body)


def test_a_brief_look_leaves_stripes_for_the_next_ones() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        ino = await write(volume, b"a", bytes(3 * MIB))
        for offset in range(0, 3 * MIB, 8 * KIB):
            await volume.write(ino, offset, b"x" * 4096)
        await volume.flush(ino)
        worn = WornStripes(volume.ledger.store)
        for stripe_id, _ in space.stripes(volume.ledger.store):
            worn.note(stripe_id)
        found = []
        for _ in range(10):
            worn.look(briefly=True)
            found.append(worn.dead_bytes)
        assert 0 < found[0] < found[-1]
        worn.look()
        assert worn.dead_bytes == found[-1] >= 1.5 * MIB

    run(body)


@given(seed=st.integers(0, 9999))
@settings(max_examples=15, deadline=None)
def test_the_index_of_worn_stripes_is_what_a_look_at_everything_finds(seed: int) -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        random = Random(seed)
        inos = [
            await write(volume, b"%d" % index, random.randbytes(random.choice([500, 9000, 300 * KIB, 2 * MIB])))
            for index in range(20)
        ]
        await volume.settle()
        for ino in random.sample(inos, 12):
            start = random.randrange(0, 9000)
            await volume.write(ino, start, random.randbytes(random.choice([100, 5000, 300 * KIB])))
            await volume.fsync(ino)
        for index in random.sample(range(20), 5):
            await volume.unlink(ROOT_INO, b"%d" % index)
        await volume.settle()
        worn = volume.ledger.worn
        worn.look()
        expected: dict[int, int] = {}
        slabs = dict(space.slabs(volume.ledger.store))
        for stripe_id, stripe in space.stripes(volume.ledger.store):
            capacity = slabs[stripe_id >> 16].data_units * stripe.unit_bytes  # type: ignore[index]
            used = bytearray(capacity)
            for reference, length in space.stripe_references(volume.ledger.store, stripe_id):
                start = reference.skip // SLOT_BYTES * SLOT_BYTES
                end = -(-(reference.skip + length) // SLOT_BYTES) * SLOT_BYTES
                used[start:end] = b"\1" * (end - start)
            dead = used.count(0)
            use = use_of(volume.ledger.store, stripe_id, capacity)
            assert sum(end - start for start, end in use.dead) == dead
            assert all(not any(used[start:end]) for start, end in use.dead)
            if dead >= DEAD_BYTES_MIN:
                expected[stripe_id] = dead
        known = [*worn.short(), *worn.long()]
        found = {item.stripe_id: item.dead_bytes for item in known}
        assert len(known) == len(found) and found == expected
        victims = list(worn.victims(volume.ledger.now_s()))
        assert len(victims) == len(set(victims))
        assert set(victims) == {item for item in known if item.dead_bytes * DEAD_SHARE_MIN >= item.capacity}
        assert worn.dead_bytes == sum(expected.values())
        shares = [item.dead_bytes * 16 // item.capacity for item in worn.short()]
        assert shares == sorted(shares, reverse=True)

    run(body, seed=seed)


def test_a_full_pool_with_holes_takes_small_writes_in_them_and_large_ones_where_stripes_were_emptied() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        random = Random(1)
        files: dict[Ino, bytes] = {}
        names: dict[Ino, bytes] = {}
        for index in range(10_000):
            if (await volume.space()).available_bytes < 500 * KIB:
                break
            data = random.randbytes(6000)
            ino = await write(volume, b"%d" % index, data)
            files[ino], names[ino] = data, b"%d" % index
            if index % 100 == 99:
                await volume.settle()
                await trio.sleep(1)
        await volume.settle()
        for ino in random.sample(sorted(files), len(files) // 3):
            await volume.unlink(ROOT_INO, names[ino])
            del files[ino]
        await volume.sync()
        await trio.sleep(2)
        for index in range(300):
            data = random.randbytes(6000)
            files[await write(volume, b"n%d" % index, data)] = data
        await volume.settle()
        assert volume.status().filled_bytes > 0
        before = volume.relocator.relocated_bytes
        for index in range(4):
            data = random.randbytes(400_000)
            files[await write(volume, b"l%d" % index, data)] = data
        assert volume.relocator.relocated_bytes > before
        await compare(volume, files)
        assert await fsck(volume, deep=True) == []

    run(body, capacity_bytes=8 * MIB + 512 * KIB)


def test_dead_places_that_nothing_fits_are_not_counted_as_room() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        for index in range(200):
            await write(volume, b"%d" % index, bytes([index]) * 700)
        await volume.settle()
        for index in range(0, 200, 2):
            await volume.unlink(ROOT_INO, b"%d" % index)
        volume.ledger.worn.look()
        assert volume.ledger.worn.dead_bytes > 50_000
        assert volume.ledger.worn.hole_bytes < 16 * KIB, "what is left of the last row"

    run(body)


def test_narrow_stripes_get_their_width_when_disks_return() -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        for index in (1, 4):
            world.disks[index].disappear()
        await trio.sleep(2)
        random = Random(2)
        files: dict[Ino, bytes] = {}
        for index, size in enumerate([100, 9000, 300 * KIB, 2 * MIB, 3 * MIB]):
            data = random.randbytes(size)
            files[await write(volume, b"%d" % index, data)] = data
        await volume.settle()
        assert {slab.data_units for _, slab in space.slabs(volume.ledger.store)} == {2}
        for index in (1, 4):
            world.disks[index].return_()
        await trio.sleep(60)
        used = {stripe_id >> 16 for stripe_id, _ in space.stripes(volume.ledger.store)}
        assert {slab.data_units for slab_id, slab in space.slabs(volume.ledger.store) if slab_id in used} == {4}
        assert volume.status().relocation.rewidened_bytes >= 5 * MIB
        await compare(volume, files)
        assert await fsck(volume, deep=True) == []

    run(body)


@pytest.mark.parametrize("disks_back", [False, True])
def test_without_a_disk_to_rebuild_on_stripes_get_narrower_and_safe_again(disks_back: bool) -> None:
    async def body(world: SimVolume, volume: Volume) -> None:
        random = Random(3)
        files: dict[Ino, bytes] = {}
        for index, size in enumerate([100, 9000, 300 * KIB, 2 * MIB]):
            data = random.randbytes(size)
            files[await write(volume, b"%d" % index, data)] = data
        await volume.settle()
        world.disks[2].disappear()
        await trio.sleep(120)
        used = {stripe_id >> 16 for stripe_id, _ in space.stripes(volume.ledger.store)}
        slabs = {slab_id: slab for slab_id, slab in space.slabs(volume.ledger.store) if slab_id in used}
        assert {slab.data_units for slab in slabs.values()} == {3}
        assert not any(2 in slab.disks for slab in slabs.values())
        for lost in combinations((0, 1, 3, 4, 5), 2):
            for index in lost:
                world.disks[index].disappear()
            await volume.ledger.pool.probe()
            await compare(volume, files)
            for index in lost:
                world.disks[index].return_()
            await volume.ledger.pool.probe()
        if disks_back:
            world.disks[2].return_()
            await trio.sleep(120)
            used = {stripe_id >> 16 for stripe_id, _ in space.stripes(volume.ledger.store)}
            assert {slab.data_units for slab_id, slab in space.slabs(volume.ledger.store) if slab_id in used} == {4}
        await compare(volume, files)

    run(body, grace=5.0)
