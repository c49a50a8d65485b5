"""Which chunk files move, in what order, and that levelling comes to an end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.move_plan import MoveKind, SlabView, plan_level
from siltstone.core.move_queue import MoveQueue
from siltstone.types import DiskId, SlabId

DISKS = [DiskId(index) for index in range(8)]
CHUNK = 64

placements = st.permutations(DISKS).map(lambda disks: tuple(disks[:6]))
slabs = st.lists(placements, max_size=12).map(
    lambda found: [SlabView(SlabId(index + 1), disks, CHUNK) for index, disks in enumerate(found)]
)


def queue_of(views: list[SlabView], lost: set[DiskId], draining: set[DiskId]) -> MoveQueue:
    takers = set(DISKS) - lost - draining
    queue = MoveQueue()
    queue.set_disks(lost, draining, takers, [view for view in views if set(view.disks) & (lost | draining)])
    return queue


@given(slabs, st.sets(st.sampled_from(DISKS), max_size=3), st.sets(st.sampled_from(DISKS), max_size=2))
def test_every_unit_on_a_lost_or_draining_disk_moves_once_to_where_its_slab_is_not(
    views: list[SlabView], lost: set[DiskId], draining: set[DiskId]
) -> None:
    draining -= lost
    queue = queue_of(views, lost, draining)
    moves = list(queue)
    by_id = {view.slab_id: view for view in views}
    wanted = {(view.slab_id, unit) for view in views for unit, disk in enumerate(view.disks) if disk in lost | draining}
    takers = set(DISKS) - lost - draining
    stranded = {(slab_id, unit) for slab_id, unit in wanted if takers <= set(by_id[slab_id].disks)}
    assert {(move.slab_id, move.unit) for move in moves} == wanted - stranded
    assert len(queue) == len(wanted) and len(moves) == len(wanted - stranded)
    assert queue.stranded == {slab_id for slab_id, _ in stranded} and queue.stranded_count == len(stranded)
    assert queue.size == CHUNK * len(wanted)
    assert queue.sources == sorted({by_id[slab_id].disks[unit] for slab_id, unit in wanted})
    assert all(queue.has_move(slab_id, unit) for slab_id, unit in wanted)
    for move in moves:
        assert move.source == by_id[move.slab_id].disks[move.unit]
        assert move.targets == takers - set(by_id[move.slab_id].disks)
    urgency = [
        -sum(disk in lost for disk in by_id[move.slab_id].disks) if move.kind is MoveKind.REBUILD else 1
        for move in moves
    ]
    assert urgency == sorted(urgency), "what is nearest to being lost comes first, drains last"


@given(
    slabs,
    st.sets(st.sampled_from(DISKS), max_size=3),
    st.sets(st.sampled_from(DISKS), max_size=2),
    st.lists(st.tuples(st.integers(1, 14), st.none() | placements), max_size=20),
)
def test_a_queue_that_hears_of_changes_is_what_a_new_one_would_be(
    views: list[SlabView],
    lost: set[DiskId],
    draining: set[DiskId],
    changes: list[tuple[int, tuple[DiskId, ...] | None]],
) -> None:
    """A slab comes, goes, or has its units elsewhere."""
    draining -= lost
    queue = queue_of(views, lost, draining)
    now = {view.slab_id: view for view in views}
    for number, disks in changes:
        slab_id = SlabId(number)
        if disks is None:
            now.pop(slab_id, None)
            queue.remove(slab_id)
        else:
            now[slab_id] = SlabView(slab_id, disks, CHUNK)
            queue.put(now[slab_id])
    anew = queue_of(list(now.values()), lost, draining)
    assert list(queue) == list(anew)
    assert (len(queue), queue.size, queue.sources) == (len(anew), anew.size, anew.sources)
    assert (queue.stranded, queue.stranded_count) == (anew.stranded, anew.stranded_count)


@given(slabs, st.sets(st.sampled_from(DISKS), min_size=1, max_size=2))
def test_levelling_ends_and_leaves_new_disks_no_fuller_than_their_sources(
    views: list[SlabView], new: set[DiskId]
) -> None:
    views = [view for view in views if not new & set(view.disks)]
    slabs_on = {disk_id: {view.slab_id for view in views if disk_id in view.disks} for disk_id in DISKS}
    immovable = {views[0].slab_id} if len(views) > 3 else set[SlabId]()
    for _ in range(len(views) * 6 + 1):
        move = plan_level(
            slabs_on,
            new=new,
            capacities=dict.fromkeys(DISKS, 6400),
            chunk_bytes=CHUNK,
            is_movable=lambda slab_id: slab_id not in immovable,
        )
        if move is None:
            break
        slab_id, source, target = move
        assert source not in new and target in new and slab_id not in immovable
        assert slab_id in slabs_on[source] and slab_id not in slabs_on[target]
        assert len(slabs_on[source]) > len(slabs_on[target])
        assert len(slabs_on[source]) == max(
            len(slabs_on[disk_id]) for disk_id in set(DISKS) - new if slabs_on[disk_id] - slabs_on[target] - immovable
        )
        slabs_on[source].remove(slab_id)
        slabs_on[target].add(slab_id)
    else:
        raise AssertionError("levelling does not end")
    if len(views) >= 3:
        assert all(slabs_on[disk_id] for disk_id in new), "a new disk gets something"
