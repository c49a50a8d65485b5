"""Versions against a list of them for each key: put, delete, delete of a version, in any state of the bucket."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from siltstone.core.object_types import CompletePart, Conditions, Edit, PutAttributes, Versioning
from siltstone.core.types import SetAttributes
from siltstone.errors import (
    DeletedObject,
    DirectoryNotEmpty,
    IsDeleteMarker,
    NoSuchVersion,
    NotFound,
    NotPermitted,
    PreconditionFailed,
)
from siltstone.types import ROOT_INO
from sim.two_doors import AnyStore, Sim, in_simulation

on_all = pytest.mark.parametrize("shards", [1, 3])

names = st.sampled_from([b"a", b"a/b", b"a/", b"a!", b"b//c", b"a/b/c"])
kinds = st.sampled_from(["put", "put", "put", "delete", "delete version", "delete version", "suspend", "enable"])


class Kept(NamedTuple):
    """A version; ``data`` None: a delete marker."""

    version_id: str
    data: bytes | None


async def put(store: AnyStore, key: bytes, data: bytes, versioning: Versioning) -> str:
    """PUT; the id of the version."""
    writer = await store.begin_put("bucket", key)
    await writer.write(data)
    etag = hashlib.md5(data).hexdigest()
    return (await writer.commit(PutAttributes(etag=etag, versioning=versioning))).version_id


async def read(store: AnyStore, key: bytes, version_id: str | None = None) -> bytes:
    """GET."""
    reader = await store.open("bucket", key, version_id)
    try:
        return await reader.read(0, 1 << 20)
    finally:
        reader.close()


async def listed(store: AnyStore, page: int, prefix: bytes = b"") -> list[tuple[bytes, str, bool, bool]]:
    """All versions, in pages: key, id, whether it is the latest, whether it is a delete marker."""
    found: list[tuple[bytes, str, bool, bool]] = []
    after_key, after_version, more = b"", None, True
    while more:
        listing = await store.list_versions(
            "bucket", prefix=prefix, delimiter=b"", after_key=after_key, after_version=after_version, limit=page
        )
        assert len(listing.entries) <= page
        found += [
            (entry.info.key, entry.info.version_id, entry.is_latest, entry.is_marker) for entry in listing.entries
        ]
        after_key, after_version, more = listing.last_key, listing.last_version, listing.is_truncated
    return found


@on_all
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(kinds, names, st.integers(0, 5)), max_size=18), st.integers(1, 5))
@example([("put", b"a/", 0), ("enable", b"a", 0), ("put", b"a/", 0), ("delete", b"a/", 0)], 1)
@example([("put", b"a", 0), ("enable", b"a", 0), ("put", b"a", 0), ("put", b"a/b", 0), ("delete version", b"a", 0)], 2)
@example([("enable", b"a", 0), ("put", b"a", 0), ("suspend", b"a", 0), ("put", b"a", 0), ("delete", b"a", 0)], 2)
def test_a_bucket_with_versions_is_a_list_of_versions_for_each_key(
    shards: int, steps: list[tuple[str, bytes, int]], page: int
) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        model: dict[bytes, list[Kept]] = {}  # newest first
        state = Versioning.OFF
        for serial, (kind, key, number) in enumerate(steps):
            kept = model.setdefault(key, [])
            data = b"" if serial % 3 == 0 else bytes([serial]) * (300_000 if serial % 5 == 4 else 50)
            if kind == "put":
                version = await put(store, key, data, state)
                assert bool(version) == (state is Versioning.ON)
                if not version:
                    kept[:] = [one for one in kept if one.version_id]
                kept.insert(0, Kept(version, data))
            elif kind == "delete":
                deleted = await store.delete("bucket", key, versioning=state)
                assert deleted.was_there == bool(kept and kept[0].data is not None)
                if state is not Versioning.ON:
                    kept[:] = [one for one in kept if one.version_id]
                if state is not Versioning.OFF:
                    assert deleted.is_marker
                    kept.insert(0, Kept(deleted.version_id, None))
            elif kind == "delete version":
                wanted = kept[number % len(kept)] if kept else Kept("0" * 32, b"")
                deleted = await store.delete("bucket", key, versioning=state, version_id=wanted.version_id)
                assert deleted.was_there == bool(kept)
                assert deleted.is_marker == (bool(kept) and wanted.data is None)
                if kept:
                    kept.remove(wanted)
            elif kind == "enable" or state is not Versioning.OFF:
                state = Versioning.ON if kind == "enable" else Versioning.SUSPENDED
        for key, kept in model.items():
            if kept and kept[0].data is not None:
                assert await read(store, key) == kept[0].data
            else:
                with pytest.raises(DeletedObject if kept else NotFound):
                    await store.head("bucket", key)
            for one in kept:
                if one.data is None:
                    with pytest.raises(IsDeleteMarker):
                        await store.head("bucket", key, one.version_id)
                else:
                    assert await read(store, key, one.version_id) == one.data
            with pytest.raises(NoSuchVersion):
                await store.head("bucket", key, "1" * 32)
        expected = [
            (key, one.version_id, at == 0, one.data is None)
            for key in sorted(model)
            for at, one in enumerate(model[key])
        ]
        assert await listed(store, page) == expected
        current = [key for key in sorted(model) if model[key] and model[key][0].data is not None]
        assert [entry.key for entry in (await store.list_keys("bucket", limit=99)).entries] == current
        if expected:
            with pytest.raises(DirectoryNotEmpty):
                await store.delete_bucket("bucket")
        for key, version_id, _, _ in expected:
            await store.delete("bucket", key, versioning=state, version_id=version_id)
        bucket = (await sim.tree.lookup(ROOT_INO, b"bucket")).ino
        assert await sim.tree.list_directory(bucket, after=None, limit=9) == []
        assert (await sim.counts()).inodes == 2

    in_simulation(shards, body)


@on_all
def test_what_is_kept_with_a_version_can_be_changed(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        old = await put(store, b"a", b"old", Versioning.ON)
        await put(store, b"a", b"new", Versioning.ON)
        etag = (await store.head("bucket", b"a", old)).etag
        assert (await store.edit("bucket", b"a", old, Edit(tags={"k": "v"}))).tags == {"k": "v"}
        assert (await store.head("bucket", b"a")).tags == {}
        found = await store.head("bucket", b"a", old)
        assert (found.tags, found.etag) == ({"k": "v"}, etag)
        copied = await store.copy("bucket", b"a", "bucket", b"copy", None, source_version=old)
        assert copied.tags == {"k": "v"} and await read(store, b"copy") == b"old"
        with pytest.raises(NoSuchVersion):
            await store.edit("bucket", b"a", "1" * 32, Edit(tags={}))

    in_simulation(shards, body)


@on_all
def test_a_conditional_delete_of_nothing_makes_no_delete_marker(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        for condition in ("*", "etag"):
            done = await store.delete("bucket", b"a", Conditions(if_match=condition), versioning=Versioning.ON)
            assert (done.was_there, done.is_marker) == (False, False)
        assert await listed(store, 9) == []
        assert (await store.delete("bucket", b"a", versioning=Versioning.ON)).is_marker
        with pytest.raises(PreconditionFailed):
            await store.delete("bucket", b"a", Conditions(if_match="etag"), versioning=Versioning.ON)

    in_simulation(shards, body)


@on_all
def test_a_locked_version_cannot_be_deleted(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        far = 1 << 62
        version = await put(store, b"a", b"kept", Versioning.ON)

        async def refused(*, may_bypass: bool = False) -> None:
            with pytest.raises(NotPermitted):
                await store.delete("bucket", b"a", version_id=version, versioning=Versioning.ON, may_bypass=may_bypass)

        await store.edit("bucket", b"a", version, Edit(legal_hold=True))
        await refused(may_bypass=True)
        await store.edit("bucket", b"a", version, Edit(legal_hold=False, retention=("GOVERNANCE", far)))
        await refused()
        with pytest.raises(NotPermitted):
            await store.edit("bucket", b"a", version, Edit(retention=("GOVERNANCE", far - 1)))
        marker = await store.delete("bucket", b"a", versioning=Versioning.ON)
        assert marker.is_marker
        await refused()
        await store.edit("bucket", b"a", version, Edit(retention=("COMPLIANCE", far), may_bypass=True))
        await refused(may_bypass=True)
        with pytest.raises(NotPermitted):
            await store.edit("bucket", b"a", version, Edit(retention=("", 0), may_bypass=True))
        assert await read(store, b"a", version) == b"kept"
        other = await put(store, b"b", b"", Versioning.ON)
        await store.edit("bucket", b"b", other, Edit(retention=("GOVERNANCE", far)))
        assert (await store.delete("bucket", b"b", version_id=other, may_bypass=True)).was_there

    in_simulation(shards, body)


@on_all
def test_an_upload_becomes_a_version(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        first = await put(store, b"d/a", b"first", Versioning.ON)
        upload = await store.create_upload(
            "bucket", b"d/a", owner="me", headers={}, metadata={}, tags={"k": "v"}, lock=("GOVERNANCE", 1 << 62, False)
        )
        part = await store.begin_part("bucket", b"d/a", upload, 1)
        await part.write(b"second")
        etag = (await part.commit(etag=hashlib.md5(b"second").hexdigest(), checksums={})).etag
        info = await store.complete_upload(
            "bucket", b"d/a", upload, [CompletePart(1, etag)], checksums={}, versioning=Versioning.ON
        )
        assert info.version_id and (info.tags, info.lock_mode) == ({"k": "v"}, "GOVERNANCE")
        assert await read(store, b"d/a", first) == b"first" and await read(store, b"d/a") == b"second"

    in_simulation(shards, body)


@on_all
def test_what_the_mount_takes_away_stays_as_a_version(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        bucket = (await sim.tree.lookup(ROOT_INO, b"bucket")).ino
        first = await put(store, b"d/a", b"first", Versioning.ON)
        d = (await sim.tree.lookup(bucket, b"d")).ino
        await sim.tree.unlink(d, b"a")
        assert await read(store, b"d/a", first) == b"first"
        with pytest.raises(DeletedObject):
            await store.head("bucket", b"d/a")
        with pytest.raises(DirectoryNotEmpty):
            await sim.tree.rmdir(bucket, b"d")
        second = await put(store, b"d/a", b"second", Versioning.ON)
        new = (await sim.tree.create(d, b"new", mode=0o100644, uid=0, gid=0)).ino
        await sim.tree.write(new, 0, b"by the mount")
        await sim.tree.rename(d, b"new", d, b"a")
        assert (await read(store, b"d/a"), (await store.head("bucket", b"d/a")).version_id) == (b"by the mount", "")
        assert await read(store, b"d/a", second) == b"second"
        third = await put(store, b"d/a", b"third", Versioning.ON)
        await sim.tree.rename(d, b"a", d, b"moved")
        assert (await read(store, b"d/moved"), (await store.head("bucket", b"d/moved")).version_id) == (b"third", "")
        with pytest.raises(NoSuchVersion):
            await store.head("bucket", b"d/a", third)
        with pytest.raises(DeletedObject):
            await store.head("bucket", b"d/a")
        kinds = [(key, is_marker) for key, _, _, is_marker in await listed(store, 2)]
        assert kinds == [(b"d/a", mark) for mark in (True, False, False, True, False)] + [(b"d/moved", False)]

    in_simulation(shards, body)


@on_all
def test_the_mount_does_not_get_around_a_lock(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        bucket = (await sim.tree.lookup(ROOT_INO, b"bucket")).ino
        version = await put(store, b"a", b"kept" * 100_000, Versioning.ON)
        ino = (await store.head("bucket", b"a")).ino
        await store.edit("bucket", b"a", version, Edit(retention=("COMPLIANCE", 1 << 62)))
        with pytest.raises(NotPermitted):
            await sim.tree.write(ino, 0, b"x")
        with pytest.raises(NotPermitted):
            await sim.tree.set_attributes(ino, SetAttributes(size=1))
        with pytest.raises(NotPermitted):
            await sim.tree.rename(bucket, b"a", bucket, b"b")
        await sim.tree.unlink(bucket, b"a")
        with pytest.raises(NotPermitted):
            await store.delete("bucket", b"a", version_id=version, may_bypass=True)
        assert (await read(store, b"a", version))[:8] == b"keptkept"

    in_simulation(shards, body)
