"""Which extents share a stripe: nothing is lost, nothing overlaps, and little room is."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.packing import Movable, in_order_of_locality, pack
from siltstone.limits import KIB, MIB, SLOT_BYTES
from siltstone.meta.keys import Reference
from siltstone.types import Ino

ROW = 16 * KIB

movables = st.lists(
    st.builds(
        lambda address, ino, slot, length: Movable(Reference(address * 200_000, 0, Ino(ino), slot * 5000), length),
        st.integers(0, 40),
        st.integers(1, 6),
        st.integers(0, 30),
        st.one_of(st.just(5000), st.integers(1, 5000)),
    ),
    max_size=40,
    unique_by=lambda extent: (extent.reference.ino, extent.reference.offset),
)


@given(movables, st.sampled_from([2048, ROW]), st.sampled_from([2 * ROW, 5 * ROW]))
def test_every_byte_has_one_place_and_every_part_is_apart(
    found: list[Movable], row_bytes: int, stripe_bytes: int
) -> None:
    extents = in_order_of_locality(found)
    packing = pack(extents, row_bytes=row_bytes, stripe_bytes=stripe_bytes)
    covered: dict[int, list[tuple[int, int]]] = {}
    for plan in packing.plans:
        assert 0 < plan.size <= stripe_bytes
        end = 0
        before = None
        for part in plan.parts:
            covered.setdefault(part.extent, []).append((part.start, part.start + part.length))
            assert part.position >= end, "bytes of two extents overlap"
            if part.position % SLOT_BYTES:
                assert before is not None and part.position == end, (
                    "what does not start on a slot goes on without a gap"
                )
                reference, last = extents[part.extent].reference, extents[before.extent].reference
                assert (last.ino, last.offset + before.start + before.length) == (
                    reference.ino,
                    reference.offset + part.start,
                )
            end = part.position + part.length
            before = part
        assert end == plan.size
    for index, extent in enumerate(extents):
        first = packing.same_as.get(index)
        if first is not None:
            assert index not in covered, "shared bytes have one place"
            other = extents[first]
            assert (other.reference.address, other.length) == (extent.reference.address, extent.length)
            continue
        ends = [0, *(end for _, end in sorted(covered[index]))]
        assert sorted(covered[index]) == list(pairwise(ends))
        assert ends[-1] == extent.length


def test_extents_of_one_file_lie_in_its_order() -> None:
    found = [Movable(Reference(1000 * (9 - index), 0, Ino(5), index * 100), 100) for index in range(9)]
    (plan,) = pack(in_order_of_locality(found), row_bytes=ROW, stripe_bytes=MIB).plans
    assert [part.position for part in plan.parts] == [index * 100 for index in range(9)]


def test_a_long_run_has_whole_rows_to_itself() -> None:
    found = [Movable(Reference(100_000, 0, Ino(5), 0), 5 * ROW + 100), Movable(Reference(0, 0, Ino(6), 0), 7000)]
    plans = pack(found, row_bytes=ROW, stripe_bytes=MIB).plans
    assert [[(part.extent, part.length) for part in plan.parts] for plan in plans] == [
        [(0, 5 * ROW)],
        [(1, 7000), (0, 100)],
    ]


@pytest.mark.parametrize(("low", "high", "loss_max"), [(4096, 16384, 0.06), (1, 65536, 0.03), (4096, 4096, 0.0)])
def test_little_is_lost_between_extents_slots_and_rows(low: int, high: int, loss_max: float) -> None:
    random = Random(1)
    found = [Movable(Reference(index << 20, 0, Ino(index << 8), 0), random.randint(low, high)) for index in range(256)]
    plans = pack(found, row_bytes=ROW, stripe_bytes=4 * MIB).plans
    taken = sum(-(-plan.size // ROW) * ROW for plan in plans)
    assert 1 - sum(extent.length for extent in found) / taken <= loss_max
