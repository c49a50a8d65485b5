"""An authenticated request as handlers see it, and what many handlers read from one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

from siltstone.core.object_types import NO_CONDITIONS, BucketInfo, Conditions, ObjectInfo
from siltstone.errors import IsDeleteMarker, NotFound
from siltstone.limits import MULTIPART_PARTS_MAX, USER_METADATA_BYTES_MAX
from siltstone.ports import Clock, Random, Workers
from siltstone.s3gw.access import Asker, Decision, decide, is_of_snapshots, object_permits, owns, resource_of
from siltstone.s3gw.acl import PRIVATE, Grants, Owners, Users, is_public, names_a_list, of_headers
from siltstone.s3gw.body import Body, read_whole
from siltstone.s3gw.budget import Budget
from siltstone.s3gw.checksums import Digests, expectation
from siltstone.s3gw.configuration import PREFERRED, Configuration, Configurations
from siltstone.s3gw.dates import SECOND_NS, iso_date, parse_http_date, parse_iso_date
from siltstone.s3gw.encryption import Sealed, ServerKey, wanted
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.lifecycle_rules import REAL_DAYS, Calendar
from siltstone.s3gw.policy import EXISTING_TAG
from siltstone.s3gw.router import Operation, Target, parse_copy_source
from siltstone.s3gw.sigv4 import Identity, Verifier
from siltstone.s3gw.store import Store
from siltstone.s3gw.version_ids import version_wanted
from siltstone.s3gw.xml import Node, parse

DOCUMENT_BYTES_MAX = 8 * 1024 * 1024
"""Holds 10,000 parts or 1,000 keys, with all that may stand beside them."""

STORED_HEADERS = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
"""Standard headers that are kept with an object."""

META_PREFIX = "x-amz-meta-"
PAGE_MAX = 1000

_NOT_IMPLEMENTED_HEADERS = (
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-rename-source",
)
"""Headers that ask for what we do not have: to ignore them would be a lie about what was stored."""

EXPECTED_OWNER = "x-amz-expected-bucket-owner"


class Door(NamedTuple):
    """What all requests share. ``is_secure``: connections are encrypted. ``calendar``: of lifecycle rules."""

    store: Store
    budget: Budget
    workers: Workers
    clock: Clock
    region: str
    users: Users
    configurations: Configurations
    verifier: Verifier
    server: ServerKey
    random: Random
    is_secure: bool = False
    calendar: Calendar = REAL_DAYS


class Request(NamedTuple):
    """One request. ``target`` is decoded; ``query`` has decoded values; ``payload`` is what the signature says of the
    body (see sigv4.Verified); ``peer`` is the client's address."""

    door: Door
    operation: Operation
    identity: Identity
    target: Target
    query: Mapping[str, str]
    headers: Mapping[str, str]
    payload: str
    body: Body
    peer: str = ""
    existing_tags: Mapping[str, str] | None = None
    """Of the object that it is about, where a policy looks at them."""

    @property
    def store(self) -> Store:
        """Buckets and objects."""
        return self.door.store

    @property
    def budget(self) -> Budget:
        """Memory for bodies."""
        return self.door.budget

    @property
    def clock(self) -> Clock:
        """What time it is."""
        return self.door.clock

    @property
    def workers(self) -> Workers:
        """Threads for hashes."""
        return self.door.workers

    @property
    def region(self) -> str:
        """The region that is served."""
        return self.door.region

    @property
    def key(self) -> bytes:
        """The object's key."""
        return self.target.key

    async def bucket(self, *, checks_object: bool = False) -> BucketInfo:
        """The bucket of the request, in which the sender may do what is asked for. Raises NoSuchBucket, AccessDenied.

        ``checks_object``: the caller goes on to ``check_object`` where the object itself says whether it may be read.
        """
        return await self._allowed_in_bucket(checks_object=checks_object)

    async def bucket_now(self) -> BucketInfo:
        """The same for an answer that is about the bucket itself: as it is at this moment."""
        info = await self.store.bucket(self.target.bucket)
        if not self.has_everything(info):
            await self._authorize(info)
        return info

    def has_everything(self, info: BucketInfo) -> bool:
        """Whether the sender may do everything in a bucket and nobody else anything: it is the sender's, it has no
        configuration, and the key is not limited."""
        return (
            info.serial == 0
            and self.identity.policy is None
            and owns(self.identity.owner, info.owner)
            and EXPECTED_OWNER not in self.headers
        )

    async def authorize(
        self, operation: Operation, bucket: str, key: bytes = b"", *, version: str | None = None
    ) -> BucketInfo:
        """A bucket in which the sender may carry out another operation than the request's own, of a version of the key
        if one is named. Raises AccessDenied, NoSuchBucket."""
        query = {} if version is None else {"versionId": version}
        other = self._replace(operation=operation, target=Target(bucket, key), query=query, headers=self.headers)
        return await other._allowed_in_bucket(expected_owner=None)

    async def _allowed_in_bucket(
        self, *, checks_object: bool = False, expected_owner: str | None = EXPECTED_OWNER
    ) -> BucketInfo:
        """The bucket, in which the request may be carried out. What is known of it may be old: a permission is held
        against what there is where it is used, a refusal is here."""
        name = self.target.bucket
        info = await self.store.bucket_of_key(name)
        if self.has_everything(info):
            return info
        try:
            await self._authorize(info, checks_object=checks_object, expected_owner=expected_owner)
        except S3Error:
            now = await self.store.bucket(name)
            if now == info:
                raise
            await self._authorize(now, checks_object=checks_object, expected_owner=expected_owner)
            return now
        return info

    async def configuration(self, info: BucketInfo) -> Configuration:
        """The configuration of a bucket."""
        return await self.door.configurations.of(info)

    async def check_object(self, info: BucketInfo, found: ObjectInfo) -> None:
        """Raise AccessDenied unless the sender may have this object of the request's bucket."""
        if self.has_everything(info):
            return
        config = await self.configuration(info)
        if self._replace(existing_tags=found.tags)._decide(config) is Decision.BY_OBJECT:
            self._check_object(config, found)

    async def _authorize(
        self, info: BucketInfo, *, checks_object: bool = False, expected_owner: str | None = EXPECTED_OWNER
    ) -> None:
        if expected_owner is not None and self.headers.get(expected_owner, info.owner) != info.owner:
            raise S3Error("AccessDenied")
        config = await self.configuration(info)
        decision = (await self._with_existing_tags(config))._decide(config)
        if decision is Decision.DENY:
            raise S3Error("AccessDenied")
        if decision is Decision.BY_OBJECT and not checks_object:
            try:
                found = await self.store.head(self.target.bucket, self.target.key)
            except NotFound:
                self.check_may_list(config)
                raise
            self._check_object(config, found)

    async def _with_existing_tags(self, config: Configuration) -> Request:
        """The same request with the tags of the object that it is about, if a policy looks at them."""
        policies = (self.identity.policy, config.policy)
        if not self.key or not any(policy is not None and policy.wants_existing_tags for policy in policies):
            return self
        try:
            found = await self.store.head(self.target.bucket, self.key, version_wanted(self.query))
        except (NotFound, IsDeleteMarker):
            return self
        return self._replace(existing_tags=found.tags)

    def check_may_list(self, config: Configuration) -> None:
        """Raise AccessDenied unless the sender may know which keys there are not."""
        prefix = self.target.key.decode("utf-8", "surrogateescape")
        listing = self._replace(operation=Operation.LIST_OBJECTS, target=Target(config.info.name, b""))
        if listing._replace(query={"prefix": prefix})._decide(config) is not Decision.ALLOW:
            raise S3Error("AccessDenied")

    def _check_object(self, config: Configuration, found: ObjectInfo) -> None:
        owner = found.owner or config.info.owner
        if not object_permits(self.identity.owner, config, self.operation, owner, found.grants):
            raise S3Error("AccessDenied")

    @property
    def _asker(self) -> Asker:
        return Asker(self.identity.owner, self.identity.policy)

    def _decide(self, config: Configuration) -> Decision:
        resource = resource_of(self.target.bucket, self.target.key)
        of_version = "versionId" in self.query
        if is_of_snapshots(resource, self.query.get("prefix", "")) and not self.owns(config.info):
            return Decision.DENY
        return decide(self._asker, config, self.operation, resource, self.value, of_version=of_version)

    def value(self, key: str) -> Sequence[str] | None:
        """The values of a condition key of policies."""
        return condition_values(self, key)

    def owns(self, info: BucketInfo) -> bool:
        """Whether the bucket is the sender's."""
        return owns(self.identity.owner, info.owner)

    def display_name(self, owner: str) -> str:
        """The name of an owner."""
        if owner == self.identity.owner:
            return self.identity.display_name
        found = self.door.users.user(owner)
        return owner if found is None else found.display_name

    def number(self, name: str, default: int, *, largest: int = PAGE_MAX) -> int:
        """A query parameter that is a count, at most ``largest``. Raises InvalidArgument."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > 2**31 - 1:
            raise S3Error(
                "InvalidArgument",
                f"Provided {name} not an integer or within integer range",
                ArgumentName=name,
                ArgumentValue=text,
            )
        return min(int(text), largest)

    def part_number(self) -> int:
        """The query parameter partNumber. Raises InvalidArgument."""
        text = self.query.get("partNumber", "")
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MULTIPART_PARTS_MAX:
            raise S3Error(
                "InvalidArgument",
                f"Part number must be an integer between 1 and {MULTIPART_PARTS_MAX}, inclusive",
                ArgumentName="partNumber",
                ArgumentValue=text,
            )
        return int(text)

    def encodes_keys(self) -> bool:
        """Whether keys in the reply are to be percent-encoded. Raises InvalidArgument for another encoding."""
        encoding = self.query.get("encoding-type")
        if encoding not in (None, "", "url"):
            raise S3Error(
                "InvalidArgument",
                "Invalid Encoding Method specified in Request",
                ArgumentName="encoding-type",
                ArgumentValue=encoding or "",
            )
        return encoding == "url"

    async def document(
        self, *, may_be_empty: bool = False, needs_digest: bool = False, has_checksum: bool = True
    ) -> Node | None:
        """The body as XML; None for an empty one where that is allowed. Its checksums and hash are verified.
        ``has_checksum``: whether a checksum in the headers is the document's."""
        if needs_digest and not any(
            name == "content-md5" or name.startswith(("x-amz-checksum-", "x-amz-trailer")) for name in self.headers
        ):
            raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5")
        headers = self.headers
        if not has_checksum:
            headers = {name: text for name, text in headers.items() if not name.startswith("x-amz-checksum-")}
        expected = expectation(headers)
        text = await read_whole(self.body, DOCUMENT_BYTES_MAX)
        digests = Digests({"MD5", expected.algorithm})
        digests.update(text)
        expected.check(digests, self.body.trailers)
        if len(self.payload) == 64 and hashlib.sha256(text).hexdigest() != self.payload:
            raise S3Error("XAmzContentSHA256Mismatch")
        if not text.strip():
            if may_be_empty:
                return None
            raise S3Error("MissingRequestBodyError")
        return parse(text)


_QUERY_KEYS = {
    "s3:prefix": "prefix",
    "s3:delimiter": "delimiter",
    "s3:max-keys": "max-keys",
    "s3:versionid": "versionId",
}


def condition_values(request: Request, key: str) -> Sequence[str] | None:
    """The values of a condition key for a request, None when it has none."""
    if key in _QUERY_KEYS:
        text = request.query.get(_QUERY_KEYS[key])
        return None if text is None else (text,)
    if key.startswith("s3:x-amz-"):
        text = request.headers.get(key[3:])
        return None if text is None else (text,)
    if key.startswith(EXISTING_TAG):
        text = (request.existing_tags or {}).get(key[len(EXISTING_TAG) :])
        return None if text is None else (text,)
    if key.startswith("s3:requestobjecttag/"):
        tags = dict(parse_qsl(request.headers.get("x-amz-tagging", ""), keep_blank_values=True))
        name = key.partition("/")[2]
        return (tags[name],) if name in tags else None
    match key:
        case "s3:requestobjecttagkeys":
            names = [name for name, _ in parse_qsl(request.headers.get("x-amz-tagging", ""), keep_blank_values=True)]
            return names or None
        case "aws:sourceip":
            return (request.peer,) if request.peer else None
        case "aws:securetransport":
            return ("true" if request.door.is_secure else "false",)
        case "aws:useragent" | "aws:referer":
            text = request.headers.get("user-agent" if key == "aws:useragent" else "referer")
            return None if text is None else (text,)
        case "aws:username" | "aws:userid":
            return (request.identity.owner,) if request.identity.owner else None
        case "aws:principaltype":
            return ("User" if request.identity.owner else "Anonymous",)
        case "aws:currenttime" | "aws:epochtime":
            now_ns = request.door.clock.now_ns()
            return (iso_date(now_ns) if key == "aws:currenttime" else str(now_ns // SECOND_NS),)
        case "s3:authtype":
            is_query = "X-Amz-Signature" in request.query
            return ("REST-QUERY-STRING" if is_query else "REST-HEADER",) if request.identity.owner else None
        case "s3:signatureversion":
            return ("AWS4-HMAC-SHA256",) if request.identity.owner else None
        case _:
            return None


async def new_object_sealing(request: Request, info: BucketInfo) -> Sealed | None:
    """How an object that the request makes is to be encrypted, None: not. Raises S3Error."""
    by_default = info.serial > 0 and (await request.configuration(info)).encrypts
    return wanted(request.headers, by_default=by_default, server=request.door.server, random=request.door.random)


async def new_object_access(request: Request, info: BucketInfo) -> tuple[str, Grants]:
    """(owner, grants) of an object that the request makes in a bucket. Raises AccessDenied where public lists are
    blocked, AccessControlListNotSupported where there are none."""
    user, headers = request.identity.owner or info.owner, request.headers
    if info.serial == 0 and not names_a_list(headers):
        return user, PRIVATE
    config = await request.configuration(info)
    name = headers.get("x-amz-acl")
    if not config.has_acls:
        if names_a_list(headers) and name != "bucket-owner-full-control":
            raise S3Error("AccessControlListNotSupported")
        return info.owner or user, PRIVATE
    if config.ownership == PREFERRED and name == "bucket-owner-full-control":
        return info.owner or user, PRIVATE
    grants = of_headers(headers, Owners(user, info.owner or user), request.door.users)
    if config.public_access_block.block_public_acls and is_public(grants):
        raise S3Error("AccessDenied")
    return user, grants


def refuse_what_is_not_there(headers: Mapping[str, str]) -> None:
    """Raise NotImplemented for headers that ask for encryption, locks, tags or grants."""
    for name in headers:
        if name.startswith("x-amz-") and name.startswith(_NOT_IMPLEMENTED_HEADERS):
            raise S3Error("NotImplemented", f"The header {name} is not implemented.", Header=name)
    if headers.get("x-amz-storage-class", "STANDARD") != "STANDARD":
        raise S3Error("InvalidStorageClass")


def stored_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The standard headers to keep with an object; the transfer's own aws-chunked is not one of them."""
    kept = {name: headers[name] for name in STORED_HEADERS if headers.get(name)}
    encoding = kept.get("content-encoding")
    if encoding is not None and "aws-chunked" in encoding:
        codings = [coding.strip() for coding in encoding.split(",")]
        left = ",".join(coding for coding in codings if coding and coding != "aws-chunked")
        if left:
            kept["content-encoding"] = left
        else:
            del kept["content-encoding"]
    return kept


def user_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """The metadata of the client's own. Raises MetadataTooLarge."""
    metadata = {name[len(META_PREFIX) :]: value for name, value in headers.items() if name.startswith(META_PREFIX)}
    size = sum(len(name) + len(value) for name, value in metadata.items())
    if size > USER_METADATA_BYTES_MAX:
        raise S3Error("MetadataTooLarge", Size=str(size), MaxSizeAllowed=str(USER_METADATA_BYTES_MAX))
    return metadata


def conditions(headers: Mapping[str, str], prefix: str = "") -> Conditions:
    """The conditions in a request's headers, or in those for a copy's source (``prefix`` "x-amz-copy-source-").

    A date that does not parse is as if it were not there (RFC 9110, 13.1.3).
    """
    since, unless = headers.get(prefix + "if-modified-since"), headers.get(prefix + "if-unmodified-since")
    return Conditions(
        if_match=_etag(headers.get(prefix + "if-match")),
        if_none_match=_etag(headers.get(prefix + "if-none-match")),
        if_modified_since_ns=None if since is None else parse_http_date(since),
        if_unmodified_since_ns=None if unless is None else parse_http_date(unless),
    )


def write_conditions(headers: Mapping[str, str]) -> Conditions:
    """The conditions of a write: only those on ETags count."""
    if "if-match" not in headers and "if-none-match" not in headers:
        return NO_CONDITIONS
    return Conditions(if_match=_etag(headers.get("if-match")), if_none_match=_etag(headers.get("if-none-match")))


def delete_conditions(etag: str | None, size: str | None, modified: str | None) -> Conditions:
    """The conditions of a delete. Raises InvalidArgument."""
    if etag is None and size is None and modified is None:
        return NO_CONDITIONS
    if size is not None and not (size.isascii() and size.isdigit() and len(size) < 20):
        raise S3Error("InvalidArgument", "The size must be a number", ArgumentName="x-amz-if-match-size")
    modified_ns = None if modified is None else parse_http_date(modified) or parse_iso_date(modified)
    if modified is not None and modified_ns is None:
        raise S3Error("InvalidArgument", "The last modified time must be a date")
    return Conditions(if_match=_etag(etag), if_size=None if size is None else int(size), if_modified_at_ns=modified_ns)


def _etag(text: str | None) -> str | None:
    """A condition's ETags without quotes; a weak one compares like a strong one, as S3 has no weak ones."""
    if text is None:
        return None
    return ",".join(part.strip().removeprefix("W/").strip('"') for part in text.split(","))


async def copy_source(request: Request) -> tuple[Target, str | None]:
    """The source of a copy, in a bucket that the sender may use, and the version that is wanted (empty: the null
    version; None: the current one). Raises S3Error."""
    source, version = parse_copy_source(request.headers["x-amz-copy-source"])
    info = await request.authorize(Operation.GET_OBJECT, source.bucket, source.key, version=version or None)
    if request.headers.get("x-amz-source-expected-bucket-owner", info.owner) != info.owner:
        raise S3Error("AccessDenied")
    return source, None if not version else "" if version == "null" else version
