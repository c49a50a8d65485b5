"""The line that shows how far long work has come, on a terminal or in a log.

On a terminal one line is rewritten in place, elsewhere a line is printed now and then, so that a log stays readable.
Both tell throughput and the time left.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from siltstone.core.types import Progress

TERMINAL_INTERVAL_SECONDS = 0.2
LOG_INTERVAL_SECONDS = 5.0


class ProgressLine:
    """Shows how far ``what`` has come. ``close`` takes it off the terminal; the rate counts from the first value on."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._begun: float | None = None
        self._shown = 0.0
        self._shown_width = 0

    def __call__(self, progress: Progress) -> None:
        """Show it, unless the last one was shown only a moment ago."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
            self._shown = 0.0 if self._on_terminal else now
        if now - self._shown < (TERMINAL_INTERVAL_SECONDS if self._on_terminal else LOG_INTERVAL_SECONDS):
            return
        self._shown = now
        text = describe(self._what, progress, now - self._begun)
        if self._on_terminal:
            self._stream.write("\r" + text.ljust(self._shown_width))
            self._shown_width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave a clean line."""
        if self._shown_width:
            self._stream.write("\r" + " " * self._shown_width + "\r")
            self._stream.flush()
        self._begun = None
        self._shown_width = 0


def describe(what: str, progress: Progress, elapsed_seconds: float) -> str:
    """One line: how much is done, how fast, how long it will still take."""
    done, total, unit = progress
    rate = done / elapsed_seconds if elapsed_seconds > 0 else 0.0
    share = f"{min(100 * done // total, 100)} % of {format_amount(total, unit)}" if total else format_amount(done, unit)
    words = [f"{what}: {share}", f"{format_amount(rate, unit)}/s"]
    if total and rate > 0:
        words.append(f"{format_seconds(max(total - done, 0) / rate)} left")
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
