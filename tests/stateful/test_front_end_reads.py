"""Front-ends that read the disks themselves: what they give out is right, whatever becomes of the plans they go by."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.read_plans import LEASE_SECONDS
from siltstone.core.sessions import GRACE_SECONDS
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.types import SetAttributes
from siltstone.errors import NoSpace, NotFound
from siltstone.limits import KIB, MIB
from siltstone.meta.shards.messages import PeerLost
from siltstone.types import ROOT_INO, Ino, partition_of
from sim.clock import autojump
from sim.shard_volumes import FrontEnd, SimShardVolumes

SIZE = 768 * KIB
PIECE = 128 * KIB

Body = Callable[[SimShardVolumes, FrontEnd, FrontEnd], Awaitable[None]]


def run(body: Body, *, shards: int = 2, seed: int = 0, has_rot: bool = False, disk_bytes: int = 64 * MIB) -> None:
    """Two front-ends of a new volume."""

    async def main() -> None:
        world = SimShardVolumes(shards, seed=seed)
        for disk in world.world.disks:
            disk.capacity_bytes = disk_bytes
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            first, second = world.front_end(1, nursery), world.front_end(2, nursery)
            await trio.sleep(1)
            await body(world, first, second)
            with trio.fail_after(60):
                await world.wait_quiet()
            if not has_rot:
                assert await world.fsck(deep=True) == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


async def make_file(world: SimShardVolumes, tree: ShardedVolume, data: bytes, name: bytes = b"file") -> Ino:
    """A file in stripes; the root is shard 0's, and the file with it."""
    ino = (await tree.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
    await tree.write(ino, 0, data)
    await tree.fsync(ino)
    return ino


async def read_all(tree: ShardedVolume, ino: Ino) -> bytes:
    pieces: list[bytes] = []
    while piece := await tree.read(ino, sum(map(len, pieces)), PIECE):
        pieces.append(piece)
    return b"".join(pieces)


def data_of(serial: int, size: int = SIZE) -> bytes:
    return random.Random(serial).randbytes(size)


async def settle_in(door: FrontEnd, ino: Ino) -> None:
    """Have a front-end find its disks: before it has, shards read for it."""
    with trio.fail_after(10):
        while not door.access.reader.read_bytes:
            await read_all(door.tree, ino)
            door.tree.files.forget_all()
            await trio.sleep(0.5)


def calls_of(world: SimShardVolumes) -> int:
    return sum(served.load().calls for served, _ in world.serving.values())


def leases(world: SimShardVolumes) -> int:
    return sum(served.load().leases for served, _ in world.serving.values())


def test_a_file_that_is_read_from_front_to_back_is_asked_for_once() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        ino = await make_file(world, door.tree, data_of(1))
        await settle_in(door, ino)
        before, calls = door.access.reader.read_bytes, calls_of(world)
        assert await read_all(door.tree, ino) == data_of(1)
        assert door.access.reader.read_bytes - before >= SIZE
        assert door.access.reader.failed == 0
        assert calls_of(world) == calls + 1
        assert leases(world) == 1
        await door.tree.write(ino, 0, b"x")
        await trio.sleep(0.5)
        assert leases(world) == 0, "a plan that was given up was not told of"

    run(body)


def test_rows_that_a_plan_names_are_not_used_again_while_it_is_read() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        ino = await make_file(world, other.tree, data_of(1))
        await settle_in(door, ino)
        file = door.tree.files.open(ino)
        read = await file.read(0, PIECE)
        began = trio.current_time()
        for serial in range(2, 8):
            await other.tree.write(ino, 0, data_of(serial))
            await other.tree.fsync(ino)
            await trio.sleep(0.08)  # rows that are not leased are free by then
        assert trio.current_time() - began < LEASE_SECONDS / 2, "too slow to prove anything"
        while len(read) < SIZE:
            read += await file.read(len(read), PIECE)
        assert door.access.reader.failed == 0, "rows were used again under a plan"
        assert read == data_of(1)
        file.close()

    run(body)


def test_a_plan_that_outlives_its_lease_gives_no_strange_bytes() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        ino = await make_file(world, other.tree, data_of(1))
        await settle_in(door, ino)
        file = door.tree.files.open(ino)
        await file.read(0, PIECE)
        assert file._plan is not None
        file._plan.until_ns = 1 << 62  # the process was stopped, or its clock
        await trio.sleep(LEASE_SECONDS + 1)
        assert leases(world) == 0, "a lease does not end"
        for serial in range(2, 8):
            await other.tree.write(ino, 0, data_of(serial))
            await other.tree.fsync(ino)
            await trio.sleep(0.5)
        failed = door.access.reader.failed
        read = b"".join([await file.read(at, PIECE) for at in range(0, SIZE, PIECE)])
        assert door.access.reader.failed > failed, "nothing was used again"
        for at in range(0, SIZE, PIECE):
            versions = [data_of(serial)[at : at + PIECE] for serial in (1, 7)]
            assert read[at : at + PIECE] in versions
        file.close()

    run(body)


def test_leases_end_with_the_connection_and_when_room_is_needed() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        ino = await make_file(world, door.tree, data_of(1))
        async with trio.open_nursery() as life:
            dying = world.front_end(3, life)
            await settle_in(dying, ino)
            await dying.tree.read(ino, 0, PIECE)
            assert leases(world) >= 1
            life.cancel_scope.cancel()
        await trio.sleep(0.1)
        assert leases(world) == 0
        await settle_in(door, ino)
        await door.tree.read(ino, 0, PIECE)
        assert leases(world) >= 1
        for volume in world.volumes.values():
            volume.ledger.reclaimer.hurry()
        await trio.sleep(0.001)
        assert leases(world) == 0
        assert await read_all(door.tree, ino) == data_of(1)

    run(body)


def test_a_full_pool_takes_what_replaces_files_that_are_being_read() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        inos: list[Ino] = []
        await trio.sleep(GRACE_SECONDS)
        with pytest.raises(NoSpace):
            for number in range(1000):
                ino = await make_file(world, other.tree, data_of(number), b"%d" % number)
                inos.append(ino)
        async with trio.open_nursery() as reading:

            async def read_on() -> None:
                while True:
                    for ino in inos[:8]:
                        with contextlib.suppress(NotFound):
                            await door.tree.read(ino, 0, PIECE)
                        await trio.sleep(0.01)

            reading.start_soon(read_on)
            await trio.sleep(1)
            with contextlib.suppress(NotFound):  # what did not fit has a name if it was its bytes that did not
                await other.tree.unlink(ROOT_INO, b"%d" % len(inos))
            for number in range(4):
                await other.tree.unlink(ROOT_INO, b"%d" % number)
            await trio.sleep(0.5)  # until it is known that nobody holds them
            await make_file(world, other.tree, data_of(5000), b"another")
            reading.cancel_scope.cancel()

    run(body, disk_bytes=16 * MIB)


def test_what_is_rotten_is_read_around_and_mended_by_the_shard() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        ino = await make_file(world, door.tree, data_of(1))
        await settle_in(door, ino)
        for disk in world.world.disks[2:4]:
            for name in disk.names:
                if "slab/" in name:
                    disk.rot(name, 0, len(disk.contents(name)))
        assert await read_all(door.tree, ino) == data_of(1)
        assert door.access.reader.failed > 0
        mended = [volume.ledger.stripes.statistics().repaired_blocks for volume in world.volumes.values()]
        assert sum(mended) > 0
        failed = door.access.reader.failed
        assert await read_all(door.tree, ino) == data_of(1)
        assert door.access.reader.failed == failed

    run(body, has_rot=True)


def test_a_disk_that_hangs_or_that_only_this_front_end_cannot_read_is_read_around() -> None:
    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        ino = await make_file(world, door.tree, data_of(1))
        await settle_in(door, ino)
        door.disks[world.world.disks[1].disk_id].failure = "no permission"
        assert await read_all(door.tree, ino) == data_of(1)
        door.disks[world.world.disks[1].disk_id].failure = ""
        await trio.sleep(15)
        door.tree.files.forget_all()
        failed = door.access.reader.failed
        assert await read_all(door.tree, ino) == data_of(1)
        assert door.access.reader.failed == failed, "a disk that is back is not used"
        for disk in world.world.disks:
            disk.slow(0.002, "read")
        world.world.disks[3].hang("read")
        began = trio.current_time()
        door.tree.files.forget_all()
        assert await read_all(door.tree, ino) == data_of(1)
        assert trio.current_time() - began < 5
        for disk in world.world.disks:
            disk.heal()
        world.world.disks[3].release()
        await trio.sleep(60)

    run(body)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shards=st.integers(2, 3), kills=st.booleans(), scheduling=st.random_module())
def test_what_others_write_is_read_when_the_word_has_come(
    seed: int, shards: int, kills: bool, scheduling: object
) -> None:
    """Files are written in place, cut, moved from shard to shard, settled; disks rot, are slow; shards die."""
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, door: FrontEnd, other: FrontEnd) -> None:
        doors = [door, other]
        model: dict[Ino, bytes] = {}
        for number in range(3):
            directory = (await door.tree.mkdir(ROOT_INO, b"d%d" % number, mode=0o755, uid=0, gid=0)).ino
            ino = (await door.tree.create(directory, b"f", mode=0o100644, uid=0, gid=0)).ino
            data = data_of(seed + number, chance.choice([300_000, 500_000, SIZE]))
            await door.tree.write(ino, 0, data)
            await door.tree.fsync(ino)
            model[ino] = data
        for one in doors:
            await settle_in(one, next(iter(model)))

        async def check(one: FrontEnd, ino: Ino) -> None:
            at = chance.randrange(len(model[ino]) + 1)
            size = chance.choice([5000, PIECE, SIZE])
            assert await one.tree.read(ino, at, size) == model[ino][at : at + size]
            if chance.random() < 0.5:
                assert await read_all(one.tree, ino) == model[ino]

        for _ in range(30):
            ino, one = chance.choice(sorted(model)), chance.choice(doors)
            match chance.randrange(9):
                case 0 | 1:
                    size = chance.choice([100, 5000, 300_000])
                    offset, data = chance.randrange(len(model[ino]) + 1), chance.randbytes(size)
                    await one.tree.write(ino, offset, data)
                    model[ino] = model[ino][:offset] + data + model[ino][offset + size :]
                    if chance.random() < 0.7:
                        await one.tree.fsync(ino)
                case 2:
                    size = chance.randrange(len(model[ino]) + 1000)
                    await one.tree.set_attributes(ino, SetAttributes(size=size))
                    model[ino] = model[ino][:size].ljust(size, b"\0")
                case 3:
                    await world.give(partition_of(ino), chance.choice(world.shards))
                case 4:
                    await chance.choice(list(world.volumes.values())).settle()
                case 5 if kills:
                    await one.tree.sync()
                    with contextlib.suppress(PeerLost):
                        await other.tree.sync()
                    await world.restart(chance.choice(world.shards))
                    await trio.sleep(1)
                case 6:
                    chance.choice(world.world.disks).slow(chance.choice([0.01, 0.5]), "read", count=3)
                case _:
                    pass
            await check(one, ino)
            await trio.sleep(chance.choice([0.03, 0.3]))
            for reader in doors:
                await check(reader, chance.choice(sorted(model)))
        assert door.access.reader.read_bytes and other.access.reader.read_bytes
        with trio.fail_after(60):
            await world.wait_brought()

    run(body, shards=shards, seed=seed)
