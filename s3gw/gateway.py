"""From a head and a body to a reply: authenticate, route, handle, and turn every error into S3's words."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable

from siltstone.errors import SiltstoneError
from siltstone.ports import Clock, Workers
from siltstone.s3gw import buckets, listing, multipart, objects
from siltstone.s3gw.body import Framing, payload_of
from siltstone.s3gw.budget import Budget
from siltstone.s3gw.connection import ConnectionLost
from siltstone.s3gw.dates import SECOND_NS, http_date
from siltstone.s3gw.errors import S3Error, error_document, s3_error
from siltstone.s3gw.head import RequestHead
from siltstone.s3gw.reply import Header, Reply
from siltstone.s3gw.request import Request
from siltstone.s3gw.router import Operation, route, target_of
from siltstone.s3gw.sigv4 import Lookup, Message, Verifier, split_query
from siltstone.s3gw.store import Store

log = logging.getLogger("siltstone.s3gw")

Handler = Callable[[Request], Awaitable[Reply]]

HANDLERS: dict[Operation, Handler] = {
    Operation.LIST_BUCKETS: buckets.list_buckets,
    Operation.CREATE_BUCKET: buckets.create_bucket,
    Operation.DELETE_BUCKET: buckets.delete_bucket,
    Operation.HEAD_BUCKET: buckets.head_bucket,
    Operation.GET_BUCKET_LOCATION: buckets.get_bucket_location,
    Operation.GET_BUCKET_VERSIONING: buckets.get_bucket_versioning,
    Operation.GET_BUCKET_ACL: buckets.get_bucket_acl,
    Operation.LIST_OBJECTS: listing.list_objects,
    Operation.LIST_OBJECTS_V2: listing.list_objects_v2,
    Operation.LIST_MULTIPART_UPLOADS: multipart.list_multipart_uploads,
    Operation.DELETE_OBJECTS: objects.delete_objects,
    Operation.GET_OBJECT: objects.get_object,
    Operation.HEAD_OBJECT: objects.head_object,
    Operation.PUT_OBJECT: objects.put_object,
    Operation.COPY_OBJECT: objects.copy_object,
    Operation.DELETE_OBJECT: objects.delete_object,
    Operation.GET_OBJECT_ACL: buckets.get_object_acl,
    Operation.CREATE_MULTIPART_UPLOAD: multipart.create_multipart_upload,
    Operation.UPLOAD_PART: multipart.upload_part,
    Operation.UPLOAD_PART_COPY: multipart.upload_part_copy,
    Operation.COMPLETE_MULTIPART_UPLOAD: multipart.complete_multipart_upload,
    Operation.ABORT_MULTIPART_UPLOAD: multipart.abort_multipart_upload,
    Operation.LIST_PARTS: multipart.list_parts,
}
assert set(HANDLERS) == set(Operation) - {Operation.NOT_IMPLEMENTED}


class Gateway:
    """Everything that requests share. ``domain``: buckets are also names under it in the host; "" for none."""

    def __init__(
        self,
        store: Store,
        lookup: Lookup,
        *,
        clock: Clock,
        workers: Workers,
        region: str,
        domain: str,
    ) -> None:
        self._store = store
        self._budget = Budget()
        self._verifier = Verifier(lookup, region)
        self._clock = clock
        self._workers = workers
        self._region = region
        self._domain = domain.lower()
        self._serials = itertools.count(1)
        self._serial_base = f"{clock.now_ns() // 1000 & 0xFFFFFFFFFF:010X}"
        self._date_second = -1
        self._date = ""

    async def respond(self, head: RequestHead, framing: Framing) -> Reply:
        """Answer a request. Raises nothing but cancellation and ConnectionLost; our own failures are logged 500s."""
        request_id = self._request_id()
        try:
            reply = await self._handle(head, framing)
        except ConnectionLost:
            raise
        except SiltstoneError as error:
            told = s3_error(error)
            if told.status in (500, 503):
                log.error("%s %s: request %s: %s", head.method, head.path, request_id, error)
            return self._error_reply(told, head.path, request_id)
        except Exception:
            log.exception("%s %s: request %s failed", head.method, head.path, request_id)
            return self._error_reply(S3Error("InternalError"), head.path, request_id)
        reply.headers.append(("x-amz-request-id", request_id))
        return reply

    def refuse(self, error: S3Error) -> Reply:
        """The reply to what is not even a request."""
        return self._error_reply(error, "", self._request_id())

    def common_headers(self) -> list[Header]:
        """What every reply says."""
        now_ns = self._clock.now_ns()
        second = now_ns // SECOND_NS
        if second != self._date_second:
            self._date_second = second
            self._date = http_date(now_ns)
        return [("Date", self._date)]

    async def _handle(self, head: RequestHead, framing: Framing) -> Reply:
        headers = head.headers
        verified = self._verifier.verify(Message(head.method, head.path, head.query, headers), self._clock.now_ns())
        target = target_of(head.path, headers.get("host", ""), self._domain)
        query = dict(split_query(head.query)) if head.query else {}
        operation = route(head.method, target, query, headers)
        handler = HANDLERS.get(operation)
        if handler is None:
            raise S3Error("NotImplemented")
        body = payload_of(head, framing, verified)
        return await handler(
            Request(
                self._store,
                self._budget,
                self._workers,
                verified.identity,
                self._region,
                target,
                query,
                headers,
                verified.payload,
                body,
            )
        )

    def _request_id(self) -> str:
        return f"{self._serial_base}{next(self._serials):010X}"

    def _error_reply(self, error: S3Error, resource: str, request_id: str) -> Reply:
        document = error_document(error, resource=resource, request_id=request_id)
        headers = [("Content-Type", "application/xml"), *error.headers, ("x-amz-request-id", request_id)]
        return Reply(error.status, headers, document)
