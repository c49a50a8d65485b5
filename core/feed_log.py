"""Reading batches back: from increments what the log has let go of, from the log the rest.

What is read is behind an LSN, up to another, and nothing before: an increment or a segment is read from the frame on
that matters, or skipped through to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from siltstone.core.ledger import Ledger
from siltstone.core.snapshots import Snapshots
from siltstone.engine.format.snapshot import SnapshotKind
from siltstone.engine.snapshot.copies import Snapshot
from siltstone.errors import InvalidArgument, LogDamaged, OutsideWindow
from siltstone.meta import keys
from siltstone.meta.notes import is_noted
from siltstone.meta.snapshot import unpack_batches
from siltstone.meta.store.batch import decode_batch
from siltstone.meta.store.port import BATCH_KIND
from siltstone.types import Lsn

_OF_SHARDS = frozenset((keys.INTENTS, keys.DECISIONS, keys.MOVED, keys.STAGED))


class LoggedChanges(NamedTuple):
    """What a batch wrote, and where its frame of the log ended."""

    end_lsn: Lsn
    batch: Mapping[bytes, bytes | None]


class FeedLog:
    """See the module."""

    def __init__(self, ledger: Ledger, snapshots: Snapshots) -> None:
        self._ledger = ledger
        self._snapshots = snapshots

    @property
    def start(self) -> Lsn:
        """Everything behind this LSN can be read."""
        start = self._ledger.log.unbroken_start
        for increment in sorted(self._increments(), key=lambda item: item.name.end, reverse=True):
            if increment.name.end >= start:
                start = min(start, increment.name.start)
        return start

    def check(self, after: Lsn) -> None:
        """Raise OutsideWindow unless everything behind an LSN can be read, InvalidArgument if it is yet to come."""
        if after > self._ledger.log.next_lsn:
            raise InvalidArgument(f"LSN {after} is yet to come: the log ends at {self._ledger.log.next_lsn}")
        if after < self.start:
            raise OutsideWindow(
                f"changes behind LSN {after} are not kept any more, only those behind {self.start}: read the tree anew "
                "and go on from an LSN that was current when that began"
            )

    async def batches(self, after: Lsn, until: Lsn) -> AsyncIterator[LoggedChanges]:
        """Every batch that ends in (after, until], in order; ``until`` is durable, and the end of one.

        Raises OutsideWindow, also where something was not noted; InvalidArgument when no batch ends at ``after``;
        Corrupt.
        """
        lsn = after
        while lsn < until:
            increment = self._increment_at(lsn)
            if increment is not None:
                async for changes in self._in_increment(increment, lsn):
                    if changes.end_lsn > until:
                        return
                    yield changes
                lsn = increment.name.end
                continue
            self.check(lsn)
            try:
                frames = await self._ledger.log.frames(lsn)
            except LogDamaged as error:
                if lsn == after:
                    raise InvalidArgument(f"no change ends at LSN {lsn} ({error})") from error
                raise
            if frames is None:
                # A segment was let go of meanwhile, and an increment has taken it over.
                if self._increment_at(lsn) is None:
                    raise OutsideWindow(f"the log has nothing at LSN {lsn}; it goes on at {self.start}")
                continue
            for frame in frames:
                lsn = frame.end_lsn
                if lsn > until:
                    return
                if frame.kind == BATCH_KIND:
                    yield check_noted(LoggedChanges(lsn, decode_batch(frame.body)))

    async def _in_increment(self, increment: Snapshot, after: Lsn) -> AsyncIterator[LoggedChanges]:
        reader = self._snapshots.files.reader(increment)
        while (frame := await reader.next_frame()) is not None:
            for batch in unpack_batches(frame.body):
                if batch.end_lsn > after:
                    yield check_noted(LoggedChanges(batch.end_lsn, decode_batch(batch.body)))

    def _increments(self) -> list[Snapshot]:
        return [
            item
            for item in self._snapshots.files.snapshots
            if item.name.kind is SnapshotKind.INCREMENT and not item.is_rotten
        ]

    def _increment_at(self, lsn: Lsn) -> Snapshot | None:
        found = [item for item in self._increments() if item.name.start <= lsn < item.name.end]
        return max(found, key=lambda item: item.name.end, default=None)


def check_noted(changes: LoggedChanges) -> LoggedChanges:
    """The same; raises OutsideWindow for a batch that changes names or inodes and does not say what they were."""
    batch = changes.batch
    if not _OF_SHARDS.isdisjoint(key[:2] for key in batch):
        raise OutsideWindow(f"at LSN {changes.end_lsn} the volume is spread over shards: a feed begins behind that")
    if keys.NOTE not in batch and any(map(is_noted, batch)):
        raise OutsideWindow(f"the change at LSN {changes.end_lsn} is not noted (an older siltstone?): begin behind it")
    return changes
