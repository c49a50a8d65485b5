"""Which operation a request asks for, from method, host, path and query. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from siltstone.limits import NAME_BYTES_MAX
from siltstone.s3gw.errors import S3Error


class Operation(enum.Enum):
    """Operations of S3 that are answered, by their names in its reference; the value is the name."""

    LIST_BUCKETS = "ListBuckets"
    CREATE_BUCKET = "CreateBucket"
    DELETE_BUCKET = "DeleteBucket"
    HEAD_BUCKET = "HeadBucket"
    GET_BUCKET_LOCATION = "GetBucketLocation"
    GET_BUCKET_VERSIONING = "GetBucketVersioning"
    PUT_BUCKET_VERSIONING = "PutBucketVersioning"
    LIST_OBJECT_VERSIONS = "ListObjectVersions"
    GET_BUCKET_TAGGING = "GetBucketTagging"
    PUT_BUCKET_TAGGING = "PutBucketTagging"
    DELETE_BUCKET_TAGGING = "DeleteBucketTagging"
    GET_OBJECT_LOCK_CONFIGURATION = "GetObjectLockConfiguration"
    PUT_OBJECT_LOCK_CONFIGURATION = "PutObjectLockConfiguration"
    GET_BUCKET_ACL = "GetBucketAcl"
    LIST_OBJECTS = "ListObjects"
    LIST_OBJECTS_V2 = "ListObjectsV2"
    LIST_MULTIPART_UPLOADS = "ListMultipartUploads"
    DELETE_OBJECTS = "DeleteObjects"
    GET_OBJECT = "GetObject"
    HEAD_OBJECT = "HeadObject"
    PUT_OBJECT = "PutObject"
    COPY_OBJECT = "CopyObject"
    DELETE_OBJECT = "DeleteObject"
    GET_OBJECT_TAGGING = "GetObjectTagging"
    PUT_OBJECT_TAGGING = "PutObjectTagging"
    DELETE_OBJECT_TAGGING = "DeleteObjectTagging"
    GET_OBJECT_RETENTION = "GetObjectRetention"
    PUT_OBJECT_RETENTION = "PutObjectRetention"
    GET_OBJECT_LEGAL_HOLD = "GetObjectLegalHold"
    PUT_OBJECT_LEGAL_HOLD = "PutObjectLegalHold"
    GET_OBJECT_ATTRIBUTES = "GetObjectAttributes"
    BYPASS_GOVERNANCE_RETENTION = "BypassGovernanceRetention"
    """None by itself: what a header of others asks for, and policies name."""
    GET_OBJECT_ACL = "GetObjectAcl"
    CREATE_MULTIPART_UPLOAD = "CreateMultipartUpload"
    UPLOAD_PART = "UploadPart"
    UPLOAD_PART_COPY = "UploadPartCopy"
    COMPLETE_MULTIPART_UPLOAD = "CompleteMultipartUpload"
    ABORT_MULTIPART_UPLOAD = "AbortMultipartUpload"
    LIST_PARTS = "ListParts"
    GET_BUCKET_POLICY = "GetBucketPolicy"
    PUT_BUCKET_POLICY = "PutBucketPolicy"
    DELETE_BUCKET_POLICY = "DeleteBucketPolicy"
    GET_BUCKET_POLICY_STATUS = "GetBucketPolicyStatus"
    GET_PUBLIC_ACCESS_BLOCK = "GetPublicAccessBlock"
    PUT_PUBLIC_ACCESS_BLOCK = "PutPublicAccessBlock"
    DELETE_PUBLIC_ACCESS_BLOCK = "DeletePublicAccessBlock"
    GET_BUCKET_OWNERSHIP_CONTROLS = "GetBucketOwnershipControls"
    PUT_BUCKET_OWNERSHIP_CONTROLS = "PutBucketOwnershipControls"
    DELETE_BUCKET_OWNERSHIP_CONTROLS = "DeleteBucketOwnershipControls"
    PUT_BUCKET_ACL = "PutBucketAcl"
    PUT_OBJECT_ACL = "PutObjectAcl"
    GET_BUCKET_CORS = "GetBucketCors"
    PUT_BUCKET_CORS = "PutBucketCors"
    DELETE_BUCKET_CORS = "DeleteBucketCors"
    PREFLIGHT = "Preflight"
    POST_OBJECT = "PostObject"
    GET_BUCKET_ENCRYPTION = "GetBucketEncryption"
    PUT_BUCKET_ENCRYPTION = "PutBucketEncryption"
    DELETE_BUCKET_ENCRYPTION = "DeleteBucketEncryption"
    GET_BUCKET_LIFECYCLE = "GetBucketLifecycleConfiguration"
    PUT_BUCKET_LIFECYCLE = "PutBucketLifecycleConfiguration"
    DELETE_BUCKET_LIFECYCLE = "DeleteBucketLifecycle"
    GET_BUCKET_NOTIFICATION = "GetBucketNotificationConfiguration"
    PUT_BUCKET_NOTIFICATION = "PutBucketNotificationConfiguration"
    GET_BUCKET_LOGGING = "GetBucketLogging"
    PUT_BUCKET_LOGGING = "PutBucketLogging"
    GET_BUCKET_REQUEST_PAYMENT = "GetBucketRequestPayment"
    NOT_IMPLEMENTED = ""


class Target(NamedTuple):
    """What a path names: nothing (the service), a bucket (empty key), or an object."""

    bucket: str
    key: bytes


_PORT = re.compile(r":[0-9]+$")

_BUCKET = "bucket"
_OBJECT = "object"
_COPY = "x-amz-copy-source"

_PLAIN: dict[tuple[str, str], Operation] = {
    ("GET", _BUCKET): Operation.LIST_OBJECTS,
    ("HEAD", _BUCKET): Operation.HEAD_BUCKET,
    ("PUT", _BUCKET): Operation.CREATE_BUCKET,
    ("DELETE", _BUCKET): Operation.DELETE_BUCKET,
    ("POST", _BUCKET): Operation.POST_OBJECT,
    ("GET", _OBJECT): Operation.GET_OBJECT,
    ("HEAD", _OBJECT): Operation.HEAD_OBJECT,
    ("PUT", _OBJECT): Operation.PUT_OBJECT,
    ("DELETE", _OBJECT): Operation.DELETE_OBJECT,
}
_BY_SUBRESOURCE: dict[tuple[str, str, str], Operation] = {
    ("GET", _BUCKET, "location"): Operation.GET_BUCKET_LOCATION,
    ("GET", _BUCKET, "versioning"): Operation.GET_BUCKET_VERSIONING,
    ("PUT", _BUCKET, "versioning"): Operation.PUT_BUCKET_VERSIONING,
    ("GET", _BUCKET, "versions"): Operation.LIST_OBJECT_VERSIONS,
    ("GET", _BUCKET, "tagging"): Operation.GET_BUCKET_TAGGING,
    ("PUT", _BUCKET, "tagging"): Operation.PUT_BUCKET_TAGGING,
    ("DELETE", _BUCKET, "tagging"): Operation.DELETE_BUCKET_TAGGING,
    ("GET", _BUCKET, "object-lock"): Operation.GET_OBJECT_LOCK_CONFIGURATION,
    ("PUT", _BUCKET, "object-lock"): Operation.PUT_OBJECT_LOCK_CONFIGURATION,
    ("GET", _BUCKET, "acl"): Operation.GET_BUCKET_ACL,
    ("GET", _BUCKET, "uploads"): Operation.LIST_MULTIPART_UPLOADS,
    ("POST", _BUCKET, "delete"): Operation.DELETE_OBJECTS,
    ("GET", _OBJECT, "tagging"): Operation.GET_OBJECT_TAGGING,
    ("PUT", _OBJECT, "tagging"): Operation.PUT_OBJECT_TAGGING,
    ("DELETE", _OBJECT, "tagging"): Operation.DELETE_OBJECT_TAGGING,
    ("GET", _OBJECT, "retention"): Operation.GET_OBJECT_RETENTION,
    ("PUT", _OBJECT, "retention"): Operation.PUT_OBJECT_RETENTION,
    ("GET", _OBJECT, "legal-hold"): Operation.GET_OBJECT_LEGAL_HOLD,
    ("PUT", _OBJECT, "legal-hold"): Operation.PUT_OBJECT_LEGAL_HOLD,
    ("GET", _OBJECT, "attributes"): Operation.GET_OBJECT_ATTRIBUTES,
    ("GET", _OBJECT, "acl"): Operation.GET_OBJECT_ACL,
    ("POST", _OBJECT, "uploads"): Operation.CREATE_MULTIPART_UPLOAD,
    ("PUT", _OBJECT, "uploadId"): Operation.UPLOAD_PART,
    ("POST", _OBJECT, "uploadId"): Operation.COMPLETE_MULTIPART_UPLOAD,
    ("DELETE", _OBJECT, "uploadId"): Operation.ABORT_MULTIPART_UPLOAD,
    ("GET", _OBJECT, "uploadId"): Operation.LIST_PARTS,
    ("GET", _BUCKET, "policy"): Operation.GET_BUCKET_POLICY,
    ("PUT", _BUCKET, "policy"): Operation.PUT_BUCKET_POLICY,
    ("DELETE", _BUCKET, "policy"): Operation.DELETE_BUCKET_POLICY,
    ("GET", _BUCKET, "policyStatus"): Operation.GET_BUCKET_POLICY_STATUS,
    ("GET", _BUCKET, "publicAccessBlock"): Operation.GET_PUBLIC_ACCESS_BLOCK,
    ("PUT", _BUCKET, "publicAccessBlock"): Operation.PUT_PUBLIC_ACCESS_BLOCK,
    ("DELETE", _BUCKET, "publicAccessBlock"): Operation.DELETE_PUBLIC_ACCESS_BLOCK,
    ("GET", _BUCKET, "ownershipControls"): Operation.GET_BUCKET_OWNERSHIP_CONTROLS,
    ("PUT", _BUCKET, "ownershipControls"): Operation.PUT_BUCKET_OWNERSHIP_CONTROLS,
    ("DELETE", _BUCKET, "ownershipControls"): Operation.DELETE_BUCKET_OWNERSHIP_CONTROLS,
    ("PUT", _BUCKET, "acl"): Operation.PUT_BUCKET_ACL,
    ("PUT", _OBJECT, "acl"): Operation.PUT_OBJECT_ACL,
    ("GET", _BUCKET, "cors"): Operation.GET_BUCKET_CORS,
    ("PUT", _BUCKET, "cors"): Operation.PUT_BUCKET_CORS,
    ("DELETE", _BUCKET, "cors"): Operation.DELETE_BUCKET_CORS,
    ("GET", _BUCKET, "encryption"): Operation.GET_BUCKET_ENCRYPTION,
    ("PUT", _BUCKET, "encryption"): Operation.PUT_BUCKET_ENCRYPTION,
    ("DELETE", _BUCKET, "encryption"): Operation.DELETE_BUCKET_ENCRYPTION,
    ("GET", _BUCKET, "lifecycle"): Operation.GET_BUCKET_LIFECYCLE,
    ("PUT", _BUCKET, "lifecycle"): Operation.PUT_BUCKET_LIFECYCLE,
    ("DELETE", _BUCKET, "lifecycle"): Operation.DELETE_BUCKET_LIFECYCLE,
    ("GET", _BUCKET, "notification"): Operation.GET_BUCKET_NOTIFICATION,
    ("PUT", _BUCKET, "notification"): Operation.PUT_BUCKET_NOTIFICATION,
    ("GET", _BUCKET, "logging"): Operation.GET_BUCKET_LOGGING,
    ("PUT", _BUCKET, "logging"): Operation.PUT_BUCKET_LOGGING,
    ("GET", _BUCKET, "requestPayment"): Operation.GET_BUCKET_REQUEST_PAYMENT,
}
_WITH_COPY_SOURCE = {
    Operation.PUT_OBJECT: Operation.COPY_OBJECT,
    Operation.UPLOAD_PART: Operation.UPLOAD_PART_COPY,
}
_SUBRESOURCES = frozenset(name for _, _, name in _BY_SUBRESOURCE) | frozenset(
    (
        "accelerate",
        "analytics",
        "append",
        "cors",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "lifecycle",
        "logging",
        "metadataTable",
        "metrics",
        "notification",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "renameObject",
        "replication",
        "requestPayment",
        "restore",
        "select",
        "session",
        "torrent",
        "website",
    )
)


def route(method: str, target: Target, query: Mapping[str, str], headers: Mapping[str, str]) -> Operation:
    """The operation; NOT_IMPLEMENTED for one of S3's that is not answered.

    Raises MethodNotAllowed when S3 has no such operation either.
    """
    if method == "OPTIONS":
        return Operation.PREFLIGHT
    if not target.bucket:
        if method == "GET":
            return Operation.LIST_BUCKETS
        raise S3Error("MethodNotAllowed")
    level = _OBJECT if target.key else _BUCKET
    for name in query:
        if name in _SUBRESOURCES:
            operation = _BY_SUBRESOURCE.get((method, level, name), Operation.NOT_IMPLEMENTED)
            break
    else:
        found = _PLAIN.get((method, level))
        if found is None:
            if method == "POST":
                return Operation.NOT_IMPLEMENTED
            raise S3Error("MethodNotAllowed")
        operation = found
    if operation is Operation.LIST_OBJECTS and query.get("list-type") == "2":
        return Operation.LIST_OBJECTS_V2
    if _COPY in headers:
        return _WITH_COPY_SOURCE.get(operation, operation)
    return operation


def split_target(request_target: str) -> tuple[str, str]:
    """(raw path, raw query) of a request target in origin or absolute form. Raises InvalidURI for another form."""
    if not request_target.startswith("/"):
        scheme, separator, rest = request_target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise S3Error("InvalidURI")
        slash = rest.find("/")
        request_target = rest[slash:] if slash >= 0 else "/"
    path, _, query = request_target.partition("?")
    return path, query


def target_of(path: str, host: str, domains: Sequence[str]) -> Target:
    """The bucket and key of a raw path; the bucket comes from the host when that is a name under one of ``domains``,
    which are in small letters, and is itself none of them."""
    if domains:
        name = (host.rpartition(":")[0] if _PORT.search(host) else host).lower()
        if name not in domains:
            for domain in sorted(domains, key=len, reverse=True):
                if name.endswith("." + domain):
                    return _target(name[: -len(domain) - 1].encode("latin-1"), path[1:])
    bucket, _, key = path[1:].partition("/")
    return _target(bucket.encode("latin-1"), key)


def _target(bucket: bytes, key: str) -> Target:
    raw = key.encode("latin-1")
    return Target(_bucket_name(unquote_to_bytes(bucket)), unquote_to_bytes(raw) if b"%" in raw else raw)


def _bucket_name(raw: bytes) -> str:
    """A bucket's name. Raises InvalidBucketName for one that no bucket can have, however it was made."""
    try:
        if len(raw) <= NAME_BYTES_MAX and b"\0" not in raw:
            return raw.decode()
    except UnicodeDecodeError:
        pass
    raise S3Error("InvalidBucketName")


def parse_copy_source(text: str) -> tuple[Target, str]:
    """(source, version id) that x-amz-copy-source names. Raises InvalidArgument."""
    path, _, query = text.partition("?")
    version = query.removeprefix("versionId=") if query.startswith("versionId=") else ""
    path = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    bucket, _, key = path.removeprefix("/").partition("/")
    if not bucket or not key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    return Target(_bucket_name(bucket.encode("latin-1")), key.encode("latin-1")), version


_BUCKET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


def check_new_bucket_name(name: str) -> None:
    """Raise InvalidBucketName unless S3's rules allow a bucket to be created by that name."""
    if (
        _BUCKET_NAME.fullmatch(name) is None
        or any(pair in name for pair in ("..", "-.", ".-"))
        or _ADDRESS.fullmatch(name)
        or name.startswith(("xn--", "sthree-"))
        or name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3"))
    ):
        raise S3Error("InvalidBucketName", BucketName=name)
