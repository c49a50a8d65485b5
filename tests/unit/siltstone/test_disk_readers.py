"""The disks that a front-end reads are those of the settings, as they are now."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from siltstone.config import VolumeConfig
from siltstone.disk_readers import DiskReaders
from siltstone.home import Home
from siltstone.types import DiskId
from sim.volume import small_config


def test_a_disk_is_the_same_until_it_lies_elsewhere_or_is_lost(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config = small_config()

    def with_disk(**changes: str) -> VolumeConfig:
        first, *others = config.disks
        return msgspec.structs.replace(config, disks=(msgspec.structs.replace(first, **changes), *others))

    async def main() -> None:
        readers = DiskReaders(home)
        home.save_config(config)
        before = await readers.find()
        assert sorted(before) == [disk.disk_id for disk in config.disks]
        home.save_config(with_disk(role="draining"))
        assert await readers.find() == before
        home.save_config(with_disk(path="elsewhere"))
        moved = await readers.find()
        assert moved[DiskId(0)] is not before[DiskId(0)]
        assert moved[DiskId(1)] is before[DiskId(1)]
        home.save_config(with_disk(role="lost"))
        assert sorted(await readers.find()) == [disk.disk_id for disk in config.disks[1:]]

    trio.run(main)
