"""Which files are the log: the scenes that names and epochs alone would get wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.format.segment import Ancestor, Lineage, SegmentHeader, SegmentName
from siltstone.engine.log.chain import FoundSegment, Link, plan_chain
from siltstone.errors import LogDamaged
from siltstone.types import DiskId, Lsn

UUID = bytes(16)
FILE_BYTES = 65536


def found(
    disk: int,
    start: int,
    epoch: int,
    *ancestors: tuple[int, int, int],
    established: bool = True,
    marked: int | None = None,
    has_frame: bool = False,
    is_sound: bool = True,
    is_cut: bool = False,
    is_readable: bool = True,
) -> FoundSegment:
    lineage = Lineage(tuple(Ancestor(Lsn(a), Lsn(b), e) for a, b, e in ancestors), is_cut)
    header = SegmentHeader(UUID, epoch, Lsn(start), established, Lsn(start if marked is None else marked))
    return FoundSegment(
        disk_id=DiskId(disk),
        name=SegmentName(Lsn(start), epoch),
        file_bytes=FILE_BYTES,
        header=header if is_sound and is_readable else None,
        lineage=lineage if is_sound and is_readable else None,
        is_readable=is_readable,
        has_frame=has_frame,
    )


def shapes(links: tuple[Link, ...]) -> list[tuple[int, int | None, int, tuple[int, ...]]]:
    return [(link.start, link.end, link.epoch, tuple(map(int, link.disks))) for link in links]


def test_the_head_names_what_is_before_it() -> None:
    plan = plan_chain([found(d, 0, 1) for d in (0, 1, 2)] + [found(d, 800, 2, (0, 800, 1)) for d in (1, 2, 3)], Lsn(0))
    assert shapes(plan.links) == [(0, 800, 1, (0, 1, 2)), (800, None, 2, (1, 2, 3))]
    assert (plan.durable_lsn, plan.epoch_seen) == (800, 2)


def test_an_attempt_that_was_only_prepared_ends_nothing() -> None:
    files = [found(d, 0, 1) for d in (0, 1, 2)] + [found(3, 800, 2, (0, 800, 1), established=False)]
    plan = plan_chain(files, Lsn(0))
    assert shapes(plan.links) == [(0, None, 1, (0, 1, 2))]
    assert plan.durable_lsn == 800, "an attempt is made only where all before is durable"
    assert plan.epoch_seen == 2, "its epoch must not be used again"


def test_attempts_on_a_disk_that_was_away_do_not_outrank_the_log() -> None:
    """A crash left attempts 2 to 4 on disk 3; the log was recovered without it, as epoch 2, and went on."""
    attempts = [found(3, 800, epoch, (0, 800, 1), established=False) for epoch in (2, 3, 4)]
    log = [found(d, 0, 1) for d in (0, 1)] + [found(d, 960, 2, (0, 960, 1)) for d in (0, 1, 2)]
    plan = plan_chain(attempts + log, Lsn(0))
    assert shapes(plan.links) == [(0, 960, 1, (0, 1)), (960, None, 2, (0, 1, 2))]
    assert plan.epoch_seen == 4


def test_an_established_segment_that_the_log_went_on_without_is_not_in_it() -> None:
    """Epoch 2 was established on disk 3 alone; recovery without disk 3 saw it prepared, and took epoch 3."""
    files = [
        *(found(d, 0, 1) for d in (0, 1)),
        found(3, 800, 2, (0, 800, 1), has_frame=True),
        *(found(d, 800, 2, (0, 800, 1), established=False) for d in (0, 1)),
        *(found(d, 960, 3, (0, 960, 1)) for d in (0, 1, 2)),
    ]
    assert shapes(plan_chain(files, Lsn(0)).links) == [(0, 960, 1, (0, 1)), (960, None, 3, (0, 1, 2))]


def test_a_copy_that_was_only_prepared_is_not_read_beside_established_ones() -> None:
    files = [found(0, 0, 1), found(1, 0, 1), found(2, 0, 1, established=False)]
    assert shapes(plan_chain(files, Lsn(0)).links) == [(0, None, 1, (0, 1))]


def test_a_copy_with_a_damaged_header_is_read_and_mended() -> None:
    files = [found(0, 0, 1), found(1, 0, 1), found(2, 0, 1, is_sound=False)]
    assert shapes(plan_chain(files, Lsn(0)).links) == [(0, None, 1, (0, 1, 2))]


def test_a_frame_proves_a_segment_whose_headers_are_all_damaged() -> None:
    files = [found(0, 0, 1), *(found(d, 800, 2, is_sound=False, has_frame=d == 1) for d in (0, 1, 2))]
    assert shapes(plan_chain(files, Lsn(0)).links) == [(0, 800, 1, (0,)), (800, None, 2, (0, 1, 2))]


def test_of_what_is_not_read_only_copies_that_are_marked_that_far_count() -> None:
    """Disk 2 was away when recovery lengthened the segment on disks 0 and 1."""
    files = [
        found(0, 0, 1, marked=800),
        found(1, 0, 1, marked=800),
        found(2, 0, 1, marked=64),
        *(found(d, 800, 2, (0, 800, 1)) for d in (0, 1, 2)),
    ]
    assert plan_chain(files, Lsn(800)).links[0].whole == (0, 1)
    assert plan_chain(files, Lsn(400)).links[0].whole == (0, 1), "what is before applied_lsn is not mended"
    assert plan_chain(files, Lsn(400)).links[0].disks == (0, 1, 2), "what comes after it may be read there"
    assert plan_chain(files, Lsn(64)).links[0].whole == (0, 1, 2)
    assert plan_chain(files, Lsn(0)).links[0].whole == (0, 1, 2), "all is read, so all is mended"


def test_a_retired_segment_leaves_a_gap_that_nobody_minds() -> None:
    files = [found(0, 0, 1), *(found(d, 1600, 3, (0, 800, 1), (800, 1600, 2)) for d in (0, 1, 2))]
    assert shapes(plan_chain(files, Lsn(1600)).links) == [(0, 800, 1, (0,)), (1600, None, 3, (0, 1, 2))]


def test_a_needed_segment_that_is_nowhere_is_damage_at_its_start() -> None:
    files = [found(0, 0, 1), *(found(d, 1600, 3, (0, 800, 1), (800, 1600, 2)) for d in (0, 1, 2))]
    with pytest.raises(LogDamaged) as caught:
        plan_chain(files, Lsn(80))
    assert caught.value.lsn == 800


def test_a_newer_segment_that_cannot_be_read_is_not_passed_over() -> None:
    files = [found(0, 0, 1), found(1, 0, 1), found(0, 800, 2, is_readable=False)]
    with pytest.raises(LogDamaged) as caught:
        plan_chain(files, Lsn(0))
    assert caught.value.lsn == 800
    assert plan_chain([*files, found(1, 800, 2, (0, 800, 1))], Lsn(0)).links[-1].disks == (0, 1)


def test_no_file_at_all_is_damage_and_not_an_empty_log() -> None:
    with pytest.raises(LogDamaged) as caught:
        plan_chain([], Lsn(320))
    assert caught.value.lsn == 320


def test_what_is_older_than_a_cut_lineage_follows_the_order_of_epochs() -> None:
    files = [
        *(found(0, 800 * n, n + 1) for n in range(3)),
        found(0, 800, 9, established=False),
        found(0, 2400, 10, (1600, 2400, 3), is_cut=True),
    ]
    assert shapes(plan_chain(files, Lsn(0)).links) == [
        (0, 800, 1, (0,)),
        (800, 1600, 2, (0,)),
        (1600, 2400, 3, (0,)),
        (2400, None, 10, (0,)),
    ]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(0, 200))
def test_any_two_of_five_disks_may_be_missing(lengths: list[int], random: object, applied: int) -> None:
    """Segments on three of five disks each: any three disks that are up show the whole chain."""
    ends = [8 * total for total in itertools.accumulate(lengths)]
    starts = [0, *ends[:-1]]
    chain = list(zip(starts, ends, range(1, len(ends) + 1), strict=True))
    disks = [random.sample(range(5), 3) for _ in chain]  # type: ignore[attr-defined]
    for up in itertools.combinations(range(5), 3):
        files = [
            found(disk, start, epoch, *chain[: epoch - 1])
            for (start, _, epoch), holders in zip(chain, disks, strict=True)
            for disk in holders
            if disk in up
        ]
        links = plan_chain(files, Lsn(min(applied, starts[-1]))).links
        assert [(link.start, link.epoch) for link in links] == [(start, epoch) for start, _, epoch in chain]
        assert [link.end for link in links] == [*ends[:-1], None]
