"""A volume that begins with one shard, gets more and gives them back, while clients use it and its owner is killed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from stateful.test_sharded_volume import Holding, KeptOpen, carry_out, run

from siltstone.core.caller import Caller
from siltstone.core.near import NearCaller
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.objects import ObjectPut
from siltstone.core.sessions import GRACE_SECONDS
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.core.sharded_volume import Here, ShardedVolume
from siltstone.core.switching_objects import SwitchingObjects, SwitchingReader
from siltstone.core.turns import Turns
from siltstone.core.types import Holder
from siltstone.core.uploads import PartPut
from siltstone.core.volume import Volume
from siltstone.engine.disk.parts import part_folder
from siltstone.types import ROOT_INO, PartitionId, ShardId, partition_of
from sim.growing import SimOwner
from sim.linear import Operation, find_order
from sim.randomness import SimRandom
from sim.shard_volumes import SimShardVolumes
from sim.tree_client import Client, Seen, explain
from sim.tree_model import EMPTY_TREE, GONE, Action, Answer, step


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    lives=st.lists(st.integers(1, 40), max_size=2),
    away=st.lists(st.floats(0.01, 3), max_size=3),
    scheduling=st.random_module(),
)
def test_shards_come_and_go_under_clients(
    seed: int, counts: list[int], lives: list[int], away: list[float], scheduling: object
) -> None:
    """``counts``: how many shards there are to be, one after the other; ``lives``: after how many steps the owner
    dies; ``away``: for how many seconds a disk goes away, which then comes back."""
    seen = Seen()
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        async def ask(action: Action) -> Answer:
            answer = await carry_out(volume, action)
            await trio.sleep(chance.random() * 0.05)
            return GONE if action.kind in ("unlink", "rmdir") and isinstance(answer, list) else answer

        def used() -> list[PartitionId]:
            return sorted({partition_of(ino) for ino in (ROOT_INO, *seen.known)})[:6]

        # Of this front-end's: whoever listens to the first shard must listen to any other before that has anything.
        holder = KeptOpen()
        await volume.wait_heard()
        volume.register_holder(holder)
        data = random.Random(seed).randbytes(70_000)
        ino = (await volume.create(ROOT_INO, b"kept", mode=0o100644, uid=0, gid=0)).ino
        await volume.write(ino, 0, data)
        await volume.fsync(ino)
        await volume.unlink(ROOT_INO, b"kept")
        owner = SimOwner(world, chance, used, lives)

        async def resize() -> None:
            for count in [*counts, 1]:
                await owner.have(count)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(resize)
            nursery.start_soon(come_and_go, world, chance, away)
            for _ in range(2):
                nursery.start_soon(Client(chance, ask, seen).run, 12)
        assert await volume.read(ino, 0, 1 << 20) == data
        await check_only_one_is_left(world)
        volume.unregister_holder(holder)

    run(1, seed, body)
    assert find_order(seen.history, EMPTY_TREE, step) is not None, explain(seen.history)


async def come_and_go(world: SimShardVolumes, chance: random.Random, away: list[float]) -> None:
    """One disk at a time."""
    for seconds in away:
        await trio.sleep(chance.choice([0, 0.02, 1]) * chance.random())
        disk = chance.choice(world.world.disks)
        disk.disappear()
        await trio.sleep(seconds)
        disk.return_()


async def check_only_one_is_left(world: SimShardVolumes) -> None:
    assert world.config.shards == 1 and not world.config.shards_void
    assert [*world.serving] == [ShardId(0)]
    assert set(world.partitions().owners) == {0}
    for disk in world.world.disks:
        for shard in range(1, 4):
            assert not await disk.list(part_folder(shard)), "something of a shard that is gone is left"


class OwnDoors:
    """A mount and an S3 door in the owner's process, which go over to a router and back (see siltstone/daemon.py)."""

    def __init__(
        self, world: SimShardVolumes, owner: SimOwner, nursery: trio.Nursery, holder: Holder | None = None
    ) -> None:
        """``holder``: what the mount's kernel holds."""
        first, clock = ShardId(0), world.world.clock
        self._volume = world.volumes[first]
        far = Caller(owner.partitions, world.make_link, clock, SimRandom(5))
        near = NearCaller(first, world.serving[first][0], self._volume, far)
        self._router = ShardedVolume(near, owner.partitions, clock, here=Here(first, self._volume, far.client))
        nursery.start_soon(far.run)
        nursery.start_soon(self._router.run)
        self._far = ShardedObjects(near, self._router, owner.partitions, SimRandom(6))
        self.tree: Volume | ShardedVolume = self._volume
        self.turns = Turns()
        self.objects = SwitchingObjects(ObjectStore(self._volume))
        self.holder = Holding() if holder is None else holder
        self._volume.register_holder(self.holder)
        owner.ground.doors.append(self._go)
        owner.ground.followers.append(self._router.follow_shards)
        self.swaps = 0

    async def carry_out(self, action: Action) -> Answer:
        """As the mount does."""
        with self.turns.current:
            return await carry_out(cast("ShardedVolume", self.tree), action)

    async def _go(self, are_several: bool) -> None:
        await self._router.wait_heard()
        before, self.tree = self.tree, self._router if are_several else self._volume
        self.tree.register_holder(self.holder)
        before.unregister_holder(self.holder)
        self.swaps += before is not self.tree
        turns = [self.turns.turn_over(), self.objects.use(self._far if are_several else None)]
        for turn in turns:
            await turn.wait_over()


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(1, 3), max_size=3), scheduling=st.random_module())
def test_doors_of_the_owner_go_over_to_all_shards_and_back(seed: int, counts: list[int], scheduling: object) -> None:
    """Calls of the mount, bodies that are sent and objects that are read meanwhile; a front-end elsewhere as well."""
    seen = Seen()
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        owner = SimOwner(world, chance, lambda: sorted({partition_of(ino) for ino in (ROOT_INO, *seen.known)})[:6], [])
        await volume.wait_heard()
        holder = KeptOpen()
        volume.register_holder(holder)
        async with trio.open_nursery() as nursery:
            doors = OwnDoors(world, owner, nursery, holder)

            def asking(ask: Callable[[Action], Awaitable[Answer]]) -> Callable[[Action], Awaitable[Answer]]:
                async def asked(action: Action) -> Answer:
                    answer = await ask(action)
                    await trio.sleep(chance.random() * 0.05)
                    return GONE if action.kind in ("unlink", "rmdir") and isinstance(answer, list) else answer

                return asked

            async def resize() -> None:
                for count in [3, *counts, 1]:
                    await owner.have(count)

            await doors.objects.create_bucket("bucket", owner="somebody")
            bucket = (await volume.lookup(ROOT_INO, b"bucket")).ino
            made = Action("mkdir", ROOT_INO, b"bucket", ROOT_INO, b"", ROOT_INO, False)
            seen.history.append(Operation(seen.tick(), seen.tick(), made, [bucket]))
            reader = await put_and_open(doors.objects, chance)
            async with trio.open_nursery() as working:
                working.start_soon(resize)
                working.start_soon(send_slowly, doors.objects, chance)
                working.start_soon(Client(chance, asking(doors.carry_out), seen).run, 12)
                working.start_soon(Client(chance, asking(lambda action: carry_out(volume, action)), seen).run, 8)
            await check_read(reader)
            assert doors.swaps >= 2 and doors.tree is world.volumes[ShardId(0)]
            doors.tree.unregister_holder(doors.holder)
            await check_only_one_is_left(world)
            volume.unregister_holder(holder)
            nursery.cancel_scope.cancel()

    run(1, seed, body)
    assert find_order(seen.history, EMPTY_TREE, step) is not None, explain(seen.history)


@settings(max_examples=3)
@given(seed=st.integers(0, 2**32 - 1), scheduling=st.random_module())
def test_what_is_read_and_sent_is_held_when_doors_go_over(seed: int, scheduling: object) -> None:
    """By nobody else: no grace, no mount."""
    chance = random.Random(seed)

    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        owner = SimOwner(world, chance, lambda: [PartitionId(partition) for partition in range(0, 256, 8)], [])
        await trio.sleep(GRACE_SECONDS + 1)
        async with trio.open_nursery() as nursery:
            doors = OwnDoors(world, owner, nursery)
            await doors.objects.create_bucket("bucket", owner="somebody")
            reader = await put_and_open(doors.objects, chance)
            async with trio.open_nursery() as working:
                for _ in range(4):
                    working.start_soon(send_slowly, doors.objects, chance)
                await trio.sleep(3 + chance.random())
                assert any(lasting.now.writer._ino for lasting in bodies(doors.objects)), "nothing is under way"
                await owner.have(2)
                await trio.sleep(GRACE_SECONDS + 1)
                await owner.have(1)
            await check_read(reader)
            await check_only_one_is_left(world)
            doors.tree.unregister_holder(doors.holder)
            nursery.cancel_scope.cancel()

    run(1, seed, body)


def bodies(objects: SwitchingObjects) -> list[Any]:
    """What is being sent directly to the volume."""
    return [lasting for lasting in objects.live if isinstance(lasting.now, ObjectPut | PartPut)]


async def put_and_open(objects: SwitchingObjects, chance: random.Random) -> SwitchingReader:
    """An object that is open, and overwritten."""
    put = await objects.begin_put("bucket", b"read slowly")
    for number in range(6):
        await put.write(bytes([number]) * 100_000)
    await put.commit(PutAttributes(etag="first"))
    reader = await objects.open("bucket", b"read slowly")
    put = await objects.begin_put("bucket", b"read slowly")
    await put.commit(PutAttributes(etag="second"))
    return reader


async def check_read(reader: SwitchingReader) -> None:
    for number in range(6):
        assert await reader.read(number * 100_000, 100_000) == bytes([number]) * 100_000
    reader.close()


async def send_slowly(objects: SwitchingObjects, chance: random.Random) -> None:
    """Bodies small and large, and a part, sent while shards come and go."""
    upload = await objects.create_upload(
        "bucket", b"parts", owner="somebody", headers={}, metadata={}, checksum_algorithm="", checksum_type=""
    )
    for pieces in (1, 8, 3):
        key = b"directory/%d-%d" % (pieces, chance.randrange(1 << 30))
        put = await objects.begin_put("bucket", key)
        part = await objects.begin_part("bucket", b"parts", upload, pieces)
        for number in range(pieces):
            await trio.sleep(chance.random())
            await put.write(bytes([number]) * 70_000)
            await part.write(bytes([number]) * 70_000)
        await put.commit(PutAttributes(etag="e"))
        assert (await part.commit(etag="e", checksums={})).size == pieces * 70_000
        reader = await objects.open("bucket", key)
        for number in range(pieces):
            assert await reader.read(number * 70_000, 70_000) == bytes([number]) * 70_000
        reader.close()
        await objects.delete("bucket", key)
    await objects.abort_upload("bucket", b"parts", upload)
