"""The delay of the loop is measured from outside the tasks that cause it."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from siltstone.loop_delay import IDLE_INTERVALS, IDLE_SHARE, INTERVAL_SECONDS, SAMPLES_MAX, LoopDelay
from siltstone.ports import Clock
from sim.clock import SimClock, autojump

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


@pytest.mark.parametrize(("share", "intervals"), [(IDLE_SHARE / 2, IDLE_INTERVALS), (IDLE_SHARE * 2, 1)])
def test_a_process_that_does_little_is_woken_up_rarely(share: float, intervals: int) -> None:
    clock = SimClock()
    delay = LoopDelay(clock, lambda: int(clock.monotonic_ns() * share))

    async def main() -> None:
        with trio.move_on_after(100):
            await delay.run()

    trio.run(main, clock=autojump())
    assert 0.9 < delay.beats * intervals * INTERVAL_SECONDS / 100 <= 1.1
    assert delay.statistics()["p99"] == 0.0


def test_a_look_that_comes_late_after_a_long_pause_counts_for_all_that_it_stands_for() -> None:
    delay = LoopDelay(NO_CLOCK)
    for _ in range(SAMPLES_MAX):
        delay.record(0)
    delay.record(40_000_000, SAMPLES_MAX // 50)
    assert delay.statistics() == {"p99": 40.0, "max": 40.0, "max_since_start": 40.0}
