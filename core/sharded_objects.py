"""Buckets, objects and uploads as the S3 door sees them when the namespace is spread over shards.

The same port as ObjectStore. Each operation is one call to the shard of the key's directory, as far as that is known
here: what is remembered of directories only says whom to ask, the shard looks for itself. A body of less than
DIRECT_THRESHOLD_BYTES goes with the call; the bytes of a larger one go to a file without a name, in the shard in which
the object will be, and the call names that. Such files, and objects that are being read, are held by this front-end
(core/sessions.py): when it dies they are let go of.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import trio

from siltstone.core.object_paths import KeyPath, split_key
from siltstone.core.object_types import (
    NO_CONDITIONS,
    NO_DOCUMENTS,
    BucketInfo,
    CompletePart,
    Conditions,
    Deleted,
    Edit,
    Listing,
    ObjectInfo,
    PartInfo,
    PutAttributes,
    UploadInfo,
    UploadListing,
    Versioning,
    VersionListing,
)
from siltstone.core.objects import ObjectPut, ObjectReader
from siltstone.core.readings import Reading
from siltstone.core.shard_objects import BucketRef, Changed, FoundObject, Opened, Way
from siltstone.core.sharded_volume import Calls, ShardedVolume
from siltstone.core.uploads import PartPut
from siltstone.errors import (
    BucketChanged,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    NoSuchBucket,
    NotFound,
    Unavailable,
)
from siltstone.limits import DIRECT_THRESHOLD_BYTES, MIB, MULTIPART_PARTS_MAX
from siltstone.meta.shards.map import PartitionMap
from siltstone.ports import Random
from siltstone.types import ROOT_INO, Buffer, Ino, ShardId, partition_of

T = TypeVar("T")

ATTEMPTS_MAX = 100
"""How often something is asked again because what it was about has just moved."""

DIRECTORIES_MAX = 65_536
"""Directories of which it is remembered which inode they are."""

BUCKETS_MAX = 4096

LIST_BUCKETS_PAGE = 1000


class _Known(NamedTuple):
    """A bucket, by its directory."""

    ino: Ino
    info: BucketInfo


class Held:
    """The inodes that this front-end must not lose. A Holder."""

    def __init__(self, tree: ShardedVolume) -> None:
        self._tree = tree
        self._counts: dict[Ino, int] = {}
        tree.register_holder(self)

    def holds(self, ino: Ino) -> bool:
        """See Holder."""
        return ino in self._counts

    def hold(self, ino: Ino) -> None:
        """Every hold needs its ``let_go``."""
        self._counts[ino] = self._counts.get(ino, 0) + 1

    def let_go(self, ino: Ino) -> None:
        """End a hold."""
        count = self._counts[ino] - 1
        if count:
            self._counts[ino] = count
        else:
            del self._counts[ino]
            self._tree.released(ino)


class RemoteBytes:
    """Bytes that a client sends: kept here while they are few, in a file without a name else.

    ``ino``: that file, once there is one. ``near``: an inode in whose partition it is made.
    """

    def __init__(self, store: ShardedObjects, near: Ino, size_hint: int) -> None:
        self._store = store
        self._near = near
        self._size_hint = size_hint
        self._buffers: list[Buffer] = []
        self._ended = False
        self.ino: Ino | None = None
        self.size = 0

    async def write(self, buffer: Buffer) -> None:
        """Take over further bytes; the buffer must not change any more."""
        assert not self._ended, "written to after commit or abort"
        if self.ino is None and self.size + len(buffer) < DIRECT_THRESHOLD_BYTES:
            self._buffers.append(buffer)
            self.size += len(buffer)
            return
        if self.ino is None:
            early, self._buffers = self._buffers, []
            ino = self.ino = await self._store.begin_bytes(self._near, max(self._size_hint, self.size + len(buffer)))
            at = 0
            for held in early:
                at += await self._write(ino, at, held)
        self.size += await self._write(self.ino, self.size, buffer)

    @classmethod
    def going_on(
        cls, store: ShardedObjects, near: Ino, ino: Ino | None, size: int, buffers: list[Buffer]
    ) -> RemoteBytes:
        """Those that somebody else has begun with (``WrittenBytes.hand_over``)."""
        going = cls(store, near, 0)
        going.ino, going.size, going._buffers = ino, size, buffers
        if ino is not None:
            store.held.hold(ino)
        return going

    @property
    def body(self) -> bytes:
        """The bytes, where there is no file."""
        return b"".join(self._buffers)

    def end(self) -> None:
        """They are an object now, or nothing comes of them. Further calls do nothing."""
        if not self._ended:
            self._ended = True
            if self.ino is not None:
                self._store.held.let_go(self.ino)

    async def _write(self, ino: Ino, offset: int, buffer: Buffer) -> int:
        try:
            return await self._store.tree.write(ino, offset, buffer)
        except NotFound as error:
            raise Unavailable("a shard died while the bytes were sent, and they are lost: send them again") from error


class RemotePut:
    """A PUT under way."""

    def __init__(
        self, store: ShardedObjects, bucket: str, key: bytes, path: KeyPath, near: Ino, size_hint: int | None
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._key = key
        self._path = path
        self._bytes = RemoteBytes(store, near, size_hint or 0)

    @classmethod
    def going_on(cls, store: ShardedObjects, put: ObjectPut) -> RemotePut:
        """One that was begun in this process, before there were several shards."""
        going = cls(store, put.bucket, put.key, put.path, ROOT_INO, None)
        going._bytes = put.writer.hand_over(partial(RemoteBytes.going_on, store))
        return going

    async def write(self, buffer: Buffer) -> None:
        """Take over further bytes; the buffer must not change any more."""
        await self._bytes.write(buffer)

    async def commit(self, attributes: PutAttributes, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """See ObjectPut."""
        ino = self._bytes.ino
        try:
            if ino is None:
                changed = await self._store.change(
                    "put_object", self._bucket, self._path, self._key, self._bytes.body, attributes, conditions
                )
            else:
                changed = await self._store.change_at(
                    ino, "put_written", self._bucket, self._path, self._key, self._bytes.size, attributes, conditions
                )
        except BucketChanged:
            raise  # whoever decides again may commit again
        except BaseException:
            self._bytes.end()
            raise
        self._bytes.end()
        assert changed.info is not None
        return changed.info

    async def abort(self) -> None:
        """Give the bytes up."""
        self._bytes.end()


class RemotePartPut:
    """A part under way."""

    def __init__(
        self, store: ShardedObjects, bucket: str, key: bytes, upload_id: str, number: int, bucket_ino: Ino
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._where = (key, upload_id, number)
        self._bytes = RemoteBytes(store, bucket_ino, 0)

    @classmethod
    def going_on(cls, store: ShardedObjects, put: PartPut) -> RemotePartPut:
        """One that was begun in this process, before there were several shards."""
        bucket, key, upload_id = put.where
        going = cls(store, bucket, key, upload_id, put.number, ROOT_INO)
        going._bytes = put.writer.hand_over(partial(RemoteBytes.going_on, store))
        return going

    async def write(self, buffer: Buffer) -> None:
        """Take over further bytes; the buffer must not change any more."""
        await self._bytes.write(buffer)

    async def commit(self, *, etag: str, checksums: dict[str, str]) -> PartInfo:
        """See PartPut."""
        bytes_ = self._bytes

        async def ask(at: BucketRef) -> PartInfo:
            call = self._store.call
            if bytes_.ino is None:
                part: PartInfo = await call("put_part", at.ino, at, *self._where, bytes_.body, etag, checksums)
            else:
                part = await call("put_written_part", bytes_.ino, at, *self._where, bytes_.size, etag, checksums)
            return part

        try:
            part = await self._store.in_bucket(self._bucket, ask)
        except BucketChanged:
            raise  # whoever decides again may commit again
        except BaseException:
            bytes_.end()
            raise
        bytes_.end()
        return part

    async def abort(self) -> None:
        """Give the bytes up."""
        self._bytes.end()


class RemoteReader:
    """An object opened for reading: this version of it. ``body``: all of it, if it is small; else it is held."""

    def __init__(self, store: ShardedObjects, info: ObjectInfo, body: bytes, reading: int = 0) -> None:
        self.info = info
        self._store = store
        self._body = body
        self._is_holding = len(body) < info.size
        if self._is_holding:
            store.held.hold(info.ino)
            self._file = store.tree.files.open(info.ino, Reading(reading, info.etag))

    @classmethod
    def going_on(cls, store: ShardedObjects, reader: ObjectReader) -> RemoteReader:
        """One that was opened in this process, before there were several shards."""
        going = cls(store, reader.info, b"")
        reader.close()
        return going

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; short only at the end. Raises ObjectChanged, see ObjectReader."""
        size = min(size, self.info.size - offset)
        if size <= 0:
            return b""
        if not self._is_holding:
            return self._body[offset : offset + size]
        return await self._file.read(offset, size)

    def close(self) -> None:
        """Let go of the version."""
        if self._is_holding:
            self._is_holding = False
            self._file.close()
            self._store.held.let_go(self.info.ino)


class ShardedObjects:
    """See the module. What each method does is told where Objects and Uploads define it."""

    def __init__(
        self, calls: Calls, tree: ShardedVolume, partitions: Callable[[], PartitionMap], random: Random
    ) -> None:
        self.call = calls.call
        self.tree = tree
        self.held = Held(tree)
        self._partitions = partitions
        self._random = random
        self._directories: dict[tuple[Ino, bytes], Ino] = {}
        """Where paths below a bucket led when they were last asked for."""
        self._buckets: dict[str, _Known] = {}

    # --- buckets ---------------------------------------------------------------------------------------------------

    async def create_bucket(
        self, name: str, *, owner: str, documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> BucketInfo:
        """See Objects."""
        self._buckets.pop(name, None)
        info: BucketInfo = await self.call("create_bucket", ROOT_INO, name, owner, dict(documents))
        return info

    async def bucket_documents(self, name: str) -> tuple[BucketInfo, dict[str, bytes]]:
        """See Objects."""
        for _ in range(ATTEMPTS_MAX):
            known = await self._find_bucket(name)
            try:
                info, documents = await self.call("bucket_documents", known.ino, name)
            except NoSuchBucket:
                continue  # it has gone to another shard, or another one has the name
            self._buckets[name] = _Known(info.ino, info)
            return info, documents
        raise Conflict(f"bucket {name!r} moves all the time; try again")

    async def set_bucket_documents(
        self, name: str, documents: Mapping[str, bytes | None], *, expected: tuple[int, int] | None = None
    ) -> BucketInfo:
        """See Objects."""
        known = await self._find_bucket(name)
        self._buckets.pop(name, None)
        info: BucketInfo = await self.call("set_bucket_documents", known.ino, name, dict(documents), expected)
        self._buckets[name] = _Known(info.ino, info)
        return info

    async def delete_bucket(self, name: str) -> None:
        """See Objects."""
        self._buckets.pop(name, None)
        try:
            await self.call("delete_bucket", ROOT_INO, name)
        except DirectoryNotEmpty:
            raise DirectoryNotEmpty(f"bucket {name!r} is not empty") from None

    async def list_buckets(self) -> list[BucketInfo]:
        """See Objects."""
        found: list[tuple[str, Ino]] = []
        after: bytes | None = None
        while page := await self.tree.list_directory(ROOT_INO, after=after, limit=LIST_BUCKETS_PAGE):
            for entry in page:
                try:
                    name = entry.name.decode()
                except UnicodeDecodeError:
                    continue
                if stat.S_ISDIR(entry.attributes.mode):
                    found.append((name, entry.ino))
            after = page[-1].name
        infos: dict[Ino, BucketInfo | None] = {}

        async def ask(wanted: list[tuple[str, Ino]]) -> None:
            inos = [ino for _, ino in wanted]
            infos.update(zip(inos, await self.call("buckets_at", inos, [name for name, _ in wanted]), strict=True))

        by_shard: dict[ShardId, list[tuple[str, Ino]]] = {}
        for name, ino in found:
            by_shard.setdefault(self._owner(ino), []).append((name, ino))
        async with trio.open_nursery() as nursery:
            for wanted in by_shard.values():
                nursery.start_soon(ask, wanted)
        return [info for _, ino in found if (info := infos[ino]) is not None]

    async def bucket(self, name: str) -> BucketInfo:
        """See Objects."""
        return (await self._find_bucket(name)).info

    async def bucket_of_key(self, name: str) -> BucketInfo:
        """The same for who goes on to ask for a key: what was known a while ago, for the shard looks then whether it
        is still that bucket."""
        return (self._buckets.get(name) or await self._find_bucket(name)).info

    # --- reading ---------------------------------------------------------------------------------------------------

    async def head(self, bucket: str, key: bytes, version_id: str | None = None) -> ObjectInfo:
        """See Objects."""
        return (await self._open(bucket, key, version_id, with_body=False)).info

    async def open(self, bucket: str, key: bytes, version_id: str | None = None) -> RemoteReader:
        """See Objects."""
        for _ in range(ATTEMPTS_MAX):
            opened = await self._open(bucket, key, version_id, with_body=True)
            reader = RemoteReader(self, opened.info, opened.body, opened.reading)
            if len(opened.body) == opened.info.size or await self._is_there(opened.info.ino):
                return reader
            reader.close()
        raise Conflict(f"{key!r} is overwritten all the time; try again")

    async def list_keys(
        self, bucket: str, *, prefix: bytes = b"", delimiter: bytes = b"", start_after: bytes = b"", limit: int
    ) -> Listing:
        """See Objects."""

        async def ask(at: BucketRef) -> Listing:
            near = self._near(at.ino, max(prefix, start_after if start_after.startswith(prefix) else b""))
            listing: Listing = await self.call("list_objects", near, at, prefix, delimiter, start_after, limit)
            return listing

        return await self.in_bucket(bucket, ask)

    async def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str | None = None,
        limit: int,
    ) -> VersionListing:
        """See Objects."""

        async def ask(at: BucketRef) -> VersionListing:
            near = self._near(at.ino, max(prefix, after_key if after_key.startswith(prefix) else b""))
            listing: VersionListing = await self.call(
                "list_versions", near, at, prefix, delimiter, after_key, after_version, limit
            )
            return listing

        return await self.in_bucket(bucket, ask)

    # --- writing ---------------------------------------------------------------------------------------------------

    async def begin_put(self, bucket: str, key: bytes, *, size_hint: int | None = None) -> RemotePut:
        """See Objects."""
        path = split_key(key)
        ino = (self._buckets.get(bucket) or await self._find_bucket(bucket)).ino
        return RemotePut(self, bucket, key, path, self._near(ino, path.directory), size_hint)

    async def delete(
        self,
        bucket: str,
        key: bytes,
        conditions: Conditions = NO_CONDITIONS,
        *,
        versioning: Versioning = Versioning.OFF,
        version_id: str | None = None,
        owner: str = "",
        may_bypass: bool = False,
    ) -> Deleted:
        """See Objects."""
        changed = await self.change(
            "delete_object", bucket, split_key(key), key, conditions, versioning, version_id, owner, may_bypass
        )
        assert changed.deleted is not None
        return changed.deleted

    async def edit(self, bucket: str, key: bytes, version_id: str | None, edit: Edit) -> ObjectInfo:
        """See Objects."""
        changed = await self.change("edit_object", bucket, split_key(key), key, version_id, edit)
        assert changed.info is not None
        return changed.info

    async def copy(
        self,
        source_bucket: str,
        source_key: bytes,
        bucket: str,
        key: bytes,
        attributes: PutAttributes | None,
        conditions: Conditions = NO_CONDITIONS,
        source_conditions: Conditions = NO_CONDITIONS,
        *,
        source_version: str | None = None,
        versioning: Versioning = Versioning.OFF,
    ) -> ObjectInfo:
        """See Objects."""
        path = split_key(key)
        for _ in range(ATTEMPTS_MAX):
            source = await self.head(source_bucket, source_key, source_version)

            async def ask(at: BucketRef, flushed: Ino, ino: Ino = source.ino) -> Changed | None:
                changed: Changed | None = await self.call(
                    "copy_object",
                    ino,
                    source_key,
                    at,
                    key,
                    attributes,
                    conditions,
                    source_conditions,
                    versioning,
                    flushed,
                )
                return changed

            changed = await self._flushing(bucket, path, ask)
            if changed is not None:
                assert changed.info is not None
                return changed.info
        raise Conflict(f"{source_key!r} is overwritten all the time; try again")

    # --- uploads ---------------------------------------------------------------------------------------------------

    async def create_upload(
        self,
        bucket: str,
        key: bytes,
        *,
        owner: str,
        headers: dict[str, str],
        metadata: dict[str, str],
        checksum_algorithm: str = "",
        checksum_type: str = "",
        grants: Sequence[str] = (),
        sealing: Mapping[str, str] | None = None,
        tags: dict[str, str] | None = None,
        lock: tuple[str, int, bool] = ("", 0, False),
    ) -> str:
        """See Uploads."""
        upload_id = self._random.bytes(16).hex()

        async def ask(at: BucketRef) -> str:
            created: str = await self.call(
                "create_upload",
                at.ino,
                at,
                key,
                owner,
                headers,
                metadata,
                checksum_algorithm,
                checksum_type,
                list(grants),
                dict(sealing or {}),
                upload_id,
                tags or {},
                lock,
            )
            return created

        return await self.in_bucket(bucket, ask)

    async def upload(self, bucket: str, key: bytes, upload_id: str) -> UploadInfo:
        """See Uploads."""

        async def ask(at: BucketRef) -> UploadInfo:
            upload: UploadInfo = await self.call("upload", at.ino, at, key, upload_id)
            return upload

        return await self.in_bucket(bucket, ask)

    async def list_parts(
        self, bucket: str, key: bytes, upload_id: str, *, after: int = 0, limit: int
    ) -> tuple[list[PartInfo], bool]:
        """See Uploads."""

        async def ask(at: BucketRef) -> tuple[list[PartInfo], bool]:
            found: tuple[list[PartInfo], bool] = await self.call("list_parts", at.ino, at, key, upload_id, after, limit)
            return found

        return await self.in_bucket(bucket, ask)

    async def list_uploads(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int,
    ) -> UploadListing:
        """See Uploads."""

        async def ask(at: BucketRef) -> UploadListing:
            listing: UploadListing = await self.call(
                "list_uploads", at.ino, at, prefix, delimiter, after_key, after_upload, limit
            )
            return listing

        return await self.in_bucket(bucket, ask)

    async def begin_part(self, bucket: str, key: bytes, upload_id: str, number: int) -> RemotePartPut:
        """See Uploads."""
        if not 1 <= number <= MULTIPART_PARTS_MAX:
            raise InvalidArgument(f"part number {number} is not in 1 ... {MULTIPART_PARTS_MAX}")
        await self.upload(bucket, key, upload_id)
        ino = (self._buckets.get(bucket) or await self._find_bucket(bucket)).ino
        return RemotePartPut(self, bucket, key, upload_id, number, ino)

    async def copy_part(
        self,
        source_bucket: str,
        source_key: bytes,
        source_range: tuple[int, int] | None,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        source_conditions: Conditions = NO_CONDITIONS,
        source_version: str | None = None,
    ) -> PartInfo:
        """See Uploads. What is in another shard than the upload is copied."""
        put = await self.begin_part(bucket, key, upload_id, number)
        reader = await self.open(source_bucket, source_key, source_version)
        try:
            source = reader.info
            source_conditions.check(source)

            async def ask(at: BucketRef) -> PartInfo | None:
                if self._owner(at.ino) != self._owner(source.ino):
                    return None
                part: PartInfo | None = await self.call(
                    "share_part",
                    at.ino,
                    at,
                    source.ino,
                    source_key,
                    source_range,
                    key,
                    upload_id,
                    number,
                    source_conditions,
                )
                return part

            shared = await self.in_bucket(bucket, ask)
            if shared is not None:
                return shared
            first, last = source_range or (0, source.size - 1)
            if not 0 <= first <= last + 1 or last >= source.size:
                raise InvalidArgument(f"the range {first}-{last} is not inside the {source.size} bytes of the source")
            return await _copied(reader, first, last + 1, put)
        finally:
            reader.close()
            await put.abort()

    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        parts: Sequence[CompletePart],
        *,
        checksums: dict[str, str],
        checksum_type: str = "",
        conditions: Conditions = NO_CONDITIONS,
        versioning: Versioning = Versioning.OFF,
    ) -> ObjectInfo:
        """See Uploads."""

        async def ask(at: BucketRef, flushed: Ino) -> Changed:
            changed: Changed = await self.call(
                "complete_upload",
                at.ino,
                at,
                key,
                upload_id,
                parts,
                checksums,
                checksum_type,
                conditions,
                versioning,
                flushed,
            )
            return changed

        changed = await self._flushing(bucket, split_key(key), ask)
        assert changed is not None and changed.info is not None
        return changed.info

    async def abort_upload(self, bucket: str, key: bytes, upload_id: str) -> None:
        """See Uploads."""

        async def ask(at: BucketRef) -> None:
            await self.call("abort_upload", at.ino, at, key, upload_id)

        await self.in_bucket(bucket, ask)

    # --- for what is under way -------------------------------------------------------------------------------------

    async def begin_bytes(self, near: Ino, size: int) -> Ino:
        """A file without a name, held here until ``held.let_go``."""
        ino: Ino = await self.call("begin_bytes", near, size)
        self.held.hold(ino)
        return ino

    async def in_bucket(self, name: str, ask: Callable[[BucketRef], Awaitable[T]]) -> T:
        """Ask something that is about a bucket. Raises NoSuchBucket, BucketChanged.

        The bucket may be another one by now than was known, or its configuration another one: then BucketChanged says
        that whoever decided by it has to decide again, and what is known is what there is now. A bucket of the same
        owner is simply asked if neither has a configuration.
        """
        for _ in range(ATTEMPTS_MAX):
            asked = self._buckets.get(name) or await self._find_bucket(name)
            try:
                return await ask(BucketRef(name, asked.ino, asked.info.serial))
            except (NoSuchBucket, BucketChanged):
                self._buckets.pop(name, None)
                now = await self._find_bucket(name)
                if (now.info.owner, now.info.serial) != (asked.info.owner, asked.info.serial) or (
                    now.ino != asked.ino and now.info.serial
                ):
                    raise BucketChanged(f"bucket {name!r} has become another one; try again") from None
        raise Conflict(f"bucket {name!r} goes and comes; try again")

    async def change(self, method: str, bucket: str, path: KeyPath, key: bytes, *arguments: Any) -> Changed:
        """Have the shard of a key's directory change the key."""

        async def ask(at: BucketRef, flushed: Ino) -> Changed:
            near = self._near(at.ino, path.directory)
            for _ in range(ATTEMPTS_MAX):
                changed: Changed = await self.call(method, near, at, key, *arguments, flushed)
                self._learn(path, changed.way)
                if changed.info is not None or changed.deleted is not None or changed.unflushed:
                    return changed
                near = changed.way.directory
            raise Conflict(f"the directory of {key!r} moves all the time; try again")

        changed = await self._flushing(bucket, path, ask)
        assert changed is not None
        return changed

    async def change_at(
        self, ino: Ino, method: str, bucket: str, path: KeyPath, key: bytes, *arguments: Any
    ) -> Changed:
        """Have the shard of an inode change a key."""

        async def ask(at: BucketRef, flushed: Ino) -> Changed:
            changed: Changed = await self.call(method, ino, at, key, *arguments, flushed)
            return changed

        changed = await self._flushing(bucket, path, ask)
        assert changed is not None
        return changed

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _flushing(
        self, bucket: str, path: KeyPath, ask: Callable[[BucketRef, Ino], Awaitable[Changed | None]]
    ) -> Changed | None:
        """Ask for a change, and again when what conditions are held against has been committed where it is."""
        flushed = Ino(0)
        for _ in range(ATTEMPTS_MAX):
            known = flushed
            changed = await self.in_bucket(bucket, lambda at: ask(at, known))  # noqa: B023
            if changed is None:
                return None
            self._learn(path, changed.way)
            if not changed.unflushed:
                return changed
            await self.tree.flush(changed.unflushed)
            flushed = changed.unflushed
        raise Conflict("the object is overwritten all the time; try again")

    async def _open(self, bucket: str, key: bytes, version_id: str | None, *, with_body: bool) -> Opened:
        """An object as it is now. Raises NoSuchBucket, NotFound."""
        path = split_key(key)

        async def ask(at: BucketRef) -> FoundObject:
            near = self._near(at.ino, path.directory)
            found: FoundObject = await self.call("find_object", near, at, key, version_id, with_body=with_body)
            return found

        for _ in range(ATTEMPTS_MAX):
            found = await self.in_bucket(bucket, ask)
            self._learn(path, found.way)
            if found.info is not None:
                return Opened(found.info, found.body, found.reading)
            if not found.ino:
                raise NotFound(f"there is no key {key!r} in bucket {bucket!r}")
            try:
                opened: Opened = await self.call("open_object", found.ino, key, with_body=with_body)
            except NotFound:
                continue
            return opened
        raise NotFound(f"there is no object {key!r} in bucket {bucket!r}")

    async def _is_there(self, ino: Ino) -> bool:
        """Whether an inode that is held since has a name; if it had lost that before, it may be purged."""
        try:
            return (await self.tree.attributes(ino)).nlink > 0
        except NotFound:
            return False

    async def _find_bucket(self, name: str) -> _Known:
        near = self._buckets[name].ino if name in self._buckets else ROOT_INO
        for _ in range(ATTEMPTS_MAX):
            try:
                ino, info = await self.call("bucket_named", near, name)
            except NoSuchBucket:
                self._buckets.pop(name, None)
                raise
            if info is not None:
                while len(self._buckets) >= BUCKETS_MAX:
                    del self._buckets[next(iter(self._buckets))]
                known = self._buckets[name] = _Known(ino, info)
                return known
            near = ino
        raise Conflict(f"bucket {name!r} moves all the time; try again")

    def _owner(self, ino: Ino) -> ShardId:
        return self._partitions().owner(partition_of(ino))

    def _near(self, bucket_ino: Ino, path: bytes) -> Ino:
        """The nearest directory to a path that is known."""
        while path:
            found = self._directories.get((bucket_ino, path))
            if found is not None:
                return found
            path = path.rpartition(b"/")[0]
        return bucket_ino

    def _learn(self, path: KeyPath, way: Way) -> None:
        if path.directory and way.is_whole:
            known = self._directories
            known.pop((way.bucket, path.directory), None)
            known[way.bucket, path.directory] = way.directory
            if len(known) > DIRECTORIES_MAX:
                del known[next(iter(known))]


async def _copied(reader: RemoteReader, first: int, end: int, put: RemotePartPut) -> PartInfo:
    """Copy bytes of an object into a part."""
    md5 = hashlib.md5(usedforsecurity=False)
    for at in range(first, end, MIB):
        piece = await reader.read(at, min(MIB, end - at))
        md5.update(piece)
        await put.write(piece)
    return await put.commit(etag=md5.hexdigest(), checksums={})
