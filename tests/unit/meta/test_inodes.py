"""Inodes, their attributes, totals, and the objects on them."""

from __future__ import annotations

import stat
from typing import Any

import msgspec
import pytest

from siltstone.errors import NotFound
from siltstone.meta import attributes, counters, inodes, keys, names, objects, xattrs
from siltstone.meta.records import Bucket, Counters, InodeFlag, Object, encode
from siltstone.types import ROOT_INO, Ino, partition_of
from sim.metadata import check_metadata, open_metadata


def test_the_root_is_a_directory_that_holds_itself_and_is_counted() -> None:
    store = open_metadata(now_ns=5)
    root = inodes.get_inode(store, ROOT_INO)
    assert (root.mode, root.nlink, root.parent, root.ctime_ns) == (stat.S_IFDIR | 0o755, 2, ROOT_INO, 5)
    assert counters.read_totals(store) == Counters(1, 0, 0)
    assert list(check_metadata(store)) == []


def test_an_inode_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        inodes.get_inode(open_metadata(), Ino(4711))


def test_a_dropped_batch_leaves_no_trace_in_the_totals_and_its_numbers_are_free() -> None:
    store = open_metadata()
    numbers = set()
    for _ in range(2):
        transaction = store.begin()
        numbers.add(names.create(transaction, ROOT_INO, b"f", mode=0o644, uid=0, gid=0, now_ns=1)[0])
    assert len(numbers) == 1
    assert counters.read_totals(store) == Counters(1, 0, 0)


def test_removing_an_inode_takes_all_that_hangs_on_it() -> None:
    store = open_metadata()
    transaction = store.begin()
    names.mkdir(transaction, ROOT_INO, b"bucket", mode=0o755, uid=0, gid=0, now_ns=1)
    ino, inode = names.lookup(transaction, ROOT_INO, b"bucket")
    objects.put_object(transaction, ino, inode, Object("etag"))
    inodes.put_inode(transaction, ino, inode)
    transaction.put(keys.bucket(ino), encode(Bucket("owner", 1)))
    for index in range(40):
        xattrs.set_xattr(transaction, ino, b"user.%d" % index, b"v", now_ns=2)
    transaction.commit()
    assert list(check_metadata(store)) == []
    transaction = store.begin()
    names.rmdir(transaction, ROOT_INO, b"bucket", now_ns=3)
    inodes.remove_inode(transaction, ino)
    transaction.commit()
    start, end = keys.partition_from(partition_of(ino)), keys.partition_from(partition_of(ino) + 1)
    assert [key for key, _ in store.scan(start, end)] == [keys.counters(partition_of(ino))]
    assert counters.read_counters(store, partition_of(ino)) == Counters(0, 0, 1)


def test_an_inode_with_names_or_bytes_is_not_removed() -> None:
    store = open_metadata()
    transaction = store.begin()
    ino, inode = names.create(transaction, ROOT_INO, b"f", mode=0o644, uid=0, gid=0, now_ns=1)
    with pytest.raises(AssertionError):
        inodes.remove_inode(transaction, ino)
    _, inode = names.unlink(transaction, ROOT_INO, b"f", now_ns=1)
    inode.allocated_bytes = 1
    inodes.put_inode(transaction, ino, inode)
    with pytest.raises(AssertionError):
        inodes.remove_inode(transaction, ino)


def test_totals_add_up_over_the_partitions_that_are_in_use() -> None:
    store = open_metadata()
    transaction = store.begin()
    for index in range(50):
        names.create(transaction, ROOT_INO, b"f%d" % index, mode=0o644, uid=0, gid=0, now_ns=1)
        names.mkdir(transaction, ROOT_INO, b"d%d" % index, mode=0o755, uid=0, gid=0, now_ns=1)
    transaction.commit()
    used = list(counters.partitions_in_use(store))
    assert len(used) > 10 and used == sorted(used)
    assert sum(counters.read_counters(store, partition).inodes for partition in used) == 101
    assert counters.read_totals(store).inodes == 101


def test_attributes_change_one_by_one_and_ctime_with_each() -> None:
    store = open_metadata()
    transaction = store.begin()
    ino, before = names.create(transaction, ROOT_INO, b"f", mode=0o644, uid=1, gid=2, now_ns=1)
    changes: dict[str, Any] = {"mode": stat.S_IFREG | 0o4711, "uid": 8, "gid": 9, "atime_ns": -5, "mtime_ns": 2**40}
    for now_ns, (field, value) in enumerate(changes.items(), 10):
        inode = attributes.set_attributes(transaction, ino, now_ns=now_ns, **{field: value})
        setattr(before, field, value)
        before.ctime_ns = now_ns
        assert inode == before == inodes.get_inode(transaction, ino)
    inode = attributes.set_attributes(transaction, ino, atime_ns=7, keeps_ctime=True, now_ns=99)
    before.atime_ns = 7
    assert inode == before == inodes.get_inode(transaction, ino)


def test_a_mode_never_changes_the_type() -> None:
    store = open_metadata()
    inode = attributes.set_attributes(store.begin(), ROOT_INO, mode=stat.S_IFREG | 0o1777, now_ns=1)
    assert inode.mode == stat.S_IFDIR | 0o1777


def test_a_change_of_bytes_empties_etag_checksums_and_parts_and_keeps_the_rest() -> None:
    store = open_metadata()
    transaction = store.begin()
    ino, inode = names.create(transaction, ROOT_INO, b"f", mode=0o644, uid=1, gid=2, now_ns=1)
    objects.forget_digests(transaction, ino, inode)
    assert objects.get_object(transaction, ino, inode) is None
    kept = Object("", "me", {"content-type": "text/plain"}, {"k": "v"})
    full = msgspec.structs.replace(
        kept, etag="e", checksums={"CRC32": "x"}, checksum_type="FULL_OBJECT", part_sizes=[1], part_numbers=[1]
    )
    objects.put_object(transaction, ino, inode, full)
    assert inode.flags == InodeFlag.HAS_OBJECT
    objects.forget_digests(transaction, ino, inode)
    assert objects.get_object(transaction, ino, inode) == kept
    objects.drop_object(transaction, ino, inode)
    assert inode.flags == 0 and transaction.get(keys.object_(ino)) is None
