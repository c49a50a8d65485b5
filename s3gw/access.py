"""Who may do what: the key's own policy, then the bucket's, then ownership, then access control lists. Pure.

A denial by either policy decides, then what the bucket's policy allows. The owner of a bucket may do everything else in
it, but read objects of others who wrote them there and kept them; those need lists of the bucket or the object. Where
lists do not count (BucketOwnerEnforced) all objects are the bucket owner's. What is in snapshots is for the owner of
the bucket only: who might read it may not be who may read it now.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

from siltstone.s3gw.acl import permits
from siltstone.s3gw.configuration import Configuration
from siltstone.s3gw.policy import ARN, Policy, Question, Values, Verdict
from siltstone.s3gw.router import Operation


class Decision(enum.Enum):
    """What came of it. BY_OBJECT: it depends on the object, see ``object_permits``."""

    ALLOW = "allow"
    DENY = "deny"
    BY_OBJECT = "by object"


class Asker(NamedTuple):
    """Who asks: an owner id ("" for nobody known), and what the key itself may do (None: all that its owner may)."""

    user: str
    key_policy: Policy | None


_ACTIONS: dict[Operation, str] = {
    Operation.LIST_BUCKETS: "s3:ListAllMyBuckets",
    Operation.HEAD_BUCKET: "s3:ListBucket",
    Operation.LIST_OBJECTS: "s3:ListBucket",
    Operation.LIST_OBJECTS_V2: "s3:ListBucket",
    Operation.LIST_OBJECT_VERSIONS: "s3:ListBucketVersions",
    Operation.LIST_MULTIPART_UPLOADS: "s3:ListBucketMultipartUploads",
    Operation.DELETE_BUCKET_TAGGING: "s3:PutBucketTagging",
    Operation.GET_OBJECT_LOCK_CONFIGURATION: "s3:GetBucketObjectLockConfiguration",
    Operation.PUT_OBJECT_LOCK_CONFIGURATION: "s3:PutBucketObjectLockConfiguration",
    Operation.HEAD_OBJECT: "s3:GetObject",
    Operation.COPY_OBJECT: "s3:PutObject",
    Operation.POST_OBJECT: "s3:PutObject",
    Operation.DELETE_OBJECTS: "s3:DeleteObject",
    Operation.CREATE_MULTIPART_UPLOAD: "s3:PutObject",
    Operation.UPLOAD_PART: "s3:PutObject",
    Operation.UPLOAD_PART_COPY: "s3:PutObject",
    Operation.COMPLETE_MULTIPART_UPLOAD: "s3:PutObject",
    Operation.LIST_PARTS: "s3:ListMultipartUploadParts",
    Operation.GET_BUCKET_CORS: "s3:GetBucketCORS",
    Operation.PUT_BUCKET_CORS: "s3:PutBucketCORS",
    Operation.DELETE_BUCKET_CORS: "s3:PutBucketCORS",
    Operation.GET_BUCKET_ENCRYPTION: "s3:GetEncryptionConfiguration",
    Operation.PUT_BUCKET_ENCRYPTION: "s3:PutEncryptionConfiguration",
    Operation.DELETE_BUCKET_ENCRYPTION: "s3:PutEncryptionConfiguration",
    Operation.GET_PUBLIC_ACCESS_BLOCK: "s3:GetBucketPublicAccessBlock",
    Operation.PUT_PUBLIC_ACCESS_BLOCK: "s3:PutBucketPublicAccessBlock",
    Operation.DELETE_PUBLIC_ACCESS_BLOCK: "s3:PutBucketPublicAccessBlock",
    Operation.DELETE_BUCKET_OWNERSHIP_CONTROLS: "s3:PutBucketOwnershipControls",
    Operation.GET_BUCKET_LIFECYCLE: "s3:GetLifecycleConfiguration",
    Operation.PUT_BUCKET_LIFECYCLE: "s3:PutLifecycleConfiguration",
    Operation.DELETE_BUCKET_LIFECYCLE: "s3:PutLifecycleConfiguration",
    Operation.GET_BUCKET_NOTIFICATION: "s3:GetBucketNotification",
    Operation.PUT_BUCKET_NOTIFICATION: "s3:PutBucketNotification",
}
"""Of operations whose action has another name than they have."""

_OF_VERSIONS = {
    "s3:GetObject": "s3:GetObjectVersion",
    "s3:DeleteObject": "s3:DeleteObjectVersion",
    "s3:GetObjectAcl": "s3:GetObjectVersionAcl",
    "s3:PutObjectAcl": "s3:PutObjectVersionAcl",
    "s3:GetObjectTagging": "s3:GetObjectVersionTagging",
    "s3:PutObjectTagging": "s3:PutObjectVersionTagging",
    "s3:DeleteObjectTagging": "s3:DeleteObjectVersionTagging",
    "s3:GetObjectAttributes": "s3:GetObjectVersionAttributes",
}

_BUCKET_PERMISSIONS: dict[Operation, str] = {
    Operation.HEAD_BUCKET: "READ",
    Operation.LIST_OBJECTS: "READ",
    Operation.LIST_OBJECTS_V2: "READ",
    Operation.LIST_OBJECT_VERSIONS: "READ",
    Operation.LIST_MULTIPART_UPLOADS: "READ",
    Operation.PUT_OBJECT: "WRITE",
    Operation.COPY_OBJECT: "WRITE",
    Operation.POST_OBJECT: "WRITE",
    Operation.CREATE_MULTIPART_UPLOAD: "WRITE",
    Operation.UPLOAD_PART: "WRITE",
    Operation.UPLOAD_PART_COPY: "WRITE",
    Operation.COMPLETE_MULTIPART_UPLOAD: "WRITE",
    Operation.ABORT_MULTIPART_UPLOAD: "WRITE",
    Operation.LIST_PARTS: "WRITE",
    Operation.DELETE_OBJECT: "WRITE",
    Operation.DELETE_OBJECTS: "WRITE",
    Operation.GET_BUCKET_ACL: "READ_ACP",
    Operation.PUT_BUCKET_ACL: "WRITE_ACP",
}
SNAPSHOTS_SEGMENT = "/.snapshots/"

_OBJECT_PERMISSIONS: dict[Operation, str] = {
    Operation.GET_OBJECT: "READ",
    Operation.HEAD_OBJECT: "READ",
    Operation.GET_OBJECT_ACL: "READ_ACP",
    Operation.PUT_OBJECT_ACL: "WRITE_ACP",
}


def action_of(operation: Operation, *, of_version: bool = False) -> str:
    """The action of an operation, as policies name it."""
    action = _ACTIONS.get(operation) or f"s3:{operation.value}"
    return _OF_VERSIONS.get(action, action) if of_version else action


def resource_of(bucket: str, key: bytes = b"") -> str:
    """The resource that a request is about."""
    return f"{ARN}{bucket}/{key.decode('utf-8', 'surrogateescape')}" if key else ARN + bucket


def is_of_snapshots(resource: str, prefix: str) -> bool:
    """Whether a request is about keys in snapshots, or may be: a segment of its key, or of the prefix that it lists, is
    where they are."""
    return SNAPSHOTS_SEGMENT in resource + "/" or SNAPSHOTS_SEGMENT in f"/{prefix}"


def key_allows(asker: Asker, action: str, resource: str, values: Values) -> bool:
    """Whether the policy of the key itself allows something."""
    policy = asker.key_policy
    return policy is None or policy.decide(Question(asker.user, action, resource, values)) is Verdict.ALLOW


def decide(
    asker: Asker,
    config: Configuration,
    operation: Operation,
    resource: str,
    values: Values,
    *,
    of_version: bool = False,
) -> Decision:
    """Whether an operation in a bucket may be carried out."""
    action = action_of(operation, of_version=of_version)
    if not key_allows(asker, action, resource, values):
        return Decision.DENY
    is_owner = owns(asker.user, config.info.owner)
    policy = config.policy
    if policy is not None:
        match policy.decide(Question(asker.user, action, resource, values)):
            case Verdict.DENY:
                return Decision.DENY
            case Verdict.ALLOW:
                if is_owner or not (config.public_access_block.restrict_public_buckets and policy.is_public):
                    return Decision.ALLOW
            case Verdict.SILENT:
                pass
    if operation in _OBJECT_PERMISSIONS and config.has_acls:
        return Decision.BY_OBJECT
    if is_owner:
        return Decision.ALLOW
    permission = _BUCKET_PERMISSIONS.get(operation)
    if permission is not None and config.has_acls and _permits(config, config.grants, asker.user, permission):
        return Decision.ALLOW
    return Decision.DENY


def owns(user: str, owner: str) -> bool:
    """Whether what is an owner's is the user's; what belongs to nobody is everybody's who has a key."""
    return bool(user) and (not owner or owner == user)


def object_permits(user: str, config: Configuration, operation: Operation, owner: str, grants: Sequence[str]) -> bool:
    """Whether an object's own owner and list allow it."""
    if owns(user, owner):
        return True
    return _permits(config, grants, user, _OBJECT_PERMISSIONS[operation])


def _permits(config: Configuration, grants: Sequence[str], user: str, permission: str) -> bool:
    ignores = config.public_access_block.ignore_public_acls
    return permits(grants, user, permission, ignores_public=ignores)
