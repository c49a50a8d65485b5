"""fsck over several shards: what spans them is broken on purpose, each kind of it, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from siltstone.core.sharded_volume import ShardedVolume
from siltstone.meta import inodes, keys
from siltstone.meta.records import Dentry, decode_dentry, encode
from siltstone.meta.shards.coordinator import Decision
from siltstone.meta.store.transaction import Transaction
from siltstone.types import ROOT_INO, Ino, ShardId, TransactionId, partition_of
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes

OTHER = ShardId(1)


class Made:
    """Two directories below the root, in different shards, and a file of the second that has a name in the first."""

    def __init__(self, world: SimShardVolumes, near: Ino, far: Ino, file: Ino, deep: Ino) -> None:
        self.world = world
        self.near = near
        self.far = far
        self.file = file
        self.deep = deep
        """A directory in ``far``, in the shard of ``near``."""

    def shard(self, ino: Ino) -> ShardId:
        return self.world.partitions().owner(partition_of(ino))

    def change(self, ino: Ino, change: Callable[[Transaction], object]) -> None:
        """Change records of the shard that has an inode, behind everybody's back."""
        self.change_shard(self.shard(ino), change)

    def change_shard(self, shard: ShardId, change: Callable[[Transaction], object]) -> None:
        transaction = self.world.volumes[shard].ledger.begin()
        change(transaction)
        transaction.commit()


async def make(world: SimShardVolumes, volume: ShardedVolume) -> Made:
    async def directory(parent: Ino, shard: ShardId) -> Ino:
        for number in range(1000):
            name = b"d%d-%d" % (shard, number)
            ino = (await volume.mkdir(parent, name, mode=0o755, uid=0, gid=0)).ino
            if world.partitions().owner(partition_of(ino)) == shard:
                return ino
            await volume.rmdir(parent, name)
        raise AssertionError

    near = await directory(ROOT_INO, ShardId(0))
    far = await directory(ROOT_INO, OTHER)
    deep = await directory(far, ShardId(0))
    file = (await volume.create(far, b"file", mode=0o100644, uid=0, gid=0)).ino
    await volume.write(file, 0, bytes(5000))
    await volume.link(file, near, b"other name")
    await volume.sync()
    return Made(world, near, far, file, deep)


def _name_without_inode(made: Made) -> None:
    made.change(made.file, lambda tx: tx.delete(keys.inode(made.file)))


def _name_of_a_wrong_kind(made: Made) -> None:
    wrong = encode(Dentry(made.file, 0o120000))
    made.change(made.near, lambda tx: tx.put(keys.dentry(made.near, b"other name"), wrong))


def _lost_name_in_another_shard(made: Made) -> None:
    made.change(made.near, lambda tx: tx.delete(keys.dentry(made.near, b"other name")))


def _one_name_too_many(made: Made) -> None:
    made.change(made.near, lambda tx: tx.put(keys.dentry(made.near, b"third"), encode(Dentry(made.file, 0o100000))))


def _directory_without_a_name(made: Made) -> None:
    def change(tx: Transaction) -> None:
        (key,) = (key for key, value in tx.scan(*keys.prefix_range(keys.dentries(made.far))) if _leads_to(value, made))
        tx.delete(key)

    made.change(made.far, change)


def _leads_to(value: bytes, made: Made) -> bool:
    return decode_dentry(value).ino == made.deep


def _wrong_parent(made: Made) -> None:
    def change(tx: Transaction) -> None:
        inode = inodes.get_inode(tx, made.deep)
        inode.parent = made.near
        inodes.put_inode(tx, made.deep, inode)

    made.change(made.deep, change)


def _loop(made: Made) -> None:
    """``far`` is taken from the root and put into ``deep``, which is in it; all counts are right."""

    def leave(tx: Transaction) -> None:
        (key,) = (
            key
            for key, value in tx.scan(*keys.prefix_range(keys.dentries(ROOT_INO)))
            if decode_dentry(value).ino == made.far
        )
        tx.delete(key)
        _count(tx, ROOT_INO, -1)

    def enter(tx: Transaction) -> None:
        tx.put(keys.dentry(made.deep, b"loop"), encode(Dentry(made.far, 0o040000)))
        _count(tx, made.deep, 1)

    def adopt(tx: Transaction) -> None:
        inode = inodes.get_inode(tx, made.far)
        inode.parent = made.deep
        inodes.put_inode(tx, made.far, inode)

    made.change(ROOT_INO, leave)
    made.change(made.deep, enter)
    made.change(made.far, adopt)


def _count(tx: Transaction, ino: Ino, step: int) -> None:
    inode = inodes.get_inode(tx, ino)
    inode.nlink += step
    inode.size += step
    inodes.put_inode(tx, ino, inode)


def _named_orphan(made: Made) -> None:
    made.change(made.file, lambda tx: inodes.mark_orphan(tx, made.file))


def _transaction(coordinator: ShardId) -> TransactionId:
    return TransactionId(bytes((coordinator,)) + bytes(15))


def _intent_without_a_decision(made: Made) -> None:
    made.change_shard(OTHER, lambda tx: tx.put(keys.intent(_transaction(ShardId(0))), b"open"))


def _intent_of_an_unknown_shard(made: Made) -> None:
    made.change_shard(OTHER, lambda tx: tx.put(keys.intent(_transaction(ShardId(9))), b"open"))


def _decision_without_a_part(made: Made) -> None:
    transaction = _transaction(ShardId(0))
    made.change_shard(ShardId(0), lambda tx: tx.put(keys.decision(transaction), encode(Decision([OTHER]))))


def _committed_and_not_carried_out(made: Made) -> None:
    _decision_without_a_part(made)
    _intent_without_a_decision(made)


def _name_in_the_wrong_shard(made: Made) -> None:
    made.change_shard(OTHER, lambda tx: tx.put(keys.dentry(made.near, b"x"), encode(Dentry(made.file, 0o100000))))


def _wrong_counters_of_another_shard(made: Made) -> None:
    made.change(made.far, lambda tx: tx.delete(keys.counters(partition_of(made.far))))


def _leaked_reference_of_another_shard(made: Made) -> None:
    reference = keys.log_reference(keys.Reference(64, 0, made.file, 77_777))
    made.change(made.file, lambda tx: tx.put(reference, keys.encode_length(5)))


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (_name_without_inode, ("I2", "no such inode")),
        (_name_of_a_wrong_kind, ("I2", "says kind 120000")),
        (_lost_name_in_another_shard, ("I3", "counts 2 links, 1 names were found")),
        (_one_name_too_many, ("I3", "counts 2 links, 3 names were found")),
        (_directory_without_a_name, ("I3", "has no name and is neither")),
        (_wrong_parent, ("I3", "as its parent")),
        (_loop, ("I3", "is below itself")),
        (_named_orphan, ("I3", "is marked as an orphan")),
        (_intent_without_a_decision, ("I14", "has no decision on it")),
        (_intent_of_an_unknown_shard, ("I14", "shard 9, which the volume does not have")),
        (_decision_without_a_part, ("I14", "neither an intent nor a mark")),
        (_committed_and_not_carried_out, ("I14", "it is not carried out here")),
        (_name_in_the_wrong_shard, ("I15", "another shard has it")),
        (_wrong_counters_of_another_shard, ("I6", "are right")),
        (_leaked_reference_of_another_shard, ("I5", "back references for")),
    ],
)
def test_what_is_broken_between_shards_is_named(tamper: Callable[[Made], None], expected: tuple[str, str]) -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        made = await make(world, volume)
        assert await world.fsck(deep=True) == []
        tamper(made)
        found = await world.fsck()
        assert any(finding.invariant == expected[0] and expected[1] in finding.message for finding in found), found

    run(body)


def run(body: Callable[[SimShardVolumes, ShardedVolume], object]) -> None:
    async def main() -> None:
        world = SimShardVolumes(2, seed=1)
        await world.create()
        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            caller = world.caller(1)
            nursery.start_soon(caller.run)
            volume = ShardedVolume(caller, caller.partitions, world.world.clock)
            nursery.start_soon(volume.run)
            await body(world, volume)  # type: ignore[misc]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump())


def test_a_check_holds_up_operations_and_none_fails() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        made = await make(world, volume)

        async def work(name: bytes, over: trio.Event) -> None:
            while not over.is_set():
                await volume.create(made.near, name, mode=0o100644, uid=0, gid=0)
                await volume.rename(made.near, name, made.far, name)
                await volume.unlink(made.far, name)

        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(work, b"n%d" % number, over)
            for _ in range(5):
                await trio.sleep(0.05)
                assert await world.fsck() == []
            over.set()

    run(body)


def test_a_check_that_is_broken_off_lets_everybody_go_on() -> None:
    async def body(world: SimShardVolumes, volume: ShardedVolume) -> None:
        made = await make(world, volume)
        for seconds in (0.001, 0.004, 0.01, 0.02, 0.04):
            with trio.move_on_after(seconds):
                await world.fsck()
            with trio.fail_after(5):
                await volume.create(made.far, b"%g" % seconds, mode=0o100644, uid=0, gid=0)
                await volume.create(made.near, b"%g" % seconds, mode=0o100644, uid=0, gid=0)
        assert await world.fsck() == []

    run(body)
