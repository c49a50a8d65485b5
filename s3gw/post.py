"""Handler for PostObject: what a browser uploads by a form, with a policy that its server has signed."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.form import read_form
from siltstone.s3gw.objects import PUT_BYTES_MAX, check_key, store_object
from siltstone.s3gw.post_policy import SizeRange, parse_form_policy
from siltstone.s3gw.reply import Header, Reply
from siltstone.s3gw.request import META_PREFIX, STORED_HEADERS, Request
from siltstone.s3gw.router import Target
from siltstone.s3gw.sigv4 import UNSIGNED_PAYLOAD, Identity, Nobody
from siltstone.s3gw.tags import OBJECT_TAGS_MAX, tags_of_document
from siltstone.s3gw.xml import Element, encode_key, parse, render

_TAKEN = (META_PREFIX, "x-amz-server-side-encryption", "x-amz-checksum-", "x-amz-storage-class", "x-amz-object-lock-")
"""Fields that mean what headers of that name mean in a PUT."""


async def post_object(request: Request) -> Reply:
    """PostObject."""
    form = await read_form(request.body, request.headers.get("content-type", ""))
    fields = form.fields
    identity = _sender(request, fields)
    sizes = SizeRange(0, PUT_BYTES_MAX)
    if "key" not in fields:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.", ArgumentName="key")
    key = fields["key"].replace("${filename}", form.filename)
    if identity.owner:
        policy = parse_form_policy(fields["policy"])
        policy.check({**fields, "key": key, "bucket": request.target.bucket}, request.door.clock.now_ns())
        sizes = policy.sizes or sizes
    raw_key = key.encode("utf-8", "surrogateescape")
    if not raw_key:
        raise S3Error("InvalidArgument", "User key must have a length greater than 0.", ArgumentName="key")
    check_key(raw_key)
    put = request._replace(
        identity=identity,
        target=Target(request.target.bucket, raw_key),
        headers=_headers(fields),
        payload=UNSIGNED_PAYLOAD,
        body=form.file,
    )
    _, info = await store_object(put, size_min=sizes.least, size_max=min(sizes.most, PUT_BYTES_MAX))
    headers: list[Header] = [("ETag", f'"{info.etag}"')]
    url = fields.get("success_action_redirect") or fields.get("redirect")
    if url and url.isprintable():
        values = {"bucket": put.target.bucket, "key": key, "etag": f'"{info.etag}"'}
        query = "&".join(f"{name}={quote(value, safe='', errors='surrogateescape')}" for name, value in values.items())
        location = url + ("&" if "?" in url else "?") + query
        return Reply(303, [*headers, ("Location", location.encode("utf-8", "surrogateescape").decode("latin-1"))])
    host = request.headers.get("host", "")
    location = f"http://{host}/{put.target.bucket}/{quote(raw_key)}"
    headers.append(("Location", location))
    match fields.get("success_action_status"):
        case "200":
            return Reply(200, headers)
        case "201":
            told: list[Element] = [
                ("Location", location),
                ("Bucket", put.target.bucket),
                ("Key", encode_key(raw_key, url=False)),
                ("ETag", f'"{info.etag}"'),
            ]
            document = render("PostResponse", told, namespace=False)  # the one reply of S3 that has none
            return Reply(201, [("Content-Type", "application/xml"), *headers], document)
        case _:
            return Reply(204, headers)


def _sender(request: Request, fields: dict[str, str]) -> Identity:
    """Who signed the policy; nobody, where there is neither policy nor signature. Raises what sigv4 raises."""
    if "policy" not in fields and "signature" not in fields and "x-amz-signature" not in fields:
        return Nobody()
    return request.door.verifier.verify_form(fields, request.door.clock.now_ns())


def _headers(fields: dict[str, str]) -> dict[str, str]:
    """The fields that are headers of a PUT, as latin-1 text of their bytes."""
    found: dict[str, str] = {}
    for name, value in fields.items():
        if name in STORED_HEADERS or name.startswith(_TAKEN):
            if "\n" in value or "\r" in value or "\0" in value:
                raise S3Error("InvalidArgument", f"The field {name} is not one line.", ArgumentName=name)
            found[name] = value.encode("utf-8", "surrogateescape").decode("latin-1")
    if "acl" in fields:
        found["x-amz-acl"] = fields["acl"]
    if "tagging" in fields:
        document = parse(fields["tagging"].encode("utf-8", "surrogateescape"))
        found["x-amz-tagging"] = urlencode(tags_of_document(document, OBJECT_TAGS_MAX))
    return found
