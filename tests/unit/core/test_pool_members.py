"""The pool of an open volume has the disks that the settings say, however often and in whatever order it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.config import DISK_ROLES, DiskConfig
from siltstone.core.mover import Mover
from siltstone.core.pool_members import PoolMembers
from siltstone.core.scrub import Scrubber
from siltstone.engine.pool import DiskRole, Pool
from siltstone.types import DiskId
from sim.clock import SimClock
from sim.disk import SimDisk
from sim.pool import make_sim_pool
from sim.volume import disk_config, small_config

FIRST = 6
"""Disks of the volume as it is opened."""


class Expected:
    """Stands for the scrubber, and for the mover: who is told of disks and who tells of them."""

    def __init__(self) -> None:
        self.superblocks: set[DiskId] = set()
        self.tell: Callable[[DiskId, DiskRole], None]

    def expect_superblock(self, disk_id: DiskId, data: bytes) -> None:
        assert data
        self.superblocks.add(disk_id)

    def forget_superblock(self, disk_id: DiskId) -> None:
        self.superblocks.discard(disk_id)

    def on_role(self, listener: Callable[[DiskId, DiskRole], None]) -> None:
        self.tell = listener


class World:
    """A pool, and what keeps it to the settings."""

    def __init__(self) -> None:
        sim = make_sim_pool(FIRST)
        self.pool: Pool = sim.pool
        self.disks: list[SimDisk] = [*sim.disks]
        self.expected = Expected()
        self.expected.superblocks = {disk.disk_id for disk in sim.disks}
        scrubber, mover = cast(Scrubber, self.expected), cast(Mover, self.expected)
        self.members = PoolMembers(small_config(), self.pool, scrubber, mover, SimClock(), self.open_disk)

    def open_disk(self, disk: DiskConfig) -> SimDisk:
        opened = SimDisk(DiskId(disk.disk_id))
        self.disks.append(opened)
        return opened

    def level(self, disk_id: DiskId) -> None:
        """The mover finds that a new disk has its share."""
        self.pool.set_role(disk_id, DiskRole.MEMBER)
        self.expected.tell(disk_id, DiskRole.MEMBER)

    def roles(self) -> dict[int, str]:
        return {status.disk_id: status.role.value for status in self.pool.status()}


def with_roles(roles: dict[int, str]) -> list[DiskConfig]:
    return [msgspec.structs.replace(disk_config(DiskId(id_)), role=role) for id_, role in sorted(roles.items())]


@given(st.lists(st.tuples(st.integers(1, 8), st.dictionaries(st.integers(0, 9), st.sampled_from(DISK_ROLES)))))
def test_the_newest_settings_count_and_what_they_let_go_of_is_closed(told: list[tuple[int, dict[int, str]]]) -> None:
    async def main() -> None:
        world = World()
        newest = 0
        for serial, roles in told:
            before = world.roles()
            await world.members.follow(serial, with_roles(roles))
            if serial <= newest:
                assert world.roles() == before
                continue
            newest = serial
            assert world.roles() == roles == dict.fromkeys(world.expected.superblocks, "") | roles
            open_ids = [disk.disk_id for disk in world.disks if not disk._closed]
            assert sorted(open_ids) == sorted(roles), "one is open that the volume does not have, or twice"

    trio.run(main)


def test_a_disk_that_is_level_here_is_a_member_until_the_settings_say_something_else_than_new() -> None:
    async def main() -> None:
        world = World()
        roles = dict.fromkeys(range(FIRST), "member")
        await world.members.follow(1, with_roles(roles | {6: "new"}))
        assert world.roles()[6] == "new" and world.members.level == []
        world.level(DiskId(6))
        assert world.members.level == [6]
        await world.members.follow(2, with_roles(roles | {6: "new", 2: "draining"}))
        assert world.roles()[6] == "member" and world.roles()[2] == "draining"
        await world.members.follow(3, with_roles(roles | {6: "draining"}))
        assert world.roles()[6] == "draining" and world.members.level == []

    trio.run(main)
