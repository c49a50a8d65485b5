"""Every error that Siltstone raises on purpose: a tree of three kinds.

``Unavailable``: the world does not answer now (disk gone, volume busy). ``Corrupt``: bytes are not what was written.
``Refused``: the request breaks a rule; nothing was changed. Messages are for the person who reads them: what failed,
where, what to do. Front-ends have one table each from these classes to errno or S3 code.
"""

from __future__ import annotations

from siltstone.types import DiskId, Lsn


class SiltstoneError(Exception):
    """Base of all."""


# --- the world does not answer -------------------------------------------------------------------------------------


class Unavailable(SiltstoneError):
    """Something outside is missing or does not answer; the same request may succeed later."""


class DiskError(Unavailable):
    """One disk failed one operation. ``cause`` is the text of the operating system's error."""

    def __init__(self, disk_id: DiskId, operation: str, name: str, cause: str) -> None:
        super().__init__(f"disk {disk_id}: {operation} {name}: {cause}")
        self.disk_id = disk_id
        self.operation = operation
        self.name = name
        self.cause = cause


class DiskMissing(DiskError):
    """The whole disk is gone (directory vanished, superblock unreadable, taken offline)."""


class DiskHung(DiskMissing):
    """The disk gave no answer within its time limit. What it was asked for may still happen, until a probe succeeds."""


class DiskFull(DiskError):
    """The disk has no room for the write."""


class FileMissing(DiskError):
    """The disk is there, the named file on it is not."""


class TooFewDisks(Unavailable):
    """Fewer healthy disks than the operation needs to keep its promise."""


class VolumeBusy(Unavailable):
    """Another process owns the volume; ``pid`` is its process id, 0 when unknown."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class VolumeClosed(Unavailable):
    """The volume is shutting down or has stopped after a fatal error."""


class ObjectChanged(Unavailable):
    """The bytes of an object were changed in place while it was read: what is still to come is not what was opened."""


class Conflict(Unavailable):
    """A transaction read what another has changed before it was committed; nothing was written, run it again.

    Unavailable, not Refused: no rule is broken, and the same request may succeed as soon as it is repeated.
    """


# --- bytes are not what was written --------------------------------------------------------------------------------


class Corrupt(SiltstoneError):
    """Stored bytes fail their checksum and redundancy cannot mend them."""


class LogDamaged(Corrupt):
    """A frame before the durable LSN is readable on no replica."""

    def __init__(self, lsn: Lsn, message: str) -> None:
        super().__init__(message)
        self.lsn = lsn


class FormatInvalid(Corrupt):
    """Bytes do not parse as what they should be (superblock, frame, record)."""


class StripeUnreadable(Corrupt):
    """Fewer than k units of a stripe are readable and match their checksums."""


# --- the request breaks a rule -------------------------------------------------------------------------------------


class BucketChanged(Conflict):
    """What was known of a bucket, and decided by, is no longer so; nothing was done, decide again."""


class Refused(SiltstoneError):
    """The request is not allowed or not possible as asked; nothing was changed."""


class ConfigInvalid(Refused):
    """A setting, option or configuration file is wrong."""


class ForeignDisk(ConfigInvalid):
    """A disk's superblock says that it belongs to another volume or another slot."""


class InvalidArgument(Refused):
    """An argument is out of its range or malformed (EINVAL)."""


class OutsideWindow(Refused):
    """What is asked for lies before what is still kept."""


class NotFound(Refused):
    """No such name or inode (ENOENT)."""


class AlreadyExists(Refused):
    """The name is taken (EEXIST)."""


class NotADirectory(Refused):
    """A path element is not a directory (ENOTDIR)."""


class IsADirectory(Refused):
    """The operation wants something else than a directory (EISDIR)."""


class DirectoryNotEmpty(Refused):
    """The directory has entries (ENOTEMPTY)."""


class NameTooLong(Refused):
    """A name is longer than 255 bytes, or a path or key longer than its limit (ENAMETOOLONG)."""


class FileTooLarge(Refused):
    """The file would pass the largest size (EFBIG)."""


class TooManyLinks(Refused):
    """The inode has the largest link count (EMLINK)."""


class NotPermitted(Refused):
    """The operation is not permitted on this kind of inode (EPERM)."""


class ReadOnly(Refused):
    """What is asked to change is part of a snapshot (EROFS)."""


class AccessDenied(Refused):
    """The caller lacks the permission (EACCES)."""


class NoSuchAttribute(Refused):
    """The inode has no such extended attribute (ENODATA)."""


class ValueTooLarge(Refused):
    """An extended attribute's value or list is over the limit (E2BIG / ERANGE)."""


class NotSupported(Refused):
    """The operation is not supported (ENOTSUP)."""


class NoSpace(Refused):
    """The pool is full up to its reserve (ENOSPC)."""


class QuotaExceeded(Refused):
    """A quota does not allow it (EDQUOT)."""


class PreconditionFailed(Refused):
    """A condition of the request does not hold (S3 If-Match and its kin); the object is unchanged."""


class DeletedObject(NotFound):
    """The newest version of the key is a delete marker; the text is its version id, empty for the null version."""


class NoSuchVersion(NotFound):
    """The object has no such version."""


class IsDeleteMarker(Refused):
    """The version is a delete marker, which has no bytes."""


class NoSuchBucket(NotFound):
    """The bucket does not exist."""


class NoSuchUpload(NotFound):
    """The multipart upload does not exist (any more)."""


class InvalidPart(Refused):
    """A part named in a completion was not uploaded, or its ETag differs."""


class InvalidPartOrder(Refused):
    """The parts of a completion are not in ascending order."""


class PartTooSmall(Refused):
    """A part other than the last is smaller than 5 MiB."""
