"""What the object side of the core gives to and takes from the S3 door."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from siltstone.errors import NotFound, PreconditionFailed
from siltstone.meta.records import Inode, Object
from siltstone.types import Ino


class BucketInfo(msgspec.Struct, frozen=True):
    """A bucket: a directory right under the root. ``owner`` is empty for one that the mount made.

    ``ino`` and ``serial`` say together which configuration it has: the serial grows with each change of one of its
    documents, and is 0 where there never was one. No other bucket ever has the inode number.
    """

    name: str
    created_ns: int
    owner: str
    ino: Ino = Ino(0)
    serial: int = 0


NO_DOCUMENTS: Mapping[str, bytes] = MappingProxyType({})
"""Of a bucket without a configuration."""


class Versioning(enum.Enum):
    """Whether what is overwritten or deleted in a bucket stays as a version."""

    OFF = "off"
    """Never turned on."""
    ON = "on"
    SUSPENDED = "suspended"
    """It was on: versions stay, and what comes is the null version, of which there is one."""


class Deleted(msgspec.Struct, frozen=True, array_like=True):
    """What a delete did. ``was_there``: the key was an object, the version existed. ``version_id`` (empty: the null
    version): of the version that was deleted, or of the delete marker that was made. ``is_marker``: it is one."""

    was_there: bool
    version_id: str = ""
    is_marker: bool = False


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """A change of what is kept with a version; None leaves that as it is. ``retention``: mode (empty: none), and until
    when. ``may_bypass``: the sender may shorten one of the mode GOVERNANCE."""

    tags: dict[str, str] | None = None
    grants: tuple[str, ...] | None = None
    retention: tuple[str, int] | None = None
    legal_hold: bool | None = None
    may_bypass: bool = False

    @property
    def is_of_lock(self) -> bool:
        """Whether it changes a lock."""
        return self.retention is not None or self.legal_hold is not None


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An object as HEAD shows it. ``etag`` is without quotes; one that the mount wrote is "<inode>-<version>" in hex:
    no client takes a value with a dash for an MD5, and every change of the data changes it."""

    key: bytes
    ino: Ino
    size: int
    modified_ns: int
    etag: str
    owner: str = ""
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    checksums: dict[str, str] = {}
    checksum_type: str = ""
    part_sizes: tuple[int, ...] = ()
    part_numbers: tuple[int, ...] = ()
    part_checksums: tuple[str, ...] = ()
    """Of the algorithm of ``checksums``, in base64, beside ``part_numbers``; empty where one of them has none."""
    grants: tuple[str, ...] = ()
    sealing: dict[str, str] = {}
    version_id: str = ""
    """Empty: the null version."""
    tags: dict[str, str] = {}
    lock_mode: str = ""
    lock_until_ns: int = 0
    legal_hold: bool = False


def object_info(key: bytes, ino: Ino, inode: Inode, record: Object | None) -> ObjectInfo:
    """The object that an inode is, with or without an Object record."""
    size = 0 if inode.is_directory else inode.size
    own_etag = f"{ino:x}-{inode.version:x}"
    if record is None:
        return ObjectInfo(key=key, ino=ino, size=size, modified_ns=inode.mtime_ns, etag=own_etag)
    return ObjectInfo(
        key=key,
        ino=ino,
        size=size,
        modified_ns=inode.mtime_ns,
        etag=record.etag or own_etag,
        owner=record.owner,
        headers=record.headers,
        metadata=record.metadata,
        checksums=record.checksums,
        checksum_type=record.checksum_type,
        part_sizes=tuple(record.part_sizes),
        part_numbers=tuple(record.part_numbers),
        part_checksums=tuple(record.part_checksums),
        grants=tuple(record.grants),
        sealing=record.sealing,
        version_id=record.version_id,
        tags=record.tags,
        lock_mode=record.lock_mode,
        lock_until_ns=record.lock_until_ns,
        legal_hold=record.legal_hold,
    )


class PutAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored with an object besides its bytes."""

    etag: str
    owner: str = ""
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    checksums: dict[str, str] = {}
    checksum_type: str = ""
    part_sizes: tuple[int, ...] = ()
    part_numbers: tuple[int, ...] = ()
    part_checksums: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    sealing: dict[str, str] = {}
    versioning: Versioning = Versioning.OFF
    """Of the bucket, as whoever sends this knows it."""
    tags: dict[str, str] = {}
    lock_mode: str = ""
    lock_until_ns: int = 0
    legal_hold: bool = False


def object_record(attributes: PutAttributes) -> Object:
    """The record that keeps them."""
    return Object(
        attributes.etag,
        attributes.owner,
        dict(attributes.headers),
        dict(attributes.metadata),
        dict(attributes.checksums),
        attributes.checksum_type,
        list(attributes.part_sizes),
        list(attributes.part_numbers),
        list(attributes.grants),
        dict(attributes.sealing),
        "",
        attributes.tags,
        attributes.lock_mode,
        attributes.lock_until_ns,
        attributes.legal_hold,
        list(attributes.part_checksums),
    )


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """A version as it was when it was decided that it is to expire; it goes only if it still is. ``ino`` 0: a delete
    marker. ``is_current``: it is the key's newest, and of a delete marker also that there is nothing else. ``newer``:
    so many newer versions that are not current there must be. ``bucket``, ``serial``: of which bucket's configuration
    the rule is, as of which change."""

    ino: Ino
    modified_ns: int
    etag: str
    tags: dict[str, str]
    is_current: bool
    newer: int = 0
    bucket: Ino = Ino(0)
    serial: int = 0

    def is_still(self, found: ObjectInfo) -> bool:
        """Whether an object is that version, unchanged."""
        now = (found.ino, found.modified_ns, found.etag, found.tags)
        return now == (self.ino, self.modified_ns, self.etag, self.tags)


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold of the object that a write replaces, or a copy reads. ETags without quotes, or "*"."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since_ns: int | None = None
    if_unmodified_since_ns: int | None = None
    if_size: int | None = None
    if_modified_at_ns: int | None = None
    """Its time to the second."""
    expiry: Expiry | None = None
    """Only of a delete."""

    def check_deletion(self, found: ObjectInfo | None, *, is_marked: bool) -> None:
        """The same before a delete: what is not there may be deleted under any condition, what is behind a delete
        marker (``is_marked``) under none but "*"."""
        if found is not None:
            self.check(found)
        elif is_marked and not (self == NO_CONDITIONS or self.if_match == "*"):
            raise PreconditionFailed("the object is deleted")

    def check(self, found: ObjectInfo | None) -> None:
        """Raise PreconditionFailed, or NotFound for If-Match on a key that is not there; otherwise do nothing.

        An ETag condition that is given beside a date condition of its kind decides alone (RFC 9110, 13.2.2).
        """
        if self.if_match is not None:
            if found is None:
                raise NotFound("If-Match was given, and there is no such key")
            if not _matches(self.if_match, found.etag):
                raise PreconditionFailed("If-Match")
        elif found is not None and _is_after(found.modified_ns, self.if_unmodified_since_ns, otherwise=False):
            raise PreconditionFailed("If-Unmodified-Since")
        if self.if_none_match is not None:
            if found is not None and _matches(self.if_none_match, found.etag):
                raise PreconditionFailed("If-None-Match")
        elif found is not None and not _is_after(found.modified_ns, self.if_modified_since_ns, otherwise=True):
            raise PreconditionFailed("If-Modified-Since")
        if found is not None and self.if_size is not None and found.size != self.if_size:
            raise PreconditionFailed("x-amz-if-match-size")
        at_ns = self.if_modified_at_ns
        if found is not None and at_ns is not None and found.modified_ns // 10**9 != at_ns // 10**9:
            raise PreconditionFailed("x-amz-if-match-last-modified-time")


def _matches(condition: str, etag: str) -> bool:
    return condition == "*" or etag in (part.strip().strip('"') for part in condition.split(","))


def _is_after(modified_ns: int, date_ns: int | None, *, otherwise: bool) -> bool:
    """Whether a time is after an HTTP date, which has no fractions; ``otherwise`` when no date was given."""
    return otherwise if date_ns is None else modified_ns // 1_000_000_000 > date_ns // 1_000_000_000


NO_CONDITIONS = Conditions()


class Listing(msgspec.Struct, frozen=True):
    """A page of keys in byte order. ``last`` is what to pass as ``start_after`` for the next one."""

    entries: list[ObjectInfo]
    common_prefixes: list[bytes]
    is_truncated: bool
    last: bytes


class ListedVersion(msgspec.Struct, frozen=True):
    """A version in a listing; ``is_marker``: a delete marker, of which ``info`` has key, version, owner and time.
    ``replaced_ns``: of what is not the latest, when its successor was made."""

    info: ObjectInfo
    is_latest: bool
    is_marker: bool = False
    replaced_ns: int = 0


class VersionListing(msgspec.Struct, frozen=True):
    """A page of versions, by key, newest first. ``last_key`` and ``last_version`` (None: behind all of the key) are
    what to pass for the next one."""

    entries: list[ListedVersion]
    common_prefixes: list[bytes]
    is_truncated: bool
    last_key: bytes
    last_version: str | None


class UploadInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A multipart upload that is under way."""

    key: bytes
    upload_id: str
    owner: str
    created_ns: int
    headers: dict[str, str]
    metadata: dict[str, str]
    checksum_algorithm: str
    checksum_type: str
    sealing: dict[str, str] = {}
    tags: dict[str, str] = {}
    lock_mode: str = ""
    lock_until_ns: int = 0
    legal_hold: bool = False


class PartInfo(msgspec.Struct, frozen=True):
    """An uploaded part."""

    number: int
    size: int
    etag: str
    modified_ns: int
    checksums: dict[str, str]


class UploadListing(msgspec.Struct, frozen=True):
    """A page of uploads, by key and then by id."""

    uploads: list[UploadInfo]
    common_prefixes: list[bytes]
    is_truncated: bool


class CompletePart(msgspec.Struct, frozen=True):
    """What a completion says of a part."""

    number: int
    etag: str
    checksums: dict[str, str] = {}
