"""Disks of a volume of several shards come and go, and HOME is lost, in use, and any process dies at any step.

What clients were told is durable is there, the pools of all shards are what the settings say, a check finds nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.core.fsck import AskedShard
from siltstone.core.sharded_volume import ShardedVolume
from siltstone.core.types import Progress, ProgressListener
from siltstone.disk_keeping import Directories, DiskKeeping, Edit
from siltstone.errors import NotFound, Refused, Unavailable
from siltstone.membership import Membership
from siltstone.types import ROOT_INO, Ino, ShardId, partition_of
from sim.clock import autojump
from sim.shard_volumes import SimShardVolumes
from sim.volume import small_config

SHARDS = 3
DISKS = 6
COMMANDS = ("add", "drain", "cancel", "lost", "remove", "replace")
SIZES = (0, 10, 5_000, 40_000, 300_000)
LIMIT_SECONDS = 900.0


def quiet(_: Progress) -> None:
    """Nobody wants to see how far it is."""


class Writer:
    """A client, and what it was told is durable."""

    def __init__(self, volume: ShardedVolume, chance: random.Random, number: int) -> None:
        self._volume = volume
        self._chance = chance
        self._number = number
        self.directories: list[Ino] = []
        self.known: dict[tuple[Ino, bytes], bytes | None] = {}
        """By directory and name; None: there is none."""
        self.unsure: dict[tuple[Ino, bytes], bytes | None] = {}
        """What it was at when everything ended, and what there would be then."""

    async def run(self) -> None:
        """Write, overwrite, rename over directories and delete, for ever."""
        for number in range(4):
            name = b"w%d-%d" % (self._number, number)
            self.directories.append((await self._volume.mkdir(ROOT_INO, name, mode=0o755, uid=0, gid=0)).ino)
        while True:
            await trio.sleep(self._chance.random() * 0.5)
            place = self._chance.choice(self.directories), b"%d" % self._chance.randrange(4)
            if self.known.get(place) is None:
                await self._create(place)
            elif self._chance.random() < 0.3:
                await self._move(place)
            else:
                await self._delete(place)

    async def _create(self, place: tuple[Ino, bytes]) -> None:
        data = self._chance.randbytes(self._chance.choice(SIZES))
        self.unsure[place] = data
        ino = (await self._volume.create(*place, mode=0o100644, uid=0, gid=0)).ino
        while True:
            await self._volume.write(ino, 0, data)
            await self._volume.fsync(ino)
            if await self._volume.read(ino, 0, 1 << 20) == data:
                break  # else the shard died in between, and what it had in memory with it
        self._sure({place: data})

    async def _move(self, place: tuple[Ino, bytes]) -> None:
        target = self._chance.choice(self.directories), b"%d" % self._chance.randrange(4)
        data = self.known[place]
        self.unsure |= {place: None, target: data}
        await self._volume.rename(*place, *target)
        self._sure({place: None, target: data} if place != target else {place: data})

    async def _delete(self, place: tuple[Ino, bytes]) -> None:
        self.unsure[place] = None
        await self._volume.unlink(*place)
        self._sure({place: None})

    def _sure(self, changes: dict[tuple[Ino, bytes], bytes | None]) -> None:
        self.known |= changes
        self.unsure.clear()

    async def compare(self, volume: ShardedVolume) -> None:
        """Everything that was durable is there, and what was under way as a whole or not at all."""
        for place, data in self.known.items():
            if place not in self.unsure:
                assert await _content(volume, *place) == data, f"{place} is not what it was"
        found = {place: await _content(volume, *place) for place in self.unsure}
        before = {place: self.known.get(place) for place in self.unsure}
        is_creation = len(found) == 1 and None not in self.unsure.values()
        if is_creation:  # the name is durable before the bytes
            ((place, data),) = found.items()
            whole = self.unsure[place]
            assert whole is not None
            assert data is None or whole.startswith(data) or not data.strip(b"\0"), "a file has bytes of somebody else"
        else:
            assert found in (before, self.unsure), "half a change"


async def _content(volume: ShardedVolume, directory: Ino, name: bytes) -> bytes | None:
    try:
        ino = (await volume.lookup(directory, name)).ino
    except NotFound:
        return None
    return await volume.read(ino, 0, 1 << 20)


Step = Callable[[], Awaitable[None]]


class Stepping:
    """A shard that is asked for something: a step before it, and one behind."""

    def __init__(self, asked: AskedShard, step: Step) -> None:
        self._asked = asked
        self._step = step

    async def ask(self, method: str, *arguments: Any, progress: ProgressListener | None = None) -> Any:
        """See AskedShard."""
        await self._step()
        answer = await self._asked.ask(method, *arguments, progress=progress)
        await self._step()
        return answer


class SteppingSettings:
    """The same of settings."""

    def __init__(self, sim: SimShardVolumes, step: Step) -> None:
        self._sim = sim
        self._step = step

    @property
    def config(self) -> VolumeConfig:
        """See Settings."""
        return self._sim.config

    async def save(self, edit: Edit) -> None:
        """See Settings."""
        await self._step()
        await self._sim.save(edit)
        await self._step()


class SteppingDirectories:
    """The same of directories."""

    def __init__(self, directories: Directories, step: Step) -> None:
        self.check = directories.check
        self._directories = directories
        self._step = step

    async def format(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """See Directories."""
        await self._step()
        await self._directories.format(config, disk)
        await self._step()

    async def empty(self, config: VolumeConfig, disk: DiskConfig) -> None:
        """See Directories."""
        await self._step()
        await self._directories.empty(config, disk)
        await self._step()


class World:
    """A volume of several shards in use."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.sim = SimShardVolumes(SHARDS, seed=seed, config=small_config(disk_count=DISKS))
        self.writers: list[Writer] = []
        self.fired: Counter[str] = Counter()
        """Commands, and whether they were carried out, refused, or died with the owner."""
        self.steps = 0
        self.strike_at: tuple[int, ShardId] | None = None
        """Which shard dies at which step of the owner's work on disks."""
        self._begun = trio.Event()
        """Set while there is an owner."""
        self._dying: list[trio.CancelScope] = []
        """What ends with the owner's process."""

    def run(self, body: Callable[[World], Awaitable[None]]) -> None:
        """Make the volume, and use it while ``body`` runs; then everything must agree."""

        async def main() -> None:
            with trio.fail_after(LIMIT_SECONDS):
                await self.sim.create()
                async with trio.open_nursery() as nursery:
                    await self.sim.start(nursery)
                    self.begin_owner(nursery)
                    await self.sim.keeping().settings.save(lambda config: config)
                    self.use(nursery)
                    await body(self)
                    await self._end()
                    nursery.cancel_scope.cancel()

        trio.run(main, clock=autojump())

    # --- who is there ----------------------------------------------------------------------------------------------

    def begin_owner(self, nursery: trio.Nursery) -> None:
        """What the owner's process does beside its shard."""
        self._nursery = nursery
        self._dying.clear()
        keeping = self.sim.keeping()
        for shard, asked in keeping.all_shards.shards.items():
            keeping.all_shards.shards[shard] = Stepping(asked, self._step)
        self.keeping = DiskKeeping(
            SteppingSettings(self.sim, self._step),
            keeping.all_shards,
            SteppingDirectories(keeping.directories, self._step),
            self.sim.world.clock,
        )
        self.members = Membership(self.keeping)
        self._begun.set()
        nursery.start_soon(self._as_owner, self.keeping.run)

    async def _as_owner(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something in the owner's process; whether it came to its end."""
        with trio.CancelScope() as scope:
            self._dying.append(scope)
            await work()
        return not scope.cancelled_caught

    async def _step(self) -> None:
        """Something is about to be done about disks, or was."""
        self.steps += 1
        if self.strike_at is not None and self.steps == self.strike_at[0]:
            self.fired["died at a step"] += 1
            self._nursery.start_soon(self.kill, self.strike_at[1])
            await trio.sleep(0.01)  # the owner gets no further, if it is the owner

    def use(self, nursery: trio.Nursery) -> None:
        """Begin with clients."""
        self.clients = trio.CancelScope()
        doors = [self.sim.front_end(self.chance.randrange(1 << 30), nursery) for _ in range(2)]
        self.writers = [Writer(door.tree, self.chance, number) for number, door in enumerate(doors)]

        async def write(scope: trio.CancelScope) -> None:
            with scope:
                async with trio.open_nursery() as writing:
                    writing.start_soon(self._move_partitions)
                    for writer in self.writers:
                        writing.start_soon(writer.run)

        nursery.start_soon(write, self.clients)

    async def _move_partitions(self) -> None:
        while True:
            await trio.sleep(self.chance.random() * 2)
            used = [ROOT_INO, *(ino for writer in self.writers for ino in writer.directories)]
            await self.sim.give(partition_of(self.chance.choice(used)), self.chance.choice(self.sim.shards))

    async def kill(self, shard: ShardId) -> None:
        """Kill a shard's process; with the first one all that the owner is at ends, and it begins again."""
        is_owner = shard == self.sim.shards[0]
        if is_owner:
            self._begun = trio.Event()
            for scope in self._dying:
                scope.cancel()
        await self.sim.restart(shard)
        if is_owner:
            self.begin_owner(self._nursery)

    async def lose_home(self, gone: Collection[int]) -> None:
        """The power goes, and HOME is lost, and some disks with it."""
        self.clients.cancel()
        for scope in self._dying:
            scope.cancel()
        await self.sim.lose_power()
        for number in gone:
            self.sim.world.disks[number].disappear()
        await self.sim.import_from_disks()
        await self.sim.start_again()
        self.begin_owner(self._nursery)

    async def command(self, name: str, disk_id: int) -> None:
        """A command of somebody who types it, when there is an owner."""
        await self._begun.wait()
        is_over = await self._as_owner(partial(self._command, name, disk_id))
        self.fired[f"{name} died"] += not is_over

    async def _command(self, name: str, disk_id: int) -> None:
        members = self.members
        new = f"new{len(self.sim.world.disks)}"
        try:
            match name:
                case "add":
                    await members.add(new)
                case "drain":
                    await members.start_drain(disk_id)
                    await members.wait_drained(disk_id, quiet)
                case "cancel":
                    await members.cancel_drain(disk_id)
                case "lost":
                    await members.declare_lost(disk_id)
                    await members.wait_drained(disk_id, quiet)
                case "remove":
                    await members.remove(disk_id)
                case _:
                    await members.replace(disk_id, new, quiet)
        except (NotFound, Refused, Unavailable):
            self.fired[f"{name} refused"] += 1
        else:
            self.fired[name] += 1

    # --- the end ---------------------------------------------------------------------------------------------------

    async def settle_down(self) -> None:
        """Clients end, and what they were at with them."""
        self.clients.cancel()
        await self.sim.wait_quiet()

    async def _end(self) -> None:
        await self.settle_down()
        for disk in self.sim.config.disks:
            if disk.role in ("draining", "lost"):
                await self.members.wait_drained(disk.disk_id, quiet)
                await self.members.remove(disk.disk_id)
        await trio.sleep(30)
        await self.sim.wait_brought()
        settled = roles_of(self.sim.config.disks)
        assert not self.sim.config.leaving and set(settled.values()) <= {"member", "new"} and len(settled) >= DISKS
        for shard, volume in self.sim.volumes.items():
            seen = {int(disk.disk_id): disk.role.value for disk in volume.ledger.pool.status()}
            assert seen.keys() == settled.keys(), f"shard {shard} has other disks than the settings say"
            assert all((role, seen[id_]) in {("new", "member"), (role, role)} for id_, role in settled.items())
        for number, directory in enumerate(self.sim.world.disks):
            if number not in settled:
                assert not [name for name in directory.names if name != "superblock"], f"disk {number} was not emptied"
        async with trio.open_nursery() as nursery:
            door = self.sim.front_end(self.chance.randrange(1 << 30), nursery)
            for writer in self.writers:
                await writer.compare(door.tree)
            nursery.cancel_scope.cancel()
        assert await self.sim.fsck(deep=True) == []


def roles_of(disks: Iterable[DiskConfig]) -> dict[int, str]:
    return {disk.disk_id: disk.role for disk in disks}


@settings(max_examples=4)
@given(
    seed=st.integers(0, 2**32 - 1),
    gone=st.sets(st.integers(0, DISKS - 1), max_size=2),
    seconds=st.floats(1.0, 20.0),
    settles=st.integers(0, 3),
    scheduling=st.random_module(),
)
def test_a_volume_comes_back_from_its_disks_when_the_power_goes_and_home_is_lost(
    seed: int, gone: set[int], seconds: float, settles: int, scheduling: object
) -> None:
    """While clients write, rename from shard to shard, and partitions are on their way."""

    async def body(world: World) -> None:
        for _ in range(settles):
            await trio.sleep(seconds / (settles + 1))
            await world.keeping.all_shards.ask("settle")
        await trio.sleep(seconds / (settles + 1))
        await world.lose_home(gone)
        with trio.fail_after(60):
            await world.keeping.all_shards.ask("wait_transactions")
        for number in gone:
            world.sim.world.disks[number].return_()

    World(seed).run(body)


class Deaf:
    """A shard that lives, and gives no answer to some orders."""

    def __init__(self, asked: AskedShard, orders: int) -> None:
        self._asked = asked
        self._orders = orders

    async def ask(self, method: str, *arguments: Any, progress: ProgressListener | None = None) -> Any:
        """See AskedShard."""
        if method == "follow_disks" and self._orders:
            self._orders -= 1
            raise Unavailable("no answer")
        return await self._asked.ask(method, *arguments, progress=progress)


def test_a_shard_that_gives_no_answer_is_told_of_a_disk_later_and_the_command_says_so() -> None:
    async def body(world: World) -> None:
        await trio.sleep(3)
        shards = world.keeping.all_shards.shards
        shards[ShardId(1)] = Deaf(shards[ShardId(1)], 3)
        with pytest.raises(Unavailable, match=r"not every shard has heard .* shard 1: no answer"):
            await world.members.add("new")
        assert [disk.disk_id for disk in world.sim.config.disks] == [*range(DISKS + 1)]
        seen = {shard: len(volume.ledger.pool.status()) for shard, volume in world.sim.volumes.items()}
        assert seen == {0: DISKS + 1, 1: DISKS, 2: DISKS + 1}
        await trio.sleep(5)
        assert {len(volume.ledger.pool.status()) for volume in world.sim.volumes.values()} == {DISKS + 1}

    World(1).run(body)


STEPS = 70
"""More than replacing a disk takes."""


@settings(max_examples=3)
@given(
    seed=st.integers(0, 2**32 - 1),
    commands=st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, DISKS + 1)), min_size=1, max_size=5),
    kills=st.lists(st.tuples(st.integers(0, SHARDS - 1), st.floats(0.0, 3.0)), max_size=4),
    scheduling=st.random_module(),
)
@example(seed=2, commands=[("add", 0), ("drain", 1), ("remove", 1)], kills=[(2, 0.05), (0, 1.0)], scheduling=None)
@example(seed=3, commands=[("add", 0), ("lost", 0), ("remove", 0)], kills=[(1, 0.3), (1, 0.3)], scheduling=None)
def test_disks_come_and_go_while_shards_and_their_owner_die(
    seed: int, commands: list[tuple[str, int]], kills: list[tuple[int, float]], scheduling: object
) -> None:
    async def body(world: World) -> None:
        await trio.sleep(2)

        async def kill() -> None:
            for shard, pause in kills:
                await trio.sleep(pause)
                await world.kill(ShardId(shard))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            for name, disk_id in commands:
                await world.command(name, disk_id)

    World(seed).run(body)


@settings(max_examples=4)
@given(
    seed=st.integers(0, 2**32 - 1),
    step=st.integers(1, STEPS),
    victim=st.integers(0, SHARDS - 1),
    scheduling=st.random_module(),
)
def test_a_replacement_goes_on_after_a_death_at_any_step(seed: int, step: int, victim: int, scheduling: object) -> None:
    async def body(world: World) -> None:
        await trio.sleep(3)
        world.strike_at = world.steps + step, ShardId(victim)
        await world.command("replace", 2)
        await trio.sleep(1)

    World(seed).run(body)
