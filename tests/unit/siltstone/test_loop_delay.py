"""The delay of the loop is measured from outside the tasks that cause it."""

from __future__ import annotations

from typing import cast

from siltstone.loop_delay import SAMPLES_MAX, LoopDelay
from siltstone.ports import Clock

NO_CLOCK = cast(Clock, None)


def test_before_the_first_sample_there_is_no_delay() -> None:
    assert LoopDelay(NO_CLOCK).statistics() == {"p99": 0.0, "max": 0.0, "max_since_start": 0.0}


def test_the_longest_delay_is_kept_when_the_minute_has_forgotten_it() -> None:
    delay = LoopDelay(NO_CLOCK)
    delay.record(30_000_000)
    assert delay.statistics()["max"] == 30.0
    for _ in range(SAMPLES_MAX):
        delay.record(1_000_000)
    assert delay.statistics() == {"p99": 1.0, "max": 1.0, "max_since_start": 30.0}


def test_one_long_delay_in_a_thousand_shows_in_the_max_and_not_in_the_p99() -> None:
    delay = LoopDelay(NO_CLOCK)
    for _ in range(999):
        delay.record(-5)
    delay.record(50_000_000)
    assert delay.statistics() == {"p99": 0.0, "max": 50.0, "max_since_start": 50.0}
