"""The bound of what the kernel remembers, with a kernel that forgets what it is asked to."""

from __future__ import annotations

import os
import stat
from typing import cast

import trio
import trio.testing

from siltstone.core.tree import Tree
from siltstone.fuse.forgetting import LOOK_SECONDS, REST_SECONDS, Forgetter
from siltstone.fuse.handles import Handles
from siltstone.types import ROOT_INO, Ino
from sim.memory_volume import MemoryVolume


class World:
    """A volume of one directory with files that the kernel has all looked up. This is the kernel, too."""

    def __init__(self, files: int, known_max: int) -> None:
        self.volume = MemoryVolume()
        self.handles = Handles(self.volume.released)
        self.names: dict[bytes, Ino] = {}
        self.forgotten: list[bytes] = []
        self.forgetter = Forgetter(cast("Tree", self.volume), self.handles, self, known_max)
        self._files = files

    async def fill(self) -> None:
        self.handles.looked_up(ROOT_INO)
        for number in range(self._files):
            mode = (stat.S_IFDIR if number % 10 == 0 else stat.S_IFREG) | 0o755
            name = b"%05d" % number
            make = self.volume.mkdir if stat.S_ISDIR(mode) else self.volume.create
            self.names[name] = (await make(ROOT_INO, name, mode=mode, uid=0, gid=0)).ino
            self.handles.looked_up(self.names[name])

    def invalidate_entry(self, parent: Ino, name: bytes) -> bool:
        self.forgotten.append(name)
        self.handles.forget([(self.names[name], 1)])
        return True

    def invalidate_attributes(self, ino: Ino) -> bool:
        raise AssertionError

    def invalidate_data(self, ino: Ino) -> bool:
        raise AssertionError

    def forget_names(self) -> bool:
        raise AssertionError


def run(world: World, seconds: float) -> None:
    async def main() -> None:
        await world.fill()
        for name in (b"00001", b"00002"):
            world.handles.open_file(world.names[name], os.O_RDONLY)
        with trio.move_on_after(seconds):
            await world.forgetter.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_files_are_forgotten_until_there_is_room_again_but_neither_directories_nor_open_ones() -> None:
    world = World(files=2000, known_max=1000)
    run(world, LOOK_SECONDS * 3)
    assert 0 < world.handles.known_count <= 1000
    assert not any(int(name) % 10 == 0 or name in (b"00001", b"00002") for name in world.forgotten)
    assert len(world.forgotten) == len(set(world.forgotten)) == world.forgetter.asked


def test_below_the_limit_nothing_is_asked() -> None:
    world = World(files=900, known_max=1000)
    run(world, LOOK_SECONDS * 3)
    assert world.forgotten == []


def test_where_all_is_in_use_it_is_not_tried_without_end() -> None:
    world = World(files=2000, known_max=100)
    run(world, LOOK_SECONDS * 3 + REST_SECONDS)
    # All but the root, 200 directories and two open files: more cannot be had, and each was asked for once.
    assert world.handles.known_count == 203
    assert len(world.forgotten) == 1798
