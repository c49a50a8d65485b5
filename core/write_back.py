"""The write path: gathers dirty bytes per file, and turns them into stripes or log payload.

A write lands in the file's dirty map and is visible at once. Full stripes leave while the file is still being written;
the rest leaves at flush, fsync, close or after a quarter of a commit interval. A run of at least
DIRECT_THRESHOLD_BYTES becomes stripes, whose units are flushed before the batch that points at them is appended; a
shorter one rides in that batch. Where there are too few disks for a stripe, large runs ride in the log as well.

A run that is on its way stays readable in ``in_flight``. A range is never twice on its way: its second version waits
for the first, so that batches reach the log in the order of the writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import trio

from siltstone.core.dirty import DirtyMap, Run, joined
from siltstone.core.ledger import Ledger
from siltstone.core.object_locks import is_locked
from siltstone.core.overwrites import Overwrites
from siltstone.core.reader import payload_checksums
from siltstone.engine.stripe import store as stripe_store
from siltstone.errors import (
    FileTooLarge,
    InvalidArgument,
    IsADirectory,
    NoSpace,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    SiltstoneError,
    TooFewDisks,
)
from siltstone.limits import DIRECT_THRESHOLD_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX
from siltstone.meta import extents, inodes, objects
from siltstone.meta.extents import FreedStripe
from siltstone.meta.records import Extent, Inode, InodeFlag, Place
from siltstone.meta.store.store import Transaction
from siltstone.types import Buffer, Ino

STRIPES_IN_FLIGHT_MAX = 6
"""Stripes that are written at the same time, over all files: bounds memory and the queues of the disks."""

BATCH_PIECES_MAX = 256
"""Extents that one batch adds at the most, however few bytes they have: bounds its records and the time it takes."""

TRUNCATE_STEP_EXTENTS = 256
"""Extents that one batch removes at the most; larger cuts go step by step, from the end."""


class Piece(NamedTuple):
    """A range of a file that is committed as one extent; ``direct``: through a stripe of its own."""

    start: int
    end: int
    direct: bool


def plan_pieces(runs: list[Run], *, stripe_bytes: int, payload_bytes_max: int) -> list[Piece]:
    """Cut dirty runs into extents: whole stripes first, a remainder of at least the threshold as a shorter stripe.

    What is shorter goes through the log, in payloads of at most ``payload_bytes_max``.
    """
    pieces: list[Piece] = []
    for run in runs:
        start = run.offset
        while run.end - start >= DIRECT_THRESHOLD_BYTES:
            end = min(start + stripe_bytes, run.end)
            pieces.append(Piece(start, end, True))
            start = end
        while start < run.end:
            end = min(start + payload_bytes_max, run.end)
            pieces.append(Piece(start, end, False))
            start = end
    return pieces


class OpenFile:
    """What is known of one inode that its record does not have yet."""

    __slots__ = (
        "changed_ns",
        "ctime_ns",
        "dirty",
        "error",
        "home",
        "idle",
        "in_flight",
        "ino",
        "is_locked",
        "lock",
        "mtime_ns",
        "next_cut",
        "size",
    )

    def __init__(self, ino: Ino, inode: Inode, now_ns: int) -> None:
        self.ino = ino
        self.dirty = DirtyMap()
        self.in_flight: list[Run] = []
        self.size = inode.size
        self.home: int | None = inode.home
        """The directory that it counts in, in the turn in which this is made; then None, as it may be renamed."""
        self.mtime_ns = now_ns
        self.ctime_ns = now_ns
        self.changed_ns = now_ns
        """When the oldest byte that is still dirty was written (monotonic)."""
        self.is_locked = False
        """Whether the file became an object that is locked after it was written to."""
        self.next_cut = 0
        """Dirty bytes at which it is worth looking for a full stripe again."""
        self.error: SiltstoneError | None = None
        """Why a stripe of this file could not be written in the background; raised by the next call that can."""
        self.lock = trio.Lock()
        self.idle = trio.Event()
        """Set whenever something in flight has landed."""

    def landed(self, run: Run) -> None:
        """Take a run off what is in flight."""
        self.in_flight.remove(run)
        self.idle.set()
        self.idle = trio.Event()

    def in_flight_overlaps(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) is on its way."""
        return any(run.offset < end and start < run.end for run in self.in_flight)

    def check_unlocked(self) -> None:
        """Raise NotPermitted for an object that is locked."""
        if self.is_locked:
            raise NotPermitted(f"inode {self.ino} is an object that is locked")

    async def wait_landed(self) -> None:
        """Return when nothing is in flight."""
        while self.in_flight:
            await self.idle.wait()


class WriteBack:
    """The dirty state of all files."""

    def __init__(self, ledger: Ledger, *, dirty_bytes_max: int, payload_bytes_max: int, stripe_bytes: int) -> None:
        self._ledger = ledger
        self._dirty_bytes_max = dirty_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self._stripe_bytes = stripe_bytes
        self._slots = trio.CapacityLimiter(STRIPES_IN_FLIGHT_MAX)
        self._nursery: trio.Nursery | None = None
        self.files: dict[Ino, OpenFile] = {}
        self._tracked = trio.Event()
        """Set when there are some."""
        self.overwrites = Overwrites()
        self.dirty_bytes = 0
        """Bytes in memory that no batch holds yet, in flight or not."""
        self.in_flight_bytes = 0
        """Of these, what is being written to stripes: it has its rows."""
        self.logged_bytes = 0
        """Of users, that were committed through the log since this was made."""
        self.direct_bytes = 0
        """The same, straight to stripes."""
        self.waits = 0
        """How often a writer had to wait for room in memory."""
        ledger.count_dirty = lambda: self.dirty_bytes
        self._departures = 0
        """How often bytes have left the memory, into a batch or for good."""

    # --- for the volume --------------------------------------------------------------------------------------------

    async def write(self, ino: Ino, offset: int, data: Buffer) -> int:
        """Take over ``data`` (it must not change any more) as the bytes at ``offset``; visible on return.

        Raises NoSpace, FileTooLarge, IsADirectory, NotFound, and what went wrong with an earlier write of the file.
        """
        size = len(data)
        if offset < 0 or offset + size > FILE_BYTES_MAX:
            raise FileTooLarge(f"inode {ino}: a write of {size} bytes at {offset} passes the largest file size")
        while self.dirty_bytes and self.dirty_bytes + size > self._dirty_bytes_max:
            await self._drain()
        await self._ledger.admit(size, logged=self._logged_part(ino, size))
        await self._ledger.wait_unclaimed(ino)  # another shard may just have locked it
        file = self.files.get(ino) or self._track(ino)
        if not file.lock.locked():
            self._take_over(file, offset, data)
        else:
            # A flush or truncate of this file is under way: a stream of writes must not keep it from its end.
            file.home = None
            file = await self._lock(ino)
            try:
                await self._ledger.wait_unclaimed(ino)
                self._take_over(file, offset, data)
            finally:
                file.lock.release()
                self._forget_clean(file)
        if file.dirty.size >= max(file.next_cut, self._stripe_bytes):
            await self._send_full_stripes(file)
        return size

    async def flush(self, ino: Ino) -> None:
        """Return when all bytes written to the file so far are in committed batches (not yet durable)."""
        if ino not in self.files:
            return
        await self._ledger.wait_changes_go()
        file = self.files.get(ino)
        if file is None or (not file.lock.locked() and self._commit_small(file)):
            return
        locked = await self._lock_known(ino)
        if locked is None:
            return
        file = locked
        try:
            while file.dirty.size or file.in_flight:
                await self._send(file)
                await file.wait_landed()
                self._raise_error(file)
        finally:
            file.lock.release()
            self._forget_clean(file)

    def commit_at_once(self, ino: Ino) -> bool:
        """Commit in this turn what is dirty of a file. False if that is much, on its way, or cannot be written."""
        file = self.files.get(ino)
        if file is None:
            return True
        return file.error is None and not file.lock.locked() and self._commit_small(file)

    @asynccontextmanager
    async def held(self, ino: Ino) -> AsyncIterator[None]:
        """All bytes that were written to a file are in committed batches, and writers of it wait, as long as the
        context lasts; a batch may be committed at once. Raises what kept its bytes from being written."""
        file = await self._lock(ino)
        try:
            while file.dirty.size or file.in_flight:
                await self._send(file)
                await file.wait_landed()
                self._raise_error(file)
            await self._ledger.wait_changes_go()  # last, and nothing can have become dirty meanwhile
            yield
        finally:
            file.lock.release()
            self._forget_clean(file)

    async def flush_all(self) -> None:
        """Flush every dirty file; one that cannot be written keeps none of the others back, and its error is raised."""
        failure: SiltstoneError | None = None
        for file in list(self.files.values()):
            try:
                await self.flush(file.ino)
            except SiltstoneError as error:
                failure = error
        if failure is not None:
            raise failure

    async def wait_landed(self) -> None:
        """Return when nothing is in flight, for a caller that holds changes back; what is dirty stays in memory.

        Takes no locks: whoever flushes or truncates a file holds its lock while it waits for changes to go on.
        """
        for file in list(self.files.values()):
            await file.wait_landed()

    async def set_size(self, ino: Ino, size: int) -> None:
        """Truncate or extend a file; committed on return. Bytes past the new end are gone for good."""
        if not 0 <= size <= FILE_BYTES_MAX:
            raise FileTooLarge(f"inode {ino}: size {size} is not in 0 ... {FILE_BYTES_MAX}")
        await self._ledger.wait_unclaimed(ino)
        file = await self._lock(ino)
        try:
            while True:
                await file.wait_landed()
                await self._ledger.wait_unclaimed(ino)
                file.check_unlocked()
                if self._cut(file, size):
                    break
                await trio.lowlevel.checkpoint()
                await self._ledger.admit()
        finally:
            file.lock.release()
            self._forget_clean(file)

    def look_again(self, ino: Ino) -> None:
        """A batch has changed an inode otherwise: whether it is locked may be another answer now."""
        file = self.files.get(ino)
        inode = None if file is None else inodes.find_inode(self._ledger.store, ino)
        if file is not None and inode is not None:
            file.is_locked = self._is_locked(ino, inode)

    def is_dirty(self, ino: Ino) -> bool:
        """Whether any byte of a file is in no batch yet."""
        file = self.files.get(ino)
        return file is not None and bool(file.dirty.size or file.in_flight)

    def discard(self, ino: Ino) -> None:
        """Forget an inode that is being purged. What is in flight finds no inode, or goes with it, and is dropped."""
        file = self.files.pop(ino, None)
        if file is not None:
            self._departures += 1
            self.dirty_bytes -= file.dirty.size
            file.dirty.truncate(0)
            file.error = None
            self._ledger.usage.release(ino)

    def layers(self, file: OpenFile, start: int, end: int) -> list[Run]:
        """The file's uncommitted bytes around [start, end), oldest first: each lies over the ones before it."""
        return [*file.in_flight, *file.dirty.between(start, end)]

    def covers(self, file: OpenFile, start: int, end: int) -> bool:
        """Whether any uncommitted byte lies in [start, end)."""
        return file.dirty.overlaps(start, end) or file.in_flight_overlaps(start, end)

    def failures(self) -> list[SiltstoneError]:
        """Why files could not be written that still have dirty bytes, or have them on their way once more."""
        return [
            file.error for file in self.files.values() if file.error is not None and (file.dirty.size or file.in_flight)
        ]

    def connect(self, nursery: trio.Nursery) -> None:
        """From now on stripes are written in the background, in ``nursery``."""
        self._nursery = nursery

    async def run(self, commit_interval: float) -> None:
        """Flush what is older than a quarter of a commit interval, for ever.

        It is looked for every eighth, and the log takes half an interval at the most: an eighth is left for the I/O.
        """
        clock = self._ledger.clock
        while True:
            if not self.files:
                self._tracked = trio.Event()
                await self._tracked.wait()
            await clock.sleep(commit_interval / 8)
            limit = clock.monotonic_ns() - int(commit_interval * 1e9 / 4)
            for file in list(self.files.values()):
                # One that is held for long has nothing dirty, and must keep nobody waiting.
                if file.changed_ns <= limit and (file.dirty.size or file.in_flight):
                    try:
                        await self.flush(file.ino)
                    except SiltstoneError as error:
                        # Kept for the writer: the next write, flush or close of the file raises it.
                        file.error = error

    def _logged_part(self, ino: Ino, size: int) -> int:
        """How much of a write will go through the log, as far as can be told: nothing once its file has long runs."""
        file = self.files.get(ino)
        if file is not None and file.dirty.size + size >= DIRECT_THRESHOLD_BYTES * max(1, len(file.dirty)):
            return 0
        return size if size < DIRECT_THRESHOLD_BYTES else 0

    # --- sending ---------------------------------------------------------------------------------------------------

    def _take_over(self, file: OpenFile, offset: int, data: Buffer) -> None:
        """Lay ``data`` over the file. Raises what went wrong with an earlier write, and then takes nothing."""
        self._raise_error(file)
        file.check_unlocked()
        if not len(data):
            self._forget_clean(file)
            return
        if offset + len(data) > file.size:
            self._reserve(file, offset + len(data))
        file.home = None
        if not file.dirty.size and not file.in_flight:
            file.changed_ns = self._ledger.clock.monotonic_ns()
        before = file.dirty.size
        file.dirty.write(offset, data)
        self.overwrites.note(file.ino, offset)
        self.dirty_bytes += file.dirty.size - before
        file.size = max(file.size, offset + len(data))
        file.mtime_ns = file.ctime_ns = self._ledger.clock.now_ns()

    def _commit_small(self, file: OpenFile) -> bool:
        """Commit a file whose dirty bytes fit one log frame, at once. False if it takes more than that."""
        if file.in_flight or file.dirty.size > min(self._payload_bytes_max, DIRECT_THRESHOLD_BYTES):
            return False
        if len(file.dirty) > BATCH_PIECES_MAX:
            return False
        pieces = [Piece(run.offset, run.end, False) for run in file.dirty.runs()]
        if pieces:
            self._commit_logged(file, pieces)
        # Only now: an error of earlier must not keep from the disks what can be written.
        self._raise_error(file)
        self._forget_clean(file)
        return True

    async def _send(self, file: OpenFile) -> None:
        """Send everything that is dirty now on its way: stripes in parallel, then the small rest in batches."""
        pieces = plan_pieces(
            file.dirty.runs(), stripe_bytes=self._stripe_bytes, payload_bytes_max=self._payload_bytes_max
        )
        for piece in pieces:
            if piece.direct:
                await self._send_stripe(file, piece.start, piece.end)
        for batch in self._batches(piece for piece in pieces if not piece.direct):
            if any(file.in_flight_overlaps(piece.start, piece.end) for piece in batch):
                await file.wait_landed()
            await self._ledger.admit()
            # A truncate or another write may have come while we waited: only what is still dirty and whole goes.
            still = [piece for piece in batch if file.dirty.holds(piece.start, piece.end)]
            if still and not any(file.in_flight_overlaps(piece.start, piece.end) for piece in still):
                self._commit_logged(file, still)
            await trio.lowlevel.checkpoint()

    def _batches(self, pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
        batch: list[Piece] = []
        size = 0
        for piece in pieces:
            is_full = size + piece.end - piece.start > self._payload_bytes_max or len(batch) == BATCH_PIECES_MAX
            if batch and is_full:
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += piece.end - piece.start
        if batch:
            yield batch

    async def _send_full_stripes(self, file: OpenFile) -> None:
        """Send every full stripe that is dirty, from the start of each run; the last bytes wait for more."""
        for run in file.dirty.runs():
            start = run.offset
            while run.end - start >= self._stripe_bytes:
                await self._send_stripe(file, start, start + self._stripe_bytes)
                start += self._stripe_bytes
        file.next_cut = file.dirty.size + self._stripe_bytes

    async def _send_stripe(self, file: OpenFile, start: int, end: int) -> None:
        """Take a dirty range out of the map and start writing it, when there is a slot and no older version of it."""
        assert self._nursery is not None, "nothing is written before ``connect``"
        borrower = object()
        await self._slots.acquire_on_behalf_of(borrower)
        try:
            await self._ledger.wait_changes_go()
            while file.in_flight_overlaps(start, end):
                await file.idle.wait()
                await self._ledger.wait_changes_go()
        except BaseException:
            self._slots.release_on_behalf_of(borrower)
            raise
        if not file.dirty.holds(start, end):
            self._slots.release_on_behalf_of(borrower)
            return
        run = file.dirty.take(start, end)
        file.in_flight.append(run)
        self.in_flight_bytes += run.size
        self._nursery.start_soon(self._write_stripe, file, run, borrower)

    async def _write_stripe(self, file: OpenFile, run: Run, borrower: object) -> None:
        try:
            await self._store(file, run)
        except SiltstoneError as error:
            if not isinstance(error, NotFound) and self.files.get(file.ino) is file:
                # The bytes stay dirty, under whatever was written over them since, and are tried again.
                before = file.dirty.size
                file.dirty.write_under(run)
                self.dirty_bytes += file.dirty.size - before
                file.error = error
        finally:
            self._slots.release_on_behalf_of(borrower)
            self.dirty_bytes -= run.size
            self.in_flight_bytes -= run.size
            file.landed(run)
            self._forget_clean(file)

    async def _store(self, file: OpenFile, run: Run) -> None:
        """Write a run to stripes and commit it; or through the log, where there are too few disks for a stripe."""
        stripes = self._ledger.stripes
        runs, tier = [stripe_store.Run(run.buffers, run.size)], stripe_store.Tier.DIRECT
        write = partial(stripes.write_runs, runs, tier=tier, written=self._ledger.now_s())
        try:
            try:
                written = await write()
            except NoSpace:
                # It was let in: the bytes wait for somebody to make room before they are an error.
                await self._ledger.wait_for_rows(run.size)
                written = await write()
        except TooFewDisks:
            if self._ledger.log.statistics().is_stalled:
                raise
            await self._log_run(file, run)
            return
        try:
            self._commit_stripes(file, run, written)
        except BaseException:
            for piece in written:
                stripes.abandon(piece.written)
            raise

    async def _log_run(self, file: OpenFile, run: Run) -> None:
        """Commit a large run through the log, which needs fewer disks than a stripe; it settles when they are back."""
        data = memoryview(joined(run))
        step = min(self._payload_bytes_max, self._stripe_bytes)
        for start in range(0, run.size, step):
            await self._ledger.admit()
            transaction = self._ledger.begin()
            inode = inodes.get_inode(transaction, file.ino)
            freed: list[FreedStripe] = []
            self._put_logged(transaction, file, inode, run.offset + start, data[start : start + step], freed)
            self._put_changed(transaction, file, inode)
            self._ledger.commit(transaction, freed)
            self._ledger.owed_bytes += len(data[start : start + step])
        self._departures += 1

    # --- committing ------------------------------------------------------------------------------------------------

    def _commit_logged(self, file: OpenFile, pieces: list[Piece]) -> None:
        """One batch that carries the pieces' bytes. Plain: atomic between tasks."""
        transaction = self._ledger.begin()
        inode = inodes.get_inode(transaction, file.ino)
        freed: list[FreedStripe] = []
        for piece in pieces:
            run = file.dirty.take(piece.start, piece.end)
            self._put_logged(transaction, file, inode, run.offset, joined(run), freed)
            self.dirty_bytes -= run.size
        self._departures += 1
        self._put_changed(transaction, file, inode)
        self._ledger.commit(transaction, freed)

    def _put_logged(
        self,
        transaction: Transaction,
        file: OpenFile,
        inode: Inode,
        offset: int,
        data: Buffer,
        freed: list[FreedStripe],
    ) -> None:
        """Add bytes of a file to a batch that carries them itself."""
        size = len(data)
        self.logged_bytes += size
        self._ledger.note_logged(size)
        if size <= INLINE_BYTES_MAX:
            extent = Extent(size, Place.INLINE, blob=bytes(data))
        else:
            extent = Extent(size, Place.LOG, transaction.attach(data), 0, size, payload_checksums(data))
        extents.replace_range(transaction, file.ino, inode, offset, offset + size, [(offset, extent)], freed)

    def _commit_stripes(self, file: OpenFile, run: Run, written: Sequence[stripe_store.Piece]) -> None:
        """The batch that points at stripes whose units are flushed. Plain: atomic between tasks."""
        transaction = self._ledger.begin()
        inode = inodes.get_inode(transaction, file.ino)
        freed: list[FreedStripe] = []
        self.direct_bytes += run.size
        stripes = [piece.written for piece in written]
        self._ledger.put_written(transaction, stripes)
        placed = [
            (run.offset + piece.offset, Extent(piece.written.stripe.data_bytes, Place.STRIPE, piece.written.stripe_id))
            for piece in written
        ]
        extents.replace_range(transaction, file.ino, inode, run.offset, run.end, placed, freed)
        self._put_changed(transaction, file, inode)
        self._ledger.commit(transaction, freed, stripes)
        self._departures += 1

    def _put_changed(self, transaction: Transaction, file: OpenFile, inode: Inode) -> None:
        """The inode after its data changed: times of the last write, and no digest that S3 had of the old bytes."""
        inode.mtime_ns = file.mtime_ns
        inode.ctime_ns = max(inode.ctime_ns, file.ctime_ns)
        objects.forget_digests(transaction, file.ino, inode)
        inodes.put_inode(transaction, file.ino, inode)

    def _cut(self, file: OpenFile, size: int) -> bool:
        """One step of a truncate: commits it when little is left to remove, otherwise removes from the end."""
        before = file.dirty.size
        file.dirty.truncate(size)
        self.overwrites.note(file.ino, size)
        self._departures += 1
        self.dirty_bytes += file.dirty.size - before
        if size > file.size:
            self._reserve(file, size)
        transaction = self._ledger.begin()
        inode = inodes.get_inode(transaction, file.ino)
        freed: list[FreedStripe] = []
        done = extents.truncate(transaction, file.ino, inode, size, freed, limit=TRUNCATE_STEP_EXTENTS)
        file.mtime_ns = file.ctime_ns = self._ledger.clock.now_ns()
        self._put_changed(transaction, file, inode)
        self._ledger.commit(transaction, freed)
        file.size = inode.size
        self._ledger.usage.release(file.ino)
        return done

    # --- bookkeeping -----------------------------------------------------------------------------------------------

    def _track(self, ino: Ino) -> OpenFile:
        inode = inodes.get_inode(self._ledger.store, ino)
        if inode.is_directory:
            raise IsADirectory(f"inode {ino} is a directory")
        if not inode.is_file:
            raise InvalidArgument(f"inode {ino} is not a regular file")
        inodes.check_writable(ino, inode)
        file = OpenFile(ino, inode, self._ledger.clock.now_ns())
        file.is_locked = self._is_locked(ino, inode)
        file.check_unlocked()
        self.files[ino] = file
        file.changed_ns = self._ledger.clock.monotonic_ns()
        self._tracked.set()
        return file

    def _is_locked(self, ino: Ino, inode: Inode) -> bool:
        return bool(inode.flags & InodeFlag.HAS_LOCK) and is_locked(
            objects.get_object(self._ledger.store, ino, inode), self._ledger.clock.now_ns()
        )

    async def _lock(self, ino: Ino) -> OpenFile:
        """The file, with its lock held by the caller, and still the one that ``files`` has."""
        while True:
            if ino not in self.files:
                self._track(ino)
            file = await self._lock_known(ino)
            if file is not None:
                file.home = None
                return file

    async def _lock_known(self, ino: Ino) -> OpenFile | None:
        """The same, but None if nothing is known of it (any more): it was flushed, or purged, meanwhile."""
        while (file := self.files.get(ino)) is not None:
            await file.lock.acquire()
            if self.files.get(ino) is file:
                return file
            file.lock.release()
        return None

    def _forget_clean(self, file: OpenFile) -> None:
        is_clean = not file.dirty.size and not file.in_flight and not file.lock.locked() and file.error is None
        # It may have been forgotten already, and another have come, with bytes of its own.
        if is_clean and self.files.get(file.ino) is file:
            del self.files[file.ino]
            self._ledger.usage.release(file.ino)

    def _reserve(self, file: OpenFile, size: int) -> None:
        """Let a file grow to a size. Raises QuotaExceeded."""
        try:
            self._ledger.usage.reserve(file.ino, size - file.size, file.home)
        except QuotaExceeded:
            self._forget_clean(file)
            raise

    def grown(self) -> Iterator[tuple[Ino, int]]:
        """By how many bytes files will grow with what is not committed yet."""
        for file in self.files.values():
            inode = inodes.find_inode(self._ledger.store, file.ino)
            if inode is not None and file.size > inode.size:
                yield file.ino, file.size - inode.size

    def _raise_error(self, file: OpenFile) -> None:
        if file.error is not None:
            error, file.error = file.error, None
            raise error

    async def _drain(self) -> None:
        """Wait until some dirty bytes have left the memory, be others faster in adding some; raises what keeps them."""
        self.waits += 1
        before = self._departures
        failure: SiltstoneError | None = None
        for file in list(self.files.values()):
            try:
                await self.flush(file.ino)
            except SiltstoneError as error:
                # Not only this writer's trouble: whoever writes to that file hears of it too.
                file.error = failure = error
            if self._departures != before:
                return
        if failure is not None:
            raise failure
        await trio.lowlevel.checkpoint()
