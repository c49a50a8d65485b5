"""Handlers for multipart uploads."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import quote_from_bytes

import msgspec

from siltstone.core.object_types import CompletePart, ObjectInfo, PartInfo, UploadInfo
from siltstone.errors import BucketChanged, NoSuchUpload, NotFound
from siltstone.limits import MULTIPART_PARTS_MAX
from siltstone.s3gw.bucket_state import bucket_state
from siltstone.s3gw.buckets import owner_elements
from siltstone.s3gw.checksums import (
    ALGORITHMS,
    DEFAULT_ALGORITHM,
    DIGEST_BYTES,
    FULL_OBJECT,
    HEADERS,
    combine,
    expectation,
    upload_type,
)
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.encryption import COPY_SOURCE, SealingWriter, key_of, shown
from siltstone.s3gw.encryption import reply_headers as encryption_headers
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.lifecycle import abortion_headers, expiration_headers
from siltstone.s3gw.listing import raw
from siltstone.s3gw.lock import lock_of_headers
from siltstone.s3gw.objects import (
    abort,
    check_key,
    check_size,
    checksum_elements,
    checksum_headers,
    copy_bytes,
    open_sealed,
    receive_checked,
)
from siltstone.s3gw.ranges import parse_copy_range
from siltstone.s3gw.reply import Header, Reply, xml_reply
from siltstone.s3gw.request import (
    PAGE_MAX,
    Request,
    conditions,
    copy_source,
    new_object_access,
    new_object_sealing,
    refuse_what_is_not_there,
    stored_headers,
    user_metadata,
    write_conditions,
)
from siltstone.s3gw.router import Target
from siltstone.s3gw.sealed import plain_size
from siltstone.s3gw.tags import tags_of_header
from siltstone.s3gw.version_ids import made_headers
from siltstone.s3gw.xml import Element, Node, encode_key


async def create_multipart_upload(request: Request) -> Reply:
    """CreateMultipartUpload."""
    bucket = await request.bucket()
    check_key(request.key)
    headers = request.headers
    refuse_what_is_not_there(headers)
    algorithm = headers.get("x-amz-checksum-algorithm", "").upper()
    if algorithm and algorithm not in DIGEST_BYTES:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the "
            f"valid types: [{', '.join(ALGORITHMS)}]",
        )
    state = await bucket_state(request.door.configurations, bucket)
    kind = upload_type(algorithm, headers.get("x-amz-checksum-type", "").upper())
    owner, grants = await new_object_access(request, bucket)
    sealed = await new_object_sealing(request, bucket)
    sealing = {} if sealed is None else sealed.sealing
    upload_id = await request.store.create_upload(
        bucket.name,
        request.key,
        owner=owner,
        headers=stored_headers(headers),
        metadata=user_metadata(headers),
        checksum_algorithm=algorithm,
        checksum_type=kind,
        grants=grants,
        sealing=sealing,
        tags=tags_of_header(headers),
        lock=lock_of_headers(headers, state, request.clock.now_ns()),
    )
    told: list[Header] = encryption_headers(sealing)
    told += await abortion_headers(request, bucket, request.clock.now_ns())
    if algorithm:
        told += [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", kind)]
    return xml_reply(
        "InitiateMultipartUploadResult",
        [("Bucket", bucket.name), ("Key", encode_key(request.key, url=False)), ("UploadId", upload_id)],
        told,
    )


async def _upload(request: Request) -> UploadInfo:
    """The upload that the request names, in a bucket of the sender. Raises NoSuchUpload."""
    return await request.store.upload((await request.bucket()).name, request.key, request.query["uploadId"])


async def upload_part(request: Request) -> Reply:
    """UploadPart."""
    upload = await _upload(request)
    number = request.part_number()
    refuse_what_is_not_there(request.headers)
    expected = expectation(request.headers, default=upload.checksum_algorithm or DEFAULT_ALGORITHM)
    if upload.checksum_algorithm and expected.algorithm != upload.checksum_algorithm:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.checksum_algorithm.lower()}, actual "
            f"checksum Type: {expected.algorithm.lower()}",
        )
    check_size(request.body.size)
    key = key_of(upload.sealing, request.headers, request.door.server)
    writer = await request.store.begin_part(request.target.bucket, request.key, upload.upload_id, number)
    try:
        if key is None:
            digests, _ = await receive_checked(request, writer, expected)
        else:
            sealing = SealingWriter(writer, key, request.workers, request.door.random)
            digests, _ = await receive_checked(request, sealing, expected)
            await sealing.finish()
        checksums = {expected.algorithm: digests.base64(expected.algorithm)}
        etag = digests.digest("MD5").hex()
        try:
            part = await writer.commit(etag=etag, checksums=checksums)
        except BucketChanged:
            await request.bucket()
            part = await writer.commit(etag=etag, checksums=checksums)
    except BaseException:
        await abort(writer)
        raise
    told = checksum_headers(part.checksums, "") if upload.checksum_algorithm or expected.named else []
    return Reply(200, [("ETag", f'"{part.etag}"'), *told, *encryption_headers(upload.sealing)])


async def upload_part_copy(request: Request) -> Reply:
    """UploadPartCopy: shares the bytes, moves none."""
    upload = await _upload(request)
    number = request.part_number()
    key_of(upload.sealing, request.headers, request.door.server)  # before anything is read
    source, source_version = await copy_source(request)
    text = request.headers.get("x-amz-copy-source-range")
    info = await request.store.head(source.bucket, source.key, source_version)
    wanted: tuple[int, int] | None = None
    if text is not None:
        start, end = parse_copy_range(text, shown(info).size)
        wanted = (start, end - 1)
    if info.sealing or upload.sealing or COPY_SOURCE + "algorithm" in request.headers:
        part = await _part_copied_anew(request, upload, source, source_version, wanted, number)
        return _part_copied(part, upload)
    part = await request.store.copy_part(
        source.bucket,
        source.key,
        wanted,
        request.target.bucket,
        request.key,
        upload.upload_id,
        number,
        conditions(request.headers, "x-amz-copy-source-"),
        source_version,
    )
    return _part_copied(part, upload)


def _part_copied(part: PartInfo, upload: UploadInfo) -> Reply:
    result: list[Element] = [("LastModified", iso_date(part.modified_ns)), ("ETag", f'"{part.etag}"')]
    return xml_reply("CopyPartResult", result + checksum_elements(part.checksums), encryption_headers(upload.sealing))


async def _part_copied_anew(
    request: Request,
    upload: UploadInfo,
    source: Target,
    version: str | None,
    wanted: tuple[int, int] | None,
    number: int,
) -> PartInfo:
    """A part whose bytes are written anew, since they are encrypted in one place or the other."""
    key = key_of(upload.sealing, request.headers, request.door.server)
    reader = await request.store.open(source.bucket, source.key, version)
    try:
        conditions(request.headers, "x-amz-copy-source-").check(reader.info)
        opened = open_sealed(request, reader, COPY_SOURCE)
        first, last = wanted or (0, opened.info.size - 1)
        if last >= opened.info.size:
            raise S3Error("InvalidArgument", "The source was replaced by a shorter one.")
        writer = await request.store.begin_part(request.target.bucket, request.key, upload.upload_id, number)
        try:
            etag = await copy_bytes(request, opened, first, last + 1, writer, key)
            return await writer.commit(etag=etag, checksums={})
        except BaseException:
            await abort(writer)
            raise
    finally:
        reader.close()


async def abort_multipart_upload(request: Request) -> Reply:
    """AbortMultipartUpload."""
    upload = await _upload(request)
    await request.store.abort_upload(request.target.bucket, request.key, upload.upload_id)
    return Reply(204)


# --- completing ----------------------------------------------------------------------------------------------------


async def complete_multipart_upload(request: Request) -> Reply:
    """CompleteMultipartUpload. Doing it again is success while the object is still the one that it made."""
    bucket = await request.bucket()
    refuse_what_is_not_there(request.headers)
    document = await request.document(may_be_empty=True, has_checksum=False)
    if document is None:
        raise S3Error("MalformedXML")
    parts = _parts_of(document)
    state = await bucket_state(request.door.configurations, bucket)
    try:
        upload = await _upload(request)
    except NoSuchUpload:
        info = await _completed_before(request, parts)
    else:
        key_of(upload.sealing, request.headers, request.door.server)  # who does not have it does not complete it
        checksums, kind = await _final_checksums(request, upload, parts)
        info = await request.store.complete_upload(
            bucket.name,
            request.key,
            upload.upload_id,
            parts,
            checksums=checksums,
            checksum_type=kind,
            conditions=write_conditions(request.headers),
            versioning=state.versioning,
        )
    host = request.headers.get("host", "")
    location = f"http://{host}/{bucket.name}/{quote_from_bytes(request.key)}"
    children: list[Element] = [
        ("Location", location),
        ("Bucket", bucket.name),
        ("Key", encode_key(request.key, url=False)),
        ("ETag", f'"{info.etag}"'),
    ]
    children += checksum_elements(info.checksums, info.checksum_type)
    told = [*made_headers(info.version_id), *encryption_headers(info.sealing)]
    told += await expiration_headers(request, bucket, info)
    return xml_reply("CompleteMultipartUploadResult", children, told)


def _parts_of(document: Node) -> list[CompletePart]:
    """The parts that a completion names; of a number that comes twice in a row, the last. Raises MalformedXML,
    InvalidPartOrder."""
    if document.name != "CompleteMultipartUpload":
        raise S3Error("MalformedXML")
    parts: list[CompletePart] = []
    for node in document.all("Part"):
        number, etag = (node.text_of("PartNumber") or "").strip(), node.text_of("ETag")
        if etag is None or not (number.isascii() and number.isdigit() and len(number) <= 5):
            raise S3Error("MalformedXML")
        checksums = {name: text for name in ALGORITHMS if (text := node.text_of(f"Checksum{name}"))}
        if parts and parts[-1].number == int(number):
            parts.pop()
        parts.append(CompletePart(int(number), etag.strip().strip('"'), checksums))
    if not 1 <= len(parts) <= MULTIPART_PARTS_MAX:
        raise S3Error("MalformedXML")
    if any(after.number <= before.number for before, after in pairwise(parts)):
        raise S3Error("InvalidPartOrder")
    return parts


async def _completed_before(request: Request, parts: Sequence[CompletePart]) -> ObjectInfo:
    """The object of the key if these parts made it; otherwise raises NoSuchUpload."""
    try:
        digest = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
        info = await request.store.head(request.target.bucket, request.key)
    except (ValueError, NotFound):
        raise S3Error("NoSuchUpload", UploadId=request.query["uploadId"]) from None
    if info.etag != f"{digest.hexdigest()}-{len(parts)}":
        raise S3Error("NoSuchUpload", UploadId=request.query["uploadId"])
    return info


async def _final_checksums(
    request: Request, upload: UploadInfo, parts: Sequence[CompletePart]
) -> tuple[dict[str, str], str]:
    """The checksum of the whole object from its parts' and its type; nothing when a part has none (a copied one).

    Raises BadDigest when the client announced another, InvalidRequest when it announced another size. Parts that do not
    exist are left to the completion itself.
    """
    uploaded = await _uploaded_parts(request, upload)
    found = [uploaded[part.number] for part in parts if part.number in uploaded]
    size = request.headers.get("x-amz-mp-object-size")
    if len(found) == len(parts) and size is not None and size != str(sum(part.size for part in found)):
        raise S3Error("InvalidRequest", "The x-amz-mp-object-size header does not match the sum of the parts' sizes.")
    algorithm = upload.checksum_algorithm or DEFAULT_ALGORITHM
    kind = upload.checksum_type or FULL_OBJECT
    values = [(part.checksums[algorithm], part.size) for part in found if algorithm in part.checksums]
    if len(values) != len(parts):
        return {}, ""
    checksum = combine(algorithm, kind, values)
    for header, name in HEADERS.items():
        announced = request.headers.get(header)
        if announced is not None and name == algorithm and not _same_checksum(announced, checksum):
            raise S3Error("BadDigest", f"The {name} you specified did not match the calculated checksum.")
    return {algorithm: checksum}, kind


def _same_checksum(announced: str, checksum: str) -> bool:
    """Whether two checksums are equal; clients may leave the ``-N`` of a composite one away."""
    return announced in (checksum, checksum.partition("-")[0])


def _shown_part(part: PartInfo, upload: UploadInfo) -> PartInfo:
    """A part with the size that clients see."""
    return msgspec.structs.replace(part, size=plain_size(part.size)) if upload.sealing else part


async def _uploaded_parts(request: Request, upload: UploadInfo) -> dict[int, PartInfo]:
    found: dict[int, PartInfo] = {}
    after, is_truncated = 0, True
    while is_truncated:
        page, is_truncated = await request.store.list_parts(
            request.target.bucket, request.key, upload.upload_id, after=after, limit=PAGE_MAX
        )
        found.update((part.number, _shown_part(part, upload)) for part in page)
        after = page[-1].number if page else after
    return found


# --- listing -------------------------------------------------------------------------------------------------------


async def list_parts(request: Request) -> Reply:
    """ListParts."""
    upload = await _upload(request)
    url = request.encodes_keys()
    after = request.number("part-number-marker", 0, largest=2**31 - 1)
    limit = request.number("max-parts", PAGE_MAX)
    page: list[PartInfo] = []
    is_truncated = False
    if limit:
        page, is_truncated = await request.store.list_parts(
            request.target.bucket, request.key, upload.upload_id, after=after, limit=limit
        )
    children: list[Element] = [
        ("Bucket", request.target.bucket),
        ("Key", encode_key(request.key, url=url)),
        ("UploadId", upload.upload_id),
        ("Initiator", owner_elements(request, upload.owner)),
        ("Owner", owner_elements(request, upload.owner)),
        ("StorageClass", "STANDARD"),
        ("PartNumberMarker", after),
        ("NextPartNumberMarker", page[-1].number if page else 0),
        ("MaxParts", limit),
        ("IsTruncated", is_truncated),
    ]
    if upload.checksum_algorithm:
        children += [("ChecksumAlgorithm", upload.checksum_algorithm), ("ChecksumType", upload.checksum_type)]
    for part in page:
        entry: list[Element] = [
            ("PartNumber", part.number),
            ("LastModified", iso_date(part.modified_ns)),
            ("ETag", f'"{part.etag}"'),
            ("Size", _shown_part(part, upload).size),
        ]
        children.append(("Part", entry + (checksum_elements(part.checksums) if upload.checksum_algorithm else [])))
    return xml_reply("ListPartsResult", children)


async def list_multipart_uploads(request: Request) -> Reply:
    """ListMultipartUploads."""
    bucket = await request.bucket()
    url = request.encodes_keys()
    query = request.query
    limit = request.number("max-uploads", PAGE_MAX)
    prefix, delimiter = raw(query.get("prefix", "")), raw(query.get("delimiter", ""))
    key_marker = raw(query.get("key-marker", ""))
    id_marker = query.get("upload-id-marker", "") if key_marker else ""
    found = await request.store.list_uploads(
        bucket.name,
        prefix=prefix,
        delimiter=delimiter,
        after_key=key_marker,
        after_upload=_upload_marker(id_marker),
        limit=max(limit, 1),
    )
    uploads, prefixes = (found.uploads, found.common_prefixes) if limit else ([], [])
    children: list[Element] = [
        ("Bucket", bucket.name),
        ("KeyMarker", encode_key(key_marker, url=url)),
        ("UploadIdMarker", id_marker),
        ("Prefix", encode_key(prefix, url=url)),
        ("MaxUploads", limit),
        ("IsTruncated", found.is_truncated and limit > 0),
    ]
    if delimiter:
        children.append(("Delimiter", encode_key(delimiter, url=url)))
    if url:
        children.append(("EncodingType", "url"))
    if found.is_truncated and limit:
        last_key = max([upload.key for upload in uploads[-1:]] + prefixes[-1:])
        last_id = uploads[-1].upload_id if uploads and uploads[-1].key == last_key else ""
        children += [("NextKeyMarker", encode_key(last_key, url=url)), ("NextUploadIdMarker", last_id)]
    for upload in uploads:
        entry: list[Element] = [
            ("Key", encode_key(upload.key, url=url)),
            ("UploadId", upload.upload_id),
            ("Initiator", owner_elements(request, upload.owner)),
            ("Owner", owner_elements(request, upload.owner)),
            ("StorageClass", "STANDARD"),
            ("Initiated", iso_date(upload.created_ns)),
        ]
        if upload.checksum_algorithm:
            entry += [("ChecksumAlgorithm", upload.checksum_algorithm), ("ChecksumType", upload.checksum_type)]
        children.append(("Upload", entry))
    children += [("CommonPrefixes", [("Prefix", encode_key(text, url=url))]) for text in prefixes]
    return xml_reply("ListMultipartUploadsResult", children)


def _upload_marker(text: str) -> str:
    """An upload-id-marker. Raises InvalidArgument for what no upload is called."""
    try:
        if not text or len(base64.b16decode(text, casefold=True)) == 16:
            return text
    except (binascii.Error, ValueError):
        pass
    raise S3Error("InvalidArgument", "Invalid uploadId marker", ArgumentName="upload-id-marker", ArgumentValue=text)
