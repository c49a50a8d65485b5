"""Scrubbing: everything on the disks is read, compared with its checksums, and mended, while the volume is in use.

A pass looks at the superblocks, the log (all replicas of every frame), the chunk files, and every unit of every stripe
in the order of the stripes' ids. While it looks at some stripes it is in the read fence and has claimed their slab; it
holds neither longer than a few megabytes take. How far it came and what it found is a metadata record, written every
few seconds, so that a restart goes on from there. What cannot be mended is named in the report and in ``status`` until
a later pass finds it well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.reader import LogSlice
from siltstone.core.scrub_report import ScrubReport, ScrubStatus, Tallies, report_of
from siltstone.core.snapshots import Snapshots
from siltstone.core.types import Progress, ProgressListener
from siltstone.core.windows import claimed_window
from siltstone.engine.format.segment import segment_name
from siltstone.engine.log.scrub import LostFrames
from siltstone.engine.stripe.layout import chunk_name
from siltstone.engine.stripe.scrub import DamageKind, StripeDamage, digests_in
from siltstone.errors import DiskError, DiskMissing, SiltstoneError
from siltstone.meta import extents, keys, space
from siltstone.meta.records import Extent, Place, ScrubRecord, decode, encode
from siltstone.types import DiskId, Ino, Lsn, SlabId, StripeId, slab_of

SAVE_SECONDS = 10.0
"""How often the record of a pass is written."""

LOOK_SECONDS = 60.0
"""How often the background looks whether a pass is due."""

INODES_NAMED_MAX = 5

MISMATCHES = {DamageKind.ROTTEN, DamageKind.MISPLACED}
"""What tells against a disk that answered; errors that it raised were reported when it did."""

SaveRecord = Callable[[ScrubRecord], None]


async def log_extent_is_sound(ledger: Ledger, ino: Ino, offset: int, extent: Extent) -> bool:
    """Whether the payload of a log extent can be read from some replica, which mends others; or is not referred to any
    more. The caller is in the read fence."""
    reference = keys.Reference(extent.address, extent.skip, ino, offset)
    return ledger.store.get(keys.log_reference(reference)) is None or await _payload_is_sound(ledger, extent)


async def fill_is_sound(ledger: Ledger, stripe_id: StripeId, extent: Extent) -> bool:
    """The same of a piece of payload that a redo record of a stripe names."""
    return not space.has_fill(ledger.store, stripe_id) or await _payload_is_sound(ledger, extent)


async def _payload_is_sound(ledger: Ledger, extent: Extent) -> bool:
    piece = LogSlice(extent, 0, extent.length)
    try:
        await ledger.log.read(Lsn(piece.address), piece.size, piece.verify)
    except SiltstoneError:
        return False
    return True


class Scrubber:
    """Scrubs a volume, by hand and in the background. ``superblocks``: what each disk's must be, by disk.

    ``interval``: seconds from the end of a pass to the next one in the background, 0 for none; ``bytes_per_second``:
    how fast that may read, of all disks together, 0 without limit.
    """

    def __init__(
        self,
        ledger: Ledger,
        snapshots: Snapshots,
        superblocks: Mapping[DiskId, bytes],
        *,
        interval: float,
        bytes_per_second: int,
    ) -> None:
        self._ledger = ledger
        self._snapshots = snapshots
        self._superblocks = dict(superblocks)
        self._interval = interval
        self._bytes_per_second = bytes_per_second
        self._lock = trio.Lock()
        self._background = trio.CancelScope()
        self._record: ScrubRecord | None = None
        self._pass: _Pass | None = None
        self.last_error = ""
        """Why the last pass in the background stopped; empty when it did not."""

    async def scrub(self, progress: ProgressListener | None = None, *, bytes_per_second: int = 0) -> ScrubReport:
        """Make a pass, or end one that was broken off, and return what it found. One in the background gives way.

        Damage is no error: it is in the report. Raises what keeps the volume from going on (VolumeClosed, ...).
        """
        self._background.cancel()
        async with self._lock:
            return await self._make_pass(progress, bytes_per_second)

    def expect_superblock(self, disk_id: DiskId, data: bytes) -> None:
        """A disk was added, and this is its superblock."""
        self._superblocks[disk_id] = data

    def forget_superblock(self, disk_id: DiskId) -> None:
        """A disk was removed."""
        self._superblocks.pop(disk_id, None)

    async def run(self) -> None:
        """Make a pass when one is due, and end one that a restart broke off, for ever."""
        while True:
            await self._ledger.clock.sleep(LOOK_SECONDS)
            if self._interval <= 0:
                continue
            try:
                with trio.CancelScope() as self._background:
                    async with self._lock:
                        if self._is_due():
                            await self._make_pass(None, self._bytes_per_second)
                self.last_error = ""
            except SiltstoneError as error:
                self.last_error = str(error)

    def status(self) -> ScrubStatus:
        """Where scrubbing stands."""
        record, now = self._known(), self._pass
        done = total = 0
        rate = 0.0
        if now is not None:
            done, total = now.done_bytes, now.total_bytes
            rate = now.bytes_per_second()
        return ScrubStatus(
            is_running=now is not None,
            done_bytes=done,
            total_bytes=total,
            bytes_per_second=round(rate, 1),
            seconds_left=round(max(0, total - done) / rate, 1) if rate else None,
            report=None if record is None else report_of(record),
            last_error=self.last_error,
        )

    def _known(self) -> ScrubRecord | None:
        if self._record is None:
            value = self._ledger.store.get(keys.SCRUB)
            self._record = None if value is None else decode(ScrubRecord, value)
        return self._record

    def _is_due(self) -> bool:
        """Whether it is time. A volume that was never scrubbed is due an interval after this is asked first."""
        record, now_ns = self._known(), self._ledger.clock.now_ns()
        if record is None:
            self._record = ScrubRecord(now_ns, now_ns)
            self._save(self._record)
            return False
        return not record.ended_ns or now_ns - record.ended_ns >= self._interval * 1e9

    async def _make_pass(self, progress: ProgressListener | None, bytes_per_second: int) -> ScrubReport:
        record = self._known()
        if record is None or record.ended_ns:
            record = self._record = ScrubRecord(self._ledger.clock.now_ns())
        self._pass = _Pass(self._ledger, self._snapshots, record, progress, bytes_per_second, self._save)
        try:
            await self._pass.run(self._superblocks)
        finally:
            self._pass = None
        record.ended_ns = max(self._ledger.clock.now_ns(), 1)
        record.cursor = 0
        await self._ledger.admit()
        self._save(record)
        await self._ledger.sync()
        return report_of(record)

    def _save(self, record: ScrubRecord) -> None:
        """Put the record into a batch of its own. Plain: nobody may hold changes back."""
        transaction = self._ledger.begin()
        transaction.put(keys.SCRUB, encode(record))
        self._ledger.commit(transaction)


class _Pass:
    """One pass, or the rest of one."""

    def __init__(
        self,
        ledger: Ledger,
        snapshots: Snapshots,
        record: ScrubRecord,
        progress: ProgressListener | None,
        bytes_per_second: int,
        save: SaveRecord,
    ) -> None:
        self._ledger = ledger
        self._snapshots = snapshots
        self._record = record
        self._progress = progress
        self._limit = bytes_per_second
        self._save = save
        self._tallies = Tallies(record)
        self._began_ns = self._saved_ns = ledger.clock.monotonic_ns()
        self._read_before = self._tallies.read_bytes
        self._digests: tuple[SlabId, frozenset[bytes]] | None = None
        log_bytes = sum((segment.end - segment.start) * len(segment.disks) for segment in ledger.log.segments())
        stored_bytes = snapshots.status().stored_bytes
        self.total_bytes = ledger.stripes.space().raw_used_bytes + log_bytes + stored_bytes

    @property
    def done_bytes(self) -> int:
        """Bytes read, what was read before a restart included."""
        return min(self._tallies.read_bytes, self.total_bytes)

    def bytes_per_second(self) -> float:
        """How fast this reads."""
        elapsed_ns = self._ledger.clock.monotonic_ns() - self._began_ns
        return (self._tallies.read_bytes - self._read_before) / (elapsed_ns / 1e9) if elapsed_ns > 0 else 0.0

    async def run(self, superblocks: Mapping[DiskId, bytes]) -> None:
        """Look at everything from where the record is."""
        await self._check_superblocks(superblocks)
        await self._check_log()
        await self._check_snapshots()
        await self._recreate_chunks()
        while await self._check_stripes():
            pass

    # --- superblocks -----------------------------------------------------------------------------------------------

    async def _check_superblocks(self, superblocks: Mapping[DiskId, bytes]) -> None:
        witnesses = self._files_by_disk()
        for disk_id in list(superblocks):
            data = superblocks.get(disk_id)
            if data is None:
                continue  # the disk was removed while others were looked at
            try:
                was_mended = await self._ledger.pool.restore_superblock(disk_id, data, witnesses.get(disk_id, ()))
            except DiskMissing:
                continue  # nothing is there: a matter of the disk's state
            except DiskError as error:
                self._tallies.of(disk_id).unmended_superblocks += 1
                self._tallies.add_lost(f"the superblock of disk {disk_id} cannot be mended: {error}")
            else:
                self._tallies.of(disk_id).mended_superblocks += was_mended

    def _files_by_disk(self) -> dict[DiskId, list[str]]:
        """Files that only the right disk has."""
        files: dict[DiskId, list[str]] = {}
        for slab_id, slab in space.slabs(self._ledger.store):
            for unit, disk_id in enumerate(slab.disks):
                files.setdefault(disk_id, []).append(chunk_name(slab_id, unit))
        for segment in self._ledger.log.segments():
            for disk_id in segment.disks:
                files.setdefault(disk_id, []).append(segment_name(segment.start, segment.epoch))
        return files

    # --- the log ---------------------------------------------------------------------------------------------------

    async def _check_log(self) -> None:
        # What is in LMDB is not lost with a frame that is on no replica any more, but for its payload.
        await self._ledger.sync()
        await self._ledger.store.checkpoint()
        for segment in self._ledger.log.segments():
            self._tallies.add_headers(await self._ledger.log.check_header(segment.start))
            lsn = segment.start
            while lsn < segment.end:
                checked = await self._ledger.log.check(lsn)
                if checked is None:
                    break
                size = self._tallies.add_replicas(checked.replicas)
                for disk_id in {*checked.replicas.mended_bytes, *checked.replicas.unmended_bytes}:
                    self._ledger.pool.report_mismatch(disk_id)
                if checked.lost is not None:
                    await self._check_payload(checked.lost)
                lsn = checked.end
                await self._step(size)

    async def _check_payload(self, lost: LostFrames) -> None:
        """Name whose payload is in no replica."""
        era = self._ledger.fence.enter()
        try:
            await self._check_extents(lost)
            await self._check_fills(lost)
        finally:
            self._ledger.fence.leave(era)

    async def _check_extents(self, lost: LostFrames) -> None:
        for reference, _ in list(extents.log_references(self._ledger.store, lost.start, lost.end)):
            extent = extents.get_extent(self._ledger.store, reference.ino, reference.offset)
            if extent is None or extent.place != Place.LOG:
                continue
            if not await log_extent_is_sound(self._ledger, reference.ino, reference.offset, extent):
                self._tallies.add_lost(
                    f"inode {reference.ino}: {extent.length} bytes at {reference.offset} are on no disk of the log "
                    "that is up"
                )

    async def _check_fills(self, lost: LostFrames) -> None:
        pieces = [(key, extent) for key, record in space.fills(self._ledger.store) for _, extent in record.pieces]
        for stripe_id, extent in pieces:
            is_lost = lost.start < extent.address + extent.span and extent.address < lost.end
            if is_lost and not await fill_is_sound(self._ledger, stripe_id, extent):
                self._tallies.add_lost(
                    f"stripe {stripe_id:x}: {extent.length} bytes that its fill needs for disks that are away are on "
                    "no disk of the log that is up"
                )

    # --- snapshots -------------------------------------------------------------------------------------------------

    async def _check_snapshots(self) -> None:
        for snapshot in list(self._snapshots.files.snapshots):
            checked = await self._snapshots.check(snapshot)
            if checked is None:
                if snapshot in self._snapshots.files.snapshots:
                    self._tallies.add_lost(f"{snapshot.name} is whole on no disk that is up; another one is taken")
                continue
            size = self._tallies.add_replicas(checked)
            for disk_id in {*checked.mended_bytes, *checked.unmended_bytes}:
                self._ledger.pool.report_mismatch(disk_id)
            await self._step(size)

    # --- stripes ---------------------------------------------------------------------------------------------------

    async def _recreate_chunks(self) -> None:
        for slab_id, unit in await self._ledger.stripes.damaged_chunks():
            async with self._ledger.claimed(slab_id):
                slab = space.get_slab(self._ledger.store, slab_id)
                if slab is None:
                    continue
                disk_id = slab.disks[unit]
                try:
                    self._tallies.of(disk_id).recreated_files += await self._ledger.stripes.recreate_unit(slab_id, unit)
                except DiskError as error:
                    self._ledger.pool.report(error)
                    self._tallies.add_lost(f"chunk file {chunk_name(slab_id, unit)} cannot be made again: {error}")

    async def _check_stripes(self) -> bool:
        """Look at the next window; False when there is none."""
        async with claimed_window(self._ledger, StripeId(self._record.cursor)) as window:
            if window is None:
                return False
            checked = await self._ledger.stripes.check(
                window.addresses, mend=True, digests=lambda: self._digests_of(slab_of(window.addresses[0].stripe_id))
            )
            for damage in checked.damages:
                self._note_damage(damage)
        for stripe_id in window.broken:
            self._tallies.add_lost(f"stripe {stripe_id:x}: its records do not fit together; run fsck")
        self._record.cursor = window.cursor
        await self._step(self._tallies.add_stripes(checked))
        return True

    def _digests_of(self, slab_id: SlabId) -> frozenset[bytes]:
        if self._digests is None or self._digests[0] != slab_id:
            records = space.checksums_of_slab(self._ledger.store, slab_id)
            self._digests = slab_id, frozenset(digest for record in records for digest in digests_in(record))
        return self._digests[1]

    def _note_damage(self, damage: StripeDamage) -> None:
        for unit in damage.units:
            if unit.kind in MISMATCHES:
                self._ledger.pool.report_mismatch(unit.disk_id)
        if damage.is_lost:
            units = ", ".join(f"{unit.unit} (disk {unit.disk_id}: {unit.kind.value})" for unit in damage.units)
            inos = {reference.ino for reference, _ in space.stripe_references(self._ledger.store, damage.stripe_id)}
            named = ", ".join(map(str, sorted(inos)[:INODES_NAMED_MAX]))
            named += " ..." if len(inos) > INODES_NAMED_MAX else ""
            self._tallies.add_lost(
                f"stripe {damage.stripe_id:x} is damaged beyond its parity in units {units}; inodes {named}"
            )

    # --- going on --------------------------------------------------------------------------------------------------

    async def _step(self, size: int) -> None:
        """After ``size`` bytes were read: tell, save now and then, and keep to the limit."""
        if self._progress is not None:
            self._progress(Progress(self.done_bytes, self.total_bytes, "bytes"))
        clock = self._ledger.clock
        if clock.monotonic_ns() - self._saved_ns >= SAVE_SECONDS * 1e9:
            self._saved_ns = clock.monotonic_ns()
            await self._ledger.admit()
            self._save(self._record)
        if self._limit:
            await clock.sleep(size / self._limit)
        else:
            await trio.lowlevel.checkpoint()
