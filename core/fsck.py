"""fsck: every invariant between namespace, extents, stripes, slabs and log, checked against each other.

Read only. The metadata is walked while writers wait, since a check of a moving target would report its own races;
reading the units (``deep``) then runs beside everything else. docs/invariants.md numbers what is checked, and findings
cite the numbers.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable

import msgspec
import trio

from siltstone.core.scrub import fill_is_sound, log_extent_is_sound
from siltstone.core.snapshot_plan import plan_snapshots
from siltstone.core.types import Progress, ProgressListener
from siltstone.core.volume import Volume
from siltstone.core.windows import claimed_window
from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes
from siltstone.engine.stripe.scrub import DamageKind
from siltstone.errors import Corrupt
from siltstone.limits import PARTITION_COUNT, ROW_BYTES
from siltstone.meta import counters, keys, space
from siltstone.meta.records import Dentry, Extent, Inode, InodeFlag, Part, Place, decode, decode_extent
from siltstone.meta.totals import SpaceTotals
from siltstone.types import ROOT_INO, Ino, Lsn, PartitionId, StripeId, row_of, slab_of

WALK_STEP = 50
"""Records and ranges looked at between two checkpoints."""


class Finding(msgspec.Struct, frozen=True):
    """One broken invariant: its number in docs/invariants.md, what it concerns, and what is wrong."""

    invariant: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.message}"


class _Walk:
    """The state of one check of the metadata."""

    def __init__(self, volume: Volume, progress: ProgressListener | None) -> None:
        self.volume = volume
        self.store = volume.ledger.store
        self.findings: list[Finding] = []
        self.inodes: dict[Ino, Inode] = {}
        self.extent_bytes: dict[Ino, int] = defaultdict(int)
        self.extent_end: dict[Ino, int] = {}
        self.names: dict[Ino, int] = defaultdict(int)
        self.entries: dict[Ino, int] = defaultdict(int)
        self.subdirectories: dict[Ino, int] = defaultdict(int)
        self.parents: dict[Ino, Ino] = {}
        self.orphans: set[Ino] = set()
        self.part_inodes: set[Ino] = set()
        self.log_extents: list[tuple[Ino, int, Extent]] = []
        self.fills: list[tuple[StripeId, Extent]] = []
        self.log_references = 0
        self.stripe_references = 0
        self._progress = progress
        self._steps = 0

    def report(self, invariant: str, subject: str, message: str) -> None:
        """Note a broken invariant."""
        self.findings.append(Finding(invariant, subject, message))

    async def step(self) -> None:
        """Let others run now and then."""
        self._steps += 1
        if self._steps % WALK_STEP == 0:
            if self._progress is not None:
                self._progress(Progress(self._steps, self._steps, "records"))
            await trio.lowlevel.checkpoint()


async def fsck(volume: Volume, *, deep: bool = False, progress: ProgressListener | None = None) -> list[Finding]:
    """Check the volume; returns what is wrong. With ``deep`` every unit and every payload in the log is read too."""
    walk = _Walk(volume, progress)
    async with volume.quiesced():
        await _walk_partitions(walk)
        await _check_inodes(walk)
        await _check_counters(walk)
        await _check_references(walk)
        await _check_stripes(walk)
        await _check_totals(walk)
        await _check_fills(walk)
        _check_log(walk)
        _check_snapshots(walk)
        _check_space(walk)
    if deep:
        await _read_everything(walk, progress)
    return walk.findings


async def _walk_partitions(walk: _Walk) -> None:
    for partition in range(PARTITION_COUNT):
        for tag, visit in _VISITORS.items():
            prefix = b"p" + bytes((partition,)) + tag
            await walk.step()
            for key, value in _pages(walk, prefix):
                try:
                    visit(walk, key, value)
                except (msgspec.MsgspecError, ValueError) as error:
                    walk.report("I1", f"key {key.hex()}", f"the record does not parse: {error}")
                await walk.step()


def _pages(walk: _Walk, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
    """All records under a prefix. Nobody commits while the volume is quiesced, so one scan may span checkpoints."""
    return walk.store.scan(*keys.prefix_range(prefix))


def _visit_inode(walk: _Walk, key: bytes, value: bytes) -> None:
    walk.inodes[keys.inode_ino(key)] = decode(Inode, value)


def _visit_dentry(walk: _Walk, key: bytes, value: bytes) -> None:
    entry = decode(Dentry, value)
    directory, ino = keys.inode_ino(key), Ino(entry.ino)
    walk.names[ino] += 1
    walk.entries[directory] += 1
    if stat.S_ISDIR(entry.kind):
        walk.subdirectories[directory] += 1
        walk.parents[ino] = directory


def _visit_extent(walk: _Walk, key: bytes, value: bytes) -> None:
    extent = decode_extent(value)
    ino, offset = keys.inode_ino(key), keys.extent_offset(key)
    if offset < walk.extent_end.get(ino, 0):
        walk.report("I4", f"inode {ino}", f"extents overlap at offset {offset}")
    walk.extent_end[ino] = offset + extent.length
    walk.extent_bytes[ino] += extent.length
    reference = keys.Reference(extent.address, extent.skip, ino, offset)
    if extent.place == Place.LOG:
        walk.log_references += 1
        walk.log_extents.append((ino, offset, extent))
        back = walk.store.get(keys.log_reference(reference))
    elif extent.place == Place.STRIPE:
        walk.stripe_references += 1
        back = walk.store.get(keys.stripe_reference(reference))
    else:
        return
    if back is None:
        walk.report("I5", f"inode {ino}", f"the extent at {offset} has no back reference")
    elif keys.decode_length(back) != extent.length:
        walk.report("I5", f"inode {ino}", f"the back reference of the extent at {offset} has another length")


def _visit_orphan(walk: _Walk, key: bytes, value: bytes) -> None:
    walk.orphans.add(keys.orphan_ino(key))


def _visit_part(walk: _Walk, key: bytes, value: bytes) -> None:
    walk.part_inodes.add(Ino(decode(Part, value).ino))


_VISITORS = {
    b"d": _visit_dentry,
    b"e": _visit_extent,
    b"i": _visit_inode,
    b"n": _visit_part,
    b"o": _visit_orphan,
}


async def _check_inodes(walk: _Walk) -> None:
    for ino in (walk.names.keys() | walk.entries.keys() | walk.extent_bytes.keys()) - walk.inodes.keys():
        walk.report("I2", f"inode {ino}", "a name, an entry or an extent belongs to an inode that does not exist")
    for ino, inode in walk.inodes.items():
        await walk.step()
        subject = f"inode {ino}"
        if inode.allocated_bytes != walk.extent_bytes.get(ino, 0):
            found = walk.extent_bytes.get(ino, 0)
            walk.report("I4", subject, f"allocated_bytes is {inode.allocated_bytes}, its extents have {found}")
        if walk.extent_end.get(ino, 0) > inode.size:
            walk.report("I4", subject, f"an extent ends at {walk.extent_end[ino]}, beyond the size {inode.size}")
        if inode.flags & InodeFlag.HAS_OBJECT and walk.store.get(keys.object_(ino)) is None:
            walk.report("I3", subject, "is marked as an object and has no Object record")
        _check_links(walk, ino, inode)
    if ROOT_INO not in walk.inodes:
        walk.report("I2", "root", "there is no root directory")


def _check_links(walk: _Walk, ino: Ino, inode: Inode) -> None:
    subject = f"inode {ino}"
    found = walk.names.get(ino, 0)
    if inode.nlink == 0 or (found == 0 and ino != ROOT_INO):
        if found:
            walk.report("I3", subject, f"has {found} names and counts none")
        elif ino not in walk.orphans and ino not in walk.part_inodes:
            walk.report("I3", subject, "has no name and is neither an orphan nor a part of an upload")
        return
    if ino in walk.orphans:
        walk.report("I3", subject, "has a name and is marked as an orphan")
    if not inode.is_directory:
        if inode.nlink != found:
            walk.report("I3", subject, f"counts {inode.nlink} links, {found} names were found")
        return
    expected = 2 + walk.subdirectories.get(ino, 0)
    if inode.nlink != expected:
        walk.report("I3", subject, f"directory counts {inode.nlink} links, {expected} are right")
    if inode.size != walk.entries.get(ino, 0):
        walk.report("I3", subject, f"directory counts {inode.size} entries, it has {walk.entries.get(ino, 0)}")
    if ino != ROOT_INO and (found != 1 or inode.parent != walk.parents.get(ino)):
        walk.report("I3", subject, f"directory has {found} names, and {inode.parent} as its parent")


async def _check_counters(walk: _Walk) -> None:
    inode_counts: dict[PartitionId, int] = defaultdict(int)
    byte_counts: dict[PartitionId, int] = defaultdict(int)
    for ino, inode in walk.inodes.items():
        inode_counts[PartitionId(ino & 0xFF)] += 1
        byte_counts[PartitionId(ino & 0xFF)] += inode.allocated_bytes
    for partition in map(PartitionId, range(PARTITION_COUNT)):
        await walk.step()
        recorded = counters.read_counters(walk.store, partition)
        if (recorded.inodes, recorded.bytes) != (inode_counts[partition], byte_counts[partition]):
            walk.report(
                "I6",
                f"partition {partition}",
                f"counts {recorded.inodes} inodes and {recorded.bytes} bytes, "
                f"{inode_counts[partition]} and {byte_counts[partition]} are right",
            )


async def _check_references(walk: _Walk) -> None:
    # Every extent was seen to have its reference; equal numbers then say that no reference is without its extent.
    for prefix, expected, what in (
        (keys.LOG_REFERENCES, walk.log_references, "log"),
        (keys.STRIPE_REFERENCES, walk.stripe_references, "stripes"),
    ):
        found = 0
        for _ in walk.store.scan(*keys.prefix_range(prefix)):
            found += 1
            await walk.step()
        if found != expected:
            walk.report("I5", what, f"{found} back references for {expected} extents")


async def _check_stripes(walk: _Walk) -> None:
    slabs = dict(space.slabs(walk.store))
    disks = {status.disk_id for status in walk.volume.ledger.pool.status()}
    for slab_id, slab in slabs.items():
        if len(set(slab.disks)) != slab.data_units + slab.parity_units or not set(slab.disks) <= disks:
            walk.report("I8", f"slab {slab_id}", f"its disks {slab.disks} are not k+m different disks of this volume")
    row_end: dict[int, int] = {}
    for stripe_id, stripe in space.stripes(walk.store):
        await walk.step()
        subject = f"stripe {stripe_id:x}"
        slab_of_it = slabs.get(slab_of(stripe_id))
        if slab_of_it is None:
            walk.report("I8", subject, f"its slab {slab_of(stripe_id)} has no record")
            continue
        _check_stripe(walk, subject, stripe_id, stripe, slab_of_it)
        if row_of(stripe_id) < row_end.get(slab_of(stripe_id), 0):
            walk.report("I8", subject, "its rows overlap those of the stripe before it")
        row_end[slab_of(stripe_id)] = row_of(stripe_id) + stripe.rows
    for key, _ in walk.store.scan(*keys.prefix_range(keys.STRIPE_CHECKSUMS)):
        await walk.step()
        if walk.store.get(keys.stripe(keys.stripe_id(key))) is None:
            walk.report("I8", f"stripe {keys.stripe_id(key):x}", "it has checksums and no record")


def _check_stripe(walk: _Walk, subject: str, stripe_id: StripeId, stripe: Stripe, slab: Slab) -> None:
    if (row_of(stripe_id) + stripe.rows) * ROW_BYTES > slab.chunk_bytes:
        walk.report("I8", subject, "it reaches beyond its chunk files")
    checksums = space.get_checksums(walk.store, stripe_id)
    if checksums is None or len(checksums) != checksums_bytes(slab, stripe):
        walk.report("I8", subject, "its checksums are missing or have the wrong length")
    referenced = False
    for reference, length in space.stripe_references(walk.store, stripe_id):
        referenced = True
        if reference.skip + length > stripe.data_bytes:
            walk.report("I8", subject, f"inode {reference.ino} refers to bytes beyond its {stripe.data_bytes}")
    if not referenced:
        walk.report("I7", subject, "nothing refers to it: its rows are lost until it is removed")


async def _check_totals(walk: _Walk) -> None:
    """What status shows without looking is what the records add up to."""
    found = SpaceTotals()
    slabs = dict(space.slabs(walk.store))
    for _ in space.counted(found, slabs, space.stripes(walk.store)):
        await walk.step()
    for _, value in walk.store.scan(*keys.prefix_range(keys.LOG_REFERENCES)):
        await walk.step()
        found.log_live_bytes += keys.decode_length(value)
    counted = walk.volume.ledger.totals
    if counted != found:
        walk.report("I6", "totals", f"counted in memory: {counted}; the records have: {found}")


async def _check_fills(walk: _Walk) -> None:
    segments = _kept_log(walk)
    for stripe_id, record in space.fills(walk.store):
        await walk.step()
        subject = f"stripe {stripe_id:x}"
        if space.get_stripe(walk.store, stripe_id) is None:
            walk.report("I11", subject, "it is to be filled and has no record")
        elif not walk.volume.ledger.stripes.filler.is_pending(stripe_id):
            walk.report("I11", subject, "its fill was not redone: what the log has for it is not in place")
        walk.fills += [(stripe_id, extent) for _, extent in record.pieces]
        if not all(_is_kept(segments, extent) for _, extent in record.pieces):
            walk.report("I11", subject, "what it is to be filled with lies in no segment of the log")


def _check_space(walk: _Walk) -> None:
    slabs = walk.volume.ledger.stripes.slabs
    found = slabs.space()
    counted = slabs.recount()
    if found != counted:
        walk.report("I12", "the room in slabs", f"it is kept as {found}, and counted anew {counted}")


def _check_snapshots(walk: _Walk) -> None:
    snapshots = [item for item in walk.volume.snapshots.files.snapshots if not item.is_rotten]
    log_start = walk.volume.ledger.log.unbroken_start
    if not plan_snapshots(snapshots, snapshots, log_start).bases:
        walk.report(
            "I13",
            "snapshots",
            f"none leads up to LSN {log_start}, where the log goes on: were HOME lost, the volume would be",
        )


def _check_log(walk: _Walk) -> None:
    segments = _kept_log(walk)
    for ino, offset, extent in walk.log_extents:
        if not _is_kept(segments, extent):
            walk.report("I9", f"inode {ino}", f"the extent at {offset} lies in no segment of the log")


def _kept_log(walk: _Walk) -> list[tuple[Lsn, Lsn]]:
    log = walk.volume.ledger.log
    segments = [(segment.start, segment.end) for segment in log.segments()]
    # What is not durable yet lies in memory, behind the end of the open segment.
    return [*segments, (segments[-1][1], log.next_lsn)]


def _is_kept(segments: list[tuple[Lsn, Lsn]], extent: Extent) -> bool:
    return any(start <= extent.address and extent.address + extent.span <= end for start, end in segments)


async def _read_everything(walk: _Walk, progress: ProgressListener | None) -> None:
    """Every unit, payload and snapshot, as scrubbing reads them, but nothing is mended."""
    ledger, files = walk.volume.ledger, walk.volume.snapshots.files
    for snapshot in list(files.snapshots):
        try:
            await files.read_through(snapshot)
        except Corrupt as error:
            if snapshot in files.snapshots and snapshot not in walk.volume.snapshots.plan().droppable:
                walk.report("I13", str(snapshot.name), f"it cannot be read from the disks that are up: {error}")
    total = ledger.stripes.space().raw_used_bytes + sum(extent.length for _, _, extent in walk.log_extents)
    done = 0
    cursor = StripeId(0)
    while True:
        async with claimed_window(ledger, cursor) as window:
            if window is None:
                break
            checked = await ledger.stripes.check(window.addresses, mend=False, digests=frozenset)
        cursor = window.cursor
        for stripe_id in window.broken:
            walk.report("I8", f"stripe {stripe_id:x}", "its records do not fit together")
        for damage in checked.damages:
            for unit in damage.units:
                if unit.kind is DamageKind.ABSENT:
                    continue
                message = f"unit {unit.unit} on disk {unit.disk_id} is not what was written: {unit.kind.value}"
                walk.report("I10", f"stripe {damage.stripe_id:x}", message)
        done += sum(checked.read_bytes.values())
        if progress is not None:
            progress(Progress(min(done, total), total, "bytes"))
    for ino, offset, extent in walk.log_extents:
        era = ledger.fence.enter()
        try:
            if not await log_extent_is_sound(ledger, ino, offset, extent):
                walk.report("I10", f"inode {ino}", f"the extent at {offset} cannot be read from the log")
        finally:
            ledger.fence.leave(era)
        done += extent.length
        if progress is not None:
            progress(Progress(min(done, total), total, "bytes"))
    for stripe_id, extent in walk.fills:
        era = ledger.fence.enter()
        try:
            if not await fill_is_sound(ledger, stripe_id, extent):
                walk.report("I10", f"stripe {stripe_id:x}", "what it is to be filled with cannot be read from the log")
        finally:
            ledger.fence.leave(era)
