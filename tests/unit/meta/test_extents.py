"""Extents: the cases that the state machine meets seldom, one by one, and what happens to references and sizes."""

from __future__ import annotations

import stat

import pytest

from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes
from siltstone.errors import FileTooLarge, InvalidArgument
from siltstone.limits import FILE_BYTES_MAX, ROW_BYTES
from siltstone.meta import extents, inodes, names, space
from siltstone.meta.extents import FreedStripe, Placed
from siltstone.meta.keys import Reference
from siltstone.meta.records import Extent, Inode, Place
from siltstone.meta.store.store import Store
from siltstone.types import ROOT_INO, DiskId, Ino, SlabId, StripeId, make_stripe_id
from sim.metadata import check_metadata, open_metadata

SLAB = Slab(2, 1, 64 << 20, (DiskId(0), DiskId(1), DiskId(2)))


class Files:
    """A store with two empty files, and batches of one call each."""

    def __init__(self) -> None:
        self.store: Store = open_metadata()
        transaction = self.store.begin()
        self.a = names.create(transaction, ROOT_INO, b"a", mode=stat.S_IFREG, uid=0, gid=0, now_ns=1)[0]
        self.b = names.create(transaction, ROOT_INO, b"b", mode=stat.S_IFREG, uid=0, gid=0, now_ns=1)[0]
        space.put_slab(transaction, SlabId(0), SLAB)
        transaction.commit()

    def inode(self, ino: Ino) -> Inode:
        return inodes.get_inode(self.store, ino)

    def replace(self, ino: Ino, start: int, end: int, *new: Placed) -> list[FreedStripe]:
        transaction, freed = self.store.begin(), list[FreedStripe]()
        inode = inodes.get_inode(transaction, ino)
        extents.replace_range(transaction, ino, inode, start, end, new, freed)
        inodes.put_inode(transaction, ino, inode)
        transaction.commit()
        assert list(check_metadata(self.store)) == []
        return freed

    def stripe(self, row: int, size: int) -> StripeId:
        transaction = self.store.begin()
        stripe_id, record = make_stripe_id(SlabId(0), row), Stripe(ROW_BYTES, size)
        space.put_stripe(transaction, stripe_id, record, bytes(checksums_bytes(SLAB, record)))
        transaction.commit()
        return stripe_id

    def all(self, ino: Ino) -> list[Placed]:
        return extents.find(self.store, ino, 0, FILE_BYTES_MAX)


def logged(address: int, length: int, skip: int = 0, span: int | None = None) -> Extent:
    """A LOG extent."""
    return Extent(length, Place.LOG, address, skip, span or length + skip, b"8 bytes.")


def test_a_hole_in_the_middle_splits_an_extent_and_moves_the_reference_of_its_end() -> None:
    files = Files()
    files.replace(files.a, 0, 100, (0, logged(1000, 100)))
    files.replace(files.a, 30, 50)
    assert files.all(files.a) == [(0, logged(1000, 30, 0, 100)), (50, logged(1000, 50, 50, 100))]
    assert list(extents.log_references(files.store, 0, 2000)) == [
        (Reference(1000, 0, files.a, 0), 30),
        (Reference(1000, 50, files.a, 50), 50),
    ]
    inode = files.inode(files.a)
    assert (inode.size, inode.allocated_bytes, inode.version) == (100, 80, 2)


def test_log_references_come_in_log_order_and_only_those_of_the_range() -> None:
    files = Files()
    for position, address in enumerate((5000, 100, 3000)):
        files.replace(files.a, position, position + 1, (position, logged(address, 1)))
    found = [reference.address for reference, _ in extents.log_references(files.store, 100, 5000)]
    assert found == [100, 3000]


def test_an_extent_of_another_file_keeps_a_shared_stripe_alive() -> None:
    files = Files()
    stripe_id = files.stripe(0, 200)
    for ino, skip in ((files.a, 0), (files.b, 100)):
        files.replace(ino, 0, 100, (0, Extent(100, Place.STRIPE, stripe_id, skip)))
    assert files.replace(files.a, 0, 100) == [FreedStripe(stripe_id, None)], "it has lost a part and lives on"
    assert files.replace(files.b, 0, 60) == [FreedStripe(stripe_id, None)]
    assert files.replace(files.b, 60, 100) == [FreedStripe(stripe_id, Stripe(ROW_BYTES, 200))]
    assert space.get_stripe(files.store, stripe_id) is None
    assert space.get_checksums(files.store, stripe_id) is None


def test_a_rewrite_into_the_stripe_that_it_replaces_does_not_free_it() -> None:
    files = Files()
    stripe_id = files.stripe(0, 200)
    files.replace(files.a, 0, 100, (0, Extent(100, Place.STRIPE, stripe_id, 0)))
    assert files.replace(files.a, 0, 100, (0, Extent(100, Place.STRIPE, stripe_id, 100))) == [
        FreedStripe(stripe_id, None)
    ]
    assert space.get_stripe(files.store, stripe_id) is not None


def test_an_inline_extent_is_cut_with_its_bytes() -> None:
    files = Files()
    files.replace(files.a, 0, 9, (0, Extent(9, Place.INLINE, blob=b"abcdefghi")))
    files.replace(files.a, 3, 6, (3, Extent(3, Place.INLINE, blob=b"XYZ")))
    assert b"".join(extent.blob for _, extent in files.all(files.a)) == b"abcXYZghi"


def test_a_write_far_behind_the_end_leaves_a_hole_and_sets_the_size() -> None:
    files = Files()
    files.replace(files.a, FILE_BYTES_MAX - 5, FILE_BYTES_MAX, (FILE_BYTES_MAX - 5, logged(1, 5)))
    inode = files.inode(files.a)
    assert (inode.size, inode.allocated_bytes) == (FILE_BYTES_MAX, 5)
    with pytest.raises(FileTooLarge):
        files.replace(files.a, FILE_BYTES_MAX, FILE_BYTES_MAX + 1, (FILE_BYTES_MAX, logged(1, 1)))
    transaction = files.store.begin()
    with pytest.raises(FileTooLarge):
        extents.truncate(transaction, files.a, inode, FILE_BYTES_MAX + 1, [])
    with pytest.raises(FileTooLarge):
        extents.clone_range(transaction, files.a, 0, 2, files.b, files.inode(files.b), FILE_BYTES_MAX - 1, [])


def test_what_a_truncation_cut_off_does_not_come_back_when_the_file_grows() -> None:
    files = Files()
    files.replace(files.a, 0, 100, (0, logged(1000, 100)))
    transaction = files.store.begin()
    inode = inodes.get_inode(transaction, files.a)
    assert extents.truncate(transaction, files.a, inode, 40, [])
    assert extents.truncate(transaction, files.a, inode, 100, [])
    inodes.put_inode(transaction, files.a, inode)
    transaction.commit()
    assert files.all(files.a) == [(0, logged(1000, 40, 0, 100))]
    assert files.inode(files.a).size == 100


def test_a_truncation_to_the_same_size_is_no_change_of_the_data() -> None:
    files = Files()
    files.replace(files.a, 0, 10, (0, logged(1000, 10)))
    inode = files.inode(files.a)
    assert extents.truncate(files.store.begin(), files.a, inode, 10, [])
    assert inode == files.inode(files.a)


def test_a_truncation_goes_on_in_steps_from_the_end() -> None:
    files = Files()
    for at in range(0, 100, 10):
        files.replace(files.a, at, at + 10, (at, logged(1000 + at, 10)))
    sizes = []
    done = False
    while not done:
        transaction = files.store.begin()
        inode = inodes.get_inode(transaction, files.a)
        done = extents.truncate(transaction, files.a, inode, 15, [], limit=3)
        inodes.put_inode(transaction, files.a, inode)
        transaction.commit()
        assert list(check_metadata(files.store)) == []
        sizes.append(files.inode(files.a).size)
    assert sizes == [70, 40, 15]


def test_extents_that_are_left_behind_by_a_size_set_too_early_are_still_dropped() -> None:
    files = Files()
    files.replace(files.a, 0, 100, (0, logged(1000, 100)))
    transaction = files.store.begin()
    inode = inodes.get_inode(transaction, files.a)
    inode.size = 0
    extents.replace_range(transaction, files.a, inode, 0, 100, (), [])
    assert inode.allocated_bytes == 0 and extents.find(transaction, files.a, 0, 100) == []


def test_ranges_of_one_file_may_be_cloned_side_by_side_but_not_over_each_other() -> None:
    files = Files()
    files.replace(files.a, 0, 100, (0, logged(1000, 100)))
    transaction = files.store.begin()
    inode = inodes.get_inode(transaction, files.a)
    for target in (0, 10, 49):
        with pytest.raises(InvalidArgument):
            extents.clone_range(transaction, files.a, 0, 50, files.a, inode, target, [])
    assert extents.clone_range(transaction, files.a, 0, 50, files.a, inode, 50, []) == 50
    assert extents.clone_range(transaction, files.a, 0, 0, files.a, inode, 0, []) == 0
    assert extents.find(transaction, files.a, 50, 100) == [(50, logged(1000, 50, 0, 100))]


def test_a_clone_copies_holes_and_reaches_to_the_end_of_its_range() -> None:
    files = Files()
    files.replace(files.a, 10, 20, (10, logged(1000, 10)))
    files.replace(files.b, 0, 30, (0, logged(5000, 30)))
    transaction = files.store.begin()
    inode = inodes.get_inode(transaction, files.b)
    assert extents.clone_range(transaction, files.a, 0, 50, files.b, inode, 5, []) == 50
    assert (inode.size, inode.allocated_bytes) == (55, 15)
    found = extents.find(transaction, files.b, 0, 100)
    assert found == [(0, logged(5000, 5, 0, 30)), (15, logged(1000, 10))]


def test_relocation_leaves_what_has_changed_and_does_not_touch_the_inode() -> None:
    files = Files()
    files.replace(files.a, 0, 100, (0, logged(1000, 100)))
    stripe_id = files.stripe(0, 100)
    before = files.inode(files.a)
    new = Extent(100, Place.STRIPE, stripe_id, 0)
    transaction = files.store.begin()
    assert not extents.relocate(transaction, files.a, 0, logged(1001, 100), [new], [])
    assert not extents.relocate(transaction, files.a, 1, logged(1000, 100), [new], [])
    assert extents.relocate(transaction, files.a, 0, logged(1000, 100), [new], [])
    transaction.commit()
    assert files.inode(files.a) == before
    assert files.all(files.a) == [(0, new)]
    assert list(extents.log_references(files.store, 0, 10_000)) == []
    assert list(check_metadata(files.store)) == []


def test_neighbours_in_file_and_stripe_become_one_extent() -> None:
    files = Files()
    stripe_id = files.stripe(0, 100)
    pieces = [(0, Extent(40, Place.STRIPE, stripe_id, 10)), (40, Extent(50, Place.STRIPE, stripe_id, 50))]
    files.replace(files.a, 0, 90, *pieces)
    transaction = files.store.begin()
    extents.join(transaction, files.a, pieces)
    transaction.commit()
    assert files.all(files.a) == [(0, Extent(90, Place.STRIPE, stripe_id, 10))]
    assert list(check_metadata(files.store)) == []


def test_extents_that_do_not_fit_their_range_are_our_own_mistake() -> None:
    files = Files()
    for start, end, new in (
        (0, 9, [(0, logged(1, 10))]),
        (5, 15, [(0, logged(1, 10))]),
        (0, 20, [(5, logged(1, 10)), (0, logged(1, 5))]),
        (0, 5, [(0, Extent(5, Place.INLINE, blob=b"four"))]),
        (0, 5, [(0, logged(1, 5, 3, 7))]),
    ):
        with pytest.raises(AssertionError):
            files.replace(files.a, start, end, *new)
