"""Who gets at what, through the door: owners, others and nobody known, by policies, lists and ownership."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.s3gw.acl import ALL_USERS, document_of
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.form import read_form
from siltstone.s3gw.gateway import NO_USERS
from sim.s3 import ALT, HOST, MAIN, Answer, Client, Door, run_on_core, run_on_each_store

ALL = "http://acs.amazonaws.com/groups/global/AllUsers"


async def anonymous(
    client: Client, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """A request without a signature."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    await client.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return await client.receive(with_body=method != "HEAD")


def policy(**statement: object) -> bytes:
    return json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", **statement}}).encode()


def test_others_and_nobody_get_only_what_a_policy_allows() -> None:
    async def body(_: Door, client: Client) -> None:
        await client.put("/bucket/a/k", b"bytes")
        assert (await client.request("GET", "/bucket/a/k", key=ALT)).status == 403
        assert (await anonymous(client, "GET", "/bucket/a/k")).status == 403
        allowed = policy(Action="s3:GetObject", Resource="arn:aws:s3:::bucket/a/*")
        assert (await client.request("PUT", "/bucket", "policy", body=allowed)).status == 204
        assert (await client.request("GET", "/bucket", "policy")).body == allowed
        assert (await client.request("GET", "/bucket/a/k", key=ALT)).body == b"bytes"
        assert (await anonymous(client, "GET", "/bucket/a/k")).body == b"bytes"
        assert (await anonymous(client, "PUT", "/bucket/a/k", b"x")).status == 403
        assert (await anonymous(client, "GET", "/bucket")).status == 403
        assert (
            await anonymous(client, "GET", "/bucket/a/none")
        ).status == 403  # it must not learn which keys there are
        assert (await client.request("GET", "/bucket", "policy", key=ALT)).status == 403
        status = (await client.request("GET", "/bucket", "policyStatus")).xml
        assert status.text_of("IsPublic") == "true"
        block = b"<PublicAccessBlockConfiguration><RestrictPublicBuckets>true</RestrictPublicBuckets>"
        block += b"</PublicAccessBlockConfiguration>"
        assert (await client.request("PUT", "/bucket", "publicAccessBlock", body=block)).status == 200
        assert (await anonymous(client, "GET", "/bucket/a/k")).status == 403
        assert (await client.request("GET", "/bucket/a/k")).body == b"bytes"
        assert (await client.request("DELETE", "/bucket", "policy")).status == 204
        assert (await client.request("GET", "/bucket", "policy")).code == "NoSuchBucketPolicy"
        assert (await client.request("GET", "/bucket/a/k", key=ALT)).status == 403

    run_on_each_store(body)


def test_to_pass_over_a_retention_is_allowed_by_itself() -> None:
    async def body(_: Door, client: Client) -> None:
        enabled = {"x-amz-bucket-object-lock-enabled": "true"}
        assert (await client.request("PUT", "/locked", headers=enabled)).status == 200
        retention = {
            "x-amz-object-lock-mode": "GOVERNANCE",
            "x-amz-object-lock-retain-until-date": "2100-01-01T00:00:00Z",
        }
        made = await client.request("PUT", "/locked/k", body=b"bytes", headers=retention)
        assert made.status == 200, made.body
        query = f"versionId={made.headers['x-amz-version-id']}"
        bypass = {"x-amz-bypass-governance-retention": "true"}

        async def status() -> int:
            return (await client.request("DELETE", "/locked/k", query, headers=bypass, key=ALT)).status

        for actions, wanted in (
            (["s3:DeleteObject", "s3:BypassGovernanceRetention"], 403),
            (["s3:DeleteObjectVersion"], 403),
            (["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"], 204),
        ):
            allowed = policy(Action=actions, Resource="arn:aws:s3:::locked/*")
            assert (await client.request("PUT", "/locked", "policy", body=allowed)).status == 204
            assert await status() == wanted, actions

    run_on_core(body)


def test_a_denial_holds_for_the_owner_too() -> None:
    async def body(_: Door, client: Client) -> None:
        await client.put("/bucket/k", b"bytes")
        denied = json.dumps(
            {
                "Statement": [
                    {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::bucket/*"},
                    {"Effect": "Deny", "Principal": "*", "Action": "s3:Delete*", "Resource": "arn:aws:s3:::bucket/*"},
                ]
            }
        ).encode()
        assert (await client.request("PUT", "/bucket", "policy", body=denied)).status == 204
        assert (await client.request("DELETE", "/bucket/k")).status == 403
        delete = b"<Delete><Object><Key>k</Key></Object></Delete>"
        digest = base64.b64encode(hashlib.md5(delete).digest()).decode()
        answer = await client.request("POST", "/bucket", "delete", body=delete, headers={"content-md5": digest})
        assert answer.status == 200 and b"AccessDenied" in answer.body
        assert (await client.request("GET", "/bucket/k")).body == b"bytes"

    run_on_each_store(body)


def test_lists_grant_and_ownership_ends_them() -> None:
    async def body(_: Door, client: Client) -> None:
        await client.put("/bucket/open", b"bytes", x_amz_acl="public-read")
        await client.put("/bucket/closed", b"bytes")
        assert (await anonymous(client, "GET", "/bucket/open")).body == b"bytes"
        assert (await client.request("GET", "/bucket/open", key=ALT)).body == b"bytes"
        assert (await anonymous(client, "HEAD", "/bucket/closed")).status == 403
        assert ALL.encode() in (await client.request("GET", "/bucket/open", "acl")).body
        assert (await client.request("GET", "/bucket/open", "acl", key=ALT)).status == 403
        answer = await client.request("PUT", "/bucket/closed", "acl", headers={"x-amz-acl": "public-read"})
        assert answer.status == 200
        assert (await anonymous(client, "GET", "/bucket/closed")).body == b"bytes"
        assert (await anonymous(client, "PUT", "/bucket/new", b"x")).status == 403
        answer = await client.request("PUT", "/bucket", "acl", headers={"x-amz-acl": "public-read-write"})
        assert answer.status == 200
        assert (await anonymous(client, "PUT", "/bucket/new", b"x")).status == 200
        assert (await client.request("PUT", "/bucket/theirs", body=b"x", key=ALT)).status == 200
        assert (await client.request("GET", "/bucket/theirs", key=ALT)).status == 200
        assert (await client.request("GET", "/bucket/theirs")).status == 403  # the writer's until ownership says else
        controls = b"<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule>"
        controls += b"</OwnershipControls>"
        answer = await client.request("PUT", "/bucket", "ownershipControls", body=controls)
        assert answer.code == "InvalidBucketAclWithObjectOwnership"
        await client.request("PUT", "/bucket", "acl", headers={"x-amz-acl": "private"})
        assert (await client.request("PUT", "/bucket", "ownershipControls", body=controls)).status == 200
        assert (await anonymous(client, "GET", "/bucket/open")).status == 403
        assert (await client.request("GET", "/bucket/theirs")).status == 200
        answer = await client.put("/bucket/k", b"", x_amz_acl="public-read")
        assert answer.code == "AccessControlListNotSupported"

    run_on_each_store(body)


def test_policies_look_at_the_tags_that_an_object_has() -> None:
    async def body(_: Door, client: Client) -> None:
        for key, value in (("public", "public"), ("private", "private"), ("none", "")):
            await client.put(f"/bucket/{key}", b"bytes", **({"x_amz_tagging": f"Level={value}"} if value else {}))
        allowed = policy(
            Action=["s3:GetObject", "s3:GetObjectTagging", "s3:PutObjectTagging"],
            Resource="arn:aws:s3:::bucket/*",
            Condition={"StringEquals": {"s3:ExistingObjectTag/Level": "public"}},
        )
        assert (await client.request("PUT", "/bucket", "policy", body=allowed)).status == 204
        for key, status in (("public", 200), ("private", 403), ("none", 403), ("absent", 403)):
            for query in ("", "tagging"):
                assert (await client.request("GET", f"/bucket/{key}", query, key=ALT)).status == status, key
        tags = b"<Tagging><TagSet><Tag><Key>Level</Key><Value>private</Value></Tag></TagSet></Tagging>"
        for status in (200, 403):
            assert (await client.request("PUT", "/bucket/public", "tagging", body=tags, key=ALT)).status == status

    run_on_each_store(body)


def test_a_list_is_of_a_version_and_tells_of_groups_first() -> None:
    async def body(_: Door, client: Client) -> None:
        on = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        assert (await client.request("PUT", "/bucket", "versioning", body=on)).status == 200
        first = (await client.put("/bucket/k", b"first")).headers["x-amz-version-id"]
        await client.put("/bucket/k", b"second")
        query = f"acl=&versionId={first}"
        canned = {"x-amz-acl": "public-read"}
        assert (await client.request("PUT", "/bucket/k", query, headers=canned)).status == 200
        assert (await anonymous(client, "GET", "/bucket/k")).status == 403
        assert (await anonymous(client, "GET", f"/bucket/k?versionId={first}")).body == b"first"
        told = (await client.request("GET", "/bucket/k", query)).body
        assert told.index(ALL.encode()) < told.index(b"FULL_CONTROL")
        assert ALL.encode() not in (await client.request("GET", "/bucket/k", "acl")).body
        sent = ("FULL_CONTROL id:main-id", f"READ {ALL_USERS}")
        assert document_of(sent, "main-id", NO_USERS) == document_of(sent[::-1], "main-id", NO_USERS)

    run_on_core(body)


def test_public_lists_can_be_kept_off() -> None:
    async def body(_: Door, client: Client) -> None:
        await client.put("/bucket/open", b"bytes", x_amz_acl="public-read")
        block = b"<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls>"
        block += b"<IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy>"
        block += b"</PublicAccessBlockConfiguration>"
        assert (await client.request("PUT", "/bucket", "publicAccessBlock", body=block)).status == 200
        assert (await anonymous(client, "GET", "/bucket/open")).status == 403
        assert (await client.put("/bucket/k", b"", x_amz_acl="public-read")).status == 403
        allowed = policy(Action="s3:GetObject", Resource="arn:aws:s3:::bucket/*")
        assert (await client.request("PUT", "/bucket", "policy", body=allowed)).status == 403
        assert (await client.request("DELETE", "/bucket", "publicAccessBlock")).status == 204
        assert (await anonymous(client, "GET", "/bucket/open")).body == b"bytes"

    run_on_each_store(body)


def test_browsers_of_other_origins_are_told_what_they_may() -> None:
    async def body(_: Door, client: Client) -> None:
        rules = b"<CORSConfiguration><CORSRule><AllowedOrigin>https://*.example</AllowedOrigin>"
        rules += (
            b"<AllowedMethod>GET</AllowedMethod><AllowedHeader>x-*</AllowedHeader><MaxAgeSeconds>60</MaxAgeSeconds>"
        )
        rules += b"</CORSRule></CORSConfiguration>"
        assert (await client.request("GET", "/bucket", "cors")).code == "NoSuchCORSConfiguration"
        assert (await client.request("PUT", "/bucket", "cors", body=rules)).status == 200
        asked = {"origin": "https://a.example", "access-control-request-method": "GET"}
        answer = await anonymous(client, "OPTIONS", "/bucket/k", headers=asked)
        assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://a.example"
        assert answer.headers["access-control-max-age"] == "60"
        answer = await anonymous(
            client, "OPTIONS", "/bucket/k", headers=asked | {"access-control-request-headers": "x-a, y"}
        )
        assert answer.status == 403
        answer = await anonymous(client, "OPTIONS", "/bucket/k", headers=asked | {"origin": "https://example"})
        assert answer.status == 403
        answer = await client.request("GET", "/bucket/none", headers={"origin": "https://a.example"})
        assert answer.status == 404 and answer.headers["access-control-allow-methods"] == "GET"
        assert (await client.request("DELETE", "/bucket", "cors")).status == 204
        assert (await anonymous(client, "OPTIONS", "/bucket/k", headers=asked)).status == 403

    run_on_each_store(body)


def form(fields: dict[str, str], file: bytes, boundary: str = "xyz") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + file + f"\r\n--{boundary}--\r\n".encode()


def test_a_form_with_a_signed_policy_makes_an_object() -> None:
    async def body(_: Door, client: Client) -> None:
        conditions = [
            {"bucket": "bucket"},
            ["starts-with", "$key", "up/"],
            ["starts-with", "$tagging", ""],
            ["content-length-range", 1, 10],
        ]
        document = json.dumps({"expiration": "2036-01-01T00:00:00Z", "conditions": conditions}).encode()
        text = base64.b64encode(document).decode()
        signature = base64.b64encode(hmac.digest(MAIN.secret.encode(), text.encode(), "sha1")).decode()
        fields = {"key": "up/${filename}", "AWSAccessKeyId": MAIN.access, "policy": text, "signature": signature}
        kind = {"content-type": "multipart/form-data; boundary=xyz"}

        async def post(change: dict[str, str], file: bytes = b"bytes") -> Answer:
            return await anonymous(client, "POST", "/bucket", form({**fields, **change}, file), kind)

        assert (await post({})).status == 204
        assert (await client.request("GET", "/bucket/up/f.txt")).body == b"bytes"
        tags = "<Tagging><TagSet><Tag><Key>a b</Key><Value>c&amp;d</Value></Tag></TagSet></Tagging>"
        assert (await post({"tagging": tags})).status == 204
        found = (await client.request("GET", "/bucket/up/f.txt", "tagging")).xml.all("TagSet")[0].all("Tag")
        assert [(tag.text_of("Key"), tag.text_of("Value")) for tag in found] == [("a b", "c&d")]
        assert (await post({"tagging": "<Tagging/>"})).code == "MalformedXML"
        assert (await post({"key": "other"})).code == "AccessDenied"
        assert (await post({"x-amz-meta-a": "b"})).code == "AccessDenied"
        assert (await post({"signature": "AAAA"})).code == "SignatureDoesNotMatch"
        assert (await post({"AWSAccessKeyId": "nobody"})).code == "InvalidAccessKeyId"
        assert (await post({}, b"")).code == "EntityTooSmall"
        assert (await post({}, b"x" * 11)).code == "EntityTooLarge"
        answer = await anonymous(client, "POST", "/bucket", form({"key": "up/a"}, b"bytes"), kind)
        assert answer.code == "AccessDenied"
        answer = await post({"x-ignore-this": "b", "success_action_status": "201"})
        assert answer.code == "AccessDenied"  # the status is not covered

    run_on_each_store(body)


class Pieces:
    """A body that comes in pieces of given sizes."""

    size: int | None = None

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.trailers: dict[str, str] = {}
        self._data = data
        self._sizes = sizes

    async def read_into(self, view: memoryview) -> int:
        """See Source."""
        count = min(len(view), len(self._data), self._sizes.pop() if self._sizes else 1 << 20)
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    async def finish(self, rest: memoryview) -> None:
        """See Source."""


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=80) | st.text("\r\n-xyz", max_size=40).map(str.encode),
    st.lists(st.integers(1, 30), max_size=40),
    st.integers(0, 12),
)
def test_a_form_is_read_the_same_however_it_is_cut(file: bytes, sizes: list[int], room: int) -> None:
    if b"\r\n--xyz" in b"\r\n" + file:
        return

    async def main() -> None:
        sent = form({"Key": "k", "acl": ""}, file)
        found = await read_form(Pieces(sent, list(sizes)), "multipart/form-data; boundary=xyz")
        assert (found.fields, found.filename) == ({"key": "k", "acl": ""}, "f.txt")
        got, view = b"", memoryview(bytearray(room + 1))
        while count := await found.file.read_into(view):
            got += bytes(view[:count])
        assert got == file

    trio.run(main)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_whatever_is_sent_as_a_form_is_read_or_refused(data: bytes, framed: bool) -> None:
    async def main() -> None:
        sent = form({"key": "k"}, data)[: len(data) * 3] if framed else data
        try:
            found = await read_form(Pieces(sent, []), "multipart/form-data; boundary=xyz")
            view = memoryview(bytearray(64))
            while await found.file.read_into(view):
                pass
        except S3Error as error:
            assert error.status == 400

    trio.run(main)


def test_fields_without_end_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(S3Error, match="too large"):
            await read_form(Pieces(b"--xyz\r\n" + b"x" * 200_000, []), "multipart/form-data; boundary=xyz")

    trio.run(main)
