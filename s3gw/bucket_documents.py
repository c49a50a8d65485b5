"""Handlers for the documents of a bucket's configuration: policy, public access block, ownership, CORS, encryption,
notifications."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from siltstone.s3gw.acl import is_public
from siltstone.s3gw.body import read_whole
from siltstone.s3gw.buckets import check_ownership
from siltstone.s3gw.checksums import Digests, expectation
from siltstone.s3gw.configuration import (
    CORS,
    ENCRYPTION,
    ENFORCED,
    NOTIFICATION,
    OWNERSHIP,
    POLICY,
    PUBLIC_ACCESS_BLOCK,
    Configuration,
    PublicAccessBlock,
)
from siltstone.s3gw.cors import CorsRule, parse_cors
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import POLICY_BYTES_MAX, parse_bucket_policy
from siltstone.s3gw.reply import Reply, xml_reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.xml import Element, Node, render

AES256 = "AES256"


async def configuration_now(request: Request) -> Configuration:
    """The configuration of the request's bucket as it is at this moment; the sender may do what is asked."""
    return await request.configuration(await request.bucket_now())


async def change(request: Request, documents: Mapping[str, bytes | None]) -> None:
    """Set or remove documents of the request's bucket."""
    await request.store.set_bucket_documents(request.target.bucket, documents)


async def drop(request: Request, name: str) -> Reply:
    """Remove a document of the request's bucket, if there is one."""
    if name in (await configuration_now(request)).documents:
        await change(request, {name: None})
    return Reply(204)


# --- policy --------------------------------------------------------------------------------------------------------


async def get_policy(request: Request) -> Reply:
    """GetBucketPolicy: as it was put."""
    text = (await configuration_now(request)).documents.get(POLICY)
    if text is None:
        raise S3Error("NoSuchBucketPolicy", BucketName=request.target.bucket)
    return Reply(200, [("Content-Type", "application/json")], text)


async def put_policy(request: Request) -> Reply:
    """PutBucketPolicy."""
    config = await configuration_now(request)
    expected = expectation(request.headers)
    text = await read_whole(request.body, 2 * POLICY_BYTES_MAX)
    digests = Digests({"MD5", expected.algorithm})
    digests.update(text)
    expected.check(digests, request.body.trailers)
    policy = parse_bucket_policy(text, request.target.bucket)
    if config.public_access_block.block_public_policy and policy.is_public:
        raise S3Error("AccessDenied")
    await change(request, {POLICY: text})
    return Reply(204)


async def delete_policy(request: Request) -> Reply:
    """DeleteBucketPolicy."""
    return await drop(request, POLICY)


async def get_policy_status(request: Request) -> Reply:
    """GetBucketPolicyStatus: whether the policy or the list lets everybody in."""
    config = await configuration_now(request)
    open_to_all = config.policy is not None and config.policy.is_public
    open_to_all = open_to_all or (config.has_acls and is_public(config.grants))
    return xml_reply("PolicyStatus", [("IsPublic", open_to_all)])


# --- public access block -------------------------------------------------------------------------------------------

_BLOCKS = {
    "BlockPublicAcls": "block_public_acls",
    "IgnorePublicAcls": "ignore_public_acls",
    "BlockPublicPolicy": "block_public_policy",
    "RestrictPublicBuckets": "restrict_public_buckets",
}


async def get_public_access_block(request: Request) -> Reply:
    """GetPublicAccessBlock."""
    config = await configuration_now(request)
    if PUBLIC_ACCESS_BLOCK not in config.documents:
        raise S3Error("NoSuchPublicAccessBlockConfiguration", BucketName=request.target.bucket)
    block = config.public_access_block._asdict()
    return xml_reply("PublicAccessBlockConfiguration", [(name, block[field]) for name, field in _BLOCKS.items()])


async def put_public_access_block(request: Request) -> Reply:
    """PutPublicAccessBlock."""
    await configuration_now(request)
    document = await _document(request, "PublicAccessBlockConfiguration")
    block = PublicAccessBlock(**{field: _boolean(document.text_of(name)) for name, field in _BLOCKS.items()})
    await change(request, {PUBLIC_ACCESS_BLOCK: msgspec.json.encode(block)})
    return Reply(200)


async def delete_public_access_block(request: Request) -> Reply:
    """DeletePublicAccessBlock."""
    return await drop(request, PUBLIC_ACCESS_BLOCK)


def _boolean(text: str | None) -> bool:
    value = (text or "false").strip().lower()
    if value not in ("true", "false"):
        raise S3Error("MalformedXML")
    return value == "true"


# --- ownership -----------------------------------------------------------------------------------------------------


async def get_ownership(request: Request) -> Reply:
    """GetBucketOwnershipControls."""
    config = await configuration_now(request)
    if not config.ownership:
        raise S3Error("OwnershipControlsNotFoundError", BucketName=request.target.bucket)
    return xml_reply("OwnershipControls", [("Rule", [("ObjectOwnership", config.ownership)])])


async def put_ownership(request: Request) -> Reply:
    """PutBucketOwnershipControls. Where lists will not count any more, none may be open to others."""
    config = await configuration_now(request)
    document = await _document(request, "OwnershipControls")
    rules = document.all("Rule")
    if len(rules) != 1:
        raise S3Error("MalformedXML")
    ownership = (rules[0].text_of("ObjectOwnership") or "").strip()
    check_ownership(ownership)
    owner = config.info.owner
    if ownership == ENFORCED and any(not grant.endswith(f" id:{owner}") for grant in config.grants):
        raise S3Error("InvalidBucketAclWithObjectOwnership")
    await change(request, {OWNERSHIP: ownership.encode()})
    return Reply(200)


async def delete_ownership(request: Request) -> Reply:
    """DeleteBucketOwnershipControls."""
    return await drop(request, OWNERSHIP)


# --- CORS ----------------------------------------------------------------------------------------------------------


async def get_cors(request: Request) -> Reply:
    """GetBucketCors."""
    rules = (await configuration_now(request)).cors
    if not rules:
        raise S3Error("NoSuchCORSConfiguration", BucketName=request.target.bucket)
    return xml_reply("CORSConfiguration", _cors_elements(rules))


async def put_cors(request: Request) -> Reply:
    """PutBucketCors."""
    await configuration_now(request)
    rules = parse_cors(await request.document())
    await change(request, {CORS: render("CORSConfiguration", _cors_elements(rules))})
    return Reply(200)


async def delete_cors(request: Request) -> Reply:
    """DeleteBucketCors."""
    return await drop(request, CORS)


def _cors_elements(rules: tuple[CorsRule, ...]) -> list[Element]:
    found: list[Element] = []
    for rule in rules:
        children: list[Element] = [("AllowedOrigin", one) for one in rule.origins]
        children += [("AllowedMethod", one) for one in rule.methods]
        children += [("AllowedHeader", one) for one in rule.headers]
        children += [("ExposeHeader", one) for one in rule.exposed]
        if rule.max_age_seconds is not None:
            children.append(("MaxAgeSeconds", rule.max_age_seconds))
        found.append(("CORSRule", children))
    return found


# --- encryption ----------------------------------------------------------------------------------------------------


async def get_encryption(request: Request) -> Reply:
    """GetBucketEncryption."""
    if not (await configuration_now(request)).encrypts:
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError", BucketName=request.target.bucket)
    default: Element = ("ApplyServerSideEncryptionByDefault", [("SSEAlgorithm", AES256)])
    return xml_reply("ServerSideEncryptionConfiguration", [("Rule", [default, ("BucketKeyEnabled", False)])])


async def put_encryption(request: Request) -> Reply:
    """PutBucketEncryption: with the server's key; with keys of a key service is NotImplemented."""
    await configuration_now(request)
    document = await _document(request, "ServerSideEncryptionConfiguration")
    rules = document.all("Rule")
    default = rules[0].child("ApplyServerSideEncryptionByDefault") if len(rules) == 1 else None
    algorithm = None if default is None else (default.text_of("SSEAlgorithm") or "").strip()
    if algorithm in ("aws:kms", "aws:kms:dsse"):
        raise S3Error("NotImplemented", "Keys of a key management service are not implemented.")
    if algorithm != AES256:
        raise S3Error("MalformedXML")
    await change(request, {ENCRYPTION: AES256.encode()})
    return Reply(200)


async def delete_encryption(request: Request) -> Reply:
    """DeleteBucketEncryption."""
    return await drop(request, ENCRYPTION)


# --- what is not done: only the empty form can be put ----------------------------------------------------------------


async def get_notification(request: Request) -> Reply:
    """GetBucketNotificationConfiguration: there are none."""
    await configuration_now(request)
    return xml_reply("NotificationConfiguration", ())


async def put_notification(request: Request) -> Reply:
    """PutBucketNotificationConfiguration: to none; there is nobody here whom events could be sent to."""
    return await _only_none(request, "NotificationConfiguration", NOTIFICATION)


async def _only_none(request: Request, name: str, what: str) -> Reply:
    await configuration_now(request)
    document = await _document(request, name)
    if document.children:
        raise S3Error("NotImplemented", f"A {what} configuration that asks for something is not implemented.")
    return Reply(200)


async def get_request_payment(request: Request) -> Reply:
    """GetBucketRequestPayment: nobody pays."""
    await configuration_now(request)
    return xml_reply("RequestPaymentConfiguration", [("Payer", "BucketOwner")])


async def _document(request: Request, name: str) -> Node:
    """The body as a document of that name. Raises MalformedXML."""
    document = await request.document()
    if document is None or document.name != name:
        raise S3Error("MalformedXML")
    return document
