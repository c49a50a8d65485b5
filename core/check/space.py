"""Where bytes are: extents, references, stripes, slabs, log and snapshots of one shard (I1, I4 - I9, I11 - I13).

Everything that is in the shard's store is checked, whoever owns the partition that it is about: what takes room has to
fit together wherever it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from siltstone.core.check.findings import Findings
from siltstone.core.snapshot_plan import plan_snapshots
from siltstone.core.volume import Volume
from siltstone.engine.stripe.layout import Slab, Stripe, checksums_bytes
from siltstone.limits import PARTITION_COUNT, ROW_BYTES
from siltstone.meta import keys, space
from siltstone.meta.extents import borrowed_key
from siltstone.meta.records import Extent, Place, decode_extent, decode_inode
from siltstone.meta.totals import SpaceTotals
from siltstone.types import Ino, Lsn, PartitionId, StripeId, row_of, slab_of

_Record = tuple[bytes, bytes]


class SpaceCheck:
    """Checks the space of one shard, whose changes are held back."""

    def __init__(self, volume: Volume, findings: Findings) -> None:
        self._volume = volume
        self._reader = volume.ledger.store
        self._findings = findings
        self._log_references = 0
        self._stripe_references = 0
        self._borrowed_references = 0
        self._segments: list[tuple[Lsn, Lsn]] = []

    async def check(self) -> None:
        """Check all of it."""
        self._segments = self._kept_log()
        for partition in map(PartitionId, range(PARTITION_COUNT)):
            await self._check_extents(partition)
        await self._check_references()
        await self._check_stripes()
        await self._check_totals()
        await self._check_fills()
        self._check_snapshots()
        self._check_room()

    # --- extents of inodes -----------------------------------------------------------------------------------------

    async def _check_extents(self, partition: PartitionId) -> None:
        """Go through inodes and extents of a partition side by side: both are in the order of the inodes."""
        inodes = iter(self._scan(keys.all_of(keys.INODE, partition)))
        inode = next(inodes, None)
        ino, end, size = Ino(0), 0, 0
        for key, value in self._scan(keys.all_of(keys.EXTENT, partition)):
            await self._findings.step()
            if keys.inode_ino(key) != ino:
                inode = await self._compare(inodes, inode, ino, size, end)
                ino, end, size = keys.inode_ino(key), 0, 0
            extent = self._findings.parsed(key, value, decode_extent)
            if extent is None:
                continue
            offset = keys.extent_offset(key)
            if offset < end:
                self._findings.report("I4", f"inode {ino}", f"extents overlap at offset {offset}")
            end, size = offset + extent.length, size + extent.length
            self._check_extent(ino, offset, extent)
        inode = await self._compare(inodes, inode, ino, size, end)
        while inode is not None:
            await self._findings.step()
            self._check_inode(inode, 0, 0)
            inode = next(inodes, None)

    async def _compare(
        self, inodes: Iterator[_Record], inode: _Record | None, ino: Ino, size: int, end: int
    ) -> _Record | None:
        """Check the inodes up to ``ino``, whose extents have ``size`` bytes up to ``end``; the one behind it."""
        while inode is not None and keys.inode_ino(inode[0]) < ino:
            await self._findings.step()
            self._check_inode(inode, 0, 0)
            inode = next(inodes, None)
        if not ino:
            return inode  # there were no extents before
        if inode is None or keys.inode_ino(inode[0]) != ino:
            self._findings.report("I2", f"inode {ino}", "an extent belongs to an inode that does not exist")
            return inode
        self._check_inode(inode, size, end)
        return next(inodes, None)

    def _check_inode(self, record: _Record, size: int, end: int) -> None:
        inode = self._findings.parsed(*record, decode_inode)
        if inode is None:
            return
        subject = f"inode {keys.inode_ino(record[0])}"
        if inode.allocated_bytes != size:
            message = f"allocated_bytes is {inode.allocated_bytes}, its extents have {size}"
            self._findings.report("I4", subject, message)
        if end > inode.size:
            self._findings.report("I4", subject, f"an extent ends at {end}, beyond the size {inode.size}")

    def _check_extent(self, ino: Ino, offset: int, extent: Extent) -> None:
        """Whether an extent has its reference, and its payload is kept."""
        reference = keys.Reference(extent.address, extent.skip, ino, offset)
        if extent.place == Place.LOG:
            self._log_references += 1
            back = self._reader.get(keys.log_reference(reference))
            if not self._is_kept(extent):
                message = f"the extent at {offset} lies in no segment of the log"
                self._findings.report("I9", f"inode {ino}", message)
        elif extent.place == Place.STRIPE:
            self._stripe_references += 1
            back = self._reader.get(keys.stripe_reference(reference))
        elif extent.place == Place.REMOTE:
            self._borrowed_references += 1
            back = self._reader.get(borrowed_key(ino, offset, extent))
        else:
            return
        if back is None:
            self._findings.report("I5", f"inode {ino}", f"the extent at {offset} has no back reference")
        elif keys.decode_length(back) != extent.length:
            message = f"the back reference of the extent at {offset} has another length"
            self._findings.report("I5", f"inode {ino}", message)

    async def _check_references(self) -> None:
        # Every extent was seen to have its reference; equal numbers then say that no reference is without its extent.
        for prefix, expected, what in (
            (keys.LOG_REFERENCES, self._log_references, "log"),
            (keys.STRIPE_REFERENCES, self._stripe_references, "stripes"),
            (keys.BORROWED, self._borrowed_references, "other shards"),
        ):
            found = 0
            for _ in self._scan(prefix):
                found += 1
                await self._findings.step()
            if found != expected:
                self._findings.report("I5", what, f"{found} back references for {expected} extents")

    # --- stripes and slabs -----------------------------------------------------------------------------------------

    async def _check_stripes(self) -> None:
        slabs = dict(space.slabs(self._reader))
        disks = {status.disk_id for status in self._volume.ledger.pool.status()}
        report = self._findings.report
        for slab_id, slab in slabs.items():
            if len(set(slab.disks)) != slab.data_units + slab.parity_units or not set(slab.disks) <= disks:
                message = f"its disks {slab.disks} are not k+m different disks of this volume"
                report("I8", f"slab {slab_id}", message)
        row_end: dict[int, int] = {}
        for stripe_id, stripe in space.stripes(self._reader):
            await self._findings.step()
            subject = f"stripe {stripe_id:x}"
            slab_of_it = slabs.get(slab_of(stripe_id))
            if slab_of_it is None:
                report("I8", subject, f"its slab {slab_of(stripe_id)} has no record")
                continue
            self._check_stripe(subject, stripe_id, stripe, slab_of_it)
            if row_of(stripe_id) < row_end.get(slab_of(stripe_id), 0):
                report("I8", subject, "its rows overlap those of the stripe before it")
            row_end[slab_of(stripe_id)] = row_of(stripe_id) + stripe.rows
        for key, _ in self._scan(keys.STRIPE_CHECKSUMS):
            await self._findings.step()
            if self._reader.get(keys.stripe(keys.stripe_id(key))) is None:
                report("I8", f"stripe {keys.stripe_id(key):x}", "it has checksums and no record")

    def _check_stripe(self, subject: str, stripe_id: StripeId, stripe: Stripe, slab: Slab) -> None:
        report = self._findings.report
        if (row_of(stripe_id) + stripe.rows) * ROW_BYTES > slab.chunk_bytes:
            report("I8", subject, "it reaches beyond its chunk files")
        checksums = space.get_checksums(self._reader, stripe_id)
        if checksums is None or len(checksums) != checksums_bytes(slab, stripe):
            report("I8", subject, "its checksums are missing or have the wrong length")
        referenced = False
        for reference, length in space.stripe_references(self._reader, stripe_id):
            referenced = True
            if reference.skip + length > stripe.data_bytes:
                report("I8", subject, f"inode {reference.ino} refers to bytes beyond its {stripe.data_bytes}")
        if not referenced:
            report("I7", subject, "nothing refers to it: its rows are lost until it is removed")

    async def _check_totals(self) -> None:
        """What status shows without looking is what the records add up to."""
        found = SpaceTotals()
        slabs = dict(space.slabs(self._reader))
        for _ in space.counted(found, slabs, space.stripes(self._reader)):
            await self._findings.step()
        for _, value in self._scan(keys.LOG_REFERENCES):
            await self._findings.step()
            found.log_live_bytes += keys.decode_length(value)
        counted = self._volume.ledger.totals
        if counted != found:
            self._findings.report("I6", "totals", f"counted in memory: {counted}; the records have: {found}")

    async def _check_fills(self) -> None:
        report = self._findings.report
        for stripe_id, record in space.fills(self._reader):
            await self._findings.step()
            subject = f"stripe {stripe_id:x}"
            if space.get_stripe(self._reader, stripe_id) is None:
                report("I11", subject, "it is to be filled and has no record")
            elif not self._volume.ledger.stripes.filler.is_pending(stripe_id):
                report("I11", subject, "its fill was not redone: what the log has for it is not in place")
            if not all(self._is_kept(extent) for _, extent in record.pieces):
                report("I11", subject, "what it is to be filled with lies in no segment of the log")

    # --- log, snapshots, room --------------------------------------------------------------------------------------

    def _kept_log(self) -> list[tuple[Lsn, Lsn]]:
        log = self._volume.ledger.log
        segments = [(segment.start, segment.end) for segment in log.segments()]
        # What is not durable yet lies in memory, behind the end of the open segment.
        return [*segments, (segments[-1][1], log.next_lsn)]

    def _is_kept(self, extent: Extent) -> bool:
        return any(start <= extent.address and extent.address + extent.span <= end for start, end in self._segments)

    def _check_snapshots(self) -> None:
        snapshots = [item for item in self._volume.snapshots.files.snapshots if not item.is_rotten]
        log_start = self._volume.ledger.log.unbroken_start
        if not plan_snapshots(snapshots, snapshots, log_start).bases:
            message = f"none leads up to LSN {log_start}, where the log goes on: were HOME lost, the volume would be"
            self._findings.report("I13", "snapshots", message)

    def _check_room(self) -> None:
        slabs = self._volume.ledger.stripes.slabs
        found = slabs.space()
        counted = slabs.recount()
        if found != counted:
            self._findings.report("I12", "the room in slabs", f"it is kept as {found}, and counted anew {counted}")
        if not slabs.is_indexed():
            self._findings.report("I12", "the units of slabs", "they are kept elsewhere than a look at each slab finds")

    def _scan(self, prefix: bytes) -> Iterator[_Record]:
        """All records under a prefix. Nobody changes them, so one scan may span checkpoints."""
        return iter(self._reader.scan(*keys.prefix_range(prefix)))
