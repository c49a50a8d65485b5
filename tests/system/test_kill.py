"""The daemon is killed under writing clients, and nothing that it acknowledged is lost. `make kills` does it longer."""

from __future__ import annotations

from pathlib import Path

from kills.rounds import run_rounds
from kills.world import KilledVolume

KILLS = 8


def test_nothing_acknowledged_is_lost_whenever_the_daemon_is_killed(tmp_path: Path) -> None:
    volume = KilledVolume(tmp_path, seed=1)
    try:
        run_rounds(volume, KILLS, phase_kills=KILLS // 2)
    finally:
        volume.clear()
    assert volume.promises.acknowledged > 100
    assert volume.counts["bytes settled"]
