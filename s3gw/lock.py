"""Object lock: handlers for the configuration of a bucket, and for the retention and legal hold of a version."""

from __future__ import annotations

from collections.abc import Mapping

from siltstone.core.object_locks import COMPLIANCE, GOVERNANCE
from siltstone.core.object_types import BucketInfo, Edit, ObjectInfo, Versioning
from siltstone.s3gw.bucket_state import (
    ENABLED,
    OBJECT_LOCK,
    BucketState,
    DefaultRetention,
    bucket_state,
    encode_lock,
)
from siltstone.s3gw.dates import iso_date, parse_iso_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.reply import Header, Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.router import Operation
from siltstone.s3gw.version_ids import version_wanted
from siltstone.s3gw.xml import Element, Node

MODES = (GOVERNANCE, COMPLIANCE)
DAYS_MAX = 36_500
YEARS_MAX = 100

MODE = "x-amz-object-lock-mode"
UNTIL = "x-amz-object-lock-retain-until-date"
HOLD = "x-amz-object-lock-legal-hold"
BYPASS = "x-amz-bypass-governance-retention"

Lock = tuple[str, int, bool]
"""Mode, until when, legal hold."""

NO_LOCK: Lock = ("", 0, False)


async def may_bypass(request: Request, bucket: str, key: bytes) -> bool:
    """Whether the sender asks to pass over a retention of the mode GOVERNANCE. Raises AccessDenied if it may not."""
    if request.headers.get(BYPASS, "").lower() != "true":
        return False
    await request.authorize(Operation.BYPASS_GOVERNANCE_RETENTION, bucket, key)
    return True


def lock_of_headers(headers: Mapping[str, str], state: BucketState, now_ns: int) -> Lock:
    """The lock of a new object: what the request says, else the bucket's default. Raises S3Error."""
    mode, until, hold = headers.get(MODE), headers.get(UNTIL), headers.get(HOLD)
    if mode is None and until is None and hold is None:
        default = state.lock
        return NO_LOCK if default is None or not default.mode else (default.mode, default.until_ns(now_ns), False)
    if state.lock is None:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
    if (mode is None) != (until is None):
        raise S3Error("InvalidArgument", f"{UNTIL} and {MODE} must both be supplied")
    if hold not in (None, "ON", "OFF"):
        raise S3Error("InvalidArgument", "Legal hold must be ON or OFF")
    if mode is None or until is None:
        default = state.lock
        kept = (default.mode, default.until_ns(now_ns)) if default.mode else ("", 0)
        return (*kept, hold == "ON")
    if mode not in MODES:
        raise S3Error("InvalidArgument", "Unknown wormMode directive.")
    until_ns = parse_iso_date(until)
    if until_ns is None:
        raise S3Error("InvalidArgument", "The retain until date must be in the form of ISO 8601.")
    if until_ns <= now_ns:
        raise S3Error("InvalidArgument", "The retain until date must be in the future!")
    return mode, until_ns, hold == "ON"


def lock_headers(info: ObjectInfo) -> list[Header]:
    """What a reply says of an object's lock."""
    headers = []
    if info.lock_mode:
        headers += [(MODE, info.lock_mode), (UNTIL, iso_date(info.lock_until_ns))]
    if info.legal_hold:
        headers.append((HOLD, "ON"))
    return headers


# --- buckets -------------------------------------------------------------------------------------------------------


async def get_object_lock_configuration(request: Request) -> Reply:
    """GetObjectLockConfiguration."""
    lock = (await bucket_state(request.door.configurations, await request.bucket_now())).lock
    if lock is None:
        raise S3Error("ObjectLockConfigurationNotFoundError")
    children: list[Element] = [("ObjectLockEnabled", ENABLED)]
    if lock.mode:
        period: Element = ("Days", lock.days) if lock.days else ("Years", lock.years)
        children.append(("Rule", [("DefaultRetention", [("Mode", lock.mode), period])]))
    return xml_reply("ObjectLockConfiguration", children)


async def put_object_lock_configuration(request: Request) -> Reply:
    """PutObjectLockConfiguration: also of a bucket that was made without; its versioning must be on."""
    info = await request.bucket_now()
    document = await request.document()
    assert document is not None
    if document.name != "ObjectLockConfiguration" or document.text_of("ObjectLockEnabled") != ENABLED:
        raise S3Error("MalformedXML")
    default = _default_retention(document)
    if (await bucket_state(request.door.configurations, info)).versioning is not Versioning.ON:
        raise S3Error("InvalidBucketState", "Versioning must be 'Enabled' on the bucket to apply Object Lock.")
    await request.store.set_bucket_documents(info.name, {OBJECT_LOCK: encode_lock(default)})
    return Reply(200)


def _default_retention(document: Node) -> DefaultRetention:
    rule = document.child("Rule")
    if rule is None:
        return DefaultRetention()
    retention = rule.child("DefaultRetention")
    if retention is None or retention.text_of("Mode") not in MODES:
        raise S3Error("MalformedXML")
    days, years = retention.text_of("Days"), retention.text_of("Years")
    if (days is None) == (years is None):
        raise S3Error("MalformedXML")
    text, largest = (days, DAYS_MAX) if days is not None else (years, YEARS_MAX)
    try:
        count = int(text or "")
    except ValueError:
        raise S3Error("MalformedXML") from None
    if not 1 <= count <= largest:
        raise S3Error("InvalidRetentionPeriod")
    mode = retention.text_of("Mode") or ""
    return DefaultRetention(mode, count, 0) if days is not None else DefaultRetention(mode, 0, count)


# --- objects -------------------------------------------------------------------------------------------------------


async def get_object_retention(request: Request) -> Reply:
    """GetObjectRetention."""
    info = await _locked_object(request)
    if not info.lock_mode:
        raise S3Error("NoSuchObjectLockConfiguration")
    return xml_reply("Retention", [("Mode", info.lock_mode), ("RetainUntilDate", iso_date(info.lock_until_ns))])


async def put_object_retention(request: Request) -> Reply:
    """PutObjectRetention."""
    bucket = await _lockable_bucket(request)
    document = await request.document()
    assert document is not None
    if document.name != "Retention":
        raise S3Error("MalformedXML")
    mode, until = document.text_of("Mode"), document.text_of("RetainUntilDate")
    retention = ("", 0)
    if mode is not None or until is not None:
        until_ns = parse_iso_date(until or "")
        if mode not in MODES or until_ns is None:
            raise S3Error("MalformedXML")
        if until_ns <= request.clock.now_ns():
            raise S3Error("InvalidArgument", "The retain until date must be in the future!")
        retention = (mode, until_ns)
    edit = Edit(retention=retention, may_bypass=await may_bypass(request, bucket.name, request.key))
    await request.store.edit(bucket.name, request.key, version_wanted(request.query), edit)
    return Reply(200)


async def get_object_legal_hold(request: Request) -> Reply:
    """GetObjectLegalHold."""
    info = await _locked_object(request)
    return xml_reply("LegalHold", [("Status", "ON" if info.legal_hold else "OFF")])


async def put_object_legal_hold(request: Request) -> Reply:
    """PutObjectLegalHold."""
    bucket = await _lockable_bucket(request)
    document = await request.document()
    assert document is not None
    status = document.text_of("Status")
    if document.name != "LegalHold" or status not in ("ON", "OFF"):
        raise S3Error("MalformedXML")
    edit = Edit(legal_hold=status == "ON")
    await request.store.edit(bucket.name, request.key, version_wanted(request.query), edit)
    return Reply(200)


async def _lockable_bucket(request: Request) -> BucketInfo:
    bucket = await request.bucket()
    if (await bucket_state(request.door.configurations, bucket)).lock is None:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
    return bucket


async def _locked_object(request: Request) -> ObjectInfo:
    bucket = await _lockable_bucket(request)
    return await request.store.head(bucket.name, request.key, version_wanted(request.query))
