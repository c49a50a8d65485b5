"""How full the pool is in which round, and the end: see kills/world.py."""

from __future__ import annotations

from collections.abc import Callable

from kills.world import FULL_FREE_SHARE, ROOMY_FREE_SHARE, KilledVolume

PHASE_KILLS = 20
"""Rounds in which the pool is kept full, and then as many in which it has room."""


def run_rounds(
    volume: KilledVolume, kills: int, *, phase_kills: int = PHASE_KILLS, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Make a volume, kill it so often, and look at it for the last time. Raises BrokenPromise."""
    volume.create()
    rounds = 0
    while volume.counts["kills"] < kills:
        volume.free_share = ROOMY_FREE_SHARE if rounds // phase_kills % 2 else FULL_FREE_SHARE
        volume.round()
        rounds += 1
        kept, served = volume.promises.acknowledged, volume.seconds_to_serve[-1]
        tell(
            f"{volume.counts['kills']} of {kills} kills, HOME lost {volume.counts['homes lost']} times, "
            f"{kept} promises kept, served again after {served:.1f} s"
        )
    volume.finish()
