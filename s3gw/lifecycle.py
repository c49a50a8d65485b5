"""Lifecycle rules of buckets: handlers, and what replies say of them. Who carries them out: lifecycle_work.py."""

from __future__ import annotations

from urllib.parse import quote

from siltstone.core.object_types import BucketInfo, ObjectInfo
from siltstone.s3gw.bucket_documents import change, configuration_now, drop
from siltstone.s3gw.configuration import LIFECYCLE
from siltstone.s3gw.dates import http_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.lifecycle_rules import abortion, expiration, parse_rules, rule_elements
from siltstone.s3gw.reply import Header, Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.xml import render


async def get_lifecycle(request: Request) -> Reply:
    """GetBucketLifecycleConfiguration."""
    rules = (await configuration_now(request)).lifecycle
    if not rules:
        raise S3Error("NoSuchLifecycleConfiguration", BucketName=request.target.bucket)
    return xml_reply("LifecycleConfiguration", rule_elements(rules))


async def put_lifecycle(request: Request) -> Reply:
    """PutBucketLifecycleConfiguration."""
    await configuration_now(request)
    rules = parse_rules(await request.document(), lambda: request.door.random.bytes(16).hex())
    await change(request, {LIFECYCLE: render("LifecycleConfiguration", rule_elements(rules))})
    return Reply(200)


async def delete_lifecycle(request: Request) -> Reply:
    """DeleteBucketLifecycle."""
    return await drop(request, LIFECYCLE)


async def expiration_headers(request: Request, bucket: BucketInfo, info: ObjectInfo) -> list[Header]:
    """What a reply says of when a current version goes."""
    if not bucket.serial:
        return []
    due = expiration((await request.configuration(bucket)).lifecycle, info, request.door.calendar)
    if due is None:
        return []
    return [("x-amz-expiration", f'expiry-date="{http_date(due[0])}", rule-id="{quote(due[1])}"')]


async def abortion_headers(request: Request, bucket: BucketInfo, created_ns: int) -> list[Header]:
    """What a reply says of when an upload is given up."""
    if not bucket.serial:
        return []
    rules = (await request.configuration(bucket)).lifecycle
    due = abortion(rules, request.key, created_ns, request.door.calendar)
    return [] if due is None else [("x-amz-abort-date", http_date(due[0])), ("x-amz-abort-rule-id", quote(due[1]))]
