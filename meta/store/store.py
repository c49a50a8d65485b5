"""The metadata store: ordered keys and values with transactions; every commit is one frame of the log.

Reads look at the active memtable, then at the frozen one (being applied), then at the backing. A commit is plain, so
nothing runs between its check and its merge: it is visible on return, durable when the log is durable up to the LSN it
returned. A background task freezes the active memtable when it is old or big enough, waits until its frames are
durable, and applies it to the backing together with ``applied_lsn``; a restart replays only what comes after.

After any crash the backing holds the state at ``applied_lsn``, a prefix of the log that was durable; with the log's
durable rest replayed over it the store is exactly the state after that prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import trio

from siltstone.errors import Unavailable, VolumeClosed
from siltstone.limits import DISK_TIMEOUT_SECONDS, MIB
from siltstone.meta.store.batch import decode_batch
from siltstone.meta.store.memtable import MISSING, Memtable
from siltstone.meta.store.port import CHUNK_MAX, FIRST_CHUNK, Backing, BackingSpace, Chunk, LogPort
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Buffer, Lsn

MEMTABLE_BYTES_MAX = 16 * MIB
"""The active memtable is frozen when it takes so much memory: some 50,000 entries, 0.1 s of work for LMDB."""

LOOKS = 8
"""Who waits for the backing looks so often within its limit whether it still answers."""


def ignore(writes: Mapping[bytes, bytes | None]) -> None:
    """For who need not hear of a batch."""


Watcher = Callable[[Mapping[bytes, bytes | None]], None]
"""Called with what a batch writes, None for a delete. Must neither change it nor raise."""


class StoreStatistics(NamedTuple):
    """Counts since the store was opened, and how it stands."""

    commits: int
    conflicts: int
    applies: int
    applied_entries: int
    memtable_entries: int
    memtable_bytes: int
    last_lsn: Lsn
    applied_lsn: Lsn
    space: BackingSpace


class Store:
    """The committed state. Every plain method is atomic between tasks.

    To open one: make it on its backing, ``replay`` the batches of the log's durable frames behind ``applied_lsn`` in
    order, ``connect`` the log, start ``run``.
    """

    def __init__(
        self,
        backing: Backing,
        *,
        apply_interval: float = 1.0,
        memtable_bytes_max: int = MEMTABLE_BYTES_MAX,
        limit_seconds: float = DISK_TIMEOUT_SECONDS,
    ) -> None:
        """``apply_interval``: seconds after which a commit is applied at the latest (and made durable with that).

        ``limit_seconds``: when the backing takes longer for an apply, nobody waits for it any more.
        """
        self._backing = backing
        self._apply_interval = apply_interval
        self._memtable_bytes_max = memtable_bytes_max
        self._limit_seconds = limit_seconds
        self._log: LogPort | None = None
        self._applied_lsn = backing.applied_lsn
        self._active = Memtable(self._applied_lsn)
        self._frozen: Memtable | None = None
        self._failure: BaseException | None = None
        self._applying = trio.Lock()
        self._written = trio.Event()  # the active memtable is not empty, or the store has failed
        self._big = trio.Event()  # the active memtable is at its limit, or the store has failed
        self._room = trio.Event()  # the frozen memtable is gone, or the store has failed
        self._is_running = False
        self._applying_since: float | None = None  # by trio's clock; None while the backing has nothing to do
        self._apply_scope = trio.CancelScope()
        self._watchers: list[Watcher] = []
        self.keeps_notes = True
        """Whether batches say what they changed (meta/notes.py)."""
        self.keeps_trash = False
        """Whether what loses its last name is kept for a time (meta/trash.py)."""
        self.derive: Callable[[], Mapping[bytes, bytes | None]] = dict
        """Records that follow from the others, and are not in the log: what is to be applied with the memtable that is
        about to be, as of its last batch. Called in the turn in which that is set apart."""
        self.before_replay: Watcher = ignore
        """Called with each batch of the log that is about to be merged, before anything shows it."""
        self.commit_count = 0
        self.conflict_count = 0
        self._applies = 0
        self._applied_entries = 0

    # --- opening ---------------------------------------------------------------------------------------------------

    def replay(self, end_lsn: Lsn, body: Buffer) -> None:
        """Take in the batch of a durable frame that ends at ``end_lsn``; one that is applied already is skipped.

        Raises FormatInvalid when the body is not a batch.
        """
        assert self._log is None, "replay comes before the log is connected"
        if end_lsn > self._applied_lsn:
            writes = decode_batch(body)
            self.before_replay(writes)
            self._merge(writes, end_lsn)

    def connect(self, log: LogPort) -> None:
        """From now on commits go to this log, which starts behind everything that was replayed."""
        assert self._log is None
        assert log.next_lsn >= self.last_lsn, f"the log ends at {log.next_lsn}, the store is at {self.last_lsn}"
        self._log = log

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher`` with every batch from now on, right when it is visible: nothing reads in between."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Call it no more."""
        self._watchers.remove(watcher)

    # --- reading ---------------------------------------------------------------------------------------------------

    def owns(self, key: bytes) -> bool:
        """All its records are its own (see Reader)."""
        return True

    @property
    def is_settled(self) -> bool:
        """It does not know of other shards (see Reader)."""
        return True

    def expect(self, wanted: Iterable[bytes | tuple[bytes, bytes]]) -> None:
        """Nothing is to be fetched (see Reader)."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None when there is none."""
        value = self._active.values.get(key, MISSING)
        if value is MISSING:
            if self._frozen is not None:
                value = self._frozen.values.get(key, MISSING)
                if value is not MISSING:
                    return value
            return self._backing.get(key)
        return value

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, expected: int = FIRST_CHUNK
    ) -> Iterator[tuple[bytes, bytes]]:
        """The entries with start <= key < end, in order or against it (see Reader)."""
        limit = min(max(expected, FIRST_CHUNK), CHUNK_MAX)
        chunk = self.read_chunk(start, end, reverse, limit)
        return iter(chunk.entries) if chunk.rest is None else self._scan_on(chunk, reverse, limit)

    def _scan_on(self, chunk: Chunk, reverse: bool, limit: int) -> Iterator[tuple[bytes, bytes]]:
        while True:
            yield from chunk.entries
            if chunk.rest is None:
                return
            limit = min(4 * limit, CHUNK_MAX)
            chunk = self.read_chunk(*chunk.rest, reverse, limit)

    def read_chunk(self, start: bytes, end: bytes, reverse: bool, limit: int) -> Chunk:
        """The first part of a scan: about ``limit`` entries, fewer (none, even) where many were deleted."""
        entries = self._backing.scan(start, end, reverse=reverse, limit=limit)
        bounds = [entries[-1][0]] if len(entries) >= limit else []
        low, high = start, end
        if bounds:
            # What lies behind is left to the next chunk: not even looked for, since there may be much of it.
            low, high = (bounds[0], end) if reverse else (start, bounds[0] + b"\0")
        merged: dict[bytes, bytes | None] | None = None
        for table in (self._frozen, self._active):
            if table is None or not (keys := table.keys(low, high, reverse, limit)):
                continue
            if len(keys) >= limit:
                bounds.append(keys[-1])
            if merged is None:
                merged = dict(entries)
            values = table.values
            for key in keys:
                merged[key] = values[key]
        # Behind the nearest bound one of the sources was cut off, so that the others may not speak there.
        bound = None if not bounds else max(bounds) if reverse else min(bounds)
        if merged is not None:
            entries = [(key, value) for key in sorted(merged, reverse=reverse) if (value := merged[key]) is not None]
        if bound is None:
            return Chunk(entries, None)
        if reverse:
            while entries and entries[-1][0] < bound:
                entries.pop()
            return Chunk(entries, (start, bound))
        while entries and entries[-1][0] > bound:
            entries.pop()
        return Chunk(entries, (bound + b"\0", end))

    def read_applied(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first entries of a range as they are in the backing, as of ``applied_lsn``: about ``limit``, fewer only
        where there are fewer."""
        return self._backing.scan(start, end, reverse=False, limit=limit)

    async def warm(self) -> None:
        """Before ``read_applied`` of everything: see Backing."""
        await self._backing.warm()

    # --- writing ---------------------------------------------------------------------------------------------------

    def begin(self) -> Transaction:
        """Start a transaction. It costs nothing to drop one."""
        return Transaction(self)

    @property
    def log(self) -> LogPort:
        """The log that commits go to. Raises VolumeClosed when the store has stopped."""
        if self._failure is not None:
            raise VolumeClosed(f"the metadata store has stopped: {self._failure}") from self._failure
        assert self._log is not None, "no log is connected yet"
        return self._log

    def merge(self, writes: Mapping[bytes, bytes | None], end_lsn: Lsn) -> None:
        """Make a batch visible whose frame was appended in the same breath. Called by Transaction.commit."""
        self.commit_count += 1
        self._merge(writes, end_lsn)

    def _merge(self, writes: Mapping[bytes, bytes | None], end_lsn: Lsn) -> None:
        active = self._active
        active.update(writes, end_lsn)
        for watcher in self._watchers:
            watcher(writes)
        if not self._written.is_set():
            self._written.set()
        if active.size_bytes >= self._memtable_bytes_max and not self._big.is_set():
            self._big.set()

    # --- applying --------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Apply in the background, for ever.

        Raises what the log or the backing raised when one of them failed; the store has stopped then: it can be read,
        and commits raise VolumeClosed with the reason.
        """
        self._is_running = True
        task_status.started()
        try:
            while True:
                await self._written.wait()
                with trio.move_on_after(self._apply_interval):
                    await self._big.wait()
                await self._apply()
        finally:
            self._is_running = False

    async def checkpoint(self) -> None:
        """Return when everything committed before the call is in the backing. Raises what ``run`` raises, and
        Unavailable when the backing gives no answer."""
        target = self.last_lsn
        while self._applied_lsn < target:
            if not self._is_running:
                await self._apply()
                continue
            # Not in this task: what hangs would keep it for ever.
            self._written.set()
            self._big.set()
            await self._wait_applied()

    async def wait_room(self) -> None:
        """Return when there is no ``pressure``. Raises VolumeClosed when the store has stopped, Unavailable when the
        backing gives no answer."""
        while self.pressure:
            await self._wait_applied()

    async def wait_quiet(self) -> None:
        """The same for who commits much and is in no hurry: it leaves others half of a memtable while one is applied,
        so that they need not wait for what it has committed."""
        while self._frozen is not None and self._active.size_bytes >= self._memtable_bytes_max // 2:
            await self._wait_applied()

    async def _wait_applied(self) -> None:
        """Return when the frozen memtable is gone, or after some time. Raises as ``wait_room`` does."""
        if self._failure is not None:
            raise VolumeClosed(f"the metadata store has stopped: {self._failure}") from self._failure
        if self.stuck_because:
            raise Unavailable(self.stuck_because)
        self._room = self._room if not self._room.is_set() else trio.Event()
        with trio.move_on_after(self._limit_seconds / LOOKS):
            await self._room.wait()

    @property
    def stuck_because(self) -> str:
        """What to say when the backing has given no answer for its limit; empty as long as that is not so."""
        since = self._applying_since
        seconds = 0.0 if since is None else trio.current_time() - since
        if seconds < self._limit_seconds:
            return ""
        return (
            f"the metadata in HOME could not be written for {seconds:.0f} s: does the disk that HOME is on hang? What "
            "was acknowledged is safe in the log on the volume's disks; it goes on when HOME answers"
        )

    def abandon(self) -> None:
        """Let a backing that gives no answer be: from now on ``run`` can be cancelled in the middle of an apply. The
        log has what the backing lacks."""
        self._apply_scope.shield = False

    async def close(self) -> None:
        """Apply what is left, unless the store has failed, and close the backing. No calls after that."""
        try:
            if self._failure is None:
                await self.checkpoint()
        finally:
            self._backing.close()

    async def _apply(self) -> None:
        async with self._applying:
            if self._failure is not None:
                raise VolumeClosed(f"the metadata store has stopped: {self._failure}") from self._failure
            table = self._freeze()
            if table is None:
                self._written, self._big = trio.Event(), trio.Event()  # somebody was in too much of a hurry
                return
            try:
                await self.log.wait_durable(table.end_lsn)
                self._applying_since = trio.current_time()
                with trio.CancelScope(shield=True) as self._apply_scope:
                    await self._backing.apply(table.items(), table.end_lsn)
            except Exception as error:
                self._applying_since = None
                self._fail(error)
                raise
            # No checkpoint since the backing shows the new state: reads never miss both it and the memtable.
            self._applying_since = None
            self._frozen = None
            self._applied_lsn = table.end_lsn
            self._applies += 1
            self._applied_entries += len(table)
            self._room.set()

    def _freeze(self) -> Memtable | None:
        """The memtable to apply: the frozen one if an earlier attempt was cancelled, else the active one, if any."""
        if self._frozen is None and self._active.end_lsn > self._applied_lsn:
            self._frozen = self._active
            # Frames of others that came behind the last batch are passed as well, so that segments can be retired.
            self._frozen.end_lsn = self.log.next_lsn
            self._frozen.update(self.derive(), self._frozen.end_lsn)
            self._active = Memtable(self._frozen.end_lsn)
            self._written = trio.Event()
            self._big = trio.Event()
        return self._frozen

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        for event in (self._written, self._big, self._room):
            event.set()

    # --- how it stands ---------------------------------------------------------------------------------------------

    @property
    def last_lsn(self) -> Lsn:
        """The end of the last frame that was committed or replayed."""
        return self._active.end_lsn

    @property
    def applied_lsn(self) -> Lsn:
        """Every batch before this is in the backing, durably; the log is not needed for them."""
        return self._applied_lsn

    @property
    def memtable_bytes(self) -> int:
        """Memory that commits take until they are applied, about."""
        return self._active.size_bytes + (0 if self._frozen is None else self._frozen.size_bytes)

    @property
    def pressure(self) -> bool:
        """Whether writers should ``wait_room``: a memtable is being applied and the next one is full already."""
        return self._frozen is not None and self._active.size_bytes >= self._memtable_bytes_max

    def statistics(self) -> StoreStatistics:
        """How it stands."""
        return StoreStatistics(
            commits=self.commit_count,
            conflicts=self.conflict_count,
            applies=self._applies,
            applied_entries=self._applied_entries,
            memtable_entries=len(self._active) + (0 if self._frozen is None else len(self._frozen)),
            memtable_bytes=self.memtable_bytes,
            last_lsn=self.last_lsn,
            applied_lsn=self._applied_lsn,
            space=self._backing.space(),
        )


__all__ = ["MEMTABLE_BYTES_MAX", "Store", "StoreStatistics", "Transaction"]
