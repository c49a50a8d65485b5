"""The pure plans of the core: which pieces a file is committed in, and which extents share a stripe."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.dirty import Run
from siltstone.core.settle import LogExtent, plan_stripes
from siltstone.core.write_back import plan_pieces
from siltstone.limits import DIRECT_THRESHOLD_BYTES, MIB, SLOT_BYTES
from siltstone.meta.keys import Reference
from siltstone.types import Ino

STRIPE = 4 * MIB


@given(st.lists(st.tuples(st.integers(1, 3 * MIB), st.integers(1, 9 * MIB)), max_size=4))
def test_pieces_cover_every_dirty_byte_once_and_only_long_ones_get_a_stripe(gaps: list[tuple[int, int]]) -> None:
    runs, at = [], 0
    for gap, size in gaps:
        runs.append(Run(at + gap, size, (bytes(0),)))
        at += gap + size
    pieces = plan_pieces(runs, stripe_bytes=STRIPE, payload_bytes_max=MIB)
    covered = sorted((piece.start, piece.end) for piece in pieces)
    assert sum(end - start for start, end in covered) == sum(run.size for run in runs)
    for piece in pieces:
        assert any(run.offset <= piece.start and piece.end <= run.end for run in runs)
        size = piece.end - piece.start
        assert (DIRECT_THRESHOLD_BYTES <= size <= STRIPE) if piece.direct else size < DIRECT_THRESHOLD_BYTES


log_extents = st.lists(
    st.builds(
        lambda address, ino, slot, length: LogExtent(Reference(address * 10_000, 0, Ino(ino), slot * 5000), length),
        st.integers(0, 40),
        st.integers(1, 6),
        st.integers(0, 30),
        st.integers(1, 5000),
    ),
    max_size=40,
    unique_by=lambda extent: (extent.reference.ino, extent.reference.offset),
)


@given(log_extents, st.integers(5000, 30_000))
def test_settled_extents_lie_in_slots_apart_unless_they_continue_or_share(
    found: list[LogExtent], stripe_bytes: int
) -> None:
    plans = plan_stripes(found, stripe_bytes)
    placed = [placement for plan in plans for placement in plan.placements]
    assert sorted((p.reference, p.length) for p in placed) == sorted((e.reference, e.length) for e in found)
    for plan in plans:
        assert plan.size <= stripe_bytes
        end = 0
        before = None
        places: dict[tuple[int, int, int], int] = {}
        for placement in plan.placements:
            key = (placement.reference.address, placement.reference.skip, placement.length)
            if placement.shared:
                assert places[key] == placement.position, "shared bytes have one place"
                continue
            assert key not in places
            places[key] = placement.position
            assert placement.position >= end, "bytes of two extents overlap"
            if placement.position % SLOT_BYTES:
                assert before is not None and placement.position == end
                assert before.reference.ino == placement.reference.ino
                assert before.reference.offset + before.length == placement.reference.offset
            end = placement.position + placement.length
            before = placement
        assert end == plan.size


def test_extents_of_one_file_settle_in_its_order() -> None:
    found = [LogExtent(Reference(1000 * (9 - index), 0, Ino(5), index * 100), 100) for index in range(9)]
    (plan,) = plan_stripes(found, STRIPE)
    assert [placement.position for placement in plan.placements] == [index * 100 for index in range(9)]
