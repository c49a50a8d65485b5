"""Snapshots of trees: as the tree was at one moment, whatever goes on meanwhile; read-only, and there whole or not."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trio

from siltstone.core.cloning import ClonesHere, clone_path, find_path
from siltstone.core.fsck import fsck
from siltstone.core.tree_snapshots import SnapshotInfo, TreeSnapshots
from siltstone.core.types import Change, EntryChanged, Progress, SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotFound,
    ReadOnly,
    SiltstoneError,
)
from siltstone.meta import keys, mirror
from siltstone.meta.inodes import get_inode
from siltstone.meta.names import list_directory
from siltstone.meta.store.port import Reader
from siltstone.types import ROOT_INO, Ino
from sim.clock import autojump
from sim.feed import events_since
from sim.metadata import check_metadata
from sim.trees import DATA, Node, make_directory, make_file, make_tree, read_tree
from sim.volume import SimVolume, small_config


def with_volume(body: Callable[[Volume], Awaitable[None]]) -> None:
    """Run ``body`` with a fresh volume in simulation; then everything agrees with itself."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await body(volume)
            await trio.sleep(3)
            await settled(volume)

    trio.run(main, clock=autojump())


async def settled(volume: Volume) -> None:
    """Nothing is left of what was given up, and everything agrees with itself."""
    assert not volume.status().orphans
    assert not list(check_metadata(volume.ledger.store))
    assert await fsck(volume, deep=True) == []


async def snapshot(volume: Volume, path: bytes, name: bytes, progress: Any = None) -> SnapshotInfo:
    """As the command does."""
    return await TreeSnapshots(volume).create((await find_path(volume, path)).ino, name, progress)


async def delete(volume: Volume, path: bytes, name: bytes) -> None:
    """As the command does with --wait."""
    snapshots = TreeSnapshots(volume)
    total = await snapshots.delete((await find_path(volume, path)).ino, name)
    await snapshots.wait_purged(total)


async def make_everything(volume: Volume) -> Ino:
    """A tree of all that there is, at /source, and a name of one of its files outside of it."""
    source = await make_tree(volume)
    await volume.link((await volume.lookup(source, b"linked")).ino, ROOT_INO, b"linked outside")
    return source


def test_a_snapshot_holds_all_that_the_tree_holds_and_nothing_that_comes_later() -> None:
    async def body(volume: Volume) -> None:
        source = await make_everything(volume)
        expected = await read_tree(volume, b"source")
        seen = await volume.attributes(source)
        heard: list[Change] = []
        volume.subscribe(lambda _, change: heard.append(change))
        info = await snapshot(volume, b"/source", b"first")
        holder = await volume.lookup(source, b".snapshots")
        top = await volume.lookup(holder.ino, b"first")
        assert EntryChanged(source, b".snapshots", holder.ino, False) in heard, "it is remembered as absent"
        assert EntryChanged(holder.ino, b"first", top.ino, False) in heard
        assert await read_tree(volume, b"source") == expected, "a listing shows where snapshots are"
        assert await read_tree(volume, b"source/.snapshots/first") == expected
        now = await volume.attributes(source)
        assert (now.mtime_ns, now.ctime_ns) == (seen.mtime_ns, seen.ctime_ns)
        assert (await volume.lookup(top.ino, b"linked")).nlink == 2, "a name outside counts"
        assert top.nlink == 4
        assert await volume.parent_of(top.ino) == holder.ino
        assert await volume.parent_of(holder.ino) == source
        assert info.entries == len(expected) - 1
        sizes = {node.links: node.size for node in expected.values() if stat.S_ISREG(node.mode)}
        assert info.bytes == sum(sizes.values())
        assert await TreeSnapshots(volume).list(source) == [info]
        inner = await volume.lookup(source, b"inner")
        await volume.write((await volume.lookup(source, b"linked")).ino, 0, b"later")
        await volume.unlink(source, b"inline")
        await volume.rename(source, b"inner", ROOT_INO, b"moved away")
        await volume.set_xattr(inner.ino, b"user.note", b"later")
        await volume.settle()
        assert await read_tree(volume, b"source/.snapshots/first") == expected

    with_volume(body)


def test_nothing_below_snapshots_can_be_changed() -> None:
    async def body(volume: Volume) -> None:
        source = await make_everything(volume)
        await snapshot(volume, b"source", b"first")
        holder = (await volume.lookup(source, b".snapshots")).ino
        top = (await volume.lookup(holder, b"first")).ino
        inner = (await volume.lookup(top, b"inner")).ino
        file = (await volume.lookup(inner, b"logged")).ino
        outside = await make_file(volume, source, b"outside")
        tries: list[Awaitable[object]] = [
            volume.write(file, 0, b"x"),
            volume.set_attributes(file, SetAttributes(size=0)),
            volume.set_attributes(file, SetAttributes(mode=0o777)),
            volume.set_attributes(top, SetAttributes(mtime_ns=1)),
            volume.set_xattr(file, b"user.x", b"x"),
            volume.remove_xattr(inner, b"user.note"),
            volume.unlink(inner, b"logged"),
            volume.rmdir(top, b"empty"),
            volume.rmdir(holder, b"first"),
            volume.rmdir(source, b".snapshots"),
            volume.create(inner, b"new", mode=0o100644, uid=0, gid=0),
            volume.mkdir(holder, b"new", mode=0o755, uid=0, gid=0),
            volume.symlink(top, b"new", b"x", uid=0, gid=0),
            volume.link(file, source, b"out"),
            volume.link(outside, inner, b"in"),
            volume.rename(inner, b"logged", inner, b"other"),
            volume.rename(inner, b"logged", source, b"out"),
            volume.rename(source, b"outside", inner, b"in"),
            volume.rename(source, b"outside", inner, b"logged", exchange=True),
            volume.rename(holder, b"first", holder, b"second"),
            volume.rename(source, b".snapshots", source, b"elsewhere"),
            volume.rename(source, b"empty", source, b".snapshots", exchange=True),
        ]
        before = await read_tree(volume, b"source/.snapshots/first")
        for attempt in tries:
            with pytest.raises(ReadOnly):
                await attempt
        with pytest.raises(DirectoryNotEmpty):
            await volume.rename(source, b"empty", source, b".snapshots")
        with pytest.raises(AlreadyExists):
            await volume.mkdir(source, b".snapshots", mode=0o755, uid=0, gid=0)
        assert await read_tree(volume, b"source/.snapshots/first") == before
        assert (await volume.attributes(outside)).nlink == 1

    with_volume(body)


def test_bad_input_changes_nothing() -> None:
    async def body(volume: Volume) -> None:
        source = await make_everything(volume)
        await snapshot(volume, b"source", b"first")
        expected = await read_tree(volume, b"")
        await volume.sync()
        counted = volume.ledger.store.commit_count
        for path, name, error in (
            (b"source", b"first", AlreadyExists),
            (b"source", b"a/b", InvalidArgument),
            (b"source", b"..", InvalidArgument),
            (b"source", b"", InvalidArgument),
            (b"source", b"n" * 256, NameTooLong),
            (b"source/inline", b"x", NotADirectory),
            (b"source/missing", b"x", NotFound),
            (b"source/.snapshots", b"x", ReadOnly),
            (b"source/.snapshots/first", b"x", ReadOnly),
            (b"source/.snapshots/first/inner", b"x", ReadOnly),
        ):
            with pytest.raises(error):
                await snapshot(volume, path, name)
        for path, name in ((b"source", b"second"), (b"source/inner", b"first"), (b"source/.snapshots", b"first")):
            with pytest.raises(NotFound):
                await delete(volume, path, name)
        assert volume.ledger.store.commit_count == counted
        assert await read_tree(volume, b"") == expected
        await make_directory(volume, (await volume.lookup(source, b"empty")).ino, b".snapshots")
        with pytest.raises(AlreadyExists, match="of its own"):
            await snapshot(volume, b"source/empty", b"x")
        assert b"empty/.snapshots" in await read_tree(volume, b"source"), "one that somebody made is an ordinary one"

    with_volume(body)


def test_the_directory_takes_its_snapshots_along_and_stays_while_it_has_any() -> None:
    async def body(volume: Volume) -> None:
        parent = await make_directory(volume, ROOT_INO, b"parent")
        source = await make_directory(volume, parent, b"source")
        await make_file(volume, source, b"file", b"bytes")
        await snapshot(volume, b"parent/source", b"first")
        await snapshot(volume, b"parent", b"of both")
        await volume.unlink(source, b"file")
        with pytest.raises(DirectoryNotEmpty):
            await volume.rmdir(parent, b"source")
        await make_directory(volume, parent, b"other")
        with pytest.raises(DirectoryNotEmpty):
            await volume.rename(parent, b"other", parent, b"source")
        await volume.rename(parent, b"source", ROOT_INO, b"moved")
        assert (await read_tree(volume, b"moved/.snapshots/first"))[b"file"].data == b"bytes"
        inside = await read_tree(volume, b"parent/.snapshots/of both")
        assert inside.keys() == {b"", b"source", b"source/file"}, "a snapshot holds no snapshots"
        with pytest.raises(NotFound):
            await find_path(volume, b"parent/.snapshots/of both/source/.snapshots")
        await delete(volume, b"moved", b"first")
        await volume.rmdir(ROOT_INO, b"moved")

    with_volume(body)


def test_a_clone_of_what_is_in_a_snapshot_can_be_changed_and_one_of_the_tree_has_no_snapshots() -> None:
    async def body(volume: Volume) -> None:
        source = await make_everything(volume)
        await snapshot(volume, b"source", b"first")
        await volume.unlink(source, b"inline")
        maker = ClonesHere(volume)
        await clone_path(volume, maker, b"source/.snapshots/first", b"restored")
        await clone_path(volume, maker, b"source/.snapshots/first/inline", b"source/inline")
        await clone_path(volume, maker, b"source", b"clone")
        for path in (b"restored", b"clone"):
            assert await read_tree(volume, path) == await read_tree(volume, b"source/.snapshots/first")
            top = (await volume.lookup(ROOT_INO, path)).ino
            with pytest.raises(NotFound):
                await volume.lookup(top, b".snapshots")
            await volume.write((await volume.lookup(top, b"linked")).ino, 0, b"changed")
            await volume.unlink(top, b"linked")
            await make_directory(volume, (await volume.lookup(top, b"inner")).ino, b"new")
        with pytest.raises(ReadOnly):
            await clone_path(volume, maker, b"source/inner", b"source/.snapshots/first/inner/again")

    with_volume(body)


def test_deleting_gives_the_space_back_and_only_what_nobody_else_has() -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        kept, gone = await make_file(volume, source, b"kept", DATA), await make_file(volume, source, b"gone", DATA)
        for number in range(300):
            await make_file(volume, source, b"%d" % number, b"small")
        await volume.flush(kept)
        await volume.flush(gone)
        await volume.settle()
        await trio.sleep(3)
        empty = volume.ledger.stripes.space().usable_free_bytes
        for name in (b"one", b"two"):
            await snapshot(volume, b"source", name)
        assert volume.ledger.stripes.space().usable_free_bytes == empty, "a snapshot has moved bytes"
        await volume.unlink(source, b"gone")
        await volume.sync()
        await trio.sleep(3)
        assert volume.ledger.stripes.space().usable_free_bytes == empty
        await delete(volume, b"source", b"one")
        await trio.sleep(3)
        assert volume.ledger.stripes.space().usable_free_bytes == empty
        seen: list[Progress] = []
        snapshots = TreeSnapshots(volume)
        await snapshots.wait_purged(await snapshots.delete(source, b"two"), seen.append)
        assert seen and seen[0].total == 303
        await volume.sync()
        await trio.sleep(3)
        assert volume.ledger.stripes.space().usable_free_bytes >= empty + len(DATA)
        assert await volume.read(kept, 0, len(DATA)) == DATA
        assert not await snapshots.list(source)
        with pytest.raises(NotFound):
            await volume.lookup(source, b".snapshots")

    with_volume(body)


def test_a_trash_keeps_nothing_of_a_snapshot_and_a_snapshot_nothing_of_the_trash() -> None:
    async def body(volume: Volume) -> None:
        source = await make_everything(volume)
        volume.ledger.store.keeps_trash = True
        await volume.unlink(source, b"inline")
        expected = await read_tree(volume, b"source")
        await snapshot(volume, b"source", b"first")
        assert await read_tree(volume, b"source/.snapshots/first") == expected
        assert volume.status().orphans == 0
        inodes_held = (await volume.space()).inodes
        await delete(volume, b"source", b"first")
        # One file has two names, and what held the snapshot has gone as well.
        assert (await volume.space()).inodes == inodes_held - len(expected)

    with_volume(body)


# --- of one moment -----------------------------------------------------------------------------------------------


def dump(reader: Reader, top: Ino) -> dict[bytes, Any]:
    """All that the records say of a tree, but for inode numbers, by path."""
    inos: dict[bytes, Ino] = {b"": top}
    found: dict[bytes, Any] = {}
    todo = [b""]
    while todo:
        at = todo.pop()
        ino = inos[at]
        inode = get_inode(reader, ino)
        rest = [inode.mode, inode.uid, inode.gid, inode.rdev, inode.target, inode.atime_ns, inode.mtime_ns]
        rest += [inode.ctime_ns, inode.version, inode.allocated_bytes, inode.flags & 0b1111]
        records = [
            [(key[keys.INO_KEY_BYTES :], value) for key, value in reader.scan(*keys.prefix_range(prefix))]
            for prefix in (keys.extents(ino), keys.xattrs(ino), keys.object_(ino))
        ]
        found[at] = [*rest, *records, 0 if inode.is_directory else inode.size]
        if inode.is_directory:
            for name, entry in list_directory(reader, ino, limit=100_000):
                inner = at + b"/" + name if at else name
                inos[inner] = Ino(entry.ino)
                todo.append(inner)
    names: dict[Ino, list[bytes]] = {}
    for at, ino in sorted(inos.items()):
        names.setdefault(ino, []).append(at)
    return {at: (value, names[inos[at]]) for at, value in found.items()}


SNAPSHOTS = 3

KINDS = (
    *("create", "create", "mkdir", "write", "write", "stripe", "truncate", "unlink"),
    *("rmdir", "rename", "rename", "link", "xattr", "mode"),
)


class Changer:
    """Somebody who does everything to a tree, and to what is beside it."""

    def __init__(self, volume: Volume, seed: int) -> None:
        self.volume = volume
        self.random = Random(seed)
        self.done = 0
        self.places: list[Ino] = []

    async def directories(self) -> list[Ino]:
        """Those below the root."""
        found = [ROOT_INO]
        for ino in found:
            entries = await self.volume.list_directory(ino, after=None, limit=1000)
            found.extend(entry.ino for entry in entries if stat.S_ISDIR(entry.attributes.mode))
        return found

    async def step(self) -> None:
        """One operation, which may be refused."""
        volume, random = self.volume, self.random
        if self.done % 20 == 0 or not self.places:
            self.places = await self.directories()
        parent, other = random.choice(self.places), random.choice(self.places)
        name, new_name = (b"%d" % random.randrange(4) for _ in range(2))
        kind = random.choice(KINDS)
        try:
            if kind == "create":
                await make_file(volume, parent, name, random.randbytes(random.choice((0, 9, 5000))))
            elif kind == "mkdir":
                await make_directory(volume, parent, name)
            elif kind == "rename":
                await volume.rename(parent, name, other, new_name, exchange=random.random() < 0.2)
            elif kind == "unlink":
                await volume.unlink(parent, name)
            elif kind == "rmdir":
                await volume.rmdir(parent, name)
            else:
                ino = (await volume.lookup(parent, name)).ino
                if kind == "link":
                    await volume.link(ino, other, new_name)
                elif kind == "xattr":
                    await volume.set_xattr(ino, b"user." + new_name, random.randbytes(3))
                elif kind == "mode":
                    await volume.set_attributes(ino, SetAttributes(mode=random.randrange(0o1000)))
                elif kind == "truncate":
                    await volume.set_attributes(ino, SetAttributes(size=random.randrange(9000)))
                elif kind == "stripe":
                    await volume.write(ino, random.randrange(10_000), DATA[:300_000])
                else:
                    await volume.write(ino, random.randrange(8) * 1000, random.randbytes(random.choice((9, 900))))
                    if random.random() < 0.5:
                        await volume.flush(ino)
            self.done += 1
        except SiltstoneError:
            pass


@pytest.mark.parametrize("seed", range(3))
def test_a_snapshot_is_of_one_moment_whatever_goes_on(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PAGE_ENTRIES", 2)
    monkeypatch.setattr(mirror, "PAGE_EXTENTS", 3)
    monkeypatch.setattr("siltstone.core.tree_snapshots.FOLLOW_KEYS", 5)
    monkeypatch.setattr("siltstone.core.tree_snapshots.LAST_SCANS", 1)

    async def body(volume: Volume) -> None:
        source = await make_everything(volume)
        changer = Changer(volume, seed)
        for _ in range(100):
            await changer.step()
        moments: list[tuple[dict[bytes, Any], dict[bytes, Any], dict[Ino, Any]]] = []

        def heard(_: object, change: Change) -> None:
            if isinstance(change, EntryChanged) and change.name.startswith(b"s") and not change.removed:
                if change.parent == source or change.parent == ROOT_INO:
                    return
                store = volume.ledger.store
                is_dirty = any(file.dirty.size for file in volume.write_back.files.values())
                moments.append((dump(store, source), dump(store, change.ino), {Ino(0): is_dirty}))
                assert not list(check_metadata(store))

        volume.subscribe(heard)
        begun = volume.ledger.store.last_lsn
        is_over = False

        async def change() -> None:
            while not is_over and changer.done < 600:
                await changer.step()
                await trio.lowlevel.checkpoint()

        infos: list[SnapshotInfo] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(change)
            for number in range(SNAPSHOTS):
                infos.append(await snapshot(volume, b"source", b"s%d" % number))
                await trio.lowlevel.checkpoint()
            is_over = True
        assert len(moments) == SNAPSHOTS
        found: dict[bytes, dict[bytes, Node]] = {}
        for number, ((there, copied, _), info) in enumerate(zip(moments, infos, strict=True)):
            assert copied == there
            found[b"s%d" % number] = await read_tree(volume, b"source/.snapshots/s%d" % number)
            files = {tuple(links): value[-1] for value, links in there.values() if stat.S_ISREG(value[0])}
            assert (info.entries, info.bytes) == (len(there) - 1, sum(files.values()))
        for _ in range(50):
            await changer.step()
        told = await events_since(volume, begun)
        assert {"rename", "create"} <= {event["event"] for event in told}
        assert not [event for event in told if "/.snapshots" in event["path"] + event.get("to", "")]
        await volume.settle()
        for name, tree in found.items():
            assert await read_tree(volume, b"source/.snapshots/" + name) == tree
        for number in range(SNAPSHOTS):
            await delete(volume, b"source", b"s%d" % number)
        assert changer.done > 150

    with_volume(body)


def test_what_was_written_before_is_in_it_and_writers_of_a_stream_do_not_keep_it() -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        numbered = await make_file(volume, source, b"numbered", b"0")
        streams = [await make_file(volume, source, b"stream%d" % number) for number in range(3)]
        is_over = False

        async def stream(ino: Ino) -> None:
            at = 0
            while not is_over:
                at += await volume.write(ino, at % 2_000_000, DATA)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for ino in streams:
                nursery.start_soon(stream, ino)
            for number in range(4):
                await volume.write(numbered, 0, b"%d" % number)
                with trio.fail_after(60):
                    await snapshot(volume, b"source", b"s%d" % number)
            is_over = True
        for number in range(4):
            tree = await read_tree(volume, b"source/.snapshots/s%d" % number)
            assert tree[b"numbered"].data == b"%d" % number

    with_volume(body)


def test_bytes_in_memory_are_of_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(volume: Volume) -> None:
        source = await make_directory(volume, ROOT_INO, b"source")
        inos = [await make_file(volume, source, b"%d" % index, b"%08d" % index) for index in range(4)]
        flush, number = volume.flush, 4

        async def flush_while_somebody_writes(ino: Ino) -> None:
            nonlocal number
            await flush(ino)
            for _ in range(3):
                await volume.write(inos[number % 4], 0, b"%08d" % number)
                number += 1

        monkeypatch.setattr(volume, "flush", flush_while_somebody_writes)
        for turn in range(8):
            await snapshot(volume, b"source", b"s%d" % turn)
            tree = await read_tree(volume, b"source/.snapshots/s%d" % turn)
            seen = sorted(int(tree[b"%d" % index].data) for index in range(4))
            assert seen == list(range(number - 4, number)), "what was written before is missing"

    with_volume(body)


def test_one_that_is_given_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(volume: Volume) -> None:
        await make_everything(volume)
        expected = await read_tree(volume, b"")
        statistics = volume.ledger.store.statistics()
        nearly = statistics._replace(space=statistics.space._replace(used_bytes=98, max_bytes=100))
        calls = 0

        def full_soon() -> Any:
            nonlocal calls
            calls += 1
            return nearly if calls > 3 else statistics

        monkeypatch.setattr(mirror, "PAGE_ENTRIES", 2)
        with monkeypatch.context() as patched:
            patched.setattr(volume.ledger.store, "statistics", full_soon)
            with pytest.raises(NoSpace, match="lmdb_bytes_max"):
                await snapshot(volume, b"source", b"first")
        with trio.CancelScope() as scope:
            await snapshot(volume, b"source", b"first", lambda _: scope.cancel())
        assert scope.cancelled_caught
        assert await read_tree(volume, b"") == expected
        source = (await volume.lookup(ROOT_INO, b"source")).ino
        assert not await TreeSnapshots(volume).list(source)
        await trio.sleep(1)
        assert not volume.status().orphans
        await snapshot(volume, b"source", b"first")

    with_volume(body)
