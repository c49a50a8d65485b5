"""Extended attributes: namespaces and limits as Linux has them.

``user.*`` is for files and directories; ``trusted.*`` and ``security.*`` are kept as they come (who may set them is the
kernel's business); ``system.*`` (access control lists) and unknown namespaces are not supported.
"""

from __future__ import annotations

from siltstone.errors import (
    AlreadyExists,
    InvalidArgument,
    NameTooLong,
    NoSuchAttribute,
    NotPermitted,
    NotSupported,
    ValueTooLarge,
)
from siltstone.limits import NAME_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from siltstone.meta import keys
from siltstone.meta.inodes import check_writable, get_inode, put_inode
from siltstone.meta.records import Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino

NAMESPACES = (b"user.", b"trusted.", b"security.")


def get_xattr(reader: Reader, ino: Ino, name: bytes) -> bytes:
    """The value of an attribute. Raises NotFound, NoSuchAttribute, NotSupported."""
    inode = get_inode(reader, ino)
    if inode.flags & InodeFlag.HAS_XATTRS:
        value = reader.get(keys.xattr(ino, name))
        if value is not None:
            return value
    if not name.startswith(NAMESPACES):
        raise NotSupported(f"extended attribute {name!r}: only user, trusted and security are supported")
    raise NoSuchAttribute(f"inode {ino} has no extended attribute {name!r}")


def set_xattr(
    transaction: Transaction,
    ino: Ino,
    name: bytes,
    value: bytes,
    *,
    create: bool = False,
    replace: bool = False,
    now_ns: int,
) -> Inode:
    """Set an attribute; with ``create`` it must be new, with ``replace`` it must be there. ctime becomes now.

    Raises NotFound, InvalidArgument, NameTooLong, NotSupported, NotPermitted, ValueTooLarge, AlreadyExists,
    NoSuchAttribute.
    """
    inode = get_inode(transaction, ino)
    _check_settable(ino, inode, name)
    if create and replace:
        raise InvalidArgument("an extended attribute can either be created or replaced")
    if len(value) > XATTR_VALUE_BYTES_MAX:
        raise ValueTooLarge(f"an extended attribute of {len(value)} bytes: at most {XATTR_VALUE_BYTES_MAX}")
    exists = bool(inode.flags & InodeFlag.HAS_XATTRS) and transaction.get(keys.xattr(ino, name)) is not None
    if create and exists:
        raise AlreadyExists(f"inode {ino} has an extended attribute {name!r} already")
    if replace and not exists:
        raise NoSuchAttribute(f"inode {ino} has no extended attribute {name!r}")
    if not exists:
        list_bytes = sum(len(other) + 1 for other in _names(transaction, ino, inode))
        if list_bytes + len(name) + 1 > XATTR_LIST_BYTES_MAX:
            raise ValueTooLarge(f"inode {ino}: the names of all extended attributes pass {XATTR_LIST_BYTES_MAX} bytes")
    transaction.put(keys.xattr(ino, name), value)
    inode.flags |= InodeFlag.HAS_XATTRS
    inode.ctime_ns = now_ns
    put_inode(transaction, ino, inode)
    return inode


def list_xattrs(reader: Reader, ino: Ino) -> list[bytes]:
    """The names of all attributes, in byte order. Raises NotFound."""
    return _names(reader, ino, get_inode(reader, ino))


def remove_xattr(transaction: Transaction, ino: Ino, name: bytes, *, now_ns: int) -> Inode:
    """Remove an attribute; ctime becomes now. Raises NotFound, NoSuchAttribute and what set_xattr says of names."""
    inode = get_inode(transaction, ino)
    _check_settable(ino, inode, name)
    if not inode.flags & InodeFlag.HAS_XATTRS or transaction.get(keys.xattr(ino, name)) is None:
        raise NoSuchAttribute(f"inode {ino} has no extended attribute {name!r}")
    transaction.delete(keys.xattr(ino, name))
    inode.ctime_ns = now_ns
    put_inode(transaction, ino, inode)
    return inode


def _names(reader: Reader, ino: Ino, inode: Inode) -> list[bytes]:
    if not inode.flags & InodeFlag.HAS_XATTRS:
        return []
    return [keys.xattr_name(key) for key, _ in reader.scan(*keys.prefix_range(keys.xattrs(ino)))]


def _check_settable(ino: Ino, inode: Inode, name: bytes) -> None:
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLong(f"the name of an extended attribute has {len(name)} bytes: at most {NAME_BYTES_MAX}")
    if b"\0" in name or name in NAMESPACES:
        raise InvalidArgument(f"{name!r} cannot be the name of an extended attribute")
    if not name.startswith(NAMESPACES):
        raise NotSupported(f"extended attribute {name!r}: only user, trusted and security are supported")
    check_writable(ino, inode)
    if name.startswith(b"user.") and not (inode.is_file or inode.is_directory):
        raise NotPermitted(f"inode {ino} is neither a file nor a directory and cannot have user attributes")
