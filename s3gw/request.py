"""An authenticated request as handlers see it, and what many handlers read from one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from siltstone.core.object_types import NO_CONDITIONS, BucketInfo, Conditions
from siltstone.limits import MULTIPART_PARTS_MAX, USER_METADATA_BYTES_MAX
from siltstone.ports import Workers
from siltstone.s3gw.body import Body, read_whole
from siltstone.s3gw.budget import Budget
from siltstone.s3gw.checksums import Digests, expectation
from siltstone.s3gw.dates import parse_http_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.router import Target, parse_copy_source
from siltstone.s3gw.sigv4 import Identity
from siltstone.s3gw.store import Store
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
    "x-amz-grant-",
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-rename-source",
)
"""Headers that ask for what we do not have: to ignore them would be a lie about what was stored."""
_HARMLESS_ACLS = frozenset(("private", "bucket-owner-full-control", "bucket-owner-read"))
"""Canned ACLs that say what holds anyway: the owner of the bucket has everything, nobody else anything."""


class Request(NamedTuple):
    """One request. ``target`` is decoded; ``query`` has decoded values; ``payload`` is what the signature says of the
    body (see sigv4.Verified)."""

    store: Store
    budget: Budget
    workers: Workers
    identity: Identity
    region: str
    target: Target
    query: Mapping[str, str]
    headers: Mapping[str, str]
    payload: str
    body: Body

    @property
    def key(self) -> bytes:
        """The object's key."""
        return self.target.key

    async def bucket(self) -> BucketInfo:
        """The bucket of the request, to ask for something in it. Raises NoSuchBucket, and AccessDenied when it is
        somebody else's."""
        return await self.bucket_named(self.target.bucket)

    async def bucket_now(self) -> BucketInfo:
        """The same for an answer that is about the bucket itself: as it is at this moment."""
        return self._checked(await self.store.bucket(self.target.bucket))

    async def bucket_named(self, name: str) -> BucketInfo:
        """A bucket that the sender may use, to ask in it; one without an owner record belongs to all who have a key."""
        return self._checked(await self.store.bucket_of_key(name))

    def _checked(self, info: BucketInfo) -> BucketInfo:
        if not self.owns(info):
            raise S3Error("AccessDenied")
        return info

    def owns(self, info: BucketInfo) -> bool:
        """Whether the bucket is the sender's."""
        return not info.owner or info.owner == self.identity.owner

    def display_name(self, owner: str) -> str:
        """The name of an owner, as far as the sender may know it."""
        return self.identity.display_name if owner == self.identity.owner else owner

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

    async def document(self, *, may_be_empty: bool = False, needs_digest: bool = False) -> Node | None:
        """The body as XML; None for an empty one where that is allowed. Its checksums and hash are verified."""
        if needs_digest and not any(
            name == "content-md5" or name.startswith(("x-amz-checksum-", "x-amz-trailer")) for name in self.headers
        ):
            raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5")
        expected = expectation(self.headers)
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


def refuse_what_is_not_there(headers: Mapping[str, str]) -> None:
    """Raise NotImplemented for headers that ask for encryption, locks, tags or grants."""
    for name in headers:
        if name.startswith("x-amz-") and name.startswith(_NOT_IMPLEMENTED_HEADERS):
            raise S3Error("NotImplemented", f"The header {name} is not implemented.", Header=name)
    if headers.get("x-amz-acl", "private") not in _HARMLESS_ACLS:
        raise S3Error("NotImplemented", "Canned ACLs other than private are not implemented.", Header="x-amz-acl")
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


def _etag(text: str | None) -> str | None:
    """A condition's ETags without quotes; a weak one compares like a strong one, as S3 has no weak ones."""
    if text is None:
        return None
    return ",".join(part.strip().removeprefix("W/").strip('"') for part in text.split(","))


async def copy_source(request: Request) -> Target:
    """The source of a copy, in a bucket that the sender may use. Raises S3Error."""
    source, version = parse_copy_source(request.headers["x-amz-copy-source"])
    if version not in ("", "null"):
        raise S3Error("NoSuchVersion")
    await request.bucket_named(source.bucket)
    return source
