"""From a head and a body to a reply: authenticate, route, handle, and turn every error into S3's words."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence

from siltstone.errors import BucketChanged, SiltstoneError
from siltstone.ports import Clock, Random, Workers
from siltstone.s3gw import (
    acls,
    attributes,
    bucket_documents,
    bucket_logging,
    buckets,
    lifecycle,
    listing,
    lock,
    multipart,
    objects,
    post,
    tagging,
    versions,
)
from siltstone.s3gw.access_log import AccessLog, action_named, record
from siltstone.s3gw.acl import User, Users
from siltstone.s3gw.body import Framing, payload_of
from siltstone.s3gw.budget import Budget
from siltstone.s3gw.configuration import Configurations
from siltstone.s3gw.connection import ConnectionLost
from siltstone.s3gw.cors import CorsRule, reply_headers, rule_for
from siltstone.s3gw.counters import Counters
from siltstone.s3gw.dates import SECOND_NS, http_date
from siltstone.s3gw.encryption import ServerKey
from siltstone.s3gw.errors import S3Error, error_document, s3_error
from siltstone.s3gw.head import RequestHead
from siltstone.s3gw.lifecycle_rules import REAL_DAYS, Calendar
from siltstone.s3gw.reply import Header, Reply
from siltstone.s3gw.request import Door, Request
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
    Operation.GET_BUCKET_VERSIONING: versions.get_bucket_versioning,
    Operation.PUT_BUCKET_VERSIONING: versions.put_bucket_versioning,
    Operation.LIST_OBJECT_VERSIONS: versions.list_object_versions,
    Operation.GET_BUCKET_TAGGING: tagging.get_bucket_tagging,
    Operation.PUT_BUCKET_TAGGING: tagging.put_bucket_tagging,
    Operation.DELETE_BUCKET_TAGGING: tagging.delete_bucket_tagging,
    Operation.GET_OBJECT_LOCK_CONFIGURATION: lock.get_object_lock_configuration,
    Operation.PUT_OBJECT_LOCK_CONFIGURATION: lock.put_object_lock_configuration,
    Operation.GET_OBJECT_TAGGING: tagging.get_object_tagging,
    Operation.PUT_OBJECT_TAGGING: tagging.put_object_tagging,
    Operation.DELETE_OBJECT_TAGGING: tagging.delete_object_tagging,
    Operation.GET_OBJECT_RETENTION: lock.get_object_retention,
    Operation.PUT_OBJECT_RETENTION: lock.put_object_retention,
    Operation.GET_OBJECT_LEGAL_HOLD: lock.get_object_legal_hold,
    Operation.PUT_OBJECT_LEGAL_HOLD: lock.put_object_legal_hold,
    Operation.GET_OBJECT_ATTRIBUTES: attributes.get_object_attributes,
    Operation.GET_BUCKET_ACL: acls.get_bucket_acl,
    Operation.LIST_OBJECTS: listing.list_objects,
    Operation.LIST_OBJECTS_V2: listing.list_objects_v2,
    Operation.LIST_MULTIPART_UPLOADS: multipart.list_multipart_uploads,
    Operation.DELETE_OBJECTS: objects.delete_objects,
    Operation.GET_OBJECT: objects.get_object,
    Operation.HEAD_OBJECT: objects.head_object,
    Operation.PUT_OBJECT: objects.put_object,
    Operation.COPY_OBJECT: objects.copy_object,
    Operation.DELETE_OBJECT: objects.delete_object,
    Operation.GET_OBJECT_ACL: acls.get_object_acl,
    Operation.CREATE_MULTIPART_UPLOAD: multipart.create_multipart_upload,
    Operation.UPLOAD_PART: multipart.upload_part,
    Operation.UPLOAD_PART_COPY: multipart.upload_part_copy,
    Operation.COMPLETE_MULTIPART_UPLOAD: multipart.complete_multipart_upload,
    Operation.ABORT_MULTIPART_UPLOAD: multipart.abort_multipart_upload,
    Operation.LIST_PARTS: multipart.list_parts,
    Operation.GET_BUCKET_POLICY: bucket_documents.get_policy,
    Operation.PUT_BUCKET_POLICY: bucket_documents.put_policy,
    Operation.DELETE_BUCKET_POLICY: bucket_documents.delete_policy,
    Operation.GET_BUCKET_POLICY_STATUS: bucket_documents.get_policy_status,
    Operation.GET_PUBLIC_ACCESS_BLOCK: bucket_documents.get_public_access_block,
    Operation.PUT_PUBLIC_ACCESS_BLOCK: bucket_documents.put_public_access_block,
    Operation.DELETE_PUBLIC_ACCESS_BLOCK: bucket_documents.delete_public_access_block,
    Operation.GET_BUCKET_OWNERSHIP_CONTROLS: bucket_documents.get_ownership,
    Operation.PUT_BUCKET_OWNERSHIP_CONTROLS: bucket_documents.put_ownership,
    Operation.DELETE_BUCKET_OWNERSHIP_CONTROLS: bucket_documents.delete_ownership,
    Operation.PUT_BUCKET_ACL: acls.put_bucket_acl,
    Operation.PUT_OBJECT_ACL: acls.put_object_acl,
    Operation.GET_BUCKET_CORS: bucket_documents.get_cors,
    Operation.PUT_BUCKET_CORS: bucket_documents.put_cors,
    Operation.DELETE_BUCKET_CORS: bucket_documents.delete_cors,
    Operation.GET_BUCKET_ENCRYPTION: bucket_documents.get_encryption,
    Operation.PUT_BUCKET_ENCRYPTION: bucket_documents.put_encryption,
    Operation.DELETE_BUCKET_ENCRYPTION: bucket_documents.delete_encryption,
    Operation.GET_BUCKET_LIFECYCLE: lifecycle.get_lifecycle,
    Operation.PUT_BUCKET_LIFECYCLE: lifecycle.put_lifecycle,
    Operation.DELETE_BUCKET_LIFECYCLE: lifecycle.delete_lifecycle,
    Operation.GET_BUCKET_NOTIFICATION: bucket_documents.get_notification,
    Operation.PUT_BUCKET_NOTIFICATION: bucket_documents.put_notification,
    Operation.GET_BUCKET_LOGGING: bucket_logging.get_logging,
    Operation.PUT_BUCKET_LOGGING: bucket_logging.put_logging,
    Operation.GET_BUCKET_REQUEST_PAYMENT: bucket_documents.get_request_payment,
    Operation.POST_OBJECT: post.post_object,
}
assert set(HANDLERS) == set(Operation) - {
    Operation.NOT_IMPLEMENTED,
    Operation.PREFLIGHT,
    Operation.BYPASS_GOVERNANCE_RETENTION,
}

_OF_BYTES = (Operation.PUT_OBJECT, Operation.GET_OBJECT, Operation.HEAD_OBJECT, Operation.UPLOAD_PART)

DECISIONS_MAX = 10
"""How often a request is decided on again because the bucket's configuration was changed meanwhile."""


class _NoUsers:
    """Nobody is known but who signs."""

    def user(self, owner: str) -> User | None:
        """See Users."""
        return None

    def user_by_email(self, email: str) -> User | None:
        """See Users."""
        return None

    def server_key(self) -> bytes | None:
        """See ServerKey."""
        return None


NO_USERS = _NoUsers()


class Gateway:
    """Everything that requests share. ``domains``: buckets are also names under them in the host."""

    def __init__(
        self,
        store: Store,
        lookup: Lookup,
        *,
        clock: Clock,
        workers: Workers,
        random: Random,
        region: str,
        domains: Sequence[str] = (),
        users: Users = NO_USERS,
        server: ServerKey = NO_USERS,
        is_secure: bool = False,
        calendar: Calendar = REAL_DAYS,
        counters: Counters | None = None,
    ) -> None:
        self.counters = Counters() if counters is None else counters
        self._verifier = Verifier(lookup, region)
        configurations = Configurations(store)
        self._door = Door(
            store,
            Budget(),
            workers,
            clock,
            region,
            users,
            configurations,
            self._verifier,
            server,
            random,
            is_secure,
            calendar,
        )
        self._configurations = configurations
        self.access_log = AccessLog(store, configurations, clock, random, region, self.counters)
        self._clock = clock
        self._domains = tuple(domain.lower() for domain in domains)
        self._serials = itertools.count(1)
        self._serial_base = f"{clock.now_ns() // 1000 & 0xFFFFFFFFFF:010X}"
        self._date_second = -1
        self._date = ""

    async def respond(self, head: RequestHead, framing: Framing, peer: str = "") -> Reply:
        """Answer a request of a client at an address. Raises nothing but cancellation and ConnectionLost; our own
        failures are logged 500s."""
        reply = await self._answer(head, framing, peer)
        if "origin" in head.headers:
            reply.headers += await self._cors_headers(head)
        return reply

    async def _answer(self, head: RequestHead, framing: Framing, peer: str) -> Reply:
        request_id = self._request_id()
        begun_ns = self._clock.monotonic_ns()
        seen: list[Request] = []
        told: S3Error | None = None
        try:
            reply = await self._handle(head, framing, peer, seen)
            reply.headers.append(("x-amz-request-id", request_id))
        except ConnectionLost:
            raise
        except SiltstoneError as error:
            told = s3_error(error)
            if told.status in (500, 503):
                log.error("%s %s: request %s: %s", head.method, head.path, request_id, error)
        except Exception:
            log.exception("%s %s: request %s failed", head.method, head.path, request_id)
            told = S3Error("InternalError")
        if told is not None:
            reply = self._error_reply(told, head.path, request_id)
        if self._configurations.logged and seen:
            self._note(head, seen[0], reply, told, request_id, begun_ns)
        return reply

    def _note(
        self, head: RequestHead, request: Request, reply: Reply, told: S3Error | None, request_id: str, begun_ns: int
    ) -> None:
        """Have a request that was answered in the log of its bucket, if that has one."""
        wanted = self.access_log.wanted(request.target.bucket)
        if wanted is None:
            return
        config, target = wanted
        answered = dict(reply.headers)
        size = request.headers.get("x-amz-decoded-content-length", request.headers.get("content-length", ""))
        if head.method != "PUT":
            size = answered.get("Content-Range", "").rpartition("/")[2] or str(reply.content_length)
        is_of_bytes = request.operation in _OF_BYTES and told is None and size.isdigit()
        line = record(
            owner=config.info.owner,
            target=request.target,
            at_ns=self._clock.now_ns(),
            peer=request.peer,
            requester=request.identity.owner,
            request_id=request_id,
            action=action_named(request.operation, head.method, request.target),
            request_line=f"{head.method} {head.path}{'?' + head.query if head.query else ''} HTTP/1.1",
            reply=reply,
            code="" if told is None else told.code,
            object_size=int(size) if is_of_bytes else None,
            total_ms=(self._clock.monotonic_ns() - begun_ns) // 1_000_000,
            headers=request.headers,
            version=answered.get("x-amz-version-id", ""),
            is_presigned="X-Amz-Signature" in request.query,
            is_secure=self._door.is_secure,
        )
        self.access_log.add(config, target, line)

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

    async def _handle(self, head: RequestHead, framing: Framing, peer: str, seen: list[Request]) -> Reply:
        headers = head.headers
        if head.method == "OPTIONS":
            return await self._preflight(head)
        verified = self._verifier.verify(Message(head.method, head.path, head.query, headers), self._clock.now_ns())
        target = target_of(head.path, headers.get("host", ""), self._domains)
        query = dict(split_query(head.query)) if head.query else {}
        operation = route(head.method, target, query, headers)
        handler = HANDLERS.get(operation)
        if handler is None:
            raise S3Error("NotImplemented")
        body = payload_of(head, framing, verified)
        request = Request(
            self._door, operation, verified.identity, target, query, headers, verified.payload, body, peer
        )
        seen.append(request)
        for _ in range(DECISIONS_MAX):
            try:
                return await handler(request)
            except BucketChanged:
                if framing.is_begun:
                    raise
        raise S3Error("ServiceUnavailable")

    async def _rules(self, head: RequestHead) -> tuple[CorsRule, ...]:
        """The rules for browsers of the bucket that a request is about; none if there is no such bucket."""
        try:
            target = target_of(head.path, head.headers.get("host", ""), self._domains)
            if not target.bucket:
                return ()
            info = await self._door.store.bucket(target.bucket)
            return (await self._door.configurations.of(info)).cors
        except SiltstoneError:
            return ()

    async def _cors_headers(self, head: RequestHead) -> list[Header]:
        """What a browser is to know of a reply. Not said of the reply to OPTIONS, which says it by itself."""
        if head.method == "OPTIONS":
            return []
        origin = head.headers["origin"]
        method = head.headers.get("access-control-request-method", head.method)
        rule = rule_for(await self._rules(head), origin, method)
        return [] if rule is None else reply_headers(rule, origin)

    async def _preflight(self, head: RequestHead) -> Reply:
        """A browser asks whether it may send a request. Nobody signs that."""
        headers = head.headers
        origin, method = headers.get("origin"), headers.get("access-control-request-method")
        if origin is None:
            raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
        if method is None:
            raise S3Error("BadRequest", "Invalid Access-Control-Request-Method: null")
        asked = headers.get("access-control-request-headers", "")
        wanted = [name.strip().lower() for name in asked.split(",") if name.strip()]
        rule = rule_for(await self._rules(head), origin, method, wanted)
        if rule is None:
            raise S3Error("AccessForbidden", Method=method)
        return Reply(200, reply_headers(rule, origin, wanted))

    def _request_id(self) -> str:
        return f"{self._serial_base}{next(self._serials):010X}"

    def _error_reply(self, error: S3Error, resource: str, request_id: str) -> Reply:
        document = error_document(error, resource=resource, request_id=request_id)
        headers = [("Content-Type", "application/xml"), *error.headers, ("x-amz-request-id", request_id)]
        return Reply(error.status, headers, document)
