"""Which pieces a file is committed in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.dirty import Run
from siltstone.core.write_back import plan_pieces
from siltstone.limits import DIRECT_THRESHOLD_BYTES, MIB

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
