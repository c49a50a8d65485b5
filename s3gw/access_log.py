"""The access log of buckets: a record for each request, in the format of AWS's server access logs, gathered and put as
objects into the buckets that are to have them.

As on AWS it is best effort: records are delivered minutes later, and those that a process has not delivered when it
dies are lost. What is delivered is durable as any object is.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from urllib.parse import quote

import trio

from siltstone.core.object_types import PutAttributes
from siltstone.errors import BucketChanged, NoSuchBucket, SiltstoneError, Unavailable
from siltstone.ports import Clock, Random
from siltstone.s3gw.bucket_logging import EVENT_TIME, LogTarget, log_key, may_deliver, target_in
from siltstone.s3gw.bucket_state import state_of
from siltstone.s3gw.configuration import Configuration, Configurations
from siltstone.s3gw.counters import Counters
from siltstone.s3gw.dates import iso_date
from siltstone.s3gw.reply import Reply
from siltstone.s3gw.router import Operation, Target
from siltstone.s3gw.store import Store

log = logging.getLogger("siltstone.s3gw")

ROLL_SECONDS = 300.0
"""The oldest record of a log object waits so long at the most."""

OBJECT_BYTES_MAX = 1024 * 1024
"""A log object is delivered when its records are this much."""

WAITING_BYTES_MAX = 16 * 1024 * 1024
"""Of all records together; what comes beyond that is lost, and counted."""

LOOK_SECONDS = 1.0
RETRY_SECONDS = 10.0

_ACTIONS: dict[Operation, str] = {
    Operation.COPY_OBJECT: "REST.COPY.OBJECT",
    Operation.UPLOAD_PART: "REST.PUT.PART",
    Operation.UPLOAD_PART_COPY: "REST.COPY.PART",
    Operation.CREATE_MULTIPART_UPLOAD: "REST.POST.UPLOADS",
    Operation.COMPLETE_MULTIPART_UPLOAD: "REST.POST.UPLOAD",
    Operation.ABORT_MULTIPART_UPLOAD: "REST.DELETE.UPLOAD",
    Operation.LIST_PARTS: "REST.GET.UPLOAD",
    Operation.LIST_MULTIPART_UPLOADS: "REST.GET.UPLOADS",
    Operation.DELETE_OBJECTS: "REST.POST.MULTI_OBJECT_DELETE",
    Operation.LIST_OBJECT_VERSIONS: "REST.GET.BUCKETVERSIONS",
}
_CONFIGURATION = re.compile(r"(?:Get|Put|Delete)(?:Bucket|Object)?([A-Z][A-Za-z]*?)(?:Configuration)?$")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"]")


def action_named(operation: Operation, method: str, target: Target) -> str:
    """An operation as the log names it."""
    known = _ACTIONS.get(operation)
    if known is not None:
        return known
    plain = (Operation.PUT_OBJECT, Operation.GET_OBJECT, Operation.HEAD_OBJECT, Operation.DELETE_OBJECT)
    is_of_bucket = operation in (Operation.LIST_OBJECTS, Operation.LIST_OBJECTS_V2, Operation.POST_OBJECT)
    matched = _CONFIGURATION.match(operation.value)
    if operation not in plain and not is_of_bucket and matched is not None and matched[1] not in ("Bucket", "Object"):
        return f"REST.{method}.{matched[1].upper()}"
    return f"REST.{method}.{'OBJECT' if target.key else 'BUCKET'}"


def record(
    *,
    owner: str,
    target: Target,
    at_ns: int,
    peer: str,
    requester: str,
    request_id: str,
    action: str,
    request_line: str,
    reply: Reply,
    code: str,
    object_size: int | None,
    total_ms: int,
    headers: Mapping[str, str],
    version: str,
    is_presigned: bool,
    is_secure: bool,
) -> str:
    """One line, without its end."""
    key = quote(target.key, safe="/-_.~") if target.key else ""
    sent = reply.content_length if not action.startswith("REST.HEAD") else 0
    fields = [
        owner,
        target.bucket,
        f"[{_time(at_ns)}]",
        peer,
        requester,
        request_id,
        action,
        key,
        _quoted(request_line),
        str(reply.status),
        code,
        str(sent) if sent else "",
        "" if object_size is None else str(object_size),
        str(total_ms),
        str(total_ms),
        _quoted(headers.get("referer", "")),
        _quoted(headers.get("user-agent", "")),
        version,
        "siltstone",
        "SigV4" if requester else "",
        "",
        ("QueryString" if is_presigned else "AuthHeader") if requester else "",
        _UNSAFE.sub("", headers.get("host", "")),
        "TLS" if is_secure else "",
        "",
        "",
    ]
    return " ".join(field or "-" for field in fields)


def _quoted(text: str) -> str:
    """A text in quotes in which none is; a log line stays one line, whatever a client sends."""
    return '"' + (_UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text) or "-") + '"'


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _time(at_ns: int) -> str:
    date, _, rest = iso_date(at_ns).partition("T")
    year, month, day = date.split("-")
    return f"{day}/{_MONTHS[int(month) - 1]}/{year}:{rest[:8]} +0000"


class _Batch:
    """Records of one bucket for one place."""

    def __init__(self, source: str, owner: str, target: LogTarget, at_ns: int, now: float) -> None:
        self.source = source
        self.owner = owner
        self.target = target
        self.at_ns = at_ns
        self.due = now + ROLL_SECONDS
        self.lines: list[bytes] = []
        self.size = 0


class AccessLog:
    """Gathers records and delivers them."""

    def __init__(
        self,
        store: Store,
        configurations: Configurations,
        clock: Clock,
        random: Random,
        region: str,
        counters: Counters,
    ) -> None:
        self._store = store
        self._configurations = configurations
        self._clock = clock
        self._random = random
        self._region = region
        self._counters = counters
        self._batches: dict[tuple[str, LogTarget], _Batch] = {}

    def wanted(self, bucket: str) -> tuple[Configuration, LogTarget] | None:
        """The configuration of a bucket that has a log, as the request that has just been answered saw it, and where
        the log goes."""
        config = self._configurations.logged.get(bucket)
        target = None if config is None else target_in(config)
        return None if config is None or target is None else (config, target)

    def add(self, config: Configuration, target: LogTarget, line: str) -> None:
        """Take a record."""
        data = line.encode("utf-8", "surrogateescape") + b"\n"
        counters = self._counters
        if counters.log_bytes_waiting + len(data) > WAITING_BYTES_MAX:
            counters.log_records_lost += 1
            return
        at = (config.info.name, target)
        batch = self._batches.get(at)
        if batch is None:
            now_ns, now = self._clock.now_ns(), trio.current_time()
            batch = self._batches[at] = _Batch(config.info.name, config.info.owner, target, now_ns, now)
        batch.lines.append(data)
        batch.size += len(data)
        counters.log_bytes_waiting += len(data)
        if batch.size >= OBJECT_BYTES_MAX:
            batch.due = trio.current_time()

    async def run(self) -> None:
        """Deliver what is due, for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.deliver(trio.current_time())

    async def deliver(self, until: float) -> None:
        """Deliver what is due at a time; what cannot be delivered now is tried again."""
        for at, batch in list(self._batches.items()):
            if batch.due > until:
                continue
            del self._batches[at]
            try:
                await self._put(batch)
            except (Unavailable, BucketChanged) as error:
                log.warning("the log of bucket %s cannot be delivered now: %s", batch.source, error)
                newer = self._batches.get(at)
                if newer is not None:
                    batch.lines += newer.lines
                    batch.size += newer.size
                batch.due = until + RETRY_SECONDS
                self._batches[at] = batch
            except SiltstoneError as error:
                log.error("the log of bucket %s is lost: %s: %s", batch.source, batch.target.bucket, error)
                self._lose(batch)
            else:
                self._counters.log_bytes_waiting -= batch.size
                self._counters.log_objects += 1
                await self._look_again(batch.source)

    async def _look_again(self, bucket: str) -> None:
        """Whether a bucket that nobody asks for a configuration still has a log."""
        try:
            await self._configurations.of(await self._store.bucket(bucket))
        except NoSuchBucket:
            self._configurations.logged.pop(bucket, None)
        except SiltstoneError:
            return  # asked again after the next delivery

    def _lose(self, batch: _Batch) -> None:
        self._counters.log_bytes_waiting -= batch.size
        self._counters.log_records_lost += len(batch.lines)

    async def _put(self, batch: _Batch) -> None:
        target = batch.target
        info = await self._store.bucket(target.bucket)
        config = await self._configurations.of(info)
        if not may_deliver(config, target.prefix, batch.source, batch.owner):
            raise NoSuchBucket("its policy does not let logs be put there any more")
        now_ns = self._clock.now_ns()
        at_ns = batch.at_ns if target.partition == EVENT_TIME else now_ns
        unique = self._random.bytes(8).hex().upper()
        key = log_key(target, batch.source, batch.owner, self._region, at_ns, unique)
        body = b"".join(batch.lines)
        writer = await self._store.begin_put(target.bucket, key, size_hint=len(body))
        try:
            await writer.write(body)
            attributes = PutAttributes(
                etag=hashlib.md5(body, usedforsecurity=False).hexdigest(),
                owner=info.owner,
                headers={"content-type": "text/plain"},
                versioning=state_of(config).versioning,
            )
            await writer.commit(attributes)
        except BaseException:
            with trio.CancelScope(shield=True):
                await writer.abort()
            raise
