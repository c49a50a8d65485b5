"""The disks in the settings as a front-end reads them: in the owner's process or in one of its own, whoever writes
them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import trio

from siltstone.config import DiskConfig
from siltstone.core.disk_access import DiskAccess
from siltstone.engine.disk.fanout import LocalFanout
from siltstone.engine.disk.local import LocalDisk
from siltstone.engine.pool import DiskRole
from siltstone.home import Home
from siltstone.ports import Clock, Disk, Random
from siltstone.types import DiskId


class DiskReaders:
    """Looks at the settings; a disk that is the same there is the same object."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._disks: dict[tuple[int, str, str], LocalDisk] = {}

    async def find(self) -> Mapping[DiskId, Disk]:
        """The disks that are not lost. Raises ConfigInvalid."""
        config = await trio.to_thread.run_sync(self._home.load_config)
        before, self._disks = self._disks, {}
        for disk in config.disks:
            if disk.role != DiskRole.LOST.value:
                same = disk.disk_id, disk.path, disk.uuid
                self._disks[same] = before.get(same) or _reader(disk, config.disk_timeout)
        return {DiskId(disk_id): reader for (disk_id, _, _), reader in self._disks.items()}


def _reader(disk: DiskConfig, limit_seconds: float) -> LocalDisk:
    uuid = UUID(disk.uuid).bytes
    return LocalDisk(DiskId(disk.disk_id), disk.path, uuid, limit_seconds=limit_seconds, only_reads=True)


def disk_access(home: Home, clock: Clock, random: Random) -> DiskAccess:
    """A front-end's way to the disks of a volume on this machine."""
    return DiskAccess(DiskReaders(home).find, LocalFanout(), random, clock)
