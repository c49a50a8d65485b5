"""Extents against arrays of bytes: contents, sizes, what is allocated, what is freed, and exact back references."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes
from siltstone.errors import InvalidArgument
from siltstone.limits import ROW_BYTES
from siltstone.meta import extents, inodes, names, space
from siltstone.meta.counters import read_totals
from siltstone.meta.extents import FreedStripe, Placed
from siltstone.meta.records import Extent, Inode, Place
from siltstone.meta.store.store import Transaction
from siltstone.meta.totals import SpaceTotals
from siltstone.types import ROOT_INO, DiskId, Ino, SlabId, StripeId, make_stripe_id
from sim.metadata import check_metadata, open_metadata

FILES = 3
SPACE = 48
SLAB = Slab(2, 1, 64 << 20, (DiskId(0), DiskId(1), DiskId(2)))
OFFSETS = st.integers(0, SPACE)
LENGTHS = st.integers(1, 16)
PLACES = st.sampled_from(list(Place))
LIMITS = st.sampled_from([None, 1, 2])


class Content:
    """A file of the model: its bytes, None where there is a hole."""

    def __init__(self) -> None:
        self.cells: list[int | None] = []
        self.version = 0

    def put(self, offset: int, cells: list[int | None]) -> None:
        """Replace a range, growing the file to its end."""
        self.cells += [None] * (offset + len(cells) - len(self.cells))
        self.cells[offset : offset + len(cells)] = cells


class ExtentsMachine(RuleBasedStateMachine):
    """Rules act on the store and on the model. Log and stripes are arrays that only grow."""

    def __init__(self) -> None:
        super().__init__()
        self.store = open_metadata(now_ns=1)
        self.log = bytearray(b"\xee" * 64)
        self.stripes: dict[StripeId, bytes] = {}
        self.freed: set[StripeId] = set()
        self.serial = 0
        self.totals = SpaceTotals()
        self.files: dict[Ino, Content] = {}
        transaction = self.store.begin()
        space.put_slab(transaction, SlabId(7), SLAB)
        for index in range(FILES):
            ino, _ = names.create(
                transaction, ROOT_INO, b"%d" % index, mode=stat.S_IFREG | 0o644, uid=0, gid=0, now_ns=2
            )
            self.files[ino] = Content()
        transaction.commit()

    # --- the world below -------------------------------------------------------------------------------------------

    def fresh(self, length: int) -> bytes:
        """Bytes unlike those written before."""
        self.serial += 1
        return bytes((self.serial * 7 + at) % 251 for at in range(length))

    def place(self, transaction: Transaction, place: Place, data: bytes, margin: int = 0) -> Extent:
        """Put bytes somewhere, with ``margin`` others before and behind them, and describe where."""
        if place == Place.INLINE:
            return Extent(len(data), Place.INLINE, blob=data)
        padded = b"\xdd" * margin + data + b"\xdd" * margin
        if place == Place.LOG:
            address = len(self.log)
            self.log += padded
            return Extent(len(data), Place.LOG, address, margin, len(padded), b"8 bytes.")
        return Extent(len(data), Place.STRIPE, self.write_stripe(transaction, padded), margin)

    def write_stripe(self, transaction: Transaction, data: bytes) -> StripeId:
        stripe_id = make_stripe_id(SlabId(7), len(self.stripes))
        stripe = Stripe(ROW_BYTES, len(data))
        space.put_stripe(transaction, stripe_id, stripe, bytes(checksums_bytes(SLAB, stripe)))
        self.stripes[stripe_id] = data
        return stripe_id

    def fetch(self, extent: Extent) -> bytes:
        if extent.place == Place.INLINE:
            return extent.blob
        if extent.place == Place.LOG:
            start = extent.address + extent.skip
            assert extent.skip + extent.length <= extent.span
            return bytes(self.log[start : start + extent.length])
        assert StripeId(extent.address) not in self.freed
        return self.stripes[StripeId(extent.address)][extent.skip : extent.skip + extent.length]

    def commit(self, transaction: Transaction, freed: list[FreedStripe], *put: tuple[Ino, Inode]) -> None:
        for ino, inode in put:
            inodes.put_inode(transaction, ino, inode)
        transaction.commit()
        self.totals.add(transaction.totals)
        gone = {stripe_id for stripe_id, stripe in freed if stripe is not None}
        for stripe_id, stripe in freed:
            if stripe is None:
                assert stripe_id in gone or space.is_referenced(self.store, stripe_id), "it is said to live on"
                continue
            assert stripe.data_bytes == len(self.stripes[stripe_id])
            assert stripe_id not in self.freed, "a stripe was freed twice"
            self.freed.add(stripe_id)

    def pick(self, index: int) -> tuple[Ino, Content]:
        return list(self.files.items())[index % len(self.files)]

    # --- rules -----------------------------------------------------------------------------------------------------

    @rule(index=st.integers(0, 9), start=OFFSETS, length=LENGTHS, place=PLACES, margin=st.integers(0, 3))
    def write(self, index: int, start: int, length: int, place: Place, margin: int) -> None:
        ino, content = self.pick(index)
        self.replace(ino, content, start, [(place, length, margin)])

    @rule(index=st.integers(0, 9), pieces=st.lists(st.tuples(PLACES, LENGTHS, st.integers(0, 3)), max_size=3))
    def append(self, index: int, pieces: list[tuple[Place, int, int]]) -> None:
        ino, content = self.pick(index)
        self.replace(ino, content, len(content.cells), pieces)

    @rule(index=st.integers(0, 9), which=st.integers(0, 99), place=PLACES)
    def overwrite_one_extent_exactly(self, index: int, which: int, place: Place) -> None:
        ino, content = self.pick(index)
        found = extents.find(self.store, ino, 0, len(content.cells))
        if found:
            offset, extent = found[which % len(found)]
            self.replace(ino, content, offset, [(place, extent.length, 0)])

    @rule(index=st.integers(0, 9), start=OFFSETS, first=LENGTHS, hole=LENGTHS, second=LENGTHS, place=PLACES)
    def write_around_a_hole(self, index: int, start: int, first: int, hole: int, second: int, place: Place) -> None:
        ino, content = self.pick(index)
        self.replace(ino, content, start, [(place, first, 1), (None, hole, 0), (place, second, 0)])

    def replace(self, ino: Ino, content: Content, start: int, pieces: Sequence[tuple[Place | None, int, int]]) -> None:
        transaction, freed, new, position = self.store.begin(), list[FreedStripe](), list[Placed](), start
        inode = inodes.get_inode(transaction, ino)
        cells: list[int | None] = []
        for place, length, margin in pieces:
            if place is None:
                cells += [None] * length
            else:
                data = self.fresh(length)
                cells += data
                new.append((position, self.place(transaction, place, data, margin)))
            position += length
        assert extents.replace_range(transaction, ino, inode, start, position, new, freed) == start
        if new:
            content.put(start, cells)
        content.version += 1
        self.commit(transaction, freed, (ino, inode))

    @rule(index=st.integers(0, 9), start=OFFSETS, length=LENGTHS)
    def punch(self, index: int, start: int, length: int) -> None:
        ino, content = self.pick(index)
        transaction, freed = self.store.begin(), list[FreedStripe]()
        inode = inodes.get_inode(transaction, ino)
        extents.replace_range(transaction, ino, inode, start, start + length, (), freed)
        for at in range(start, min(start + length, len(content.cells))):
            content.cells[at] = None
        content.version += 1
        self.commit(transaction, freed, (ino, inode))

    @rule(index=st.integers(0, 9), size=OFFSETS, limit=LIMITS)
    def truncate(self, index: int, size: int, limit: int | None) -> None:
        ino, content = self.pick(index)
        while True:
            transaction, freed = self.store.begin(), list[FreedStripe]()
            inode = inodes.get_inode(transaction, ino)
            before = inode.size
            done = extents.truncate(transaction, ino, inode, size, freed, limit=limit)
            assert done or size < inode.size < before, "a step of a truncation goes on"
            if len(content.cells) < inode.size:
                content.cells += [None] * (inode.size - len(content.cells))
            del content.cells[inode.size :]
            content.version += inode.size != before
            self.commit(transaction, freed, (ino, inode))
            if done:
                break
            self.contents_are_the_models()
        assert inode.size == size

    @rule(
        source=st.integers(0, 9), source_offset=OFFSETS, length=LENGTHS,
        into=st.integers(0, 9), target_offset=OFFSETS, limit=LIMITS,
    )  # fmt: skip
    def clone(
        self, source: int, source_offset: int, length: int, into: int, target_offset: int, limit: int | None
    ) -> None:
        (ino, content), (target_ino, target_content) = self.pick(source), self.pick(into)
        done = 0
        while done < length:
            transaction, freed = self.store.begin(), list[FreedStripe]()
            inode = inodes.get_inode(transaction, target_ino)
            arguments = (source_offset + done, length - done, target_ino, inode, target_offset + done, freed)
            if ino == target_ino and abs(source_offset - target_offset) < length - done:
                try:
                    extents.clone_range(transaction, ino, *arguments, limit=limit)
                except InvalidArgument:
                    return
                raise AssertionError("overlapping ranges were cloned")
            step = extents.clone_range(transaction, ino, *arguments, limit=limit)
            assert 0 < step <= length - done
            cells = content.cells[source_offset + done : source_offset + done + step]
            target_content.put(target_offset + done, cells + [None] * (step - len(cells)))
            target_content.version += 1
            self.commit(transaction, freed, (target_ino, inode))
            done += step

    @rule(count=st.integers(1, 4), first=st.integers(0, 10))
    def settle(self, count: int, first: int) -> None:
        references = list(extents.log_references(self.store, 0, len(self.log)))[first : first + count]
        assert references == sorted(references)
        transaction, freed, data = self.store.begin(), list[FreedStripe](), b""
        moves: list[tuple[Ino, int, Extent, int]] = []
        for reference, length in references:
            extent = extents.get_extent(transaction, reference.ino, reference.offset)
            assert extent is not None and extent.length == length
            assert (extent.place, extent.address, extent.skip) == (Place.LOG, reference.address, reference.skip)
            moves.append((reference.ino, reference.offset, extent, len(data)))
            data += self.fetch(extent)
        if not moves:
            return
        stripe_id = self.write_stripe(transaction, data)
        for ino, offset, extent, skip in moves:
            new = Extent(extent.length, Place.STRIPE, stripe_id, skip)
            assert extents.relocate(transaction, ino, offset, extent, [new], freed)
            assert not extents.relocate(transaction, ino, offset, extent, [new], freed), "it is not there any more"
        self.commit(transaction, freed)

    @rule(which=st.integers(0, 99), place=st.sampled_from([Place.LOG, Place.STRIPE]))
    def empty_a_stripe(self, which: int, place: Place) -> None:
        living = sorted(self.stripes.keys() - self.freed)
        if not living:
            return
        stripe_id = living[which % len(living)]
        transaction, freed = self.store.begin(), list[FreedStripe]()
        for reference, length in list(space.stripe_references(transaction, stripe_id)):
            extent = extents.get_extent(transaction, reference.ino, reference.offset)
            assert extent is not None and extent.length == length
            new = self.place(transaction, place, self.fetch(extent))
            assert extents.relocate(transaction, reference.ino, reference.offset, extent, [new], freed)
        assert [gone.stripe_id for gone in freed if gone.stripe is not None] == [stripe_id]
        assert {gone.stripe_id for gone in freed} == {stripe_id}
        self.commit(transaction, freed)

    @rule(index=st.integers(0, 9), start=OFFSETS, length=LENGTHS)
    def drop_a_write(self, index: int, start: int, length: int) -> None:
        ino, _ = self.pick(index)
        transaction = self.store.begin()
        inode = inodes.get_inode(transaction, ino)
        new = [(start, self.place(transaction, Place.LOG, self.fresh(length)))]
        extents.replace_range(transaction, ino, inode, start, start + length, new, [])
        inodes.put_inode(transaction, ino, inode)

    @rule(index=st.integers(0, 9), limit=LIMITS)
    def purge_and_make_anew(self, index: int, limit: int | None) -> None:
        ino, content = self.pick(index)
        name = next(name for name, entry in names.list_directory(self.store, ROOT_INO, limit=FILES) if entry.ino == ino)
        transaction = self.store.begin()
        names.unlink(transaction, ROOT_INO, name, now_ns=4)
        transaction.commit()
        stopped = len(content.cells)
        while stopped > 0:
            transaction, freed = self.store.begin(), list[FreedStripe]()
            inode = inodes.get_inode(transaction, ino)
            stopped = extents.replace_range(transaction, ino, inode, 0, stopped, (), freed, limit=limit)
            self.commit(transaction, freed, (ino, inode))
        transaction = self.store.begin()
        inodes.remove_inode(transaction, ino)
        made, _ = names.create(transaction, ROOT_INO, name, mode=stat.S_IFREG, uid=0, gid=0, now_ns=5)
        transaction.commit()
        assert made != ino, "a number is never used twice"
        del self.files[ino]
        self.files[made] = Content()

    # --- what holds after each step --------------------------------------------------------------------------------

    @rule(index=st.integers(0, 9), start=OFFSETS, length=LENGTHS)
    def find_gives_exactly_what_overlaps(self, index: int, start: int, length: int) -> None:
        ino, content = self.pick(index)
        every = extents.find(self.store, ino, 0, max(1, len(content.cells)))
        overlapping = [(at, it) for at, it in every if at < start + length and start < at + it.length]
        assert extents.find(self.store, ino, start, start + length) == overlapping

    @invariant()
    def contents_are_the_models(self) -> None:
        for ino, content in self.files.items():
            inode = inodes.get_inode(self.store, ino)
            assert inode.size == len(content.cells)
            assert inode.version == content.version
            assert inode.allocated_bytes == sum(cell is not None for cell in content.cells)
            cells: list[int | None] = [None] * inode.size
            for offset, extent in extents.find(self.store, ino, 0, inode.size):
                cells[offset : offset + extent.length] = self.fetch(extent)
            assert cells == content.cells

    @invariant()
    def a_stripe_is_recorded_until_it_is_freed(self) -> None:
        assert {stripe_id for stripe_id, _ in space.stripes(self.store)} == self.stripes.keys() - self.freed

    @invariant()
    def the_metadata_agrees_with_itself(self) -> None:
        assert list(check_metadata(self.store)) == []
        allocated = sum(cell is not None for content in self.files.values() for cell in content.cells)
        assert read_totals(self.store).bytes == allocated

    @invariant()
    def what_batches_count_is_what_the_records_add_up_to(self) -> None:
        found = SpaceTotals()
        for _ in space.counted(found, dict(space.slabs(self.store)), space.stripes(self.store)):
            pass
        found.log_live_bytes = space.log_live_bytes(self.store)
        assert self.totals == found


TestExtents = ExtentsMachine.TestCase
TestExtents.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
