"""Where the way to a key begins, over shards: its directory is looked up before the batch, which is then about that.

So a change of a key is one of the shards that have its directory and its inode, however many shards have what is above.
It is as if the change had come a moment earlier when a directory above is renamed meanwhile; one that has been removed
is found again (Moved).

Buckets whose directory this shard has are remembered. Whatever changes a bucket's entry in the root changes the inode
of the bucket's directory as well, or publishes the entry here, so what is remembered is never older than the question.
"""

from __future__ import annotations

from siltstone.core.places import FindStart, Moved, Start, find_bucket
from siltstone.core.types import AttributesChanged, Change, EntryChanged
from siltstone.core.volume import Volume
from siltstone.meta import inodes, keys
from siltstone.meta.buckets import bucket_serial
from siltstone.meta.directories import find_directory
from siltstone.meta.store.port import Reader
from siltstone.types import ROOT_INO, Ino

BUCKETS_MAX = 4096
"""Buckets that are remembered."""

WAYS_MAX = 16_384
"""Paths of which it is remembered what they lead over in other shards; it is looked at anew each time, all at once."""


class ShardPlaces:
    """See Places. Of one shard."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._buckets: dict[str, Ino] = {}
        self._names: dict[Ino, str] = {}
        self._ways: dict[tuple[str, bytes], dict[bytes, bytes | None]] = {}
        """What a path led over in other shards when it was last looked up."""
        self._changes = 0
        """Changes heard of that may have been of a bucket."""
        volume.subscribe(self._hear)

    def knows(self, bucket: str) -> bool:
        """Whether a bucket is remembered."""
        return bucket in self._buckets

    async def resolve(self, bucket: str, path: bytes) -> FindStart:
        """See Places."""
        return self.start_at(await self.find(bucket, path))

    @staticmethod
    def start_at(begin: Start) -> FindStart:
        """The same of what was found a moment ago, for the same request."""

        def start(reader: Reader) -> Start:
            inode = inodes.find_inode(reader, begin.directory)
            if inode is None or inode.nlink == 0:
                raise Moved
            return begin

        return start

    async def find(self, bucket: str, path: bytes) -> Start:
        """The deepest directory that there is on a path below a bucket. Raises NoSuchBucket."""
        changes = self._changes
        way = self.way(bucket, path)
        start = await self._volume.ledger.look(lambda reader: self.look(reader, bucket, path), remembered=way)
        if changes == self._changes and bucket not in self._buckets and self._volume.ledger.owns(start.bucket):
            self._remember(bucket, start.bucket)
        return start

    def way(self, bucket: str, path: bytes) -> dict[bytes, bytes | None]:
        """For ``Ledger.look``: what looking up a path needs of other shards, as far as it is remembered."""
        way = self._ways.pop((bucket, path), None)
        if way is None:
            way = {}
            if len(self._ways) >= WAYS_MAX:
                del self._ways[next(iter(self._ways))]
        self._ways[bucket, path] = way
        return way

    def look(self, reader: Reader, bucket: str, path: bytes) -> Start:
        """The same, as part of a question."""
        ino = self._buckets.get(bucket)
        if ino is None:
            ino = find_bucket(reader, bucket)
        else:
            # Waits for whoever is about to change it, and has perhaps been answered already.
            reader.get(keys.inode(ino))
        directory, rest = find_directory(reader, self._volume.directories, ino, path)
        return Start(ino, directory, rest, bucket_serial(reader, ino))

    def forget_all(self) -> None:
        """A partition has gone to another shard: what changes in it is not heard of here from now on."""
        self._changes += 1
        self._buckets.clear()
        self._names.clear()

    def _remember(self, bucket: str, ino: Ino) -> None:
        while len(self._buckets) >= BUCKETS_MAX:
            self._forget(next(iter(self._buckets)))
        known = self._names.get(ino)
        if known is not None:
            self._forget(known)
        self._buckets[bucket] = ino
        self._names[ino] = bucket

    def _forget(self, bucket: str) -> None:
        ino = self._buckets.pop(bucket, None)
        if ino is not None:
            del self._names[ino]

    def _hear(self, origin: object, change: Change) -> None:
        match change:
            case EntryChanged(parent, name) if parent == ROOT_INO:
                self._changes += 1
                self._forget(name.decode(errors="surrogateescape"))
            case AttributesChanged(ino):
                self._changes += 1
                known = self._names.get(ino)
                if known is not None:
                    self._forget(known)
            case _:
                pass
