"""The change feed: what was done below a path, in order, to whoever watches it (docs/decisions/0030).

One task, the tailer, follows the batches for all watchers together: it has them made durable, derives what they did,
encodes that once, and hands each watcher the same bytes. A watcher that begins in the past, or that does not take what
it is handed, reads the log by itself until it has caught up. While nobody watches nothing here runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

import trio

from siltstone.core.feed_encoding import FeedEncoder, encode_mark
from siltstone.core.feed_log import FeedLog, LoggedChanges, check_noted
from siltstone.core.feed_places import Places, Relocations
from siltstone.core.ledger import Ledger
from siltstone.core.snapshots import Snapshots
from siltstone.errors import OutsideWindow, SiltstoneError
from siltstone.limits import KIB, MIB
from siltstone.meta import keys
from siltstone.meta.changes import tree_changes
from siltstone.meta.notes import read_note
from siltstone.meta.records import Inode
from siltstone.types import Ino, Lsn

PACE_SECONDS = 0.005
"""Between a change and the round that tells of it: what comes meanwhile shares its flush and its write,"""

PACE_SECONDS_A_WATCHER = 0.0001
"""and longer with many watchers, each of whom costs a write in each round."""

RING_BYTES = 8 * MIB
"""What the rounds of the last time take that watchers may still want. Who is further behind reads the log."""

SEND_BYTES = 256 * KIB
"""A watcher that reads the log is sent so much at a time."""

MARK_SECONDS = 10.0
"""A watcher that was told of nothing for so long is told how far it is, so that it need not go on from long ago."""

RETRY_SECONDS = 1.0


class Sink(Protocol):
    """Where a watcher's bytes go."""

    def send_nowait(self, data: bytes) -> int:
        """Take as many of the bytes as there is room for: how many. Raises nothing: what is gone takes all."""

    async def send_all(self, data: bytes) -> None:
        """Take all of them. Raises trio.BrokenResourceError when whoever wanted them is gone."""


class Round(NamedTuple):
    """What the tailer did in one go: up to ``end``, for each path that was watched the events below it."""

    end: Lsn
    events: Mapping[bytes, bytes]


class FeedStatus(NamedTuple):
    """How the feed stands. ``start``: changes behind this LSN can still be read."""

    watchers: int
    start: Lsn
    end: Lsn
    rounds: int
    catch_ups: int
    """How often a watcher read the log."""


class Watcher:
    """One that watches. ``rest``: what it has not taken of a round yet."""

    def __init__(self, path: bytes, sink: Sink, position: Lsn) -> None:
        self.path = path
        self.sink = sink
        self.position = position
        self.is_live = False
        self.rest = b""
        self.failure: SiltstoneError | None = None
        self.marked = Lsn(-1)
        self.wake = trio.Event()


class Feed:
    """See the module."""

    def __init__(self, ledger: Ledger, snapshots: Snapshots) -> None:
        self._ledger = ledger
        self.log = FeedLog(ledger, snapshots)
        self._count = 0
        """Those who watch, or are about to."""
        self._watchers: dict[bytes, set[Watcher]] = {}
        self._pending: deque[LoggedChanges] = deque()
        self._behind: list[Relocations] = []
        """Those of watchers that read the log: told of each batch."""
        self._ring: deque[Round] = deque()
        self._ring_bytes = 0
        self._ring_start = self._position = Lsn(0)
        self._wake = trio.Event()
        self._places = Places(ledger.store, self._earlier)
        self._rounds = self._catch_ups = 0

    def status(self) -> FeedStatus:
        """How it stands."""
        return FeedStatus(self._count, self.log.start, self._ledger.store.last_lsn, self._rounds, self._catch_ups)

    # --- watching --------------------------------------------------------------------------------------------------

    async def watch(self, path: bytes, after: Lsn | None, sink: Sink, *, follow: bool) -> None:
        """Send what is done below ``path`` (empty: everywhere; else a slash before each name) behind an LSN, by default
        from now on, as lines of JSON. Without ``follow`` it ends with what is durable when it has come there.

        Raises OutsideWindow, InvalidArgument; trio.BrokenResourceError when the sink is gone.
        """
        if after is not None:
            self.log.check(after)
        watcher = Watcher(path, sink, self._ledger.store.last_lsn if after is None else after)
        self._begin()
        try:
            await self._ledger.sync()
            # Now the tailer is where the watcher begins, or further: what it tells from here on is news.
            self._make_round()
            self._watchers.setdefault(path, set()).add(watcher)
            try:
                await sink.send_all(encode_mark(watcher.position))
                await self._serve(watcher, follow=follow)
            finally:
                self._watchers[path].remove(watcher)
                if not self._watchers[path]:
                    del self._watchers[path]
        finally:
            self._end()

    async def _serve(self, watcher: Watcher, *, follow: bool) -> None:
        while True:
            if watcher.failure is not None:
                raise watcher.failure
            if watcher.rest:
                rest, watcher.rest = watcher.rest, b""
                await watcher.sink.send_all(rest)
            elif not watcher.is_live:
                if not self._join(watcher):
                    await self._catch_up(watcher)
            elif not follow:
                await self._mark(watcher)
                return
            else:
                watcher.wake = trio.Event()
                with trio.move_on_after(MARK_SECONDS) as scope:
                    await watcher.wake.wait()
                if scope.cancelled_caught and watcher.is_live:
                    await self._mark(watcher)

    async def _mark(self, watcher: Watcher) -> None:
        """Tell a watcher how far it is, if it was told of nothing for long."""
        if watcher.marked != watcher.position:
            watcher.marked = watcher.position
            watcher.is_live = False
            await watcher.sink.send_all(encode_mark(watcher.position))

    def _begin(self) -> None:
        self._count += 1
        if self._count == 1:
            self._ledger.store.keeps_notes = True
            self._pending.clear()
            self._ring.clear()
            self._ring_bytes = 0
            self._ring_start = self._position = self._ledger.store.last_lsn
            self._places = Places(self._ledger.store, self._earlier)
            self._ledger.store.watch(self._note)

    def _end(self) -> None:
        self._count -= 1
        if not self._count:
            self._pending.clear()
            self._ledger.store.unwatch(self._note)

    def _note(self, batch: Mapping[bytes, bytes | None]) -> None:
        """A batch is visible."""
        changes = LoggedChanges(self._ledger.store.last_lsn, batch)
        self._pending.append(changes)
        for relocations in self._behind:
            relocations.add(*changes)
        if not self._wake.is_set():
            self._wake.set()

    def _join(self, watcher: Watcher) -> bool:
        """Let a watcher have what the tailer tells from where it is on, if that is still there."""
        if watcher.position < self._ring_start:
            return False
        rest = [each.events.get(watcher.path) for each in self._ring if each.end > watcher.position]
        if None in rest:
            return False  # when that was told nobody watched this path
        watcher.rest = b"".join(filter(None, rest))
        watcher.position = self._position
        watcher.is_live = not watcher.rest
        return True

    # --- the tailer ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the batches while somebody watches, for ever."""
        clock = self._ledger.clock
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if not self._pending:
                continue
            await clock.sleep(PACE_SECONDS + PACE_SECONDS_A_WATCHER * self._count)
            try:
                await self._ledger.sync()
            except SiltstoneError:
                await clock.sleep(RETRY_SECONDS)  # the log is closing, or waits for disks
            self._make_round()
            if self._pending:
                self._wake.set()

    def _make_round(self) -> None:
        """Tell what is durable. Plain: the store is what the last of the pending batches made of it."""
        durable_lsn = self._ledger.log.durable_lsn
        encoder = FeedEncoder(self._watchers.keys())
        end = self._position
        while self._pending and self._pending[0].end_lsn <= durable_lsn:
            changes = self._pending[0]
            self._tell(encoder, self._places, changes, passed=self._pending.popleft)
            end = changes.end_lsn
        if end == self._position:
            return
        self._rounds += 1
        events = encoder.joined()
        self._position = end
        self._ring.append(Round(end, events))
        self._ring_bytes += sum(map(len, events.values()))
        while self._ring_bytes > RING_BYTES:
            oldest = self._ring.popleft()
            self._ring_bytes -= sum(map(len, oldest.events.values()))
            self._ring_start = oldest.end
        for path, data in events.items():
            for watcher in self._watchers[path]:
                if watcher.is_live:
                    self._hand(watcher, data)

    def _hand(self, watcher: Watcher, data: bytes) -> None:
        watcher.position = self._position
        if not data:
            return
        taken = 0 if watcher.rest else watcher.sink.send_nowait(data)
        if taken < len(data):
            watcher.rest = data[taken:]
            watcher.is_live = False
            watcher.wake.set()

    def _fail(self, error: OutsideWindow) -> None:
        """Nobody can be told what comes: end all."""
        for watcher in chain.from_iterable(self._watchers.values()):
            watcher.failure = error
            watcher.wake.set()

    def _earlier(self, ino: Ino) -> Inode | None:
        """What a directory was when the batch that is told now was made, if one that is pending moved it."""
        key = keys.inode(ino)
        relocations = Relocations()
        for changes in self._pending:
            if key in changes.batch:
                relocations.add(*changes)
        return relocations.at(ino, Lsn(0))

    def _tell(
        self, encoder: FeedEncoder, places: Places, changes: LoggedChanges, *, passed: Callable[[], object]
    ) -> None:
        """Encode what a batch did. ``passed``: called between what is asked of the places before it and behind it."""
        if encoder.add_quickly(changes.end_lsn, changes.batch, places.path):
            passed()
            return
        try:
            check_noted(changes)
        except OutsideWindow as error:
            self._fail(error)
        note = read_note(changes.batch)
        told = [] if note is None else tree_changes(note, changes.batch)
        before = [places.path(change.place) if change.is_before else None for change in told]
        passed()
        places.take(told)
        encoder.add(changes.end_lsn, told, before, places.path)

    # --- the past --------------------------------------------------------------------------------------------------

    async def _catch_up(self, watcher: Watcher) -> None:
        """Send what the log has from where the watcher is to where the tailer is."""
        self._catch_ups += 1
        await self._ledger.log.wait_durable(self._position)
        until, at = self._position, watcher.position  # the tailer never is beyond what is durable
        earlier, later = Relocations(), Relocations()
        for changes in self._pending:
            later.add(*changes)
        self._behind.append(later)
        try:
            async for changes in self.log.batches(watcher.position, until):
                earlier.add(*changes)

            def look(ino: Ino) -> Inode | None:
                return earlier.at(ino, at) or later.at(ino, at)

            def step(end_lsn: Lsn) -> None:
                nonlocal at
                at = end_lsn

            places = Places(self._ledger.store, look)
            encoder = FeedEncoder([watcher.path])
            async for changes in self.log.batches(watcher.position, until):
                self._tell(encoder, places, changes, passed=partial(step, changes.end_lsn))
                if encoder.size >= SEND_BYTES:
                    await watcher.sink.send_all(encoder.joined()[watcher.path])
                    encoder = FeedEncoder([watcher.path])
                    watcher.position = at
            await watcher.sink.send_all(encoder.joined()[watcher.path])
            watcher.position = until
        finally:
            self._behind.remove(later)
