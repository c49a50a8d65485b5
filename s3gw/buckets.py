"""Handlers for buckets and for the service: who owns what, and what there is."""

from __future__ import annotations

import msgspec

from siltstone.core.object_types import BucketInfo
from siltstone.errors import AlreadyExists
from siltstone.s3gw.access import Asker, key_allows, resource_of
from siltstone.s3gw.acl import Owners, of_headers
from siltstone.s3gw.bucket_state import new_bucket_documents
from siltstone.s3gw.configuration import ACL, ENFORCED, OBJECT_WRITER, OWNERSHIP, PREFERRED
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import Request, refuse_what_is_not_there
from siltstone.s3gw.router import check_new_bucket_name
from siltstone.s3gw.xml import NAMESPACE, Element

DEFAULT_REGION = "us-east-1"
"""The region whose name S3 does not say, and where creating one's own bucket again is success."""


async def list_buckets(request: Request) -> Reply:
    """ListBuckets: the sender's own, by name, in pages if the client asks."""
    prefix, token = request.query.get("prefix", ""), request.query.get("continuation-token", "")
    limit = request.number("max-buckets", 10_000, largest=10_000)
    own = [info for info in await request.store.list_buckets() if _is_shown(request, info)]
    own.sort(key=lambda info: info.name)
    found = [info for info in own if info.name.startswith(prefix) and info.name > token]
    page: list[Element] = [
        (
            "Bucket",
            [("Name", info.name), ("CreationDate", iso_date(info.created_ns)), ("BucketRegion", request.region)],
        )
        for info in found[:limit]
    ]
    children: list[Element] = [
        ("Owner", owner_elements(request, request.identity.owner)),
        ("Buckets", page),
    ]
    if prefix:
        children.append(("Prefix", prefix))
    if len(found) > limit > 0:
        children.append(("ContinuationToken", found[limit - 1].name))
    return xml_reply("ListAllMyBucketsResult", children)


def _is_shown(request: Request, info: BucketInfo) -> bool:
    """Whether a bucket is the sender's, and the key may list what is in it."""
    if not request.owns(info) or not info.name.isprintable():
        return False
    asker = Asker(request.identity.owner, request.identity.policy)
    return key_allows(asker, "s3:ListBucket", resource_of(info.name), no_values)


def no_values(_: str) -> None:
    """Of no condition key is there a value."""


def owner_elements(request: Request, owner: str) -> list[Element]:
    """An owner's id and name; what the mount made is shown as the sender's own."""
    owner = owner or request.identity.owner
    return [("ID", owner), ("DisplayName", request.display_name(owner))]


async def create_bucket(request: Request) -> Reply:
    """CreateBucket."""
    name, owner = request.target.bucket, request.identity.owner
    asker = Asker(owner, request.identity.policy)
    if not owner or not key_allows(asker, "s3:CreateBucket", resource_of(name), request.value):
        raise S3Error("AccessDenied")
    check_new_bucket_name(name)
    refuse_what_is_not_there(request.headers)
    document = await request.document(may_be_empty=True)
    if document is not None:
        if document.name != "CreateBucketConfiguration":
            raise S3Error("MalformedXML")
        location = document.text_of("LocationConstraint")
        if location and location != request.region:
            raise S3Error(
                "IllegalLocationConstraintException",
                f"The {location} location constraint is incompatible for the region specific endpoint this request "
                "was sent to.",
            )
    documents = _first_documents(request, owner)
    try:
        documents |= new_bucket_documents(request.headers)
        await request.store.create_bucket(name, owner=owner, documents=documents)
    except AlreadyExists:
        found = await request.store.bucket(name)
        if not request.owns(found):
            raise S3Error("BucketAlreadyExists", BucketName=name) from None
        if (await request.configuration(found)).documents.get(ACL) != documents.get(ACL):
            raise S3Error("BucketAlreadyExists", BucketName=name) from None
        if request.region != DEFAULT_REGION:
            raise S3Error("BucketAlreadyOwnedByYou", BucketName=name) from None
    return Reply(200, [("Location", f"/{name}")])


def _first_documents(request: Request, owner: str) -> dict[str, bytes]:
    """The configuration that a bucket begins with, by the headers of the request."""
    documents: dict[str, bytes] = {}
    ownership = request.headers.get("x-amz-object-ownership")
    if ownership is not None:
        check_ownership(ownership)
        documents[OWNERSHIP] = ownership.encode()
    grants = of_headers(request.headers, Owners(owner, owner), request.door.users)
    if grants:
        if ownership == ENFORCED:
            raise S3Error("InvalidBucketAclWithObjectOwnership")
        documents[ACL] = msgspec.json.encode(grants)
    return documents


def check_ownership(text: str) -> None:
    """Raise InvalidArgument for what no ownership is called."""
    if text not in (ENFORCED, PREFERRED, OBJECT_WRITER):
        raise S3Error("InvalidArgument", f"Invalid x-amz-object-ownership header: {text}")


async def delete_bucket(request: Request) -> Reply:
    """DeleteBucket."""
    bucket = await request.bucket_now()
    await request.store.delete_bucket(bucket.name)
    return Reply(204)


async def head_bucket(request: Request) -> Reply:
    """HeadBucket."""
    await request.bucket_now()
    return Reply(200, [("x-amz-bucket-region", request.region), ("Content-Type", "application/xml")])


async def get_bucket_location(request: Request) -> Reply:
    """GetBucketLocation: a document whose root is the answer."""
    await request.bucket_now()
    region = "" if request.region == DEFAULT_REGION else request.region
    document = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{NAMESPACE}">{region}</LocationConstraint>'
    )
    return Reply(200, [("Content-Type", "application/xml")], document.encode())
