"""Objects over shards whose processes die, and front-ends that go: every body is whole, what was answered is there, and
nothing is left behind."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.object_types import NO_CONDITIONS, Conditions, PutAttributes
from siltstone.core.sessions import GRACE_SECONDS, LEASE_SECONDS
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.errors import NoSuchBucket, NotFound, PreconditionFailed, Unavailable
from siltstone.meta import inodes
from siltstone.types import ROOT_INO, ShardId, partition_of
from sim.clock import autojump
from sim.metadata import check_metadata
from sim.randomness import SimRandom
from sim.shard_volumes import SimShardVolumes

SIZES = (0, 100, 5000, 300_000, 1_500_000)
PIECE_BYTES = 400_000


def body_of(serial: int, size: int) -> bytes:
    return serial.to_bytes(4, "big") * (size // 4)


def attributes_of(body: bytes) -> PutAttributes:
    return PutAttributes(etag=hashlib.md5(body).hexdigest())


def store_of(world: SimShardVolumes, seed: int, nursery: trio.Nursery) -> ShardedObjects:
    door = world.front_end(seed, nursery)
    return ShardedObjects(door.calls, door.tree, world.partitions, SimRandom(seed))


async def put(store: ShardedObjects, key: bytes, body: bytes, conditions: Conditions = NO_CONDITIONS) -> None:
    writer = await store.begin_put("bucket", key)
    try:
        for at in range(0, len(body), PIECE_BYTES):
            await writer.write(body[at : at + PIECE_BYTES])
        await writer.commit(attributes_of(body), conditions)
    finally:
        await writer.abort()


async def get(store: ShardedObjects, key: bytes) -> bytes | None:
    try:
        reader = await store.open("bucket", key)
    except NotFound:
        return None
    try:
        pieces, at = [], 0
        while piece := await reader.read(at, PIECE_BYTES):
            pieces.append(piece)
            at += len(piece)
            await trio.sleep(0.001)
        body = b"".join(pieces)
        assert hashlib.md5(body).hexdigest() == reader.info.etag, "an object is torn"
        return body
    finally:
        reader.close()


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 3))
def test_shards_die_under_puts_and_every_body_is_whole(seed: int, shards: int) -> None:
    chance = random.Random(seed)

    async def client(store: ShardedObjects, number: int, kept: dict[bytes, set[bytes | None]]) -> None:
        for serial in range(6):
            key = b"%sclient-%d/%d" % (b"deep/" * chance.randrange(3), number, chance.randrange(3))
            possible = kept.setdefault(key, {None})
            body = body_of(100 * number + serial, chance.choice(SIZES))
            is_delete = chance.random() < 0.25
            try:
                if is_delete:
                    await store.delete("bucket", key)
                else:
                    await put(store, key, body)
            except Unavailable:
                possible.add(None if is_delete else body)
                continue
            kept[key] = {None if is_delete else body}
            assert await get(store, key) in kept[key]

    async def main() -> None:
        world = SimShardVolumes(shards, seed=seed)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            stores = [store_of(world, number, nursery) for number in range(3)]
            await stores[0].create_bucket("bucket", owner="me")
            kept: dict[bytes, set[bytes | None]] = {}

            async def work(*, task_status: trio.TaskStatus[trio.Event]) -> None:
                done = trio.Event()
                task_status.started(done)
                async with trio.open_nursery() as working:
                    for number, store in enumerate(stores):
                        working.start_soon(client, store, number, kept)
                done.set()

            done = await nursery.start(work)
            for _ in range(8):
                await trio.sleep(chance.random() * 0.5)
                await world.restart(ShardId(chance.randrange(shards)))
            await done.wait()
            await trio.sleep(5)
            for key, possible in kept.items():
                bodies = [await get(store, key) for store in stores]
                assert bodies[0] in possible and bodies == bodies[:1] * len(bodies)
            listing = await stores[1].list_keys("bucket", limit=1000)
            there = {key for key in kept if await get(stores[0], key) is not None}
            assert [entry.key for entry in listing.entries] == sorted(there)
            await trio.sleep(2 * GRACE_SECONDS + LEASE_SECONDS)
            await world.wait_quiet()
            problems = list(check_metadata(world.reader()))
            assert not problems, "\n".join(map(str, problems))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def in_world(body, shards: int = 2) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        world = SimShardVolumes(shards)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            store = store_of(world, 1, nursery)
            await store.create_bucket("bucket", owner="me")
            await body(world, store, nursery)
            with trio.fail_after(60):
                await world.wait_quiet()
            problems = list(check_metadata(world.reader()))
            assert not problems, "\n".join(map(str, problems))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def inodes_of(world: SimShardVolumes) -> int:
    return sum(volume.status().inodes for volume in world.volumes.values())


def test_a_front_end_that_dies_under_a_put_leaves_nothing_behind() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        await world.wait_quiet()
        before = inodes_of(world)
        async with trio.open_nursery() as life:
            dying = store_of(world, 7, life)
            await trio.sleep(1)
            writer = await dying.begin_put("bucket", b"key")
            for _ in range(4):
                await writer.write(bytes(PIECE_BYTES))
            await trio.sleep(3 * LEASE_SECONDS)
            assert inodes_of(world) == before + 1, "what a living front-end holds was purged"
            life.cancel_scope.cancel()
        await trio.sleep(3 * LEASE_SECONDS)
        assert inodes_of(world) == before
        assert await get(store, b"key") is None

    in_world(body)


def test_a_shard_that_dies_with_bytes_of_a_put_makes_it_fail_and_the_next_succeeds() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        await put(store, b"key", b"old")
        writer = await store.begin_put("bucket", b"key")
        new = body_of(9, 1_000_000)
        await writer.write(new[:PIECE_BYTES])
        for shard in world.shards:
            await world.restart(shard)
        with pytest.raises(Unavailable, match="send them again"):
            await writer.write(new[PIECE_BYTES:])
            await writer.commit(attributes_of(new))
        await writer.abort()
        assert await get(store, b"key") == b"old"
        await put(store, b"key", new)
        assert await get(store, b"key") == new

    in_world(body)


def test_changes_whose_answers_are_lost_are_carried_out_once() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        await put(store, b"a/key", b"1", Conditions(if_none_match="*"))

        async def losing(work) -> None:  # type: ignore[no-untyped-def]
            world.is_losing_answers = True
            world.answers_lost = trio.Event()
            async with trio.open_nursery() as waiting:
                waiting.start_soon(work)
                await world.answers_lost.wait()
                world.is_losing_answers = False
                for shard in world.shards:
                    await world.restart(shard)

        async def put_new() -> None:
            # Carried out twice it would find itself.
            await put(store, b"a/new", b"2", Conditions(if_none_match="*"))

        async def delete() -> None:
            assert (
                await store.delete("bucket", b"a/key", Conditions(if_match=hashlib.md5(b"1").hexdigest()))
            ).was_there

        async def copy() -> None:
            info = await store.copy("bucket", b"a/new", "bucket", b"b/copy", None, Conditions(if_none_match="*"))
            assert info.etag == hashlib.md5(b"2").hexdigest()

        async def make_bucket() -> None:
            await store.create_bucket("another", owner="me")

        await losing(put_new)
        await losing(delete)
        await losing(copy)
        await losing(make_bucket)
        assert await get(store, b"a/new") == await get(store, b"b/copy") == b"2"
        assert await get(store, b"a/key") is None
        assert [info.name for info in await store.list_buckets()] == ["another", "bucket"]
        with pytest.raises(PreconditionFailed):
            await put_new()

    in_world(body)


def test_buckets_and_directories_that_others_rename_are_found_by_their_new_names_alone() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        mount = world.front_end(5, nursery).tree
        await put(store, b"a/b/key", b"1")
        for round_ in range(6):
            bucket = (await mount.lookup(ROOT_INO, b"bucket")).ino
            directory = (await mount.lookup(bucket, b"a")).ino
            await mount.rename(bucket, b"a", bucket, b"moved")
            assert await get(store, b"a/b/key") is None
            assert await get(store, b"moved/b/key") == b"1"
            await put(store, b"a/b/other", b"%d" % round_)
            assert (await mount.lookup(bucket, b"a")).ino != directory
            await store.delete("bucket", b"a/b/other")
            await mount.rename(bucket, b"moved", bucket, b"a")
            await mount.rename(ROOT_INO, b"bucket", ROOT_INO, b"renamed")
            with pytest.raises(NoSuchBucket):
                await get_strictly(store, b"a/b/key")
            await mount.rename(ROOT_INO, b"renamed", ROOT_INO, b"bucket")
            assert await get(store, b"a/b/key") == b"1"

    async def get_strictly(store: ShardedObjects, key: bytes) -> None:
        (await store.open("bucket", key)).close()

    in_world(body, shards=3)


def test_what_the_mount_has_written_in_another_shard_counts_in_conditions_and_copies() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        mount = world.front_end(5, nursery).tree
        bucket = (await mount.lookup(ROOT_INO, b"bucket")).ino
        number = 0
        while True:
            name = b"directory-%d" % number
            directory = (await mount.mkdir(bucket, name, mode=0o755, uid=0, gid=0)).ino
            if world.partitions().owner(partition_of(directory)) != world.partitions().owner(partition_of(bucket)):
                break
            number += 1
        made = await mount.create(directory, b"file", mode=0o100644, uid=3, gid=4)
        await mount.rename(directory, b"file", bucket, b"file")
        etag = (await store.head("bucket", b"file")).etag
        await mount.write(made.ino, 0, b"not committed")
        with pytest.raises(PreconditionFailed):
            await put(store, b"file", b"x", Conditions(if_match=etag))
        assert (await store.head("bucket", b"file")).size == len(b"not committed")
        await mount.write(made.ino, 0, b"NOT")
        await store.copy("bucket", b"file", "bucket", b"copy", None)
        reader = await store.open("bucket", b"copy")
        assert await reader.read(0, 100) == b"NOT committed"
        reader.close()

    in_world(body)


def test_a_bucket_that_is_renamed_while_its_partition_is_elsewhere_is_not_remembered_when_that_is_back() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        mount = world.front_end(5, nursery).tree
        bucket = (await mount.lookup(ROOT_INO, b"bucket")).ino
        root_shard = world.partitions().owner(partition_of(ROOT_INO))
        home, away = [shard for shard in world.shards if shard != root_shard]

        async def give(shard: ShardId) -> None:
            if world.partitions().owner(partition_of(bucket)) != shard:
                assert await world.give(partition_of(bucket), shard)
            with trio.fail_after(60):
                await world.wait_brought()

        await give(home)
        await put(store, b"key", b"old")
        assert await get(store, b"key") == b"old"
        await give(away)
        await mount.rename(ROOT_INO, b"bucket", ROOT_INO, b"renamed")
        await give(home)
        with pytest.raises(NoSuchBucket):
            await store.open("bucket", b"key")

    in_world(body, shards=3)


@pytest.mark.parametrize("pause_seconds", [0.0, 0.5, 12.0, 45.0])
@pytest.mark.parametrize("moves_after", [0, 1, 2])
def test_a_put_whose_bytes_go_from_shard_to_shard_is_whole(moves_after: int, pause_seconds: float) -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        new = body_of(9, 3 * PIECE_BYTES)
        await put(store, b"key", b"old")
        writer = await store.begin_put("bucket", b"key")
        for at in range(3):
            await writer.write(new[at * PIECE_BYTES : (at + 1) * PIECE_BYTES])
            if at == moves_after:
                orphans = [ino for volume in world.volumes.values() for ino in inodes.orphans(volume.ledger.store)]
                assert orphans, "the bytes have no inode yet"
                for partition in {partition_of(ino) for ino in orphans}:
                    assert await world.give(partition, ShardId(1 - world.partitions().owner(partition)))
                await trio.sleep(pause_seconds)
        await writer.commit(attributes_of(new))
        assert await get(store, b"key") == new

    in_world(body)


def test_a_put_asks_another_shard_for_its_path_once() -> None:
    async def body(world: SimShardVolumes, store: ShardedObjects, nursery: trio.Nursery) -> None:
        mount = world.front_end(5, nursery).tree
        bucket = (await mount.lookup(ROOT_INO, b"bucket")).ino
        owner = world.partitions().owner(partition_of(bucket))
        for number in range(32):
            name = b"directory-%d" % number
            directory = (await mount.mkdir(bucket, name, mode=0o755, uid=0, gid=0)).ino
            if world.partitions().owner(partition_of(directory)) != owner:
                break
        for _ in range(2):
            await put(store, name + b"/key", b"first")
        await world.wait_quiet()

        def messages() -> int:
            return sum(served.load().messages for served, _ in world.serving.values())

        for change in (put(store, name + b"/key", b"second"), store.delete("bucket", name + b"/key")):
            before = messages()
            await change
            assert messages() == before + 1

    in_world(body)
