"""Documents of a bucket's configuration: with the bucket whatever becomes of it, seen at once by every front-end."""

from __future__ import annotations

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.core.volume import Volume
from siltstone.errors import AlreadyExists, BucketChanged, InvalidArgument, NoSuchBucket, ValueTooLarge
from siltstone.limits import BUCKET_DOCUMENT_BYTES_MAX
from siltstone.meta import keys
from siltstone.meta.records import Bucket, encode
from siltstone.types import ROOT_INO, Ino, ShardId, partition_of
from sim.bucket import in_bucket
from sim.clock import autojump
from sim.metadata import check_metadata
from sim.randomness import SimRandom
from sim.shard_volumes import SimShardVolumes

POLICY = b'{"Statement": []}'
ATTRIBUTES = PutAttributes(etag="d41d8cd98f00b204e9800998ecf8427e")


async def put(store: ObjectStore | ShardedObjects, key: bytes) -> None:
    writer = await store.begin_put("bucket", key)
    await writer.commit(ATTRIBUTES)


def test_documents_are_set_together_read_together_and_removed_alone() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        before = await store.bucket("bucket")
        assert before.serial == 0
        after = await store.set_bucket_documents("bucket", {"policy": POLICY, "cors": b"<C/>"})
        assert (after.ino, after.serial) == (before.ino, 1)
        assert await store.bucket_documents("bucket") == (after, {"policy": POLICY, "cors": b"<C/>"})
        last = await store.set_bucket_documents("bucket", {"cors": None, "tagging": None})
        assert await store.bucket_documents("bucket") == (last, {"policy": POLICY})
        assert last.serial == 2 and await store.bucket("bucket") == last
        assert await fsck(volume) == []

    in_bucket(body)


def test_a_change_that_counts_on_another_state_is_refused() -> None:
    async def body(_: Volume, store: ObjectStore) -> None:
        seen = await store.bucket("bucket")
        await store.set_bucket_documents("bucket", {"policy": POLICY}, expected=(seen.ino, 0))
        for expected in ((seen.ino, 0), (Ino(seen.ino + 1), 1)):
            with pytest.raises(BucketChanged):
                await store.set_bucket_documents("bucket", {"policy": None}, expected=expected)
        assert (await store.bucket_documents("bucket"))[1] == {"policy": POLICY}

    in_bucket(body)


def test_what_no_document_can_be_is_refused() -> None:
    async def body(_: Volume, store: ObjectStore) -> None:
        for name in ("", "Policy", "a/b", "-a", "a" * 33):
            with pytest.raises(InvalidArgument):
                await store.set_bucket_documents("bucket", {name: b""})
        with pytest.raises(ValueTooLarge):
            await store.set_bucket_documents("bucket", {"policy": bytes(BUCKET_DOCUMENT_BYTES_MAX + 1)})
        with pytest.raises(NoSuchBucket):
            await store.set_bucket_documents("nowhere", {"policy": b""})
        assert (await store.bucket("bucket")).serial == 0

    in_bucket(body)


def test_a_bucket_made_with_documents_has_them_and_one_that_is_there_keeps_its_own() -> None:
    async def body(_: Volume, store: ObjectStore) -> None:
        made = await store.create_bucket("other", owner="me", documents={"acl": b"public-read"})
        assert made.serial == 1
        with pytest.raises(AlreadyExists):
            await store.create_bucket("other", owner="me", documents={"acl": b"private"})
        assert await store.bucket_documents("other") == (made, {"acl": b"public-read"})

    in_bucket(body)


def test_documents_go_along_with_a_rename_and_go_with_the_bucket() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        was = await store.set_bucket_documents("bucket", {"policy": POLICY})
        await volume.rename(ROOT_INO, b"bucket", ROOT_INO, b"renamed")
        info, documents = await store.bucket_documents("renamed")
        assert (info.ino, info.serial, documents) == (was.ino, 1, {"policy": POLICY})
        await store.delete_bucket("renamed")
        again = await store.create_bucket("renamed", owner="me")
        assert again.ino != was.ino
        assert (await store.bucket_documents("renamed"))[1] == {}
        assert not list(volume.ledger.store.scan(*keys.prefix_range(keys.bucket_documents(was.ino))))

    in_bucket(body)


def test_a_directory_of_the_mount_can_have_documents_and_still_belongs_to_all() -> None:
    async def body(volume: Volume, store: ObjectStore) -> None:
        await volume.mkdir(ROOT_INO, b"made", mode=0o755, uid=0, gid=0)
        info = await store.set_bucket_documents("made", {"cors": b"<C/>"})
        assert (info.owner, info.serial) == ("", 1)
        assert await fsck(volume) == []

    in_bucket(body)


@pytest.mark.parametrize(
    ("key", "value", "invariant"),
    [
        (keys.bucket(Ino(0x999901)), encode(Bucket("me", 1)), "I2"),
        (keys.bucket_document(ROOT_INO, b"policy"), POLICY, "I3"),
        (keys.bucket(ROOT_INO), b"\xff", "I1"),
    ],
)
def test_fsck_names_what_hangs_on_no_bucket(key: bytes, value: bytes, invariant: str) -> None:
    async def body(volume: Volume, _: ObjectStore) -> None:
        transaction = volume.ledger.begin()
        transaction.put(key, value)
        volume.ledger.commit(transaction)
        assert [found.invariant for found in await fsck(volume)] == [invariant]

    in_bucket(body)


def test_no_front_end_goes_by_an_old_configuration() -> None:
    async def main() -> None:
        world = SimShardVolumes(3)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            doors = [world.front_end(seed, nursery) for seed in range(6)]
            one, *others = [
                ShardedObjects(door.calls, door.tree, world.partitions, SimRandom(seed))
                for seed, door in enumerate(doors)
            ]
            await one.create_bucket("bucket", owner="me")
            some_keys = [b"flat", b"a/1", b"b/2", b"c/d/3", b"e/4"]
            for key in some_keys:  # directories of several shards
                await put(one, key)
            for serial in range(1, 4):
                for other in others:
                    await other.bucket("bucket")
                info = await one.set_bucket_documents("bucket", {"policy": b"%d" % serial})
                assert info.serial == serial
                for key in some_keys:
                    await put(one, key)
                asked = [
                    others[0].head("bucket", b"a/1"),
                    others[1].list_keys("bucket", limit=10),
                    others[2].create_upload("bucket", b"k", owner="me", headers={}, metadata={}),
                    others[3].delete("bucket", b"c/d/3"),
                    put(others[4], some_keys[serial]),
                ]
                for asks in asked:
                    with pytest.raises(BucketChanged):
                        await asks
                for other in others:
                    assert await other.bucket_of_key("bucket") == info
                if serial == 1:
                    partition = partition_of(info.ino)
                    await world.give(partition, ShardId((world.partitions().owner(partition) + 1) % 3))
                if serial == 2:
                    await world.restart(world.partitions().owner(partition_of(info.ino)))
                assert (await others[0].bucket_documents("bucket"))[1] == {"policy": b"%d" % serial}
            await world.wait_quiet()
            assert await world.fsck() == []
            assert not list(check_metadata(world.reader()))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())
