"""Which chunk files should lie on other disks, in what order, and where to. Pure.

First what is lost: slabs that have lost most units before others, since they are nearest to losing data. Then what a
draining disk holds. Last, new disks are levelled: they get files from those that are fuller than they will be.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence, Set
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
    """One unit of a slab that should lie elsewhere, and the disks that may take it."""

    kind: MoveKind
    slab_id: SlabId
    unit: int
    source: DiskId
    targets: Set[DiskId]
    size: int


def moves_of(view: SlabView, *, lost: Set[DiskId], draining: Set[DiskId], takers: Set[DiskId]) -> list[Move]:
    """Every unit of a slab on a disk that is lost or draining. ``takers``: the disks that new files may go to. A move
    without targets waits for a disk."""
    slab_id, disks, size = view
    moves: list[Move] = []
    targets: Set[DiskId] | None = None
    for unit, disk_id in enumerate(disks):
        if disk_id in lost or disk_id in draining:
            targets = takers - set(disks) if targets is None else targets
            kind = MoveKind.REBUILD if disk_id in lost else MoveKind.DRAIN
            moves.append(Move(kind, slab_id, unit, disk_id, targets, size))
    return moves


def urgency_of(move: Move, view: SlabView, lost: Set[DiskId]) -> int:
    """Moves with less of it come first."""
    return -sum(disk_id in lost for disk_id in view.disks) if move.kind is MoveKind.REBUILD else 1


def plan_level(
    slabs_on: Mapping[DiskId, Set[SlabId]],
    *,
    new: Set[DiskId],
    capacities: Mapping[DiskId, int],
    chunk_bytes: int,
    is_movable: Callable[[SlabId], bool],
) -> tuple[SlabId, DiskId, DiskId] | None:
    """The next file that a new disk should get, from the fullest disk that can give one, as slab, source and target;
    None when all is level.

    ``slabs_on``: which slabs have a unit on each disk; ``capacities``: bytes of each disk that takes part. A file moves
    only when its source stays at least as full as its target becomes, so that nothing ever moves to and fro.
    """

    def share(disk_id: DiskId, more: int) -> float:
        return (len(slabs_on[disk_id]) + more) * chunk_bytes / capacities[disk_id]

    sources = sorted(capacities.keys() - new, key=lambda disk_id: (-share(disk_id, -1), disk_id))
    for target in sorted(new & capacities.keys(), key=lambda disk_id: (share(disk_id, 0), disk_id)):
        after = share(target, 1)
        for source in sources:
            if share(source, -1) < after:
                break
            # At most as many are passed over as the target has.
            others = (slab_id for slab_id in slabs_on[source] if slab_id not in slabs_on[target])
            slab_id = next(filter(is_movable, others), None)
            if slab_id is not None:
                return slab_id, source, target
    return None
