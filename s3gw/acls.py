"""Handlers for access control lists of buckets and objects."""

from __future__ import annotations

import msgspec

from siltstone.core.object_types import BucketInfo, Edit
from siltstone.s3gw.acl import Grants, Owners, document_of, is_public, names_a_list, of_document, of_headers
from siltstone.s3gw.bucket_documents import change
from siltstone.s3gw.configuration import ACL, Configuration
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.version_ids import version_wanted


async def get_bucket_acl(request: Request) -> Reply:
    """GetBucketAcl."""
    bucket = await request.bucket_now()
    config = await request.configuration(bucket)
    return _reply(request, config.grants if config.has_acls else (), bucket.owner)


async def put_bucket_acl(request: Request) -> Reply:
    """PutBucketAcl: a canned one, grants in headers, or a document."""
    bucket = await request.bucket_now()
    grants = await _wanted(request, bucket, Owners(bucket.owner, bucket.owner))
    await change(request, {ACL: msgspec.json.encode(grants) if grants else None})
    return Reply(200)


async def get_object_acl(request: Request) -> Reply:
    """GetObjectAcl."""
    bucket = await request.bucket(checks_object=True)
    found = await request.store.head(bucket.name, request.key, version_wanted(request.query))
    await request.check_object(bucket, found)
    config = await request.configuration(bucket)
    if not config.has_acls:
        return _reply(request, (), bucket.owner)
    return _reply(request, found.grants, found.owner or bucket.owner)


async def put_object_acl(request: Request) -> Reply:
    """PutObjectAcl. The object's bytes and times stay."""
    bucket = await request.bucket(checks_object=True)
    version = version_wanted(request.query)
    found = await request.store.head(bucket.name, request.key, version)
    await request.check_object(bucket, found)
    owner = found.owner or bucket.owner
    grants = await _wanted(request, bucket, Owners(owner, bucket.owner or owner))
    await request.store.edit(bucket.name, request.key, version, Edit(grants=grants))
    return Reply(200)


async def _wanted(request: Request, bucket: BucketInfo, owners: Owners) -> Grants:
    """The list that a request asks for. Raises AccessControlListNotSupported, AccessDenied for a public one where those
    are blocked, and what parsing raises."""
    config: Configuration = await request.configuration(bucket)
    document = await request.document(may_be_empty=True)
    if names_a_list(request.headers):
        if document is not None:
            raise S3Error("UnexpectedContent")
        grants = of_headers(request.headers, owners, request.door.users)
    elif document is None:
        raise S3Error("MissingSecurityHeader")
    else:
        grants = of_document(document, owners.owner, request.door.users)
    if not config.has_acls and request.headers.get("x-amz-acl") != "bucket-owner-full-control":
        raise S3Error("AccessControlListNotSupported")
    if config.public_access_block.block_public_acls and is_public(grants):
        raise S3Error("AccessDenied")
    return grants


def _reply(request: Request, grants: Grants, owner: str) -> Reply:
    return xml_reply("AccessControlPolicy", document_of(grants, owner or request.identity.owner, request.door.users))
