"""What would be lost with a disk: asked before one is given up that others may be counting on.

Disks that are away count as gone, whatever the reason, until what they held lies elsewhere. So a disk may be given up
as long as not more than m are at once, stripe by stripe, and as each part of the log has a copy on another that is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from siltstone.engine.log.segment import SegmentStatus
from siltstone.engine.pool import Pool
from siltstone.engine.snapshot.copies import Snapshot
from siltstone.engine.stripe.slab import SlabState
from siltstone.engine.stripe.slabs import Slabs
from siltstone.limits import ROW_BYTES
from siltstone.types import DiskId


class Forfeit(NamedTuple):
    """What could not be read without a disk. Bytes are those of stripes' data units and of the log, one copy."""

    stripe_bytes: int
    log_bytes: int
    snapshots: int
    away: tuple[DiskId, ...]
    """Other disks that have parts of it and are away."""

    @property
    def is_nothing(self) -> bool:
        """Whether the disk may go."""
        return not (self.stripe_bytes or self.log_bytes or self.snapshots)


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """How a shard stands to a disk that may be given up."""

    is_up: bool
    away: tuple[DiskId, ...]
    """Other disks that are away, whatever is on them."""
    forfeit: Forfeit


def sum_of_forfeits(parts: Sequence[Forfeit]) -> Forfeit:
    """What several shards would lose."""
    return Forfeit(
        sum(part.stripe_bytes for part in parts),
        sum(part.log_bytes for part in parts),
        sum(part.snapshots for part in parts),
        tuple(sorted({disk_id for part in parts for disk_id in part.away})),
    )


def forfeit_of(
    disk_id: DiskId, pool: Pool, slabs: Slabs, segments: Sequence[SegmentStatus], snapshots: Sequence[Snapshot]
) -> Forfeit:
    """What could not be read any more if a disk were not there from now on."""
    rest = {other for other in pool.up() if other != disk_id}
    away: set[DiskId] = set()
    stripe_bytes = log_bytes = snapshot_count = 0
    for state in slabs.open_slabs():
        needed = _disks_of_units(state)
        is_concerned = not state.is_empty and any(disk_id in disks for disks in needed)
        if is_concerned and sum(disks <= rest for disks in needed) < state.slab.data_units:
            stripe_bytes += state.data.used * state.slab.data_units * ROW_BYTES
            away.update(*needed)
    for segment in segments:
        if disk_id in segment.disks and segment.end > segment.start and rest.isdisjoint(segment.disks):
            log_bytes += segment.end - segment.start
            away.update(segment.disks)
    for snapshot in snapshots:
        if disk_id in snapshot.disks and rest.isdisjoint(snapshot.disks):
            snapshot_count += 1
            away.update(snapshot.disks)
    return Forfeit(stripe_bytes, log_bytes, snapshot_count, tuple(sorted(away - rest - {disk_id})))


def _disks_of_units(state: SlabState) -> list[set[DiskId]]:
    """For each unit of a slab the disks that must all be there: of one that is being moved the old and the new, since
    it is about to be read from the new one alone."""
    disks = [{disk_id} for disk_id in state.slab.disks]
    if state.incoming is not None:
        unit, target = state.incoming
        disks[unit].add(target)
    return disks
