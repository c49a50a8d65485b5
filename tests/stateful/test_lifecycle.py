"""Lifecycle rules carried out on one process and on shards: what is due goes, what has changed since stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from stateful.test_versions import listed, put

from siltstone.core.object_types import Edit, PutAttributes, Versioning, VersionListing
from siltstone.core.types import SetAttributes
from siltstone.s3gw.lifecycle_rules import Calendar
from siltstone.s3gw.lifecycle_work import Lifecycle
from siltstone.types import ROOT_INO
from sim.clock import SimClock
from sim.two_doors import AnyStore, Sim, in_simulation

on_all = pytest.mark.parametrize("shards", [1, 3])
DAY = 100.0
CALENDAR = Calendar(round(DAY * 1e9))


def rules(*texts: str) -> bytes:
    """A document of rules, each with its prefix and what it does."""
    return f"<LifecycleConfiguration>{''.join(texts)}</LifecycleConfiguration>".encode()


def rule(identifier: str, filter_text: str, action: str) -> str:
    """One enabled rule."""
    return f"<Rule><ID>{identifier}</ID><Filter>{filter_text}</Filter><Status>Enabled</Status>{action}</Rule>"


DAYS = "<Expiration><Days>{}</Days></Expiration>"
NONCURRENT = (
    "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
    "<NewerNoncurrentVersions>1</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
)
MARKERS = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
UPLOADS = (
    "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
)


class Interfered:
    """A store in which something happens after each list of versions, before what it led to."""

    def __init__(self, store: AnyStore, act: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._act = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def list_versions(self, bucket: str, **arguments: Any) -> VersionListing:
        """The list, and then what happens."""
        found: VersionListing = await self._store.list_versions(bucket, **arguments)
        await self._act()
        return found


def worker(store: Any) -> Lifecycle:
    """Who carries out rules, as fast as it can."""
    return Lifecycle(store, SimClock(), CALENDAR, per_second=10_000)


async def plain(store: AnyStore, key: bytes, data: bytes, tags: dict[str, str] | None = None) -> None:
    """PUT in a bucket without versions."""
    writer = await store.begin_put("bucket", key)
    await writer.write(data)
    await writer.commit(PutAttributes(etag=f"etag of {data!r}", tags=tags or {}))


async def keys(store: AnyStore) -> list[bytes]:
    """What is there."""
    return [entry.key for entry in (await store.list_keys("bucket", limit=99)).entries]


@on_all
def test_objects_expire_by_prefix_tags_and_size_when_their_day_is_over(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        tagged = "<And><Prefix>t/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>"
        sized = "<And><Prefix>s/</Prefix><ObjectSizeGreaterThan>3</ObjectSizeGreaterThan></And>"
        document = rules(
            rule("plain", "<Prefix>p/</Prefix>", DAYS.format(1)),
            rule("tags", tagged, DAYS.format(1)),
            rule("sizes", sized, DAYS.format(1)),
            rule("past", "<Prefix>d</Prefix>", "<Expiration><Date>2001-01-01T00:00:00Z</Date></Expiration>"),
            rule("uploads", "<Prefix>u</Prefix>", UPLOADS),
        )
        await store.set_bucket_documents("bucket", {"lifecycle": document})
        for key, tags in (
            (b"p/a", {}),
            (b"p/b/c", {}),
            (b"q", {}),
            (b"t/a", {"k": "v", "x": ""}),
            (b"t/b", {"k": "w"}),
        ):
            await plain(store, key, b"xxx", tags)
        await plain(store, b"s/large", b"xxxx")
        await plain(store, b"s/small", b"xxx")
        await plain(store, b"dated", b"")
        for key in (b"u", b"v"):
            await store.create_upload("bucket", key, owner="me", headers={}, metadata={})
        lifecycle = worker(store)
        await lifecycle.make_pass()
        assert (lifecycle.status.expired, lifecycle.status.uploads_aborted) == (1, 0)
        await trio.sleep(DAY + 1)
        await plain(store, b"p/new", b"")
        await lifecycle.make_pass()
        assert await keys(store) == [b"p/new", b"q", b"s/small", b"t/b"]
        assert [one.key for one in (await store.list_uploads("bucket", limit=9)).uploads] == [b"v"]
        status = lifecycle.status
        assert (status.expired, status.uploads_aborted, status.changed, status.last_error) == (5, 1, 0, "")

    in_simulation(shards, body)


@on_all
def test_old_versions_and_lone_delete_markers_go_and_locked_ones_stay(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        versions = [await put(store, b"d/a", bytes([number]), Versioning.ON) for number in range(4)]
        locked = await put(store, b"d/locked", b"", Versioning.ON)
        await store.edit("bucket", b"d/locked", locked, Edit(legal_hold=True))
        for number in range(2):
            await put(store, b"d/locked", bytes([number]), Versioning.ON)
        gone = await put(store, b"gone", b"", Versioning.ON)
        await store.delete("bucket", b"gone", versioning=Versioning.ON)
        await store.delete("bucket", b"gone", version_id=gone, versioning=Versioning.ON)
        await put(store, b"gone not", b"", Versioning.ON)
        marker = await store.delete("bucket", b"gone not", versioning=Versioning.ON)
        # That a program says that the current ones are old does not make those behind them so.
        for key in (b"d/a", b"d/locked"):
            await sim.tree.set_attributes((await store.head("bucket", key)).ino, SetAttributes(mtime_ns=1))
        document = rules(rule("old", "<Prefix>d/</Prefix>", NONCURRENT), rule("marks", "<Prefix>g</Prefix>", MARKERS))
        await store.set_bucket_documents("bucket", {"lifecycle": document, "versioning": b"Enabled"})
        lifecycle = worker(store)
        await lifecycle.make_pass()
        assert lifecycle.status.markers_removed == 1 and lifecycle.status.noncurrent_expired == 0
        await trio.sleep(DAY + 1)
        await lifecycle.make_pass()
        ids = [(key, version) for key, version, _, _ in await listed(store, 3)]
        assert [version for key, version in ids if key == b"d/a"] == [versions[3], versions[2]]
        assert (b"d/locked", locked) in ids and (b"gone not", marker.version_id) in ids
        assert (lifecycle.status.noncurrent_expired, lifecycle.status.locked) == (2, 1)
        # Without a rule that keeps some, and with days for the current ones: markers come, what is behind them stays.
        document = rules(rule("all", "<Prefix></Prefix>", DAYS.format(1)))
        await store.set_bucket_documents("bucket", {"lifecycle": document})
        await lifecycle.make_pass()
        assert await keys(store) == []
        assert [version for key, version, _, _ in await listed(store, 3) if key == b"d/a"][1:] == versions[:1:-1]

    in_simulation(shards, body)


@on_all
@pytest.mark.parametrize("what", ["overwrite", "tags", "mount", "newer", "rules"])
def test_what_changes_before_it_is_deleted_stays(shards: int, what: str) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        versioning = Versioning.ON if what == "newer" else Versioning.OFF
        action = NONCURRENT if what == "newer" else DAYS.format(1)
        await store.set_bucket_documents(
            "bucket",
            {
                "lifecycle": rules(rule("one", "<Tag><Key>k</Key><Value>v</Value></Tag>", action)),
                "versioning": b"Enabled" if what == "newer" else None,
            },
        )
        versions = []
        for data in (b"1", b"2", b"3"):
            writer = await store.begin_put("bucket", b"d/e/key")
            await writer.write(data)
            made = await writer.commit(PutAttributes(etag="e", tags={"k": "v"}, versioning=versioning))
            versions.append(made.version_id)
        bucket = (await sim.tree.lookup(ROOT_INO, b"bucket")).ino
        directory = (await sim.tree.lookup((await sim.tree.lookup(bucket, b"d")).ino, b"e")).ino
        ino = (await sim.tree.lookup(directory, b"key")).ino
        await trio.sleep(DAY + 1)

        async def act() -> None:
            match what:
                case "overwrite":
                    await plain(store, b"d/e/key", b"3", {"k": "v"})
                case "tags":
                    await store.edit("bucket", b"d/e/key", None, Edit(tags={"k": "other"}))
                case "mount":
                    await sim.tree.write(ino, 0, b"x")
                case "newer":
                    await store.delete("bucket", b"d/e/key", version_id=versions[1], versioning=Versioning.ON)
                case "rules":
                    await store.set_bucket_documents("bucket", {"lifecycle": None})

        lifecycle = worker(Interfered(store, act))
        await lifecycle.make_pass()
        status = lifecycle.status
        assert (status.expired, status.noncurrent_expired, status.last_error) == (0, 0, "")
        assert status.changed == 1
        assert await keys(store) == [b"d/e/key"]
        if what == "newer":
            assert [version for _, version, _, _ in await listed(store, 9)] == [versions[2], versions[0]]

    in_simulation(shards, body)
