"""What a tag is: rules for those of objects and buckets, in documents and headers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.xml import Node

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
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise S3Error(
            "InvalidArgument", "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded."
        ) from None
    return checked_tags(pairs, OBJECT_TAGS_MAX)


def tags_of_document(document: Node, limit: int) -> dict[str, str]:
    """The tags of a Tagging document. Raises MalformedXML, and as ``checked_tags`` does."""
    tag_set = document.child("TagSet")
    if document.name != "Tagging" or tag_set is None:
        raise S3Error("MalformedXML")
    return tags_of_nodes(tag_set.all("Tag"), limit)


def tags_of_nodes(nodes: list[Node], limit: int) -> dict[str, str]:
    """The tags of Tag elements. Raises MalformedXML, and as ``checked_tags`` does."""
    return checked_tags([_pair(node) for node in nodes], limit)


def checked_tags(pairs: list[tuple[str, str]], limit: int) -> dict[str, str]:
    """Tags by key. Raises InvalidTag, BadRequest for what cannot be tags together."""
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


def _pair(node: Node) -> tuple[str, str]:
    key, value = node.text_of("Key"), node.text_of("Value")
    if key is None or value is None:
        raise S3Error("MalformedXML")
    return key, value
