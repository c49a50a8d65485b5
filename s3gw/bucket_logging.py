"""Where the access log of a bucket goes: the document of PutBucketLogging, who may have logs written to a bucket, and
the names of log objects. Pure but for the handlers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from siltstone.errors import NoSuchBucket
from siltstone.s3gw.access import resource_of
from siltstone.s3gw.configuration import LOGGING, Configuration
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import SERVICE, Question, Verdict
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.xml import Element, Node

PREFIX_CHARACTERS_MAX = 512
EVENT_TIME = "EventTime"
DELIVERY_TIME = "DeliveryTime"
DELIVERER = SERVICE + "logging.s3.amazonaws.com"
"""The principal in whose name logs are written."""

PUT_OBJECT = "s3:PutObject"


class LogTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where the records of a bucket go. ``partition``: EventTime or DeliveryTime where keys have folders by date."""

    bucket: str
    prefix: str
    partition: str = ""


def target_in(config: Configuration) -> LogTarget | None:
    """Where a bucket's log goes; None: there is none."""
    text = config.documents.get(LOGGING)
    return None if text is None else msgspec.json.decode(text, type=LogTarget)


def log_key(target: LogTarget, source: str, owner: str, region: str, at_ns: int, unique: str) -> bytes:
    """The key of a log object."""
    date, _, rest = iso_date(at_ns).partition("T")
    name = f"{date}-{rest[:8].replace(':', '-')}-{unique}"
    if not target.partition:
        return f"{target.prefix}{name}".encode()
    year, month, day = date.split("-")
    return f"{target.prefix}{owner}/{region}/{source}/{year}/{month}/{day}/{name}".encode()


def may_deliver(target: Configuration, prefix: str, source: str, owner: str) -> bool:
    """Whether a bucket's policy lets the log of another be written to it."""
    policy = target.policy
    if policy is None:
        return False

    def value(key: str) -> Sequence[str] | None:
        match key:
            case "aws:sourcearn":
                return (resource_of(source),)
            case "aws:sourceaccount":
                return (owner,)
            case _:
                return None

    resource = resource_of(target.info.name, prefix.encode() or b"*")
    return policy.decide(Question(DELIVERER, PUT_OBJECT, resource, value)) is Verdict.ALLOW


# --- handlers --------------------------------------------------------------------------------------------------------


async def get_logging(request: Request) -> Reply:
    """GetBucketLogging."""
    target = target_in(await request.configuration(await request.bucket_now()))
    return xml_reply("BucketLoggingStatus", () if target is None else [("LoggingEnabled", _elements(target))])


async def put_logging(request: Request) -> Reply:
    """PutBucketLogging: by the bucket's owner, to another bucket whose policy lets logs be written to it."""
    info = await request.bucket_now()
    if not request.owns(info):
        raise S3Error("AccessDenied")
    document = await request.document()
    if document is None or document.name != "BucketLoggingStatus":
        raise S3Error("MalformedXML")
    enabled = document.child("LoggingEnabled")
    text = None
    if enabled is not None:
        target = _parse(enabled)
        await _check_target(request, target, info.owner or request.identity.owner)
        text = msgspec.json.encode(target)
    if (await request.configuration(info)).documents.get(LOGGING) != text:
        await request.store.set_bucket_documents(request.target.bucket, {LOGGING: text})
    return Reply(200)


async def _check_target(request: Request, target: LogTarget, owner: str) -> None:
    if target.bucket == request.target.bucket:
        raise S3Error("InvalidArgument", "A bucket's log cannot go to the bucket itself")
    try:
        found = await request.store.bucket(target.bucket)
    except NoSuchBucket:
        raise S3Error("InvalidTargetBucketForLogging", TargetBucket=target.bucket) from None
    config = await request.configuration(found)
    if not may_deliver(config, target.prefix, request.target.bucket, owner):
        raise S3Error(
            "AccessDenied",
            f"The policy of the target bucket does not let {DELIVERER.removeprefix(SERVICE)} put objects there",
        )
    if target_in(config) is not None:
        raise S3Error("InvalidArgument", "The target bucket for logging has a log itself")
    if config.encrypts:
        raise S3Error("InvalidArgument", "The target bucket for logging must not be encrypted")


def _parse(enabled: Node) -> LogTarget:
    bucket, prefix = enabled.text_of("TargetBucket"), enabled.text_of("TargetPrefix")
    if not bucket or prefix is None:
        raise S3Error("MalformedXML")
    if len(prefix) > PREFIX_CHARACTERS_MAX:
        raise S3Error("InvalidArgument", f"The target prefix has more than {PREFIX_CHARACTERS_MAX} characters")
    for extension in ("LoggingType", "ObjectRollTime", "RecordsBatchSize", "Filter"):
        if enabled.child(extension) is not None:
            raise S3Error("NotImplemented", f"{extension} is not implemented: records are those of AWS's server log")
    form = enabled.child("TargetObjectKeyFormat")
    partitioned = None if form is None else form.child("PartitionedPrefix")
    if form is not None and (partitioned is not None) is (form.child("SimplePrefix") is not None):
        raise S3Error("MalformedXML")
    partition = ""
    if partitioned is not None:
        partition = partitioned.text_of("PartitionDateSource") or DELIVERY_TIME
        if partition not in (EVENT_TIME, DELIVERY_TIME):
            raise S3Error("MalformedXML")
    return LogTarget(bucket=bucket, prefix=prefix, partition=partition)


def _elements(target: LogTarget) -> list[Element]:
    form: Element = ("SimplePrefix", ())
    if target.partition:
        form = ("PartitionedPrefix", [("PartitionDateSource", target.partition)])
    return [
        ("TargetBucket", target.bucket),
        ("TargetPrefix", target.prefix),
        ("TargetObjectKeyFormat", [form]),
    ]
