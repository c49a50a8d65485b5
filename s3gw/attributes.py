"""GetObjectAttributes."""

from __future__ import annotations

from siltstone.core.object_types import ObjectInfo
from siltstone.s3gw.bucket_state import bucket_state
from siltstone.s3gw.dates import http_date
from siltstone.s3gw.encryption import key_of, shown
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.objects import checksum_elements
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import PAGE_MAX, Request
from siltstone.s3gw.version_ids import version_headers, version_wanted
from siltstone.s3gw.xml import Element

NAMES = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")


async def get_object_attributes(request: Request) -> Reply:
    """GetObjectAttributes: what of these the object has."""
    bucket = await request.bucket()
    wanted = {name.strip() for name in request.headers.get("x-amz-object-attributes", "").split(",") if name.strip()}
    if not wanted or not wanted <= set(NAMES):
        raise S3Error("InvalidArgument", "Invalid attribute name specified.", ArgumentName="x-amz-object-attributes")
    info = await request.store.head(bucket.name, request.key, version_wanted(request.query))
    key_of(info.sealing, request.headers, request.door.server)
    info = shown(info)
    children: list[Element] = []
    if "ETag" in wanted:
        children.append(("ETag", info.etag))
    if "Checksum" in wanted and info.checksums:
        children.append(("Checksum", checksum_elements(info.checksums, info.checksum_type)))
    if "ObjectParts" in wanted and info.part_sizes:
        children.append(("ObjectParts", _parts(request, info)))
    if "StorageClass" in wanted:
        children.append(("StorageClass", "STANDARD"))
    if "ObjectSize" in wanted:
        children.append(("ObjectSize", info.size))
    state = await bucket_state(request.door.configurations, bucket)
    headers = [("Last-Modified", http_date(info.modified_ns)), *version_headers(info.version_id, state.versioning)]
    return xml_reply("GetObjectAttributesResponse", children, headers)


def _parts(request: Request, info: ObjectInfo) -> list[Element]:
    """A page of parts, with their checksums where they have such."""
    limit = _count(request, "x-amz-max-parts", PAGE_MAX)
    after = _count(request, "x-amz-part-number-marker", 0)
    checksums = info.part_checksums or [""] * len(info.part_sizes)
    found = [part for part in zip(info.part_numbers, info.part_sizes, checksums, strict=True) if part[0] > after]
    page = found[:limit]
    children: list[Element] = [
        ("PartsCount", len(info.part_sizes)),
        ("PartNumberMarker", after),
        ("NextPartNumberMarker", page[-1][0] if page else after),
        ("MaxParts", limit),
        ("IsTruncated", len(found) > len(page)),
    ]
    for number, size, value in page:
        told = checksum_elements(dict.fromkeys(info.checksums, value)) if value else []
        children.append(("Part", [("PartNumber", number), ("Size", size), *told]))
    return children


def _count(request: Request, name: str, default: int) -> int:
    text = request.headers.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise S3Error("InvalidArgument", f"Provided {name} not an integer or within integer range", ArgumentName=name)
    return min(int(text), PAGE_MAX if default else 2**31)
