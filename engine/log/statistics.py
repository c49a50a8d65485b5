"""What the log tells of itself."""

from __future__ import annotations

from typing import NamedTuple

from siltstone.types import Lsn


class LogStatistics(NamedTuple):
    """What the log has done since it was opened, and how it is."""

    appends: int
    flushes: int
    flushed_bytes: int
    """Frames, on all disks together."""
    waits: int
    segments_opened: int
    segments_failed: int
    mended_bytes: int
    hedged_reads: int
    """Replicas that were asked because others were late."""
    marked_lsn: Lsn
    is_degraded: bool
    is_stalled: bool
