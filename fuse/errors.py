"""The one table from Siltstone's errors to errno, and the wrapper that keeps a failing handler from ending the mount.

pyfuse3 answers a request only when its handler returns or raises FUSEError; any other exception ends ``pyfuse3.main``
and with it the mount. So every handler is wrapped by ``answered``.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from siltstone import errors

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("siltstone.fuse")

ERRNO: dict[type[errors.SiltstoneError], int] = {
    # The world does not answer, or bytes are damaged: nothing that the caller did.
    errors.DiskError: errno.EIO,
    errors.DiskMissing: errno.EIO,
    errors.DiskHung: errno.EIO,
    errors.DiskFull: errno.ENOSPC,
    errors.FileMissing: errno.EIO,
    errors.TooFewDisks: errno.EIO,
    errors.VolumeBusy: errno.EBUSY,
    errors.VolumeClosed: errno.EIO,
    errors.Conflict: errno.EAGAIN,
    errors.BucketChanged: errno.EAGAIN,
    errors.ObjectChanged: errno.EAGAIN,
    errors.LogDamaged: errno.EIO,
    errors.FormatInvalid: errno.EIO,
    errors.StripeUnreadable: errno.EIO,
    # The request breaks a rule.
    errors.ConfigInvalid: errno.EINVAL,
    errors.ForeignDisk: errno.EINVAL,
    errors.InvalidArgument: errno.EINVAL,
    errors.NotFound: errno.ENOENT,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.DirectoryNotEmpty: errno.ENOTEMPTY,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.FileTooLarge: errno.EFBIG,
    errors.TooManyLinks: errno.EMLINK,
    errors.NotPermitted: errno.EPERM,
    errors.ReadOnly: errno.EROFS,
    errors.AccessDenied: errno.EACCES,
    errors.NoSuchAttribute: errno.ENODATA,
    errors.ValueTooLarge: errno.E2BIG,
    errors.NotSupported: errno.ENOTSUP,
    errors.NoSpace: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    # Only S3 makes requests that end so; a file operation that meets one has asked for something impossible.
    errors.PreconditionFailed: errno.EINVAL,
    errors.OutsideWindow: errno.EINVAL,
    errors.NoSuchBucket: errno.ENOENT,
    errors.NoSuchUpload: errno.ENOENT,
    errors.NoSuchVersion: errno.ENOENT,
    errors.DeletedObject: errno.ENOENT,
    errors.IsDeleteMarker: errno.EINVAL,
    errors.InvalidPart: errno.EINVAL,
    errors.InvalidPartOrder: errno.EINVAL,
    errors.PartTooSmall: errno.EINVAL,
    # What a subclass that nobody has entered here falls back to.
    errors.Refused: errno.EINVAL,
    errors.SiltstoneError: errno.EIO,
}


def errno_of(error: errors.SiltstoneError) -> int:
    """The errno of an error: that of its class, or of the nearest class above it that is in the table."""
    number = ERRNO.get(type(error))
    if number is not None:
        return number
    return next(ERRNO[base] for base in type(error).__mro__ if base in ERRNO)


def answered(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Wrap the handler of a request about a name: every error becomes an errno.

    What the world or damaged bytes cause is logged in one line, what nobody expects with its traceback (and EIO). A
    request that breaks a rule is an ordinary answer and leaves no trace.
    """
    return _wrapped(handler, errno.ENOENT)


def answered_of_inode(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same for a request about an inode that the kernel has looked up before: that it is gone is ESTALE.

    Linux then walks the path once more and asks for what is there now: a reader whose file was replaced through S3
    between lookup and open gets the new one instead of ENOENT.
    """
    return _wrapped(handler, errno.ESTALE)


def _wrapped(handler: Callable[P, Coroutine[Any, Any, R]], missing: int) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except errors.NotFound:
            raise FUSEError(missing) from None
        except errors.Refused as error:
            raise FUSEError(errno_of(error)) from None
        except errors.SiltstoneError as error:
            logger.error("%s failed: %s", handler.__name__, error)
            raise FUSEError(errno_of(error)) from None
        except FUSEError:
            raise
        except Exception:
            logger.exception("%s failed unexpectedly; the caller gets EIO", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return wrapper
