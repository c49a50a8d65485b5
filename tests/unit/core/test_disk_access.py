"""A front-end finds disks when it is told of them, and lets go of those that the volume has not any more."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from siltstone.core.disk_access import LOOK_SECONDS, DiskAccess
from siltstone.errors import ConfigInvalid
from siltstone.ports import Disk
from siltstone.types import DiskId
from sim.clock import SimClock, autojump
from sim.disk import SimDisk
from sim.fanout import SimFanout
from sim.randomness import SimRandom
from sim.reader_disk import ReaderDisk


def make_disk(disk_id: int) -> ReaderDisk:
    return ReaderDisk(SimDisk(DiskId(disk_id)))


def test_disks_are_looked_for_when_they_are_wanted_and_not_before() -> None:
    async def main() -> None:
        found: dict[DiskId, ReaderDisk] = {DiskId(0): make_disk(0)}
        looks = 0

        async def find() -> Mapping[DiskId, Disk]:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise ConfigInvalid("the settings cannot be read now")
            return {**found}

        access = DiskAccess(find, SimFanout(), SimRandom(1), SimClock())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(access.run)
            await trio.sleep(10 * LOOK_SECONDS)
            assert looks == 0
            assert not access.has(DiskId(0))
            await trio.sleep(0.1)
            assert not access.has(DiskId(0))
            await trio.sleep(2 * LOOK_SECONDS)
            assert access.has(DiskId(0))
            assert looks == 2
            replaced = found[DiskId(0)]
            found[DiskId(0)] = make_disk(0)
            found[DiskId(1)] = make_disk(1)
            assert not access.has(DiskId(1))
            await trio.sleep(2 * LOOK_SECONDS)
            assert access.has(DiskId(0)) and access.has(DiskId(1))
            assert replaced.is_closed
            kept = found.pop(DiskId(1))
            kept.failure = "it is gone"
            await trio.sleep(2 * LOOK_SECONDS)
            assert not access.has(DiskId(1)), "a disk that is away counts as there"
            await trio.sleep(2 * LOOK_SECONDS)
            assert kept.is_closed
            nursery.cancel_scope.cancel()
        assert all(disk.is_closed for disk in found.values())

    trio.run(main, clock=autojump())
