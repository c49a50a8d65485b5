"""Progress is told in words that people read: how much, how fast, how long still."""

from __future__ import annotations

import io

import pytest

from siltstone.core.types import Progress
from siltstone.progress import ProgressLine, describe, format_bytes, format_seconds


def test_a_line_tells_share_throughput_and_the_time_left() -> None:
    line = describe("settling", Progress(256 * 2**20, 1024 * 2**20, "bytes"), elapsed_seconds=2.0)
    assert line == "settling: 25 % of 1.0 GiB, 128.0 MiB/s, 6 s left"


def test_without_a_known_total_a_line_tells_what_is_done() -> None:
    assert describe("reading", Progress(10, 0, "stripes"), 5.0) == "reading: 10 stripes, 2 stripes/s"


def test_nothing_done_yet_is_no_division_by_zero() -> None:
    assert describe("reading", Progress(0, 100, "stripes"), 0.0) == "reading: 0 % of 100 stripes, 0 stripes/s"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (2**52, "4096.0 TiB")]
)
def test_bytes_are_shown_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")])
def test_seconds_are_shown_in_the_largest_units_that_fit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_first_value_at_once_and_is_left_clean() -> None:
    terminal = Terminal()
    line = ProgressLine("settling", terminal)
    line(Progress(0, 10, "stripes"))
    assert "settling: 0 % of 10 stripes" in terminal.getvalue()
    line.close()
    assert terminal.getvalue().rsplit("\r", 2)[1].strip() == ""


def test_a_log_stays_quiet_while_the_work_is_short() -> None:
    log = io.StringIO()
    line = ProgressLine("settling", log)
    for done in range(100):
        line(Progress(done, 100, "stripes"))
    line.close()
    assert log.getvalue() == ""
