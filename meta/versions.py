"""Versions of an object that are not the current one, and delete markers: records beside the entries of a directory.

A version counts as a name of its inode (``nlink``), so its bytes live as long as the record. The current version of an
object has no record here: it is the entry. Newer records sort first.
"""

from __future__ import annotations

from collections.abc import Iterator

from siltstone.meta import keys
from siltstone.meta.records import Version, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino

ID_DIGITS = 32
"""A version id is two numbers of 16 hex digits: its place in the order, and the inode that it was given with."""


def version_id(order: int, ino: Ino) -> str:
    """The id of a version."""
    return f"{order:016x}{ino:016x}"


def order_of(identifier: str) -> int | None:
    """The place in the order that an id names; None for what is no id."""
    if len(identifier) != ID_DIGITS or not all(digit in "0123456789abcdef" for digit in identifier):
        return None
    order = int(identifier[:16], 16)
    return order if order < keys.ORDER_MAX else None


def all_of(
    reader: Reader, directory: Ino, name: bytes, *, below: int = keys.ORDER_MAX
) -> Iterator[tuple[int, Version]]:
    """The versions of a name with their places in the order, newest first, from behind the place ``below`` on."""
    start = keys.version(directory, name, below - 1) if below else keys.version(directory, name, 0) + b"\0"
    for key, value in reader.scan(start, keys.versions_end(directory, name)):
        yield keys.version_order(key), decode(Version, value)


def newest(reader: Reader, directory: Ino, name: bytes) -> tuple[int, Version] | None:
    """The newest version of a name that is not the current one."""
    return next(all_of(reader, directory, name), None)


def find(reader: Reader, directory: Ino, name: bytes, identifier: str) -> tuple[int, Version] | None:
    """The version of a name with an id; the empty one is the null version's."""
    order = order_of(identifier) if identifier else null_order(reader, directory, name)
    if order is None:
        return None
    value = reader.get(keys.version(directory, name, order))
    record = None if value is None else decode(Version, value)
    return None if record is None or record.version_id != identifier else (order, record)


def null_order(reader: Reader, directory: Ino, name: bytes) -> int | None:
    """The place of the null version, if it is not the current one."""
    value = reader.get(keys.null_version(directory, name))
    return None if value is None else int.from_bytes(value, "big")


def put(transaction: Transaction, directory: Ino, name: bytes, order: int, record: Version) -> None:
    """Add a version. There must be no null version yet if it is one."""
    key = keys.version(directory, name, order)
    assert transaction.get(key) is None, f"two versions of {name!r} have the place {order}"
    transaction.put(key, encode(record))
    if not record.version_id:
        assert null_order(transaction, directory, name) is None, f"{name!r} has two null versions"
        transaction.put(keys.null_version(directory, name), order.to_bytes(8, "big"))


def remove(transaction: Transaction, directory: Ino, name: bytes, order: int, record: Version) -> None:
    """Take a version out; its inode still counts it."""
    transaction.delete(keys.version(directory, name, order))
    if not record.version_id:
        transaction.delete(keys.null_version(directory, name))


def next_name(reader: Reader, directory: Ino, first: bytes) -> bytes | None:
    """The first name from ``first`` on that has versions in a directory; None for none."""
    start = keys.versions(directory) + first
    for key, _ in reader.scan(start, keys.prefix_range(keys.versions(directory))[1]):
        return keys.version_name(key)
    return None


def have_any(reader: Reader, directory: Ino) -> bool:
    """Whether a directory has versions of anything."""
    return next_name(reader, directory, b"") is not None
