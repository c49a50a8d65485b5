"""Handlers for objects: PUT, GET, HEAD, DELETE, multi-delete, copy."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
import trio

from siltstone.core.object_types import BucketInfo, Conditions, Deleted, ObjectInfo, PutAttributes, Versioning
from siltstone.errors import (
    BucketChanged,
    DeletedObject,
    IsDeleteMarker,
    NoSuchBucket,
    NotFound,
    ObjectChanged,
    PreconditionFailed,
    SiltstoneError,
)
from siltstone.limits import FILE_BYTES_MAX, KEY_BYTES_MAX
from siltstone.s3gw.bucket_state import BucketState, bucket_state
from siltstone.s3gw.checksums import FULL_OBJECT, Digests, Expectation, expectation
from siltstone.s3gw.dates import http_date, iso_date
from siltstone.s3gw.encryption import (
    AES256,
    COPY_SOURCE,
    CUSTOMER,
    OpenedReader,
    Sealed,
    SealingWriter,
    key_of,
    refuse_mode,
    shown,
)
from siltstone.s3gw.encryption import reply_headers as encryption_headers
from siltstone.s3gw.errors import S3Error, s3_error
from siltstone.s3gw.lifecycle import expiration_headers
from siltstone.s3gw.lock import Lock, lock_headers, lock_of_headers, may_bypass
from siltstone.s3gw.ranges import parse_range
from siltstone.s3gw.reply import Header, ObjectStream, Reply, xml_reply
from siltstone.s3gw.request import (
    META_PREFIX,
    STORED_HEADERS,
    Request,
    conditions,
    copy_source,
    delete_conditions,
    new_object_access,
    new_object_sealing,
    refuse_what_is_not_there,
    stored_headers,
    user_metadata,
    write_conditions,
)
from siltstone.s3gw.router import Operation, Target
from siltstone.s3gw.store import ObjectReader, Writer
from siltstone.s3gw.tags import tags_of_header
from siltstone.s3gw.transfer import receive
from siltstone.s3gw.version_ids import NULL, made_headers, named_version, version_headers, version_wanted
from siltstone.s3gw.xml import Element

T = TypeVar("T")

PUT_BYTES_MAX = 5 * 1024**3
"""A single PUT or part; longer objects are multipart, as on S3."""

OPENINGS_MAX = 10
"""How often a GET or a copy is begun again because the object is changed all the time."""

DELETE_KEYS_MAX = 1000
DELETES_AT_ONCE = 32
"""So that the deletes of one request share log writes."""

_OVERRIDES = {f"response-{name}": name for name in STORED_HEADERS}
_READ_CONDITIONS = frozenset(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"))
_ABORT_SECONDS = 10.0
assert PUT_BYTES_MAX <= FILE_BYTES_MAX


# --- writing -------------------------------------------------------------------------------------------------------


async def put_object(request: Request) -> Reply:
    """PutObject."""
    check_size(request.body.size)
    bucket, info = await store_object(request)
    told = [("ETag", f'"{info.etag}"'), *checksum_headers(info.checksums, info.checksum_type)]
    told += await expiration_headers(request, bucket, info)
    return Reply(200, [*told, *made_headers(info.version_id), *encryption_headers(info.sealing)])


async def store_object(
    request: Request, *, size_min: int = 0, size_max: int = PUT_BYTES_MAX
) -> tuple[BucketInfo, ObjectInfo]:
    """Let the request's body be an object; its bucket, and the object. Raises EntityTooSmall, EntityTooLarge beside
    all that PUT may raise."""
    bucket = await request.bucket()
    check_key(request.key)
    headers = request.headers
    refuse_what_is_not_there(headers)
    expected = expectation(headers)
    state = await bucket_state(request.door.configurations, bucket)
    tags = tags_of_header(headers)
    lock = lock_of_headers(headers, state, request.clock.now_ns())
    kept, metadata, wanted = stored_headers(headers), user_metadata(headers), write_conditions(headers)
    access = await new_object_access(request, bucket)
    sealed = await new_object_sealing(request, bucket)
    writer = await request.store.begin_put(bucket.name, request.key, size_hint=request.body.size)
    try:
        if sealed is None:
            digests, size = await receive_checked(request, writer, expected, size_max)
        else:
            sealing = SealingWriter(writer, sealed.key, request.workers, request.door.random)
            digests, size = await receive_checked(request, sealing, expected, size_max)
            await sealing.finish()
        if size < size_min:
            raise S3Error("EntityTooSmall", ProposedSize=str(size), MinSizeAllowed=str(size_min))
        checksums = {expected.algorithm: digests.base64(expected.algorithm)}
        attributes = PutAttributes(
            etag=digests.digest("MD5").hex(),
            headers=kept,
            metadata=metadata,
            checksums=checksums,
            checksum_type=FULL_OBJECT,
            sealing={} if sealed is None else sealed.sealing,
            tags=tags,
        )
        try:
            info = await writer.commit(_as_decided(attributes, access, state, lock), wanted)
        except BucketChanged:
            bucket = await request.bucket()
            access = await new_object_access(request, bucket)
            state = await bucket_state(request.door.configurations, bucket)
            lock = lock_of_headers(headers, state, request.clock.now_ns())
            info = await writer.commit(_as_decided(attributes, access, state, lock), wanted)
    except BaseException:
        await abort(writer)
        raise
    return bucket, info


def _as_decided(
    attributes: PutAttributes, access: tuple[str, Sequence[str]], state: BucketState, lock: Lock
) -> PutAttributes:
    """The attributes of a new object with what its bucket's configuration decides: whose it is, who gets at it, its
    version and its lock."""
    owner, grants = access
    mode, until_ns, hold = lock
    return msgspec.structs.replace(
        attributes,
        owner=owner,
        grants=tuple(grants),
        versioning=state.versioning,
        lock_mode=mode,
        lock_until_ns=until_ns,
        legal_hold=hold,
    )


async def receive_checked(
    request: Request, writer: Writer, expected: Expectation, size_max: int = PUT_BYTES_MAX
) -> tuple[Digests, int]:
    """Write the request's body and verify everything that was announced of it; nothing is committed yet."""
    algorithms = {"MD5", expected.algorithm}
    is_hashed = len(request.payload) == 64
    if is_hashed:
        algorithms.add("SHA256")
    digests, size = await receive(request.body, writer, algorithms, request.workers, request.budget, size_max)
    if is_hashed and digests.digest("SHA256").hex() != request.payload:
        raise S3Error("XAmzContentSHA256Mismatch")
    expected.check(digests, request.body.trailers)
    return digests, size


async def abort(writer: Writer) -> None:
    """Forget what was written, also while the request is being cancelled."""
    with trio.CancelScope(shield=True), trio.move_on_after(_ABORT_SECONDS):
        await writer.abort()


def check_size(size: int | None) -> None:
    """Raise EntityTooLarge for a body whose length is known and too large."""
    if size is not None and size > PUT_BYTES_MAX:
        raise S3Error("EntityTooLarge", ProposedSize=str(size), MaxSizeAllowed=str(PUT_BYTES_MAX))


def check_key(key: bytes) -> None:
    """Raise KeyTooLongError for a key that S3 would not take."""
    if len(key) > KEY_BYTES_MAX:
        raise S3Error("KeyTooLongError", Size=str(len(key)), MaxSizeAllowed=str(KEY_BYTES_MAX))


async def copy_object(request: Request) -> Reply:
    """CopyObject: shares the bytes, moves none."""
    bucket = await request.bucket()
    check_key(request.key)
    headers = request.headers
    refuse_what_is_not_there(headers)
    access = await new_object_access(request, bucket)
    state = await bucket_state(request.door.configurations, bucket)
    source, source_version = await copy_source(request)
    directive = _directive(headers, "x-amz-metadata-directive")
    tagging = _directive(headers, "x-amz-tagging-directive")
    lock = lock_of_headers(headers, state, request.clock.now_ns())
    if directive == "COPY" and source == request.target and source_version is None:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    sealed = await new_object_sealing(request, bucket)

    async def copy() -> ObjectInfo:
        found = await _attributes(request, source, source_version, directive, tagging)
        attributes = _as_decided(found, access, state, lock)
        only_this = Conditions(if_match=found.etag)
        try:
            copied = await _copied_anew(request, source, source_version, attributes, only_this, sealed)
            return copied or await request.store.copy(
                source.bucket,
                source.key,
                bucket.name,
                request.key,
                attributes,
                write_conditions(headers),
                only_this,
                source_version=source_version,
                versioning=state.versioning,
            )
        except PreconditionFailed:
            if (await request.store.head(source.bucket, source.key, source_version)).etag == found.etag:
                raise
            raise ObjectChanged(f"the source {source.key!r} was changed while it was copied") from None

    info = await again_if_changed(copy)
    told = made_headers(info.version_id)
    if source_version is not None:
        told.append(("x-amz-copy-source-version-id", source_version or NULL))
    result: list[Element] = [("LastModified", iso_date(info.modified_ns)), ("ETag", f'"{info.etag}"')]
    result += checksum_elements(info.checksums, info.checksum_type)
    told += await expiration_headers(request, bucket, info)
    return xml_reply("CopyObjectResult", result, [*told, *encryption_headers(info.sealing)])


def _directive(headers: Mapping[str, str], name: str) -> str:
    directive = headers.get(name, "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", f"Unknown {name.removeprefix('x-amz-').replace('-', ' ')}: {directive}")
    return directive


async def _copied_anew(
    request: Request,
    source: Target,
    version: str | None,
    attributes: PutAttributes,
    wanted: Conditions,
    sealed: Sealed | None,
) -> ObjectInfo | None:
    """A copy whose bytes are written anew, since they are encrypted in one place or the other; None where they can be
    shared: both are plain, or both are encrypted with the volume's key."""
    mode = attributes.sealing.get("mode")
    shares = mode == AES256 and sealed is not None and sealed.sealing["mode"] == AES256
    if shares or (mode is None and sealed is None and COPY_SOURCE + "algorithm" not in request.headers):
        return None
    reader = await request.store.open(source.bucket, source.key, version)
    try:
        wanted.check(reader.info)
        opened = open_sealed(request, reader, COPY_SOURCE)
        writer = await request.store.begin_put(request.target.bucket, request.key, size_hint=opened.info.size)
        try:
            await copy_bytes(request, opened, 0, opened.info.size, writer, None if sealed is None else sealed.key)
            sealing = {} if sealed is None else sealed.sealing
            attributes = msgspec.structs.replace(
                attributes, sealing=sealing, part_sizes=(), part_numbers=(), part_checksums=()
            )
            return await writer.commit(attributes, write_conditions(request.headers))
        except BaseException:
            await abort(writer)
            raise
    finally:
        reader.close()


async def copy_bytes(
    request: Request, reader: ObjectReader, start: int, end: int, writer: Writer, key: bytes | None
) -> str:
    """Write the bytes [start, end) of an object, encrypted if there is a key; their MD5 in hex. Commits nothing."""
    digest = hashlib.md5(usedforsecurity=False)
    sealing = None if key is None else SealingWriter(writer, key, request.workers, request.door.random)
    at = start
    while at < end:
        piece = await reader.read(at, min(end - at, request.budget.piece_bytes))
        await request.workers.run(digest.update, piece)
        await (sealing or writer).write(piece)
        at += len(piece)
    if sealing is not None:
        await sealing.finish()
    return digest.hexdigest()


async def _attributes(
    request: Request, source: Target, version: str | None, directive: str, tagging: str
) -> PutAttributes:
    """The source's digests with the request's headers, metadata and tags, as far as they replace the source's. Raises
    PreconditionFailed when the source is not as the request wants it."""
    info = await request.store.head(source.bucket, source.key, version)
    conditions(request.headers, "x-amz-copy-source-").check(info)
    replaces = directive == "REPLACE"
    return PutAttributes(
        etag=info.etag,
        headers=stored_headers(request.headers) if replaces else info.headers,
        metadata=user_metadata(request.headers) if replaces else info.metadata,
        tags=tags_of_header(request.headers) if tagging == "REPLACE" else info.tags,
        checksums=info.checksums,
        checksum_type=info.checksum_type,
        part_sizes=info.part_sizes,
        part_numbers=info.part_numbers,
        part_checksums=info.part_checksums,
        sealing=info.sealing,
    )


# --- reading -------------------------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """The bytes [start, end) of an object that a request asks for, with the status and headers that say so."""

    start: int
    end: int
    status: int
    headers: tuple[Header, ...]


async def get_object(request: Request) -> Reply:
    """GetObject. The first piece is read before the head is sent, so that an error still has a status; and where the
    mount writes to the object meanwhile it is begun again. When it does so later the reply breaks off."""
    bucket = await request.bucket(checks_object=True)
    return await again_if_changed(partial(_get_opened, request, bucket))


async def again_if_changed(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt returns; begun again when the object was changed meanwhile, but not for ever."""
    for _ in range(OPENINGS_MAX - 1):
        with suppress(ObjectChanged):
            return await attempt()
    return await attempt()


async def _get_opened(request: Request, bucket: BucketInfo) -> Reply:
    version = version_wanted(request.query)
    overrides = _overrides(request)
    with marker_told(version):
        try:
            reader = await request.store.open(bucket.name, request.key, version)
        except NotFound:
            await _check_may_know(request, bucket)
            raise
    stream = None
    try:
        _check_part(request, reader.info)
        reader = open_sealed(request, reader)
        info = reader.info
        await request.check_object(bucket, info)
        if _is_unchanged(request.headers, info):
            return Reply(304, _validators(info))
        selection = _select(request, info)
        length = selection.end - selection.start
        first = b""
        if length:
            size = min(length, request.budget.piece_bytes)
            first = await reader.read(selection.start, size)
            assert len(first) == size, "an object is shorter than its size says"
        if len(first) < length:
            stream = ObjectStream(reader, selection.start + len(first), selection.end, request.budget)
        headers = _object_headers(request, info, selection, overrides)
        headers += version_headers(info.version_id, await _versioning(request, bucket))
        if version is None:
            headers += await expiration_headers(request, bucket, info)
        return Reply(selection.status, headers, first, content_length=length, stream=stream)
    finally:
        if stream is None:
            reader.close()


async def head_object(request: Request) -> Reply:
    """HeadObject."""
    bucket = await request.bucket(checks_object=True)
    version = version_wanted(request.query)
    overrides = _overrides(request)
    with marker_told(version):
        try:
            info = await request.store.head(bucket.name, request.key, version)
        except NotFound:
            await _check_may_know(request, bucket)
            raise
    await request.check_object(bucket, info)
    _check_part(request, info)
    refuse_mode(request.headers)
    key_of(info.sealing, request.headers, request.door.server)
    info = shown(info)
    if _is_unchanged(request.headers, info):
        return Reply(304, _validators(info))
    selection = _select(request, info)
    headers = _object_headers(request, info, selection, overrides)
    headers += version_headers(info.version_id, await _versioning(request, bucket))
    if version is None:
        headers += await expiration_headers(request, bucket, info)
    return Reply(selection.status, headers, content_length=selection.end - selection.start)


def _check_part(request: Request, info: ObjectInfo) -> None:
    """Raise InvalidPart for a part that an object does not have: that is said before a key is asked for."""
    if info.part_numbers and "partNumber" in request.query and request.part_number() not in info.part_numbers:
        raise S3Error("InvalidPart", "The requested part number is not satisfiable.")


def open_sealed(request: Request, reader: ObjectReader, prefix: str = CUSTOMER) -> ObjectReader:
    """A reader of the bytes as they were sent, by the keys in headers with a prefix. Raises S3Error."""
    if prefix == CUSTOMER:
        refuse_mode(request.headers)
    key = key_of(reader.info.sealing, request.headers, request.door.server, prefix)
    return reader if key is None else OpenedReader(reader, key)


async def _check_may_know(request: Request, bucket: BucketInfo) -> None:
    """Raise AccessDenied unless the sender may know that a key is not there."""
    if not request.has_everything(bucket):
        request.check_may_list(await request.configuration(bucket))


async def _versioning(request: Request, bucket: BucketInfo) -> Versioning:
    return (await bucket_state(request.door.configurations, bucket)).versioning


@contextmanager
def marker_told(version: str | None) -> Iterator[None]:
    """Say of what is not there, or has no bytes, that it is a delete marker."""
    try:
        yield
    except DeletedObject as error:
        told = (("x-amz-delete-marker", "true"), ("x-amz-version-id", str(error) or NULL))
        raise S3Error("NoSuchKey", headers=told) from None
    except IsDeleteMarker:
        known = (("x-amz-delete-marker", "true"), ("x-amz-version-id", version or NULL), ("Allow", "DELETE"))
        raise S3Error("MethodNotAllowed", headers=known) from None
    except NoSuchBucket:
        raise
    except NotFound as error:
        raise S3Error(s3_error(error).code, headers=(("x-amz-delete-marker", "false"),)) from None


def _is_unchanged(headers: Mapping[str, str], info: ObjectInfo) -> bool:
    """Evaluate the conditions of a read: True means 304. Raises PreconditionFailed."""
    if _READ_CONDITIONS.isdisjoint(headers):
        return False
    wanted = conditions(headers)
    try:
        Conditions(if_match=wanted.if_match, if_unmodified_since_ns=wanted.if_unmodified_since_ns).check(info)
    except PreconditionFailed as error:
        raise S3Error("PreconditionFailed", Condition=str(error)) from None
    try:
        Conditions(if_none_match=wanted.if_none_match, if_modified_since_ns=wanted.if_modified_since_ns).check(info)
    except PreconditionFailed:
        return True
    return False


def _select(request: Request, info: ObjectInfo) -> Selection:
    """Which bytes: all, a range, or a part. Raises S3Error."""
    text = request.headers.get("range")
    if "partNumber" in request.query:
        if text is not None:
            raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
        return _select_part(request.part_number(), info, wants_checksum=_wants_checksum(request))
    found = None if text is None else parse_range(text, info.size)
    if found is None:
        return Selection(0, info.size, 200, ())
    return Selection(found.start, found.end, 206, (_content_range(found.start, found.end, info.size),))


def _select_part(number: int, info: ObjectInfo, *, wants_checksum: bool) -> Selection:
    if not info.part_sizes:
        if number != 1:
            raise S3Error("InvalidPart", "The requested part number is not satisfiable.")
        return Selection(0, info.size, 200, ())
    if number not in info.part_numbers:
        raise S3Error("InvalidPart", "The requested part number is not satisfiable.")
    index = info.part_numbers.index(number)
    start = sum(info.part_sizes[:index])
    end = start + info.part_sizes[index]
    headers = [("x-amz-mp-parts-count", str(len(info.part_sizes)))]
    if wants_checksum and info.part_checksums:
        headers += checksum_headers(dict.fromkeys(info.checksums, info.part_checksums[index]), info.checksum_type)
    if end > start:
        headers.append(_content_range(start, end, info.size))
    return Selection(start, end, 206, tuple(headers))


def _content_range(start: int, end: int, size: int) -> Header:
    return ("Content-Range", f"bytes {start}-{end - 1}/{size}")


def _validators(info: ObjectInfo) -> list[Header]:
    return [("ETag", f'"{info.etag}"'), ("Last-Modified", http_date(info.modified_ns))]


def _object_headers(
    request: Request, info: ObjectInfo, selection: Selection, overrides: Mapping[str, str]
) -> list[Header]:
    headers = [*_validators(info), ("Accept-Ranges", "bytes"), *selection.headers]
    stored = {"content-type": "binary/octet-stream", **info.headers, **overrides}
    headers += [(_spelled(name), value) for name, value in stored.items()]
    headers += encryption_headers(info.sealing)
    headers += [(META_PREFIX + name, value) for name, value in info.metadata.items()]
    if info.tags:
        headers.append(("x-amz-tagging-count", str(len(info.tags))))
    if info.lock_mode or info.legal_hold:
        headers += lock_headers(info)
    if selection.status == 200 and _wants_checksum(request):
        headers += checksum_headers(info.checksums, info.checksum_type)
    return headers


def _wants_checksum(request: Request) -> bool:
    return request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"


_SPELLED = {name: name.title() for name in STORED_HEADERS}


def _spelled(name: str) -> str:
    return _SPELLED.get(name, name)


def _overrides(request: Request) -> dict[str, str]:
    """The headers that the query replaces. Raises InvalidArgument for a value that is not one line."""
    values = {}
    for parameter, name in _OVERRIDES.items():
        text = request.query.get(parameter)
        if text is not None:
            if not text.isprintable():
                raise S3Error("InvalidArgument", f"{parameter} is not a header's value.", ArgumentName=parameter)
            values[name] = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return values


def checksum_headers(checksums: Mapping[str, str], kind: str) -> list[Header]:
    """An object's checksums as headers of a reply."""
    headers = [(f"x-amz-checksum-{name.lower()}", value) for name, value in checksums.items()]
    return [*headers, ("x-amz-checksum-type", kind)] if headers and kind else headers


def checksum_elements(checksums: Mapping[str, str], kind: str = "") -> list[Element]:
    """An object's or part's checksums as elements of a reply."""
    elements: list[Element] = [(f"Checksum{name}", value) for name, value in checksums.items()]
    return [*elements, ("ChecksumType", kind)] if elements and kind else elements


# --- deleting ------------------------------------------------------------------------------------------------------


async def delete_object(request: Request) -> Reply:
    """DeleteObject; deleting what is not there is success."""
    bucket = await request.bucket()
    refuse_what_is_not_there(request.headers)
    version = version_wanted(request.query)
    state = await bucket_state(request.door.configurations, bucket)
    deleted = await request.store.delete(
        bucket.name,
        request.key,
        delete_conditions(
            request.headers.get("if-match"),
            request.headers.get("x-amz-if-match-size"),
            request.headers.get("x-amz-if-match-last-modified-time"),
        ),
        versioning=state.versioning,
        version_id=version,
        owner=request.identity.owner,
        may_bypass=await may_bypass(request, bucket.name, request.key),
    )
    told: list[Header] = []
    if version is not None or state.versioning is not Versioning.OFF:
        told.append(("x-amz-version-id", (deleted.version_id if version is None else version) or NULL))
    if deleted.is_marker:
        told.append(("x-amz-delete-marker", "true"))
    return Reply(204, told)


class _Delete(NamedTuple):
    """One key of a multi-delete."""

    key: str
    version: str | None
    etag: str | None
    size: str | None
    modified: str | None


async def delete_objects(request: Request) -> Reply:
    """DeleteObjects: each key by itself, many at a time, results in the order of the request."""
    bucket = await request.store.bucket_of_key(request.target.bucket)
    document = await request.document(needs_digest=True)
    assert document is not None
    if document.name != "Delete":
        raise S3Error("MalformedXML")
    quiet = (document.text_of("Quiet") or "").strip().lower() == "true"
    deletes = []
    for node in document.all("Object"):
        key = node.text_of("Key")
        if not key:
            raise S3Error("MalformedXML")
        told = (node.text_of(name) for name in ("VersionId", "ETag", "Size", "LastModifiedTime"))
        deletes.append(_Delete(key, *told))
    if not 1 <= len(deletes) <= DELETE_KEYS_MAX:
        raise S3Error("MalformedXML")
    state = await bucket_state(request.door.configurations, bucket)
    results: list[Deleted | S3Error] = [Deleted(False)] * len(deletes)
    pending = iter(enumerate(deletes))

    async def work() -> None:
        for index, delete in pending:
            try:
                if not request.has_everything(bucket):
                    key = raw_key(delete.key)
                    await request.authorize(Operation.DELETE_OBJECT, bucket.name, key, version=delete.version)
                results[index] = await _delete_one(request, bucket.name, state, delete)
            except SiltstoneError as error:
                results[index] = s3_error(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(DELETES_AT_ONCE, len(deletes))):
            nursery.start_soon(work)
    return xml_reply("DeleteResult", _delete_results(deletes, results, quiet))


def raw_key(text: str) -> bytes:
    """A key in a document, as bytes."""
    return text.encode("utf-8", "surrogatepass")


async def _delete_one(request: Request, bucket: str, state: BucketState, delete: _Delete) -> Deleted:
    key = raw_key(delete.key)
    return await request.store.delete(
        bucket,
        key,
        delete_conditions(delete.etag, delete.size, delete.modified),
        versioning=state.versioning,
        version_id=None if delete.version is None else named_version(delete.version),
        owner=request.identity.owner,
        may_bypass=await may_bypass(request, bucket, key),
    )


def _delete_results(deletes: list[_Delete], results: list[Deleted | S3Error], quiet: bool) -> list[Element]:
    lines: list[Element] = []
    for delete, result in zip(deletes, results, strict=True):
        told: list[Element] = [("Key", delete.key)]
        if delete.version is not None:
            told.append(("VersionId", delete.version))
        if isinstance(result, S3Error):
            lines.append(("Error", [*told, ("Code", result.code), ("Message", result.message)]))
        elif not quiet:
            if result.is_marker:
                told += [("DeleteMarker", True), ("DeleteMarkerVersionId", result.version_id or NULL)]
            lines.append(("Deleted", told))
    return lines
