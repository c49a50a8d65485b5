"""Has the shards of a volume follow what its settings say of disks, and the settings what the shards find.

A change is durable in HOME and on the disks before any shard hears of it; from then on it is carried out, by whoever
lives: a shard that gives no answer is told later, one that begins has read it. See docs/decisions/0020.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec
import trio

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.all_shards import AllShards
from siltstone.engine.pool import DiskRole
from siltstone.errors import SiltstoneError, Unavailable
from siltstone.ports import Clock

LOOK_SECONDS = 1.0
"""How often shards are told again, and new disks looked at."""

Edit = Callable[[VolumeConfig], VolumeConfig]


class Settings(Protocol):
    """What is written of a volume."""

    @property
    def config(self) -> VolumeConfig:
        """As it is now."""

    async def save(self, edit: Edit) -> None:
        """Let it be what ``edit`` makes of it, durably in HOME, and then on the disks. Nothing changes if it raises."""


class Directories(Protocol):
    """What becomes a disk, and what one becomes: see DiskDirectories."""

    async def check(self, config: VolumeConfig, path: str, bytes_max: int, away: list[int]) -> None:
        """Raises ConfigInvalid unless a directory can become a disk."""

    async def format(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """Make it one."""

    async def empty(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """Make it an empty directory, if it answers."""


class DiskKeeping:
    """The disks of an open volume, in its settings and in the pools of all shards."""

    def __init__(self, settings: Settings, all_shards: AllShards, directories: Directories, clock: Clock) -> None:
        self.settings = settings
        self.all_shards = all_shards
        self.directories = directories
        self.changing = trio.Lock()
        """Held while what disks there are, or what they are to the volume, is changed by a command."""
        self._clock = clock
        self._changed_serial, self._followed_serial = settings.config.serial, -1

    async def change(self, edit: Edit) -> None:
        """Change the settings, and have all shards follow. Raises Unavailable if one gives no answer; the change is
        made, and it follows as soon as it does."""
        await self.settings.save(edit)
        self._changed_serial = self.settings.config.serial
        await self.carry()

    async def carry(self) -> None:
        """Have all shards follow, if there is one that may not have. Raises Unavailable."""
        if self._followed_serial >= self._changed_serial:
            return
        config = self.settings.config
        try:
            await self.all_shards.ask("follow_disks", config.serial, list(config.disks))
        except SiltstoneError as error:
            raise Unavailable(
                f"not every shard has heard of the change, which is made, and which it follows when it answers: {error}"
            ) from error
        self._followed_serial = max(self._followed_serial, config.serial)

    async def let_go(self) -> None:
        """Empty the directories of disks that were removed; no shard has them any more. ``changing`` is held."""
        for disk in self.settings.config.leaving:
            await self.directories.empty(self.settings.config, disk)
        if self.settings.config.leaving:
            await self.settings.save(lambda config: msgspec.structs.replace(config, leaving=()))

    async def run(self) -> None:
        """Carry on with what was not done at once, or before a crash, for ever."""
        while True:
            with suppress(SiltstoneError):  # whoever keeps the shards running says what is the matter
                async with self.changing:
                    await self.carry()
                    await self.let_go()
                await self._note_level()
            await self._clock.sleep(LOOK_SECONDS)

    async def _note_level(self) -> None:
        """A new disk is a member like others when every shard finds that it has its share."""
        new = {disk.disk_id for disk in self.settings.config.disks if disk.role == DiskRole.NEW.value}
        if not new:
            return
        level = new.intersection(*(await self.all_shards.ask("level_disks")).values())
        if not level:
            return

        def edit(config: VolumeConfig) -> VolumeConfig:
            for disk in config.disks:
                if disk.disk_id in level and disk.role == DiskRole.NEW.value:  # or somebody has changed it meanwhile
                    config = with_role(config, disk.disk_id, DiskRole.MEMBER)
            return config

        await self.settings.save(edit)


def with_role(config: VolumeConfig, disk_id: int, role: DiskRole) -> VolumeConfig:
    """Settings in which a disk is something else to the volume."""
    disks = tuple(
        msgspec.structs.replace(disk, role=role.value) if disk.disk_id == disk_id else disk for disk in config.disks
    )
    return msgspec.structs.replace(config, disks=disks)
