"""Buckets, objects and uploads in memory: the port of ``siltstone.s3gw.store``, for tests of the door alone.

Rules that the door relies on are kept (conditions, owners, part checks, versions that readers hold); directories are
not: a key is a string of bytes. Nor are versions: those are tested on the core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from siltstone.core.object_types import (
    NO_DOCUMENTS,
    BucketInfo,
    CompletePart,
    Conditions,
    Deleted,
    Edit,
    ListedVersion,
    Listing,
    ObjectInfo,
    PartInfo,
    PutAttributes,
    UploadInfo,
    UploadListing,
    Versioning,
    VersionListing,
)
from siltstone.errors import (
    AlreadyExists,
    BucketChanged,
    DirectoryNotEmpty,
    InvalidPart,
    InvalidPartOrder,
    NoSuchBucket,
    NoSuchUpload,
    NoSuchVersion,
    NotFound,
    PartTooSmall,
    SiltstoneError,
)
from siltstone.limits import MULTIPART_PART_BYTES_MIN
from siltstone.types import Buffer, Ino

NO_CONDITIONS = Conditions()
Stored = tuple[ObjectInfo, bytes]


@dataclass
class SimBucket:
    """A bucket with its keys."""

    info: BucketInfo
    objects: dict[bytes, Stored] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)


@dataclass
class SimUpload:
    """An upload with its parts."""

    bucket: str
    info: UploadInfo
    parts: dict[int, tuple[PartInfo, bytes]] = field(default_factory=dict)
    grants: tuple[str, ...] = ()


class SimWriter:
    """Bytes on their way in. ``open_writers`` of the store counts those that were neither committed nor aborted."""

    def __init__(self, store: SimObjects) -> None:
        self._store = store
        self._pieces: list[bytes] = []
        self._is_open = True
        store.open_writers += 1

    async def write(self, buffer: Buffer) -> None:
        """Take more bytes."""
        assert self._is_open
        await trio.lowlevel.checkpoint()
        if self._store.fail_write is not None:
            raise self._store.fail_write
        self._store.written += len(buffer)
        if not self._store.forgets:
            self._pieces.append(bytes(buffer))

    async def abort(self) -> None:
        """Forget everything."""
        await trio.lowlevel.checkpoint()
        self._end()

    def _end(self) -> bytes:
        if self._is_open:
            self._is_open = False
            self._store.open_writers -= 1
        return b"".join(self._pieces)


class SimObjectWriter(SimWriter):
    """The body of an object."""

    def __init__(self, store: SimObjects, bucket: str, key: bytes) -> None:
        store.find(bucket)
        super().__init__(store)
        self._bucket = bucket
        self._key = key

    async def commit(self, attributes: PutAttributes, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Make it the object."""
        await trio.lowlevel.checkpoint()
        return self._store.put(self._bucket, self._key, self._end(), attributes, conditions)


class SimPartWriter(SimWriter):
    """The body of a part."""

    def __init__(self, store: SimObjects, upload: SimUpload, number: int) -> None:
        super().__init__(store)
        self._upload = upload
        self._number = number

    async def commit(self, *, etag: str, checksums: dict[str, str]) -> PartInfo:
        """Make it the part."""
        await trio.lowlevel.checkpoint()
        data = self._end()
        info = PartInfo(self._number, len(data), etag, self._store.now_ns(), checksums)
        self._upload.parts[self._number] = (info, data)
        return info


class SimReader:
    """One version of an object."""

    def __init__(self, store: SimObjects, stored: Stored) -> None:
        self._store = store
        self.info, self._data = stored
        self._is_open = True
        store.open_readers += 1

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes of it; ``fail_read_at`` of the store makes the read of that offset fail."""
        assert self._is_open
        assert size <= 4 * 1024 * 1024
        await trio.lowlevel.checkpoint()
        failure = self._store.fail_read_at
        if failure is not None and offset <= failure[0] < offset + size:
            raise failure[1]
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Let go."""
        if self._is_open:
            self._is_open = False
            self._store.open_readers -= 1


class SimObjects:
    """Buckets and objects. ``forgets``: bodies are counted, not kept."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.buckets: dict[str, SimBucket] = {}
        self.open_writers = 0
        self.open_readers = 0
        self.written = 0
        self.forgets = False
        self.fail_write: SiltstoneError | None = None
        self.fail_read_at: tuple[int, SiltstoneError] | None = None
        self._ino = 256
        self.made = 0

    def find(self, name: str) -> SimBucket:
        """The bucket. Raises NoSuchBucket."""
        found = self.buckets.get(name)
        if found is None:
            raise NoSuchBucket(name)
        return found

    def put(
        self, bucket: str, key: bytes, data: bytes, attributes: PutAttributes, conditions: Conditions
    ) -> ObjectInfo:
        """Make ``data`` the object."""
        objects = self.find(bucket).objects
        conditions.check(objects[key][0] if key in objects else None)
        self._ino += 256
        info = ObjectInfo(
            key=key,
            ino=Ino(self._ino),
            size=len(data),
            modified_ns=self.now_ns(),
            etag=attributes.etag,
            owner=attributes.owner,
            headers=attributes.headers,
            metadata=attributes.metadata,
            checksums=attributes.checksums,
            checksum_type=attributes.checksum_type,
            part_sizes=attributes.part_sizes,
            part_numbers=attributes.part_numbers,
            part_checksums=attributes.part_checksums,
            grants=attributes.grants,
            sealing=attributes.sealing,
            tags=attributes.tags,
        )
        objects[key] = (info, data)
        return info

    def get(self, bucket: str, key: bytes) -> Stored:
        """The object. Raises NoSuchBucket, NotFound."""
        found = self.find(bucket).objects.get(key)
        if found is None:
            raise NotFound(repr(key))
        return found

    async def create_bucket(
        self, name: str, *, owner: str, documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> BucketInfo:
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        if name in self.buckets:
            raise AlreadyExists(name)
        self.made += 1
        info = BucketInfo(name, self.now_ns(), owner, Ino(self.made), int(bool(documents)))
        self.buckets[name] = SimBucket(info, documents=dict(documents))
        return info

    async def bucket_documents(self, name: str) -> tuple[BucketInfo, dict[str, bytes]]:
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        found = self.find(name)
        return found.info, dict(found.documents)

    async def set_bucket_documents(
        self, name: str, documents: Mapping[str, bytes | None], *, expected: tuple[int, int] | None = None
    ) -> BucketInfo:
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        found = self.find(name)
        if expected is not None and expected != (found.info.ino, found.info.serial):
            raise BucketChanged(name)
        for document, value in documents.items():
            if value is None:
                found.documents.pop(document, None)
            else:
                found.documents[document] = value
        found.info = msgspec.structs.replace(found.info, serial=found.info.serial + 1)
        return found.info

    async def delete_bucket(self, name: str) -> None:
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        if self.find(name).objects:
            raise DirectoryNotEmpty(name)
        del self.buckets[name]

    async def list_buckets(self) -> list[BucketInfo]:
        """See ObjectStore."""
        return [found.info for found in self.buckets.values()]

    async def bucket(self, name: str) -> BucketInfo:
        """See ObjectStore."""
        return self.find(name).info

    bucket_of_key = bucket

    async def begin_put(self, bucket: str, key: bytes, *, size_hint: int | None) -> SimObjectWriter:
        """See ObjectStore."""
        return SimObjectWriter(self, bucket, key)

    async def head(self, bucket: str, key: bytes, version_id: str | None = None) -> ObjectInfo:
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        _check_version(version_id)
        return self.get(bucket, key)[0]

    async def open(self, bucket: str, key: bytes, version_id: str | None = None) -> SimReader:
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        _check_version(version_id)
        return SimReader(self, self.get(bucket, key))

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
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        assert versioning is Versioning.OFF, "there are no versions in memory"
        objects = self.find(bucket).objects
        conditions.check(objects[key][0] if key in objects else None)
        if version_id:
            return Deleted(False)
        return Deleted(objects.pop(key, None) is not None)

    async def edit(self, bucket: str, key: bytes, version_id: str | None, edit: Edit) -> ObjectInfo:
        """See ObjectStore; only tags and grants."""
        await trio.lowlevel.checkpoint()
        _check_version(version_id)
        info, data = self.get(bucket, key)
        assert not edit.is_of_lock
        if edit.tags is not None:
            info = msgspec.structs.replace(info, tags=edit.tags)
        if edit.grants is not None:
            info = msgspec.structs.replace(info, grants=edit.grants)
        self.find(bucket).objects[key] = (info, data)
        return info

    async def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes,
        delimiter: bytes,
        after_key: bytes,
        after_version: str | None,
        limit: int,
    ) -> VersionListing:
        """See ObjectStore: what there is are null versions."""
        page = await self.list_keys(bucket, prefix=prefix, delimiter=delimiter, start_after=after_key, limit=limit)
        entries = [ListedVersion(info, True) for info in page.entries]
        return VersionListing(entries, page.common_prefixes, page.is_truncated, page.last, "")

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
        """See ObjectStore."""
        await trio.lowlevel.checkpoint()
        _check_version(source_version)
        source, data = self.get(source_bucket, source_key)
        source_conditions.check(source)
        if attributes is None:
            attributes = PutAttributes(
                etag=source.etag,
                owner=source.owner,
                headers=source.headers,
                metadata=source.metadata,
                checksums=source.checksums,
                checksum_type=source.checksum_type,
                part_sizes=source.part_sizes,
                part_numbers=source.part_numbers,
                part_checksums=source.part_checksums,
                sealing=source.sealing,
            )
        return self.put(bucket, key, data, attributes, conditions)

    async def list_keys(
        self, bucket: str, *, prefix: bytes, delimiter: bytes, start_after: bytes, limit: int
    ) -> Listing:
        """See ObjectStore: a sort of everything."""
        await trio.lowlevel.checkpoint()
        objects = self.find(bucket).objects
        names: dict[bytes, ObjectInfo | None] = {}
        for key in sorted(objects):
            if key.startswith(prefix):
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                name = key if at < 0 else key[: at + len(delimiter)]
                if name > start_after:
                    names.setdefault(name, objects[key][0] if at < 0 else None)
        page = list(names.items())[:limit]
        return Listing(
            [info for _, info in page if info is not None],
            [name for name, info in page if info is None],
            len(names) > limit,
            page[-1][0] if page else start_after,
        )


def _check_version(version_id: str | None) -> None:
    if version_id:
        raise NoSuchVersion(version_id)


class SimStore(SimObjects):
    """Multipart uploads, too."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        super().__init__(now_ns)
        self.uploads: dict[str, SimUpload] = {}
        self._serial = 0

    def _find_upload(self, bucket: str, key: bytes, upload_id: str) -> SimUpload:
        self.find(bucket)
        found = self.uploads.get(upload_id)
        if found is None or found.bucket != bucket or found.info.key != key:
            raise NoSuchUpload(upload_id)
        return found

    async def create_upload(
        self,
        bucket: str,
        key: bytes,
        *,
        owner: str,
        headers: dict[str, str],
        metadata: dict[str, str],
        checksum_algorithm: str,
        checksum_type: str,
        grants: Sequence[str] = (),
        sealing: Mapping[str, str] | None = None,
        tags: dict[str, str] | None = None,
        lock: tuple[str, int, bool] = ("", 0, False),
    ) -> str:
        """See Uploads."""
        await trio.lowlevel.checkpoint()
        self.find(bucket)
        self._serial += 1
        upload_id = f"{self._serial:032x}"
        info = UploadInfo(
            key=key,
            upload_id=upload_id,
            owner=owner,
            created_ns=self.now_ns(),
            headers=headers,
            metadata=metadata,
            checksum_algorithm=checksum_algorithm,
            checksum_type=checksum_type,
            sealing=dict(sealing or {}),
        )
        self.uploads[upload_id] = SimUpload(bucket, info, grants=tuple(grants))
        return upload_id

    async def upload(self, bucket: str, key: bytes, upload_id: str) -> UploadInfo:
        """See Uploads."""
        return self._find_upload(bucket, key, upload_id).info

    async def begin_part(self, bucket: str, key: bytes, upload_id: str, number: int) -> SimPartWriter:
        """See Uploads."""
        return SimPartWriter(self, self._find_upload(bucket, key, upload_id), number)

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
        """See Uploads."""
        await trio.lowlevel.checkpoint()
        upload = self._find_upload(bucket, key, upload_id)
        _check_version(source_version)
        source, data = self.get(source_bucket, source_key)
        source_conditions.check(source)
        if source_range is not None:
            data = data[source_range[0] : source_range[1] + 1]
        info = PartInfo(number, len(data), hashlib.md5(data).hexdigest(), self.now_ns(), {})
        upload.parts[number] = (info, data)
        return info

    async def list_parts(
        self, bucket: str, key: bytes, upload_id: str, *, after: int, limit: int
    ) -> tuple[list[PartInfo], bool]:
        """See Uploads."""
        parts = self._find_upload(bucket, key, upload_id).parts
        numbers = sorted(number for number in parts if number > after)
        return [parts[number][0] for number in numbers[:limit]], len(numbers) > limit

    async def list_uploads(
        self, bucket: str, *, prefix: bytes, delimiter: bytes, after_key: bytes, after_upload: str, limit: int
    ) -> UploadListing:
        """See Uploads; without delimiter only."""
        self.find(bucket)
        assert not delimiter
        found = sorted(
            (upload.info for upload in self.uploads.values() if upload.bucket == bucket),
            key=lambda info: (info.key, info.upload_id),
        )
        found = [info for info in found if info.key.startswith(prefix) and _is_behind(info, after_key, after_upload)]
        return UploadListing(found[:limit], [], len(found) > limit)

    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        parts: Sequence[CompletePart],
        *,
        checksums: dict[str, str],
        checksum_type: str,
        conditions: Conditions = NO_CONDITIONS,
        versioning: Versioning = Versioning.OFF,
    ) -> ObjectInfo:
        """See Uploads."""
        await trio.lowlevel.checkpoint()
        upload = self._find_upload(bucket, key, upload_id)
        numbers = [part.number for part in parts]
        if numbers != sorted(set(numbers)):
            raise InvalidPartOrder("order")
        chosen = [upload.parts.get(number) for number in numbers]
        found = [part for part in chosen if part is not None]
        for part, uploaded in zip(parts, chosen, strict=True):
            if uploaded is None or uploaded[0].etag != part.etag:
                raise InvalidPart(str(part.number))
            if any(uploaded[0].checksums.get(name, value) != value for name, value in part.checksums.items()):
                raise InvalidPart(str(part.number))
        if any(info.size < MULTIPART_PART_BYTES_MIN for info, _ in found[:-1]):
            raise PartTooSmall("a part is too small")
        digest = hashlib.md5(b"".join(bytes.fromhex(info.etag) for info, _ in found)).hexdigest()
        attributes = PutAttributes(
            etag=f"{digest}-{len(found)}",
            owner=upload.info.owner,
            headers=upload.info.headers,
            metadata=upload.info.metadata,
            checksums=checksums,
            checksum_type=checksum_type,
            part_sizes=tuple(info.size for info, _ in found),
            part_numbers=tuple(numbers),
            part_checksums=tuple(
                value for info, _ in found for name, value in info.checksums.items() if name in checksums
            ),
            grants=upload.grants,
            sealing=upload.info.sealing,
        )
        info = self.put(bucket, key, b"".join(data for _, data in found), attributes, conditions)
        del self.uploads[upload_id]
        return info

    async def abort_upload(self, bucket: str, key: bytes, upload_id: str) -> None:
        """See Uploads."""
        await trio.lowlevel.checkpoint()
        self._find_upload(bucket, key, upload_id)
        del self.uploads[upload_id]


def _is_behind(info: UploadInfo, after_key: bytes, after_upload: str) -> bool:
    if not after_key or info.key > after_key:
        return True
    return info.key == after_key and bool(after_upload) and info.upload_id > after_upload
