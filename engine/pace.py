"""How fast disks answer reads, and so how long it pays to wait for one before its unit is computed from others.

A read is late when it takes longer than the 99th percentile of what its peers took lately: of every disk that one, and
of these the middle, so that one slow disk, or two, does not make slowness look normal. What is late is read around
(hedged), but not more than one read in ten: where everything is slow because there is too much to do, more reads would
make it worse. A disk that answers nothing at all for a second is another matter: it is read around at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median_low

from siltstone.ports import Clock
from siltstone.types import DiskId

PATIENCE_SECONDS_MIN = 0.02
"""Nothing is late before that: two seeks of a spinning disk."""

PATIENCE_SECONDS_UNKNOWN = 0.25
"""How long is waited as long as too little is known of the peers."""

STALL_SECONDS = 1.0

HEDGED_SHARE_MAX = 0.1
CREDIT_MAX = 10.0
"""So many hedges at once may be owed to reads that needed none."""

SAMPLES_KEPT = 128
SAMPLES_MIN = 16
"""Of a disk, before it counts as a peer; the percentile is computed after each so many."""


class _Answers:
    """What is known of one disk."""

    __slots__ = ("outstanding", "percentile", "quiet_since_ns", "seconds", "unseen")

    def __init__(self) -> None:
        self.outstanding = 0
        self.quiet_since_ns = 0
        self.seconds: deque[float] = deque(maxlen=SAMPLES_KEPT)
        self.unseen = 0
        self.percentile = 0.0


class Pace:
    """Of all disks of a pool."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[DiskId, _Answers] = {}
        self._credit = CREDIT_MAX / 2
        self._outstanding = 0
        self._patience: dict[tuple[DiskId, ...], float] = {}  # by the peers; as long as no percentile changes

    def note_begun(self, disk_id: DiskId) -> None:
        """A read was sent to a disk."""
        answers = self._answers.get(disk_id)
        if answers is None:
            answers = self._answers[disk_id] = _Answers()
        if not answers.outstanding:
            answers.quiet_since_ns = self._clock.monotonic_ns()
        answers.outstanding += 1
        self._outstanding += 1

    def note_answer(self, disk_id: DiskId, seconds: float) -> None:
        """A read that was sent to a disk has an answer, which took so long."""
        answers = self._answers[disk_id]
        assert answers.outstanding > 0
        answers.outstanding -= 1
        self._outstanding -= 1
        answers.quiet_since_ns = self._clock.monotonic_ns()
        answers.seconds.append(seconds)
        answers.unseen += 1
        if answers.unseen == SAMPLES_MIN:
            answers.unseen = 0
            answers.percentile = sorted(answers.seconds)[len(answers.seconds) * 99 // 100]
            self._patience.clear()

    def stalled(self, disks: Sequence[DiskId]) -> list[DiskId]:
        """Those of some disks that are stalled; mostly none."""
        return [disk_id for disk_id in disks if self.is_stalled(disk_id)] if self._outstanding else []

    def is_stalled(self, disk_id: DiskId) -> bool:
        """Whether a disk has answered nothing for a while, though it was asked."""
        answers = self._answers.get(disk_id)
        if answers is None or not answers.outstanding:
            return False
        return self._clock.monotonic_ns() - answers.quiet_since_ns >= STALL_SECONDS * 1e9

    def patience_seconds(self, peers: tuple[DiskId, ...]) -> float:
        """How long to wait for a disk with these peers."""
        patience = self._patience.get(peers)
        if patience is None:
            patience = self._patience[peers] = self._patience_now(peers)
        return patience

    def _patience_now(self, peers: tuple[DiskId, ...]) -> float:
        known = [
            answers.percentile
            for peer in peers
            if (answers := self._answers.get(peer)) is not None and answers.percentile
        ]
        return max(PATIENCE_SECONDS_MIN, median_low(known)) if known else PATIENCE_SECONDS_UNKNOWN

    def earn(self) -> None:
        """A read went to the disks: a tenth of a hedge may follow."""
        self._credit = min(CREDIT_MAX, self._credit + HEDGED_SHARE_MAX)

    def spend(self) -> bool:
        """Whether one more read may be hedged; counts it."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
