"""Handlers that list keys: ListObjects in both versions."""

from __future__ import annotations

import base64
import binascii

from siltstone.core.object_types import Listing, ObjectInfo
from siltstone.s3gw.buckets import owner_elements
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import PAGE_MAX, Request
from siltstone.s3gw.xml import Element, encode_key


def raw(text: str) -> bytes:
    """A key, prefix, delimiter or marker of a query, as bytes."""
    return text.encode("utf-8", "surrogateescape")


async def list_objects(request: Request) -> Reply:
    """ListObjects (version 1)."""
    bucket = request.bucket()
    url = request.encodes_keys()
    limit = request.number("max-keys", PAGE_MAX)
    query = request.query
    delimiter, marker = raw(query.get("delimiter", "")), raw(query.get("marker", ""))
    listing = await _page(request, bucket.name, delimiter, marker, limit)
    children: list[Element] = [
        ("Name", bucket.name),
        ("Prefix", encode_key(raw(query.get("prefix", "")), url=url)),
        ("Marker", encode_key(marker, url=url)),
        ("MaxKeys", limit),
    ]
    if delimiter:
        children.append(("Delimiter", encode_key(delimiter, url=url)))
    if listing.is_truncated and delimiter:
        children.append(("NextMarker", encode_key(listing.last, url=url)))
    children += _common(listing, url)
    children += [("Contents", _entry(request, info, url, with_owner=True)) for info in listing.entries]
    return xml_reply("ListBucketResult", children + _prefixes(listing, url))


async def list_objects_v2(request: Request) -> Reply:
    """ListObjectsV2."""
    bucket = request.bucket()
    url = request.encodes_keys()
    limit = request.number("max-keys", PAGE_MAX)
    query = request.query
    delimiter, start_after = raw(query.get("delimiter", "")), raw(query.get("start-after", ""))
    token = query.get("continuation-token")
    listing = await _page(request, bucket.name, delimiter, start_after if token is None else _untoken(token), limit)
    children: list[Element] = [
        ("Name", bucket.name),
        ("Prefix", encode_key(raw(query.get("prefix", "")), url=url)),
        ("MaxKeys", limit),
        ("KeyCount", len(listing.entries) + len(listing.common_prefixes)),
    ]
    if delimiter:
        children.append(("Delimiter", encode_key(delimiter, url=url)))
    if "start-after" in query:
        children.append(("StartAfter", encode_key(start_after, url=url)))
    if token is not None:
        children.append(("ContinuationToken", token))
    if listing.is_truncated:
        children.append(("NextContinuationToken", _token(listing.last)))
    children += _common(listing, url)
    with_owner = query.get("fetch-owner", "").lower() == "true"
    children += [("Contents", _entry(request, info, url, with_owner=with_owner)) for info in listing.entries]
    return xml_reply("ListBucketResult", children + _prefixes(listing, url))


async def _page(request: Request, bucket: str, delimiter: bytes, start_after: bytes, limit: int) -> Listing:
    if limit == 0:
        return Listing([], [], False, start_after)
    prefix = raw(request.query.get("prefix", ""))
    return await request.store.list_keys(
        bucket, prefix=prefix, delimiter=delimiter, start_after=start_after, limit=limit
    )


def _common(listing: Listing, url: bool) -> list[Element]:
    children: list[Element] = [("EncodingType", "url")] if url else []
    return [*children, ("IsTruncated", listing.is_truncated)]


def _entry(request: Request, info: ObjectInfo, url: bool, *, with_owner: bool) -> list[Element]:
    children: list[Element] = [
        ("Key", encode_key(info.key, url=url)),
        ("LastModified", iso_date(info.modified_ns)),
        ("ETag", f'"{info.etag}"'),
    ]
    children += [("ChecksumAlgorithm", algorithm) for algorithm in info.checksums]
    if info.checksum_type and info.checksums:
        children.append(("ChecksumType", info.checksum_type))
    children += [("Size", info.size), ("StorageClass", "STANDARD")]
    if with_owner:
        children.append(("Owner", owner_elements(request, info.owner)))
    return children


def _prefixes(listing: Listing, url: bool) -> list[Element]:
    return [("CommonPrefixes", [("Prefix", encode_key(prefix, url=url))]) for prefix in listing.common_prefixes]


def _token(last: bytes) -> str:
    """Where a listing goes on, as a token that any client can carry; never empty."""
    return base64.urlsafe_b64encode(b"1" + last).decode()


def _untoken(token: str) -> bytes:
    try:
        value = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if value[:1] != b"1":
        raise S3Error(
            "InvalidArgument", "The continuation token provided is incorrect", ArgumentName="continuation-token"
        )
    return value[1:]
