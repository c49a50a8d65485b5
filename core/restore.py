"""Filling an empty metadata store from the snapshots on a volume's disks, when HOME is lost.

Afterwards the store is where the increments end, and opening the volume runs the log over it, as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from siltstone.core.snapshot_plan import chain_of
from siltstone.core.types import Progress, ProgressListener
from siltstone.engine.format.snapshot import SnapshotKind
from siltstone.engine.snapshot.copies import Snapshot, SnapshotFrame
from siltstone.engine.snapshot.files import SnapshotFiles
from siltstone.errors import Corrupt, FormatInvalid
from siltstone.limits import MIB
from siltstone.meta import keys
from siltstone.meta.snapshot import unpack_batches, unpack_entries
from siltstone.meta.store.batch import decode_batch
from siltstone.meta.store.port import Backing
from siltstone.types import Lsn

APPLY_BYTES = 16 * MIB
"""Keys and values that go into the store together, about."""

Warn = Callable[[str], None]


class Restored(NamedTuple):
    """What a store was filled from. ``end``: the volume's log must reach this LSN, or the store is no state of it."""

    full: Snapshot | None
    increments: int
    applied_lsn: Lsn
    end: Lsn
    entries: int


async def restore(
    files: SnapshotFiles, backing: Backing, warn: Warn, progress: ProgressListener | None = None
) -> Restored:
    """Fill an empty backing from the newest full snapshot that can be read whole and the increments behind it.

    ``warn`` is told of those that cannot be read. Raises Corrupt when an increment that is needed cannot be read.
    """
    await files.look()
    full = await _newest_whole(files, warn)
    start = Lsn(0) if full is None else full.name.start
    chain = chain_of(files.snapshots, start)
    loader = _Loader(files, backing, sum(snapshot.size for snapshot in ([full] if full else []) + chain), progress)
    if full is not None:
        await loader.load_full(full)
    for increment in chain:
        await loader.load_increment(increment)
    applied_lsn = chain[-1].name.end if chain else start
    await loader.finish(applied_lsn)
    end = applied_lsn if full is None else max(applied_lsn, full.name.end)
    return Restored(full, len(chain), applied_lsn, end, loader.entries)


async def _newest_whole(files: SnapshotFiles, warn: Warn) -> Snapshot | None:
    """The newest full snapshot of which every frame is sound somewhere."""
    fulls = [snapshot for snapshot in files.snapshots if snapshot.name.kind is SnapshotKind.FULL]
    for full in sorted(fulls, key=lambda full: (full.name.start, full.name.end), reverse=True):
        try:
            await files.check(full)
        except (Corrupt, FormatInvalid) as error:
            warn(f"the snapshot of LSN {full.name.start} is damaged, the one before it is used: {error}")
        else:
            return full
    return None


class _Loader:
    """Puts what frames hold into a backing, some megabytes in one go."""

    def __init__(
        self, files: SnapshotFiles, backing: Backing, total_bytes: int, progress: ProgressListener | None
    ) -> None:
        self._files = files
        self._backing = backing
        self._progress = progress
        self._done_bytes = 0
        self._total_bytes = total_bytes
        self._gathered: dict[bytes, bytes | None] = {}
        self._gathered_bytes = 0
        self.entries = 0

    async def load_full(self, snapshot: Snapshot) -> None:
        """Every key of a full snapshot."""
        await self._load(snapshot, lambda frame: unpack_entries(frame.body))
        await self._apply(Lsn(0))  # what increments say of a key must come behind

    async def load_increment(self, snapshot: Snapshot) -> None:
        """Every batch of an increment, in order."""

        def changes(frame: SnapshotFrame) -> Iterable[tuple[bytes, bytes | None]]:
            for batch in unpack_batches(frame.body):
                yield from decode_batch(batch.body).items()

        await self._load(snapshot, changes)

    async def finish(self, applied_lsn: Lsn) -> None:
        """All of it is in the backing, durably, as of this LSN."""
        self._gathered[keys.USAGE_STATE] = None  # a snapshot is no state of one moment: it is counted anew
        await self._apply(applied_lsn)

    async def _load(
        self, snapshot: Snapshot, changes_in: Callable[[SnapshotFrame], Iterable[tuple[bytes, bytes | None]]]
    ) -> None:
        reader = self._files.reader(snapshot)
        while (frame := await reader.next_frame()) is not None:
            self.entries += frame.items
            self._gathered.update(changes_in(frame))
            self._gathered_bytes += len(frame.body)
            if self._gathered_bytes >= APPLY_BYTES:
                await self._apply(Lsn(0))
            if self._progress is not None:
                self._progress(
                    Progress(min(self._done_bytes + reader.position, self._total_bytes), self._total_bytes, "bytes")
                )
        self._done_bytes += snapshot.size

    async def _apply(self, applied_lsn: Lsn) -> None:
        changes, self._gathered, self._gathered_bytes = self._gathered, {}, 0
        await self._backing.apply(sorted(changes.items()), applied_lsn)
