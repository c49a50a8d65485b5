"""Multipart uploads: parts are anonymous inodes that Part records name; a completion shares their extents.

Until the batch that completes or aborts an upload, its parts stay whole: a crash on the way costs nothing. That batch
marks the upload as finished; the parts are then removed in steps, also after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

from siltstone.core.object_bytes import AnonymousBytes, SharedBytes, WrittenBytes
from siltstone.core.object_paths import split_key
from siltstone.core.object_types import (
    NO_CONDITIONS,
    CompletePart,
    Conditions,
    ObjectInfo,
    PartInfo,
    PutAttributes,
    UploadInfo,
    UploadListing,
    Versioning,
)
from siltstone.core.objects import Objects, OpenSource
from siltstone.core.places import Start
from siltstone.core.upload_cleaner import parts_of
from siltstone.errors import InvalidArgument, InvalidPart, InvalidPartOrder, NoSuchUpload, PartTooSmall
from siltstone.limits import MIB, MULTIPART_PART_BYTES_MIN, MULTIPART_PARTS_MAX
from siltstone.meta import inodes, keys
from siltstone.meta.records import Part, Upload, decode, encode
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino, partition_of


class PartPut:
    """A part under way."""

    def __init__(self, uploads: Uploads, bucket: str, key: bytes, upload_id: str, number: int, bucket_ino: Ino) -> None:
        self._uploads = uploads
        self.where = (bucket, key, upload_id)
        self.number = number
        self.writer = WrittenBytes(uploads.objects.volume, bucket_ino)

    async def write(self, buffer: bytes | bytearray | memoryview) -> None:
        """Take over further bytes; the buffer must not change any more."""
        await self.writer.write(buffer)

    async def commit(self, *, etag: str, checksums: dict[str, str]) -> PartInfo:
        """Let the bytes be the part, replacing an earlier one of its number; durable on return. Raises NoSuchUpload."""
        try:
            await self.writer.ready()
            info = await self._uploads.put_part(*self.where, self.number, self.writer, etag, checksums)
        except BaseException:
            self.writer.end(adopted=False)
            raise
        self.writer.end(adopted=True)
        await self._uploads.objects.volume.ledger.sync()
        return info

    async def abort(self) -> None:
        """Give the bytes up."""
        self.writer.end(adopted=False)


class Uploads:
    """The multipart uploads of all buckets."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._volume = objects.volume

    # --- looking ---------------------------------------------------------------------------------------------------

    async def upload(self, bucket: str, key: bytes, upload_id: str) -> UploadInfo:
        """An upload that is under way. Raises NoSuchUpload, NoSuchBucket."""
        start = await self.objects.places.resolve(bucket, b"")
        return await self._volume.ledger.look(
            lambda reader: _info(key, upload_id, _record(reader, start(reader).bucket, key, upload_id))
        )

    async def list_parts(
        self, bucket: str, key: bytes, upload_id: str, *, after: int = 0, limit: int
    ) -> tuple[list[PartInfo], bool]:
        """Up to ``limit`` parts with numbers above ``after``, and whether there are more. Raises NoSuchUpload."""
        start = await self.objects.places.resolve(bucket, b"")

        def question(reader: Reader) -> list[PartInfo]:
            bucket_ino = start(reader).bucket
            _record(reader, bucket_ino, key, upload_id)
            parts = parts_of(reader, bucket_ino, bytes.fromhex(upload_id), after)
            return [
                PartInfo(number, part.size, part.etag, part.modified_ns, part.checksums)
                for number, part in islice(parts, limit + 1)
            ]

        found = await self._volume.ledger.look(question)
        return found[:limit], len(found) > limit

    async def list_uploads(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int,
    ) -> UploadListing:
        """A page of uploads by key and id, behind (``after_key``, ``after_upload``); without the latter, behind the
        whole key."""
        start = await self.objects.places.resolve(bucket, b"")

        def question(reader: Reader) -> UploadListing:
            uploads: list[UploadInfo] = []
            prefixes: list[bytes] = []
            for key, value in reader.scan(*keys.prefix_range(keys.uploads(start(reader).bucket, prefix))):
                name, raw_id = keys.upload_parts(key)
                record, upload_id = decode(Upload, value), raw_id.hex()
                if record.finished or _is_before(name, upload_id, after_key, after_upload):
                    continue
                at = name.find(delimiter, len(prefix)) if delimiter else -1
                folded = name[: at + len(delimiter)] if at >= 0 else None
                if folded is not None and (folded in prefixes[-1:] or (after_key and folded <= after_key)):
                    continue
                if len(uploads) + len(prefixes) == limit:
                    return UploadListing(uploads, prefixes, True)
                if folded is not None:
                    prefixes.append(folded)
                else:
                    uploads.append(_info(name, upload_id, record))
            return UploadListing(uploads, prefixes, False)

        return await self._volume.ledger.look(question)

    # --- changing --------------------------------------------------------------------------------------------------

    async def create_upload(
        self,
        bucket: str,
        key: bytes,
        *,
        owner: str,
        headers: dict[str, str],
        metadata: dict[str, str],
        checksum_algorithm: str = "",
        checksum_type: str = "",
        grants: Sequence[str] = (),
        sealing: Mapping[str, str] | None = None,
        upload_id: str = "",
        tags: dict[str, str] | None = None,
        lock: tuple[str, int, bool] = ("", 0, False),
    ) -> str:
        """Start an upload; its id, 32 hex digits, random unless it is given. Durable on return.

        ``tags`` and ``lock`` (mode, until when, legal hold) are those of the object that is to be.
        """
        split_key(key)
        await self._volume.ledger.admit(1)
        raw_id = bytes.fromhex(upload_id) if upload_id else self._volume.ledger.random.bytes(16)
        now_ns = self._volume.ledger.clock.now_ns()
        record = Upload(
            owner,
            now_ns,
            headers,
            metadata,
            checksum_algorithm,
            checksum_type,
            False,
            list(grants),
            dict(sealing or {}),
            tags or {},
            *lock,
        )
        await self.objects.change_below(
            bucket,
            b"",
            lambda transaction, start: transaction.put(keys.upload(start.bucket, key, raw_id), encode(record)),
        )
        await self._volume.ledger.sync()
        return raw_id.hex()

    async def begin_part(self, bucket: str, key: bytes, upload_id: str, number: int) -> PartPut:
        """Start a part. Raises NoSuchUpload, InvalidArgument."""
        if not 1 <= number <= MULTIPART_PARTS_MAX:
            raise InvalidArgument(f"part number {number} is not in 1 ... {MULTIPART_PARTS_MAX}")
        await self.upload(bucket, key, upload_id)
        return PartPut(self, bucket, key, upload_id, number, await self.objects.find_bucket(bucket))

    async def copy_part(
        self,
        source_bucket: str,
        source_key: bytes,
        source_range: tuple[int, int] | None,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        source_conditions: Conditions = NO_CONDITIONS,
        source_version: str | None = None,
    ) -> PartInfo:
        """A part whose bytes are a range (first, last byte) of another object, shared. Durable on return.

        What is shared is read once, for the MD5 that is its ETag.
        """
        await (await self.begin_part(bucket, key, upload_id, number)).abort()
        near = await self.objects.find_bucket(bucket)
        return await self.copy_part_of(
            partial(self.objects.open, source_bucket, source_key, source_version),
            source_range,
            bucket,
            key,
            upload_id,
            number,
            source_conditions,
            near,
        )

    async def copy_part_of(
        self,
        open_source: OpenSource,
        source_range: tuple[int, int] | None,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        source_conditions: Conditions,
        bucket_ino: Ino,
    ) -> PartInfo:
        """The same of what ``open_source`` opens."""
        _, shared = await self.objects.share(open_source, source_conditions, source_range, bucket_ino)
        try:
            md5 = hashlib.md5(usedforsecurity=False)
            for at in range(0, shared.size, MIB):
                md5.update(await shared.read(at, MIB))
            await self._volume.ledger.admit(1)
            info = await self.put_part(bucket, key, upload_id, number, shared, md5.hexdigest(), {})
        except BaseException:
            shared.end(adopted=False)
            raise
        shared.end(adopted=True)
        await self._volume.ledger.sync()
        return info

    async def put_part(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        number: int,
        bytes_: AnonymousBytes,
        etag: str,
        checksums: dict[str, str],
    ) -> PartInfo:
        """Let an anonymous inode be a part, in one batch."""
        now_ns = self._volume.ledger.clock.now_ns()

        def change(transaction: Transaction, start: Start) -> Ino | None:
            bucket_ino = start.bucket
            _record(transaction, bucket_ino, key, upload_id)
            ino, inode = bytes_.place(transaction, bucket_ino, now_ns)
            owner = inodes.get_inode(transaction, bucket_ino)
            inode.uid, inode.gid = owner.uid, owner.gid
            inodes.put_inode(transaction, ino, inode)
            transaction.delete(keys.orphan(ino))
            part_key = keys.part(partition_of(bucket_ino), bytes.fromhex(upload_id), number)
            before = transaction.get(part_key)
            replaced = Ino(decode(Part, before).ino) if before is not None else None
            if replaced is not None:
                inodes.mark_orphan(transaction, replaced)
            transaction.put(part_key, encode(Part(ino, bytes_.size, etag, now_ns, checksums)))
            return replaced

        def committed(replaced: Ino | None) -> None:
            if replaced is not None:
                self._volume.orphans.add(replaced)

        await self.objects.change_below(bucket, b"", change, committed)
        return PartInfo(number, bytes_.size, etag, now_ns, checksums)

    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload_id: str,
        parts: Sequence[CompletePart],
        *,
        checksums: dict[str, str],
        checksum_type: str = "",
        conditions: Conditions = NO_CONDITIONS,
        versioning: Versioning = Versioning.OFF,
    ) -> ObjectInfo:
        """Let the listed parts, one after the other, be the object; atomic, durable on return. No data moves.

        Raises NoSuchUpload, InvalidPart, InvalidPartOrder, PartTooSmall, and what a PUT's commit raises.
        """
        path = split_key(key)
        bucket_ino = await self.objects.find_bucket(bucket)

        def choose(reader: Reader) -> tuple[Upload, list[tuple[int, Part]]]:
            upload = _record(reader, bucket_ino, key, upload_id)
            return upload, _choose(reader, bucket_ino, bytes.fromhex(upload_id), parts)

        upload, chosen = await self._volume.ledger.look(choose)
        digest = hashlib.md5(b"".join(_raw_md5(part.etag) for _, part in chosen), usedforsecurity=False).hexdigest()
        attributes = PutAttributes(
            etag=f"{digest}-{len(chosen)}",
            owner=upload.owner,
            headers=upload.headers,
            metadata=upload.metadata,
            checksums=checksums,
            checksum_type=checksum_type,
            part_sizes=tuple(part.size for _, part in chosen),
            part_numbers=tuple(number for number, _ in chosen),
            part_checksums=_part_checksums(next(iter(checksums), ""), [part for _, part in chosen]),
            grants=tuple(upload.grants),
            sealing=upload.sealing,
            versioning=versioning,
            tags=upload.tags,
            lock_mode=upload.lock_mode,
            lock_until_ns=upload.lock_until_ns,
            legal_hold=upload.legal_hold,
        )
        held = [Ino(part.ino) for _, part in chosen]
        for ino in held:
            self._volume.orphans.hold(ino)
        shared = SharedBytes(self._volume, bucket_ino)
        try:
            for _, part in chosen:
                await shared.append(Ino(part.ino), 0, part.size)
            await self.objects.flush_key(bucket, path)
            await self._volume.ledger.admit(1)

            def finish(transaction: Transaction) -> None:
                # Another completion or an abort may have come while the extents were shared.
                record, still = choose(transaction)
                if chosen != still:
                    raise InvalidPart("a part was uploaded again while the upload was completed")
                _put_finished(transaction, bucket_ino, key, upload_id, record)

            info = await self.objects.put(bucket, key, path, shared, attributes, conditions, finish)
        except BaseException:
            shared.end(adopted=False)
            raise
        finally:
            for ino in held:
                self._volume.orphans.let_go(ino)
        shared.end(adopted=True)
        self._volume.upload_cleaner.wake()
        await self._volume.wait_done()
        return info

    async def abort_upload(self, bucket: str, key: bytes, upload_id: str) -> None:
        """Give an upload up with all its parts; durable on return. Raises NoSuchUpload."""
        await self._volume.ledger.admit()

        def change(transaction: Transaction, start: Start) -> None:
            record = _record(transaction, start.bucket, key, upload_id)
            _put_finished(transaction, start.bucket, key, upload_id, record)

        await self.objects.change_below(bucket, b"", change, lambda _: self._volume.upload_cleaner.wake())
        await self._volume.ledger.sync()


def _record(reader: Reader, bucket_ino: Ino, key: bytes, upload_id: str) -> Upload:
    """The record of an upload that is under way. Raises NoSuchUpload."""
    try:
        raw_id = bytes.fromhex(upload_id)
    except ValueError:
        raw_id = b""
    if len(raw_id) == 16:
        value = reader.get(keys.upload(bucket_ino, key, raw_id))
        record = decode(Upload, value) if value is not None else None
        if record is not None and not record.finished:
            return record
    raise NoSuchUpload(f"there is no upload {upload_id!r} for key {key!r}")


def _put_finished(transaction: Transaction, bucket_ino: Ino, key: bytes, upload_id: str, record: Upload) -> None:
    record.finished = True
    transaction.put(keys.upload(bucket_ino, key, bytes.fromhex(upload_id)), encode(record))


def _choose(reader: Reader, bucket_ino: Ino, upload_id: bytes, parts: Sequence[CompletePart]) -> list[tuple[int, Part]]:
    """The parts that a completion lists, as they were uploaded. Raises InvalidPart, InvalidPartOrder, PartTooSmall."""
    if not parts:
        raise InvalidPart("a completion must list at least one part")
    numbers = [part.number for part in parts]
    if sorted(set(numbers)) != numbers:
        raise InvalidPartOrder("the parts of a completion must be in ascending order")
    uploaded = dict(parts_of(reader, bucket_ino, upload_id, 0))
    chosen: list[tuple[int, Part]] = []
    for part in parts:
        found = uploaded.get(part.number)
        if found is None or found.etag != part.etag:
            raise InvalidPart(f"part {part.number} was not uploaded, or its ETag is not {part.etag!r}")
        for algorithm, value in part.checksums.items():
            if found.checksums.get(algorithm, value) != value:
                raise InvalidPart(f"part {part.number} has another {algorithm}")
        chosen.append((part.number, found))
    for number, found in chosen[:-1]:
        if found.size < MULTIPART_PART_BYTES_MIN:
            raise PartTooSmall(f"part {number} has {found.size} bytes, at least {MULTIPART_PART_BYTES_MIN} are needed")
    return chosen


def _part_checksums(algorithm: str, parts: Sequence[Part]) -> tuple[str, ...]:
    """The checksums of parts; nothing where one has none of that algorithm."""
    found = tuple(part.checksums[algorithm] for part in parts if algorithm in part.checksums)
    return found if len(found) == len(parts) else ()


def _raw_md5(etag: str) -> bytes:
    """The bytes that an ETag stands for; one that is no MD5 (a part copied from a mount's file) stands for itself."""
    try:
        return bytes.fromhex(etag)
    except ValueError:
        return etag.encode()


def _is_before(name: bytes, upload_id: str, after_key: bytes, after_upload: str) -> bool:
    if not after_key:
        return False
    return name < after_key or (name == after_key and (not after_upload or upload_id <= after_upload))


def _info(key: bytes, upload_id: str, record: Upload) -> UploadInfo:
    return UploadInfo(
        key=key,
        upload_id=upload_id,
        owner=record.owner,
        created_ns=record.created_ns,
        headers=record.headers,
        metadata=record.metadata,
        checksum_algorithm=record.checksum_algorithm,
        checksum_type=record.checksum_type,
        sealing=record.sealing,
        tags=record.tags,
        lock_mode=record.lock_mode,
        lock_until_ns=record.lock_until_ns,
        legal_hold=record.legal_hold,
    )
