"""Buckets and objects: S3's view of the tree, on the same files that the mount shows.

A bucket is a directory right under the root; a key is a path below it. Every change of a key is one batch: it makes the
directories that are missing, lets the new inode take the name, and leaves the old one to its readers. So a reader sees
the old or the new object whole, through whichever door.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from siltstone.core.listing import list_keys
from siltstone.core.object_bytes import AnonymousBytes, SharedBytes, WrittenBytes
from siltstone.core.object_paths import (
    DIRECTORY_MODE,
    KeyPath,
    check_replaceable,
    find,
    is_object,
    make_directories,
    prune,
    split_key,
)
from siltstone.core.object_types import (
    NO_CONDITIONS,
    BucketInfo,
    Conditions,
    Listing,
    ObjectInfo,
    PutAttributes,
    object_info,
    object_record,
)
from siltstone.core.types import AttributesChanged, Change, EntryChanged
from siltstone.core.volume import Volume
from siltstone.errors import Conflict, DirectoryNotEmpty, InvalidArgument, NoSuchBucket, NotFound
from siltstone.meta import inodes, keys, names, objects
from siltstone.meta.extents import FreedStripe
from siltstone.meta.records import Bucket, Inode, InodeFlag, decode, encode
from siltstone.meta.store.store import Transaction
from siltstone.types import ROOT_INO, Buffer, Ino

SHARE_ATTEMPTS_MAX = 5
"""How often a copy is begun again because its source changed meanwhile."""


class Buckets:
    """The directories under the root, as buckets."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def find(self, name: str) -> Ino:
        """The bucket's directory. Raises NoSuchBucket."""
        try:
            ino, inode = names.lookup(self._volume.ledger.store, ROOT_INO, name.encode())
        except NotFound:
            raise NoSuchBucket(f"there is no bucket {name!r}") from None
        if not inode.is_directory or name in (".", ".."):
            raise NoSuchBucket(f"there is no bucket {name!r}")
        return ino

    def info(self, name: str) -> BucketInfo:
        """What is known of a bucket. Raises NoSuchBucket."""
        ino = self.find(name)
        return self._info(name, ino)

    def all(self) -> Iterator[BucketInfo]:
        """Every bucket, by name."""
        after: bytes | None = None
        while page := names.list_directory(self._volume.ledger.store, ROOT_INO, after=after, limit=1000):
            for raw, entry in page:
                try:
                    name = raw.decode()
                except UnicodeDecodeError:
                    continue  # the mount may name directories in ways that no bucket can be named
                if inodes.get_inode(self._volume.ledger.store, Ino(entry.ino)).is_directory:
                    yield self._info(name, Ino(entry.ino))
            after = page[-1][0]

    def _info(self, name: str, ino: Ino) -> BucketInfo:
        store = self._volume.ledger.store
        value = store.get(keys.bucket(ino))
        if value is None:
            return BucketInfo(name, inodes.get_inode(store, ino).ctime_ns, "")
        record = decode(Bucket, value)
        return BucketInfo(name, record.created_ns, record.owner)


class ObjectPut:
    """A PUT under way."""

    def __init__(self, store: Objects, bucket: str, key: bytes) -> None:
        self._store = store
        self._bucket = bucket
        self._key = key
        self._path = split_key(key)
        self._writer = WrittenBytes(store.volume, store.buckets.find(bucket))

    async def write(self, buffer: Buffer) -> None:
        """Take over further bytes; the buffer must not change any more."""
        if self._path.is_directory and len(buffer):
            raise InvalidArgument(f"{self._key!r} names a directory, which has no bytes of its own")
        await self._writer.write(buffer)

    async def commit(self, attributes: PutAttributes, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Let the bytes be the object: atomic, durable on return.

        Raises PreconditionFailed or NotFound (conditions), NoSuchBucket, NotADirectory, IsADirectory, NoSpace.
        """
        try:
            await self._store.flush_key(self._bucket, self._path)
            await self._writer.ready()
            info = self._store.put_now(self._bucket, self._key, self._path, self._writer, attributes, conditions)
        except BaseException:
            self._writer.end(adopted=False)
            raise
        self._writer.end(adopted=True)
        await self._store.volume.wait_done()
        return info

    async def abort(self) -> None:
        """Give the bytes up."""
        self._writer.end(adopted=False)


class ObjectReader:
    """An object opened for reading: this version of it, also when it is overwritten or deleted meanwhile."""

    def __init__(self, volume: Volume, info: ObjectInfo) -> None:
        self._volume = volume
        self.info = info
        volume.orphans.hold(info.ino)
        self._closed = False

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; short only at the end."""
        size = min(size, self.info.size - offset)
        return await self._volume.read(self.info.ino, offset, size) if size > 0 else b""

    def close(self) -> None:
        """Let go of the version."""
        if not self._closed:
            self._closed = True
            self._volume.orphans.let_go(self.info.ino)


class Objects:
    """Objects by bucket and key."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.buckets = Buckets(volume)
        self._list_turn = trio.Lock()

    # --- buckets ---------------------------------------------------------------------------------------------------

    async def create_bucket(self, name: str, *, owner: str) -> BucketInfo:
        """Make a bucket; durable on return. Raises AlreadyExists, InvalidArgument, NameTooLong."""
        await self.volume.ledger.admit(1)
        transaction = self.volume.ledger.begin()
        now_ns = self.volume.ledger.clock.now_ns()
        root = inodes.get_inode(transaction, ROOT_INO)
        raw = name.encode()
        ino, _ = names.mkdir(transaction, ROOT_INO, raw, mode=DIRECTORY_MODE, uid=root.uid, gid=root.gid, now_ns=now_ns)
        transaction.put(keys.bucket(ino), encode(Bucket(owner, now_ns)))
        self.volume.ledger.commit(transaction)
        self.volume.publish(self, EntryChanged(ROOT_INO, raw, ino, False))
        await self.volume.wait_done()
        return BucketInfo(name, now_ns, owner)

    async def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket; durable on return. Raises NoSuchBucket, DirectoryNotEmpty."""
        self.buckets.find(name)
        try:
            await self.volume.rmdir(ROOT_INO, name.encode(), origin=self)
        except DirectoryNotEmpty:
            raise DirectoryNotEmpty(f"bucket {name!r} is not empty") from None
        await self.volume.wait_done()

    def list_buckets(self) -> list[BucketInfo]:
        """Every bucket, by name."""
        return list(self.buckets.all())

    def bucket(self, name: str) -> BucketInfo:
        """What is known of a bucket. Raises NoSuchBucket."""
        return self.buckets.info(name)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def head(self, bucket: str, key: bytes) -> ObjectInfo:
        """The object as it is now. Raises NoSuchBucket, NotFound."""
        path = split_key(key)
        await self.flush_key(bucket, path)
        info = self.look(self.buckets.find(bucket), key, path)
        if info is None:
            raise NotFound(f"there is no key {key!r} in bucket {bucket!r}")
        return info

    async def list_keys(
        self, bucket: str, *, prefix: bytes = b"", delimiter: bytes = b"", start_after: bytes = b"", limit: int
    ) -> Listing:
        """A page of keys in byte order, see ``siltstone.core.listing``. Raises NoSuchBucket."""
        bucket_ino = self.buckets.find(bucket)
        return await list_keys(
            self.volume,
            bucket_ino,
            self._list_turn,
            prefix=prefix,
            delimiter=delimiter,
            start_after=start_after,
            limit=limit,
        )

    async def open(self, bucket: str, key: bytes) -> ObjectReader:
        """The object, opened; to be closed. Raises NoSuchBucket, NotFound."""
        return ObjectReader(self.volume, await self.head(bucket, key))

    def look(self, bucket_ino: Ino, key: bytes, path: KeyPath) -> ObjectInfo | None:
        """The object of a key, or None. Plain: for use inside a batch's making, too."""
        place = find(self.volume.ledger.store, bucket_ino, path)
        if place.ino is None or place.inode is None or not is_object(path, place.inode):
            return None
        record = objects.get_object(self.volume.ledger.store, place.ino, place.inode)
        return object_info(key, place.ino, place.inode, record)

    async def flush_key(self, bucket: str, path: KeyPath) -> None:
        """Commit what the mount has written to the object and not committed, so that its size and ETag are true."""
        if not self.volume.write_back.files:
            return
        place = find(self.volume.ledger.store, self.buckets.find(bucket), path)
        if place.ino is not None and place.ino in self.volume.write_back.files:
            await self.volume.flush(place.ino)

    # --- writing ---------------------------------------------------------------------------------------------------

    def begin_put(self, bucket: str, key: bytes, *, size_hint: int | None = None) -> ObjectPut:
        """Start an object. Raises NoSuchBucket, InvalidArgument, NameTooLong.

        ``size_hint``, when known, lets a body that cannot fit be refused before it is sent.
        """
        put = ObjectPut(self, bucket, key)
        if size_hint is not None:
            self.volume.ledger.check_room(size_hint)
        return put

    async def delete(self, bucket: str, key: bytes, conditions: Conditions = NO_CONDITIONS) -> bool:
        """Remove a key, and the directories that only keys had made; durable on return. Whether it was there."""
        path = split_key(key)
        bucket_ino = self.buckets.find(bucket)
        if conditions is not NO_CONDITIONS:
            # Not otherwise: on a full pool what the mount has written cannot be committed, and is to go anyway.
            await self.flush_key(bucket, path)
        await self.volume.ledger.admit()
        found = self.look(bucket_ino, key, path)
        if conditions is not NO_CONDITIONS:
            conditions.check(found)
        if found is None:
            # Who took it away may not be durable yet, and the answer says that it is gone.
            await self.volume.wait_done()
            return False
        transaction = self.volume.ledger.begin()
        now_ns = self.volume.ledger.clock.now_ns()
        directories = find(transaction, bucket_ino, path).directories
        parent = directories[-1] if directories else bucket_ino
        news: list[Change] = []
        orphans: list[Ino] = []
        if path.is_directory:
            inode = inodes.get_inode(transaction, found.ino)
            objects.drop_object(transaction, found.ino, inode)
            inode.flags |= InodeFlag.IMPLICIT
            inodes.put_inode(transaction, found.ino, inode)
            path = KeyPath((*path.directories, path.name), b"", True)
            directories = (*directories, found.ino)
        else:
            _, inode = names.unlink(transaction, parent, path.name, now_ns=now_ns)
            news.append(EntryChanged(parent, path.name, found.ino, True))
            if inode.nlink == 0:
                orphans.append(found.ino)
            news.append(AttributesChanged(found.ino))
        gone, removed = prune(transaction, bucket_ino, path, directories, now_ns)
        self._finish(transaction, [], [*news, *gone], orphans + removed)
        await self.volume.wait_done()
        return True

    async def copy(
        self,
        source_bucket: str,
        source_key: bytes,
        bucket: str,
        key: bytes,
        attributes: PutAttributes | None,
        conditions: Conditions = NO_CONDITIONS,
        source_conditions: Conditions = NO_CONDITIONS,
    ) -> ObjectInfo:
        """Let a key have the bytes of another, shared, not copied; ``attributes`` None keeps the source's.

        Atomic, durable on return. Raises as ``head`` and ``ObjectPut.commit`` do.
        """
        path = split_key(key)
        source, writer = await self.share(source_bucket, source_key, self.buckets.find(bucket), source_conditions)
        try:
            if attributes is None:
                attributes = PutAttributes(
                    etag=source.etag,
                    owner=source.owner,
                    headers=source.headers,
                    metadata=source.metadata,
                    checksums=source.checksums,
                    checksum_type=source.checksum_type,
                    part_sizes=source.part_sizes,
                    part_numbers=source.part_numbers,
                )
            await self.flush_key(bucket, path)
            await self.volume.ledger.admit(1)
            info = self.put_now(bucket, key, path, writer, attributes, conditions)
        except BaseException:
            writer.end(adopted=False)
            raise
        # A directory takes no bytes.
        writer.end(adopted=not path.is_directory)
        await self.volume.wait_done()
        return info

    async def share(
        self,
        bucket: str,
        key: bytes,
        near: Ino,
        conditions: Conditions = NO_CONDITIONS,
        byte_range: tuple[int, int] | None = None,
    ) -> tuple[ObjectInfo, SharedBytes]:
        """An object and its bytes, or a range of them (first, last), as they were at one moment; to be ended.

        The mount may write to the file meanwhile, in place: then it is begun again, a few times. Raises Conflict when
        it always did, InvalidArgument for a range that is not inside the object, and what ``open`` raises.
        """
        for _ in range(SHARE_ATTEMPTS_MAX):
            reader = await self.open(bucket, key)
            shared = SharedBytes(self.volume, near)
            try:
                source = reader.info
                conditions.check(source)
                first, last = byte_range or (0, source.size - 1)
                if not 0 <= first <= last + 1 or last >= source.size:
                    raise InvalidArgument(
                        f"the range {first}-{last} is not inside the {source.size} bytes of the source"
                    )
                version = inodes.get_inode(self.volume.ledger.store, source.ino).version
                await shared.append(source.ino, first, last + 1 - first)
                if inodes.get_inode(self.volume.ledger.store, source.ino).version == version:
                    return source, shared
                shared.end(adopted=False)
            except BaseException:
                shared.end(adopted=False)
                raise
            finally:
                reader.close()
        raise Conflict(f"{key!r} is being written to through the mount; try again")

    def put_now(
        self,
        bucket: str,
        key: bytes,
        path: KeyPath,
        bytes_: AnonymousBytes,
        attributes: PutAttributes,
        conditions: Conditions,
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> ObjectInfo:
        """The batch that gives a key its new bytes. Plain: nothing comes between the conditions and the commit.

        ``more`` are records to put in the same batch.
        """
        bucket_ino = self.buckets.find(bucket)
        if conditions is not NO_CONDITIONS:
            conditions.check(self.look(bucket_ino, key, path))
        transaction = self.volume.ledger.begin()
        now_ns = self.volume.ledger.clock.now_ns()
        freed: list[FreedStripe] = []
        parent, made = make_directories(transaction, bucket_ino, path, key, now_ns)
        news: list[Change] = [*made]
        entry = names.get_dentry(transaction, parent, path.name)
        old = Ino(entry.ino) if entry is not None else None
        old_inode = inodes.get_inode(transaction, old) if old is not None else None
        check_replaceable(path, old_inode, key)
        orphans: list[Ino] = []
        if path.is_directory:
            ino, inode = self._directory_object(transaction, parent, path.name, old, old_inode, now_ns)
        else:
            ino, inode = bytes_.place(transaction, freed)
            if old is not None:
                _, unlinked = names.unlink(transaction, parent, path.name, now_ns=now_ns)
                if unlinked.nlink == 0:
                    orphans.append(old)
                news.append(AttributesChanged(old))
            inodes.put_inode(transaction, ino, inode)
            inode = names.link(transaction, ino, parent, path.name, now_ns=now_ns)
            inode.mtime_ns = now_ns
        news.append(EntryChanged(parent, path.name, ino, False))
        record = object_record(attributes)
        objects.put_object(transaction, ino, inode, record)
        inodes.put_inode(transaction, ino, inode)
        for more_key, more_value in more:
            transaction.put(more_key, more_value)
        self._finish(transaction, freed, news, orphans)
        return object_info(key, ino, inode, record)

    def _directory_object(
        self, transaction: Transaction, parent: Ino, name: bytes, old: Ino | None, inode: Inode | None, now_ns: int
    ) -> tuple[Ino, Inode]:
        if old is None or inode is None:
            owner = inodes.get_inode(transaction, parent)
            return names.mkdir(
                transaction, parent, name, mode=DIRECTORY_MODE, uid=owner.uid, gid=owner.gid, now_ns=now_ns
            )
        inode.flags &= ~InodeFlag.IMPLICIT
        return old, inode

    def _finish(
        self, transaction: Transaction, freed: list[FreedStripe], news: list[Change], orphans: list[Ino]
    ) -> None:
        """Purge what can go in this batch, commit, and tell everybody."""
        left = [ino for ino in orphans if not self.volume.orphans.purge_within(transaction, ino, freed)]
        self.volume.ledger.commit(transaction, freed)
        for ino in left:
            self.volume.orphans.add(ino)
        for change in news:
            self.volume.publish(self, change)
