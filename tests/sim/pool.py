"""A pool of simulated disks."""

from __future__ import annotations

from typing import NamedTuple

from siltstone.engine.pool import Pool
from siltstone.ports import Random
from siltstone.types import DiskId
from sim.clock import SimClock
from sim.disk import CAPACITY_BYTES_DEFAULT, SimDisk
from sim.fanout import SimFanout
from sim.randomness import SimRandom


class SimPool(NamedTuple):
    """A pool and the disks in it, by their ids."""

    pool: Pool
    disks: list[SimDisk]
    fanout: SimFanout


def make_sim_pool(
    count: int, *, seed: int = 0, capacity_bytes: int = CAPACITY_BYTES_DEFAULT, cache_misses: bool = False
) -> SimPool:
    """``count`` empty disks in a pool. With ``cache_misses``, read_nowait answers only every second time."""
    random = SimRandom(seed)
    disks = [
        SimDisk(
            DiskId(index),
            capacity_bytes=capacity_bytes,
            cache_random=SimRandom(seed + index + 1) if cache_misses else None,
        )
        for index in range(count)
    ]
    return reopen_sim_pool(disks, random)


def reopen_sim_pool(disks: list[SimDisk], random: Random) -> SimPool:
    """A new pool over disks that hold something, as a new process would make it."""
    for disk in disks:
        disk.reopen()
    fanout = SimFanout()
    return SimPool(Pool(disks, fanout, random, SimClock()), disks, fanout)


def crash_sim_pool(sim: SimPool, random: Random) -> SimPool:
    """Lose power on all disks at once and open them again. Nobody may go on using the old pool."""
    for disk in sim.disks:
        disk.crash(random)
    return reopen_sim_pool(sim.disks, random)
