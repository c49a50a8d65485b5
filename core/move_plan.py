"""Which chunk files should lie on other disks, in what order, and where to. Pure.

First what is lost: slabs that have lost most units before others, since they are nearest to losing data. Then what a
draining disk holds. Last, new disks are levelled: they get files from those that are fuller than they will be.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence, Set
from typing import NamedTuple

from siltstone.types import DiskId, SlabId


class MoveKind(enum.Enum):
    """Why a unit moves."""

    REBUILD = "rebuild"
    DRAIN = "drain"
    LEVEL = "level"


class SlabView(NamedTuple):
    """A slab: which disk has each unit, and the length of a chunk file."""

    slab_id: SlabId
    disks: Sequence[DiskId]
    chunk_bytes: int


class Move(NamedTuple):
    """One unit of a slab that should lie elsewhere, and the disks that may take it, best first."""

    kind: MoveKind
    slab_id: SlabId
    unit: int
    source: DiskId
    targets: list[DiskId]
    size: int


def plan_moves(
    slabs: Sequence[SlabView],
    *,
    lost: Collection[DiskId],
    draining: Collection[DiskId],
    takers: Sequence[DiskId],
) -> list[Move]:
    """Every unit on a disk that is lost or draining, in the order in which they should move.

    ``takers``: the disks that new files may go to, best first. A move without targets waits for a disk.
    """
    moves: list[tuple[int, Move]] = []
    for slab_id, disks, size in slabs:
        targets = [disk_id for disk_id in takers if disk_id not in disks]
        missing = sum(disk_id in lost for disk_id in disks)
        for unit, disk_id in enumerate(disks):
            if disk_id in lost:
                moves.append((-missing, Move(MoveKind.REBUILD, slab_id, unit, disk_id, targets, size)))
            elif disk_id in draining:
                moves.append((1, Move(MoveKind.DRAIN, slab_id, unit, disk_id, targets, size)))
    moves.sort(key=lambda item: (item[0], item[1].slab_id, item[1].unit))
    return [move for _, move in moves]


def plan_level(
    slabs: Sequence[SlabView],
    *,
    new: Set[DiskId],
    capacities: Mapping[DiskId, int],
) -> Move | None:
    """The next file that a new disk should get, from the fullest disk that can give one; None when all is level.

    ``capacities``: bytes of each disk that takes part. A file moves only when its source stays at least as full as its
    target becomes, so that nothing ever moves to and fro.
    """
    used = dict.fromkeys(capacities, 0)
    for _, disks, size in slabs:
        for disk_id in disks:
            if disk_id in used:
                used[disk_id] += size
    for target in sorted(new & capacities.keys(), key=lambda disk_id: used[disk_id] / capacities[disk_id]):
        best: tuple[float, Move] | None = None
        for slab_id, disks, size in slabs:
            if target in disks:
                continue
            after = (used[target] + size) / capacities[target]
            for unit, source in enumerate(disks):
                if source not in capacities or source in new:
                    continue
                share = (used[source] - size) / capacities[source]
                if share >= after and (best is None or share > best[0]):
                    best = share, Move(MoveKind.LEVEL, slab_id, unit, source, [target], size)
        if best is not None:
            return best[1]
    return None
