"""The oracle that the state machines trust: it must notice whatever single record goes, or changes."""

from __future__ import annotations

import stat

from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes
from siltstone.limits import ROW_BYTES
from siltstone.meta import extents, inodes, keys, names, objects, space, xattrs
from siltstone.meta.records import Extent, Object, Place, decode_inode, encode
from siltstone.meta.store.store import Store
from siltstone.types import ROOT_INO, DiskId, Ino, SlabId, make_stripe_id
from sim.metadata import check_metadata, open_metadata, resolve


def open_full() -> Store:
    """A store that holds one of every kind of record that names and extents make."""
    store = open_metadata()
    transaction = store.begin()
    directory, _ = names.mkdir(transaction, ROOT_INO, b"d", mode=0o755, uid=0, gid=0, now_ns=2)
    ino, _ = names.create(transaction, directory, b"f", mode=stat.S_IFREG, uid=0, gid=0, now_ns=2)
    xattrs.set_xattr(transaction, ino, b"user.a", b"v", now_ns=2)
    inode = inodes.get_inode(transaction, ino)
    objects.put_object(transaction, ino, inode, Object("etag"))
    slab, stripe, stripe_id = Slab(1, 0, 64 << 20, (DiskId(0),)), Stripe(ROW_BYTES, 10), make_stripe_id(SlabId(3), 0)
    space.put_slab(transaction, SlabId(3), slab)
    space.put_stripe(transaction, stripe_id, stripe, bytes(checksums_bytes(slab, stripe)))
    new = [
        (0, Extent(10, Place.STRIPE, stripe_id)),
        (10, Extent(10, Place.LOG, 100, 0, 10, b"8 bytes.")),
        (20, Extent(3, Place.INLINE, blob=b"abc")),
    ]
    extents.replace_range(transaction, ino, inode, 0, 23, new, [])
    inodes.put_inode(transaction, ino, inode)
    inodes.create_anonymous(transaction, directory, mode=0, uid=0, gid=0, now_ns=2)
    transaction.commit()
    return store


def test_a_sound_store_has_no_problems() -> None:
    assert list(check_metadata(open_full())) == []


def test_every_single_record_is_missed_when_it_goes() -> None:
    store = open_full()
    for key, value in list(store.scan(b"", b"\xff")):
        if key[2:3] == keys.XATTR or key == keys.NOTE:
            continue  # the flag says only that there were some; the note is of one batch
        transaction = store.begin()
        transaction.delete(key)
        transaction.commit()
        assert list(check_metadata(store)) != [], f"nobody misses {key!r}"
        transaction = store.begin()
        transaction.put(key, value)
        transaction.commit()
    assert list(check_metadata(store)) == []


def test_every_derived_field_of_an_inode_is_looked_at() -> None:
    store = open_full()
    ino, _ = resolve(store, b"d/f")
    directory, _ = resolve(store, b"d")
    cases: list[tuple[Ino, str, int]] = [
        (ino, "nlink", 2), (ino, "allocated_bytes", 22), (ino, "size", 22), (ino, "flags", 0),
        (directory, "nlink", 3), (directory, "size", 2), (directory, "parent", 5), (ROOT_INO, "nlink", 2),
    ]  # fmt: skip
    for subject, field, value in cases:
        before = store.get(keys.inode(subject))
        assert before is not None
        inode = decode_inode(before)
        setattr(inode, field, value)
        transaction = store.begin()
        transaction.put(keys.inode(subject), encode(inode))
        transaction.commit()
        assert list(check_metadata(store)) != [], f"nobody looks at {field}"
        transaction = store.begin()
        transaction.put(keys.inode(subject), before)
        transaction.commit()


def test_directories_that_hold_each_other_are_found() -> None:
    store = open_metadata()
    transaction = store.begin()
    outer, _ = names.mkdir(transaction, ROOT_INO, b"a", mode=0o755, uid=0, gid=0, now_ns=2)
    inner, _ = names.mkdir(transaction, outer, b"b", mode=0o755, uid=0, gid=0, now_ns=2)
    entry = transaction.get(keys.dentry(ROOT_INO, b"a"))
    assert entry is not None
    transaction.delete(keys.dentry(ROOT_INO, b"a"))
    transaction.put(keys.dentry(inner, b"a"), entry)
    for ino, nlink, size, parent in ((ROOT_INO, 2, 0, ROOT_INO), (inner, 3, 1, outer), (outer, 3, 1, inner)):
        inode = inodes.get_inode(transaction, ino)
        inode.nlink, inode.size, inode.parent = nlink, size, parent
        inodes.put_inode(transaction, ino, inode)
    transaction.commit()
    assert ["below itself" in problem.message for problem in check_metadata(store)] == [True]
