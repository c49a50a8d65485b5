"""What of a bucket's configuration decides what happens to its objects: versioning, and the object lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from siltstone.core.object_types import BucketInfo, Versioning
from siltstone.s3gw.configuration import Configuration, Configurations

VERSIONING = "versioning"
OBJECT_LOCK = "object-lock"
TAGGING = "tagging"

ENABLED = "Enabled"
SUSPENDED = "Suspended"
DAY_NS = 24 * 3600 * 1_000_000_000


class DefaultRetention(msgspec.Struct, frozen=True):
    """What objects get that come without a retention of their own; an empty mode: none."""

    mode: str = ""
    days: int = 0
    years: int = 0

    def until_ns(self, now_ns: int) -> int:
        """When a retention that begins now ends."""
        return now_ns + (self.days + 365 * self.years) * DAY_NS


class BucketState(NamedTuple):
    """The state of a bucket. ``lock``: None where objects cannot be locked."""

    versioning: Versioning = Versioning.OFF
    lock: DefaultRetention | None = None


PLAIN = BucketState()
_STATES = {ENABLED.encode(): Versioning.ON, SUSPENDED.encode(): Versioning.SUSPENDED}


async def bucket_state(configurations: Configurations, info: BucketInfo) -> BucketState:
    """The state of a bucket, as of ``info`` or later. Raises NoSuchBucket."""
    return state_of(await configurations.of(info)) if info.serial else PLAIN


def state_of(config: Configuration) -> BucketState:
    """The state that a configuration says."""
    documents = config.documents
    lock = documents.get(OBJECT_LOCK)
    return BucketState(
        _STATES.get(documents.get(VERSIONING, b""), Versioning.OFF),
        None if lock is None else msgspec.json.decode(lock, type=DefaultRetention),
    )


def encode_lock(default: DefaultRetention) -> bytes:
    """The document that keeps it."""
    return msgspec.json.encode(default)


def new_bucket_documents(headers: Mapping[str, str]) -> dict[str, bytes]:
    """The documents of a bucket that is made with these headers."""
    if headers.get("x-amz-bucket-object-lock-enabled", "").lower() != "true":
        return {}
    return {VERSIONING: ENABLED.encode(), OBJECT_LOCK: encode_lock(DefaultRetention())}
