"""Tags of objects and buckets: handlers, and the rules for what a tag is."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec

from siltstone.core.object_types import Edit, Versioning
from siltstone.s3gw.bucket_state import TAGGING, bucket_state
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.versions import version_headers, version_wanted
from siltstone.s3gw.xml import Element, Node

OBJECT_TAGS_MAX = 10
BUCKET_TAGS_MAX = 50
KEY_CHARACTERS_MAX = 128
VALUE_CHARACTERS_MAX = 256


def tags_of_header(headers: Mapping[str, str]) -> dict[str, str]:
    """The tags that x-amz-tagging gives a new object. Raises InvalidTag, InvalidArgument."""
    text = headers.get("x-amz-tagging", "")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise S3Error(
            "InvalidArgument", "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded."
        ) from None
    return _checked(pairs, OBJECT_TAGS_MAX)


def _checked(pairs: list[tuple[str, str]], limit: int) -> dict[str, str]:
    tags = dict(pairs)
    if len(tags) != len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    if len(tags) > limit:
        raise S3Error("InvalidTag" if limit == OBJECT_TAGS_MAX else "BadRequest", f"There can be {limit} tags at most")
    for key, value in tags.items():
        if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid")
        if len(value) > VALUE_CHARACTERS_MAX:
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid")
        if key.startswith("aws:"):
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester")
    return tags


async def _tags_in(request: Request, limit: int) -> dict[str, str]:
    document = await request.document()
    assert document is not None
    tag_set = document.child("TagSet")
    if document.name != "Tagging" or tag_set is None:
        raise S3Error("MalformedXML")
    return _checked([_pair(node) for node in tag_set.all("Tag")], limit)


def _pair(node: Node) -> tuple[str, str]:
    key, value = node.text_of("Key"), node.text_of("Value")
    if key is None or value is None:
        raise S3Error("MalformedXML")
    return key, value


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
