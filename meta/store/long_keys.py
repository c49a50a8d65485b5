"""Keys longer than LMDB takes (511 bytes), folded so that they keep their order. Pure. See docs/formats/store.md.

Only uploads of objects with very long names have such keys. Those that share their first 510 bytes make a group: one
record under these bytes and a 0x01 (so its key is the only kind with 511 bytes), whose value is a batch of the rest of
each key and its value. The group sorts behind the plain key of the same 510 bytes and before every other key behind
that, which is where its members belong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from siltstone.meta.store.batch import decode_batch, encode_batch

PLAIN_BYTES_MAX = 510
_MARK = b"\x01"


def group_of(key: bytes) -> bytes:
    """The key of the group that a long key is in."""
    assert len(key) > PLAIN_BYTES_MAX
    return key[:PLAIN_BYTES_MAX] + _MARK


def find_member(group: bytes | None, key: bytes) -> bytes | None:
    """The value of a long key in the value of its group (None: there is no group), None when it is not there."""
    return None if group is None else decode_batch(group).get(key[PLAIN_BYTES_MAX:])


def members(group_key: bytes, group: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The long keys of a group with their values, in ascending order."""
    prefix = group_key[:PLAIN_BYTES_MAX]
    for rest, value in decode_batch(group).items():
        assert value is not None
        yield prefix + rest, value


def by_group(items: Iterable[tuple[bytes, bytes | None]]) -> Iterator[tuple[bytes, dict[bytes, bytes | None]]]:
    """Changes of long keys as changes of groups; those of one group should come in a row."""
    for group_key, changes in groupby(items, key=lambda item: group_of(item[0])):
        yield group_key, {key[PLAIN_BYTES_MAX:]: value for key, value in changes}


def change_group(group: bytes | None, changes: dict[bytes, bytes | None]) -> bytes | None:
    """The value of a group after the changes; None when no member is left."""
    merged = ({} if group is None else decode_batch(group)) | changes
    left = {rest: value for rest, value in sorted(merged.items()) if value is not None}
    return encode_batch(left) if left else None
