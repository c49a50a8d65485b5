"""What `siltstone status` shows: a picture of the volume at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from siltstone.core.ledger import Ledger
from siltstone.core.mover import Mover, MoveStatus
from siltstone.core.orphans import Orphans
from siltstone.core.relocate import RelocateStatus, Relocator
from siltstone.core.room import Room
from siltstone.core.scrub import Scrubber
from siltstone.core.scrub_report import ScrubStatus
from siltstone.core.settle import Settler
from siltstone.core.snapshots import Snapshots, SnapshotStatus
from siltstone.core.write_back import WriteBack
from siltstone.engine.pool import DiskState, DiskStatus
from siltstone.engine.stripe.store import Tier
from siltstone.meta import counters
from siltstone.types import Lsn

if TYPE_CHECKING:
    from siltstone.core.trash import Trash


class DiskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One disk. Bytes are those of its file system, shared by the disks on the same device."""

    disk_id: int
    state: str
    """up, new, draining, suspect, failed or missing."""
    role: str
    """member, new, draining or lost: what the volume makes of it, whatever its health."""
    reason: str
    since_ns: int
    """When it came into this state, by the wall clock."""
    total_bytes: int
    free_bytes: int
    errors: int
    mismatches: int


class WriteAmplification(msgspec.Struct, frozen=True, kw_only=True):
    """What was written to disks for what users wrote, since the volume was opened. Bytes."""

    user_bytes: int
    """That users wrote and that reached the log or stripes."""
    logged_bytes: int
    """Of these, what went through the log."""
    log_bytes: int
    """Written to the log: payload and metadata, all copies."""
    stripe_bytes: dict[str, int]
    """Written to chunk files, parity included, by tier: direct, settle, fill, relocate, move."""
    total: float
    """All of that for each user byte; 0 before anything is written."""
    engine: float
    """What was written but for moves, for what must be: copies of what is logged, and everything once with parity."""


class VolumeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes are what the names say; ``warnings`` are sentences for the person who looks."""

    inodes: int
    file_bytes: int
    """Sum of the extents of all files: what users wrote and did not delete; shared bytes count each time."""
    log_live_bytes: int
    """Of these, what lies in the log."""
    stripe_data_bytes: int
    """Data in stripes, dead parts of living stripes included."""
    stripe_raw_bytes: int
    """What stripes take on the disks: data, padding and parity."""
    log_raw_bytes: int
    """What the segments of the log hold, all copies together."""
    live_bytes: int
    """Of the files' bytes, what does not lie in the log: in stripes, or (runs of up to 128 bytes) in the metadata."""
    dead_bytes: int
    """In stripes that live on: what users overwrote or deleted, and room that was left over; as far as it is known."""
    raw_used_bytes: int
    """Rows of stripes, in all chunk files: data, dead bytes, padding and parity."""
    utilisation: float
    """live_bytes * (k+m)/k / raw_used_bytes: of what stripes take on the disks, the share that is living data and the
    parity that this needs; 1 where there are no stripes. More than 1 where clones share bytes, which count for each of
    them, and by inline bytes, which take nothing."""
    utilisation_with_log: float
    """The same with the log on both sides: (live_bytes * (k+m)/k + log_live_bytes * copies) / (raw_used_bytes +
    log_raw_bytes). What metadata takes in the log, and payload that was settled or died, counts as waste."""
    write_amplification: WriteAmplification
    space_amplification: float
    """(stripe_raw_bytes + log_raw_bytes) / file_bytes; 0 for an empty volume."""
    stripes: int
    slabs: int
    """Those that are just being made or deleted included."""
    codec: str
    """What computes parity: "isa-l", or "zfec", which is some 20 times slower."""
    usable_total_bytes: int
    usable_free_bytes: int
    available_bytes: int
    in_slabs_bytes: int
    """Of what is free, free rows of slabs that are there; the rest is free on the disks, for whoever takes it first."""
    log_segments: int
    log_lsn: int
    log_durable_lsn: int
    log_applied_lsn: int
    log_pending_bytes: int
    log_is_degraded: bool
    dirty_bytes: int
    orphans: int
    trash_files: int
    trash_bytes: int
    """Of extents in the trash, which count in file_bytes and live_bytes, too; given back first when room is short."""
    trash_not_kept: int
    """Files that were cut shorter and not kept in the trash, since there was no room."""
    reclaim_queue: int
    settled_bytes: int
    settled_stripes: int
    filled_bytes: int
    """Of the settled bytes, what went to dead places of worn stripes."""
    filled_stripes: int
    pending_fills: int
    """Stripes whose fill waits for a disk to be in place everywhere."""
    degraded_reads: int
    hedged_reads: int
    """Reads in which a unit was late and computed from others meanwhile."""
    won_hedges: int
    """Of these, how many had the computed bytes first."""
    hedged_log_reads: int
    """Replicas of the log that were read because another was late."""
    repaired_blocks: int
    writer_waits: int
    throttled_seconds: float
    """What writers were delayed by because the log was filling, all together."""
    disks: list[DiskReport]
    scrub: ScrubStatus
    moves: MoveStatus
    relocation: RelocateStatus
    snapshots: SnapshotStatus
    warnings: list[str]


class Parts(NamedTuple):
    """The parts of an open volume that have something to tell."""

    ledger: Ledger
    write_back: WriteBack
    orphans: Orphans
    settler: Settler
    room: Room
    scrubber: Scrubber
    mover: Mover
    relocator: Relocator
    snapshots: Snapshots
    trash: Trash


def volume_status(parts: Parts) -> VolumeStatus:
    """Look at everything that is counted anyway: takes some microseconds for each slab and disk, however many stripes
    and files there are, so whoever asks often holds nobody up."""
    ledger, write_back, settler = parts.ledger, parts.write_back, parts.settler
    totals, placed = counters.read_totals(ledger.store), ledger.totals
    live_bytes = totals.bytes - placed.log_live_bytes
    segments = ledger.log.segments()
    log_raw = sum((segment.end - segment.start) * len(segment.disks) for segment in segments)
    engine_space = ledger.stripes.space()
    engine_counts = ledger.stripes.statistics()
    disks = [_disk_report(disk) for disk in ledger.pool.status()]
    log = ledger.log.statistics()
    fills = settler.fills()
    return VolumeStatus(
        inodes=counters.read_totals(ledger.store, ledger.owned_partitions()).inodes,
        file_bytes=totals.bytes,
        log_live_bytes=placed.log_live_bytes,
        stripe_data_bytes=placed.stripe_data_bytes,
        stripe_raw_bytes=placed.stripe_raw_bytes,
        log_raw_bytes=log_raw,
        live_bytes=live_bytes,
        dead_bytes=ledger.worn.dead_bytes,
        raw_used_bytes=engine_space.raw_used_bytes,
        utilisation=_share(live_bytes * _redundancy(ledger), engine_space.raw_used_bytes),
        utilisation_with_log=_share(
            live_bytes * _redundancy(ledger) + placed.log_live_bytes * ledger.log.replicas,
            engine_space.raw_used_bytes + log_raw,
        ),
        write_amplification=_write_amplification(ledger, write_back),
        space_amplification=round((placed.stripe_raw_bytes + log_raw) / totals.bytes, 3) if totals.bytes else 0.0,
        stripes=placed.stripes,
        slabs=engine_space.slabs,
        codec=ledger.stripes.codec_name,
        usable_total_bytes=engine_space.usable_total_bytes,
        usable_free_bytes=engine_space.usable_free_bytes,
        available_bytes=parts.room.available_bytes(),
        in_slabs_bytes=engine_space.data_free_bytes,
        log_segments=len(segments),
        log_lsn=ledger.log.next_lsn,
        log_durable_lsn=ledger.log.durable_lsn,
        log_applied_lsn=Lsn(ledger.store.applied_lsn),
        log_pending_bytes=ledger.log.pending_bytes,
        log_is_degraded=log.is_degraded,
        dirty_bytes=write_back.dirty_bytes,
        orphans=len(parts.orphans),
        trash_files=parts.trash.files,
        trash_bytes=parts.trash.size,
        trash_not_kept=parts.trash.not_kept,
        reclaim_queue=len(ledger.reclaimer),
        settled_bytes=settler.settled_bytes,
        settled_stripes=settler.settled_stripes,
        filled_bytes=fills.filled_bytes,
        filled_stripes=fills.filled_stripes,
        pending_fills=fills.pending,
        degraded_reads=engine_counts.degraded_reads,
        hedged_reads=engine_counts.hedged_reads,
        won_hedges=engine_counts.won_hedges,
        hedged_log_reads=log.hedged_reads,
        repaired_blocks=engine_counts.repaired_blocks,
        writer_waits=ledger.waits + write_back.waits + ledger.throttle.waits,
        throttled_seconds=round(ledger.throttle.waited_ns / 1e9, 3),
        disks=disks,
        scrub=parts.scrubber.status(),
        moves=parts.mover.status(),
        relocation=parts.relocator.status(),
        snapshots=parts.snapshots.status(),
        warnings=_warnings(parts),
    )


def _redundancy(ledger: Ledger) -> float:
    """Bytes on disks for each byte in stripes of full width."""
    stripes = ledger.stripes
    return (stripes.data_units + stripes.slabs.parity_units) / stripes.data_units


def _share(useful: float, taken: int) -> float:
    return round(useful / taken, 4) if taken else 1.0


def _write_amplification(ledger: Ledger, write_back: WriteBack) -> WriteAmplification:
    logged, user = write_back.logged_bytes, write_back.logged_bytes + write_back.direct_bytes
    log_bytes = ledger.log.statistics().flushed_bytes
    by_tier = {tier.value: size for tier, size in ledger.stripes.statistics().raw_bytes_written.items()}
    written = log_bytes + sum(by_tier.values())
    needed = ledger.log.replicas * logged + _redundancy(ledger) * user
    return WriteAmplification(
        user_bytes=user,
        logged_bytes=logged,
        log_bytes=log_bytes,
        stripe_bytes=by_tier,
        total=round(written / user, 3) if user else 0.0,
        engine=round((written - by_tier[Tier.MOVE.value]) / needed, 3) if user else 0.0,
    )


def _disk_report(disk: DiskStatus) -> DiskReport:
    return DiskReport(
        disk_id=disk.disk_id,
        state=disk.state.value,
        role=disk.role.value,
        reason=disk.reason,
        since_ns=disk.since_ns,
        total_bytes=0 if disk.space is None else disk.space.total_bytes,
        free_bytes=0 if disk.space is None else disk.space.free_bytes,
        errors=disk.errors,
        mismatches=disk.mismatches,
    )


def _warnings(parts: Parts) -> list[str]:
    ledger = parts.ledger
    warnings = [
        f"disk {disk.disk_id} is {disk.state.value}: {disk.reason}"
        for disk in ledger.pool.status()
        if disk.state not in (DiskState.UP, DiskState.NEW, DiskState.DRAINING)
    ]
    if ledger.store.stuck_because:
        warnings.insert(0, ledger.store.stuck_because)
    log = ledger.log.statistics()
    if log.is_stalled:
        warnings.append("the log has too few disks to go on: writers wait until some come back")
    elif log.is_degraded:
        warnings.append("part of the log has fewer copies than it should; they are made as disks allow")
    if ledger.stripes.codec_name == "zfec":
        warnings.append("parity is computed by zfec, some 20 times slower than by ISA-L: install libisal2")
    if parts.settler.waits_for:
        warnings.append(f"settling waits for disks: {parts.settler.waits_for}")
    if parts.settler.fill_error:
        warnings.append(parts.settler.fill_error)
    if parts.settler.last_error:
        warnings.append(f"settling stopped: {parts.settler.last_error}")
    if parts.room.last_error:
        warnings.append(f"space could not be given back to the disks: {parts.room.last_error}")
    mover = parts.mover
    if mover.waiting:
        warnings.append(mover.waiting)
    if mover.last_error:
        warnings.append(f"the last move of a chunk file failed: {mover.last_error}")
    if parts.relocator.last_error:
        warnings.append(f"relocation stopped: {parts.relocator.last_error}")
    if parts.snapshots.status().is_degraded:
        warnings.append("snapshots of the metadata have fewer copies than they should; they are made as disks allow")
    if parts.snapshots.last_error:
        warnings.append(f"the last snapshot of the metadata failed: {parts.snapshots.last_error}")
    scrub = parts.scrubber.status()
    if scrub.last_error:
        warnings.append(f"scrubbing stopped: {scrub.last_error}")
    if scrub.report is not None:
        warnings += scrub.report.lost
        warnings += [
            f"scrubbing could not mend all that it found on disk {disk.disk_id}: it is counted in the report"
            for disk in scrub.report.disks
            if disk.unmended_blocks or disk.unmended_log_bytes or disk.unmended_superblocks
        ]
    if failures := parts.write_back.failures():
        warnings.append(f"{len(failures)} files have data in memory that could not be written: {failures[-1]}")
    return warnings
