"""Handlers for versions: of buckets whether they keep them, and lists of them."""

from __future__ import annotations

from siltstone.core.object_types import ListedVersion, ObjectInfo, Versioning
from siltstone.s3gw.bucket_state import ENABLED, OBJECT_LOCK, SUSPENDED, VERSIONING, bucket_state
from siltstone.s3gw.buckets import owner_elements
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.listing import raw
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import PAGE_MAX, Request
from siltstone.s3gw.version_ids import NULL, named_version
from siltstone.s3gw.xml import Element, encode_key

VERSIONS_AT_ONCE = 250


async def get_bucket_versioning(request: Request) -> Reply:
    """GetBucketVersioning."""
    state = await bucket_state(request.door.configurations, await request.bucket_now())
    said = {Versioning.ON: ENABLED, Versioning.SUSPENDED: SUSPENDED}.get(state.versioning)
    return xml_reply("VersioningConfiguration", [] if said is None else [("Status", said)])


async def put_bucket_versioning(request: Request) -> Reply:
    """PutBucketVersioning."""
    info = await request.bucket_now()
    document = await request.document()
    assert document is not None
    status = document.text_of("Status")
    if document.name != "VersioningConfiguration" or status not in (ENABLED, SUSPENDED):
        raise S3Error("MalformedXML")
    if document.text_of("MfaDelete") == ENABLED:
        raise S3Error("NotImplemented", "MFA delete is not implemented.")
    if status == SUSPENDED:
        _, documents = await request.store.bucket_documents(info.name)
        if OBJECT_LOCK in documents:
            raise S3Error(
                "InvalidBucketState", "An Object Lock configuration is present; the versioning state cannot be changed."
            )
    await request.store.set_bucket_documents(info.name, {VERSIONING: status.encode()})
    return Reply(200)


async def list_object_versions(request: Request) -> Reply:
    """ListObjectVersions."""
    bucket = await request.bucket()
    url = request.encodes_keys()
    query = request.query
    limit = request.number("max-keys", PAGE_MAX)
    prefix, delimiter = raw(query.get("prefix", "")), raw(query.get("delimiter", ""))
    key_marker, id_marker = raw(query.get("key-marker", "")), query.get("version-id-marker", "")
    if id_marker and not key_marker:
        raise S3Error("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    after_key, after_version = key_marker, named_version(id_marker) if id_marker else None
    entries: list[ListedVersion] = []
    prefixes: list[bytes] = []
    is_truncated = False
    left = limit
    while left > 0:
        page = await request.store.list_versions(
            bucket.name,
            prefix=prefix,
            delimiter=delimiter,
            after_key=after_key,
            after_version=after_version,
            limit=min(left, VERSIONS_AT_ONCE),
        )
        entries += page.entries
        prefixes += page.common_prefixes
        left -= len(page.entries) + len(page.common_prefixes)
        after_key, after_version, is_truncated = page.last_key, page.last_version, page.is_truncated
        if not is_truncated:
            break
    children: list[Element] = [
        ("Name", bucket.name),
        ("Prefix", encode_key(prefix, url=url)),
        ("KeyMarker", encode_key(key_marker, url=url)),
        ("VersionIdMarker", id_marker),
        ("MaxKeys", limit),
    ]
    if delimiter:
        children.append(("Delimiter", encode_key(delimiter, url=url)))
    if url:
        children.append(("EncodingType", "url"))
    children.append(("IsTruncated", is_truncated))
    if is_truncated:
        children.append(("NextKeyMarker", encode_key(after_key, url=url)))
        if after_version is not None:
            children.append(("NextVersionIdMarker", after_version or NULL))
    children += [_entry(request, listed, url=url) for listed in entries]
    children += [("CommonPrefixes", [("Prefix", encode_key(text, url=url))]) for text in prefixes]
    return xml_reply("ListVersionsResult", children)


def _entry(request: Request, listed: ListedVersion, *, url: bool) -> Element:
    info: ObjectInfo = listed.info
    common: list[Element] = [
        ("Key", encode_key(info.key, url=url)),
        ("VersionId", info.version_id or NULL),
        ("IsLatest", listed.is_latest),
        ("LastModified", iso_date(info.modified_ns)),
        ("Owner", owner_elements(request, info.owner)),
    ]
    if listed.is_marker:
        return "DeleteMarker", common
    kinds: list[Element] = [("ChecksumAlgorithm", name) for name in info.checksums]
    if kinds and info.checksum_type:
        kinds.append(("ChecksumType", info.checksum_type))
    return "Version", [*common, ("ETag", f'"{info.etag}"'), *kinds, ("Size", info.size), ("StorageClass", "STANDARD")]
