"""The disks of a volume as a front-end has them: to read what shards have told it of."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from siltstone.engine.direct import DirectReader
from siltstone.engine.pool import Pool
from siltstone.errors import SiltstoneError
from siltstone.ports import Clock, Disk, Fanout, Random
from siltstone.types import DiskId

LOOK_SECONDS = 1.0
"""How often it is looked at most which disks there are."""

logger = logging.getLogger("siltstone")

FindDisks = Callable[[], Awaitable[Mapping[DiskId, Disk]]]
"""Which disks the volume has now: the same object as before for one that is the same. Raises SiltstoneError, OSError
where that cannot be told."""


class DiskAccess:
    """A front-end's pool, and how it hears of disks that come, go or lie elsewhere: it looks at the settings when it is
    told of a disk that it does not have, or that is not there."""

    def __init__(self, find_disks: FindDisks, fanout: Fanout, random: Random, clock: Clock) -> None:
        self._find_disks = find_disks
        self._clock = clock
        self._pool = Pool([], fanout, random, clock, tries_writes=False)
        self._pool.subscribe(self._changed)
        self._disks: dict[DiskId, Disk] = {}
        self._wanted = trio.Event()
        self._said = ""
        """What the log output has of why it cannot be told which disks there are."""
        self.reader = DirectReader(self._pool)

    def has(self, disk_id: DiskId) -> bool:
        """Whether a disk can be read here; if not it is looked for."""
        if self._pool.is_up(disk_id):
            return True
        self._wanted.set()
        return False

    async def run(self) -> None:
        """Watch the disks, and look for others when they are wanted, for ever. In the end they are closed."""
        try:
            await self._wanted.wait()  # as long as nothing is read nothing is watched
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pool.watch, self._clock)
                while True:
                    await self._wanted.wait()
                    await self._look()
                    await self._clock.sleep(LOOK_SECONDS)
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for disk in self._disks.values():
                        nursery.start_soon(disk.close)

    async def _look(self) -> None:
        self._wanted = trio.Event()
        try:
            found = await self._find_disks()
        except (SiltstoneError, OSError) as error:
            if str(error) != self._said:  # it is tried again each second
                self._said = str(error)
                logger.warning("which disks there are to read from cannot be told, so the shards read: %s", error)
            return
        for disk_id, disk in list(self._disks.items()):
            if found.get(disk_id) is not disk:
                del self._disks[disk_id]
                self._pool.remove(disk_id)
                await disk.close()
        for disk_id, disk in found.items():
            if disk_id not in self._disks:
                self._disks[disk_id] = disk
                self._pool.add(disk)

    def _changed(self, disk_id: DiskId, is_up: bool) -> None:
        if not is_up and disk_id in self._disks:
            reason = self._pool.status_of(disk_id).reason
            logger.warning("disk %d cannot be read by this front-end, its shards read for it: %s", disk_id, reason)
