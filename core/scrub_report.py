"""What scrubbing found: counted while a pass runs, shown by ``siltstone scrub`` and ``status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from siltstone.engine.replicas import ReplicasChecked
from siltstone.engine.stripe.scrub import Checked, DamageKind, StripeDamage
from siltstone.limits import ROW_BYTES
from siltstone.meta.records import ScrubRecord, ScrubTally
from siltstone.types import DiskId

LOST_NAMED_MAX = 100
"""Of what is lost so much is named; the rest is counted."""


class ScrubbedDisk(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass did on one disk; see ScrubTally."""

    disk_id: int
    units: int
    read_bytes: int
    mended_blocks: int
    unmended_blocks: int
    unreadable_units: int
    misplaced_units: int
    recreated_files: int
    mended_log_bytes: int
    unmended_log_bytes: int
    mended_superblocks: int
    unmended_superblocks: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found wrong on it."""
        return not any(msgspec.structs.astuple(self)[3:])


class ScrubReport(msgspec.Struct, frozen=True, kw_only=True):
    """A pass of scrubbing. Times in nanoseconds since the epoch; ``ended_ns`` is 0 while it is under way.

    ``lost``: what cannot be read with the disks that are up, in sentences; ``lost_count`` counts those not named, too.
    """

    started_ns: int
    ended_ns: int
    disks: list[ScrubbedDisk]
    lost: list[str]
    lost_count: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.lost_count and all(disk.is_sound for disk in self.disks)


class ScrubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where scrubbing stands. ``report`` is of the pass under way, or of the last; None before the first.

    ``bytes_per_second``: since the pass began or went on; ``seconds_left`` follows from it, and is None
    as long as nothing was read.
    """

    is_running: bool
    done_bytes: int
    total_bytes: int
    bytes_per_second: float
    seconds_left: float | None
    report: ScrubReport | None
    last_error: str


class Tallies:
    """Counts into a record of scrubbing."""

    def __init__(self, record: ScrubRecord) -> None:
        self._record = record
        self._by_disk = {tally.disk_id: tally for tally in record.tallies}

    def of(self, disk_id: DiskId) -> ScrubTally:
        """The counts of a disk."""
        if disk_id not in self._by_disk:
            self._by_disk[disk_id] = ScrubTally(disk_id)
            self._record.tallies = sorted(self._by_disk.values(), key=lambda tally: tally.disk_id)
        return self._by_disk[disk_id]

    @property
    def read_bytes(self) -> int:
        """Bytes read so far, of all disks."""
        return sum(tally.read_bytes for tally in self._by_disk.values())

    def add_stripes(self, checked: Checked) -> int:
        """Count a look at stripes; the bytes that were read."""
        for disk_id, units in checked.units.items():
            self.of(disk_id).units += units
        for disk_id, size in checked.read_bytes.items():
            self.of(disk_id).read_bytes += size
        for damage in checked.damages:
            self._add_damage(damage)
        return sum(checked.read_bytes.values())

    def _add_damage(self, damage: StripeDamage) -> None:
        for unit in damage.units:
            if unit.kind is DamageKind.ABSENT:
                continue
            tally = self.of(unit.disk_id)
            if unit.is_mended:
                tally.mended_blocks += unit.blocks
            else:
                tally.unmended_blocks += unit.blocks
            tally.unreadable_units += unit.kind is DamageKind.UNREADABLE
            tally.misplaced_units += unit.kind is DamageKind.MISPLACED

    def add_replicas(self, checked: ReplicasChecked) -> int:
        """Count a look at the log, or at the copies of a snapshot, which count with it; the bytes that were read."""
        for disk_id, size in checked.read_bytes.items():
            self.of(disk_id).read_bytes += size
        for disk_id, size in checked.mended_bytes.items():
            self.of(disk_id).mended_log_bytes += size
        for disk_id, size in checked.unmended_bytes.items():
            self.of(disk_id).unmended_log_bytes += size
        for disk_id in checked.missing:
            self.of(disk_id).recreated_files += 1
        return sum(checked.read_bytes.values())

    def add_headers(self, mended: Mapping[DiskId, bool]) -> None:
        """Count header pages of the log that were wrong."""
        for disk_id, is_mended in mended.items():
            if is_mended:
                self.of(disk_id).mended_log_bytes += ROW_BYTES
            else:
                self.of(disk_id).unmended_log_bytes += ROW_BYTES

    def add_lost(self, message: str) -> None:
        """Note something that cannot be read."""
        if message in self._record.lost:
            return
        self._record.lost_count += 1
        if len(self._record.lost) < LOST_NAMED_MAX:
            self._record.lost = [*self._record.lost, message]


def sum_of_reports(reports: Sequence[ScrubReport]) -> ScrubReport:
    """What passes over several shards found together: of each disk the sum. ``ended_ns`` is of the last."""
    disks: dict[int, ScrubbedDisk] = {}
    for disk in (disk for report in reports for disk in report.disks):
        before = disks.get(disk.disk_id)
        if before is not None:
            counts = zip(msgspec.structs.asdict(before).items(), msgspec.structs.astuple(disk), strict=True)
            disk = ScrubbedDisk(**{name: old + new for (name, old), new in counts} | {"disk_id": disk.disk_id})
        disks[disk.disk_id] = disk
    return ScrubReport(
        started_ns=min(report.started_ns for report in reports),
        ended_ns=max(report.ended_ns for report in reports) if all(report.ended_ns for report in reports) else 0,
        disks=[disks[disk_id] for disk_id in sorted(disks)],
        lost=[message for report in reports for message in report.lost],
        lost_count=sum(report.lost_count for report in reports),
    )


def report_of(record: ScrubRecord) -> ScrubReport:
    """The record as people and programs read it."""
    return ScrubReport(
        started_ns=record.started_ns,
        ended_ns=record.ended_ns,
        disks=[ScrubbedDisk(**msgspec.structs.asdict(tally)) for tally in record.tallies],
        lost=list(record.lost),
        lost_count=record.lost_count,
    )
