"""Which chunk files move, in what order, and that levelling comes to an end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.move_plan import MoveKind, SlabView, plan_level, plan_moves
from siltstone.types import DiskId, SlabId

DISKS = [DiskId(index) for index in range(8)]

slabs = st.lists(st.permutations(DISKS).map(lambda disks: tuple(disks[:6])), max_size=12).map(
    lambda found: [SlabView(SlabId(index + 1), disks, 64) for index, disks in enumerate(found)]
)


@given(slabs, st.sets(st.sampled_from(DISKS), max_size=3), st.sets(st.sampled_from(DISKS), max_size=2))
def test_every_unit_on_a_lost_or_draining_disk_moves_once_to_where_its_slab_is_not(
    views: list[SlabView], lost: set[DiskId], draining: set[DiskId]
) -> None:
    draining -= lost
    takers = [disk_id for disk_id in DISKS if disk_id not in lost | draining]
    moves = plan_moves(views, lost=lost, draining=draining, takers=takers)
    by_id = {view.slab_id: view for view in views}
    wanted = {(view.slab_id, unit) for view in views for unit, disk in enumerate(view.disks) if disk in lost | draining}
    assert [(move.slab_id, move.unit) for move in moves if (move.slab_id, move.unit) in wanted] == [
        (move.slab_id, move.unit) for move in moves
    ]
    assert {(move.slab_id, move.unit) for move in moves} == wanted and len(moves) == len(wanted)
    for move in moves:
        assert move.source == by_id[move.slab_id].disks[move.unit]
        assert move.targets == [disk_id for disk_id in takers if disk_id not in by_id[move.slab_id].disks]
    urgency = [
        -sum(disk in lost for disk in by_id[move.slab_id].disks) if move.kind is MoveKind.REBUILD else 1
        for move in moves
    ]
    assert urgency == sorted(urgency), "what is nearest to being lost comes first, drains last"


@given(slabs, st.sets(st.sampled_from(DISKS), min_size=1, max_size=2))
def test_levelling_ends_and_leaves_new_disks_no_fuller_than_their_sources(
    views: list[SlabView], new: set[DiskId]
) -> None:
    capacities = dict.fromkeys(DISKS, 6400)
    views = [view for view in views if not new & set(view.disks)]
    before = len(views)
    for _ in range(before * 6 + 1):
        move = plan_level(views, new=new, capacities=capacities)
        if move is None:
            break
        assert move.source not in new and move.targets[0] in new
        index = next(index for index, view in enumerate(views) if view.slab_id == move.slab_id)
        disks = list(views[index].disks)
        assert disks[move.unit] == move.source and move.targets[0] not in disks
        disks[move.unit] = move.targets[0]
        views[index] = SlabView(move.slab_id, tuple(disks), 64)
    else:
        raise AssertionError("levelling does not end")
    used = {disk_id: sum(disk_id in view.disks for view in views) for disk_id in DISKS}
    if before >= 3:
        assert all(used[disk_id] for disk_id in new), "a new disk gets something"
