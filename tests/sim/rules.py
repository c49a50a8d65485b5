"""What users do to a volume, through the mount and through S3, done to the model as well."""

from __future__ import annotations

import hashlib
import random
import stat
from collections import Counter
from collections.abc import Awaitable
from itertools import combinations, permutations
from typing import NamedTuple, TypeVar

import msgspec
import pytest
import trio

from siltstone.core.cloning import ClonesHere, clone_path
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import CompletePart, ObjectInfo, PutAttributes
from siltstone.core.quotas import Quotas
from siltstone.core.tree_snapshots import TreeSnapshots
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    NoSpace,
    NotADirectory,
    OutsideWindow,
    Unavailable,
)
from siltstone.limits import KIB, MIB, MULTIPART_PART_BYTES_MIN
from siltstone.meta.names import SNAPSHOTS_NAME
from siltstone.types import ROOT_INO, Ino, Lsn
from sim.feed import FeedReplica
from sim.model import UNKNOWN_INO, ModelFile, ModelVolume, Picture, SnapshotKey, picture_of
from sim.volume import SimVolume

DIRECTORIES = (b"d", b"e")
PATHS = (b"a", b"b", b"d/a", b"d/b", b"e/a", b"e/b", b"c")
SMALL_PATHS = tuple(b"s%d" % number for number in range(24))
"""Many small files, of which several share a stripe."""

OFFSETS = (0, 1, 511, 512, 4096, 10_000, 16 * KIB, 100_000, 256 * KIB, 400_000)
SIZES = (1, 100, 129, 4096, 16 * KIB + 1, 60_000, 256 * KIB, 300_000, 1 * MIB, 2_500_000)

PATTERN = random.Random(0).randbytes(8 * MIB)
"""Writes take their bytes from here, each from another place, so that bytes that land elsewhere are seen."""

T = TypeVar("T")


class Walked(NamedTuple):
    """All names of a volume, and the inodes among them that are files."""

    names: dict[bytes, Ino]
    files: set[Ino]


class Write(NamedTuple):
    """A write of one file."""

    ino: Ino
    offset: int
    data: bytes


class Rules:
    """The rules and the state that they share. As a holder it keeps files that were unlinked while held."""

    def __init__(self, world: SimVolume, fired: Counter[str]) -> None:
        self.world = world
        self.fired = fired
        self.model = ModelVolume()
        self.held: set[Ino] = set()
        self.is_tight = False
        """Whether writes may be refused for want of room."""
        self.home_hangs = False
        """Whether they may be refused since HOME gives no answer, or gave none lately."""
        self._serial = 0
        self.kept: dict[Ino, bytes] = {}
        """What was found in the trash."""
        self.feed = FeedReplica()
        """The tree as the change feed tells it."""

    @property
    def seconds_of_hangs(self) -> float:
        """How long the log may wait for disks that hang: it goes on without one after the other."""
        return 0.0

    # --- looking ---------------------------------------------------------------------------------------------------

    def holds(self, ino: Ino) -> bool:
        """Whether the program still uses an inode."""
        return ino in self.held

    async def walk(self, volume: Volume, top: Ino = ROOT_INO) -> Walked:
        """Every name."""
        names: dict[bytes, Ino] = {}
        files: set[Ino] = set()
        todo = [(b"", top)]
        while todo:
            prefix, directory = todo.pop()
            for name, ino, attributes in await volume.list_directory(directory, after=None, limit=100):
                names[prefix + name] = ino
                if attributes.mode & 0o170000 == 0o040000:
                    todo.append((prefix + name + b"/", ino))
                else:
                    files.add(ino)
        return Walked(names, files)

    async def read_all(self, volume: Volume, ino: Ino) -> bytes:
        """A file's bytes, in pieces that share no border with anything."""
        pieces: list[bytes] = []
        at = 0
        while piece := await volume.read(ino, at, 777_777):
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)

    async def compare(self, volume: Volume) -> None:
        """Names are compared after each step; bytes that the step may have changed are read by the step."""
        found = (await self.walk(volume)).names
        assert found == self.model.names, (found, self.model.names)
        files = self.model.linked
        directories = set(self.model.names.values()) - files
        usage = volume.ledger.usage.usage(ROOT_INO)
        assert (usage.files, usage.directories) == (len(files), len(directories))
        if volume.ledger.usage.has_quotas:
            size = sum(len(self.model.files[ino].data) for ino in files)
            assert volume.ledger.usage.held(ROOT_INO) == (size, len(files) + len(directories))

    async def look(self, volume: Volume) -> None:
        """Everything as the model has it."""
        await self.compare(volume)
        for ino in self.model.linked | (self.held & self.model.files.keys()):
            assert await self.read_all(volume, ino) == self.model.files[ino].data
            assert (await volume.attributes(ino)).size == len(self.model.files[ino].data)
            assert (await volume.attributes(ino)).nlink == list(self.model.names.values()).count(ino)

    async def pictures(self, volume: Volume) -> dict[SnapshotKey, Picture]:
        """Every snapshot, read."""
        found: dict[SnapshotKey, Picture] = {}
        for directory in (ROOT_INO, *(self.model.names[path] for path in DIRECTORIES if path in self.model.names)):
            snapshots = await TreeSnapshots(volume).list(directory)
            for info in snapshots:
                holder = (await volume.lookup(directory, SNAPSHOTS_NAME)).ino
                walked = await self.walk(volume, (await volume.lookup(holder, info.name)).ino)
                contents = {ino: await self.read_all(volume, ino) for ino in walked.files}
                found[directory, info.name] = picture_of(walked.names, contents)
                assert info.entries == len(walked.names)
                assert info.bytes == sum(map(len, contents.values()))
        return found

    async def attempt(self, operation: Awaitable[object]) -> bool:
        """Whether the operation was done; it may be refused for want of room, or of HOME, only."""

        async def done() -> bool:
            await operation
            return True

        return await self.attempt_for(done()) is not None

    async def attempt_for(self, operation: Awaitable[T]) -> T | None:
        """What the operation returns; None when it was refused for want of room, or of HOME."""
        try:
            return await operation
        except NoSpace:
            assert self.is_tight, "refused for want of room that there is"
            self.fired["refused for want of room"] += 1
            return None
        except Unavailable as error:
            if not self.home_hangs or "HOME" not in str(error):
                raise
            self.fired["refused since HOME hangs"] += 1
            return None

    def path(self, number: int) -> bytes:
        """One of the paths whose directory exists."""
        path = PATHS[number % len(PATHS)]
        directory, _, name = path.rpartition(b"/")
        return path if not directory or directory in self.model.names else name

    def place(self, path: bytes) -> tuple[Ino, bytes]:
        """A path as its directory and its name."""
        directory, _, name = path.rpartition(b"/")
        return (self.model.names[directory] if directory else ROOT_INO), name

    def data(self, size: int) -> bytes:
        """Bytes that no other write has at the same place."""
        self._serial += 1
        start = self._serial * 7919 % (len(PATTERN) - MULTIPART_PART_BYTES_MIN)
        return PATTERN[start : start + size]

    # --- bytes -----------------------------------------------------------------------------------------------------

    async def do_write(self, volume: Volume, a: int, b: int, c: int) -> None:
        """Write, making the file if need be; readable at once."""
        path = self.path(a)
        if path not in self.model.names and not await self._create(volume, path):
            return
        await self._write(volume, self.model.names[path], OFFSETS[b % len(OFFSETS)], SIZES[c % len(SIZES)])

    async def do_write_held(self, volume: Volume, a: int, b: int, c: int) -> None:
        """Write to a file that has perhaps no name any more."""
        held = sorted(self.held & self.model.files.keys())
        if held:
            await self._write(volume, held[a % len(held)], OFFSETS[b % len(OFFSETS)], SIZES[c % len(SIZES)])

    async def _create(self, volume: Volume, path: bytes) -> bool:
        self.model.begin([{**self.model.names, path: UNKNOWN_INO}], {path: ModelFile()})
        made = await self.attempt_for(volume.create(*self.place(path), mode=0o100644, uid=0, gid=0))
        if made is None:
            self.model.refused()
            return False
        self.model.files[made.ino] = ModelFile()
        self.model.done({**self.model.names, path: made.ino})
        return True

    async def _write(self, volume: Volume, ino: Ino, offset: int, size: int) -> None:
        await self._write_unseen(volume, ino, offset, size)
        low = max(0, offset - 10)
        assert await volume.read(ino, low, size + 20) == self.model.files[ino].data[low : low + size + 20]

    async def _write_unseen(self, volume: Volume, ino: Ino, offset: int, size: int) -> None:
        file, data = self.model.files[ino], self.data(size)
        before = file.version
        file.write(offset, data)
        if not await self.attempt(volume.write(ino, offset, data)):
            file.refused(before)

    async def do_write_together(self, volume: Volume, a: int, b: int, c: int) -> None:
        """Three writes at once, of one file or of several, and perhaps a PUT of yet another name."""
        place = self._key(a) if c % 2 else None
        # What the PUT replaces is no file to write to: whether it is there still is a matter of who comes first.
        replaced = self.model.names.get(_key_path(place)) if place else None
        inos = sorted(self.model.linked - {replaced})
        if not inos:
            return
        writes: list[Write] = []
        for number in (a, b, a + b + c):
            size = SIZES[(number + c) % len(SIZES)]
            writes.append(Write(inos[number % len(inos)], OFFSETS[(number * 3) % len(OFFSETS)], self.data(size)))
        before = {write.ino: self.model.files[write.ino].data for write in writes}
        for count in range(1, len(writes) + 1):
            for some in combinations(writes, count):
                for ino in {write.ino for write in some}:
                    self.model.files[ino].decided(_applied(before[ino], [write for write in some if write.ino == ino]))
        accepted: list[Write] = []

        async def carry_out(write: Write) -> None:
            if await self.attempt(volume.write(*write)):
                accepted.append(write)

        async with trio.open_nursery() as nursery:
            for write in writes:
                nursery.start_soon(carry_out, write)
            if place:
                nursery.start_soon(self.do_put, volume, a, b, c)
        for ino, data in before.items():
            found = await self.read_all(volume, ino)
            own = [write for write in accepted if write.ino == ino]
            assert found in [_applied(data, order) for order in permutations(own)]
            self.model.files[ino].decided(found)

    async def do_read_together(self, volume: Volume, a: int, b: int, c: int) -> None:
        """A slow read of a file that is overwritten, and whose old rows others would like to have: the old or the new
        bytes, whole."""
        ino = self.model.names.get(self.path(a))
        if ino is None or self.path(b) == self.path(a) or self.model.names.get(self.path(b)) == ino:
            return
        before = self.model.files[ino].data
        found: list[bytes] = []

        async def read() -> None:
            found.append(await volume.read(ino, 0, len(before)))

        slow = [(disk, disk.slow(2.0, "read")) for disk in self.world.disks]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.lowlevel.checkpoint()
            await self._write_unseen(volume, ino, 0, SIZES[6 + c % 2])
            if await self.attempt(volume.sync()):
                self.model.all_durable()
            await trio.sleep(0.5)  # what could be released has been, by now
            if self.path(b) in self.model.names or await self._create(volume, self.path(b)):
                await self._write_unseen(volume, self.model.names[self.path(b)], 0, SIZES[6])
            await self.attempt(volume.sync())
        for disk, fault in slow:
            if fault in disk.faults:
                disk.faults.remove(fault)
        self.fired["slow read"] += any(fault.fired for _, fault in slow)
        assert found in ([before], [self.model.files[ino].data[: len(before)]])

    async def do_small_files(self, volume: Volume, a: int, b: int, _: int) -> None:
        """Write a run of small files, new or in the place of old ones."""
        for number in range(a, a + b + 1):
            path = SMALL_PATHS[number % len(SMALL_PATHS)]
            if path in self.model.names or await self._create(volume, path):
                await self._write_unseen(volume, self.model.names[path], 0, 3000 + 500 * (number % 3))

    async def do_thin_out(self, volume: Volume, a: int, b: int, _: int) -> None:
        """Remove some small files, so that the stripes they share are worn."""
        for number in range(a % 2, len(SMALL_PATHS), 2 + b % 3):
            if SMALL_PATHS[number] in self.model.names:
                await self._unlink(volume, SMALL_PATHS[number])

    async def do_watch(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """The change feed, read from where it was read last, in this life or an earlier one, gives the tree."""
        if not await self.attempt(volume.sync()):
            return
        self.model.all_durable()
        try:
            if self.feed.position is None:
                if volume.feed.log.start:
                    await self.feed.begin(volume)
                self.feed.position = self.feed.position or Lsn(0)
            await self.feed.follow(volume)
        except OutsideWindow:
            self.fired["the feed does not reach back"] += 1
            await self.feed.begin(volume)
        assert self.feed.names == self.model.names, "the feed tells of another tree"
        for ino in self.model.linked & self.feed.sizes.keys():
            assert self.feed.sizes[ino] == len(self.model.files[ino].data), f"of inode {ino} the feed has another size"

    async def do_trash(self, volume: Volume, a: int, _: int, __: int) -> None:
        """From now on what is removed is kept, or is not."""
        self.world.config = msgspec.structs.replace(self.world.config, trash_days=30.0 if a % 4 else 0.0)
        volume.follow_settings(self.world.config)

    async def do_undelete(self, volume: Volume, a: int, _: int, __: int) -> None:
        """What was removed, in this life or an earlier one, has its bytes, and comes back with them."""
        if not await self.attempt(volume.sync()):
            return
        self.model.all_durable()
        items = [item for item in await volume.trash.items(b"") if stat.S_ISREG(item.mode) and item.path is not None]
        for item in items:
            ino = Ino(item.ino)
            data = await self.read_all(volume, ino)
            file = self.model.files.get(ino)
            if file is not None:
                assert data == file.data, f"{item.path!r} has other bytes in the trash"
            elif ino in self.kept and ino not in self.held:
                assert data == self.kept[ino], f"{item.path!r} had other bytes in the trash before a crash"
            self.kept[ino] = data
        free = [item for item in items if self._is_free(item.path or b"")]
        if not free:
            return
        item = max(
            (each for each in free if each.path == free[a % len(free)].path),
            key=lambda each: (each.removed_ns, each.ino),
        )
        path, ino = (item.path or b"")[1:], Ino(item.ino)
        after = {**self.model.names, path: ino}
        self.model.begin([after], {path: ModelFile(self.kept[ino])})
        if not await self.attempt(volume.trash.restore(b"/" + path)):
            self.model.refused()
            return
        self.fired["undeleted"] += 1
        self.model.files.setdefault(ino, ModelFile(self.kept[ino]))
        self.model.done(after)

    def _is_free(self, path: bytes) -> bool:
        """Whether a path of the trash may be restored: nothing is there, and its directory is."""
        above, _, name = path[1:].rpartition(b"/")
        return bool(name) and path[1:] not in self.model.names and (not above or above in self.model.names)

    async def do_truncate(self, volume: Volume, a: int, b: int, _: int) -> None:
        """Cut or extend."""
        ino = self.model.names.get(self.path(a))
        if ino is not None:
            size, before = OFFSETS[b % len(OFFSETS)], self.model.files[ino].data
            is_kept = volume.trash.days > 0 and len(before) > size
            self.model.files[ino].truncate(size)
            await volume.set_attributes(ino, SetAttributes(size=size))
            if is_kept and not self.is_tight and not self.home_hangs:
                cut = [Ino(item.ino) for item in await volume.trash.items(b"") if item.is_cut]
                kept = [ino for ino in cut if await self.read_all(volume, ino) == before]
                assert kept, "what was cut off is not in the trash"
                self.fired["cut and kept"] += 1
            assert await self.read_all(volume, ino) == self.model.files[ino].data

    # --- names -----------------------------------------------------------------------------------------------------

    async def do_mkdir(self, volume: Volume, a: int, _: int, __: int) -> None:
        """Make a directory, if it is not there."""
        path = DIRECTORIES[a % 2]
        if path not in self.model.names:
            self.model.begin([{**self.model.names, path: UNKNOWN_INO}])
            made = await self.attempt_for(volume.mkdir(ROOT_INO, path, mode=0o755, uid=0, gid=0))
            if made is None:
                self.model.refused()
            else:
                self.model.done({**self.model.names, path: made.ino})

    async def do_rmdir(self, volume: Volume, a: int, _: int, __: int) -> None:
        """Remove a directory, which is refused when it is not empty."""
        path = DIRECTORIES[a % 2]
        if path in self.model.names:
            after = {key: ino for key, ino in self.model.names.items() if key != path}
            self.model.begin([after])
            try:
                await volume.rmdir(ROOT_INO, path)
            except DirectoryNotEmpty:
                assert self.model.children(path) or self.model.has_snapshots(self.model.names[path])
                self.model.refused()
            else:
                assert not self.model.children(path) and not self.model.has_snapshots(self.model.names[path])
                self.model.done(after)

    async def do_quota(self, volume: Volume, a: int, _: int, __: int) -> None:
        """Limit the whole volume, far from what it holds, or end that: its counters are compared after each step."""
        await self.attempt(Quotas(volume).set(b"/", {"bytes": (a % 3) << 40}))

    async def do_rename(self, volume: Volume, a: int, b: int, c: int) -> None:
        """Rename a file, into another directory too, replacing what is there or exchanging with it."""
        source, target = self.path(a), self.path(b)
        ino, replaced = self.model.names.get(source), self.model.names.get(target)
        if ino is None:
            return
        exchange = c % 4 == 0 and replaced is not None
        after = {**self.model.names, target: ino}
        if exchange and replaced is not None:
            after[source] = replaced
        elif source != target:
            del after[source]
        if ino == replaced:
            after = dict(self.model.names)
        self.model.begin([after], floor=ino)
        if await self.attempt(volume.rename(*self.place(source), *self.place(target), exchange=exchange)):
            self.model.done(after, floor=ino)
        else:
            self.model.refused()

    async def do_rename_directory(self, volume: Volume, a: int, _: int, __: int) -> None:
        """Rename a directory over the other one's name, which is refused when that is not empty."""
        source, target = DIRECTORIES[a % 2], DIRECTORIES[1 - a % 2]
        if source not in self.model.names:
            return
        after: dict[bytes, Ino] = {}
        for path, ino in self.model.names.items():
            if path == source or path.startswith(source + b"/"):
                after[target + path[len(source) :]] = ino
            elif path != target:
                after[path] = ino
        self.model.begin([after])
        try:
            await volume.rename(ROOT_INO, source, ROOT_INO, target)
        except DirectoryNotEmpty:
            assert self.model.children(target) or self.model.has_snapshots(self.model.names[target])
            self.model.refused()
        else:
            self.model.done(after)

    async def do_clone(self, volume: Volume, a: int, b: int, c: int) -> None:
        """Clone a directory with all that is in it, or a file: neither sees later writes to the other. Durable when it
        is done, and refused when the name is taken, or below the source."""
        source, target = DIRECTORIES[a % 2], DIRECTORIES[1 - a % 2]
        if c % 3 == 0:
            source, target = self.path(a), self.path(b)
        if source not in self.model.names:
            return
        pairs = {path: target + path[len(source) :] for path in (source, *self.model.children(source))}
        files = {
            new: self.model.files[ino]
            for old, new in pairs.items()
            if (ino := self.model.names[old]) in self.model.files
        }
        made = {new: ModelFile(file.data) for new, file in files.items()}
        self.model.begin([{**self.model.names, **dict.fromkeys(pairs.values(), UNKNOWN_INO)}], made)
        cloning = clone_path(volume, ClonesHere(volume), source, target)
        if target in self.model.names or target.startswith(source + b"/"):
            with pytest.raises((AlreadyExists, InvalidArgument, NotADirectory)):
                await cloning
            self.model.refused()
            return
        if await self.attempt_for(cloning) is None:
            self.model.refused()
            return
        names = (await self.walk(volume)).names
        cloned = {new: names[new] for new in pairs.values()}
        old = {self.model.names[path]: cloned[new] for path, new in pairs.items()}
        assert len({*old.values()}) == len(old), "what was one file is several, or the other way round"
        assert not self.model.files.keys() & cloned.values(), "a clone is what it is a clone of"
        for new, file in made.items():
            self.model.files[cloned[new]] = file
        self.model.done({**self.model.names, **cloned})
        self.model.names_durable()
        self.fired["directory with files cloned"] += len(pairs) > 1

    async def do_snapshot_tree(self, volume: Volume, a: int, b: int, c: int) -> None:
        """Make a snapshot of a directory, perhaps while somebody writes to it, or delete one. Durable when it is done;
        refused when the name is taken."""
        path = (b"", *DIRECTORIES)[a % 3]
        if path and path not in self.model.names:
            return
        directory, name = (self.model.names[path] if path else ROOT_INO), b"%d" % (b % 2)
        key = (directory, name)
        if key in self.model.snapshots:
            await self._delete_snapshot(volume, key, is_taken=c % 3 == 0)
            return
        picture = self.model.picture(path)
        self.model.snapshots_under_way[key] = picture
        if await self.attempt_for(TreeSnapshots(volume).create(directory, name)) is not None:
            self.model.snapshots[key] = picture
            self.model.names_durable()
            self.fired["snapshot with files taken"] += any(picture.entries.values())
        del self.model.snapshots_under_way[key]

    async def _delete_snapshot(self, volume: Volume, key: SnapshotKey, *, is_taken: bool) -> None:
        snapshots = TreeSnapshots(volume)
        if is_taken:
            with pytest.raises(AlreadyExists):
                await snapshots.create(*key)
            return
        self.model.snapshots_under_way[key] = self.model.snapshots[key]
        await snapshots.delete(*key)
        del self.model.snapshots[key], self.model.snapshots_under_way[key]
        self.fired["snapshot deleted"] += 1

    async def do_link(self, volume: Volume, a: int, b: int, _: int) -> None:
        """A further name, if it is free."""
        source, target = self.path(a), self.path(b)
        ino = self.model.names.get(source)
        if ino is not None and target not in self.model.names:
            after = {**self.model.names, target: ino}
            self.model.begin([after], floor=ino)
            if await self.attempt(volume.link(ino, *self.place(target))):
                self.model.done(after, floor=ino)
            else:
                self.model.refused()

    async def do_unlink(self, volume: Volume, a: int, _: int, __: int) -> None:
        """Remove a name: never refused for want of room."""
        path = self.path(a)
        if path in self.model.names:
            await self._unlink(volume, path)

    async def _unlink(self, volume: Volume, path: bytes) -> None:
        after = {key: ino for key, ino in self.model.names.items() if key != path}
        self.model.begin([after])
        await volume.unlink(*self.place(path))
        self.model.done(after)

    async def do_hold(self, volume: Volume, a: int, _: int, __: int) -> None:
        """Open a file: it stays readable when its last name goes."""
        ino = self.model.names.get(self.path(a))
        if ino is not None:
            self.held.add(ino)

    async def do_release(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """Close every file; what has no name is purged."""
        self.fired["orphan let go"] += len(self.held - self.model.linked)
        released, self.held = self.held, set()
        for ino in released:
            volume.released(ino)

    # --- durability ------------------------------------------------------------------------------------------------

    async def do_fsync(self, volume: Volume, a: int, _: int, __: int) -> None:
        """What was done to this file, and every name, is durable now."""
        ino = self.model.names.get(self.path(a))
        if ino is not None and await self.attempt(volume.fsync(ino)):
            self.model.files[ino].made_durable()
            self.model.names_durable()

    async def do_flush(self, volume: Volume, a: int, _: int, __: int) -> None:
        """As close does; promises nothing."""
        ino = self.model.names.get(self.path(a))
        if ino is not None:
            await self.attempt(volume.flush(ino))

    async def do_sync(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """Everything is durable now."""
        if await self.attempt(volume.sync()):
            self.model.all_durable()

    async def do_settle(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """Move the log's payload to stripes: nobody can tell.

        On a full pool it may be refused: the log's segment that sealing opens eats into what is reserved for settling.
        """
        if not await self.attempt(volume.settle()):
            return
        assert volume.status().log_live_bytes == 0
        await self.look(volume)
        self.model.all_durable()

    async def do_wait(self, volume: Volume, _: int, __: int, ___: int) -> None:
        """The commit interval passes: everything is durable though nobody asked."""
        await trio.sleep(self.world.config.commit_interval + self.seconds_of_hangs)
        if not self.is_tight:
            self.model.all_durable()

    # --- S3 --------------------------------------------------------------------------------------------------------

    def _key(self, number: int) -> tuple[str, bytes] | None:
        """A bucket that exists and a key in it."""
        buckets = [path for path in DIRECTORIES if path in self.model.names]
        if not buckets:
            return None
        return buckets[number % len(buckets)].decode(), (b"a", b"b")[number // 2 % 2]

    async def do_put(self, volume: Volume, a: int, _: int, c: int) -> None:
        """PUT: the old or the new object whole, durable when it is answered."""
        place = self._key(a)
        if place is None:
            return
        store, data = ObjectStore(volume), self.data(SIZES[c % len(SIZES)])

        async def put() -> ObjectInfo:
            writer = await store.begin_put(*place)
            try:
                for at in range(0, len(data), 200_000):
                    await writer.write(data[at : at + 200_000])
                return await writer.commit(_attributes(data))
            except BaseException:
                await writer.abort()
                raise

        await self._make_object(place, data, put())

    async def do_copy(self, volume: Volume, a: int, b: int, _: int) -> None:
        """Copy: no bytes move, and neither file sees later writes to the other."""
        source, target = self._key(a), self._key(b)
        if source is not None and target is not None:
            path = _key_path(source)
            if path in self.model.names:
                data = self.model.files[self.model.names[path]].data
                await self._make_object(target, data, ObjectStore(volume).copy(*source, *target, None))

    async def do_multipart(self, volume: Volume, a: int, b: int, c: int) -> None:
        """An upload of one or two parts, completed or aborted."""
        place = self._key(a)
        if place is None:
            return
        store = ObjectStore(volume)
        sizes = [MULTIPART_PART_BYTES_MIN, SIZES[c % 8]] if b % 3 == 0 else [SIZES[c % 8]]
        pieces = [self.data(size) for size in sizes]
        numbers = range(1, len(pieces) + 1)

        async def upload() -> ObjectInfo | None:
            upload_id = await store.create_upload(*place, owner="me", headers={}, metadata={})
            parts: list[CompletePart] = []
            try:
                for number, data in zip(numbers, pieces, strict=True):
                    part = await store.begin_part(*place, upload_id, number)
                    try:
                        for at in range(0, len(data), MIB):
                            await part.write(data[at : at + MIB])
                        etag = hashlib.md5(data).hexdigest()
                        parts.append(CompletePart(number, (await part.commit(etag=etag, checksums={})).etag))
                    except BaseException:
                        await part.abort()
                        raise
            except NoSpace:
                await store.abort_upload(*place, upload_id)
                raise
            if b % 5 == 4:
                await store.abort_upload(*place, upload_id)
                return None
            return await store.complete_upload(*place, upload_id, parts, checksums={})

        if b % 5 == 4:
            await self.attempt(upload())
        else:
            await self._make_object(place, b"".join(pieces), upload())

    async def _make_object(
        self, place: tuple[str, bytes], data: bytes, operation: Awaitable[ObjectInfo | None]
    ) -> None:
        path = _key_path(place)
        self.model.begin([{**self.model.names, path: UNKNOWN_INO}], {path: ModelFile(data)})
        info = await self.attempt_for(operation)
        if info is None:
            self.model.refused()
            return
        assert info.size == len(data)
        self.model.files[info.ino] = ModelFile(data)
        self.model.done({**self.model.names, path: info.ino})
        self.model.names_durable()

    async def do_get(self, volume: Volume, a: int, _: int, __: int) -> None:
        """GET: what the mount sees."""
        place = self._key(a)
        if place is None:
            return
        path = _key_path(place)
        if path in self.model.names:
            # What the mount wrote is committed first, for the ETag's sake, which a full pool refuses.
            reader = await self.attempt_for(ObjectStore(volume).open(*place))
            if reader is None:
                return
            data = await reader.read(0, 8 * MIB)
            reader.close()
            assert data == self.model.files[self.model.names[path]].data

    async def do_delete(self, volume: Volume, a: int, _: int, __: int) -> None:
        """DELETE: durable when it is answered, and never refused for want of room."""
        place = self._key(a)
        if place is None:
            return
        path = _key_path(place)
        after = {key: ino for key, ino in self.model.names.items() if key != path}
        self.model.begin([after])
        assert (await ObjectStore(volume).delete(*place)).was_there == (path in self.model.names)
        self.model.done(after)
        self.model.names_durable()


def _key_path(place: tuple[str, bytes]) -> bytes:
    return place[0].encode() + b"/" + place[1]


def _attributes(data: bytes) -> PutAttributes:
    return PutAttributes(etag=hashlib.md5(data).hexdigest(), owner="me")


def _applied(data: bytes, writes: list[Write] | tuple[Write, ...]) -> bytes:
    """The bytes after some writes."""
    file = ModelFile(data)
    for write in writes:
        file.write(write.offset, write.data)
    return file.data
