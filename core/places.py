"""Where the way to a key begins: its bucket's directory, or one further down that was found already.

In one process all of a key's path is looked up in the batch that changes the key. Over shards that would make every
change of a key one over all shards that have a directory on its way; there it is looked up just before
(core/shard_places.py), and the batch is about what is below the directory that was found.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import NamedTuple, Protocol

from siltstone.errors import NoSuchBucket
from siltstone.meta import names
from siltstone.meta.store.port import Reader
from siltstone.types import ROOT_INO, Ino


class Start(NamedTuple):
    """A bucket, a directory in it (or itself), and the path from there to the directory that is wanted. ``serial``: of
    the bucket's configuration, where it is looked at for a front-end that has decided by one."""

    bucket: Ino
    directory: Ino
    rest: bytes
    serial: int = 0


FindStart = Callable[[Reader], Start]
"""Says it in a batch or question. Plain. Raises NoSuchBucket, Moved."""


class Moved(Exception):
    """The directory that was found before the batch is gone: find it again. Never leaves the core."""


class Places(Protocol):
    """How buckets and paths are found."""

    async def resolve(self, bucket: str, path: bytes) -> FindStart:
        """The way to a directory, a path below a bucket. Raises NoSuchBucket."""


class PlacesHere:
    """All in the batch itself."""

    async def resolve(self, bucket: str, path: bytes) -> FindStart:
        """See Places."""

        def start(reader: Reader) -> Start:
            ino = find_bucket(reader, bucket)
            return Start(ino, ino, path)

        return start


def find_bucket(reader: Reader, name: str) -> Ino:
    """The bucket's directory. Raises NoSuchBucket."""
    entry = names.get_dentry(reader, ROOT_INO, name.encode())
    if entry is None or not stat.S_ISDIR(entry.kind):
        raise NoSuchBucket(f"there is no bucket {name!r}")
    return Ino(entry.ino)
