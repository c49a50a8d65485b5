"""Disks that go, return, are drained and added: the units of their slabs move, and no byte is lost at any instant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.config import VolumeConfig
from siltstone.core.fsck import fsck
from siltstone.core.types import Progress
from siltstone.core.volume import Volume
from siltstone.engine.pool import DiskRole
from siltstone.engine.stripe.moving import CopiedUnits
from siltstone.errors import DiskMissing, Refused, SiltstoneError
from siltstone.limits import MIB
from siltstone.meta import space
from siltstone.types import ROOT_INO, DiskId, Ino
from sim.clock import autojump
from sim.disk import SimDisk
from sim.volume import SimVolume, small_config


class World:
    """A simulated volume with some files in it."""

    def __init__(self, config: VolumeConfig, seed: int = 0) -> None:
        self.sim = SimVolume(config, seed=seed)
        self.random = Random(seed)
        self.files: dict[Ino, bytes] = {}
        self.serial = 0

    async def write(self, volume: Volume, sizes: list[int]) -> None:
        for size in sizes:
            name = b"f%d" % self.serial
            self.serial += 1
            ino = (await volume.create(ROOT_INO, name, mode=0o100644, uid=0, gid=0)).ino
            self.files[ino] = self.random.randbytes(size)
            await volume.write(ino, 0, self.files[ino])
        await volume.sync()

    async def compare(self, volume: Volume) -> None:
        for ino, data in self.files.items():
            found = b"".join([await volume.read(ino, at, MIB) for at in range(0, len(data), MIB)])
            assert found == data

    async def with_volume(self, body: Callable[[Volume], Awaitable[None]]) -> None:
        async with self.sim.opened() as volume:
            await body(volume)

    def add_disk(self, volume: Volume, role: DiskRole = DiskRole.NEW) -> DiskId:
        disk = self.sim.make_disk()
        self.sim.set_role(disk.disk_id, role.value)
        volume.ledger.pool.add(disk, role)
        return disk.disk_id

    def set_role(self, volume: Volume, disk_id: DiskId, role: DiskRole) -> None:
        self.sim.set_role(disk_id, role.value)
        volume.ledger.pool.set_role(disk_id, role)


SIZES = [5, 3000, 70_000, 300_000, 1 * MIB, 2_500_000] * 2


def disks_in_use(volume: Volume) -> set[DiskId]:
    return {disk_id for _, slab in space.slabs(volume.ledger.store) for disk_id in slab.disks}


def run(body: Callable[[World, Volume], Awaitable[None]], *, disk_count: int = 6, grace: float = 600.0) -> None:
    async def main() -> None:
        world = World(msgspec.structs.replace(small_config(disk_count=disk_count), rebuild_grace=grace))
        await world.sim.create()
        async with world.sim.opened() as volume:
            await world.write(volume, SIZES)
            await volume.settle()
            await body(world, volume)
            await world.compare(volume)
            assert await fsck(volume, deep=not world.sim.is_off) == []

    trio.run(main, clock=autojump())


def test_what_lost_disks_held_is_rebuilt_on_others_and_others_may_go_then() -> None:
    async def body(world: World, volume: Volume) -> None:
        for index in (0, 3):
            world.sim.disks[index].disappear()
        await trio.sleep(2)
        world.add_disk(volume)
        world.add_disk(volume)
        seen: list[Progress] = []
        await volume.rebuild(seen.append)
        assert seen and seen[-1].total > 0
        assert not disks_in_use(volume) & {0, 3}
        await volume.ledger.log.heal()
        for lost in combinations((1, 2, 4, 5, 6, 7), 2):
            for index in lost:
                world.sim.disks[index].disappear()
            await volume.ledger.pool.probe()
            await world.compare(volume)
            for index in lost:
                world.sim.disks[index].return_()
            await volume.ledger.pool.probe()
        for index in (0, 3):
            world.sim.disks[index].return_()
        await trio.sleep(5)
        for index in (0, 3):
            names = [name for name in world.sim.disks[index].names if name.startswith("slab/")]
            assert not names or disks_in_use(volume) & {index}, "a disk that returns drops what was rebuilt elsewhere"

    run(body)


def test_a_disk_that_returns_within_the_grace_is_used_as_it_was() -> None:
    async def body(world: World, volume: Volume) -> None:
        before = dict(space.slabs(volume.ledger.store))
        world.sim.disks[2].disappear()
        await trio.sleep(590)
        world.sim.disks[2].return_()
        await trio.sleep(30)
        assert volume.mover.moved_units == 0
        after = dict(space.slabs(volume.ledger.store))
        assert {slab_id: after[slab_id] for slab_id in before.keys() & after.keys()} == {
            slab_id: before[slab_id] for slab_id in before.keys() & after.keys()
        }

    run(body, disk_count=7)


def test_a_disk_that_stays_away_is_rebuilt_by_itself() -> None:
    async def body(world: World, volume: Volume) -> None:
        world.sim.disks[2].disappear()
        await trio.sleep(650)
        assert volume.mover.moved_units > 0 and 2 not in disks_in_use(volume)
        assert volume.status().moves.units_left == 0
        world.sim.disks[2].return_()
        await trio.sleep(30)

    run(body, disk_count=7)


def test_without_grace_it_is_rebuilt_at_once() -> None:
    async def body(world: World, volume: Volume) -> None:
        world.sim.disks[2].disappear()
        await trio.sleep(10)
        assert volume.mover.moved_units > 0 and 2 not in disks_in_use(volume)
        world.sim.disks[2].return_()
        await trio.sleep(5)

    run(body, disk_count=7, grace=0.0)


def test_without_another_disk_it_waits_and_says_so() -> None:
    async def body(world: World, volume: Volume) -> None:
        world.sim.disks[2].disappear()
        await trio.sleep(2)
        with pytest.raises(Refused, match="add a disk"):
            await volume.rebuild()
        assert any("add a disk" in warning for warning in volume.status().warnings)
        world.sim.disks[2].return_()
        await trio.sleep(5)
        assert not volume.status().moves.waiting

    run(body)


def test_a_drained_disk_holds_nothing() -> None:
    async def body(world: World, volume: Volume) -> None:
        world.set_role(volume, DiskId(1), DiskRole.DRAINING)
        await volume.mover.drain(DiskId(1))
        assert volume.mover.is_drained(DiskId(1))
        assert not [name for name in world.sim.disks[1].names if name.startswith("slab/")]
        world.sim.set_role(DiskId(1), None)
        volume.ledger.pool.remove(DiskId(1))
        await world.write(volume, SIZES[:4])

    run(body, disk_count=7)


def test_a_drain_goes_on_after_a_restart_and_tells_how_far_it_is_how_fast_and_how_long_it_takes() -> None:
    limit = 100_000

    async def main() -> None:
        config = msgspec.structs.replace(small_config(disk_count=7), rebuild_bytes_per_second=limit)
        world = World(config)
        await world.sim.create()
        async with world.sim.opened() as volume:
            await world.write(volume, SIZES)
            await volume.settle()
            units = volume.ledger.stripes.slabs.units_of(DiskId(1))
            world.set_role(volume, DiskId(1), DiskRole.DRAINING)
            await trio.sleep(6)
            assert 0 < volume.ledger.stripes.slabs.units_of(DiskId(1)) < units, "some of it has moved"
        async with world.sim.opened() as volume:
            before = volume.ledger.stripes.slabs.units_of(DiskId(1))
            assert volume.mover.status().seconds_left is None, "nobody knows yet how long it takes"
            for _ in range(50):
                await trio.sleep(0.1)
                status = volume.mover.status()
                assert (status.seconds_left is None) == (not status.kind or status.done_bytes == 0)
            status = volume.mover.status()
            assert (status.kind, status.source) == ("drain", 1)
            assert 0 < status.units_left <= before
            assert 0 < status.done_bytes < status.total_bytes
            assert limit / 2 < status.bytes_per_second < limit * 2
            left = status.total_bytes - status.done_bytes
            assert status.seconds_left == pytest.approx(left / status.bytes_per_second, abs=0.1)
            await volume.mover.drain(DiskId(1))
            assert volume.mover.status().units_left == 0
            await world.compare(volume)

    trio.run(main, clock=autojump())


def test_a_new_disk_is_levelled_and_becomes_a_member() -> None:
    async def body(world: World, volume: Volume) -> None:
        heard: list[tuple[DiskId, DiskRole]] = []
        volume.mover.on_role(lambda disk_id, role: heard.append((disk_id, role)))
        new = world.add_disk(volume)
        await trio.sleep(60)
        assert heard == [(new, DiskRole.MEMBER)]
        held = [
            sum(disk_id in slab.disks for _, slab in space.slabs(volume.ledger.store)) for disk_id in range(new + 1)
        ]
        assert max(held) - min(held) <= 2, held

    run(body)


def test_a_new_disk_without_room_is_as_level_as_it_can_be_and_no_rebuild_waits_for_it() -> None:
    """Copies of the log and of snapshots go to new disks first: chunk files are not all that fills them."""

    async def body(world: World, volume: Volume) -> None:
        heard: list[tuple[DiskId, DiskRole]] = []
        volume.mover.on_role(lambda disk_id, role: heard.append((disk_id, role)))
        disk = world.sim.make_disk()
        await disk.create("other", (await disk.space()).free_bytes - 2 * volume.ledger.log.segment_bytes)
        world.sim.set_role(disk.disk_id, "new")
        volume.ledger.pool.add(disk, DiskRole.NEW)
        await trio.sleep(5)
        await volume.rebuild()
        assert heard == [(disk.disk_id, DiskRole.MEMBER)] and not volume.status().moves.waiting

    run(body)


def test_users_write_and_delete_while_units_move() -> None:
    async def body(world: World, volume: Volume) -> None:
        world.set_role(volume, DiskId(0), DiskRole.DRAINING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.mover.drain, DiskId(0))
            for number in range(12):
                await world.write(volume, [100, 20_000, 600_000])
                name = b"f%d" % number
                world.files.pop((await volume.lookup(ROOT_INO, name)).ino)
                await volume.unlink(ROOT_INO, name)
                await volume.settle()
        assert volume.mover.is_drained(DiskId(0))

    run(body, disk_count=7)


def test_a_unit_does_not_move_under_a_stripe_that_is_on_its_way_to_it() -> None:
    """It would be missing in the new place: nobody could have known of it."""

    async def body(world: World, volume: Volume) -> None:
        slabs = volume.ledger.stripes.slabs
        for disk in world.sim.disks[3:]:
            disk.slow(30.0, "write", "slab/", count=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.write, volume, [300_000])
            await trio.sleep(3)
            for disk in world.sim.disks:
                disk.heal()  # what waits goes on waiting, what comes does not
            (on_its_way,) = [state for state in slabs.open_slabs() if state.uncommitted and state.is_recorded]
            leaving = min(on_its_way.slab.disks)  # which has written its unit
            world.set_role(volume, leaving, DiskRole.DRAINING)
            nursery.start_soon(volume.mover.drain, leaving)
        assert volume.mover.is_drained(leaving)
        assert await fsck(volume, deep=True) == [], "before anything is read, which would mend it"

    run(body, disk_count=7)


def test_the_file_that_a_unit_had_stays_until_older_reads_have_ended() -> None:
    async def body(world: World, volume: Volume) -> None:
        era = volume.ledger.fence.enter()
        world.set_role(volume, DiskId(1), DiskRole.DRAINING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.mover.drain, DiskId(1))
            await trio.sleep(20)
            assert volume.mover.moved_units, "a unit has moved, and the read may still look for it where it was"
            moved = disks_in_use(volume)
            assert [name for name in world.sim.disks[1].names if name.startswith("slab/")], moved
            volume.ledger.fence.leave(era)
        assert not [name for name in world.sim.disks[1].names if name.startswith("slab/")]

    run(body, disk_count=7)


def test_a_move_that_was_planned_before_the_slab_changed_is_not_begun() -> None:
    """Two moves go on side by side, so a plan can be older than the last of them."""

    async def body(world: World, volume: Volume) -> None:
        await world.write(volume, SIZES)
        slabs = volume.ledger.stripes.slabs
        state = next(state for state in slabs.open_slabs() if state.is_recorded)
        first, second = state.slab.disks[0], state.slab.disks[1]
        assert not await slabs.moves.begin(state.slab_id, 0, first, second), "the target has a unit of it by now"
        assert not await slabs.moves.begin(state.slab_id, 0, second, DiskId(77)), "the unit is elsewhere by now"
        assert not state.is_closed

    run(body)


def test_a_target_that_fails_is_left_and_another_is_taken() -> None:
    async def body(world: World, volume: Volume) -> None:
        slab = next(state.slab for state in volume.ledger.stripes.slabs.open_slabs())
        first, second = (disk for disk in world.sim.disks if disk.disk_id not in slab.disks)
        world.set_role(volume, slab.disks[0], DiskRole.DRAINING)
        fault = first.fail("write", "slab/", count=2)
        other = second.fail("flush", "slab/", count=1)
        await volume.mover.drain(slab.disks[0])
        assert volume.mover.is_drained(slab.disks[0])
        assert fault.fired + other.fired
        await trio.sleep(20)

    run(body, disk_count=8)


def test_a_stripe_that_cannot_be_computed_keeps_its_unit_until_the_disk_is_declared_lost() -> None:
    async def body(world: World, volume: Volume) -> None:
        for index in (0, 1, 2):
            world.sim.disks[index].disappear()
        await trio.sleep(2)
        for _ in range(3):
            world.add_disk(volume)
        with pytest.raises(Refused, match="cannot be read"):
            await volume.rebuild()
        assert {0, 1, 2} <= disks_in_use(volume)
        assert "cannot be read" in volume.status().moves.last_error
        for index in (0, 1, 2):
            world.sim.disks[index].return_()
        await trio.sleep(60)

    run(body)


def test_a_unit_that_cannot_be_computed_is_not_left_out_while_another_disk_may_return() -> None:
    """It would be missing for ever, and the stripe have one unit less than anybody knows."""

    async def body(world: World, volume: Volume) -> None:
        world.add_disk(volume)
        world.set_role(volume, DiskId(0), DiskRole.LOST)
        for index in (1, 2):
            world.sim.disks[index].disappear()
        await volume.ledger.pool.probe()
        with pytest.raises(Refused, match="bring disk 1 or 2 back"):
            await volume.mover.drain(DiskId(0))
        assert 0 in disks_in_use(volume)
        for index in (1, 2):
            world.sim.disks[index].return_()
        await volume.ledger.pool.probe()
        await volume.mover.drain(DiskId(0))
        assert await fsck(volume, deep=True) == [], "every unit is what it should be"

    run(body)


def test_a_unit_that_could_not_be_computed_before_a_disk_came_back_is_tried_again() -> None:
    async def body(world: World, volume: Volume) -> None:
        stripes = volume.ledger.stripes
        copy_unit, unreadable = stripes.copy_unit, 0

        async def copy_and_return(*arguments: Any) -> CopiedUnits:
            nonlocal unreadable
            copied = await copy_unit(*arguments)
            if copied.unreadable and not unreadable:
                unreadable = len(copied.unreadable)
                for index in (1, 2):
                    world.sim.disks[index].return_()
                await volume.ledger.pool.probe()
            return copied

        stripes.copy_unit = copy_and_return  # type: ignore[method-assign, assignment]
        world.add_disk(volume)
        world.set_role(volume, DiskId(0), DiskRole.LOST)
        for index in (1, 2):
            world.sim.disks[index].disappear()
        await volume.ledger.pool.probe()
        await volume.mover.drain(DiskId(0))
        assert unreadable, "every unit could be computed: the test tests nothing"
        assert await fsck(volume, deep=True) == [], "every unit is what it should be"

    run(body)


def test_a_disk_with_the_last_copy_of_a_part_of_the_log_is_not_waited_for() -> None:
    async def body(world: World, volume: Volume) -> None:
        await world.write(volume, [3000])
        disks = volume.ledger.log.segments()[-1].disks
        for disk_id in disks:
            world.sim.disks[disk_id].disappear()
        await volume.ledger.pool.probe()
        world.set_role(volume, disks[0], DiskRole.LOST)
        with pytest.raises(Refused, match="has no copy on a disk that is up: bring disk"):
            await volume.mover.drain(disks[0])
        world.set_role(volume, disks[0], DiskRole.MEMBER)
        for disk_id in disks:
            world.sim.disks[disk_id].return_()
        await trio.sleep(5)

    run(body)


def test_a_unit_has_not_moved_to_a_disk_that_went_meanwhile() -> None:
    """Its old file would be deleted, and with it perhaps the last that there is."""

    async def body(world: World, volume: Volume) -> None:
        target = world.add_disk(volume)
        went = trio.Event()

        def go(_disk: SimDisk, operation: str, name: str) -> None:
            if operation == "flush" and name.startswith("slab/") and not went.is_set():
                went.set()
                volume.ledger.pool.report(DiskMissing(target, "read", "slab/", "it went right after"))

        world.sim.disks[target].on_operation = go
        world.set_role(volume, DiskId(0), DiskRole.DRAINING)
        await went.wait()
        await trio.sleep(0.5)
        assert target not in disks_in_use(volume)

    run(body)


def test_a_disk_that_returns_keeps_its_units_until_it_is_durable_that_they_have_moved() -> None:
    async def main() -> None:
        world = World(msgspec.structs.replace(small_config(disk_count=7), rebuild_grace=1.0))
        await world.sim.create()
        target: DiskId | None = None

        def watch(disk: SimDisk, operation: str, name: str) -> None:
            """From when the first unit is whole in its new place no batch is durable for ten seconds."""
            nonlocal target
            if operation == "flush" and name.startswith("slab/") and target is None:
                target = disk.disk_id
                for other in world.sim.disks:
                    other.slow(10.0, "write", "log/")

        with trio.CancelScope() as life:
            async with world.sim.opened() as volume:
                await world.write(volume, SIZES)
                await volume.settle()
                before = dict(space.slabs(volume.ledger.store))
                lost = next(iter(before.values())).disks[0]
                world.sim.disks[lost].disappear()
                for disk in world.sim.disks:
                    disk.on_operation = watch
                await trio.sleep(6)
                after = dict(space.slabs(volume.ledger.store))
                moved = [slab_id for slab_id, slab in before.items() if lost in slab.disks and after[slab_id] != slab]
                assert moved, "the batch is committed, and not durable"
                world.sim.disks[lost].return_()
                await trio.sleep(3)
                world.sim.on_power_lost = life.cancel
                world.sim.power_off()
                await trio.sleep_forever()
        world.sim.on_power_lost = lambda: None
        world.sim.after_kill()
        for disk in world.sim.disks:
            disk.heal()
            disk.on_operation = None
        for index in [index for index in before[moved[0]].disks if index != lost][:2]:
            world.sim.disks[index].disappear()
        async with world.sim.opened() as volume:
            await world.compare(volume)

    trio.run(main, clock=autojump())


@given(seed=st.integers(0, 9999), operations=st.integers(0, 400), kind=st.sampled_from(["lost", "drain", "new"]))
@settings(max_examples=30, deadline=None)
def test_a_crash_at_any_operation_of_a_move_leaves_everything(seed: int, operations: int, kind: str) -> None:
    async def main() -> None:
        config = msgspec.structs.replace(small_config(disk_count=7), rebuild_grace=1.0)
        world = World(config, seed)
        await world.sim.create()
        async with world.sim.opened() as volume:
            await world.write(volume, SIZES[:6])
            await volume.settle()

        def power_off(_disk: SimDisk, _operation: str, _name: str) -> None:
            world.sim.power_off()

        scope = trio.CancelScope()
        world.sim.on_power_lost = scope.cancel
        with scope:
            try:
                async with world.sim.opened() as volume:
                    if kind == "lost":
                        world.sim.disks[seed % 7].disappear()
                    elif kind == "drain":
                        world.set_role(volume, DiskId(seed % 7), DiskRole.DRAINING)
                    else:
                        world.add_disk(volume)
                    world.sim.strike_after(operations, power_off)
                    await trio.sleep(60)
            except BaseException:
                if not world.sim.is_off:
                    raise
        world.sim.disarm()
        if world.sim.is_off:
            world.sim.after_crash()
        world.sim.on_power_lost = lambda: None
        async with world.sim.opened() as volume:
            await world.compare(volume)
            if kind == "lost" and seed % 7 not in volume.ledger.pool.up():
                await volume.rebuild()
                world.sim.disks[seed % 7].return_()
            await trio.sleep(60)
            await world.compare(volume)
            assert await fsck(volume, deep=True) == []
            strays = {
                (disk.disk_id, name) for disk in world.sim.disks for name in disk.names if name.startswith("slab/")
            }
            assert strays == {
                (disk_id, f"slab/{slab_id:08x}.{unit}")
                for slab_id, state in volume.ledger.stripes.slabs._slabs.items()
                for unit, disk_id in enumerate(state.slab.disks)
            }

    trio.run(main, clock=autojump())


GRACE_SECONDS = 600.0


def run_lives(*lives: Callable[[World, Volume], Awaitable[None]], crash: bool) -> None:
    """Several lives of one volume with seven disks; the world outlives them."""

    async def main() -> None:
        world = World(msgspec.structs.replace(small_config(disk_count=7), rebuild_grace=GRACE_SECONDS))
        await world.sim.create()
        async with world.sim.opened() as volume:
            await world.write(volume, SIZES)
            await volume.settle()
        for life in lives:
            try:
                async with world.sim.opened() as volume:
                    await life(world, volume)
                    if crash:
                        world.sim.power_off()
            except* (SiltstoneError, trio.Cancelled):
                assert world.sim.is_off
            if crash:
                world.sim.after_crash()
                world.sim.disks[2].disappear()  # the end of a crash brings every disk back
        world.sim.disks[2].return_()
        async with world.sim.opened() as volume:
            await world.compare(volume)
            assert await fsck(volume, deep=True) == []

    trio.run(main, clock=autojump())


async def lose_a_disk(world: World, volume: Volume) -> None:
    world.sim.disks[2].disappear()
    await trio.sleep(GRACE_SECONDS - 100)
    assert volume.mover.moved_units == 0


@pytest.mark.parametrize("crash", [False, True])
def test_the_grace_time_goes_on_through_restarts(crash: bool) -> None:
    async def wait_for_the_rest(world: World, volume: Volume) -> None:
        await trio.sleep(60)
        assert volume.mover.moved_units == 0
        await trio.sleep(100)
        assert volume.mover.moved_units > 0 and 2 not in disks_in_use(volume)

    run_lives(lose_a_disk, wait_for_the_rest, crash=crash)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_jump_of_the_wall_clock_that_is_seen_changes_nothing(jump: float) -> None:
    async def lose_and_jump(world: World, volume: Volume) -> None:
        await lose_a_disk(world, volume)
        world.sim.clock.jump(jump)
        await trio.sleep(10)
        assert volume.mover.moved_units == 0

    async def wait_for_the_rest(world: World, volume: Volume) -> None:
        await trio.sleep(60)
        assert volume.mover.moved_units == 0
        await trio.sleep(100)
        assert volume.mover.moved_units > 0

    run_lives(lose_and_jump, wait_for_the_rest, crash=False)


def test_a_wall_clock_that_was_set_back_between_two_lives_costs_one_grace_at_most() -> None:
    async def set_back(world: World, volume: Volume) -> None:
        await lose_a_disk(world, volume)
        world.sim.clock.jump(-86_400.0)  # right before the end: nobody sees it

    async def wait(world: World, volume: Volume) -> None:
        await trio.sleep(GRACE_SECONDS - 100)
        assert volume.mover.moved_units == 0
        await trio.sleep(200)
        assert volume.mover.moved_units > 0

    run_lives(set_back, wait, crash=False)


def test_a_disk_that_returns_has_all_of_its_grace_time_again() -> None:
    async def return_and_go(world: World, volume: Volume) -> None:
        await lose_a_disk(world, volume)
        world.sim.disks[2].return_()
        await trio.sleep(30)
        world.sim.disks[2].disappear()
        await trio.sleep(30)

    async def wait(world: World, volume: Volume) -> None:
        await trio.sleep(GRACE_SECONDS - 100)
        assert volume.mover.moved_units == 0
        world.sim.disks[2].return_()
        await trio.sleep(30)

    run_lives(return_and_go, wait, crash=False)
