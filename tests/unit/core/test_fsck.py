"""fsck finds what is broken: every invariant is broken on purpose, and named."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio

from siltstone.core.fsck import fsck
from siltstone.core.volume import Volume
from siltstone.engine.stripe.layout import Slab, Stripe, chunk_name
from siltstone.errors import Corrupt
from siltstone.meta import counters, inodes, keys, names, space
from siltstone.meta.records import (
    Counters,
    Dentry,
    Extent,
    InodeFlag,
    Place,
    Quota,
    TreeSnapshot,
    decode_extent,
    encode,
)
from siltstone.meta.store.transaction import Transaction
from siltstone.types import ROOT_INO, Ino, StripeId, partition_of
from sim.clock import autojump
from sim.volume import SimVolume, small_config

Break = Callable[[Volume, Transaction, "Made"], None]


class Made:
    """What the volume under test holds: a directory with a logged file and a large one."""

    def __init__(self, directory: Ino, logged: Ino, large: Ino, stripe_id: StripeId) -> None:
        self.directory = directory
        self.logged = logged
        self.large = large
        self.stripe_id = stripe_id


async def make(volume: Volume) -> Made:
    """Files of every place."""
    directory = (await volume.mkdir(ROOT_INO, b"d", mode=0o755, uid=0, gid=0)).ino
    logged = (await volume.create(directory, b"logged", mode=0o100644, uid=0, gid=0)).ino
    large = (await volume.create(directory, b"large", mode=0o100644, uid=0, gid=0)).ino
    await volume.write(logged, 0, b"l" * 5000)
    await volume.write(large, 0, os.urandom(400_000))
    await volume.sync()
    first = decode_extent(volume.ledger.store.get(keys.extent(large, 0)) or b"")
    assert first.place == Place.STRIPE
    return Made(directory, logged, large, StripeId(first.address))


def findings_after(tamper: Break, *, deep: bool = False) -> list[str]:
    """Invariants that fsck names after ``tamper`` changed records behind everybody's back."""
    found: list[str] = []

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            made = await make(volume)
            assert await fsck(volume, deep=True) == []
            transaction = volume.ledger.begin()
            tamper(volume, transaction, made)
            transaction.commit()
            found.extend(finding.invariant for finding in await fsck(volume, deep=deep))

    trio.run(main, clock=autojump())
    return found


def _unparsable(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.dentry(made.directory, b"logged"), b"\xc1")


def _dangling_name(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.dentry(made.directory, b"ghost"), encode(Dentry(999_999, 0o100000)))


def _wrong_link_count(volume: Volume, tx: Transaction, made: Made) -> None:
    inode = inodes.get_inode(tx, made.logged)
    inode.nlink = 2
    inodes.put_inode(tx, made.logged, inode)


def _lost_file(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.delete(keys.dentry(made.directory, b"logged"))


def _named_orphan(volume: Volume, tx: Transaction, made: Made) -> None:
    inodes.mark_orphan(tx, made.logged)


def _wrong_parent(volume: Volume, tx: Transaction, made: Made) -> None:
    inode = inodes.get_inode(tx, made.directory)
    inode.parent = made.directory
    inodes.put_inode(tx, made.directory, inode)


def _extent_beyond_the_size(volume: Volume, tx: Transaction, made: Made) -> None:
    inode = inodes.get_inode(tx, made.logged)
    inode.size = 10
    inodes.put_inode(tx, made.logged, inode)


def _overlapping_extents(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.extent(made.logged, 10), encode(Extent(3, Place.INLINE, blob=b"abc")))


def _missing_reference(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.delete(keys.stripe_reference(keys.Reference(made.stripe_id, 0, made.large, 0)))


def _reference_without_extent(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.log_reference(keys.Reference(64, 0, made.logged, 77_777)), keys.encode_length(5))


def _wrong_counters(volume: Volume, tx: Transaction, made: Made) -> None:
    partition = partition_of(made.logged)
    old = counters.read_counters(tx, partition)
    tx.put(keys.counters(partition), encode(Counters(old.inodes, old.bytes + 1, old.serial)))


def _leaked_stripe(volume: Volume, tx: Transaction, made: Made) -> None:
    slab_id = keys.slab_id(keys.slab(next(space.slabs(tx))[0]))
    space.put_stripe(tx, StripeId(slab_id << 16 | 60), Stripe(4096, 100), bytes(48))


def _overlapping_stripes(volume: Volume, tx: Transaction, made: Made) -> None:
    space.put_stripe(tx, StripeId(made.stripe_id + 1), Stripe(4096, 100), bytes(48))


def _checksums_without_a_stripe(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.stripe_checksums(StripeId(made.stripe_id + 9)), bytes(48))


def _slab_with_one_disk_twice(volume: Volume, tx: Transaction, made: Made) -> None:
    slab_id, slab = next(space.slabs(tx))
    disks = (slab.disks[0], *slab.disks[:-1])
    space.put_slab(tx, slab_id, Slab(slab.data_units, slab.parity_units, slab.chunk_bytes, disks))


def _payload_outside_the_log(volume: Volume, tx: Transaction, made: Made) -> None:
    key = keys.extent(made.logged, 0)
    old = decode_extent(tx.get(key) or b"")
    tx.delete(keys.log_reference(keys.Reference(old.address, old.skip, made.logged, 0)))
    tx.put(keys.log_reference(keys.Reference(1 << 50, 0, made.logged, 0)), keys.encode_length(old.length))
    tx.put(key, encode(Extent(old.length, old.place, 1 << 50, 0, old.span, old.blob)))


def _snapshots_without_a_holder(volume: Volume, tx: Transaction, made: Made) -> None:
    inode = inodes.get_inode(tx, made.directory)
    inode.flags |= InodeFlag.HAS_SNAPSHOTS
    inodes.put_inode(tx, made.directory, inode)


def _home_elsewhere(volume: Volume, tx: Transaction, made: Made) -> None:
    inode = inodes.get_inode(tx, made.logged)
    inode.home = ROOT_INO
    inodes.put_inode(tx, made.logged, inode)


def _quota_of_a_file(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.quota(made.logged), encode(Quota(5)))


def _record_of_no_snapshot(volume: Volume, tx: Transaction, made: Made) -> None:
    tx.put(keys.tree_snapshot(made.directory), encode(TreeSnapshot(1, 2, 3, 4)))


def _snapshot_without_a_record(volume: Volume, tx: Transaction, made: Made) -> None:
    top, _ = names.mkdir(tx, made.directory, b"top", mode=0o755, uid=0, gid=0, flags=InodeFlag.SNAPSHOT, now_ns=1)
    names.mkdir(tx, made.directory, b"other", mode=0o755, uid=0, gid=0, flags=InodeFlag.SNAPSHOT, now_ns=1)
    tx.put(keys.tree_snapshot(top), encode(TreeSnapshot(1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("tamper", "invariant"),
    [
        (_unparsable, "I1"),
        (_dangling_name, "I2"),
        (_wrong_link_count, "I3"),
        (_lost_file, "I3"),
        (_named_orphan, "I3"),
        (_wrong_parent, "I3"),
        (_extent_beyond_the_size, "I4"),
        (_overlapping_extents, "I4"),
        (_missing_reference, "I5"),
        (_reference_without_extent, "I5"),
        (_wrong_counters, "I6"),
        (_leaked_stripe, "I7"),
        (_overlapping_stripes, "I8"),
        (_slab_with_one_disk_twice, "I8"),
        (_checksums_without_a_stripe, "I8"),
        (_payload_outside_the_log, "I9"),
        (_snapshots_without_a_holder, "I17"),
        (_record_of_no_snapshot, "I17"),
        (_snapshot_without_a_record, "I17"),
        (_home_elsewhere, "I18"),
        (_quota_of_a_file, "I19"),
    ],
)
def test_a_broken_invariant_is_named(tamper: Break, invariant: str) -> None:
    assert invariant in findings_after(tamper)


def test_a_rotten_unit_is_found_by_a_deep_check_only() -> None:
    def rot(volume: Volume, tx: Transaction, made: Made) -> None:
        slab = volume.ledger.stripe_info(made.stripe_id).slab
        parity_disk = volume.ledger.pool.disk(slab.disks[-1])
        parity_disk.rot(chunk_name(made.stripe_id >> 16, 5), (made.stripe_id & 0xFFFF) * 4096)  # type: ignore

    assert findings_after(rot) == []
    assert findings_after(rot, deep=True) == ["I10"]


def test_settling_ends_when_a_reference_has_no_extent() -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            made = await make(volume)
            transaction = volume.ledger.begin()
            _reference_without_extent(volume, transaction, made)
            transaction.commit()
            with pytest.raises(Corrupt, match="run fsck"):
                await volume.settle()

    trio.run(main, clock=autojump())


def test_a_log_that_begins_where_no_snapshot_leads_to_is_named() -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await make(volume)
            await volume.settle()
            assert await fsck(volume, deep=True) == []
            (increment,) = volume.snapshots.files.snapshots
            for index in increment.disks:
                world.disks[index].rot(str(increment.name), 100, 1)
            assert [finding.invariant for finding in await fsck(volume, deep=True)] == ["I13"]
            volume.snapshots.files.snapshots.clear()
            assert [finding.invariant for finding in await fsck(volume)] == ["I13"]

    trio.run(main, clock=autojump())
