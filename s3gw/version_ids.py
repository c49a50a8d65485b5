"""Ids of versions, as requests name them and replies tell them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from siltstone.core.object_types import Versioning
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Header

NULL = "null"
"""The id of what has none: it was there before versions were kept, or came while they were not."""


def version_wanted(query: Mapping[str, str]) -> str | None:
    """The version that a request names, as the core knows it; None for none. Raises InvalidArgument."""
    text = query.get("versionId")
    if text is None:
        return None
    if not text:
        raise S3Error("InvalidArgument", "Version id cannot be the empty string", ArgumentName="versionId")
    return named_version(text)


def named_version(text: str) -> str:
    """A version id as the core knows it. Raises InvalidArgument for what no version is called."""
    if text == NULL:
        return ""
    if len(text) > 1024 or not text.isprintable():
        raise S3Error("InvalidArgument", "Invalid version id specified", ArgumentName="versionId")
    return text


def version_headers(version_id: str, versioning: Versioning) -> list[Header]:
    """What a reply says of the version that it is about."""
    if versioning is Versioning.OFF and not version_id:
        return []
    return [("x-amz-version-id", version_id or NULL)]


def made_headers(version_id: str) -> list[Header]:
    """What a reply says of the version that the request has made; nothing of a null version."""
    return [("x-amz-version-id", version_id)] if version_id else []
