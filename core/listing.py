"""Keys in S3's byte order, in pages: never a sort of everything, and never a walk of what is folded (core/key_walk.py).

A page is made in steps, between which others run. A step begins where the last one ended, by key, so what is changed
meanwhile does no harm.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import trio

from siltstone.core.key_walk import KeyWalk, Seen, behind, fold
from siltstone.core.object_types import Listing, ObjectInfo, object_info
from siltstone.core.volume import Volume
from siltstone.meta import objects
from siltstone.meta.directories import DirectoryIndex
from siltstone.meta.store.port import Reader
from siltstone.types import Ino

STEP_KEYS = 250
STEP_FOLDS = 50
"""Keys, and folded directories (for which another directory is opened), that one step takes: about a millisecond."""


async def list_keys(
    volume: Volume,
    bucket: Ino,
    turn: trio.Lock,
    *,
    prefix: bytes,
    delimiter: bytes,
    start_after: bytes,
    limit: int,
) -> Listing:
    """Up to ``limit`` keys and common prefixes with ``prefix``, behind ``start_after``.

    A key in which ``delimiter`` comes after the prefix is folded into the part up to and with it. A ``start_after``
    that is such a folded part excludes all that it folds. ``turn`` is held for a step: however many lists are under
    way, the event loop does one step at a time.
    """
    lower = start_after + b"\0" if start_after else b""
    if start_after and fold(start_after, prefix, delimiter) == start_after:
        lower = behind(start_after)
    lower = max(lower, prefix)
    entries: list[ObjectInfo] = []
    prefixes: list[bytes] = []
    last = start_after
    while True:
        async with turn:
            left = limit - len(entries) - len(prefixes)
            step = await volume.ledger.look(
                partial(
                    _list_step,
                    index=volume.directories,
                    seen=volume.seen,
                    bucket=bucket,
                    prefix=prefix,
                    delimiter=delimiter,
                    lower=lower,
                    limit=left,
                ),
                is_loose=True,
            )
        entries += step.entries
        prefixes += step.prefixes
        last = step.last or last
        if step.is_truncated or step.lower is None:
            return Listing(entries, prefixes, step.is_truncated and limit > 0, last)
        lower = step.lower


class _Step(NamedTuple):
    """``last``: the last key or prefix, empty without any. ``lower``: where the next step begins, None at the end."""

    entries: list[ObjectInfo]
    prefixes: list[bytes]
    is_truncated: bool
    last: bytes
    lower: bytes | None


def _list_step(
    reader: Reader,
    index: DirectoryIndex,
    seen: Seen,
    bucket: Ino,
    prefix: bytes,
    delimiter: bytes,
    lower: bytes,
    limit: int,
) -> _Step:
    """The next keys and prefixes, ``limit`` at the most and not more than a step may take. Plain."""
    entries: list[ObjectInfo] = []
    prefixes: list[bytes] = []
    last = b""
    visits_left = STEP_KEYS
    walk = KeyWalk(reader, index, seen, bucket, prefix, lower)
    for key, ino, inode in walk:
        if inode is not None and len(entries) + len(prefixes) >= limit:
            return _Step(entries, prefixes, True, last, None)
        if visits_left <= 0:
            return _Step(entries, prefixes, False, last, key)
        if inode is None:
            visits_left -= STEP_KEYS // STEP_FOLDS
            continue
        visits_left -= 1
        folded = fold(key, prefix, delimiter)
        if folded is None:
            entries.append(object_info(key, ino, inode, objects.get_object(reader, ino, inode)))
            last = key
        else:
            prefixes.append(folded)
            last = folded
            walk.skip_to(behind(folded))
    return _Step(entries, prefixes, False, last, None)
