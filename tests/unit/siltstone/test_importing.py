"""Importing a volume from its disks: what is refused changes nothing, and what is done is whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from siltstone.birth import make_volume, plan_volume
from siltstone.core.types import Progress
from siltstone.errors import ConfigInvalid, Corrupt, ForeignDisk, SiltstoneError, TooFewDisks, VolumeBusy
from siltstone.geometry import DISK_BYTES_MIN, Code
from siltstone.home import Home
from siltstone.importing import ImportReport, import_volume, plan_import
from siltstone.membership import Membership
from siltstone.operations import perform_here
from siltstone.owner import Owner, open_owner
from siltstone.types import ROOT_INO

DISKS = 6
Body = Callable[[Owner], Awaitable[None]]


def quiet(_: Progress) -> None:
    """Nobody wants to see how far it is."""


class World:
    """A small volume in a directory, what was written to it, and another HOME to import it into."""

    def __init__(self, path: Path, name: str = "volume") -> None:
        self.path = path
        self.home = Home(path / name)
        self.new_home = Home(path / f"{name}-new")
        self.disks = [path / f"{name}-disk{index}" for index in range(DISKS)]
        self.files: dict[bytes, bytes] = {}

    async def create(self) -> None:
        for disk in self.disks:
            disk.mkdir()
        disks = list(map(str, self.disks))
        plan = plan_volume(self.home, disks, code=Code(4, 2), bytes_max=DISK_BYTES_MIN, few_disks_allowed=False)
        await make_volume(self.home, plan)

    async def fill(self, owner: Owner, count: int = 5) -> None:
        """Some files more; they are durable."""
        source = random.Random(len(self.files))
        for _ in range(count):
            name, data = b"file%d" % len(self.files), source.randbytes(source.choice((10, 5000, 300_000)))
            ino = (await owner.volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
            await owner.volume.write(ino, 0, data)
            self.files[name] = data
        await owner.volume.sync()

    async def compare(self, home: Home) -> None:
        async with open_owner(home) as owner:
            listed = await owner.volume.list_directory(ROOT_INO, after=None, limit=1000)
            names = {entry.name: entry.ino for entry in listed}
            assert names.keys() == self.files.keys()
            for name, data in self.files.items():
                assert await owner.volume.read(names[name], 0, 1 << 20) == data

    async def bring_back(self, disks: list[Path] | None = None) -> ImportReport:
        plan = await plan_import(self.new_home, self.disks if disks is None else disks)
        return await import_volume(self.new_home, plan, quiet)

    async def refuse(self, kind: type[SiltstoneError], text: str, disks: list[Path] | None = None) -> None:
        """It is refused in these words, and nothing was changed."""
        before = tree(self.path)
        with pytest.raises(kind, match=text):
            await self.bring_back(disks)
        assert tree(self.path) == before


def tree(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in path.rglob("*")}


def run(path: Path, body: Callable[[World], Awaitable[None]]) -> None:
    """Make a volume with some files in it, and go on with the test."""

    async def main() -> None:
        world = World(path)
        await world.create()
        async with open_owner(world.home) as owner:
            await world.fill(owner)
        await body(world)

    trio.run(main)


def test_everything_comes_back_from_four_of_six_disks_at_other_places(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        async with open_owner(world.home) as owner:
            await perform_here(owner, "key_add", {"owner": "me"}, quiet)
            (key,) = owner.keys.list()
            await owner.volume.settle()
            await owner.volume.snapshots.take()
            await world.fill(owner)
        shutil.rmtree(world.home.path)
        shutil.rmtree(world.disks[1])
        moved = world.path / "elsewhere"
        world.disks[0].rename(moved)
        world.disks[2].rename(world.disks[0])  # and one is where another was
        report = await world.bring_back([moved, world.disks[0], world.disks[3], world.disks[5]])
        assert report.keys == 1 and report.shards[0].snapshot_lsn > 0 and len(report.missing) == 2
        assert world.new_home.keys_file.stat().st_mode & 0o777 == 0o600
        async with open_owner(world.new_home) as owner:
            assert owner.keys.list() == [key]
            assert owner.config.disks[0].path == str(moved)
        await world.compare(world.new_home)
        world.disks[4].rename(world.path / "late")
        shutil.copytree(world.path / "late", world.disks[4])
        await world.compare(world.new_home)  # with one that is back

    run(tmp_path, body)


def test_an_empty_volume_that_was_never_opened_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.create()
        shutil.rmtree(world.home.path)
        await world.bring_back()
        await world.compare(world.new_home)

    trio.run(main)


def test_the_home_of_before_is_refused_once_the_volume_was_imported(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.bring_back()
        with pytest.raises(ConfigInvalid, match="older than its disks say"):
            async with open_owner(world.home):
                pass
        await world.compare(world.new_home)

    run(tmp_path, body)


def test_what_cannot_be_imported_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        other = World(world.path, "other")
        await other.create()
        empty = world.path / "empty"
        empty.mkdir()
        copy = world.path / "copy"
        shutil.copytree(world.disks[0], copy)
        *most, last = world.disks
        await world.refuse(ForeignDisk, "is a disk of another volume", [*most, other.disks[0]])
        await world.refuse(ForeignDisk, "are the same disk, or one is a copy", [*world.disks, copy])
        await world.refuse(ConfigInvalid, "the same disk is given twice", [*most, most[0]])
        await world.refuse(ConfigInvalid, "holds no disk of a volume", [*most, empty])
        await world.refuse(ConfigInvalid, "does not exist", [*most, world.path / "absent"])
        await world.refuse(TooFewDisks, r"3 of the volume's 6 disks are not given, at most 2 may be", world.disks[:3])
        (last / "superblock").write_bytes(bytes(4096))
        await world.refuse(ConfigInvalid, "leave this disk out")
        world.new_home.path.mkdir()
        (world.new_home.path / "something").touch()
        await world.refuse(ConfigInvalid, "is not empty", most)
        (world.new_home.path / "something").unlink()
        shutil.copy(world.home.volume_file, world.new_home.volume_file)
        await world.refuse(ConfigInvalid, "holds a volume already", most)

    run(tmp_path, body)


def test_disks_that_a_process_uses_are_refused(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        async with open_owner(world.home):
            shutil.rmtree(world.home.path)  # as it is lost, while somebody serves the volume
            with pytest.raises(VolumeBusy, match="another process uses this disk"):
                await world.bring_back()
        await world.bring_back()
        await world.compare(world.new_home)

    run(tmp_path, body)


def test_a_disk_that_was_removed_or_declared_lost_is_refused(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        copy = world.path / "copy"
        shutil.copytree(world.disks[0], copy)
        async with open_owner(world.home) as owner:
            members = Membership(owner.disks)
            await members.replace(0, str(world.path / "spare"), quiet)
        await world.refuse(ForeignDisk, "does not belong to the volume any more", [copy, *world.disks[1:]])
        await world.refuse(ForeignDisk, "does not belong to the volume any more", [*world.disks[1:], copy])
        await world.bring_back([*world.disks[1:], world.path / "spare"])
        await world.compare(world.new_home)

    run(tmp_path, body)


def test_a_disk_that_was_added_a_moment_ago_is_looked_for(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        async with open_owner(world.home) as owner:
            await Membership(owner.disks).add(str(world.path / "spare"))
            await world.fill(owner, 20)
        shutil.rmtree(world.home.path)
        report = await world.bring_back()
        assert report.disks == 7 and len(report.missing) == 1
        await world.compare(world.new_home)

    run(tmp_path, body)


def test_an_import_that_fails_takes_away_what_it_made_and_can_be_done_again(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        async with open_owner(world.home) as owner:
            await owner.volume.settle()
        shutil.rmtree(world.home.path)
        saved = {file: file.read_bytes() for disk in world.disks for file in (disk / "snapshot").glob("*")}
        assert saved
        for file in saved:
            file.write_bytes(bytes(len(saved[file])))
        with pytest.raises(Corrupt):
            await world.bring_back()
        assert not world.new_home.path.exists()
        for file, data in saved.items():
            file.write_bytes(data)
        world.new_home.meta.mkdir(parents=True)
        (world.new_home.meta / "data.mdb").write_bytes(b"what a killed import left")
        with pytest.raises(ConfigInvalid, match="is not empty"):
            await world.bring_back()
        world.new_home.importing.touch()
        await world.bring_back()
        assert not world.new_home.importing.exists()
        await world.compare(world.new_home)

    run(tmp_path, body)


def test_settings_that_were_edited_by_hand_get_to_the_disks(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        config = msgspec.structs.replace(world.home.load_config(), rebuild_grace=77.0)
        world.home.save_config(config)
        async with open_owner(world.home):
            pass
        await world.bring_back()
        assert world.new_home.load_config().rebuild_grace == 77.0

    run(tmp_path, body)
