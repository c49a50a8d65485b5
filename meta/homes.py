"""Where a file counts: in one directory that has a name of it, its *home*, which ``Inode.home`` says.

A file with one name has its home there, and that is all that is kept. Of one with more, a Home record for each
directory says how many of its names (versions of objects included) are in it, so that there is another home to be found
when the last name in this one goes. A file without a name has no home. Neither has one that was made by a program that
did not know of homes, until the volume is opened (meta/usage_count.py): then nothing is kept of it.

The functions change the inode, which the caller puts; its ``nlink`` is what it is after the change.
"""

from __future__ import annotations

from collections.abc import Mapping

from siltstone.meta import keys
from siltstone.meta.records import Inode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino


def gained(transaction: Transaction, ino: Ino, inode: Inode, directory: Ino) -> None:
    """A file has got a name in a directory."""
    if inode.nlink == 1:
        inode.home = directory
    elif inode.home:
        if inode.nlink == 2:
            _set(transaction, ino, Ino(inode.home), 1)
        _add(transaction, ino, directory, 1)


def lost(transaction: Transaction, ino: Ino, inode: Inode, directory: Ino) -> None:
    """A file has lost a name in a directory."""
    if inode.nlink == 0 or not inode.home:
        inode.home = 0
        return
    left = _add(transaction, ino, directory, -1)
    if not left and inode.home == directory:
        inode.home = _first(transaction, ino)
        transaction.may_exceed_quotas = True  # nobody asked for it, and a name can always be taken away
    if inode.nlink == 1:
        transaction.delete(keys.home(ino, Ino(inode.home)))


def moved(transaction: Transaction, ino: Ino, inode: Inode, source: Ino, target: Ino) -> None:
    """A name of a file is in another directory now."""
    if source == target:
        return
    if inode.nlink == 1:
        inode.home = target
    elif inode.home:
        _add(transaction, ino, target, 1)
        if not _add(transaction, ino, source, -1) and inode.home == source:
            inode.home = target


def homes_of(reader: Reader, ino: Ino) -> dict[Ino, int]:
    """How many names a file with more than one has in which directory."""
    records = reader.scan(*keys.prefix_range(keys.homes(ino)))
    return {keys.home_directory(key): keys.decode_length(value) for key, value in records}


def put_homes(transaction: Transaction, ino: Ino, found: Mapping[Ino, int]) -> Ino:
    """Note where all names of a file with more than one are; returns its home."""
    for directory, count in found.items():
        _set(transaction, ino, directory, count)
    return next(iter(found))


def _first(transaction: Transaction, ino: Ino) -> Ino:
    found = homes_of(transaction, ino)
    assert found, f"inode {ino} has names, and no directory has one"
    return next(iter(found))


def _add(transaction: Transaction, ino: Ino, directory: Ino, change: int) -> int:
    """Count names in a directory; returns how many there are."""
    value = transaction.get(keys.home(ino, directory))
    count = change + (0 if value is None else keys.decode_length(value))
    assert count >= 0, f"inode {ino} has lost more names in directory {directory} than it had"
    if count:
        _set(transaction, ino, directory, count)
    else:
        transaction.delete(keys.home(ino, directory))
    return count


def _set(transaction: Transaction, ino: Ino, directory: Ino, count: int) -> None:
    transaction.put(keys.home(ino, directory), keys.encode_length(count))
