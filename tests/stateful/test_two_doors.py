"""Every operation of the S3 door beside every operation of a mount, on the same file, at the same time.

What is checked is what both promise: an object is read whole, as it was before or after the other's change, with the
ETag and checksums of these bytes or with none; a file that is open is there; and afterwards both show the same.
"""

from __future__ import annotations

import hashlib
import random
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.object_types import CompletePart, Conditions, Edit, ObjectInfo, PutAttributes
from siltstone.core.types import Attributes, SetAttributes
from siltstone.errors import NotFound, NotPermitted, ObjectChanged, PreconditionFailed
from siltstone.types import ROOT_INO, Ino
from sim.two_doors import AnyStore, Sim, in_simulation

MODE = stat.S_IFREG | 0o644
PIECE_BYTES = 100_000
HOUR_NS = 3_600_000_000_000

on_all = pytest.mark.parametrize("shards", [1, 3])


class Held:
    """The files that the mount has open."""

    def __init__(self) -> None:
        self.inos: set[Ino] = set()

    def holds(self, ino: Ino) -> bool:
        """See Holder."""
        return ino in self.inos


class Seen(NamedTuple):
    """What a reader was given."""

    info: ObjectInfo
    body: bytes


class Pair:
    """One file, and what each door may do with it. What an operation finds it checks, or notes in ``seen``."""

    def __init__(self, store: AnyStore, sim: Sim, held: Held, number: int, chance: random.Random, size: int) -> None:
        self.store = store
        self.tree = sim.tree
        self.held = held
        self.chance = chance
        self.folder = f"{number}".encode()
        self.key = self.folder + b"/key"
        self.before, self.put, self.renamed = (bytes([serial]) * size for serial in (1, 2, 3))
        self.patched = self.before[: size // 3] + b"patch" * 20 + self.before[size // 3 + 100 :]
        self.cut = self.before[: size // 2]
        self.directory = Ino(0)
        self.ino = Ino(0)
        self.seen: list[Seen] = []
        self.listed: list[ObjectInfo] = []

    async def prepare(self) -> None:
        """The object, open in the mount; another, and a file beside it."""
        await self._put(self.key, self.before)
        await self._put(self.folder + b"/source", self.put)
        bucket = await self.tree.lookup(ROOT_INO, b"bucket")
        self.directory = (await self.tree.lookup(bucket.ino, self.folder)).ino
        self.ino = (await self.tree.lookup(self.directory, b"key")).ino
        self.held.inos.add(self.ino)
        beside = await self._create(b"beside")
        await self.tree.write(beside.ino, 0, self.renamed)

    async def pause(self) -> None:
        """Let others run, for some turns or some time."""
        for _ in range(self.chance.randrange(6)):
            await trio.lowlevel.checkpoint()
        if self.chance.randrange(3) == 0:
            await trio.sleep(self.chance.random() * 0.01)

    # --- the S3 door -----------------------------------------------------------------------------------------------

    async def s3_overwrite(self) -> None:
        await self._put(self.key, self.put)

    async def s3_conditional(self) -> None:
        """Overwrite it if it is still what it was."""
        etag = hashlib.md5(self.before).hexdigest()
        try:
            await self._put(self.key, self.put, Conditions(if_match=etag))
        except (PreconditionFailed, NotFound):
            return

    async def s3_new(self) -> None:
        await self._put(self.folder + b"/new", self.put)

    async def s3_delete(self) -> None:
        await self.store.delete("bucket", self.key)

    async def s3_complete(self) -> None:
        upload = await self.store.create_upload("bucket", self.key, owner="me", headers={}, metadata={})
        part = await self.store.begin_part("bucket", self.key, upload, 1)
        await part.write(self.put)
        done = await part.commit(etag=hashlib.md5(self.put).hexdigest(), checksums={})
        await self.store.complete_upload("bucket", self.key, upload, [CompletePart(1, done.etag)], checksums={})

    async def s3_copy_onto(self) -> None:
        await self.store.copy("bucket", self.folder + b"/source", "bucket", self.key, None)

    async def s3_copy_of(self) -> None:
        try:
            copied = await self.store.copy("bucket", self.key, "bucket", self.folder + b"/copy", None)
        except NotFound:
            return
        self.seen.append(Seen(copied, await self._get(self.folder + b"/copy")))

    async def s3_get(self) -> None:
        try:
            reader = await self.store.open("bucket", self.key)
        except NotFound:
            return
        try:
            body = b""
            while len(body) < reader.info.size:
                await self.pause()
                piece = await reader.read(len(body), PIECE_BYTES)
                assert piece, "an object is shorter than it was"
                body += piece
            self.seen.append(Seen(reader.info, body))
        except ObjectChanged:
            pass  # the reply breaks off
        finally:
            reader.close()

    async def s3_head(self) -> None:
        try:
            self.listed.append(await self.store.head("bucket", self.key))
        except NotFound:
            return

    async def s3_list(self) -> None:
        prefix = self.folder + b"/"
        page = await self.store.list_keys("bucket", prefix=prefix, delimiter=b"", start_after=b"", limit=9)
        self.listed += [info for info in page.entries if info.key == self.key]

    # --- the mount -------------------------------------------------------------------------------------------------

    async def mount_write(self) -> None:
        at = len(self.before) // 3
        await self.tree.write(self.ino, at, self.patched[at : at + 100])

    async def mount_truncate(self) -> None:
        await self.tree.set_attributes(self.ino, SetAttributes(size=len(self.cut)))

    async def mount_rename_over(self) -> None:
        await self.tree.rename(self.directory, b"beside", self.directory, b"key")

    async def mount_rename_away(self) -> None:
        try:
            await self.tree.rename(self.directory, b"key", self.directory, b"away")
        except NotFound:
            return

    async def mount_unlink(self) -> None:
        try:
            await self.tree.unlink(self.directory, b"key")
        except NotFound:
            return

    async def mount_create(self) -> None:
        made = await self._create(b"made")
        await self.tree.write(made.ino, 0, b"made")

    async def mount_read(self) -> None:
        body = b""
        while piece := await self.tree.read(self.ino, len(body), PIECE_BYTES):
            body += piece
            await self.pause()
        assert body == self.before, "what is open changed under its reader"

    async def mount_list(self) -> None:
        names = {entry.name for entry in await self.tree.list_directory(self.directory, after=None, limit=9)}
        assert {b"source", b"beside"} <= names

    async def mount_stat(self) -> None:
        try:
            found = await self.tree.lookup(self.directory, b"key")
        except NotFound:
            return
        assert found.size == len(self.before)

    # --- afterwards ------------------------------------------------------------------------------------------------

    async def check(self, s3: str, mount: str) -> None:
        """What was read was whole, and now both doors show the same."""
        bodies = [self.before, self.put, self.renamed]
        if mount in ("mount_write", "mount_truncate"):
            bodies = [self.before, self.put, self.patched if mount == "mount_write" else self.cut]
        for seen in self.seen:
            assert seen.body in bodies, "a mix was read"
            check_digests(seen.info, seen.body)
        for info in self.listed:
            assert any(info.size == len(body) and digest_fits(info, body) for body in bodies)
        may_go = s3 == "s3_delete" or mount in ("mount_rename_away", "mount_unlink")
        try:
            body = await self._get(self.key)
        except NotFound:
            assert may_go, "the object is gone"
            body = None
        if body is None:
            with pytest.raises(NotFound):
                await self.tree.lookup(self.directory, b"key")
        else:
            check_digests(await self.store.head("bucket", self.key), body)
            found = await self.tree.lookup(self.directory, b"key")
            assert await self._read(found) == body
            assert found.ino != self.ino or body in (self.before, self.patched, self.cut)
        opened = await self._read(await self.tree.attributes(self.ino))
        assert opened == {"mount_write": self.patched, "mount_truncate": self.cut}.get(mount, self.before)
        prefix = self.folder + b"/"
        page = await self.store.list_keys("bucket", prefix=prefix, delimiter=b"", start_after=b"", limit=20)
        names = [entry.name for entry in await self.tree.list_directory(self.directory, after=None, limit=20)]
        assert sorted(info.key for info in page.entries) == sorted(prefix + name for name in names)
        self.held.inos.discard(self.ino)
        self.tree.released(self.ino)

    async def _create(self, name: bytes) -> Attributes:
        return await self.tree.create(self.directory, name, mode=MODE, uid=0, gid=0)

    async def _read(self, found: Attributes) -> bytes:
        body = b""
        while piece := await self.tree.read(found.ino, len(body), PIECE_BYTES):
            body += piece
        assert len(body) == found.size
        return body

    async def _put(self, key: bytes, body: bytes, conditions: Conditions | None = None) -> None:
        writer = await self.store.begin_put("bucket", key)
        await writer.write(body)
        digest = hashlib.md5(body).hexdigest()
        attributes = PutAttributes(etag=digest, owner="me", checksums={"SHA256": digest}, checksum_type="FULL_OBJECT")
        await writer.commit(attributes, conditions or Conditions())

    async def _get(self, key: bytes) -> bytes:
        reader = await self.store.open("bucket", key)
        try:
            body = b""
            while len(body) < reader.info.size:
                body += await reader.read(len(body), PIECE_BYTES)
            return body
        finally:
            reader.close()


def digest_fits(info: ObjectInfo, body: bytes) -> bool:
    """Whether what is said of an object is said of these bytes."""
    digest = hashlib.md5(body).hexdigest()
    if len(info.etag) == 32 and "-" not in info.etag:
        return info.etag == digest
    return digest in info.checksums.values() if info.checksums else True


def check_digests(info: ObjectInfo, body: bytes) -> None:
    """Bytes that somebody was given, and what he was told of them."""
    assert info.size == len(body)
    assert digest_fits(info, body), "the ETag or the checksums are those of other bytes"


S3 = [name for name in vars(Pair) if name.startswith("s3_")]
MOUNT = [name for name in vars(Pair) if name.startswith("mount_")]


async def at_once(*calls: Callable[[], Awaitable[None]]) -> None:
    """Call all, side by side."""
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call)


@on_all
@settings(max_examples=1, deadline=None)
@given(st.random_module(), st.integers(0, 2**32), st.sampled_from([3000, 250_000]))
def test_every_pair_of_operations_of_the_two_doors(shards: int, _: object, seed: int, size: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        held = Held()
        sim.tree.register_holder(held)
        chance = random.Random(seed)

        async def after_pause(pair: Pair, name: str) -> None:
            await pair.pause()
            await getattr(pair, name)()

        number = 0
        for s3 in S3:
            for mount in MOUNT:
                number += 1
                pair = Pair(store, sim, held, number, chance, size)
                await pair.prepare()
                await at_once(partial(after_pause, pair, s3), partial(after_pause, pair, mount))
                try:
                    await pair.check(s3, mount)
                except AssertionError as error:
                    error.add_note(f"{s3} beside {mount}")
                    raise
                for key in (b"key", b"source", b"beside", b"new", b"copy", b"away", b"made"):
                    await store.delete("bucket", pair.folder + b"/" + key)

    in_simulation(shards, body, seed % 1000)


@on_all
def test_what_is_locked_while_a_program_writes_to_it_is_not_written_to_any_more(shards: int) -> None:
    async def body(store: AnyStore, sim: Sim) -> None:
        pair = Pair(store, sim, Held(), 0, random.Random(0), 3000)
        await pair.prepare()
        await pair.mount_write()
        held = await store.edit("bucket", pair.key, None, Edit(legal_hold=True))
        assert held.legal_hold
        for change in (pair.mount_write, pair.mount_truncate, pair.mount_rename_away):
            with pytest.raises(NotPermitted):
                await change()
        assert await pair._get(pair.key) == pair.patched
        await store.edit("bucket", pair.key, None, Edit(legal_hold=False))
        await pair.mount_truncate()
        assert await pair._get(pair.key) == pair.patched[: len(pair.cut)]

    in_simulation(shards, body)


@on_all
@settings(max_examples=1, deadline=None)
@given(st.random_module(), st.integers(0, 2**32))
def test_a_file_that_is_written_to_all_the_time_can_be_read_as_an_object(shards: int, _: object, seed: int) -> None:
    """By who has patience: each piece of what is small is one moment's. What is added at the end disturbs nobody."""

    async def body(store: AnyStore, sim: Sim) -> None:
        chance = random.Random(seed)
        small, large = Pair(store, sim, Held(), 1, chance, 3000), Pair(store, sim, Held(), 2, chance, 250_000)
        await small.prepare()
        await large.prepare()

        async def write_on() -> None:
            at = len(large.before)
            while True:
                await small.mount_write()
                await sim.tree.write(large.ino, at, b"added")
                at += 5
                await small.pause()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            for _ in range(20):
                await small.s3_get()
                await large.s3_get()
            nursery.cancel_scope.cancel()
        assert small.seen
        for seen in small.seen:
            assert seen.body in (small.before, small.patched)
            check_digests(seen.info, seen.body)
        assert len(large.seen) == 20
        for seen in large.seen:
            assert seen.body[: len(large.before)] == large.before
            check_digests(seen.info, seen.body)

    in_simulation(shards, body, seed % 1000)
