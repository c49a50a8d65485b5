"""The replicated write-ahead log: append, group commit, read, recover.

LSNs are byte positions in one endless log. An append is in memory and readable at once; it is durable when its bytes
are written and flushed on every disk of the open segment. One commit is under way at a time (``_commit_lock``) and
takes all that was gathered until it began, so everybody who waits shares one write and one flush a disk. Who waits
alone, for files in memory, commits in its own task; otherwise the task of ``run`` does it.

When a disk fails a write, the open segment ends at the last durable LSN and another begins there on disks that work;
the frames that were not durable are written again under its epoch. Their LSNs, and so the addresses of their payloads,
stay.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import trio

from siltstone.engine.format.frame import FRAME_HEADER_BYTES, Frame, volume_seed
from siltstone.engine.format.segment import SEGMENT_HEADER_BYTES, parse_segment_name
from siltstone.engine.log.bodies import frames_from
from siltstone.engine.log.files import FREE_FILES_MAX, SegmentFiles
from siltstone.engine.log.pending import Batch, Pending, PendingFrame, joined
from siltstone.engine.log.reader import ReplicaReader
from siltstone.engine.log.recovery import ancestors_of, make_room, recover_segments
from siltstone.engine.log.scrub import LogChecked
from siltstone.engine.log.segment import Segment, SegmentEvent, SegmentState, SegmentStatus
from siltstone.engine.log.statistics import LogStatistics
from siltstone.engine.log.upkeep import Upkeep
from siltstone.engine.pool import Pool
from siltstone.errors import AlreadyExists, Corrupt, SiltstoneError, TooFewDisks, VolumeClosed
from siltstone.limits import FRAME_BYTES_MAX, MIB
from siltstone.ports import Clock, DiskWrite, Lane
from siltstone.types import Buffer, DiskId, Lsn

EARLY_COMMIT_BYTES = 4 * MIB
"""Commit without being asked when this much is pending."""

RETRY_SECONDS = 1.0
"""A log without disks to go on looks again this often, besides when the pool says that a disk is up."""

COMMIT_INTERVAL_SECONDS = 1.0


class Log:
    """See the module's text. Make one with ``create`` or ``recover``, then keep ``run`` running."""

    def __init__(
        self,
        files: SegmentFiles,
        clock: Clock,
        *,
        replicas: int,
        minimum: int,
        commit_interval: float,
        segments: list[Segment],
        active: Segment,
        mended_bytes: int,
    ) -> None:
        self._pool = files.pool
        self._files = files
        self._clock = clock
        self._replicas = replicas
        self._minimum = minimum
        self._commit_interval = commit_interval
        self._sealed = segments
        self._active = active
        self._seed = volume_seed(files.volume_uuid)
        self._pending = Pending()
        self._next_lsn = self._durable_lsn = active.start
        self._demanded_lsn = active.start
        self._kick = trio.Event()
        self._appended = trio.Event()
        self._commit_lock = trio.Lock()
        self._disks_changed = trio.Event()
        self._failing: set[DiskId] = set()
        self._is_running = self._is_stalled = self._is_closing = False
        self._last_waiters = 0
        """How many waited for the batch that was committed last."""
        self._may_widen = False
        self._failure: SiltstoneError | None = None
        self._appends = self._flushes = self._flushed_bytes = self._waits = self._failed = 0
        self._opened = 1
        self._mended_bytes = mended_bytes
        self._reader = ReplicaReader(files.pool)
        self._upkeep = Upkeep(files, self._sealed, replicas=replicas)
        self.frame_bytes_max = min(FRAME_BYTES_MAX, files.segment_bytes - SEGMENT_HEADER_BYTES)
        self._pool.subscribe(self._note_disk)

    # --- making one ------------------------------------------------------------------------------------------------

    @classmethod
    async def create(
        cls,
        pool: Pool,
        clock: Clock,
        *,
        volume_uuid: bytes,
        segment_bytes: int,
        replicas: int,
        minimum: int | None = None,
        commit_interval: float = COMMIT_INTERVAL_SECONDS,
    ) -> Log:
        """An empty log on disks without one; durable on return. Raises AlreadyExists, TooFewDisks."""
        files = SegmentFiles(pool, volume_uuid=volume_uuid, segment_bytes=segment_bytes)
        for disk_id in pool.up():
            for entry in await pool.disk(disk_id).list("log/"):
                if parse_segment_name(entry.name):
                    raise AlreadyExists(f"disk {disk_id} has a log already ({entry.name})")
        minimum = _minimum(pool, replicas) if minimum is None else minimum
        await files.prepare_standby(replicas)
        active = await files.establish(start=Lsn(0), ancestors=[], replicas=replicas, minimum=minimum, exclude=())
        return cls(
            files,
            clock,
            replicas=replicas,
            minimum=minimum,
            commit_interval=commit_interval,
            segments=[],
            active=active,
            mended_bytes=0,
        )

    @classmethod
    async def recover(
        cls,
        pool: Pool,
        clock: Clock,
        *,
        volume_uuid: bytes,
        segment_bytes: int,
        replicas: int,
        minimum: int | None = None,
        applied_lsn: Lsn,
        on_frame: Callable[[Frame], None],
        commit_interval: float = COMMIT_INTERVAL_SECONDS,
    ) -> Log:
        """The log that is on the disks, as some prefix of what was appended that holds all that was durable.

        ``on_frame`` gets every frame that ends after ``applied_lsn``, in order; all of them are durable on return.
        Raises TooFewDisks, LogDamaged.
        """
        files = SegmentFiles(pool, volume_uuid=volume_uuid, segment_bytes=segment_bytes)
        minimum = _minimum(pool, replicas) if minimum is None else minimum
        recovered = await recover_segments(
            files, replicas=replicas, minimum=minimum, applied_lsn=applied_lsn, on_frame=on_frame
        )
        segments = recovered.segments
        establish = partial(
            files.establish,
            start=recovered.end,
            ancestors=ancestors_of(segments),
            replicas=replicas,
            minimum=minimum,
            exclude=(),
        )
        try:
            active = await establish()
        except TooFewDisks:
            await make_room(files, recovered)
            active = await establish()
        for segment in segments:
            segment.happen(SegmentEvent.SUCCEED)
        log = cls(
            files,
            clock,
            replicas=replicas,
            minimum=minimum,
            commit_interval=commit_interval,
            segments=segments,
            active=active,
            mended_bytes=recovered.mended_bytes,
        )
        log._upkeep.wanted.set()
        return log

    # --- positions and pictures ------------------------------------------------------------------------------------

    @property
    def next_lsn(self) -> Lsn:
        """Where the next frame will start."""
        return self._next_lsn

    @property
    def next_payload_lsn(self) -> Lsn:
        """Where the payload of the next frame will start."""
        return Lsn(self._next_lsn + FRAME_HEADER_BYTES)

    @property
    def kept_bytes(self) -> int:
        """What the segments hold, one copy of each, without what is pending; retired ones in between left out."""
        return sum(segment.end - segment.start for segment in (*self._sealed, self._active))

    @property
    def file_bytes(self) -> int:
        """What the log takes on the disks, all copies together, files that wait to become segments included."""
        return self._upkeep.file_bytes(self._active)

    @property
    def idle_file_bytes(self) -> int:
        """What its files take at most while the log is empty: the open segment, and those that wait to be used."""
        return self._files.segment_bytes * (self._replicas + FREE_FILES_MAX * len(self._pool.placeable()))

    @property
    def segment_bytes(self) -> int:
        """How long the file of a segment is."""
        return self._files.segment_bytes

    @property
    def open_bytes_left(self) -> int:
        """What the open segment still takes; 0 where what is pending fills it."""
        return max(0, self._active.limit - self._next_lsn)

    @property
    def unbroken_start(self) -> Lsn:
        """From here on the log has everything; of what is before, segments in between may have been retired."""
        start = self._active.start
        for segment in reversed(self._sealed):
            if segment.end != start:
                break
            start = segment.start
        return start

    @property
    def replicas(self) -> int:
        """Copies that each segment should have."""
        return self._replicas

    @property
    def durable_lsn(self) -> Lsn:
        """Every frame that ends at or before this is durable."""
        return self._durable_lsn

    @property
    def pending_bytes(self) -> int:
        """Appended and not durable; held in memory. Whoever appends must stop somewhere: the log does not."""
        return self._next_lsn - self._durable_lsn

    def segments(self) -> list[SegmentStatus]:
        """All segments, oldest first; the last is the open one."""
        return [segment.status() for segment in (*self._sealed, self._active)]

    @property
    def is_degraded(self) -> bool:
        """Whether some part of the log has fewer copies on disks that stay than it should have."""
        segments = (*self._sealed, self._active)
        return self._is_stalled or any(
            sum(map(self._pool.is_placeable, segment.disks)) < self._replicas for segment in segments
        )

    def statistics(self) -> LogStatistics:
        """Counters and state now."""
        return LogStatistics(
            appends=self._appends,
            flushes=self._flushes,
            flushed_bytes=self._flushed_bytes,
            waits=self._waits,
            segments_opened=self._opened,
            segments_failed=self._failed,
            mended_bytes=self._mended_bytes + self._reader.mended_bytes,
            hedged_reads=self._reader.hedged_reads,
            marked_lsn=self._active.marked_lsn,
            is_degraded=self.is_degraded,
            is_stalled=self._is_stalled,
        )

    # --- appending -------------------------------------------------------------------------------------------------

    def append_nowait(self, kind: int, payload: Sequence[Buffer], body: Buffer) -> Lsn:
        """Add a frame at ``next_lsn`` and return where it ends. It is readable at once and not durable yet.

        The buffers (of bytes) are kept, not copied: they must not change until the frame is durable.
        Raises VolumeClosed after close.
        """
        if self._is_closing:
            raise VolumeClosed("the log is closed")
        lsn = self._next_lsn
        frame = PendingFrame(lsn, kind, payload, body, self._seed)
        end_lsn = frame.end_lsn
        assert end_lsn - lsn <= self.frame_bytes_max, f"a frame of {end_lsn - lsn} bytes is longer than a frame may be"
        self._pending.append(frame)
        self._next_lsn = end_lsn
        self._appends += 1
        if end_lsn - self._durable_lsn >= EARLY_COMMIT_BYTES and not self._kick.is_set():
            self._kick.set()
        if not self._appended.is_set():
            self._appended.set()
        return end_lsn

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when everything before ``lsn`` is durable; at once if it is. Needs ``run`` to be running.

        Without enough disks this waits until some come back; raises TooFewDisks if the log is closed meanwhile.
        """
        assert lsn <= self._next_lsn
        if lsn <= self._durable_lsn:
            return
        self._waits += 1
        while lsn > self._durable_lsn:
            if self._failure is not None:
                raise self._failure
            batch = self._pending.batch_of(lsn)
            batch.waiters += 1
            if self._may_lead(batch):
                await self._lead(batch)
            else:
                self._demand(batch.end_lsn)
                await batch.done.wait()

    def _may_lead(self, batch: Batch) -> bool:
        """Whether who waits for a batch had better commit it itself, which saves two rounds of the loop.

        Only where nothing is under way and nothing has to be repaired, and where one waiter had the last batch for
        itself: of many that come at the same time each would find that the first has left without it. And only where
        writes return at once: a write that has begun cannot be cancelled, and a wait for a slow disk can.
        """
        return (
            self._is_running
            and not self._is_closing
            and self._last_waiters <= 1
            and batch is self._pending.batches[0]
            and not self._commit_lock.locked()
            and self._active.state is SegmentState.OPEN
            and batch.end_lsn <= self._active.limit
            and all(self._pool.is_up(disk) and self._pool.disk(disk).is_in_memory for disk in self._active.disks)
        )

    async def _lead(self, batch: Batch) -> None:
        """Commit the oldest batch in this task; what comes after it, and what is left when this is cancelled, is up to
        ``run``."""
        self._commit_lock.acquire_nowait()
        try:
            await self._commit_oldest()
        finally:
            self._commit_lock.release()
            if self._durable_lsn < batch.end_lsn:
                self._demand(batch.end_lsn)

    def _demand(self, lsn: Lsn) -> None:
        if lsn > self._demanded_lsn:
            self._demanded_lsn = lsn
            if not self._kick.is_set():
                self._kick.set()

    # --- in the background -----------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is waited for, and everything within ``commit_interval``; keep the segments in order.

        Ends when the log is closed. A failing disk raises nothing here.
        """
        async with trio.open_nursery() as nursery:
            self._is_running = True
            nursery.start_soon(self._commit_when_due)
            nursery.start_soon(self._demand_in_time)
            nursery.start_soon(self._keep_up)
            task_status.started()

    async def _commit_when_due(self) -> None:
        while True:
            while not self._is_due():
                self._kick = trio.Event()
                await self._kick.wait()
            try:
                await self._commit(self._is_due)
            except TooFewDisks:
                if not self._is_closing:
                    raise
                return

    def _is_due(self) -> bool:
        has_frames = bool(self._pending.batches)
        return has_frames and (self._demanded_lsn > self._durable_lsn or self.pending_bytes >= EARLY_COMMIT_BYTES)

    async def _demand_in_time(self) -> None:
        """What is appended waits half an interval at the most before it is demanded; then, if it is quiet, mark it.

        The mark lets recovery tell damage from a torn tail even in the last frames that were written.
        """
        while True:
            await self._appended.wait()
            self._appended = trio.Event()
            await self._clock.sleep(self._commit_interval / 2)
            self._demand(self._next_lsn)
            await self._clock.sleep(self._commit_interval / 2)
            if self._durable_lsn < self._next_lsn:
                self._appended.set()
            elif not self._appended.is_set() and not self._is_closing:
                await self._upkeep.mark(self._active, self._durable_lsn)

    async def _keep_up(self) -> None:
        while True:
            with trio.move_on_after(RETRY_SECONDS if self._upkeep.is_behind else float("inf")):
                await self._upkeep.wanted.wait()
            self._upkeep.wanted = trio.Event()
            await self._upkeep.heal(self._active)
            if self._wants_standby():
                await self._upkeep.prepare_standby()
            try:
                await self._rotate(self._has_better_place)
            except TooFewDisks:
                if not self._is_closing:
                    raise
                return

    def _wants_standby(self) -> bool:
        """While the open segment is young the disks are better left alone, unless it is a slow one."""
        has_begun = self._active.end - self._active.start > self._files.segment_bytes // 4
        return (has_begun or not self._active.is_written) and not self._upkeep.has_tried_standby

    def _has_better_place(self) -> bool:
        """Whether the open segment has too few disks that stay, or slow files, and the next one would not."""
        if self._is_closing or len(self._pool.placeable()) < self._replicas:
            return False
        if any(map(self._pool.is_up, self._active.disks)) and not all(map(self._pool.is_placeable, self._active.disks)):
            return True  # one of them is being drained
        if len(self._active.disks) < self._replicas:
            may_widen, self._may_widen = self._may_widen, False
            return may_widen
        return self._upkeep.has_standby and not self._active.is_written

    def _note_disk(self, _disk_id: DiskId, is_up: bool) -> None:
        self._may_widen = self._may_widen or is_up
        self._disks_changed.set()
        self._upkeep.forget_standby()

    # --- committing ------------------------------------------------------------------------------------------------

    async def _commit(self, is_wanted: Callable[[], bool]) -> None:
        """Once it is our turn, if it is still wanted: make the oldest batch durable."""
        try:
            self._commit_lock.acquire_nowait()  # unlike ``async with`` no checkpoint when nobody else commits
        except trio.WouldBlock:
            await self._commit_lock.acquire()
        try:
            if is_wanted():
                await self._commit_oldest()
        finally:
            self._commit_lock.release()

    async def _rotate(self, is_wanted: Callable[[], bool]) -> None:
        """Once it is our turn, if it is still wanted: open a new segment."""
        async with self._commit_lock:
            if is_wanted():
                await self._replace_active()

    async def _commit_oldest(self) -> None:
        """Make the oldest batch durable, on as many segments as it takes."""
        batch = self._pending.take()
        frames = batch.frames
        while self._durable_lsn < batch.end_lsn:
            first = bisect_left(frames, self._durable_lsn, key=lambda frame: frame.lsn)
            assert frames[first].lsn == self._durable_lsn
            if frames[first].end_lsn > self._active.limit or self._active.state is not SegmentState.OPEN:
                await self._replace_active()
            stop = bisect_right(frames, self._active.limit, key=lambda frame: frame.end_lsn)
            assert stop > first
            if not await self._write_frames(frames[first:stop]):
                self._failed += 1
                self._active.happen(SegmentEvent.CLOSE)
        self._failing.clear()
        self._pending.drop_taken()
        self._last_waiters = batch.waiters
        batch.done.set()

    async def _write_frames(self, frames: Sequence[PendingFrame]) -> bool:
        """Write and flush frames on every disk of the open segment; False if one of them failed."""
        active = self._active
        parts: list[Buffer] = []
        for frame in frames:
            frame.append_to(parts, epoch=active.epoch, durable_lsn=self._durable_lsn, seed=self._seed)
        offset = active.offset_of(self._durable_lsn)
        buffers = joined(parts, offset)
        up = [disk_id for disk_id in active.disks if self._pool.is_up(disk_id)]
        if len(up) < len(active.disks):
            self._failing.update(disk_id for disk_id in active.disks if disk_id not in up)
            return False
        writes = [DiskWrite(self._pool.disk(disk_id), active.name, offset, buffers) for disk_id in up]
        with trio.CancelScope(shield=True):
            errors = await self._pool.fanout.write_durable(writes, Lane.LOG)
        self._flushes += 1
        for disk_id, error in zip(up, errors, strict=True):
            if error is not None:
                self._failing.add(disk_id)
                self._pool.report(error)
        if any(error is not None for error in errors):
            return False
        active.end = self._durable_lsn = frames[-1].end_lsn
        self._flushed_bytes += (active.end - frames[0].lsn) * len(active.disks)
        if self._wants_standby():
            self._upkeep.wanted.set()
        return True

    async def _replace_active(self) -> None:
        """Open a segment at the durable LSN; the active one is sealed there, or void if it holds nothing.

        Waits while there are too few disks; raises TooFewDisks instead when the log is being closed.
        """
        old = self._active
        if old.state is SegmentState.OPEN:
            old.happen(SegmentEvent.CLOSE)
        assert old.end == self._durable_lsn
        ancestors = ancestors_of([*self._sealed, old] if old.end > old.start else self._sealed)
        while True:
            self._disks_changed = trio.Event()
            try:
                with trio.CancelScope(shield=True):
                    self._active = await self._files.establish(
                        start=self._durable_lsn,
                        ancestors=ancestors,
                        replicas=self._replicas,
                        minimum=self._minimum,
                        exclude=self._failing,
                    )
                break
            except TooFewDisks:
                self._failing.clear()
                if self._is_closing:
                    raise
                self._is_stalled = True
                with trio.move_on_after(RETRY_SECONDS):
                    await self._disks_changed.wait()
        self._is_stalled = False
        self._opened += 1
        if old.end > old.start:
            old.happen(SegmentEvent.SUCCEED)
            self._sealed.append(old)
        else:
            old.happen(SegmentEvent.VOID)
        self._upkeep.forget_standby()

    # --- reading ---------------------------------------------------------------------------------------------------

    def read_nowait(self, lsn: Lsn, size: int) -> bytes | None:
        """Payload bytes if they are at hand: pending in memory, or in a disk's cache. Not verified: the caller does."""
        assert size > 0
        if lsn + size > self._durable_lsn:
            return self._pending.payload(lsn, size)
        segment = self._segment_of(lsn, size)
        if segment is None:
            return None
        return self._reader.read_nowait(segment, lsn, size)

    async def read(self, lsn: Lsn, size: int, verify: Callable[[bytes], bool]) -> bytes:
        """Payload bytes for which ``verify`` is true, from whichever replica has them; replicas that differ are mended.

        Raises Corrupt if every replica that can be read has something else, TooFewDisks if none can be read.
        """
        assert size > 0
        pending = self._pending.payload(lsn, size)
        if pending is not None:
            return pending
        segment = self._segment_of(lsn, size)
        if segment is None:
            raise Corrupt(f"the log does not hold {size} bytes at LSN {lsn} any more")
        return await self._reader.read(segment, lsn, size, verify)

    async def frames(self, lsn: Lsn) -> list[Frame] | None:
        """Some durable frames, the first at ``lsn``, where one begins; None if no segment that is kept has any there.

        Raises LogDamaged.
        """
        segment = self._segment_of(lsn, 1)
        if segment is None:
            return None
        with segment:
            return await frames_from(self._pool, segment, lsn, self._seed)

    def _segment_of(self, lsn: Lsn, size: int) -> Segment | None:
        """The segment that holds the durable range, or None if it was retired."""
        assert lsn >= 0
        if lsn >= self._active.start:
            segment = self._active
        else:
            index = bisect_right(self._sealed, lsn, key=lambda segment: segment.start) - 1
            if index < 0:
                return None
            segment = self._sealed[index]
        return segment if lsn + size <= segment.end else None

    # --- what becomes of segments ----------------------------------------------------------------------------------

    async def seal(self) -> None:
        """Make all that is pending durable, seal the open segment and go on in a new one; nothing if it is empty."""
        end = self._next_lsn
        while self._durable_lsn < end:
            await self._commit(lambda: self._durable_lsn < end)
        await self._rotate(lambda: self._active.start < end)

    async def retire(self, start: Lsn) -> None:
        """Recycle the sealed segment at ``start``: all of it is applied, and nobody will read it any more."""
        await self._upkeep.retire(start)

    async def delete_free_files(self, disks: Iterable[DiskId]) -> None:
        """Give back what waits on these disks to become segments: they have too little room for anything else."""
        await self._upkeep.delete_free(disks)

    async def punch(self, start: Lsn, end: Lsn) -> None:
        """Give back the space of dead payload in sealed segments. All of [start, end) must be applied."""
        await self._upkeep.punch(start, end)

    async def check_header(self, start: Lsn) -> dict[DiskId, bool]:
        """Mend the header pages of the segment at ``start``: whether that worked, by disk in which one was wrong."""
        segments = [*self._sealed, self._active]
        index = next((index for index, segment in enumerate(segments) if segment.start == start), None)
        if index is None:
            return {}
        return await self._upkeep.check_header(segments[index], ancestors_of(segments[:index]))

    async def check(self, lsn: Lsn) -> LogChecked | None:
        """Compare the replicas of the durable log from ``lsn`` on, for a piece of one segment, and mend those that
        differ. None if there is nothing at ``lsn``: the segment was retired.

        A replica of the open segment whose file is missing has the segment sealed, so that it gets another copy.
        """
        segment = self._segment_of(lsn, 1)
        if segment is None:
            return None
        checked = await self._upkeep.check_frames(segment, lsn)
        if checked is not None and checked.replicas.missing and not segment.is_sealed:
            await self.seal()
            return await self.check(lsn)
        return checked

    async def heal(self) -> None:
        """Bring sealed segments back to their number of copies, and recycle what disks that returned hold in vain."""
        await self._upkeep.heal(self._active)

    async def close(self) -> None:
        """Make everything durable and let go. Raises TooFewDisks, as waiters get it, if that cannot be; never hangs."""
        self._is_closing = True
        self._disks_changed.set()
        try:
            while self._pending.batches:
                await self._commit(lambda: bool(self._pending.batches))
            await self._upkeep.mark(self._active, self._durable_lsn)
        except TooFewDisks as error:
            self._failure = error
            raise
        finally:
            self._upkeep.close()
            for batch in self._pending.batches:
                batch.done.set()


def _minimum(pool: Pool, replicas: int) -> int:
    """Copies below which the log rather waits, if nothing else is said: two, where the volume has them."""
    return min(2, replicas, len(pool.status()))
