"""When a read is late, how many may be hedged, and which disks are not asked at all."""

from __future__ import annotations

import pytest

from siltstone.engine.pace import (
    CREDIT_MAX,
    PATIENCE_SECONDS_MIN,
    PATIENCE_SECONDS_UNKNOWN,
    SAMPLES_MIN,
    STALL_SECONDS,
    Pace,
)
from siltstone.types import DiskId

DISKS = tuple(DiskId(index) for index in range(6))


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ns(self) -> int:
        return self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return round(self.seconds * 1e9)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the pace never waits")


def answered(pace: Pace, disk_id: DiskId, seconds: list[float]) -> None:
    for each in seconds:
        pace.note_begun(disk_id)
        pace.note_answer(disk_id, each)


def test_little_is_known_at_first() -> None:
    pace = Pace(Time())
    assert pace.patience_seconds(DISKS) == PATIENCE_SECONDS_UNKNOWN
    answered(pace, DISKS[0], [0.5] * (SAMPLES_MIN - 1))
    assert pace.patience_seconds(DISKS) == PATIENCE_SECONDS_UNKNOWN
    answered(pace, DISKS[0], [0.5])
    assert pace.patience_seconds(DISKS) == 0.5
    assert pace.patience_seconds(DISKS[1:]) == PATIENCE_SECONDS_UNKNOWN


def test_patience_is_the_middle_of_what_the_slowest_reads_of_the_peers_took() -> None:
    pace = Pace(Time())
    for disk_id in DISKS:
        answered(pace, disk_id, [0.001] * 100 + [0.1 * (disk_id + 1)] * 12)
    assert pace.patience_seconds(DISKS[:5]) == pytest.approx(0.3)
    answered(pace, DISKS[5], [30.0] * 128)
    assert pace.patience_seconds(DISKS[1:]) == pytest.approx(0.4), "one disk that is slow says nothing of the others"
    for disk_id in DISKS:
        answered(pace, disk_id, [0.001] * 128)
    assert pace.patience_seconds(DISKS) == PATIENCE_SECONDS_MIN


def test_no_more_than_one_read_in_ten_is_hedged() -> None:
    pace = Pace(Time())
    at_first = sum(pace.spend() for _ in range(100))
    assert at_first <= CREDIT_MAX
    hedged = 0
    for _ in range(10_000):
        pace.earn()
        hedged += pace.spend()
    assert 900 <= hedged <= 1000
    for _ in range(10_000):
        pace.earn()
    assert sum(pace.spend() for _ in range(1000)) == CREDIT_MAX


def test_a_disk_that_answers_nothing_is_stalled_until_it_answers() -> None:
    time = Time()
    pace = Pace(time)
    assert not pace.is_stalled(DISKS[0])
    pace.note_begun(DISKS[0])
    pace.note_begun(DISKS[0])
    time.seconds = STALL_SECONDS - 0.1
    assert not pace.is_stalled(DISKS[0])
    time.seconds = STALL_SECONDS + 0.1
    assert pace.is_stalled(DISKS[0]) and not pace.is_stalled(DISKS[1])
    pace.note_answer(DISKS[0], 1.1)
    assert not pace.is_stalled(DISKS[0]), "it is slow, and gets on"
    time.seconds = 2 * STALL_SECONDS + 0.2
    assert pace.is_stalled(DISKS[0])
    pace.note_answer(DISKS[0], 2.1)
    time.seconds = 100
    assert not pace.is_stalled(DISKS[0]), "nobody asks it anything"
