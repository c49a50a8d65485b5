"""However many bodies are under way, they share what there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.budget import BODIES_BYTES, PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECES_PER_BODY, Budget


@given(st.integers(0, 10_000))
def test_pieces_shrink_so_that_all_bodies_stay_within_the_budget(bodies: int) -> None:
    budget = Budget()
    for _ in range(bodies):
        budget.enter()
    held = bodies * PIECES_PER_BODY * budget.piece_bytes
    assert PIECE_BYTES_MIN <= budget.piece_bytes <= PIECE_BYTES_MAX
    assert held <= BODIES_BYTES or budget.piece_bytes == PIECE_BYTES_MIN
    for _ in range(bodies):
        budget.leave()
    assert budget.piece_bytes == PIECE_BYTES_MAX
