"""Handlers for tags of objects and buckets."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from siltstone.core.object_types import Edit, Versioning
from siltstone.s3gw.bucket_state import TAGGING, bucket_state
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.tags import BUCKET_TAGS_MAX, OBJECT_TAGS_MAX, tags_of_document
from siltstone.s3gw.version_ids import version_headers, version_wanted
from siltstone.s3gw.xml import Element


async def _tags_in(request: Request, limit: int) -> dict[str, str]:
    document = await request.document()
    assert document is not None
    return tags_of_document(document, limit)


def _tag_set(tags: Mapping[str, str]) -> list[Element]:
    return [("TagSet", [("Tag", [("Key", key), ("Value", value)]) for key, value in sorted(tags.items())])]


# --- objects -------------------------------------------------------------------------------------------------------


async def get_object_tagging(request: Request) -> Reply:
    """GetObjectTagging."""
    bucket = await request.bucket()
    info = await request.store.head(bucket.name, request.key, version_wanted(request.query))
    versioning = (await bucket_state(request.door.configurations, bucket)).versioning
    return xml_reply("Tagging", _tag_set(info.tags), version_headers(info.version_id, versioning))


async def put_object_tagging(request: Request) -> Reply:
    """PutObjectTagging."""
    bucket = await request.bucket()
    return await _edit(request, bucket.name, await _tags_in(request, OBJECT_TAGS_MAX), 200)


async def delete_object_tagging(request: Request) -> Reply:
    """DeleteObjectTagging."""
    bucket = await request.bucket()
    return await _edit(request, bucket.name, {}, 204)


async def _edit(request: Request, bucket: str, tags: dict[str, str], status: int) -> Reply:
    info = await request.store.edit(bucket, request.key, version_wanted(request.query), Edit(tags=tags))
    return Reply(status, version_headers(info.version_id, Versioning.OFF))


# --- buckets -------------------------------------------------------------------------------------------------------


async def get_bucket_tagging(request: Request) -> Reply:
    """GetBucketTagging."""
    info = await request.bucket_now()
    _, documents = await request.store.bucket_documents(info.name)
    text = documents.get(TAGGING)
    if text is None:
        raise S3Error("NoSuchTagSet", BucketName=info.name)
    return xml_reply("Tagging", _tag_set(msgspec.json.decode(text, type=dict[str, str])))


async def put_bucket_tagging(request: Request) -> Reply:
    """PutBucketTagging."""
    info = await request.bucket_now()
    tags = await _tags_in(request, BUCKET_TAGS_MAX)
    await request.store.set_bucket_documents(info.name, {TAGGING: msgspec.json.encode(tags)})
    return Reply(204)


async def delete_bucket_tagging(request: Request) -> Reply:
    """DeleteBucketTagging."""
    info = await request.bucket_now()
    await request.store.set_bucket_documents(info.name, {TAGGING: None})
    return Reply(204)
