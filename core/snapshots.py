"""Snapshots of the metadata on the pool: taken, kept, healed, so that HOME may be lost (docs/decisions/0013).

Increments take over what the log is about to let go of; full snapshots make the increments before them superfluous.
Both are read and written in small steps with rests between them, and never both wait for the same lock: the log can
be shortened while a full snapshot takes its time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from siltstone.core.ledger import Ledger
from siltstone.core.snapshot_plan import OVERDUE_PERCENT, SnapshotPlan, increment_bytes_max, kept_since, plan_snapshots
from siltstone.engine.format.snapshot import SnapshotKind, SnapshotName
from siltstone.engine.replicas import ReplicasChecked
from siltstone.engine.snapshot.copies import Snapshot
from siltstone.engine.snapshot.files import SnapshotFiles, SnapshotWriter
from siltstone.errors import Corrupt, NoSpace, SiltstoneError, TooFewDisks
from siltstone.limits import KIB
from siltstone.meta.snapshot import LoggedBatch, pack_batches, pack_entries
from siltstone.types import DiskId, Lsn

LOOK_SECONDS = 1.0
"""How often the background looks whether something is due, besides when disks come and go."""

RETRY_SECONDS = 30.0
"""What failed is tried again after this."""

SLICE_ENTRIES = 1024
"""Keys read from LMDB between two checkpoints: less than half a millisecond. Fewer would take too long where the loop
is busy and comes round but some hundred times a second."""

FRAME_BYTES = 256 * KIB
"""Keys and values, or batches, in one frame, before it is compressed."""

LOOP_REST_SHARE = 4.0
"""After each frame a full snapshot rests for so many times what it took of the loop's time, while it is not overdue,"""

WRITE_REST_SHARE = 1.0
"""and of what compressing and writing took."""

LOG_SHARE = 8
"""An increment is due when one part in so many of the log's high-water mark could go but for it,"""

SEGMENTS_MAX = 8
"""or so many segments could: a volume that is restarted again and again must not collect them."""

ATTEMPTS_MAX = 3
"""Where disks fail while a snapshot is written, others are tried: so many may be found out to be gone one by one."""

INCREMENT_BYTES_MIN = 256 * KIB
"""Room that a disk must have to be taken for an increment."""

BYTES_MIN_SHARE = 512
"""A full snapshot is due at the latest when increments take one part in so many of the pool, each of their copies."""

MARGIN_SHARE = 8
"""The next full snapshot may be longer by one part in so many than what LMDB holds says."""

BASES = 2
"""Full snapshots that are kept."""

COMPRESSION = 3
"""What is in LMDB is about so many times as long as in a snapshot, as long as no snapshot tells."""

FEED_SHARE = 256
"""Increments kept for the feed alone take at most one part in so many of the pool, each of their copies."""

EXPIRY_LOOK_SECONDS = 60.0
"""How often it is looked for increments that the feed keeps no longer."""

_END = b"\xff"


class SnapshotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where snapshots stand. LSNs are 0 and times 0 as long as there is no full snapshot."""

    newest_lsn: int
    """Start of the newest full snapshot; a restore begins there."""
    newest_created_ns: int
    newest_bytes: int
    """Of one copy."""
    newest_copies: int
    """On disks that are up and stay."""
    older_lsn: int
    increments: int
    """Since the older one."""
    increment_bytes: int
    covered_lsn: int
    """The log is needed from here on."""
    stored_bytes: int
    """All copies of all snapshots."""
    is_degraded: bool
    """Something has fewer copies than it should, or only one way leads to the present state."""
    is_running: bool
    """A full snapshot is being taken."""
    done_bytes: int
    """Of its keys and values."""
    total_bytes: int
    """LMDB's pages, which keys and values fill to about a half."""
    taken: int
    """Full snapshots since the volume was opened."""
    taken_increments: int
    last_error: str


class Snapshots:
    """Takes and keeps the snapshots of an open volume. ``bytes_min``: a full one is not worth it for less."""

    def __init__(
        self, ledger: Ledger, files: SnapshotFiles, *, log_bytes_high: int, bytes_min: int, feed_window: float = 0.0
    ) -> None:
        self._ledger = ledger
        self.files = files
        self.feed_window = feed_window
        """So many seconds increments are kept for who reads what was changed."""
        self._expiry_ns = 0
        self._log_bytes_high = log_bytes_high
        self._bytes_min_wanted = bytes_min
        self._measured: SnapshotName | None = None
        """The full snapshot that was taken while LMDB had ``_measured_used`` bytes."""
        self._measured_used = 1
        self._increment_lock = trio.Lock()
        self._full_lock = trio.Lock()
        self._disks_changed = True
        self._wake = trio.Event()
        self._retry_ns = 0
        self._done_bytes = self._total_bytes = 0
        self._unfinished_bytes = 0
        """What the full snapshot that is being taken has taken of what is held back for it."""
        self._taken = self._taken_increments = 0
        self.last_error = ""
        """Why the last attempt in the background failed; empty when it did not."""
        ledger.pool.subscribe(self._note_disk)

    # --- what there is ---------------------------------------------------------------------------------------------

    @property
    def _bytes_min(self) -> int:
        """So long must increments be for a full snapshot: less on small pools, whose room they would fill."""
        return min(self._bytes_min_wanted, self._ledger.stripes.space().usable_total_bytes // BYTES_MIN_SHARE)

    async def adopt(self) -> None:
        """Find what is on the disks. Before anything else here is called."""
        await self.files.look()
        self._hold_room_back()

    def plan(self) -> SnapshotPlan:
        """What leads to the present state."""
        snapshots = self.files.snapshots
        usable = [snapshot for snapshot in snapshots if self.files.is_safe(snapshot)]
        return plan_snapshots(snapshots, usable, self._ledger.log.unbroken_start, self._kept_from())

    def _kept_from(self) -> Lsn | None:
        """Increments behind this are kept for the feed, needed or not: not where the pool is short of room."""
        if not self.feed_window or self._ledger.is_cramped:
            return None
        increments = [item for item in self.files.snapshots if item.name.kind is SnapshotKind.INCREMENT]
        return kept_since(
            increments,
            created_ns=self._ledger.clock.now_ns() - int(self.feed_window * 1e9),
            bytes_max=self._ledger.stripes.space().usable_total_bytes // FEED_SHARE,
        )

    @property
    def covered_lsn(self) -> Lsn:
        """The log may let go of what is before this."""
        return self.plan().covered

    def is_increment_due(self, uncovered: int, segments: int) -> bool:
        """Whether so many bytes in so many segments, which the log could let go of but for us, are reason enough."""
        if uncovered >= self._log_bytes_high // LOG_SHARE or segments >= SEGMENTS_MAX:
            return True
        pool, reserve = self._ledger.pool, self._ledger.stripes.space().reserve_bytes
        return any(
            status.space is not None and status.space.free_bytes - status.taken_bytes < reserve
            for status in pool.status()
            if pool.is_placeable(status.disk_id)
        )

    def status(self) -> SnapshotStatus:
        """Where it stands."""
        plan, pool = self.plan(), self._ledger.pool
        fulls = [base.full for base in plan.bases if base.full is not None]
        newest = fulls[0] if fulls else None
        increments = [item for item in self.files.snapshots if item.name.kind is SnapshotKind.INCREMENT]
        return SnapshotStatus(
            newest_lsn=0 if newest is None else newest.name.start,
            newest_created_ns=0 if newest is None else newest.created_ns,
            newest_bytes=0 if newest is None else newest.size,
            newest_copies=0 if newest is None else sum(map(pool.is_placeable, newest.disks)),
            older_lsn=fulls[1].name.start if len(fulls) > 1 else 0,
            increments=len(increments),
            increment_bytes=sum(increment.size for increment in increments),
            covered_lsn=plan.covered,
            stored_bytes=sum(snapshot.size * len(snapshot.disks) for snapshot in self.files.snapshots),
            is_degraded=len(plan.bases) < (1 if newest is None else 2)
            or any(map(self.files.is_degraded, self.files.snapshots)),
            is_running=self._full_lock.locked(),
            done_bytes=self._done_bytes,
            total_bytes=self._total_bytes,
            taken=self._taken,
            taken_increments=self._taken_increments,
            last_error=self.last_error,
        )

    # --- increments ------------------------------------------------------------------------------------------------

    async def cover(self, end: Lsn) -> None:
        """Take the log's metadata up to ``end``, the end of a sealed segment, over into an increment.

        Raises what keeps that from being done; then the log is needed as before. Where no snapshot leads up to the
        log, a full one is taken.
        """
        async with self._increment_lock:
            plan = self.plan()
            if not plan.bases:
                # From before there were snapshots, or they rot: nothing that there is leads up to where the log begins.
                await self.take(is_hurried=True)
                plan = self.plan()
            if plan.covered >= end:
                return
            await self._attempt(partial(self._write_increment, plan.covered, end))
            self._taken_increments += 1
            self._hold_room_back()

    async def _attempt(self, write: Callable[[], Awaitable[Snapshot]]) -> Snapshot:
        """Write a snapshot; anew on other disks where so many failed meanwhile that it would have too few copies."""
        for attempts_left in reversed(range(ATTEMPTS_MAX)):
            try:
                return await write()
            except TooFewDisks:
                if not attempts_left or len(self._ledger.pool.placeable()) < self.files.minimum:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _write_increment(self, start: Lsn, end: Lsn) -> Snapshot:
        writer = await self.files.begin(
            SnapshotKind.INCREMENT, start, created_ns=self._ledger.clock.now_ns(), size=INCREMENT_BYTES_MIN
        )
        try:
            await self._write_batches(writer, start, end)
        except BaseException:
            await self.files.give_up(writer)
            raise
        return await self.files.finish(writer, end)

    async def _write_batches(self, writer: SnapshotWriter, start: Lsn, end: Lsn) -> None:
        lsn, gathered = start, 0
        batches: list[LoggedBatch] = []
        while lsn < end:
            frames = await self._ledger.log.frames(lsn)
            assert frames is not None, "what is not covered is kept"
            for frame in frames:
                batches.append(LoggedBatch(frame.end_lsn, frame.body))
                gathered += len(frame.body)
                lsn = frame.end_lsn
                if gathered >= FRAME_BYTES:
                    await writer.add(pack_batches(batches), len(batches))
                    batches, gathered = [], 0
        assert lsn == end, "the end of a sealed segment is the end of a frame"
        if batches:
            await writer.add(pack_batches(batches), len(batches))

    # --- full snapshots --------------------------------------------------------------------------------------------

    async def take(self, *, is_hurried: bool = False) -> Snapshot:
        """Take a full snapshot of what LMDB has now, and drop what it makes superfluous. Without rests if hurried.

        Raises TooFewDisks, NoSpace; then nothing has changed.
        """
        async with self._full_lock:
            try:
                snapshot = await self._attempt(partial(self._write_full, is_hurried=is_hurried))
            finally:
                self._unfinished_bytes = 0
            self._taken += 1
            self._measured, self._measured_used = snapshot.name, max(1, self._total_bytes)
            await self._drop()
            self._hold_room_back()
            return snapshot

    async def _write_full(self, *, is_hurried: bool) -> Snapshot:
        store, clock = self._ledger.store, self._ledger.clock
        self._done_bytes, self._total_bytes = 0, store.statistics().space.used_bytes
        writer = await self.files.begin(
            SnapshotKind.FULL, store.applied_lsn, created_ns=clock.now_ns(), size=self._expected_bytes()
        )
        try:
            await self._write_entries(writer, is_hurried=is_hurried)
        except BaseException:
            await self.files.give_up(writer)
            raise
        return await self.files.finish(writer, store.applied_lsn)

    async def _write_entries(self, writer: SnapshotWriter, *, is_hurried: bool) -> None:
        """Every key of LMDB, in slices. What is applied meanwhile may be in it or not: the log has it."""
        clock = self._ledger.clock
        await self._ledger.store.warm()
        cursor: bytes | None = b""
        while cursor is not None:
            entries: list[tuple[bytes, bytes]] = []
            gathered = loop_ns = 0
            while cursor is not None and gathered < FRAME_BYTES:
                begun_ns = clock.monotonic_ns()
                cursor, size = self._gather(cursor, entries)
                gathered += size
                loop_ns += clock.monotonic_ns() - begun_ns
                await trio.lowlevel.checkpoint()
            if not entries:
                return
            begun_ns = clock.monotonic_ns()
            body = pack_entries(entries)
            packed_ns = clock.monotonic_ns()
            await writer.add(body, len(entries))
            self._done_bytes = min(self._done_bytes + gathered, self._total_bytes)
            self._unfinished_bytes = writer.size * len(writer.disks)
            self._hold_room_back()
            if not is_hurried:
                written_ns = clock.monotonic_ns() - packed_ns
                rest_ns = LOOP_REST_SHARE * (loop_ns + packed_ns - begun_ns) + WRITE_REST_SHARE * written_ns
                await clock.sleep(rest_ns * self.plan().rest_share(self._bytes_min) / 1e9)

    def _gather(self, cursor: bytes, entries: list[tuple[bytes, bytes]]) -> tuple[bytes | None, int]:
        """Add the next slice; returns where the one behind begins, None at the end, and how long this one is."""
        found = self._ledger.store.read_applied(cursor, _END, SLICE_ENTRIES)
        entries += found
        size = sum(len(key) + len(value) for key, value in found)
        return (found[-1][0] + b"\0" if found else None), size

    def _expected_bytes(self) -> int:
        """About how long the next full snapshot will be: what the newest is, as LMDB has grown since."""
        bases = self.plan().bases
        newest = bases[0].full if bases else None
        used = self._ledger.store.statistics().space.used_bytes
        if newest is None:
            return used // COMPRESSION
        if newest.name != self._measured:
            return newest.size * 3 // 2  # from an earlier life: nobody knows what LMDB had then
        return newest.size * max(used, self._measured_used) // self._measured_used * (MARGIN_SHARE + 1) // MARGIN_SHARE

    def _hold_room_back(self) -> None:
        """Keep room free for what snapshots are still to take until there is one more full one: that, and the
        increments that make it due. What they take at most stays the same so, and with it what users may write."""
        plan = self.plan()
        fulls = [base.full for base in plan.bases if base.full is not None]
        expected = self._expected_bytes()
        newest_bytes = fulls[0].size if fulls else 0
        increments = increment_bytes_max(newest_bytes, self._bytes_min) * (100 + OVERDUE_PERCENT) // 100
        increments -= sum(item.size for item in plan.increments)
        missing = expected * (BASES - len(fulls))
        size = max(0, self.files.copies * (expected + missing + max(0, increments)) - self._unfinished_bytes)
        disks = len(self._ledger.pool.placeable())
        self._ledger.stripes.slabs.disk_room.hold_back(-(-size // disks) if disks else 0)

    async def _drop(self) -> None:
        """Delete what is not needed, once what is kept instead was read from every disk and is whole there."""
        for base in self.plan().bases:
            full = base.full
            if full is not None and not full.is_verified:
                await self.check(full)
                if full.is_rotten or not full.is_verified:
                    return  # what is kept is not what it was thought to be: another is taken, or a disk returns
        await self.files.drop(self.plan().droppable)

    # --- in the background -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take full snapshots when they are due, and keep every snapshot on as many disks as it should be, for ever."""
        clock = self._ledger.clock
        while True:
            try:
                if self._disks_changed:
                    self._disks_changed = False
                    await self.files.look()
                    await self._drop_what_came_back()
                    await self.files.heal()
                elif any(map(self.files.is_degraded, self.files.snapshots)):
                    await self.files.heal()
                if clock.monotonic_ns() >= self._retry_ns and self.plan().is_full_due(self._bytes_min):
                    self._ledger.waiting_for_log = False
                    await self.take()
                    self.last_error = ""
                if clock.monotonic_ns() >= self._expiry_ns:
                    self._expiry_ns = clock.monotonic_ns() + int(EXPIRY_LOOK_SECONDS * 1e9)
                    await self._drop_what_came_back()
            except NoSpace as error:
                # What is held back for it the log may have taken (core/room.py): it is to give that back.
                self.last_error = str(error)
                self._ledger.waiting_for_log = True
            except SiltstoneError as error:
                self.last_error = str(error)
                self._retry_ns = clock.monotonic_ns() + int(RETRY_SECONDS * 1e9)
            with trio.move_on_after(LOOK_SECONDS):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _drop_what_came_back(self) -> None:
        """Delete what was dropped before and is there again, after a crash or on a disk that was away; and what the
        feed keeps no longer."""
        async with self._full_lock:
            if self.plan().droppable:
                await self._drop()

    def _note_disk(self, _disk_id: DiskId, _is_up: bool) -> None:
        self._disks_changed = True
        self._wake.set()

    async def check(self, snapshot: Snapshot) -> ReplicasChecked | None:
        """Compare the copies of a snapshot and mend what differs; None if it is whole nowhere: another is taken."""
        try:
            return await self.files.check(snapshot)
        except Corrupt:
            self._wake.set()
            return None
