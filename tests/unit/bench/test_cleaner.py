"""The simulated cleaner costs what theory says, so that it may stand as a baseline."""

from __future__ import annotations

import pytest
from baseline.cleaner import hot_and_cold, uniform, write_amplification


@pytest.mark.parametrize(("live_share", "expected"), [(0.7, 1.88), (0.8, 2.69), (0.9, 5.18)])
def test_uniform_overwrites_cost_what_theory_says(live_share: float, expected: float) -> None:
    assert write_amplification(live_share, uniform, greedy=True, segments=200) == pytest.approx(expected, rel=0.05)


def test_cost_benefit_beats_greedy_where_some_data_is_hot() -> None:
    greedy = write_amplification(0.85, hot_and_cold, greedy=True, segments=100)
    assert write_amplification(0.85, hot_and_cold, greedy=False, segments=100) < greedy
