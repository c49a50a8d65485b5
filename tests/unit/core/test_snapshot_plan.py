"""Which snapshots are kept: dropping the others changes nothing, and what is called a base leads to the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.snapshot_plan import INCREMENTS_MAX, chain_of, kept_since, plan_snapshots
from siltstone.engine.format.snapshot import SnapshotKind, SnapshotName
from siltstone.engine.snapshot.copies import Snapshot
from siltstone.types import DiskId, Lsn


def snapshot(kind: SnapshotKind, start: int, length: int, size: int = 10) -> Snapshot:
    """One on two disks."""
    return Snapshot(SnapshotName(kind, Lsn(start), Lsn(start + length), 0), size, [DiskId(0), DiskId(1)])


def full(start: int, size: int = 10) -> Snapshot:
    return snapshot(SnapshotKind.FULL, start, 3, size)


def increment(start: int, end: int, size: int = 10) -> Snapshot:
    return snapshot(SnapshotKind.INCREMENT, start, end - start, size)


found = st.lists(
    st.builds(
        snapshot,
        st.sampled_from(SnapshotKind),
        st.integers(0, 12).map(lambda number: 10 * number),
        st.integers(1, 4).map(lambda number: 10 * number),
        st.integers(1, 100),
    ),
    max_size=12,
)


@given(found, st.integers(0, 140), st.data())
def test_dropping_what_is_droppable_changes_nothing(
    snapshots: list[Snapshot], log_start: int, data: st.DataObject
) -> None:
    usable = [item for item in snapshots if data.draw(st.booleans())]
    plan = plan_snapshots(snapshots, usable, Lsn(log_start))
    left = [item for item in snapshots if item not in plan.droppable]
    again = plan_snapshots(left, [item for item in usable if item in left], Lsn(log_start))
    assert [base.start for base in again.bases] == [base.start for base in plan.bases]
    assert again.covered == plan.covered


@given(found, st.integers(0, 140), st.integers(0, 140))
def test_increments_that_the_feed_keeps_are_kept_and_what_is_rotten_is_not(
    snapshots: list[Snapshot], log_start: int, kept_from: int
) -> None:
    plan = plan_snapshots(snapshots, snapshots, Lsn(log_start), Lsn(kept_from))
    without = plan_snapshots(snapshots, snapshots, Lsn(log_start))
    kept = [item for item in without.droppable if item not in plan.droppable]
    assert all(item.name.kind is SnapshotKind.INCREMENT and item.name.end > kept_from for item in kept)
    assert set(map(id, plan.droppable)) <= set(map(id, without.droppable))
    for item in kept:
        item.is_rotten = True
    assert plan_snapshots(snapshots, snapshots, Lsn(log_start), Lsn(kept_from)).droppable == without.droppable


def test_as_much_is_kept_as_is_young_and_fits() -> None:
    increments = [increment(0, 10), increment(10, 20), increment(20, 30), increment(30, 40)]
    for number, item in enumerate(increments):
        item.created_ns = number
    assert kept_since(increments, created_ns=2, bytes_max=100) == 20
    assert kept_since(increments, created_ns=0, bytes_max=30) == 10
    assert kept_since(increments, created_ns=4, bytes_max=30) is None


def test_a_full_snapshot_rests_less_the_more_it_is_overdue() -> None:
    def share(sizes: list[int]) -> float:
        increments = [increment(10 * index, 10 * index + 10, size) for index, size in enumerate(sizes)]
        plan = plan_snapshots([full(0, 1000), *increments], [full(0, 1000), *increments], Lsn(0))
        return plan.rest_share(100)

    assert share([]) == share([400]) == share([400, 100]) == 1, "half of the full one makes another due"
    assert share([500, 125]) == 0.5
    assert share([500, 250]) == share([500, 5000]) == 0
    assert share([1] * INCREMENTS_MAX) == 1
    assert share([1] * (INCREMENTS_MAX * 5 // 4)) == 0.5
    assert plan_snapshots([], [], Lsn(10)).rest_share(100) == 1


@given(found, st.integers(0, 140))
def test_every_base_leads_to_the_log_without_a_gap(snapshots: list[Snapshot], log_start: int) -> None:
    plan = plan_snapshots(snapshots, snapshots, Lsn(log_start))
    assert len(plan.bases) <= 2
    for base in plan.bases:
        lsn = base.start
        for item in chain_of(snapshots, base.start):
            assert item.name.start <= lsn < item.name.end
            lsn = item.name.end
        assert lsn == base.covered >= log_start
        assert plan.covered <= base.covered


def test_an_empty_volume_is_a_base_as_long_as_increments_lead_on_from_it() -> None:
    plan = plan_snapshots([], [], Lsn(0))
    assert [base.full for base in plan.bases] == [None] and plan.covered == 0
    first = increment(0, 50)
    assert plan_snapshots([first], [first], Lsn(50)).covered == 50
    assert plan_snapshots([first], [first], Lsn(51)).bases == ()
    assert plan_snapshots([], [], Lsn(1)).is_full_due(1000), "nothing leads to the log"


def test_the_two_newest_full_snapshots_are_kept_and_increments_since_the_older() -> None:
    snapshots = [full(10), full(40), full(70), increment(0, 30), increment(30, 60), increment(60, 90)]
    plan = plan_snapshots(snapshots, snapshots, Lsn(90))
    assert [base.start for base in plan.bases] == [70, 40] and plan.covered == 90
    assert set(plan.droppable) == {snapshots[0], snapshots[3]}


def test_one_that_rots_does_not_count_and_goes_when_there_are_others() -> None:
    rotten = full(70)
    rotten.is_rotten = True
    snapshots = [full(10), full(40), rotten, increment(0, 100)]
    plan = plan_snapshots(snapshots, [item for item in snapshots if item is not rotten], Lsn(90))
    assert [base.start for base in plan.bases] == [40, 10]
    assert plan.droppable == (rotten,)


def test_one_on_too_few_disks_does_not_count_and_stays_until_it_is_too_old() -> None:
    away = full(70)
    snapshots = [full(10), full(40), away, increment(0, 100)]
    plan = plan_snapshots(snapshots, [item for item in snapshots if item is not away], Lsn(90))
    assert [base.start for base in plan.bases] == [40, 10] and plan.droppable == ()


def test_a_full_snapshot_is_due_when_increments_are_half_as_long_or_too_many() -> None:
    one = [full(0, size=100), full(5, size=100)]
    assert not plan_snapshots(one, one, Lsn(0)).is_full_due(20)
    short = [*one, increment(5, 10, size=50)]
    assert not plan_snapshots(short, short, Lsn(0)).is_full_due(20)
    long = [*one, increment(5, 10, size=51)]
    assert plan_snapshots(long, long, Lsn(0)).is_full_due(20)
    assert not plan_snapshots(long, long, Lsn(0)).is_full_due(1000), "it is not worth it"
    many = [*one, *(increment(5 + number, 6 + number, size=0) for number in range(INCREMENTS_MAX + 1))]
    assert plan_snapshots(many, many, Lsn(0)).is_full_due(1000)
