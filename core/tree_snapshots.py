"""Snapshots of trees: made while everybody goes on, of one moment of the log; listed, and deleted.

A tree is copied, what changes meanwhile is followed in rounds (meta/mirror.py), and the last round is one turn of the
loop: it commits what is dirty of the tree, follows what is left, and gives the copies their name. So nobody waits for
longer than that turn, or one of the batches before it. See docs/decisions/0029-snapshots.md.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from siltstone.core.clones import admit_copies
from siltstone.core.types import AttributesChanged, EntryChanged, Progress, ProgressListener
from siltstone.core.volume import Volume
from siltstone.errors import SiltstoneError, Unavailable
from siltstone.meta import keys, tree_snapshots
from siltstone.meta.mirror import Mirror, MirrorBatch, tally
from siltstone.meta.names import SNAPSHOTS_NAME
from siltstone.meta.records import TreeSnapshot, encode
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino

FOLLOW_KEYS = 256
"""Records that one batch follows at the most, and the last one as well: some milliseconds."""

LAST_SCANS = 4
"""Directories that are copied in the last turn, of those that have come since the one before."""

DIRTY_FILES_MAX = 64
"""Files of which the last turn commits what is dirty."""

CLEAN_ATTEMPTS_MAX = 20
"""How often a moment is looked for at which nothing of the tree is dirty that cannot be committed in that turn. Then
the snapshot is of what the log has: of a file that is written in a stream, what has come to the disks."""

ATTEMPTS_MAX = 10_000
"""How often the last turn may find too much that has changed: batches follow faster than changes come."""

PURGE_LOOK_SECONDS = 0.05
HELD_LOOKS = 20
"""How often it is looked whether somebody lets go of what waits to be purged."""


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. ``lsn``: where the log was at its moment, which ``created_ns`` tells as well. ``entries``: files,
    directories and all else in it; ``bytes``: of its files."""

    name: bytes
    lsn: int
    created_ns: int
    entries: int
    bytes: int


class TreeSnapshots:
    """Makes and deletes snapshots in a volume without other shards."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._ledger = volume.ledger

    async def create(self, directory: Ino, name: bytes, progress: ProgressListener | None = None) -> SnapshotInfo:
        """Make a snapshot of a directory with all below it; durable on return.

        It is as the tree was in one turn of the loop after the call began, with all that was written before that.
        Raises NotFound, NotADirectory, ReadOnly (it is in a snapshot), InvalidArgument, NameTooLong, AlreadyExists,
        TooManyLinks, NoSpace, Unavailable; then nothing is there that was not before.
        """
        tree_snapshots.check_new(self._ledger.store, directory, name)
        info = await _Making(self._volume, directory, name, progress).run()
        await self._volume.wait_done()
        return info

    async def list(self, directory: Ino) -> list[SnapshotInfo]:
        """The snapshots of a directory, by name. Raises NotFound, NotADirectory."""
        found = await self._ledger.look(lambda reader: tree_snapshots.list_snapshots(reader, directory))
        return [_info(snapshot.name, snapshot.record) for snapshot in found]

    async def delete(self, directory: Ino, name: bytes) -> int:
        """Delete a snapshot; durable on return. Its space comes back in the background, also after a crash; how many
        inodes are to be purged for that is returned. Raises NotFound, NotADirectory."""
        await self._ledger.admit()
        now_ns = self._ledger.clock.now_ns()

        def change(transaction: Transaction) -> tree_snapshots.Removed:
            return tree_snapshots.remove(transaction, directory, name, now_ns=now_ns)

        def committed(removed: tree_snapshots.Removed) -> None:
            publish = self._volume.publish
            self._volume.orphans.add(removed.top)
            publish(None, EntryChanged(removed.holder, name, removed.top, True))
            if removed.is_last:
                self._volume.orphans.add(removed.holder)
                publish(None, EntryChanged(directory, SNAPSHOTS_NAME, removed.holder, True))
                publish(None, AttributesChanged(directory))

        removed = await self._ledger.perform(change, committed)
        await self._volume.wait_done()
        return removed.entries + 1

    async def wait_purged(self, total: int, progress: ProgressListener | None = None) -> None:
        """Return when nothing waits to be purged but what somebody holds and goes on holding; ``total``: how many
        inodes it was at the beginning, about."""
        orphans = self._volume.orphans
        begun, looks = orphans.purged, 0
        while True:
            if progress is not None:
                done = orphans.purged - begun
                progress(Progress(done, max(total, done), "files"))
            # The kernel has been told to forget what it has seen of a snapshot, which takes it a moment.
            looks = 0 if orphans.purging else looks + 1
            if not len(orphans) or looks > HELD_LOOKS:
                return
            await self._ledger.clock.sleep(PURGE_LOOK_SECONDS)


class _Making:
    """A snapshot that is being made."""

    def __init__(self, volume: Volume, directory: Ino, name: bytes, progress: ProgressListener | None) -> None:
        self._volume = volume
        self._ledger = volume.ledger
        self._directory = directory
        self._name = name
        self._progress = progress
        self._mirror = Mirror()
        self._held: list[Ino] = []

    async def run(self) -> SnapshotInfo:
        """Make it; what is not needed is let go of in any case, and purged."""
        store = self._ledger.store
        store.watch(self._mirror.note)
        try:
            await admit_copies(self._ledger)
            self._top = self._batch(lambda batch: batch.begin(self._directory))
            self._hold(self._top)
            record = await self._finish()
        finally:
            store.unwatch(self._mirror.note)
            for ino in self._held:
                self._volume.orphans.let_go(ino)
        if len(self._mirror.links) > 1:
            record = await self._count_again(record)
        return _info(self._name, record)

    async def _finish(self) -> TreeSnapshot:
        for attempt in range(ATTEMPTS_MAX):
            await self._catch_up()
            must_be_clean = attempt < CLEAN_ATTEMPTS_MAX
            if must_be_clean:
                await self._flush()
            await admit_copies(self._ledger)
            record = self._last_turn(must_be_clean=must_be_clean)
            if record is not None:
                return record
            await trio.lowlevel.checkpoint()
        raise Unavailable("the tree changes faster than a snapshot of it can follow; try again")

    async def _catch_up(self) -> None:
        """Copy what was not copied, and follow what has changed, until little of that is left."""
        mirror = self._mirror
        while mirror.todo or mirror.growing or mirror.pending > FOLLOW_KEYS:
            await admit_copies(self._ledger)
            if mirror.pending > FOLLOW_KEYS or not (mirror.todo or mirror.growing):
                self._batch(lambda batch: batch.follow(mirror.take(FOLLOW_KEYS)))
            elif mirror.todo:
                self._batch(lambda batch: batch.scan())
            else:
                self._batch(lambda batch: batch.grow())
            self._tell()
            await trio.lowlevel.checkpoint()  # in one process nothing else need wait

    async def _flush(self) -> None:
        """Commit what is dirty of the tree, or have it on its way; so that the last turn has little to commit."""
        files, copies = self._volume.write_back.files, self._mirror.copies
        for ino in [ino for ino in files if ino in copies]:
            file = files.get(ino)
            if file is None or not (file.dirty.size or file.in_flight):
                continue
            try:
                await self._volume.flush(ino)
            except SiltstoneError as error:
                file.error = error  # kept for the writer

    def _last_turn(self, *, must_be_clean: bool) -> TreeSnapshot | None:
        """All that is left, and the name. None if that is too much for one turn. Plain: atomic between tasks."""
        mirror = self._mirror
        if mirror.todo or mirror.growing or mirror.pending > FOLLOW_KEYS:
            return None

        def level(batch: MirrorBatch) -> None:
            batch.follow(mirror.take(mirror.pending + 1))
            for _ in range(LAST_SCANS):
                if mirror.todo:
                    batch.scan()

        self._batch(level)
        if not self._commit_dirty() and must_be_clean:
            return None
        if mirror.todo or mirror.growing:
            return None
        transaction = self._ledger.begin()
        batch = MirrorBatch(mirror, transaction)
        batch.follow(mirror.take(mirror.pending + 1))
        batch.end()
        if not mirror.is_level:
            self._committed(batch, transaction)
            return None
        now_ns = self._ledger.clock.now_ns()
        record = TreeSnapshot(self._ledger.log.next_lsn, now_ns, mirror.entries, mirror.bytes)
        holder = tree_snapshots.add(
            transaction, self._directory, self._name, self._top, mirror.links[self._top], record, now_ns=now_ns
        )
        self._committed(batch, transaction)
        self._volume.orphans.adopted(self._top)
        publish = self._volume.publish
        publish(None, EntryChanged(self._directory, SNAPSHOTS_NAME, holder, False))
        publish(None, EntryChanged(holder, self._name, self._top, False))
        publish(None, AttributesChanged(self._directory))
        return record

    def _commit_dirty(self) -> bool:
        """Commit what is dirty of the tree. False if that is too much for one turn."""
        write_back, copies = self._volume.write_back, self._mirror.copies
        dirty = [ino for ino, file in write_back.files.items() if ino in copies and (file.dirty.size or file.in_flight)]
        if len(dirty) > DIRTY_FILES_MAX:
            return False
        done = [write_back.commit_at_once(ino) for ino in dirty]
        return all(done)

    async def _count_again(self, record: TreeSnapshot) -> TreeSnapshot:
        """What is in it, counted, since directories have left the tree with all that they held; and note that."""
        entries = size = 0
        todo = [self._top]
        linked: set[Ino] = set()
        while todo:
            names, part, below = tally(self._ledger.store, todo.pop(), linked)
            todo += below
            entries, size = entries + names, size + part
            await trio.lowlevel.checkpoint()
        counted = TreeSnapshot(record.lsn, record.created_ns, entries, size)
        await self._ledger.admit()
        transaction = self._ledger.begin()
        if transaction.get(keys.tree_snapshot(self._top)) is not None:
            transaction.put(keys.tree_snapshot(self._top), encode(counted))
            self._ledger.commit(transaction)
        return counted

    # --- inside ----------------------------------------------------------------------------------------------------

    def _batch(self, work: Callable[[MirrorBatch], Ino | None]) -> Ino:
        transaction = self._ledger.begin()
        batch = MirrorBatch(self._mirror, transaction)
        result = work(batch)
        batch.end()
        self._committed(batch, transaction)
        return Ino(0) if result is None else result

    def _committed(self, batch: MirrorBatch, transaction: Transaction) -> None:
        """Commit a batch, and hold what has no name in it: it may get one again."""
        with self._mirror.own_batch():
            self._ledger.commit(transaction)
        for ino in batch.lost:
            self._hold(ino)
        for ino in batch.found:
            self._volume.orphans.adopted(ino)

    def _hold(self, ino: Ino) -> None:
        self._held.append(ino)
        self._volume.orphans.hold(ino)
        self._volume.orphans.add(ino)

    def _tell(self) -> None:
        if self._progress is not None:
            waiting = len(self._mirror.todo) + self._mirror.pending
            self._progress(Progress(self._mirror.entries, self._mirror.entries + waiting, "files"))


def _info(name: bytes, record: TreeSnapshot) -> SnapshotInfo:
    return SnapshotInfo(
        name=name, lsn=record.lsn, created_ns=record.created_ns, entries=record.entries, bytes=record.bytes
    )
