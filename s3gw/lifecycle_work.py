"""Carries out the lifecycle rules of all buckets, in the background: see docs/decisions/0026-lifecycle.md.

Everything is decided twice: by what a list says, and in the transaction that deletes, by what is there then.
"""

from __future__ import annotations

import logging

import msgspec
import trio

from siltstone.core.object_types import BucketInfo, Conditions, Versioning
from siltstone.errors import BucketChanged, NoSuchUpload, NotFound, NotPermitted, PreconditionFailed, SiltstoneError
from siltstone.ports import Clock
from siltstone.s3gw.bucket_state import bucket_state
from siltstone.s3gw.configuration import Configurations
from siltstone.s3gw.dates import SECOND_NS
from siltstone.s3gw.lifecycle_rules import DAY_NS, Calendar, Doomed, Planner, Rule, abortion, prefixes
from siltstone.s3gw.store import Store

log = logging.getLogger("siltstone.s3gw")

PAGE_VERSIONS = 250
DELETES_AT_ONCE = 32
"""So that deletes share log writes."""

LOOKED_AT_PER_DELETE = 5
"""So many versions are looked at in the time of one delete: about what one costs (26 and 150 us)."""

FIRST_SECONDS = 60.0
"""From the start of the process to the first pass."""

PASSES_IN_SHORT_DAY = 4
BUCKET_ATTEMPTS_MAX = 3
"""How often a bucket is begun again in one pass because its configuration was changed."""


class LifecycleStatus(msgspec.Struct, kw_only=True):
    """What was done since the process began; times in nanoseconds, 0 for never. ``changed``, ``locked``: versions that
    were due and stay, because they changed before they were deleted, or are locked."""

    is_running: bool = False
    passes: int = 0
    last_pass_ns: int = 0
    next_pass_ns: int = 0
    day_seconds: float = 0.0
    looked_at: int = 0
    expired: int = 0
    noncurrent_expired: int = 0
    markers_removed: int = 0
    uploads_aborted: int = 0
    changed: int = 0
    locked: int = 0
    last_error: str = ""


class Lifecycle:
    """Carries out the rules of all buckets. ``per_second``: versions deleted, at most; five times as many are looked
    at."""

    def __init__(self, store: Store, clock: Clock, calendar: Calendar, *, per_second: int) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._configurations = Configurations(store)
        self._delete_seconds = 1 / per_second
        self._turn = trio.Lock()
        self.status = LifecycleStatus(day_seconds=calendar.day_ns / SECOND_NS)

    async def run(self) -> None:
        """Make a pass soon, and then one at each midnight, or some in each shortened day, for ever."""
        short = self._calendar.day_ns / SECOND_NS / PASSES_IN_SHORT_DAY
        wait = FIRST_SECONDS if self._calendar.is_real else short
        while True:
            self.status.next_pass_ns = self._clock.now_ns() + round(wait * SECOND_NS)
            await self._clock.sleep(wait)
            try:
                await self.make_pass()
            except SiltstoneError as error:
                self._failed("the list of buckets", error)
            now_ns = self._clock.now_ns()
            wait = (DAY_NS - now_ns % DAY_NS) / SECOND_NS if self._calendar.is_real else short

    async def make_pass(self) -> None:
        """Delete everywhere what is due now. What cannot be done in a bucket is told in the status, and the next is
        begun."""
        async with self._turn:
            self.status.is_running, self.status.last_error = True, ""
            self.status.last_pass_ns = self._clock.now_ns()
            try:
                for info in await self._store.list_buckets():
                    if info.serial:
                        await self._pass_bucket(info.name)
                self.status.passes += 1
            finally:
                self.status.is_running = False

    async def _pass_bucket(self, name: str) -> None:
        for _ in range(BUCKET_ATTEMPTS_MAX):
            try:
                await self._carry_out(await self._store.bucket(name))
                return
            except BucketChanged:
                continue
            except NotFound:
                return  # the bucket has gone
            except SiltstoneError as error:
                self._failed(f"bucket {name!r}", error)
                return

    def _failed(self, where: str, error: SiltstoneError) -> None:
        self.status.last_error = f"{where}: {error}"
        log.error("lifecycle rules of %s: %s", where, error)

    async def _carry_out(self, bucket: BucketInfo) -> None:
        rules = (await self._configurations.of(bucket)).lifecycle
        versioning = (await bucket_state(self._configurations, bucket)).versioning
        planner = Planner(rules, self._calendar, self._clock.now_ns())
        for prefix in prefixes(rules, _is_about_versions):
            await self._expire(bucket, versioning, planner, prefix)
        for prefix in prefixes(rules, lambda rule: rule.upload_days > 0):
            await self._abort_uploads(bucket, rules, prefix)

    async def _expire(self, bucket: BucketInfo, versioning: Versioning, planner: Planner, prefix: bytes) -> None:
        """Delete what is due under a prefix."""
        after_key, after_version, is_truncated = b"", None, True
        while is_truncated:
            begun_ns = self._clock.monotonic_ns()
            page = await self._store.list_versions(
                bucket.name,
                prefix=prefix,
                delimiter=b"",
                after_key=after_key,
                after_version=after_version,
                limit=PAGE_VERSIONS,
            )
            after_key, after_version, is_truncated = page.last_key, page.last_version, page.is_truncated
            doomed = [found for listed in page.entries for found in planner.see(listed)]
            if not is_truncated:
                doomed += planner.end()
            self.status.looked_at += len(page.entries)
            await self._delete_all(bucket, versioning, doomed)
            await self._check_bucket(bucket)
            work = max(len(page.entries) / LOOKED_AT_PER_DELETE, len(doomed)) * self._delete_seconds
            await self._pace(begun_ns, work)

    async def _check_bucket(self, bucket: BucketInfo) -> None:
        """Raise BucketChanged unless the bucket is the one that it was, with its configuration."""
        now = await self._store.bucket(bucket.name)
        if (now.ino, now.serial) != (bucket.ino, bucket.serial):
            raise BucketChanged(f"the configuration of bucket {bucket.name!r} has just been changed")

    async def _delete_all(self, bucket: BucketInfo, versioning: Versioning, doomed: list[Doomed]) -> None:
        """Delete versions, of each key in their order: those behind a version are counted with it. An error of one
        ends the pass of the bucket when the others are done."""
        failures: list[SiltstoneError] = []
        by_key: dict[bytes, list[Doomed]] = {}
        for one in reversed(doomed):  # the oldest first: the newer ones that must be there are there yet
            by_key.setdefault(one.key, []).append(one)
        pending = iter(by_key.values())

        async def work() -> None:
            for of_key in pending:
                for one in of_key:
                    try:
                        await self._delete(bucket, versioning, one)
                    except SiltstoneError as error:
                        failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(min(DELETES_AT_ONCE, len(by_key))):
                nursery.start_soon(work)
        if failures:
            raise failures[0]

    async def _delete(self, bucket: BucketInfo, versioning: Versioning, one: Doomed) -> None:
        status = self.status
        expiry = msgspec.structs.replace(one.expiry, bucket=bucket.ino, serial=bucket.serial)
        try:
            deleted = await self._store.delete(
                bucket.name,
                one.key,
                Conditions(expiry=expiry),
                versioning=versioning,
                version_id=one.version_id,
                owner=bucket.owner,
            )
        except PreconditionFailed:
            status.changed += 1
        except NotPermitted:
            status.locked += 1
        else:
            if not deleted.was_there:
                status.changed += 1
            elif not one.expiry.ino:
                status.markers_removed += 1
            elif one.expiry.is_current:
                status.expired += 1
            else:
                status.noncurrent_expired += 1

    async def _abort_uploads(self, bucket: BucketInfo, rules: tuple[Rule, ...], prefix: bytes) -> None:
        after_key, after_upload, is_truncated = b"", "", True
        while is_truncated:
            begun_ns = self._clock.monotonic_ns()
            page = await self._store.list_uploads(
                bucket.name,
                prefix=prefix,
                delimiter=b"",
                after_key=after_key,
                after_upload=after_upload,
                limit=PAGE_VERSIONS,
            )
            is_truncated = page.is_truncated
            for upload in page.uploads:
                after_key, after_upload = upload.key, upload.upload_id
                due = abortion(rules, upload.key, upload.created_ns, self._calendar)
                if due is None or due[0] > self._clock.now_ns():
                    continue
                try:
                    await self._store.abort_upload(bucket.name, upload.key, upload.upload_id)
                    self.status.uploads_aborted += 1
                except NoSuchUpload:
                    self.status.changed += 1
            await self._check_bucket(bucket)
            await self._pace(begun_ns, len(page.uploads) * self._delete_seconds)

    async def _pace(self, begun_ns: int, seconds: float) -> None:
        """Let what began then have taken so long."""
        left = seconds - (self._clock.monotonic_ns() - begun_ns) / SECOND_NS
        if left > 0:
            await self._clock.sleep(left)


def _is_about_versions(rule: Rule) -> bool:
    return bool(rule.days or rule.date_ns is not None or rule.drops_markers or rule.noncurrent_days)
