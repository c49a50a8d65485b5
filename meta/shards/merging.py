"""What a transaction that spans shards needs to find unchanged in a record, and what it may change beside others.

A directory's times and counts change with every entry, and a partition's counters with every inode. If whoever read
such a record had to find it unchanged to the bit, no transaction that takes longer than another's would ever commit. So
the fields that only add up (counts) or only grow (times) are merged, and the rest is the record's *identity*, which
must hold. Records of other kinds are their own identity.
"""

from __future__ import annotations

from siltstone.meta import keys
from siltstone.meta.records import Counters, Inode, decode, decode_inode, encode

_INODE = ord(keys.INODE)
_COUNTERS = ord(keys.COUNTERS)
_PARTITION_KEY = ord("p")


def is_mergeable(key: bytes) -> bool:
    """Whether records under this key have fields that are merged."""
    return key[0] == _PARTITION_KEY and key[2] in (_INODE, _COUNTERS)


def identity(key: bytes, value: bytes | None) -> object:
    """What must hold of a record from when it is read to when the transaction commits; None when there is none.

    Of an inode: all but its times, counts, size and version; of a directory whether it has a name, and whether it is
    empty; of anything else how many names it has, since where these are is noted (meta/homes.py). Its place is part of
    it: who changes anything else must not put an old one back.
    Of counters nothing: numbers of new inodes are reserved when they are read.
    """
    if key[0] != _PARTITION_KEY:
        return value
    kind = key[2]
    if kind == _COUNTERS:
        return ()
    if kind != _INODE or value is None:
        return value
    inode = decode_inode(value)
    is_empty = inode.is_directory and inode.size == 0
    names = inode.nlink > 0 if inode.is_directory else inode.nlink
    place = (inode.parent, inode.name, inode.home)
    return (inode.mode, inode.uid, inode.gid, inode.rdev, place, inode.flags, inode.target, names, is_empty)


def is_taken_from(key: bytes, old: bytes | None, new: bytes | None) -> bool:
    """Whether a change takes something off a count of an inode. Two of these could together take its last name or its
    last entry, and neither would know: so they do not merge."""
    if old is None or new is None or not is_mergeable(key) or key[2] == _COUNTERS:
        return False
    before, after = decode_inode(old), decode_inode(new)
    return after.nlink < before.nlink or after.size < before.size


def counts(value: bytes | None) -> tuple[int, int] | None:
    """The counts of an inode that decide whether it has a name, or entries."""
    if value is None:
        return None
    inode = decode_inode(value)
    return inode.nlink, inode.size if inode.is_directory else 0


def merged(key: bytes, current: bytes | None, old: bytes | None, new: bytes | None) -> bytes | None:
    """The record that stands after a change from ``old`` to ``new``, where it is ``current`` by now.

    ``current`` and ``old`` have the same identity. ``old`` may be None where nothing is merged.
    """
    if new is None or not is_mergeable(key) or (old is None and current is None):
        return new
    if key[2] == _COUNTERS:
        return _merged_counters(current, old, new)
    assert current is not None and old is not None, f"{key!r} has lost its inode under a lock"
    return _merged_inode(current, old, new)


def _merged_inode(current: bytes, old: bytes, new: bytes) -> bytes:
    now, before, after = decode_inode(current), decode_inode(old), decode_inode(new)
    result: Inode = after
    result.nlink = now.nlink + after.nlink - before.nlink
    result.size = now.size + after.size - before.size
    result.allocated_bytes = now.allocated_bytes + after.allocated_bytes - before.allocated_bytes
    result.version = now.version + after.version - before.version
    for name in ("atime_ns", "mtime_ns", "ctime_ns"):
        current_ns, changed_ns = getattr(now, name), getattr(after, name)
        is_changed = changed_ns != getattr(before, name)
        setattr(result, name, max(current_ns, changed_ns) if is_changed else current_ns)
    return encode(result)


def _merged_counters(current: bytes | None, old: bytes | None, new: bytes) -> bytes:
    now = Counters() if current is None else decode(Counters, current)
    before = Counters() if old is None else decode(Counters, old)
    after = decode(Counters, new)
    now.inodes += after.inodes - before.inodes
    now.bytes += after.bytes - before.bytes
    now.serial = max(now.serial, after.serial)
    return encode(now)
