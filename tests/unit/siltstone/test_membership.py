"""Who belongs to a volume: what is refused changes nothing, and a crash in the middle leaves a state that goes on."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from siltstone import disk_directories
from siltstone.birth import make_volume, plan_volume
from siltstone.core.types import Progress
from siltstone.disk_keeping import Edit, with_role
from siltstone.engine.pool import DiskRole
from siltstone.errors import ConfigInvalid, NotFound, Refused, SiltstoneError
from siltstone.geometry import DISK_BYTES_MIN
from siltstone.home import Home
from siltstone.membership import Membership
from siltstone.owner import Owner, open_owner
from siltstone.types import ROOT_INO

DISKS = 3
Body = Callable[["Members"], Awaitable[None]]


def quiet(_: Progress) -> None:
    """Nobody wants to see how far it is."""


class Members(Membership):
    """The disks of a volume, and the volume."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.disks)
        self.owner = owner
        self.volume = owner.volume
        self.pool = owner.volume.ledger.pool


class World:
    """A small volume in a directory, with spare directories beside its disks."""

    def __init__(self, path: Path, name: str = "volume") -> None:
        self.path = path
        self.home = Home(path / name)
        self.disks = [path / f"{name}-disk{index}" for index in range(DISKS)]

    async def create(self) -> None:
        disks = list(map(str, self.disks))
        for disk in self.disks:
            disk.mkdir(parents=True)
        plan = plan_volume(self.home, disks, code=None, bytes_max=DISK_BYTES_MIN, few_disks_allowed=False)
        await make_volume(self.home, plan)

    async def open(self, body: Body) -> None:
        async with open_owner(self.home) as owner:
            await body(Members(owner))

    def run(self, *bodies: Body) -> None:
        """Make the volume, and open it for each body."""

        async def main() -> None:
            await self.create()
            for body in bodies:
                await self.open(body)

        trio.run(main)

    def settings(self) -> bytes:
        return self.home.volume_file.read_bytes()

    def roles(self) -> dict[int, str]:
        return {disk.disk_id: disk.role for disk in self.home.load_config().disks}


def as_members(settings_before: bytes) -> bytes:
    """Settings with new disks as members, which they become by themselves; that changes their serial number, too."""
    return re.sub(rb'"serial": \d+', b"", settings_before.replace(b'"new"', b'"member"'))


def tree(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


async def write_something(members: Members) -> None:
    volume = members.volume
    for number in range(4):
        ino = (await volume.create(ROOT_INO, b"%d" % number, mode=0o100644, uid=0, gid=0)).ino
        await volume.write(ino, 0, random.Random(number).randbytes(600_000))
    await volume.sync()


async def expect_refusal(world: World, members: Members, words: str, attempt: Awaitable[object]) -> None:
    """It is refused with these words, in one line, and nothing is any different."""
    before = world.settings(), await members.shown(), tree(world.path / "spare")
    with pytest.raises((ConfigInvalid, NotFound, Refused), match=words) as caught:
        await attempt
    assert "\n" not in str(caught.value)
    after = world.settings(), await members.shown(), tree(world.path / "spare")
    steady = ("disk_id", "path", "chunk_files")
    assert (as_members(before[0]), before[2]) == (as_members(after[0]), after[2])
    assert [[disk[key] for key in steady] for disk in before[1]] == [[disk[key] for key in steady] for disk in after[1]]


def test_numbers_that_no_disk_has_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "spare").mkdir()

    async def body(members: Members) -> None:
        for disk_id in (-1, DISKS, 10**9):
            for attempt in (
                members.start_drain(disk_id),
                members.cancel_drain(disk_id),
                members.declare_lost(disk_id),
                members.wait_drained(disk_id, quiet),
                members.remove(disk_id),
                members.replace(disk_id, str(tmp_path / "spare" / "new"), quiet),
            ):
                await expect_refusal(world, members, f"no disk {disk_id}; it has 0, 1, 2", attempt)

    world.run(body)


def test_disks_that_are_needed_and_disks_in_use_stay(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def body(members: Members) -> None:
        await write_something(members)
        await expect_refusal(world, members, "would stay, the volume needs 3; add one", members.start_drain(1))
        await expect_refusal(world, members, "would stay, the volume needs 3; add one", members.declare_lost(1))
        await expect_refusal(world, members, "in use: drain it first", members.remove(1))
        await expect_refusal(world, members, "not being drained", members.cancel_drain(1))

    world.run(body)


def test_a_disk_that_others_count_on_is_given_up_only_with_what_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def body(members: Members) -> None:
        await write_something(members)
        await members.volume.settle()
        await members.add(str(tmp_path / "new0"), DISK_BYTES_MIN)
        await members.add(str(tmp_path / "new1"), DISK_BYTES_MIN)
        members.volume.mover._unit_mover._pace._bytes_per_second = 1  # nothing is rebuilt meanwhile
        await members.declare_lost(0)
        words = r"disk 1 cannot be given up now: with disk 0 away, too, .* in stripes.* would be lost; wait until what"
        await expect_refusal(world, members, words, members.declare_lost(1))
        await expect_refusal(world, members, "siltstone disk drain HOME 1", members.declare_lost(1))
        await members.declare_lost(0)  # of one that is lost already that is no change
        shutil.rmtree(world.disks[1])
        await members.pool.probe()
        words = "bring disks 1 or 0 back .--accept-loss gives up"
        await expect_refusal(world, members, words, members.declare_lost(1))
        await expect_refusal(world, members, words, members.replace(1, str(tmp_path / "spare" / "new"), quiet))
        await members.declare_lost(1, accept_loss=True)
        assert world.roles()[1] == "lost"

    world.run(body)


def test_as_many_disks_as_the_log_has_copies_are_not_given_up(tmp_path: Path) -> None:
    """The newest part of the log may be on them: the volume would not be opened again, though nothing else is lost."""
    world = World(tmp_path)

    async def body(members: Members) -> None:
        await write_something(members)
        for number in range(3):
            await members.add(str(tmp_path / f"new{number}"), DISK_BYTES_MIN)
        for disk_id in (0, 1):
            await members.declare_lost(disk_id)
            with trio.fail_after(60):
                await members.wait_drained(disk_id, quiet)
        words = r"with disks 0 and 1 away, too, the volume could not be opened again.*siltstone disk remove HOME 0"
        await expect_refusal(world, members, words, members.declare_lost(2))
        await members.remove(0)
        await members.declare_lost(2)

    world.run(body)


def test_what_is_lost_with_disks_that_were_given_up_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def body(members: Members) -> None:
        volume = members.volume
        await write_something(members)
        await volume.settle()
        for number in range(2):
            await members.add(str(tmp_path / f"new{number}"), DISK_BYTES_MIN)
            shutil.rmtree(world.disks[number])
        await members.pool.probe()
        with pytest.raises(Refused, match="accept-loss"):
            await members.declare_lost(0)
        for disk_id in (0, 1):
            await members.declare_lost(disk_id, accept_loss=True)
        for disk_id in (0, 1):
            with trio.fail_after(60):
                await members.wait_drained(disk_id, quiet)
            await members.remove(disk_id)
        ino = (await volume.create(ROOT_INO, b"later", mode=0o100644, uid=0, gid=0)).ino
        await volume.write(ino, 0, bytes(600_000))
        await volume.sync()
        assert (await volume.scrub()).lost_count
        for number in range(4):
            await volume.unlink(ROOT_INO, b"%d" % number)
        await volume.sync()
        assert await volume.read(ino, 0, 600_000) == bytes(600_000)

    async def look(members: Members) -> None:
        volume = members.volume
        ino = (await volume.lookup(ROOT_INO, b"later")).ino
        assert await volume.read(ino, 0, 600_000) == bytes(600_000)
        assert not (await volume.scrub()).lost_count

    world.run(body, look)


def test_a_disk_that_still_holds_something_is_not_removed(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def body(members: Members) -> None:
        await write_something(members)
        await members.add(str(tmp_path / "new"), DISK_BYTES_MIN)
        await members.start_drain(1)
        await expect_refusal(world, members, "still has data that is not on other disks", members.remove(1))
        await members.cancel_drain(1)
        assert world.roles()[1] == "member"

    world.run(body)


def test_directories_that_cannot_be_disks_are_refused(tmp_path: Path) -> None:
    world, other = World(tmp_path), World(tmp_path, "other")
    spare = tmp_path / "spare"
    (spare / "full").mkdir(parents=True)
    (spare / "full" / "mine").write_text("mine")
    (spare / "file").write_text("mine")
    (spare / "link").symlink_to(world.disks[1])
    (spare / "rotten").mkdir()
    (spare / "rotten" / "superblock").write_bytes(bytes(4096))

    async def body(members: Members) -> None:
        await other.create()
        for words, path in (
            ("belongs to a volume already", other.disks[0]),
            ("given twice", world.disks[0]),
            ("given twice", spare / "link"),
            ("is inside disk", world.disks[0] / "below"),
            ("is inside disk", world.disks[0].parent),
            ("HOME .* is inside disk|is inside disk", world.home.path.parent),
            ("not a directory", spare / "file"),
            ("not empty", spare / "full"),
            ("neither does the directory above", spare / "no" / "where"),
            ("superblock cannot be read", spare / "rotten"),
        ):
            await expect_refusal(world, members, words, members.add(str(path)))
            await expect_refusal(world, members, words, members.replace(2, str(path), quiet))
        await expect_refusal(world, members, "has room for", members.add(str(spare / "new"), 1 << 60))
        await expect_refusal(world, members, "too little for a disk of this", members.add(str(spare / "new"), 1 << 20))

    world.run(body)


def test_a_replacement_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(disk_directories, "room_for_disk", lambda path: DISK_BYTES_MIN // 2)

    async def body(members: Members) -> None:
        attempt = members.replace(1, str(tmp_path / "spare" / "new"), quiet)
        await expect_refusal(world, members, "has room for .* bytes only", attempt)

    world.run(body)


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def body(members: Members) -> None:
        for turn in range(2):
            new_id = await members.add(str(tmp_path / "new"), DISK_BYTES_MIN)
            assert new_id == DISKS + turn
            await members.start_drain(new_id)
            await members.wait_drained(new_id, quiet)
            await members.remove(new_id)
            assert tree(tmp_path / "new") == [], "a removed disk is an empty directory"

    world.run(body)


# --- crashes between the settings and what follows from them -------------------------------------------------------


def test_a_disk_that_stands_in_the_settings_is_used_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)

    async def add(members: Members) -> None:
        class Crashed(Exception):
            pass

        save = members.owner.save

        async def save_and_crash(edit: Edit) -> None:
            await save(edit)
            raise Crashed

        with monkeypatch.context() as patched, pytest.raises(Crashed):
            patched.setattr(members.owner, "save", save_and_crash)
            await members.add(str(tmp_path / "new"), DISK_BYTES_MIN)

    async def look(members: Members) -> None:
        assert [disk["disk_id"] for disk in await members.shown()] == [0, 1, 2, 3]
        await write_something(members)
        await members.start_drain(0)
        await members.wait_drained(0, quiet)
        await members.remove(0)

    world.run(add, look)
    assert sorted(world.roles()) == [1, 2, 3]


@pytest.mark.parametrize("role", ["draining", "lost"])
def test_a_role_that_stands_in_the_settings_is_acted_on_after_a_crash(tmp_path: Path, role: str) -> None:
    world = World(tmp_path)

    async def prepare(members: Members) -> None:
        await members.add(str(tmp_path / "new"), DISK_BYTES_MIN)
        await write_something(members)
        await members.volume.settle()

    async def go_on(members: Members) -> None:
        await members.wait_drained(1, quiet)
        await members.remove(1)
        for number in range(4):
            ino = (await members.volume.lookup(ROOT_INO, b"%d" % number)).ino
            assert await members.volume.read(ino, 0, 600_000) == random.Random(number).randbytes(600_000)

    async def main() -> None:
        await world.create()
        await world.open(prepare)
        config = world.home.load_config()
        disks = tuple(msgspec.structs.replace(disk, role=role) if disk.disk_id == 1 else disk for disk in config.disks)
        world.home.save_config(msgspec.structs.replace(config, disks=disks))  # and then the process died
        await world.open(go_on)

    trio.run(main)


def test_a_disk_that_the_settings_let_go_of_is_not_asked_for_after_a_crash(tmp_path: Path) -> None:
    """Its directory was not emptied any more: it cannot be added by mistake, and once it is empty it can."""
    world = World(tmp_path)
    new = tmp_path / "new"

    async def add(members: Members) -> None:
        await members.add(str(new), DISK_BYTES_MIN)
        await write_something(members)

    async def remove(members: Members) -> None:
        await members.start_drain(3)
        await members.wait_drained(3, quiet)
        shutil.copytree(new, tmp_path / "copy")
        await members.remove(3)
        shutil.rmtree(new)
        (tmp_path / "copy").rename(new)

    async def look(members: Members) -> None:
        assert [disk["disk_id"] for disk in await members.shown()] == [0, 1, 2]
        if (new / "log").exists() or (new / "slab").exists():
            with pytest.raises(ConfigInvalid, match="belongs to a volume already"):
                await members.add(str(new), DISK_BYTES_MIN)
            shutil.rmtree(new)
        assert await members.add(str(new), DISK_BYTES_MIN) == 4

    world.run(add, remove, look)


def test_a_disk_that_becomes_a_member_meanwhile_takes_no_other_change_back(tmp_path: Path) -> None:
    """The mover writes roles from the loop while a command writes another from a thread."""
    world = World(tmp_path)

    async def body(members: Members) -> None:
        await members.add(str(tmp_path / "new"), DISK_BYTES_MIN)
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(members.start_drain, 1)
                for role in (DiskRole.NEW, DiskRole.MEMBER) * 3:
                    members.owner.change_config(partial(with_role, disk_id=3, role=role))
                    await trio.sleep(0.001)
            assert world.roles()[1] == "draining" and world.roles()[3] == "member"
            await members.cancel_drain(1)

    world.run(body)


# --- any sequence --------------------------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "drain", "cancel", "lost", "remove", "replace"]), st.integers(0, 7)), max_size=12
)


@given(operations=OPERATIONS)
@example(operations=[("add", 0), ("add", 0), ("lost", 0), ("lost", 1)])  # two of 2+1: what both held was given up
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_sequence_settings_and_pool_agree_and_enough_disks_stay(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    world = World(tmp_path_factory.mktemp("world"))

    async def body(members: Members) -> None:
        await write_something(members)
        for serial, (operation, disk_id) in enumerate(operations):
            before = world.settings()
            target = str(world.path / f"new{serial}")
            try:
                match operation:
                    case "add":
                        await members.add(target, DISK_BYTES_MIN)
                    case "drain":
                        await members.start_drain(disk_id)
                    case "cancel":
                        await members.cancel_drain(disk_id)
                    case "lost":
                        await members.declare_lost(disk_id)
                    case "remove":
                        await members.remove(disk_id)
                    case _:
                        await members.replace(disk_id, target, quiet)
            except SiltstoneError as error:
                assert "\n" not in str(error)
                assert as_members(world.settings()) == as_members(before)
            roles = world.roles()
            seen = {int(status.disk_id): status.role.value for status in members.pool.status()}
            # One that is level is a member before the settings say so.
            assert seen.keys() == roles.keys()
            assert all(
                seen[number] == role or (role, seen[number]) == ("new", "member") for number, role in roles.items()
            )
            assert sum(role in ("member", "new") for role in roles.values()) >= DISKS

    async def look(members: Members) -> None:
        for number in range(4):
            ino = (await members.volume.lookup(ROOT_INO, b"%d" % number)).ino
            assert await members.volume.read(ino, 0, 600_000) == random.Random(number).randbytes(600_000)

    world.run(body, look)
