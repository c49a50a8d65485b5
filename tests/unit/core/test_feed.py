"""The change feed: what it tells, in order, from where it is asked, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siltstone.core import feed as feed_module
from siltstone.core.cloning import ClonesHere, clone_path
from siltstone.core.feed_encoding import FeedEncoder
from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import PutAttributes, Versioning
from siltstone.core.types import SetAttributes
from siltstone.core.volume import Volume
from siltstone.errors import InvalidArgument, OutsideWindow, SiltstoneError
from siltstone.meta.changes import tree_changes
from siltstone.meta.notes import Note, read_note
from siltstone.types import ROOT_INO, Ino, Lsn
from sim.clock import autojump
from sim.feed import FeedReplica, ListSink, events_since, walk_below
from sim.volume import SimVolume, small_config


def with_volume(body: Callable[[Volume], Awaitable[None]]) -> None:
    """Run ``body`` with a fresh volume in simulation."""

    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:
            await body(volume)

    trio.run(main, clock=autojump())


async def make(volume: Volume, parent: Ino, name: bytes, size: int = 0) -> Ino:
    """A file with so many bytes, committed."""
    ino = (await volume.create(parent, name, mode=0o100640, uid=7, gid=8)).ino
    if size:
        await volume.write(ino, 0, b"x" * size)
        await volume.flush(ino)
    return ino


async def directory(volume: Volume, parent: Ino, name: bytes) -> Ino:
    """A directory."""
    return (await volume.mkdir(parent, name, mode=0o755, uid=0, gid=0)).ino


def short(events: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Kinds and paths."""
    return [(event["event"], event["path"], *([event["to"]] if "to" in event else [])) for event in events]


def test_each_change_is_told_with_the_path_that_it_had_then() -> None:
    async def body(volume: Volume) -> None:
        d = await directory(volume, ROOT_INO, b"d")
        a = await make(volume, d, b"a", 5)
        await volume.rename(ROOT_INO, b"d", ROOT_INO, b"e")
        await volume.link(a, ROOT_INO, b"l")
        await volume.write(a, 5, b"yy")
        await volume.flush(a)
        await volume.set_attributes(a, SetAttributes(mode=0o600))
        await volume.set_xattr(a, b"user.x", b"1")
        await volume.unlink(ROOT_INO, b"l")
        await volume.write(a, 0, b"zz")  # the name that it got last is gone: of which file this was is not known
        await volume.flush(a)
        await volume.rename(d, b"a", d, b"b")
        b = await make(volume, d, b"c")
        await volume.rename(d, b"c", d, b"b", exchange=True)
        await volume.unlink(d, b"b")
        await volume.rename(d, b"c", d, b"\xff")
        await volume.unlink(d, b"\xff")
        await volume.rmdir(ROOT_INO, b"e")
        events = await events_since(volume, volume.feed.log.start)
        assert short(events) == [
            ("mkdir", "/d"),
            ("create", "/d/a"),
            ("write", "/d/a"),
            ("rename", "/d", "/e"),
            ("link", "/l"),
            ("write", "/l"),
            ("attributes", "/l"),
            ("attributes", "/l"),
            ("unlink", "/l"),
            ("rename", "/e/a", "/e/b"),
            ("create", "/e/c"),
            ("exchange", "/e/b", "/e/c"),
            ("unlink", "/e/b"),
            ("rename", "/e/c", "/e/\ufffd"),
            ("unlink", "/e/\ufffd"),
            ("rmdir", "/e"),
        ]
        assert [event["lsn"] for event in events] == sorted(event["lsn"] for event in events)
        assert [event["size"] for event in events if event["event"] == "write"] == [5, 7]
        assert events[8]["links"] == 1 and events[14]["links"] == 0
        assert events[11]["ino"] == a and events[11]["replaced"] == b
        assert events[13]["to_hex"] == b"/e/\xff".hex()

    with_volume(body)


def test_from_each_lsn_the_rest_is_told_and_below_a_path_what_is_there() -> None:
    async def body(volume: Volume) -> None:
        d = await directory(volume, ROOT_INO, b"d")
        inner = await directory(volume, d, b"inner")
        await make(volume, inner, b"a", 30_000)
        await make(volume, ROOT_INO, b"dd")
        await volume.rename(ROOT_INO, b"d", ROOT_INO, b"e")
        await make(volume, inner, b"b")
        await volume.rename(inner, b"b", ROOT_INO, b"d")
        await volume.settle()
        await make(volume, d, b"c")
        events = await events_since(volume, Lsn(0))
        for count, event in enumerate(events):
            assert await events_since(volume, Lsn(event["lsn"])) == events[count + 1 :]
        assert short(await events_since(volume, Lsn(0), b"/d")) == [
            ("mkdir", "/d"),
            ("mkdir", "/d/inner"),
            ("create", "/d/inner/a"),
            ("write", "/d/inner/a"),
            ("rename", "/d", "/e"),
            ("rename", "/e/inner/b", "/d"),
        ]
        assert short(await events_since(volume, Lsn(0), b"/e/inner")) == [
            ("create", "/e/inner/b"),
            ("rename", "/e/inner/b", "/d"),
        ]

    with_volume(body)


def test_who_watches_is_told_soon_and_only_what_is_durable() -> None:
    async def body(volume: Volume) -> None:
        sinks = [ListSink(), ListSink(), ListSink(room=10)]
        async with trio.open_nursery() as nursery:
            for sink, path in zip(sinks, (b"", b"/d", b""), strict=True):
                nursery.start_soon(lambda s, p: volume.feed.watch(p, None, s, follow=True), sink, path)
            await trio.sleep(0.1)
            assert [len(sink.take()) for sink in sinks] == [1, 1, 1]  # marks of the beginning
            d = await directory(volume, ROOT_INO, b"d")
            begun = trio.current_time()
            for number in range(50):
                await make(volume, d if number % 2 else ROOT_INO, b"%d" % number)
            assert not sinks[0].data, "told before it was durable"
            with trio.fail_after(1):
                await sinks[0].arrived.wait()
            assert trio.current_time() - begun < 0.02
            await trio.sleep(0.1)
            everything = await events_since(volume, Lsn(0))
            assert sinks[0].take() == sinks[2].take() == everything and len(everything) == 51
            assert short(sinks[1].take()) == [("mkdir", "/d"), *(("create", f"/d/{n}") for n in range(1, 50, 2))]
            await trio.sleep(15)
            assert [sink.take()[-1]["event"] for sink in sinks] == ["mark"] * 3
            nursery.cancel_scope.cancel()
        assert volume.feed.status().watchers == 0

    with_volume(body)


def test_nothing_is_told_that_a_crash_could_take_back() -> None:
    async def main() -> None:
        world = SimVolume(small_config())
        await world.create()
        async with world.opened() as volume:

            class Checked(ListSink):
                def send_nowait(self, data: bytes) -> int:
                    last = json.loads(data.splitlines()[-1])["lsn"]
                    assert last <= volume.ledger.log.durable_lsn, "told before it was durable"
                    return super().send_nowait(data)

            for disk in world.disks:
                disk.slow(0.03, "flush")
            sink = Checked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: volume.feed.watch(b"", None, sink, follow=True))
                await trio.sleep(0.5)
                for number in range(100):
                    await make(volume, ROOT_INO, b"%d" % number)
                    await trio.sleep(0.003)
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            assert len(sink.take()) == 101

    trio.run(main, clock=autojump())


def test_who_is_too_slow_reads_the_log_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RING_BYTES", 2000)

    class Slow(ListSink):
        async def send_all(self, data: bytes) -> None:
            await trio.sleep(1)
            await super().send_all(data)

    async def body(volume: Volume) -> None:
        sink = Slow(room=0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: volume.feed.watch(b"", None, sink, follow=True))
            await trio.sleep(1.5)
            parent = ROOT_INO
            for number in range(40):
                parent = await directory(volume, parent, b"d%d" % number)
                await volume.rename(ROOT_INO, b"d0", ROOT_INO, b"e")
                await trio.sleep(0.2)
                await volume.rename(ROOT_INO, b"e", ROOT_INO, b"d0")
            await trio.sleep(20)
            assert volume.feed.status().catch_ups > 1
            told = [event for event in sink.take() if event["event"] != "mark"]
            nursery.cancel_scope.cancel()
        assert told == await events_since(volume, Lsn(0))

    with_volume(body)


def test_objects_are_put_and_deleted_and_their_versions_are_told() -> None:
    async def body(volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        begin = volume.ledger.store.last_lsn
        for versioning in (Versioning.OFF, Versioning.OFF, Versioning.ON):
            writer = await store.begin_put("bucket", b"a/k")
            await writer.write(b"bytes of it" * 10_000)
            await writer.commit(PutAttributes(etag="etag", versioning=versioning))
        await store.delete("bucket", b"a/k", versioning=Versioning.ON)
        marker = (await events_since(volume, begin))[-1]
        newest = (await events_since(volume, begin))[-3]
        assert marker["is_marker"] and newest["event"] == "version"
        await store.delete("bucket", b"a/k", versioning=Versioning.ON, version_id=marker["version_id"])
        await store.delete("bucket", b"a/k", versioning=Versioning.ON, version_id=newest["version_id"])
        await store.delete("bucket", b"a/k", versioning=Versioning.ON, version_id="")
        assert short(await events_since(volume, begin)) == [
            ("mkdir", "/bucket/a"),
            ("put", "/bucket/a/k"),
            ("put", "/bucket/a/k"),
            ("put", "/bucket/a/k"),
            ("version", "/bucket/a/k"),
            ("version", "/bucket/a/k"),
            ("delete", "/bucket/a/k"),
            ("put", "/bucket/a/k"),
            ("delete_version", "/bucket/a/k"),
            ("delete_version", "/bucket/a/k"),
        ]

    with_volume(body)


def test_what_goes_with_its_directories_in_one_batch_is_told_to_who_did_not_see_them_made() -> None:
    async def body(volume: Volume) -> None:
        store = ObjectStore(volume)
        await store.create_bucket("bucket", owner="me")
        for key in (b"a/b/c/k", b"d/e/k"):
            writer = await store.begin_put("bucket", key)
            await writer.commit(PutAttributes(etag="etag"))
        begin, sink = volume.ledger.store.last_lsn, ListSink()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: volume.feed.watch(b"", None, sink, follow=True))
            await trio.sleep(0.1)
            await store.delete("bucket", b"a/b/c/k")
            await store.delete("bucket", b"d/e/k")
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        expected = [
            ("delete", "/bucket/a/b/c/k"),
            ("rmdir", "/bucket/a/b/c"),
            ("rmdir", "/bucket/a/b"),
            ("rmdir", "/bucket/a"),
            ("delete", "/bucket/d/e/k"),
            ("rmdir", "/bucket/d/e"),
            ("rmdir", "/bucket/d"),
        ]
        live = [event for event in sink.take() if event["event"] != "mark"]
        assert short(live) == expected
        assert await events_since(volume, begin) == live

    with_volume(body)


def test_what_is_told_quickly_is_told_in_the_same_words() -> None:
    async def body(volume: Volume) -> None:
        told: list[tuple[bytes, bytes]] = []
        quickly: set[str] = set()

        def note(batch: Mapping[bytes, bytes | None]) -> None:
            lsn = volume.ledger.store.last_lsn
            quick, slow = FeedEncoder([b""]), FeedEncoder([b""])
            changes = tree_changes(read_note(batch) or Note(0, []), batch)
            slow.add(lsn, changes, [b"/before"] * len(changes), lambda place: b"/" + place[1])
            if quick.add_quickly(lsn, batch, lambda place: b"/" + place[1]):
                told.append((quick.joined()[b""], slow.joined()[b""]))
                quickly.update(change.kind.value for change in changes)

        volume.ledger.store.watch(note)
        d = await directory(volume, ROOT_INO, b"d")
        for number, name in enumerate((b"a", b'quo"ted', b"\xff", "é".encode(), b"b")):
            ino = await make(volume, d, name, 10 * number)
            await volume.set_attributes(ino, SetAttributes(size=3, mode=0o600, mtime_ns=5))
            await volume.write(ino, 0, b"x" * 300_000)
            await volume.flush(ino)
            await volume.link(ino, ROOT_INO, name)
            await volume.rename(d, name, d, b"moved")
            await volume.unlink(d, b"moved")
        await volume.symlink(d, b"s", b"target", uid=0, gid=0)
        await volume.create(d, b"fifo", mode=0o010600, uid=0, gid=0)
        await clone_path(volume, ClonesHere(volume), b"d", b"copy")
        await volume.settle()
        assert all(quick == slow for quick, slow in told)
        assert quickly == {"create", "write"}

    with_volume(body)


def test_a_clone_is_told_when_it_is_there() -> None:
    async def body(volume: Volume) -> None:
        d = await directory(volume, ROOT_INO, b"d")
        await make(volume, d, b"a", 100)
        replica = FeedReplica()
        await replica.begin(volume)
        await clone_path(volume, ClonesHere(volume), b"d", b"copy")
        copy = (await volume.lookup(ROOT_INO, b"copy")).ino
        await make(volume, copy, b"b")
        assert short(await events_since(volume, replica.position)) == [("clone", "/copy"), ("create", "/copy/b")]
        await replica.follow(volume)
        assert replica.names == await walk_below(volume, ROOT_INO, b"")

    with_volume(body)


PATHS = st.lists(st.sampled_from([b"0", b"1", b"2"]), max_size=3)
NAMES = st.sampled_from([b"0", b"1", b"2"])
KINDS = ("mkdir", "mkdir", "create", "link", "rename", "exchange", "unlink", "rmdir")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), PATHS, NAMES, PATHS, NAMES), max_size=60)
Step = tuple[str, list[bytes], bytes, list[bytes], bytes]


async def do(volume: Volume, step: Step) -> None:
    """One change of names, unless it is refused."""
    kind, path, name, other_path, other_name = step
    with suppress(SiltstoneError):
        parent, other = await find(volume, path), await find(volume, other_path)
        match kind:
            case "mkdir":
                await directory(volume, parent, name)
            case "create":
                await make(volume, parent, name)
            case "link":
                await volume.link((await volume.lookup(parent, name)).ino, other, other_name)
            case "unlink":
                await volume.unlink(parent, name)
            case "rmdir":
                await volume.rmdir(parent, name)
            case _:
                await volume.rename(parent, name, other, other_name, exchange=kind == "exchange")


async def find(volume: Volume, path: list[bytes]) -> Ino:
    """What is at a path."""
    ino = ROOT_INO
    for name in path:
        ino = (await volume.lookup(ino, name)).ino
    return ino


@settings(max_examples=25, deadline=None)
@given(STEPS)
@example(
    [
        ("mkdir", [], b"2", [], b"0"),
        ("create", [], b"0", [], b"0"),
        ("mkdir", [b"2"], b"0", [], b"0"),
        ("exchange", [b"2"], b"0", [], b"0"),  # a directory for a file
        ("create", [b"0"], b"0", [], b"0"),
    ]
)
def test_who_comes_late_is_told_what_makes_the_same_tree(steps: list[Step]) -> None:
    """Paths are those of the moment of each change, wherever directories have gone since."""

    async def body(volume: Volume) -> None:
        replica = FeedReplica()
        await replica.begin(volume)
        for step in steps:
            await do(volume, step)
        await replica.follow(volume)
        assert replica.names == await walk_below(volume, ROOT_INO, b"")

    with_volume(body)


def test_what_is_not_kept_any_more_is_refused() -> None:
    async def body(volume: Volume) -> None:
        volume.snapshots.feed_window = 20.0
        await make(volume, ROOT_INO, b"a")
        for round_ in range(3):
            await make(volume, ROOT_INO, b"b%d" % round_)
            await volume.settle()
            await volume.snapshots.take(is_hurried=True)
        assert volume.feed.log.start == 0
        assert len(await events_since(volume, Lsn(0))) == 4
        with pytest.raises(InvalidArgument, match="yet to come"):
            await events_since(volume, Lsn(volume.ledger.log.next_lsn + 8))
        await trio.sleep(90)
        start = volume.feed.log.start
        assert start > 0
        with pytest.raises(OutsideWindow, match=str(start)):
            await events_since(volume, Lsn(0))
        await make(volume, ROOT_INO, b"z")
        assert short(await events_since(volume, start))[-1] == ("create", "/z")

    with_volume(body)
