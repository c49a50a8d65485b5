"""The values of the metadata store: what each record holds, and how it becomes bytes.

Every record is a msgspec struct, array-like, with its version as the tag (first element). Fields are only ever
appended, with a default, so that an older record reads as a newer one. docs/formats/metadata.md lists them.
"""

from __future__ import annotations

import enum
import stat
from typing import Any, TypeVar

import msgspec

from siltstone.engine.stripe.layout import Slab, Stripe

R = TypeVar("R")


class Inode(msgspec.Struct, array_like=True, tag=1, kw_only=False):
    """One inode. Times are nanoseconds since the epoch.

    ``size``: bytes as stat shows it. ``allocated_bytes``: derived, the sum of the lengths of its extents (fsck
    recomputes it). ``version`` grows with every change of the data. ``parent`` and ``name``: the directory that holds
    it and the name that it has there (the root holds itself, without a name); of several names the one that it got
    last, and 0 and empty once that is gone while others stay; of an inode without names the last that it had.
    ``flags``: see InodeFlag. ``nlink`` of a directory is 2 plus its subdirectories.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    allocated_bytes: int = 0
    version: int = 0
    parent: int = 0
    flags: int = 0
    target: bytes = b""
    """A symbolic link's target."""
    name: bytes = b""
    """Empty also in what programs wrote that did not know it."""
    home: int = 0
    """Of anything but a directory: the directory that it counts in (meta/homes.py); 0 where there is none."""

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)


class InodeFlag(enum.IntEnum):
    """Bits of ``Inode.flags``. No IntFlag: its operators take 0.5 us, eight times as long, on every request's path."""

    IMPLICIT = 1
    """A directory that an S3 key made on its way; it goes when its last entry goes."""
    HAS_OBJECT = 2
    """An Object record exists; a change of the data must drop its ETag and checksums."""
    HAS_XATTRS = 4
    """Xattr records exist (or existed)."""
    HAS_LOCK = 8
    """The Object record has a retention or a legal hold (or had one): look before changing the data."""
    SNAPSHOT = 64
    """Part of a snapshot of a tree, or the directory that holds snapshots: nothing of it is ever changed."""
    HAS_SNAPSHOTS = 128
    """A directory whose entry ``.snapshots`` holds snapshots of it, and is shown in no listing."""


class Dentry(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A name in a directory: the inode, and its file type (``stat.S_IFMT`` bits) so that a listing need not open it."""

    ino: int
    kind: int


class Place(enum.IntEnum):
    """Where an extent's bytes are."""

    INLINE = 0
    LOG = 1
    STRIPE = 2
    REMOTE = 3


class Extent(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A run of ``length`` bytes of a file at one place. A hole has no record.

    INLINE: ``blob`` is the bytes. LOG: the payload of ``span`` bytes that was logged together starts at LSN
    ``address``; the extent is the part from ``skip`` on; ``blob`` holds the xxh3-64 of every 16 KiB of the payload.
    STRIPE: ``address`` is the stripe id, ``skip`` the offset in the stripe's data; checksums are the stripe's.
    REMOTE: the shard ``address`` still has them (core/borrowing.py): the bytes from ``skip`` on of its inode ``span``.
    """

    length: int
    place: int
    address: int = 0
    skip: int = 0
    span: int = 0
    blob: bytes = b""


class Fill(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """How to redo the filling of a stripe: LOG extents whose bytes belong in it, and where in its data each starts.

    Part of the batch that gives the stripe its new parity and checksums; gone when the bytes are in place. Until then
    the log keeps the payloads.
    """

    pieces: list[tuple[int, Extent]]


class Trashed(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """An inode in the trash. ``size``: its allocated_bytes when it came there. ``is_cut``: it is what a file was before
    it was cut shorter, and no file that was removed."""

    size: int
    is_cut: bool = False


class Object(msgspec.Struct, array_like=True, tag=1):
    """What S3 knows of a file beyond its inode. ``etag`` is without quotes, empty after a change through the mount.

    ``headers``: the standard headers stored with the object (lower case: content-type, cache-control, ...).
    ``metadata``: x-amz-meta-*, names without the prefix, lower case. ``checksums``: algorithm name -> base64 value.
    ``part_sizes``: bytes of each part of a multipart object, empty otherwise. ``part_numbers`` runs beside it.
    ``grants``: who may do what with it, as s3gw/acl.py writes it; empty: its owner everything. ``sealing``: how the
    bytes are encrypted, as s3gw/encryption.py writes it; empty: not.
    """

    etag: str
    owner: str = ""
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    checksums: dict[str, str] = {}
    checksum_type: str = ""
    part_sizes: list[int] = []
    part_numbers: list[int] = []
    grants: list[str] = []
    sealing: dict[str, str] = {}
    version_id: str = ""
    """Empty: the null version, as every object of a bucket without versions is."""
    tags: dict[str, str] = {}
    lock_mode: str = ""
    """GOVERNANCE or COMPLIANCE, until ``lock_until_ns``; empty without a retention."""
    lock_until_ns: int = 0
    legal_hold: bool = False
    part_checksums: list[str] = []
    """Beside ``part_numbers``, of the algorithm of ``checksums``; empty where one of the parts has none."""


class Version(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A version of an object that is not the current one. ``ino`` 0: a delete marker, which ``owner`` made then."""

    ino: int
    version_id: str
    modified_ns: int
    owner: str = ""


class Bucket(msgspec.Struct, array_like=True, tag=1):
    """What S3 knows of a top-level directory beyond its inode.

    ``serial``: how often a document of its configuration was changed (meta/buckets.py).
    """

    owner: str
    created_ns: int
    region: str = ""
    serial: int = 0


class TreeSnapshot(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What is known of a snapshot of a tree beyond its copies (meta/tree_snapshots.py).

    ``lsn``: where the log was at its moment. ``entries``: how many files, directories and all else it has; ``bytes``:
    of its files, most of which it shares.
    """

    lsn: int
    created_ns: int
    entries: int
    bytes: int


class Upload(msgspec.Struct, array_like=True, tag=1):
    """A multipart upload that is under way. Its key is in the record's key."""

    owner: str
    created_ns: int
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}
    checksum_algorithm: str = ""
    checksum_type: str = ""
    finished: bool = False
    """Completed or aborted: what is left of it is being removed in steps, and no request sees it any more."""
    grants: list[str] = []
    sealing: dict[str, str] = {}
    tags: dict[str, str] = {}
    lock_mode: str = ""
    lock_until_ns: int = 0
    legal_hold: bool = False
    """All of the object that is to be, from ``grants`` on."""


class Part(msgspec.Struct, array_like=True, tag=1):
    """An uploaded part: its bytes are the extents of an anonymous inode."""

    ino: int
    size: int
    etag: str
    modified_ns: int
    checksums: dict[str, str] = {}


class Counters(msgspec.Struct, array_like=True, tag=1):
    """Totals of one partition; derived (fsck recomputes them), merged as deltas.

    ``inodes``: all inode records, orphans' included. ``bytes``: sum of their allocated_bytes. ``serial``: the highest
    inode serial ever handed out; only grows.
    """

    inodes: int = 0
    bytes: int = 0
    serial: int = 0


class Usage(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What is in a directory and below it; derived (fsck recomputes it). ``bytes``: of regular files, by their size.
    ``files``: everything but directories."""

    bytes: int = 0
    files: int = 0
    directories: int = 0


class Quota(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The limits of a directory tree; 0 is none. ``files`` counts directories too. The others are of a second."""

    bytes: int = 0
    files: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    operations: int = 0


class ScrubTally(msgspec.Struct, array_like=True, tag=1):
    """What a pass of scrubbing did on one disk. A unit that is wrong counts once, with all its wrong blocks."""

    disk_id: int
    units: int = 0
    read_bytes: int = 0
    mended_blocks: int = 0
    unmended_blocks: int = 0
    unreadable_units: int = 0
    misplaced_units: int = 0
    recreated_files: int = 0
    mended_log_bytes: int = 0
    unmended_log_bytes: int = 0
    mended_superblocks: int = 0
    unmended_superblocks: int = 0


class ScrubRecord(msgspec.Struct, array_like=True, tag=1):
    """The last pass of scrubbing, or the one under way (``ended_ns`` 0), which goes on at the stripe ``cursor``.

    Times are nanoseconds since the epoch. ``lost``: sentences on what cannot be read with the disks that are up, the
    first of them in full; ``lost_count`` counts all.
    """

    started_ns: int
    ended_ns: int = 0
    cursor: int = 0
    tallies: list[ScrubTally] = []
    lost: list[str] = []
    lost_count: int = 0


class AwayRecord(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Disks that are away, and since when, as pairs of disk id and nanoseconds since the epoch.

    Derived from what the disks answer; one that is missing or old changes when a disk is rebuilt, and nothing else.
    """

    disks: list[tuple[int, int]]


_encoder = msgspec.msgpack.Encoder()

encode = _encoder.encode
"""Any record to bytes."""


def _decoder(record: type[R]) -> Any:
    return msgspec.msgpack.Decoder(record)


_decoders: dict[type[Any], Any] = {
    record: _decoder(record)
    for record in (
        Inode,
        Dentry,
        Extent,
        Object,
        Version,
        Bucket,
        TreeSnapshot,
        Upload,
        Part,
        Counters,
        Usage,
        Quota,
        Slab,
        Stripe,
        ScrubRecord,
        Fill,
        AwayRecord,
        Trashed,
    )
}

decode_inode = msgspec.msgpack.Decoder(Inode).decode
decode_dentry = msgspec.msgpack.Decoder(Dentry).decode
decode_extent = msgspec.msgpack.Decoder(Extent).decode


def decode(record: type[R], value: bytes) -> R:
    """Bytes to a record of the given type. Raises msgspec.DecodeError / ValidationError when they are not one."""
    decoded: R = _decoders[record].decode(value)
    return decoded


def file_kind(mode: int) -> int:
    """The file type bits of a mode, as a Dentry stores them."""
    return stat.S_IFMT(mode)
