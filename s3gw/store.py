"""What the door needs of the core: a port, so that handlers are tested against a store in memory.

``siltstone.core.object_store.ObjectStore`` is the real one; its documentation holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from siltstone.core.object_types import (
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
from siltstone.types import Buffer


class Writer(Protocol):
    """A body on its way in."""

    async def write(self, buffer: Buffer) -> None:
        """Take more bytes; the caller gives the buffer away."""

    async def abort(self) -> None:
        """Forget everything; may be called again, and after a commit, and then does nothing."""


class ObjectWriter(Writer, Protocol):
    """The body of an object."""

    async def commit(self, attributes: PutAttributes, conditions: Conditions = ...) -> ObjectInfo:
        """Make it the object, atomically; durable on return."""


class PartWriter(Writer, Protocol):
    """The body of a part."""

    async def commit(self, *, etag: str, checksums: dict[str, str]) -> PartInfo:
        """Make it the part of its number; durable on return."""


class ObjectReader(Protocol):
    """One version of an object, readable until it is closed."""

    @property
    def info(self) -> ObjectInfo:
        """What is read."""

    async def read(self, offset: int, size: int) -> bytes:
        """At most 4 MiB; short only at the end."""

    def close(self) -> None:
        """Let go of it."""


class Store(Protocol):
    """Buckets, objects and multipart uploads."""

    async def create_bucket(self, name: str, *, owner: str, documents: Mapping[str, bytes] = ...) -> BucketInfo: ...
    async def bucket_documents(self, name: str) -> tuple[BucketInfo, dict[str, bytes]]: ...
    async def set_bucket_documents(
        self, name: str, documents: Mapping[str, bytes | None], *, expected: tuple[int, int] | None = ...
    ) -> BucketInfo: ...
    async def delete_bucket(self, name: str) -> None: ...
    async def list_buckets(self) -> list[BucketInfo]: ...
    async def bucket(self, name: str) -> BucketInfo: ...
    async def bucket_of_key(self, name: str) -> BucketInfo:
        """The same, perhaps as it was a while ago: for who goes on to ask for something in it, which says whether the
        bucket is still that one."""

    async def begin_put(self, bucket: str, key: bytes, *, size_hint: int | None) -> ObjectWriter: ...
    async def head(self, bucket: str, key: bytes, version_id: str | None = ...) -> ObjectInfo: ...
    async def open(self, bucket: str, key: bytes, version_id: str | None = ...) -> ObjectReader: ...
    async def delete(
        self,
        bucket: str,
        key: bytes,
        conditions: Conditions = ...,
        *,
        versioning: Versioning = ...,
        version_id: str | None = ...,
        owner: str = ...,
        may_bypass: bool = ...,
    ) -> Deleted: ...
    async def edit(self, bucket: str, key: bytes, version_id: str | None, edit: Edit) -> ObjectInfo: ...
    async def copy(
        self,
        source_bucket: str,
        source_key: bytes,
        bucket: str,
        key: bytes,
        attributes: PutAttributes | None,
        conditions: Conditions = ...,
        source_conditions: Conditions = ...,
        *,
        source_version: str | None = ...,
        versioning: Versioning = ...,
    ) -> ObjectInfo: ...
    async def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes,
        delimiter: bytes,
        after_key: bytes,
        after_version: str | None,
        limit: int,
    ) -> VersionListing: ...
    async def list_keys(
        self, bucket: str, *, prefix: bytes, delimiter: bytes, start_after: bytes, limit: int
    ) -> Listing: ...
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
        grants: Sequence[str] = ...,
        sealing: Mapping[str, str] | None = ...,
        tags: dict[str, str] | None = ...,
        lock: tuple[str, int, bool] = ...,
    ) -> str: ...
    async def upload(self, bucket: str, key: bytes, upload_id: str) -> UploadInfo: ...
    async def begin_part(self, bucket: str, key: bytes, upload_id: str, number: int) -> PartWriter: ...
    async def copy_part(
        self,
        source_bucket: str,
        source_key: bytes,
        source_range: tuple[int, int] | None,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        source_conditions: Conditions = ...,
        source_version: str | None = ...,
    ) -> PartInfo: ...
    async def list_parts(
        self, bucket: str, key: bytes, upload_id: str, *, after: int, limit: int
    ) -> tuple[list[PartInfo], bool]: ...
    async def list_uploads(
        self, bucket: str, *, prefix: bytes, delimiter: bytes, after_key: bytes, after_upload: str, limit: int
    ) -> UploadListing: ...
    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        parts: Sequence[CompletePart],
        *,
        checksums: dict[str, str],
        checksum_type: str,
        conditions: Conditions = ...,
        versioning: Versioning = ...,
    ) -> ObjectInfo: ...
    async def abort_upload(self, bucket: str, key: bytes, upload_id: str) -> None: ...
