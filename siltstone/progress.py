"""Progress of long work: the value that says how far it is, and the line that a terminal or a log shows of it.

On a terminal one line is rewritten in place, elsewhere a line is printed now and then, so that a log stays readable.
Both tell throughput and the time left.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple, TextIO

TERMINAL_INTERVAL_SECONDS = 0.2
LOG_INTERVAL_SECONDS = 5.0


class Progress(NamedTuple):
    """How far work is: ``done`` of ``total`` (0: unknown) in ``unit`` ("bytes", or a plural like "stripes")."""

    what: str
    done: int
    total: int
    unit: str = "bytes"


class ProgressLine:
    """Shows Progress values on a stream. ``finish`` ends the line; the shown rate is since the work's first value."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._what = ""
        self._begun = 0.0
        self._shown = 0.0
        self._shown_width = 0

    def __call__(self, progress: Progress) -> None:
        """Show it, unless the last one was shown only a moment ago."""
        now = time.monotonic()
        if progress.what != self._what:
            self.finish()
            self._what, self._begun = progress.what, now
            self._shown = 0.0 if self._on_terminal else now
        if now - self._shown < (TERMINAL_INTERVAL_SECONDS if self._on_terminal else LOG_INTERVAL_SECONDS):
            return
        self._shown = now
        text = describe(progress, now - self._begun)
        if self._on_terminal:
            self._stream.write("\r" + text.ljust(self._shown_width))
            self._shown_width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def finish(self) -> None:
        """Take the line off the terminal again."""
        if self._shown_width:
            self._stream.write("\r" + " " * self._shown_width + "\r")
            self._stream.flush()
        self._what = ""
        self._shown_width = 0


def describe(progress: Progress, elapsed_seconds: float) -> str:
    """One line: how much is done, how fast, how long it will still take."""
    rate = progress.done / elapsed_seconds if elapsed_seconds > 0 else 0.0
    words = [f"{progress.what}: {format_amount(progress.done, progress.unit)}"]
    if progress.total:
        words = [
            f"{progress.what}: {min(100 * progress.done // progress.total, 100)} % of "
            f"{format_amount(progress.total, progress.unit)}"
        ]
    words.append(f"{format_amount(round(rate), progress.unit)}/s")
    if progress.total and rate > 0:
        words.append(f"{format_seconds(max(progress.total - progress.done, 0) / rate)} left")
    return ", ".join(words)


def format_amount(amount: float, unit: str) -> str:
    """A count with its unit; bytes in the largest binary unit that fits."""
    if unit != "bytes":
        return f"{amount:,.0f} {unit}"
    return format_bytes(amount)


def format_bytes(size: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
