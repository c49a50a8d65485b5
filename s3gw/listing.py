"""Handlers that list keys: ListObjects in both versions."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from siltstone.core.object_types import ObjectInfo
from siltstone.s3gw.buckets import owner_elements
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.encryption import shown
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import PAGE_MAX, Request
from siltstone.s3gw.xml import Element, Markup, encode_key, escape, markup

KEYS_AT_ONCE = 250
"""Keys that are asked of the store at a time: 1,000 of them take 10 ms."""


def raw(text: str) -> bytes:
    """A key, prefix, delimiter or marker of a query, as bytes."""
    return text.encode("utf-8", "surrogateescape")


async def list_objects(request: Request) -> Reply:
    """ListObjects (version 1)."""
    bucket = await request.bucket()
    url = request.encodes_keys()
    limit = request.number("max-keys", PAGE_MAX)
    query = request.query
    delimiter, marker = raw(query.get("delimiter", "")), raw(query.get("marker", ""))
    page = await _page(request, bucket.name, delimiter, marker, limit, url=url, with_owner=True)
    children: list[Element] = [
        ("Name", bucket.name),
        ("Prefix", encode_key(raw(query.get("prefix", "")), url=url)),
        ("Marker", encode_key(marker, url=url)),
        ("MaxKeys", limit),
    ]
    if delimiter:
        children.append(("Delimiter", encode_key(delimiter, url=url)))
    if page.is_truncated and delimiter:
        children.append(("NextMarker", encode_key(page.last, url=url)))
    return xml_reply("ListBucketResult", children + _common(page, url) + page.elements())


async def list_objects_v2(request: Request) -> Reply:
    """ListObjectsV2."""
    bucket = await request.bucket()
    url = request.encodes_keys()
    limit = request.number("max-keys", PAGE_MAX)
    query = request.query
    delimiter, start_after = raw(query.get("delimiter", "")), raw(query.get("start-after", ""))
    token = query.get("continuation-token")
    behind = _untoken(token) if token else start_after
    with_owner = query.get("fetch-owner", "").lower() == "true"
    page = await _page(request, bucket.name, delimiter, behind, limit, url=url, with_owner=with_owner)
    children: list[Element] = [
        ("Name", bucket.name),
        ("Prefix", encode_key(raw(query.get("prefix", "")), url=url)),
        ("MaxKeys", limit),
        ("KeyCount", len(page.contents) + len(page.prefixes)),
    ]
    if delimiter:
        children.append(("Delimiter", encode_key(delimiter, url=url)))
    if "start-after" in query:
        children.append(("StartAfter", encode_key(start_after, url=url)))
    if token is not None:
        children.append(("ContinuationToken", token))
    if page.is_truncated:
        children.append(("NextContinuationToken", _token(page.last)))
    return xml_reply("ListBucketResult", children + _common(page, url) + page.elements())


class _Page(NamedTuple):
    """What a request is answered with: elements for its keys and its prefixes, and where the next page begins."""

    contents: list[Element]
    prefixes: list[Element]
    is_truncated: bool
    last: bytes

    def elements(self) -> list[Element]:
        """All of them, in the order of the reply."""
        return self.contents + self.prefixes


async def _page(
    request: Request, bucket: str, delimiter: bytes, start_after: bytes, limit: int, *, url: bool, with_owner: bool
) -> _Page:
    """List and render in turns, so that neither holds the event loop for long."""
    page = _Page([], [], False, start_after)
    prefix = raw(request.query.get("prefix", ""))
    while limit > 0:
        listing = await request.store.list_keys(
            bucket, prefix=prefix, delimiter=delimiter, start_after=page.last, limit=min(limit, KEYS_AT_ONCE)
        )
        for info in listing.entries:
            page.contents.append(("Contents", _entry(request, info, url, with_owner=with_owner)))
        for folded in listing.common_prefixes:
            page.prefixes.append(("CommonPrefixes", [("Prefix", encode_key(folded, url=url))]))
        limit -= len(listing.entries) + len(listing.common_prefixes)
        page = page._replace(is_truncated=listing.is_truncated, last=listing.last)
        if not listing.is_truncated:
            break
    return page


def _common(page: _Page, url: bool) -> list[Element]:
    children: list[Element] = [("EncodingType", "url")] if url else []
    return [*children, ("IsTruncated", page.is_truncated)]


def _entry(request: Request, info: ObjectInfo, url: bool, *, with_owner: bool) -> Markup:
    """What is said of a key; put together at once, since there are a thousand in a page."""
    if info.sealing:
        info = shown(info)
    kinds = "".join([f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm>" for algorithm in info.checksums])
    if kinds and info.checksum_type:
        kinds += f"<ChecksumType>{info.checksum_type}</ChecksumType>"
    owner = markup([("Owner", owner_elements(request, info.owner))]) if with_owner else ""
    return Markup(
        f"<Key>{escape(encode_key(info.key, url=url))}</Key><LastModified>{iso_date(info.modified_ns)}</LastModified>"
        f"<ETag>&quot;{escape(info.etag)}&quot;</ETag>{kinds}<Size>{info.size}</Size>"
        f"<StorageClass>STANDARD</StorageClass>{owner}"
    )


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
