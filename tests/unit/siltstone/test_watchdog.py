"""A loop that does not get on is noticed by the thread that watches it, and named once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from siltstone.watchdog import TICKS_MIN, Watchdog

LIMIT = 0.4


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come about")


def test_a_loop_that_stands_still_is_told_of_once_and_so_is_its_going_on(caplog: pytest.LogCaptureFixture) -> None:
    beats = [0]
    caplog.set_level(logging.WARNING, "siltstone")
    watchdog = Watchdog(lambda: beats[0], what="process 7", limit_seconds=LIMIT)
    with watchdog.watching():
        time.sleep(LIMIT * 3)
        wait_for(lambda: len(caplog.messages) == 1)
        (told,) = caplog.messages
        assert "process 7: the loop has not moved for 0 s" in told and "HOME" in told
        assert "test_watchdog.py" in told, "where it stands"
        beats[0] += 1
        wait_for(lambda: len(caplog.messages) == 2)
        assert "gets on again" in caplog.messages[1]


def test_a_loop_that_gets_on_however_slowly_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Beats:
        """One beat for each look: never two looks without one."""

        def __init__(self) -> None:
            self.looks = 0

        def __call__(self) -> int:
            self.looks += 1
            return self.looks

    beats = Beats()
    with Watchdog(beats, what="process 7", limit_seconds=LIMIT).watching():
        wait_for(lambda: beats.looks > 3 * TICKS_MIN)
    assert not caplog.messages
