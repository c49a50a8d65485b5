"""Buckets and objects: S3's view of the tree, on the same files that the mount shows.

A bucket is a directory right under the root; a key is a path below it. Every change of a key is one batch: it makes the
directories that are missing, lets the new inode take the name, and leaves the old one to its readers. So a reader sees
the old or the new object whole, through whichever door.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import trio

from siltstone.core.ledger import ignore
from siltstone.core.listing import list_keys
from siltstone.core.object_bytes import AnonymousBytes, SharedBytes, WrittenBytes
from siltstone.core.object_changes import Changed, KeyChange, look_at
from siltstone.core.object_paths import (
    DIRECTORY_MODE,
    KeyPath,
    Place,
    find,
    split_key,
)
from siltstone.core.object_types import (
    NO_CONDITIONS,
    NO_DOCUMENTS,
    BucketInfo,
    Conditions,
    Deleted,
    Edit,
    Expiry,
    Listing,
    ObjectInfo,
    PutAttributes,
    Versioning,
    VersionListing,
    object_info,
)
from siltstone.core.places import FindStart, Moved, Places, PlacesHere, Start, find_bucket
from siltstone.core.types import EntryChanged
from siltstone.core.version_listing import list_versions
from siltstone.core.volume import Volume
from siltstone.errors import (
    BucketChanged,
    Conflict,
    DirectoryNotEmpty,
    InvalidArgument,
    ObjectChanged,
    PreconditionFailed,
    SiltstoneError,
)
from siltstone.meta import inodes, names, objects
from siltstone.meta.buckets import (
    bucket_serial,
    check_documents,
    find_bucket_record,
    make_bucket_record,
    read_documents,
    set_documents,
)
from siltstone.meta.directories import find_directory
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import ROOT_INO, Buffer, Ino

T = TypeVar("T")

FIND_ATTEMPTS_MAX = 100
"""How often a key's directory is looked up again because it went before the batch."""

SHARE_ATTEMPTS_MAX = 5
"""How often a copy is begun again because its source changed meanwhile."""


class Buckets:
    """The directories under the root, as buckets."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    async def info(self, name: str) -> BucketInfo:
        """What is known of a bucket. Raises NoSuchBucket."""
        return await self._volume.ledger.look(lambda reader: bucket_info(reader, name, find_bucket(reader, name)))

    async def all(self) -> list[BucketInfo]:
        """Every bucket, by name."""
        found: list[BucketInfo] = []
        after: bytes | None = None
        while page := await self._volume.list_directory(ROOT_INO, after=after, limit=1000):
            for entry in page:
                try:
                    name = entry.name.decode()
                except UnicodeDecodeError:
                    continue  # the mount may name directories in ways that no bucket can be named
                if stat.S_ISDIR(entry.attributes.mode):
                    found.append(await self._volume.ledger.look(partial(bucket_info, name=name, ino=entry.ino)))
            after = page[-1].name
        return found


def bucket_info(reader: Reader, name: str, ino: Ino) -> BucketInfo:
    """What is known of a bucket, by its directory."""
    record = find_bucket_record(reader, ino)
    if record is None:
        return BucketInfo(name, inodes.get_inode(reader, ino).ctime_ns, "", ino)
    return BucketInfo(name, record.created_ns, record.owner, ino, record.serial)


class ObjectPut:
    """A PUT under way."""

    def __init__(self, store: Objects, bucket: str, key: bytes, path: KeyPath, near: Ino) -> None:
        self._store = store
        self.bucket = bucket
        self.key = key
        self.path = path
        self.writer = WrittenBytes(store.volume, near)

    async def write(self, buffer: Buffer) -> None:
        """Take over further bytes; the buffer must not change any more."""
        await self.writer.write(buffer)

    async def commit(self, attributes: PutAttributes, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Let the bytes be the object: atomic, durable on return.

        Raises PreconditionFailed or NotFound (conditions), NoSuchBucket, NotADirectory, IsADirectory, NoSpace.
        """
        try:
            await self._store.flush_key(self.bucket, self.path)
            await self.writer.ready()
            info = await self._store.put(self.bucket, self.key, self.path, self.writer, attributes, conditions)
        except BaseException:
            self.writer.end(adopted=False)
            raise
        self.writer.end(adopted=True)
        await self._store.volume.wait_done()
        return info

    async def abort(self) -> None:
        """Give the bytes up."""
        self.writer.end(adopted=False)


class ObjectReader:
    """An object opened for reading: this version of it, also when it is overwritten or deleted meanwhile. To be made in
    the turn of the loop in which ``info`` was looked up."""

    def __init__(self, volume: Volume, info: ObjectInfo) -> None:
        self._volume = volume
        self.info = info
        volume.orphans.hold(info.ino)
        self._overwrites = volume.write_back.overwrites
        self._watch = self._overwrites.watch(info.ino, info.size)
        self._closed = False

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; short only at the end. Raises ObjectChanged when the mount has written to
        the object since it was opened."""
        size = min(size, self.info.size - offset)
        data = await self._volume.read(self.info.ino, offset, size) if size > 0 else b""
        if self._overwrites.is_changed(self._watch):
            raise ObjectChanged(f"{self.info.key!r} was written to through the mount while it was read")
        return data

    def close(self) -> None:
        """Let go of the version."""
        if not self._closed:
            self._closed = True
            self._overwrites.end(self._watch)
            self._volume.orphans.let_go(self.info.ino)


OpenSource = Callable[[], Awaitable[ObjectReader]]
"""Opens what is to be copied."""


class Objects:
    """Objects by bucket and key. ``places``: how buckets and directories are found."""

    def __init__(self, volume: Volume, places: Places | None = None) -> None:
        self.volume = volume
        self.places: Places = PlacesHere() if places is None else places
        self.buckets = Buckets(volume)
        self._list_turn = trio.Lock()

    # --- buckets ---------------------------------------------------------------------------------------------------

    async def create_bucket(
        self, name: str, *, owner: str, documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> BucketInfo:
        """Make a bucket with a configuration; durable on return. Raises AlreadyExists, InvalidArgument, NameTooLong."""
        check_documents(documents)
        await self.volume.ledger.admit(1)
        now_ns = self.volume.ledger.clock.now_ns()
        raw = name.encode()

        def change(transaction: Transaction) -> BucketInfo:
            root = inodes.get_inode(transaction, ROOT_INO)
            ino, _ = names.mkdir(
                transaction, ROOT_INO, raw, mode=DIRECTORY_MODE, uid=root.uid, gid=root.gid, now_ns=now_ns
            )
            make_bucket_record(transaction, ino, owner, now_ns)
            serial = set_documents(transaction, ino, documents).serial if documents else 0
            return BucketInfo(name, now_ns, owner, ino, serial)

        info = await self.volume.ledger.perform(
            change, lambda info: self.volume.publish(self, EntryChanged(ROOT_INO, raw, info.ino, False))
        )
        await self.volume.wait_done()
        return info

    async def bucket_documents(self, name: str) -> tuple[BucketInfo, dict[str, bytes]]:
        """What is known of a bucket, and the documents of its configuration, at one moment. Raises NoSuchBucket."""

        def question(reader: Reader) -> tuple[BucketInfo, dict[str, bytes]]:
            ino = start(reader).bucket
            return bucket_info(reader, name, ino), read_documents(reader, ino)

        start = await self.places.resolve(name, b"")
        return await self.volume.ledger.look(question)

    async def set_bucket_documents(
        self, name: str, documents: Mapping[str, bytes | None], *, expected: tuple[int, int] | None = None
    ) -> BucketInfo:
        """Set documents of a bucket's configuration, or remove those that are None: atomic, durable on return.

        ``expected``: of which bucket (inode) and as of which serial; raises BucketChanged if it is another by now.
        Raises NoSuchBucket, InvalidArgument, ValueTooLarge.
        """
        check_documents(documents)
        await self.volume.ledger.admit(1)

        def change(transaction: Transaction, start: Start) -> BucketInfo:
            ino = start.bucket
            if expected is not None and expected != (ino, bucket_serial(transaction, ino)):
                raise BucketChanged(f"the configuration of bucket {name!r} has just been changed; try again")
            set_documents(transaction, ino, documents)
            return bucket_info(transaction, name, ino)

        info = await self.change_below(name, b"", change)
        await self.volume.wait_done()
        return info

    async def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket; durable on return. Raises NoSuchBucket, DirectoryNotEmpty."""
        await self.find_bucket(name)
        try:
            await self.volume.rmdir(ROOT_INO, name.encode(), origin=self)
        except DirectoryNotEmpty:
            raise DirectoryNotEmpty(f"bucket {name!r} is not empty") from None
        await self.volume.wait_done()

    async def list_buckets(self) -> list[BucketInfo]:
        """Every bucket, by name."""
        return await self.buckets.all()

    async def bucket(self, name: str) -> BucketInfo:
        """What is known of a bucket. Raises NoSuchBucket."""
        return await self.buckets.info(name)

    async def find_bucket(self, name: str) -> Ino:
        """The bucket's directory. Raises NoSuchBucket."""
        start = await self.places.resolve(name, b"")
        return (await self.volume.ledger.look(start)).bucket

    # --- reading ---------------------------------------------------------------------------------------------------

    async def head(self, bucket: str, key: bytes, version_id: str | None = None) -> ObjectInfo:
        """The object as it is now, or a version of it. Raises NoSuchBucket, and as ``look_at`` does."""
        path = split_key(key)
        for _ in range(FIND_ATTEMPTS_MAX):
            start = await self.places.resolve(bucket, path.directory)
            info = await self.volume.ledger.look(
                lambda reader, start=start: look_at(  # type: ignore[misc]
                    reader, self.volume.directories, start(reader), key, path, version_id
                )
            )
            if not self.volume.write_back.is_dirty(info.ino):
                return info
            await self.volume.flush(info.ino)  # so that size and ETag are true
        raise Conflict(f"{key!r} is written to through the mount all the time; try again")

    async def list_keys(
        self, bucket: str, *, prefix: bytes = b"", delimiter: bytes = b"", start_after: bytes = b"", limit: int
    ) -> Listing:
        """A page of keys in byte order, see ``siltstone.core.listing``. Raises NoSuchBucket."""
        bucket_ino = await self.find_bucket(bucket)
        return await list_keys(
            self.volume,
            bucket_ino,
            self._list_turn,
            prefix=prefix,
            delimiter=delimiter,
            start_after=start_after,
            limit=limit,
        )

    async def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str | None = None,
        limit: int,
    ) -> VersionListing:
        """A page of versions, see ``siltstone.core.version_listing``. Raises NoSuchBucket."""
        bucket_ino = await self.find_bucket(bucket)
        return await list_versions(
            self.volume,
            bucket_ino,
            self._list_turn,
            prefix=prefix,
            delimiter=delimiter,
            after_key=after_key,
            after_version=after_version,
            limit=limit,
        )

    async def open(self, bucket: str, key: bytes, version_id: str | None = None) -> ObjectReader:
        """The object, or a version of it, opened; to be closed. Raises as ``head`` does."""
        return ObjectReader(self.volume, await self.head(bucket, key, version_id))

    async def flush_key(self, bucket: str, path: KeyPath, start: FindStart | None = None) -> None:
        """Commit what the mount has written to the object and not committed, so that its size and ETag are true.
        ``start``: as it was found just now."""
        if not self.volume.write_back.files:
            return
        begin = await self.places.resolve(bucket, path.directory) if start is None else start
        try:
            place = await self.volume.ledger.look(
                lambda reader: find(reader, self.volume.directories, begin(reader), path)
            )
        except Moved:
            await self.flush_key(bucket, path)
            return
        if place is not None and place.ino in self.volume.write_back.files:
            await self.volume.flush(place.ino)

    # --- writing ---------------------------------------------------------------------------------------------------

    async def begin_put(self, bucket: str, key: bytes, *, size_hint: int | None = None) -> ObjectPut:
        """Start an object. Raises NoSuchBucket, InvalidArgument, NameTooLong.

        ``size_hint``, when known, lets a body that cannot fit be refused before it is sent.
        """
        path = split_key(key)
        put = ObjectPut(self, bucket, key, path, await self.nearest(bucket, path))
        if size_hint is not None:
            self.volume.ledger.check_room(size_hint)
        return put

    async def nearest(self, bucket: str, path: KeyPath) -> Ino:
        """The deepest directory that there is on the way to a key. Raises NoSuchBucket."""
        start = await self.places.resolve(bucket, path.directory)

        def question(reader: Reader) -> Ino:
            begin = start(reader)
            return find_directory(reader, self.volume.directories, begin.directory, begin.rest)[0]

        return await self.volume.ledger.look(question)

    async def delete(
        self,
        bucket: str,
        key: bytes,
        conditions: Conditions = NO_CONDITIONS,
        start: FindStart | None = None,
        *,
        versioning: Versioning = Versioning.OFF,
        version_id: str | None = None,
        owner: str = "",
        may_bypass: bool = False,
    ) -> Deleted:
        """Remove a key, and the directories that only keys had made; durable on return.

        In a bucket with versions it becomes a delete marker of ``owner``; with a ``version_id`` (empty: the null
        version) that version goes for good. Raises NotPermitted where a lock forbids it; ``may_bypass``: governance.
        ``start``: as it was found just now.
        """
        path = split_key(key)
        if conditions is not NO_CONDITIONS:
            await self.flush_key(bucket, path, start)
        elif self.volume.ledger.store.keeps_trash:
            # As far as that can be: on a full pool what the mount has written cannot be committed, and is to go anyway.
            with contextlib.suppress(SiltstoneError):
                await self.flush_key(bucket, path, start)
        if self.volume.ledger.usage.has_rates:
            await self.volume.rates.wait(await self.nearest(bucket, path))
        await self.volume.ledger.admit(0 if versioning is Versioning.OFF or version_id is not None else 1)
        now_ns = self.volume.ledger.clock.now_ns()

        def change(transaction: Transaction, start: Start) -> Changed | None:
            it = self._change(transaction, start, key, path, now_ns)
            place = it.current()
            if conditions.expiry is not None:
                _check_serial(transaction, start, conditions.expiry)
                it.check_expiry(place, version_id, conditions.expiry)
            elif conditions is not NO_CONDITIONS and not it.check_deletion(place, version_id, conditions):
                return None
            if version_id is None:
                return it.delete(place, versioning, owner)
            return it.delete_version(place, version_id, may_bypass=may_bypass)

        changed = await self.change_below(bucket, path.directory, change, self._committed, start)
        # Also where it is not there: who took it away may not be durable yet, and the answer says that it is gone.
        await self.volume.wait_done()
        return changed.deleted if changed is not None and changed.deleted is not None else Deleted(False)

    async def edit(self, bucket: str, key: bytes, version_id: str | None, edit: Edit) -> ObjectInfo:
        """Change what is kept with a version (None: the current one); durable on return.

        Raises NoSuchBucket, NotPermitted, and as ``look_at`` does.
        """
        path = split_key(key)
        await self.volume.ledger.admit(1)
        now_ns = self.volume.ledger.clock.now_ns()

        def change(transaction: Transaction, start: Start) -> Changed:
            return self._change(transaction, start, key, path, now_ns).edit(version_id, edit)

        def committed(changed: Changed) -> None:
            assert changed.info is not None
            self.volume.write_back.look_again(changed.info.ino)
            self._committed(changed)

        changed = await self.change_below(bucket, path.directory, change, committed)
        assert changed.info is not None
        await self.volume.wait_done()
        return changed.info

    async def copy(
        self,
        source_bucket: str,
        source_key: bytes,
        bucket: str,
        key: bytes,
        attributes: PutAttributes | None,
        conditions: Conditions = NO_CONDITIONS,
        source_conditions: Conditions = NO_CONDITIONS,
        *,
        source_version: str | None = None,
        versioning: Versioning = Versioning.OFF,
    ) -> ObjectInfo:
        """Let a key have the bytes of another, shared, not copied; ``attributes`` None keeps the source's.

        Atomic, durable on return. Raises as ``head`` and ``ObjectPut.commit`` do.
        """
        await self.find_bucket(bucket)
        return await self.copy_of(
            partial(self.open, source_bucket, source_key, source_version),
            bucket,
            key,
            attributes,
            conditions,
            source_conditions,
            versioning,
        )

    async def copy_of(
        self,
        open_source: OpenSource,
        bucket: str,
        key: bytes,
        attributes: PutAttributes | None,
        conditions: Conditions,
        source_conditions: Conditions,
        versioning: Versioning = Versioning.OFF,
    ) -> ObjectInfo:
        """The same of what ``open_source`` opens."""
        path = split_key(key)
        source, writer = await self.share(open_source, source_conditions)
        try:
            if attributes is None:
                attributes = source_attributes(source, versioning)
            await self.flush_key(bucket, path)
            await self.volume.ledger.admit(1)
            info = await self.put(bucket, key, path, writer, attributes, conditions)
        except BaseException:
            writer.end(adopted=False)
            raise
        writer.end(adopted=True)
        await self.volume.wait_done()
        return info

    async def share(
        self,
        open_source: OpenSource,
        conditions: Conditions = NO_CONDITIONS,
        byte_range: tuple[int, int] | None = None,
        near: Ino | None = None,
    ) -> tuple[ObjectInfo, SharedBytes]:
        """An object and its bytes, or a range of them (first, last), as they were at one moment; to be ended.

        They are shared with an inode in the partition of ``near``, or of the object itself.

        The mount may write to the file meanwhile, in place: then it is begun again, a few times. Raises Conflict when
        it always did, InvalidArgument for a range that is not inside the object, and what ``open`` raises.
        """
        for _ in range(SHARE_ATTEMPTS_MAX):
            reader = await open_source()
            source = reader.info
            shared = SharedBytes(self.volume, source.ino if near is None else near)
            try:
                conditions.check(source)
                first, last = byte_range or (0, source.size - 1)
                if not 0 <= first <= last + 1 or last >= source.size:
                    raise InvalidArgument(
                        f"the range {first}-{last} is not inside the {source.size} bytes of the source"
                    )
                version = await self._version(source.ino)
                await shared.append(source.ino, first, last + 1 - first)
                if await self._version(source.ino) == version:
                    return source, shared
                shared.end(adopted=False)
            except BaseException:
                shared.end(adopted=False)
                raise
            finally:
                reader.close()
        raise Conflict(f"{source.key!r} is being written to through the mount; try again")

    async def put(
        self,
        bucket: str,
        key: bytes,
        path: KeyPath,
        bytes_: AnonymousBytes,
        attributes: PutAttributes,
        conditions: Conditions,
        more: Callable[[Transaction], None] = ignore,
        start: FindStart | None = None,
    ) -> ObjectInfo:
        """Give a key its new bytes, in one batch: nothing comes between the conditions and the commit.

        ``more`` adds to the same batch, and may refuse it. ``start``: as it was found just now.
        """
        now_ns = self.volume.ledger.clock.now_ns()

        def change(transaction: Transaction, begin: Start) -> Changed:
            if conditions is not NO_CONDITIONS:
                conditions.check(self._look(transaction, begin, key, path))
            more(transaction)
            return self._change(transaction, begin, key, path, now_ns).put(bytes_, attributes)

        changed = await self.change_below(bucket, path.directory, change, self._committed, start)
        assert changed.info is not None
        bytes_.end(adopted=not changed.is_directory)
        return changed.info

    async def change_below(
        self,
        bucket: str,
        path: bytes,
        change: Callable[[Transaction, Start], T],
        committed: Callable[[T], None] = ignore,
        start: FindStart | None = None,
    ) -> T:
        """``Ledger.perform`` of a change below a directory of a bucket; found again as often as it moves meanwhile."""
        for _ in range(FIND_ATTEMPTS_MAX):
            begin = await self.places.resolve(bucket, path) if start is None else start
            try:
                return await self.volume.ledger.perform(partial(_from_start, change=change, start=begin), committed)
            except Moved:
                start = None
        raise Conflict(f"the directory {path!r} of bucket {bucket!r} goes and comes; try again")

    def _change(self, transaction: Transaction, start: Start, key: bytes, path: KeyPath, now_ns: int) -> KeyChange:
        return KeyChange(transaction, self.volume.directories, self.volume.orphans, start, key, path, now_ns)

    def _look(self, reader: Reader, start: Start, key: bytes, path: KeyPath) -> ObjectInfo | None:
        """The object of a key, or None."""
        return _object_at(reader, find(reader, self.volume.directories, start, path), key)

    async def _version(self, ino: Ino) -> int:
        return (await self.volume.ledger.look(lambda reader: inodes.get_inode(reader, ino))).version

    def _committed(self, changed: Changed | None) -> None:
        """The batch is visible: tell everybody."""
        if changed is None:
            return
        for ino, purged in changed.lost:
            self.volume.orphans.lost_its_name(ino, purged=purged)
        for change in changed.news:
            self.volume.publish(self, change)


def _from_start(transaction: Transaction, *, change: Callable[[Transaction, Start], T], start: FindStart) -> T:
    return change(transaction, start(transaction))


def _check_serial(reader: Reader, start: Start, expiry: Expiry) -> None:
    """Raise PreconditionFailed unless the rule by which something is to expire is still one of the bucket's."""
    serial = start.serial or bucket_serial(reader, start.bucket)
    if (start.bucket, serial) != (expiry.bucket, expiry.serial):
        raise PreconditionFailed("the rules have changed")


def source_attributes(source: ObjectInfo, versioning: Versioning) -> PutAttributes:
    """What a copy keeps of its source: all but its locks."""
    return PutAttributes(
        etag=source.etag,
        owner=source.owner,
        headers=source.headers,
        metadata=source.metadata,
        checksums=source.checksums,
        checksum_type=source.checksum_type,
        part_sizes=source.part_sizes,
        part_numbers=source.part_numbers,
        part_checksums=source.part_checksums,
        sealing=source.sealing,
        versioning=versioning,
        tags=source.tags,
    )


def _object_at(reader: Reader, place: Place | None, key: bytes) -> ObjectInfo | None:
    if place is None:
        return None
    record = objects.get_object(reader, place.ino, place.inode)
    return object_info(key, place.ino, place.inode, record)
