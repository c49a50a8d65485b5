"""AWS Signature Version 4, the verifying side: header, presigned query, and what chunk signatures need. Pure.

Source: "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API reference. A request is verified as it
was sent: the path stays percent-encoded as the client wrote it, and S3 neither normalises nor encodes it twice. Some
clients sign a path or query in canonical encoding but send another spelling of it; since both mean the same, that
one is tried second.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from siltstone.s3gw.dates import SECOND_NS, iso_date, parse_amz_date, parse_http_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import Policy

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING = frozenset((STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER))
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

SKEW_NS_MAX = 15 * 60 * SECOND_NS
EXPIRES_SECONDS_MAX = 7 * 24 * 3600

_USE_V4 = f"The authorization mechanism you have provided is not supported. Please use {ALGORITHM}."
_SAFE = "-_.~"
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_QUERY_PARAMETERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
_WORD = r"(?:[A-Za-z0-9\-_.~]|%[0-9A-F]{2})*"
_CANONICAL_QUERY = re.compile(f"{_WORD}(?:={_WORD})?(?:&{_WORD}(?:={_WORD})?)*")
_BLANKS = re.compile(r"[ \t]+")


class Identity(Protocol):
    """Who holds an access key."""

    @property
    def access(self) -> str:
        """The public part of the key."""

    @property
    def secret(self) -> str:
        """The secret part."""

    @property
    def owner(self) -> str:
        """The id that buckets of this key belong to."""

    @property
    def display_name(self) -> str:
        """The owner's name in listings."""

    @property
    def policy(self) -> Policy | None:
        """What the key may do of what its owner may; None: all of it."""


class Nobody(NamedTuple):
    """Who sends a request without a signature."""

    access: str = ""
    secret: str = ""
    owner: str = ""
    display_name: str = ""
    policy: Policy | None = None


Lookup = Callable[[str], Identity | None]
"""An access key's identity, None when there is no such key."""


class Message(NamedTuple):
    """The parts of a request that a signature covers.

    ``path`` and ``query`` are as sent (percent-encoded, without the ``?``); ``headers`` have lower-case names, and
    several of one name are joined by ``,``.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class Verified(NamedTuple):
    """A request whose signature was right.

    ``payload`` is what it says of the body: a SHA-256 in hex, UNSIGNED-PAYLOAD or a STREAMING form; chunk signatures
    continue from ``signature`` with ``key``, ``timestamp`` and ``scope``.
    """

    identity: Identity
    payload: str
    signature: str
    key: bytes
    timestamp: str
    scope: str


class _Claim(NamedTuple):
    """What a request says about its own signature."""

    access: str
    date: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    scope: str


class Verifier:
    """Verifies requests for one region. Keeps the signing keys of the day, which cost four HMACs each."""

    KEYS_MAX = 1024

    def __init__(self, lookup: Lookup, region: str) -> None:
        self._lookup = lookup
        self._region = region
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def verify(self, message: Message, now_ns: int) -> Verified:
        """Who sent the request. Raises S3Error with the code that says what is wrong with the signature."""
        authorization = message.headers.get("authorization")
        if "X-Amz-Signature=" in message.query or "X-Amz-Algorithm=" in message.query:
            if authorization is not None:
                raise S3Error(
                    "InvalidArgument",
                    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                    "parameter or the Authorization header should be specified",
                )
            return self._verify_query(message, now_ns)
        if authorization is None:
            if "AWSAccessKeyId=" in message.query:  # what boto3 presigns unless it is told signature_version="s3v4"
                raise S3Error("InvalidRequest", _USE_V4)
            return _unsigned(message)
        return self._verify_header(message, authorization, now_ns)

    def verify_form(self, fields: Mapping[str, str], now_ns: int) -> Identity:
        """Who signed the policy of a form, whose fields have lower-case names: by version 4, or by version 2, which
        S3 takes here as well. Raises S3Error."""
        policy = fields.get("policy")
        if policy is None:
            raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'policy'.", ArgumentName="policy")
        raw = policy.encode("utf-8", "surrogateescape")
        if "x-amz-signature" in fields or "x-amz-algorithm" in fields:
            for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"):
                if name not in fields:
                    raise S3Error("InvalidArgument", f"Bucket POST must contain a field named '{name}'.")
            if fields["x-amz-algorithm"] != ALGORITHM or parse_amz_date(fields["x-amz-date"]) is None:
                raise S3Error("InvalidArgument", f"X-Amz-Algorithm only supports {ALGORITHM}, with a date")
            claim = self._parse_claim(
                "AuthorizationQueryParametersError",
                fields["x-amz-credential"],
                "host",
                fields["x-amz-signature"],
                fields["x-amz-date"],
            )
            identity = self._identity(claim.access)
            expected = hmac.digest(self._signing_key(identity, claim), raw, "sha256").hex()
            given = claim.signature
        else:
            for name in ("awsaccesskeyid", "signature"):
                if name not in fields:
                    raise S3Error("InvalidArgument", f"Bucket POST must contain a field named '{name}'.")
            identity = self._identity(fields["awsaccesskeyid"])
            expected = base64.b64encode(hmac.digest(identity.secret.encode(), raw, "sha1")).decode()
            given = fields["signature"]
        if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogateescape")):
            raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=identity.access)
        return identity

    def _identity(self, access: str) -> Identity:
        identity = self._lookup(access)
        if identity is None:
            raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access)
        return identity

    def _verify_header(self, message: Message, authorization: str, now_ns: int) -> Verified:
        headers = message.headers
        timestamp, time_ns = _request_time(headers)
        claim = self._parse_authorization(authorization, timestamp)
        if abs(now_ns - time_ns) > SKEW_NS_MAX:
            raise S3Error(
                "RequestTimeTooSkewed",
                RequestTime=timestamp,
                ServerTime=iso_date(now_ns),
                MaxAllowedSkewMilliseconds=str(SKEW_NS_MAX // 1_000_000),
            )
        payload = headers.get("x-amz-content-sha256")
        if payload is None:
            raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
        _check_payload(payload)
        return self._check(message, claim, message.query, payload)

    def _verify_query(self, message: Message, now_ns: int) -> Verified:
        parameters = dict(split_query(message.query))
        for name in _QUERY_PARAMETERS:
            if not parameters.get(name):
                raise S3Error(
                    "AuthorizationQueryParametersError",
                    "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
                    "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
                )
        if parameters["X-Amz-Algorithm"] != ALGORITHM:
            raise S3Error("AuthorizationQueryParametersError", f'X-Amz-Algorithm only supports "{ALGORITHM}"')
        if "X-Amz-Security-Token" in parameters:
            raise S3Error("InvalidToken")
        timestamp = parameters["X-Amz-Date"]
        time_ns = parse_amz_date(timestamp)
        if time_ns is None:
            raise S3Error(
                "AuthorizationQueryParametersError",
                "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
            )
        _check_expiry(parameters["X-Amz-Expires"], time_ns, now_ns)
        claim = self._parse_claim(
            "AuthorizationQueryParametersError",
            parameters["X-Amz-Credential"],
            parameters["X-Amz-SignedHeaders"],
            parameters["X-Amz-Signature"],
            timestamp,
        )
        query = "&".join(part for part in message.query.split("&") if not part.startswith("X-Amz-Signature="))
        payload = parameters.get("X-Amz-Content-Sha256") or message.headers.get("x-amz-content-sha256")
        payload = payload or UNSIGNED_PAYLOAD
        _check_payload(payload)
        return self._check(message, claim, query, payload)

    def _parse_authorization(self, authorization: str, timestamp: str) -> _Claim:
        scheme, _, rest = authorization.partition(" ")
        if scheme != ALGORITHM:
            raise S3Error(
                "InvalidRequest" if scheme == "AWS" else "InvalidArgument",
                _USE_V4,
            )
        fields: dict[str, str] = {}
        for part in rest.split(","):
            name, _, value = part.strip().partition("=")
            fields[name] = value
        for name in ("Credential", "SignedHeaders", "Signature"):
            if not fields.get(name):
                raise S3Error(
                    "AuthorizationHeaderMalformed", f"The authorization header is malformed; {name} is missing."
                )
        return self._parse_claim(
            "AuthorizationHeaderMalformed",
            fields["Credential"],
            fields["SignedHeaders"],
            fields["Signature"],
            timestamp,
        )

    def _parse_claim(self, code: str, credential: str, signed: str, signature: str, timestamp: str) -> _Claim:
        parts = credential.rsplit("/", 4)  # an access key may hold slashes
        if len(parts) != 5:
            raise S3Error(
                code,
                'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".',
            )
        access, date, region, service, terminator = parts
        if date != timestamp[:8]:
            raise S3Error(code, f'Invalid credential date "{date}". This date is not the same as X-Amz-Date.')
        if region != self._region:
            raise S3Error(code, f"the region '{region}' is wrong; expecting '{self._region}'", Region=self._region)
        if service != "s3" or terminator != "aws4_request":
            raise S3Error(code, 'the Credential must end with "/s3/aws4_request".')
        names = tuple(signed.split(";"))
        if "host" not in names:
            raise S3Error(code, "SignedHeaders must contain host.")
        return _Claim(access, date, region, names, signature, timestamp, f"{date}/{region}/s3/aws4_request")

    def _check(self, message: Message, claim: _Claim, query: str, payload: str) -> Verified:
        identity = self._identity(claim.access)
        headers = message.headers
        for name in headers:
            if name.startswith("x-amz-") and name not in claim.signed_headers and name != "x-amz-content-sha256":
                raise S3Error(
                    "AccessDenied",
                    "There were headers present in the request which were not signed",
                    HeadersNotSigned=name,
                )
        if "x-amz-security-token" in headers:
            raise S3Error("InvalidToken")
        try:
            lines = [f"{name}:{_trim(headers[name])}\n" for name in claim.signed_headers]
        except KeyError:
            raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=claim.access) from None
        key = self._signing_key(identity, claim)
        tail = f"{''.join(lines)}\n{';'.join(claim.signed_headers)}\n{payload}"
        given = claim.signature.encode("latin-1", "replace")
        for spell_path, spell_query in ((_as_sent, sort_query), (canonical_path, canonical_query)):
            request = f"{message.method}\n{spell_path(message.path)}\n{spell_query(query)}\n{tail}"
            expected = sign(key, claim.timestamp, claim.scope, request.encode("latin-1", "replace"))
            if hmac.compare_digest(expected.encode(), given):
                return Verified(identity, payload, expected, key, claim.timestamp, claim.scope)
        raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=claim.access)

    def _signing_key(self, identity: Identity, claim: _Claim) -> bytes:
        name = (identity.access, identity.secret, claim.date)
        key = self._keys.get(name)
        if key is None:
            if len(self._keys) >= self.KEYS_MAX:
                self._keys.clear()
            key = self._keys[name] = signing_key(identity.secret, claim.date, claim.region)
        return key


def _unsigned(message: Message) -> Verified:
    """A request of nobody known: what it says of its body is nothing that could be checked by a signature."""
    payload = message.headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
    if payload in STREAMING and payload != STREAMING_UNSIGNED_TRAILER:
        raise S3Error("AccessDenied")
    _check_payload(payload)
    return Verified(Nobody(), payload, "", b"", "", "")


def signing_key(secret: str, date: str, region: str) -> bytes:
    """The key of one day, region and service s3."""
    key = f"AWS4{secret}".encode()
    for word in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def sign(key: bytes, timestamp: str, scope: str, canonical_request: bytes) -> str:
    """The signature of a canonical request, in hex."""
    digest = hashlib.sha256(canonical_request).hexdigest()
    return hmac.digest(key, f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}".encode(), "sha256").hex()


def sign_chunk(verified: Verified, previous: str, data_sha256: str) -> str:
    """The signature of one chunk of a streamed body, after the one before it (or the request's own)."""
    text = (
        f"AWS4-HMAC-SHA256-PAYLOAD\n{verified.timestamp}\n{verified.scope}\n{previous}\n{EMPTY_SHA256}\n{data_sha256}"
    )
    return hmac.digest(verified.key, text.encode(), "sha256").hex()


def sign_trailer(verified: Verified, previous: str, trailer_sha256: str) -> str:
    """The signature of the trailers of a streamed body, after the one of its last chunk."""
    text = f"AWS4-HMAC-SHA256-TRAILER\n{verified.timestamp}\n{verified.scope}\n{previous}\n{trailer_sha256}"
    return hmac.digest(verified.key, text.encode(), "sha256").hex()


def split_query(query: str) -> list[tuple[str, str]]:
    """The decoded parameters of a raw query, in order; one without ``=`` has the value ``""``."""
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_decode(name), _decode(value)))
    return pairs


def _decode(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def sort_query(query: str) -> str:
    """The canonical form of a raw query, at little cost when it is encoded canonically, as SDKs send it."""
    if not query:
        return ""
    if _CANONICAL_QUERY.fullmatch(query) is None:
        return canonical_query(query)
    pairs = [(name, value) for name, _, value in (part.partition("=") for part in query.split("&")) if name or value]
    if len(pairs) > 1:
        pairs.sort()
    return "&".join(f"{name}={value}" for name, value in pairs)


def canonical_query(query: str) -> str:
    """A raw query with its parameters decoded, encoded anew and sorted."""
    pairs = sorted((_encode(name), _encode(value)) for name, value in split_query(query))
    return "&".join(f"{name}={value}" for name, value in pairs)


def _encode(text: str) -> str:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe=_SAFE)


def _as_sent(path: str) -> str:
    return path


def canonical_path(path: str) -> str:
    """A raw path in canonical encoding."""
    return quote_from_bytes(unquote_to_bytes(path.encode("latin-1", "replace")), safe="/" + _SAFE)


def _trim(value: str) -> str:
    """A header's value without outer blanks and with inner runs of blanks as one."""
    if "  " in value or "\t" in value or value[:1] == " " or value[-1:] == " ":
        return _BLANKS.sub(" ", value).strip(" ")
    return value


def _request_time(headers: Mapping[str, str]) -> tuple[str, int]:
    """(timestamp as signed, nanoseconds) of a request that signs by header."""
    stamp = headers.get("x-amz-date")
    if stamp is not None:
        time_ns = parse_amz_date(stamp)
        if time_ns is not None:
            return stamp, time_ns
    else:
        time_ns = parse_http_date(headers.get("date", ""))
        if time_ns is not None:
            return _amz_date(time_ns), time_ns
    raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")


def _amz_date(time_ns: int) -> str:
    return iso_date(time_ns)[:19].replace("-", "").replace(":", "") + "Z"


def _check_payload(payload: str) -> None:
    if payload != UNSIGNED_PAYLOAD and payload not in STREAMING and _HEX_64.fullmatch(payload) is None:
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
        )


def _check_expiry(expires: str, time_ns: int, now_ns: int) -> None:
    """Raise unless ``now_ns`` is inside a presigned request's life. These are 403, also where the value is absurd."""
    code = "AuthorizationQueryParametersError"
    digits = expires[1:] if expires.startswith("-") else expires
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise S3Error(code, "X-Amz-Expires should be a number", status=403)
    seconds = int(expires)
    if seconds < 0:
        raise S3Error(code, "X-Amz-Expires must be non-negative", status=403)
    if seconds > EXPIRES_SECONDS_MAX:
        raise S3Error(
            code, f"X-Amz-Expires must be less than a week (in seconds) that is {EXPIRES_SECONDS_MAX}", status=403
        )
    if time_ns - now_ns > SKEW_NS_MAX:
        raise S3Error("AccessDenied", "Request is not valid yet", ServerTime=iso_date(now_ns))
    end_ns = time_ns + seconds * SECOND_NS
    if now_ns > end_ns:
        raise S3Error(
            "AccessDenied",
            "Request has expired",
            Expires=iso_date(end_ns),
            ServerTime=iso_date(now_ns),
        )
