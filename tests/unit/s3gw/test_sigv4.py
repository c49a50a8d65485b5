"""botocore's own signers are the oracle: what they sign is accepted, and any change to it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.dates import iso_date, parse_amz_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import Policy
from siltstone.s3gw.sigv4 import Identity, Message, Verified, Verifier, sign, signing_key

NOW = "20250314T092653Z"
ACCESS, SECRET, REGION = "AKSILT", "a/secret+key", "us-east-1"


@dataclass(frozen=True)
class Key:
    access: str = ACCESS
    secret: str = SECRET
    owner: str = "owner"
    display_name: str = "Owner"
    policy: Policy | None = None


def now_ns(seconds: int = 0) -> int:
    time_ns = parse_amz_date(NOW)
    assert time_ns is not None
    return time_ns + seconds * 1_000_000_000


def lookup(access: str) -> Identity | None:
    return Key() if access == ACCESS else None


def verify(message: Message, *, at: int = 0, region: str = REGION) -> Verified:
    return Verifier(lookup, region).verify(message, now_ns(at))


def signed(
    method: str,
    url: str,
    headers: dict[str, str],
    *,
    body: bytes = b"",
    expires: int | None = None,
    access: str = ACCESS,
    secret: str = SECRET,
    region: str = REGION,
) -> Message:
    """What botocore would send."""
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    credentials = Credentials(access, secret)
    signer: Any
    if expires is None:
        signer = botocore.auth.S3SigV4Auth(credentials, "s3", region)
    else:
        signer = botocore.auth.S3SigV4QueryAuth(credentials, "s3", region, expires=expires)
    with mock.patch.object(botocore.auth, "get_current_datetime") as clock:
        clock.return_value.strftime.side_effect = lambda form: NOW[:8] if form == "%Y%m%d" else NOW
        signer.add_auth(request)
    parts = urlsplit(request.url)
    sent = {name.lower(): value for name, value in request.headers.items()}
    sent.setdefault("host", parts.netloc)
    return Message(method, parts.path, parts.query, sent)


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1, max_size=12)
names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).filter(lambda name: name.strip("-"))
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
urls = st.builds(
    lambda path, query: (
        "http://127.0.0.1:9000/"
        + "/".join(quote(part, safe="-_.~") for part in path)
        + ("?" + "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in query) if query else "")
    ),
    st.lists(words, min_size=1, max_size=3),
    st.lists(st.tuples(words, words), max_size=3, unique_by=lambda pair: pair[0]),
)
headers = st.dictionaries(names.map("x-amz-meta-{}".format), values, max_size=4)
methods = st.sampled_from(("GET", "PUT", "HEAD", "DELETE", "POST"))


@given(methods, urls, headers, st.binary(max_size=20))
def test_what_botocore_signs_by_header_is_accepted(method: str, url: str, extra: dict[str, str], body: bytes) -> None:
    verified = verify(signed(method, url, extra, body=body))
    assert verified.identity.access == ACCESS


@given(methods, urls, headers, st.integers(1, 604_800))
def test_what_botocore_presigns_is_accepted_until_it_expires(
    method: str, url: str, extra: dict[str, str], expires: int
) -> None:
    message = signed(method, url, extra, expires=expires)
    assert verify(message, at=expires).identity.access == ACCESS
    with pytest.raises(S3Error) as caught:
        verify(message, at=expires + 1)
    assert (caught.value.code, caught.value.status) == ("AccessDenied", 403)


@given(methods, urls, headers, st.booleans(), st.data())
def test_any_change_to_a_signed_request_is_refused(
    method: str, url: str, extra: dict[str, str], presigned: bool, data: st.DataObject
) -> None:
    message = signed(method, url, extra, expires=60 if presigned else None)
    what = data.draw(st.sampled_from(("method", "path", "query", "host", *sorted(extra))))
    if what == "method":
        changed = message._replace(method="PATCH")
    elif what == "path":
        changed = message._replace(path=message.path + "x")
    elif what == "query":
        changed = message._replace(query=(message.query + "&" if message.query else "") + "more=1")
    else:
        changed = message._replace(headers={**message.headers, what: message.headers[what] + "x"})
    with pytest.raises(S3Error) as caught:
        verify(changed)
    assert caught.value.code == "SignatureDoesNotMatch"


@given(st.text(max_size=60), st.text(st.characters(max_codepoint=255), max_size=200), st.booleans())
def test_nonsense_is_our_error_or_where_it_bears_no_signature_nobody(
    query: str, authorization: str, prefixed: bool
) -> None:
    text = "AWS4-HMAC-SHA256 " + authorization if prefixed else authorization
    for sent in ({"authorization": text, "x-amz-date": NOW, "host": "h"}, {"host": "h"}):
        for raw in (query, "X-Amz-Signature=" + query):
            try:
                identity = verify(Message("GET", "/", raw, sent)).identity
            except S3Error:
                continue
            assert (identity.access, identity.owner) == ("", "")
            assert "authorization" not in sent and raw == query


URL = "http://127.0.0.1:9000/bucket/key"


def code_of(message: Message, **options: Any) -> tuple[str, int]:
    with pytest.raises(S3Error) as caught:
        verify(message, **options)
    return caught.value.code, caught.value.status


def test_each_fault_has_its_own_code() -> None:
    good = signed("GET", URL, {})
    assert verify(good._replace(headers={"host": "h"})).identity.owner == ""
    assert code_of(good, at=16 * 60) == ("RequestTimeTooSkewed", 403)
    assert code_of(good, at=-16 * 60) == ("RequestTimeTooSkewed", 403)
    assert code_of(good, region="eu-west-1") == ("AuthorizationHeaderMalformed", 400)
    assert code_of(signed("GET", URL, {}, access="nobody")) == ("InvalidAccessKeyId", 403)
    assert code_of(signed("GET", URL, {}, secret="guessed")) == ("SignatureDoesNotMatch", 403)
    assert code_of(good._replace(headers={**good.headers, "x-amz-acl": "public-read"})) == ("AccessDenied", 403)
    without_hash = {k: v for k, v in good.headers.items() if k != "x-amz-content-sha256"}
    assert code_of(good._replace(headers=without_hash)) == ("InvalidRequest", 400)
    for authorization, code in (
        ("AWS AKID:c2ln", "InvalidRequest"),
        ("Bearer x", "InvalidArgument"),
        ("AWS4-HMAC-SHA256 Credential=x", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=0", "AuthorizationHeaderMalformed"),
    ):
        assert code_of(good._replace(headers={**good.headers, "authorization": authorization}))[0] == code


def test_a_presigned_request_outside_its_life_is_403() -> None:
    presigned = signed("GET", URL, {}, expires=60)
    assert code_of(presigned, at=-16 * 60) == ("AccessDenied", 403)
    for expires in ("604801", "-1", "soon"):
        query = presigned.query.replace("X-Amz-Expires=60", f"X-Amz-Expires={expires}")
        assert code_of(presigned._replace(query=query)) == ("AuthorizationQueryParametersError", 403)
    assert code_of(presigned._replace(query="X-Amz-Signature=1")) == ("AuthorizationQueryParametersError", 400)
    version_2 = presigned._replace(query="AWSAccessKeyId=AKSILT&Signature=c2ln&Expires=2000000000")
    assert code_of(version_2) == ("InvalidRequest", 400)
    both = presigned._replace(headers={**presigned.headers, "authorization": "AWS4-HMAC-SHA256 x"})
    assert code_of(both) == ("InvalidArgument", 400)


def test_a_path_sent_in_another_spelling_than_it_was_signed_in_is_accepted() -> None:
    message = signed("GET", "http://127.0.0.1:9000/bucket/a%20b%28c%29", {})
    assert verify(message._replace(path="/bucket/a%20b(c)")).identity.access == ACCESS


def test_a_date_header_serves_when_there_is_no_x_amz_date() -> None:
    good = signed("GET", URL, {})
    sent = {k: v for k, v in good.headers.items() if k not in ("x-amz-date", "authorization")}
    sent["date"] = "Fri, 14 Mar 2025 09:26:53 GMT"
    assert iso_date(now_ns()).startswith("2025-03-14T09:26:53")
    scope = f"{NOW[:8]}/{REGION}/s3/aws4_request"
    names = "date;host;x-amz-content-sha256"
    payload = sent["x-amz-content-sha256"]
    lines = "".join(f"{name}:{sent[name]}\n" for name in names.split(";"))
    request = f"GET\n/bucket/key\n\n{lines}\n{names}\n{payload}".encode()
    signature = sign(signing_key(SECRET, NOW[:8], REGION), NOW, scope, request)
    sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope},SignedHeaders={names},Signature={signature}"
    assert verify(good._replace(headers=sent)).signature == signature
