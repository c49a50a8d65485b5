"""Buckets, objects and uploads as a shard offers them to front-ends in other processes: by calls (core/calls.py).

The first argument of each says which shard is asked, and where the mark of a call that is carried out once is kept:
an inode of that shard. It is the key's directory as far as the front-end knows; a shard that finds another one answers
with that, and nothing has been done. The bytes of an object lie where its inode is, in the shard that is asked.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from siltstone.core.object_bytes import AnonymousBytes, WrittenBytes
from siltstone.core.object_changes import check_deleted, look_in
from siltstone.core.object_paths import FILE_MODE, KeyPath, find_in, is_object, split_key
from siltstone.core.object_types import (
    NO_CONDITIONS,
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
    object_info,
)
from siltstone.core.objects import ObjectReader, Objects, bucket_info
from siltstone.core.places import Start
from siltstone.core.readings import Readings
from siltstone.core.shard_places import ShardPlaces
from siltstone.core.uploads import Uploads
from siltstone.core.volume import Volume
from siltstone.errors import (
    BucketChanged,
    DeletedObject,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    ObjectChanged,
    Unavailable,
)
from siltstone.meta import inodes, names, objects
from siltstone.meta.records import Inode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino

FIRST_BYTES_MAX = 64 * 1024
"""An object of up to this size is answered with its bytes."""

LOOKS_MAX = 100
"""How often an object is looked up again because the mount wrote to it meanwhile."""

HANDOVER_SECONDS = 10.0
"""So long an inode for bytes to come is kept here; by then the front-end knows of it, and says that it holds it."""


class BucketRef(msgspec.Struct, frozen=True, array_like=True):
    """A bucket as a front-end knows it: its name, its directory, and as of which change of its configuration. Where one
    of them is another by now, nothing is done and that is said: the front-end has decided by what it knew."""

    name: str
    ino: Ino
    serial: int


class Way(msgspec.Struct, frozen=True, array_like=True):
    """What a shard has found: the bucket's directory, the deepest directory that there is on the way to the key, and
    whether that is the key's own."""

    bucket: Ino
    directory: Ino
    is_whole: bool


class FoundObject(msgspec.Struct, frozen=True, array_like=True):
    """What a key leads to: ``ino`` 0 for nothing. ``info`` is there if the inode is one of the shard's, and the bytes
    of a small one are then."""

    way: Way
    ino: Ino
    info: ObjectInfo | None
    body: bytes
    reading: int = 0
    """What the front-end reads the rest by (readings.py)."""


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """An object, and its bytes if they are few."""

    info: ObjectInfo
    body: bytes
    reading: int = 0


class Changed(msgspec.Struct, frozen=True, array_like=True):
    """What came of a change of a key. With neither ``info`` nor ``deleted`` nothing did: it is to be asked of the shard
    of the directory in ``way``, or when the dirty bytes of ``unflushed``, another shard's, have been committed."""

    way: Way
    unflushed: Ino = Ino(0)
    info: ObjectInfo | None = None
    deleted: Deleted | None = None


class ShardObjects:
    """What a shard is asked for. Each method is told of where the core's own is: Objects, Uploads."""

    def __init__(self, volume: Volume, readings: Readings) -> None:
        self._volume = volume
        self._readings = readings
        self._ledger = volume.ledger
        self._places = ShardPlaces(volume)
        self.forget_places = self._places.forget_all
        self._objects = Objects(volume, self._places)
        self._uploads = Uploads(self._objects)
        self._handed: deque[tuple[int, Ino]] = deque()
        """Inodes that are held until a front-end holds them, with the time."""

    async def run(self) -> None:
        """Let go of what front-ends have been given time to hold, for ever."""
        while True:
            await self._ledger.clock.sleep(HANDOVER_SECONDS / 4)
            limit = self._ledger.clock.monotonic_ns() - round(HANDOVER_SECONDS * 1e9)
            while self._handed and self._handed[0][0] < limit:
                self._volume.orphans.let_go(self._handed.popleft()[1])

    def hand(self, ino: Ino) -> None:
        """An inode that is held here will be held by a front-end from its next poll on, which gets so much time."""
        self._handed.append((self._ledger.clock.monotonic_ns(), ino))

    # --- buckets ---------------------------------------------------------------------------------------------------

    async def bucket_named(self, near: Ino, name: str) -> tuple[Ino, BucketInfo | None]:
        """A bucket's directory, and what is known of the bucket if that is one of this shard's. Raises NoSuchBucket."""

        def question(reader: Reader) -> tuple[Ino, BucketInfo | None]:
            ino = self._places.look(reader, name, b"").bucket
            return ino, bucket_info(reader, name, ino) if self._ledger.owns(ino) else None

        await self._places.find(name, b"")
        return await self._ledger.look(question)

    async def buckets_at(self, wanted: Sequence[Ino], called: Sequence[str]) -> list[BucketInfo | None]:
        """What is known of buckets with these directories, which this shard has; None for one that is gone."""

        def question(reader: Reader) -> list[BucketInfo | None]:
            return [
                None if inodes.find_inode(reader, ino) is None else bucket_info(reader, name, ino)
                for ino, name in zip(wanted, called, strict=True)
            ]

        return await self._ledger.look(question)

    async def create_bucket(self, near: Ino, name: str, owner: str, documents: dict[str, bytes]) -> BucketInfo:
        """See Objects."""
        return await self._objects.create_bucket(name, owner=owner, documents=documents)

    async def bucket_documents(self, near: Ino, name: str) -> tuple[BucketInfo, dict[str, bytes]]:
        """See Objects."""
        await self._places.find(name, b"")
        return await self._objects.bucket_documents(name)

    async def set_bucket_documents(
        self, near: Ino, name: str, documents: dict[str, bytes | None], expected: tuple[int, int] | None
    ) -> BucketInfo:
        """See Objects."""
        return await self._objects.set_bucket_documents(name, documents, expected=expected)

    async def delete_bucket(self, near: Ino, name: str) -> None:
        """See Objects."""
        await self._objects.delete_bucket(name)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def find_object(
        self, near: Ino, bucket: BucketRef, key: bytes, version_id: str | None, *, with_body: bool
    ) -> FoundObject:
        """What a key, or a version of it, leads to. Raises NoSuchBucket, also when the bucket is not the one that is
        meant; DeletedObject, NoSuchVersion, IsDeleteMarker."""
        path = split_key(key)

        def question(reader: Reader) -> tuple[Start, Ino, ObjectInfo | None]:
            start = self._places.look(reader, bucket.name, path.directory)
            directory = None if start.rest else start.directory
            if version_id is not None:
                found = look_in(reader, directory, key, path, version_id)
                return start, found.ino, found if self._ledger.owns(found.ino) else None
            ino, inode = self._entry(reader, start, path)
            if inode is None:
                if not ino:
                    check_deleted(reader, directory, path)
                return start, ino, None
            return start, ino, object_info(key, ino, inode, objects.get_object(reader, ino, inode))

        remembered = self._places.way(bucket.name, path.directory)
        start, ino, info = await self._ledger.look(question, remembered=remembered)
        way = _way(start, bucket)
        await self._learn(bucket.name, start)
        if info is None:
            return FoundObject(way, ino, None, b"")
        for _ in range(LOOKS_MAX):
            if self._is_as_told(info):
                with suppress(ObjectChanged):
                    return FoundObject(way, ino, info, *(await self._body(info) if with_body else (b"",)))
            await self._volume.flush(ino)
            _, ino, info = await self._ledger.look(question, remembered=remembered)
            if info is None:
                return FoundObject(way, ino, None, b"")
        raise ObjectChanged(f"{key!r} is written to through the mount all the time; try again")

    async def open_object(self, ino: Ino, key: bytes, *, with_body: bool) -> Opened:
        """An object by its inode. Raises NotFound when it has no name any more."""
        for _ in range(LOOKS_MAX):
            info = await self._info(ino, key)
            if self._is_as_told(info):
                with suppress(ObjectChanged):
                    return Opened(info, *(await self._body(info) if with_body else (b"",)))
            await self._volume.flush(ino)
        raise ObjectChanged(f"{key!r} is written to through the mount all the time; try again")

    async def list_objects(
        self, near: Ino, bucket: BucketRef, prefix: bytes, delimiter: bytes, start_after: bytes, limit: int
    ) -> Listing:
        """See Objects."""
        await self._check(bucket)
        return await self._objects.list_keys(
            bucket.name, prefix=prefix, delimiter=delimiter, start_after=start_after, limit=limit
        )

    async def list_versions(
        self,
        near: Ino,
        bucket: BucketRef,
        prefix: bytes,
        delimiter: bytes,
        after_key: bytes,
        after_version: str | None,
        limit: int,
    ) -> VersionListing:
        """See Objects."""
        await self._check(bucket)
        return await self._objects.list_versions(
            bucket.name,
            prefix=prefix,
            delimiter=delimiter,
            after_key=after_key,
            after_version=after_version,
            limit=limit,
        )

    # --- writing ---------------------------------------------------------------------------------------------------

    async def begin_bytes(self, near: Ino, size: int) -> Ino:
        """A file without a name for bytes to come; whoever gets it has HANDOVER_SECONDS to hold it. ``size``: at least
        so much will come. Raises NoSpace."""
        self._ledger.check_room(size)
        ino = await self._volume.create_anonymous(near, mode=FILE_MODE)
        self.hand(ino)
        return ino

    async def put_object(
        self,
        near: Ino,
        bucket: BucketRef,
        key: bytes,
        body: bytes,
        attributes: PutAttributes,
        conditions: Conditions,
        flushed: Ino,
    ) -> Changed:
        """Let ``body`` be an object. ``flushed``: whose dirty bytes have been committed."""
        path = split_key(key)
        start, way = await self._find(bucket, path)
        if not self._ledger.owns(start.directory):
            return Changed(way)
        if unflushed := await self._unflushed(start, path, conditions, flushed):
            return Changed(way, unflushed)
        writer = WrittenBytes(self._volume, start.directory)
        await writer.write(body)
        return Changed(way, info=await self._put(bucket.name, key, path, start, writer, attributes, conditions))

    async def put_written(
        self,
        ino: Ino,
        bucket: BucketRef,
        key: bytes,
        size: int,
        attributes: PutAttributes,
        conditions: Conditions,
        flushed: Ino,
    ) -> Changed:
        """Let the bytes that were written to a file without a name be an object. Raises Unavailable when some of them
        are not there, because the shard died meanwhile."""
        path = split_key(key)
        start, way = await self._find(bucket, path)
        if unflushed := await self._unflushed(start, path, conditions, flushed):
            return Changed(way, unflushed)
        writer = WholeBytes(self._volume, ino, size)
        await writer.ready()
        return Changed(way, info=await self._put(bucket.name, key, path, start, writer, attributes, conditions))

    async def delete_object(
        self,
        near: Ino,
        bucket: BucketRef,
        key: bytes,
        conditions: Conditions,
        versioning: Versioning,
        version_id: str | None,
        owner: str,
        may_bypass: bool,
        flushed: Ino,
    ) -> Changed:
        """See Objects."""
        path = split_key(key)
        start, way = await self._find(bucket, path)
        if not self._ledger.owns(start.directory):
            return Changed(way)
        if unflushed := await self._unflushed(start, path, conditions, flushed):
            return Changed(way, unflushed)
        deleted = await self._objects.delete(
            bucket.name,
            key,
            _none_if_empty(conditions),
            self._places.start_at(start),
            versioning=versioning,
            version_id=version_id,
            owner=owner,
            may_bypass=may_bypass,
        )
        return Changed(way, deleted=deleted)

    async def edit_object(
        self, near: Ino, bucket: BucketRef, key: bytes, version_id: str | None, edit: Edit, flushed: Ino
    ) -> Changed:
        """See Objects."""
        start, way = await self._find(bucket, split_key(key))
        if not self._ledger.owns(start.directory):
            return Changed(way)
        return Changed(way, info=await self._objects.edit(bucket.name, key, version_id, edit))

    async def copy_object(
        self,
        source_ino: Ino,
        source_key: bytes,
        bucket: BucketRef,
        key: bytes,
        attributes: PutAttributes | None,
        conditions: Conditions,
        source_conditions: Conditions,
        versioning: Versioning,
        flushed: Ino,
    ) -> Changed | None:
        """Let a key share the bytes of an inode of this shard; None when that has no name any more."""
        path = split_key(key)
        start, way = await self._find(bucket, path)
        if unflushed := await self._unflushed(start, path, conditions, flushed):
            return Changed(way, unflushed)
        opener = partial(self._open_here, source_ino, source_key)
        try:
            info = await self._objects.copy_of(
                opener,
                bucket.name,
                key,
                attributes,
                _none_if_empty(conditions),
                _none_if_empty(source_conditions),
                versioning,
            )
        except SourceGone:
            return None
        return Changed(way, info=info)

    # --- uploads: asked of the shard that has the bucket's directory -------------------------------------------------

    async def create_upload(
        self,
        near: Ino,
        bucket: BucketRef,
        key: bytes,
        owner: str,
        headers: dict[str, str],
        metadata: dict[str, str],
        checksum_algorithm: str,
        checksum_type: str,
        grants: list[str],
        sealing: dict[str, str],
        upload_id: str,
        tags: dict[str, str],
        lock: tuple[str, int, bool],
    ) -> str:
        """See Uploads."""
        await self._check(bucket)
        return await self._uploads.create_upload(
            bucket.name,
            key,
            owner=owner,
            headers=headers,
            metadata=metadata,
            checksum_algorithm=checksum_algorithm,
            checksum_type=checksum_type,
            grants=grants,
            sealing=sealing,
            upload_id=upload_id,
            tags=tags,
            lock=lock,
        )

    async def upload(self, near: Ino, bucket: BucketRef, key: bytes, upload_id: str) -> UploadInfo:
        """See Uploads."""
        await self._check(bucket)
        return await self._uploads.upload(bucket.name, key, upload_id)

    async def list_parts(
        self, near: Ino, bucket: BucketRef, key: bytes, upload_id: str, after: int, limit: int
    ) -> tuple[list[PartInfo], bool]:
        """See Uploads."""
        await self._check(bucket)
        return await self._uploads.list_parts(bucket.name, key, upload_id, after=after, limit=limit)

    async def list_uploads(
        self,
        near: Ino,
        bucket: BucketRef,
        prefix: bytes,
        delimiter: bytes,
        after_key: bytes,
        after_upload: str,
        limit: int,
    ) -> UploadListing:
        """See Uploads."""
        await self._check(bucket)
        return await self._uploads.list_uploads(
            bucket.name,
            prefix=prefix,
            delimiter=delimiter,
            after_key=after_key,
            after_upload=after_upload,
            limit=limit,
        )

    async def put_part(
        self,
        near: Ino,
        bucket: BucketRef,
        key: bytes,
        upload_id: str,
        number: int,
        body: bytes,
        etag: str,
        checksums: dict[str, str],
    ) -> PartInfo:
        """Let ``body`` be a part."""
        await self._check(bucket)
        writer = WrittenBytes(self._volume, bucket.ino)
        await writer.write(body)
        return await self._put_part(writer, bucket.name, key, upload_id, number, etag, checksums)

    async def put_written_part(
        self,
        ino: Ino,
        bucket: BucketRef,
        key: bytes,
        upload_id: str,
        number: int,
        size: int,
        etag: str,
        checksums: dict[str, str],
    ) -> PartInfo:
        """Let the bytes that were written to a file without a name be a part. Raises as ``put_written`` does."""
        await self._check(bucket)
        writer = WholeBytes(self._volume, ino, size)
        return await self._put_part(writer, bucket.name, key, upload_id, number, etag, checksums)

    async def share_part(
        self,
        near: Ino,
        bucket: BucketRef,
        source_ino: Ino,
        source_key: bytes,
        source_range: tuple[int, int] | None,
        key: bytes,
        upload_id: str,
        number: int,
        source_conditions: Conditions,
    ) -> PartInfo | None:
        """A part that shares the bytes of an inode of this shard; None when that is not here, or has no name any
        more."""
        await self._check(bucket)
        if not self._ledger.owns(source_ino):
            return None
        opener = partial(self._open_here, source_ino, source_key)
        conditions = _none_if_empty(source_conditions)
        try:
            return await self._uploads.copy_part_of(
                opener, source_range, bucket.name, key, upload_id, number, conditions, bucket.ino
            )
        except SourceGone:
            return None

    async def complete_upload(
        self,
        near: Ino,
        bucket: BucketRef,
        key: bytes,
        upload_id: str,
        parts: Sequence[CompletePart],
        checksums: dict[str, str],
        checksum_type: str,
        conditions: Conditions,
        versioning: Versioning,
        flushed: Ino,
    ) -> Changed:
        """See Uploads."""
        path = split_key(key)
        start, way = await self._find(bucket, path)
        if unflushed := await self._unflushed(start, path, conditions, flushed):
            return Changed(way, unflushed)
        info = await self._uploads.complete_upload(
            bucket.name,
            key,
            upload_id,
            parts,
            checksums=checksums,
            checksum_type=checksum_type,
            conditions=_none_if_empty(conditions),
            versioning=versioning,
        )
        return Changed(way, info=info)

    async def abort_upload(self, near: Ino, bucket: BucketRef, key: bytes, upload_id: str) -> None:
        """See Uploads."""
        await self._check(bucket)
        await self._uploads.abort_upload(bucket.name, key, upload_id)

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _find(self, bucket: BucketRef, path: KeyPath) -> tuple[Start, Way]:
        start = await self._places.find(bucket.name, path.directory)
        return start, _way(start, bucket)

    async def _check(self, bucket: BucketRef) -> None:
        _way(await self._places.find(bucket.name, b""), bucket)

    async def _learn(self, bucket: str, start: Start) -> None:
        """Have the bucket remembered, if it can be."""
        if self._ledger.owns(start.bucket) and not self._places.knows(bucket):
            await self._places.find(bucket, b"")

    def _entry(self, reader: Reader, start: Start, path: KeyPath) -> tuple[Ino, Inode | None]:
        """The inode that is a key's object, 0 for none, and its record if it is one of this shard's."""
        if start.rest:
            return Ino(0), None
        entry = names.get_dentry(reader, start.directory, path.name)
        if entry is None:
            return Ino(0), None
        ino = Ino(entry.ino)
        if path.is_directory or not stat.S_ISREG(entry.kind):
            place = find_in(reader, start.directory, path)
            if place is None:
                return Ino(0), None
            return place.ino, place.inode if self._ledger.owns(place.ino) else None
        return ino, inodes.get_inode(reader, ino) if self._ledger.owns(ino) else None

    async def _unflushed(self, start: Start, path: KeyPath, conditions: Conditions, flushed: Ino) -> Ino:
        """The inode that a key leads to, if conditions are to be held against it and its dirty bytes are elsewhere."""
        if conditions == NO_CONDITIONS:
            return Ino(0)
        ino, _ = await self._ledger.look(lambda reader: self._entry(reader, start, path))
        return Ino(0) if not ino or ino == flushed or self._ledger.owns(ino) else ino

    async def _info(self, ino: Ino, key: bytes) -> ObjectInfo:
        path = split_key(key)

        def question(reader: Reader) -> ObjectInfo | None:
            inode = inodes.find_inode(reader, ino)
            if inode is None or inode.nlink == 0 or not is_object(path, inode):
                return None
            return object_info(key, ino, inode, objects.get_object(reader, ino, inode))

        if ino in self._volume.write_back.files:
            await self._volume.flush(ino)
        info = await self._ledger.look(question)
        if info is None:
            raise NotFound(f"inode {ino} is no object {key!r} any more")
        return info

    def _is_as_told(self, info: ObjectInfo) -> bool:
        """Whether an object is in this turn of the loop what was found, perhaps some turns ago."""
        inode = inodes.find_inode(self._ledger.store, info.ino)
        if inode is None or self._volume.write_back.is_dirty(info.ino):
            return False
        return info == object_info(info.key, info.ino, inode, objects.get_object(self._ledger.store, info.ino, inode))

    async def _body(self, info: ObjectInfo) -> tuple[bytes, int]:
        """A small object's bytes; of a larger one the number by which it is read. It is as it was told in this turn."""
        if not info.size:
            return b"", 0
        if info.size > FIRST_BYTES_MAX:
            return b"", self._readings.begin(info)
        reader = ObjectReader(self._volume, info)
        try:
            return await reader.read(0, info.size), 0
        finally:
            reader.close()

    async def _open_here(self, ino: Ino, key: bytes) -> ObjectReader:
        try:
            return ObjectReader(self._volume, await self._info(ino, key))
        except NotFound:
            raise SourceGone from None

    async def _put(
        self,
        bucket: str,
        key: bytes,
        path: KeyPath,
        start: Start,
        writer: WrittenBytes | WholeBytes,
        attributes: PutAttributes,
        conditions: Conditions,
    ) -> ObjectInfo:
        begin = self._places.start_at(start)
        conditions = _none_if_empty(conditions)
        try:
            await writer.ready()
            await self._objects.flush_key(bucket, path, begin)
            info = await self._objects.put(bucket, key, path, writer, attributes, conditions, start=begin)
        except BaseException:
            writer.end(adopted=False)
            raise
        writer.end(adopted=True)
        await self._volume.wait_done()
        return info

    async def _put_part(
        self,
        writer: WrittenBytes | WholeBytes,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        etag: str,
        checksums: dict[str, str],
    ) -> PartInfo:
        try:
            await writer.ready()
            info = await self._uploads.put_part(bucket, key, upload_id, number, writer, etag, checksums)
        except BaseException:
            writer.end(adopted=False)
            raise
        writer.end(adopted=True)
        await self._ledger.sync()
        return info

    # --- calls that an earlier life of the shard carried out ---------------------------------------------------------

    async def result_of(self, method: str, arguments: dict[str, Any]) -> object:
        """What such a call returns: of what was stored then, as it is now."""
        match method:
            case "create_bucket":
                return BucketInfo(arguments["name"], self._ledger.clock.now_ns(), arguments["owner"])
            case "set_bucket_documents":
                return await self._objects.bucket(arguments["name"])
            case "create_upload":
                return arguments["upload_id"]
            case "put_part" | "put_written_part" | "share_part":
                return await self._part(arguments)
            case "delete_object":
                deleted = await self._deleted(arguments)
                return Changed(Way(arguments["bucket"].ino, arguments["near"], False), deleted=deleted)
            case "edit_object" | "put_object" | "put_written" | "copy_object" | "complete_upload":
                info = await self._now(arguments["bucket"].name, arguments["key"])
                return Changed(Way(arguments["bucket"].ino, Ino(0), False), info=info)
            case _:
                return None

    async def _deleted(self, arguments: dict[str, Any]) -> Deleted:
        """What a delete did: a delete marker is the newest version, unless others have changed the key since."""
        if arguments["version_id"] is not None:
            return Deleted(True, arguments["version_id"])
        try:
            await self._objects.head(arguments["bucket"].name, arguments["key"])
        except DeletedObject as error:
            return Deleted(True, str(error), is_marker=True)
        except NotFound:
            pass
        return Deleted(True)

    async def _now(self, bucket: str, key: bytes) -> ObjectInfo:
        """An object that was stored; others may have replaced or removed it since."""
        try:
            return await self._objects.head(bucket, key)
        except NotFound:
            return ObjectInfo(key=key, ino=Ino(0), size=0, modified_ns=self._ledger.clock.now_ns(), etag="")

    async def _part(self, arguments: dict[str, Any]) -> PartInfo:
        number = arguments["number"]
        found, _ = await self._uploads.list_parts(
            arguments["bucket"].name, arguments["key"], arguments["upload_id"], after=number - 1, limit=1
        )
        if not found or found[0].number != number:
            raise NoSuchUpload(f"upload {arguments['upload_id']!r} of key {arguments['key']!r} has been finished")
        return found[0]


class SourceGone(Exception):
    """What is to be copied has lost its name. No SiltstoneError: it never leaves the shard."""


class WholeBytes(AnonymousBytes):
    """Bytes that a front-end has written to a file without a name, one piece after the other and each once.

    If the shard died meanwhile some may be gone: then the extents do not add up to the size.
    """

    def __init__(self, volume: Volume, ino: Ino, size: int) -> None:
        super().__init__(volume, ino)
        self._ino = ino
        self.size = size
        volume.orphans.hold(ino)

    async def ready(self) -> None:
        """Return when the bytes are where a batch can point at them."""
        await self._volume.flush(self._near)
        await self._volume.ledger.admit()

    def place(self, transaction: Transaction, near: Ino, now_ns: int) -> tuple[Ino, Inode]:
        """See AnonymousBytes. Raises Unavailable."""
        inode = inodes.find_inode(transaction, self._near)
        if inode is None or inode.nlink or not inode.size == inode.allocated_bytes == self.size:
            raise Unavailable("a shard died while the bytes were sent, and some of them are lost: send them again")
        return self._near, inode


def _way(start: Start, bucket: BucketRef) -> Way:
    """Raises NoSuchBucket, or BucketChanged when something else was known of the bucket."""
    if start.bucket != bucket.ino:
        raise NoSuchBucket(f"bucket {bucket.name!r} is another one by now")
    if start.serial != bucket.serial:
        raise BucketChanged(f"the configuration of bucket {bucket.name!r} has just been changed; try again")
    return Way(start.bucket, start.directory, not start.rest)


def _none_if_empty(conditions: Conditions) -> Conditions:
    """As the core knows it."""
    return NO_CONDITIONS if conditions == NO_CONDITIONS else conditions
