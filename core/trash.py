"""Keeping what is removed for a time: taking in, listing, bringing back, giving up the oldest when room is short.

What loses its last name is taken in by the batch that takes the name away (meta/names.py). Here is the rest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import NamedTuple

import msgspec
import trio

from siltstone.core.clones import Clones
from siltstone.core.types import AttributesChanged, EntryChanged
from siltstone.core.volume import Volume
from siltstone.errors import AlreadyExists, NoSpace, NotADirectory, NotFound, SiltstoneError
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import inodes, keys, trash
from siltstone.meta.records import Trashed, decode
from siltstone.meta.trash import TrashEntry
from siltstone.types import ROOT_INO, Ino

DAY_NS = 24 * 3600 * 10**9

LOOK_SECONDS = 1.0
"""How often it is looked whether something has expired, or room is short,"""

HURRIED_SECONDS = 0.1
"""and while writers wait for room."""

PURGE_STEP = 64
"""So many are given up in one batch."""

ROOM_SHARE = 32
"""The oldest are given up while less than one part in so many of the pool can be written,"""

METADATA_FULL_PERCENT = 80
"""or the metadata takes more than this of its room."""

PURGE_SECONDS = 5.0
"""So long the room of what was given up is waited for, before more is."""

WALK_STEP = 256
"""Entries that are looked at between two checkpoints."""


class TrashItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the trash. ``path``: where it was, its directory as that is now, or was when it was removed itself;
    None when that is not known any more. ``is_cut``: it is what a file was before it was cut shorter."""

    path: bytes | None
    name: bytes
    removed_ns: int
    ino: int
    size: int
    mode: int
    is_cut: bool


class TrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was brought back or given up. ``skipped``: of what was to be brought back, what has its name taken."""

    entries: int
    bytes: int
    skipped: int = 0


class Found(NamedTuple):
    """An entry and what it shows."""

    entry: TrashEntry
    item: TrashItem


class Trash:
    """See the module. ``days``: how long things are kept; 0: nothing is taken in, and what is there expires."""

    def __init__(self, volume: Volume, days: float) -> None:
        self._volume = volume
        self._ledger = volume.ledger
        self._clones = Clones(volume)
        self._is_counted = trio.Event()
        self._counted = -1
        """Partitions up to this one were counted."""
        self.files = self.size = 0
        """What is there; ``size`` in bytes of extents, which may be shared with others."""
        self.not_kept = 0
        """Files that were cut and not kept since there was no room."""
        self.last_error = ""
        self._days = 0.0
        self.days = days
        volume.keep_before_cut = self.keep_before_cut

    @property
    def days(self) -> float:
        """How long things are kept."""
        return self._days

    @days.setter
    def days(self, days: float) -> None:
        self._days = days
        store = self._ledger.store
        if (days > 0) != store.keeps_trash:
            store.keeps_trash = days > 0
            if store.keeps_trash:
                store.watch(self._note)
            else:
                store.unwatch(self._note)

    # --- taking in -------------------------------------------------------------------------------------------------

    async def keep_before_cut(self, ino: Ino, size: int) -> None:
        """A file is about to be cut to ``size``: keep what it is, if it gets shorter and has a name."""
        if not self._ledger.store.keeps_trash:
            return
        inode = inodes.get_inode(self._ledger.store, ino)
        if not inode.is_file or not inode.nlink or self._volume.seen(ino, inode).size <= size:
            return
        try:
            copy = await self._clones.copy_file(ino)
        except NoSpace:
            self.not_kept += 1  # to cut a file must be possible on a full pool
            return
        try:
            transaction = self._ledger.begin()
            source = inodes.get_inode(transaction, ino)
            trash.turn_into_trash(transaction, copy, source, self._ledger.clock.now_ns())
            self._ledger.commit(transaction)
            self._volume.orphans.adopted(copy)
        finally:
            self._volume.orphans.let_go(copy)

    # --- what there is ---------------------------------------------------------------------------------------------

    async def items(self, path: bytes) -> list[TrashItem]:
        """All that was at or below a path (empty: everywhere), by path and time."""
        return [found.item for found in await self._find(path)]

    async def _find(self, path: bytes) -> list[Found]:
        await self._is_counted.wait()
        paths: dict[Ino, bytes | None] = {ROOT_INO: b""}
        found: list[Found] = []
        for partition in self._ledger.owned_partitions():
            entries = trash.entries_in(self._ledger.store, partition)
            while some := list(islice(entries, WALK_STEP)):
                found += filter(None, (self._shown(entry, paths, path) for entry in some))
                await trio.lowlevel.checkpoint()
        found.sort(key=lambda each: (each.item.path or b"", each.item.removed_ns, each.item.ino))
        return found

    def _shown(self, entry: TrashEntry, paths: dict[Ino, bytes | None], below: bytes) -> Found | None:
        inode = inodes.find_inode(self._ledger.store, entry.ino)
        if inode is None or inode.nlink:
            return None
        above = self._path_of(Ino(inode.parent), paths)
        path = None if above is None else above + b"/" + inode.name
        if below and (path is None or not (path == below or path.startswith(below + b"/"))):
            return None
        item = TrashItem(
            path=path,
            name=inode.name,
            removed_ns=entry.removed_ns,
            ino=entry.ino,
            size=inode.size if inode.is_file else 0,
            mode=inode.mode,
            is_cut=entry.record.is_cut,
        )
        return Found(entry, item)

    def _path_of(self, directory: Ino, paths: dict[Ino, bytes | None]) -> bytes | None:
        """Where a directory is, or was."""
        climbed: list[tuple[Ino, bytes]] = []
        ino = directory
        while ino not in paths:
            inode = inodes.find_inode(self._ledger.store, ino)
            if inode is None or not inode.name:
                paths[ino] = None
                break
            climbed.append((ino, inode.name))
            ino = Ino(inode.parent)
        above = paths[ino]
        for below, name in reversed(climbed):
            above = paths[below] = None if above is None else above + b"/" + name
        return paths[directory]

    # --- bringing back ---------------------------------------------------------------------------------------------

    async def restore(self, path: bytes, *, before_ns: int | None = None, target: bytes | None = None) -> TrashReport:
        """Bring back what was at and below a path, of each name the newest that was removed until ``before_ns``; to
        another place, if there is a ``target``. Durable on return.

        Raises NotFound when there is nothing; AlreadyExists when it is one thing, and something else has its name.
        """
        chosen: dict[bytes, Found] = {}
        for found in await self._find(path):
            if found.item.path is not None and (before_ns is None or found.item.removed_ns <= before_ns):
                chosen[found.item.path] = found  # later ones come later
        if not chosen:
            raise NotFound(f"{path.decode(errors='replace') or '/'}: nothing of it is in the trash")
        entries = size = skipped = 0
        directories: dict[bytes, Ino] = {}
        for at in sorted(chosen, key=lambda each: (each.count(b"/"), each)):
            found = chosen[at]
            goal = at if target is None else target + at[len(path) :]
            above, _, name = goal.rpartition(b"/")
            try:
                parent = await self._directory(above, directories)
                await self._bring_back(found.entry, parent, name)
            except (AlreadyExists, NotADirectory) as error:
                is_directory = stat.S_ISDIR(found.item.mode)
                if not is_directory and len(chosen) == 1:
                    shown = goal.decode(errors="replace")
                    raise type(error)(f"{shown}: something has that name; give another place with --to") from error
                skipped += not is_directory
                continue
            entries += 1
            size += found.item.size
        await self._volume.wait_done()
        return TrashReport(entries=entries, bytes=size, skipped=skipped)

    async def _directory(self, path: bytes, known: dict[bytes, Ino]) -> Ino:
        """The directory at a path, made anew where it is missing."""
        if not path:
            return ROOT_INO
        if path not in known:
            above, _, name = path.rpartition(b"/")
            parent = await self._directory(above, known)
            try:
                found = await self._volume.lookup(parent, name)
            except NotFound:
                owner = await self._volume.attributes(parent)
                found = await self._volume.mkdir(parent, name, mode=0o755, uid=owner.uid, gid=owner.gid)
            if not stat.S_ISDIR(found.mode):
                raise NotADirectory(f"{path.decode(errors='replace')} is there, and is no directory")
            known[path] = found.ino
        return known[path]

    async def _bring_back(self, entry: TrashEntry, parent: Ino, name: bytes) -> None:
        await self._ledger.admit(1)
        now_ns = self._ledger.clock.now_ns()

        def committed(_: None) -> None:
            self._add(-1, -entry.record.size)
            self._volume.orphans.adopted(entry.ino)
            self._volume.publish(None, EntryChanged(parent, name, entry.ino, False))
            self._volume.publish(None, AttributesChanged(entry.ino))

        await self._ledger.perform(
            lambda transaction: trash.bring_back(transaction, entry, parent, name, now_ns=now_ns), committed
        )

    # --- giving up -------------------------------------------------------------------------------------------------

    async def empty(self, path: bytes, *, before_ns: int | None = None) -> TrashReport:
        """Give up what was at and below a path and removed until ``before_ns``."""
        found = [each for each in await self._find(path) if before_ns is None or each.item.removed_ns <= before_ns]
        entries = size = 0
        for start in range(0, len(found), PURGE_STEP):
            some = found[start : start + PURGE_STEP]
            entries += await self._give_up([each.entry for each in some])
            size += sum(each.item.size for each in some)
        await self._ledger.sync()
        return TrashReport(entries=entries, bytes=size)

    async def _give_up(self, entries: Iterable[TrashEntry]) -> int:
        """In one batch: how many."""
        await self._ledger.admit()
        transaction = self._ledger.begin()
        given_up = [entry for entry in entries if trash.give_up(transaction, entry)]
        self._ledger.commit(transaction)
        for entry in given_up:
            self._add(-1, -entry.record.size)
            self._volume.orphans.add(entry.ino)
        return len(given_up)

    async def run(self) -> None:
        """Give up what has expired, and the oldest where room is short, for ever."""
        clock = self._ledger.clock
        await self._count_all()
        while True:
            await clock.sleep(HURRIED_SECONDS if self._ledger.waiting_for_room else LOOK_SECONDS)
            try:
                while self.files and (due := self._due()):
                    await self._give_up(due)
                    await self._wait_purged()
                self.last_error = ""
            except SiltstoneError as error:
                self.last_error = str(error)

    def _due(self) -> list[TrashEntry]:
        """The next that are to be given up."""
        oldest = self._oldest(PURGE_STEP)
        expired_ns = self._ledger.clock.now_ns() - int(self.days * DAY_NS)
        due = [entry for entry in oldest if entry.removed_ns <= expired_ns]
        if due or not self._is_short():
            return due
        wanted = self._ledger.stripes.space().usable_total_bytes // ROOM_SHARE
        size = 0
        for count, entry in enumerate(oldest, 1):
            size += entry.record.size
            if size >= wanted:
                return oldest[:count]
        return oldest

    def _is_short(self) -> bool:
        """Whether users have little room."""
        space, metadata = self._ledger.stripes.space(), self._ledger.store.statistics().space
        if metadata.used_bytes * 100 > metadata.max_bytes * METADATA_FULL_PERCENT:
            return True
        return self._ledger.waiting_for_room > 0 or self._ledger.available_bytes * ROOM_SHARE < space.usable_total_bytes

    def _oldest(self, count: int) -> list[TrashEntry]:
        """The oldest of all partitions."""
        streams = [trash.entries_in(self._ledger.store, partition) for partition in self._ledger.owned_partitions()]
        heap = [(first, number) for number, stream in enumerate(streams) if (first := next(stream, None)) is not None]
        heapify(heap)
        found: list[TrashEntry] = []
        while heap and len(found) < count:
            entry, number = heap[0]
            found.append(entry)
            following = next(streams[number], None)
            if following is None:
                heappop(heap)
            else:
                heapreplace(heap, (following, number))
        return found

    async def _wait_purged(self) -> None:
        """Let what was given up go, so that the room that it leaves is seen."""
        with trio.move_on_after(PURGE_SECONDS):
            while len(self._volume.orphans) or len(self._ledger.reclaimer):
                await self._ledger.clock.sleep(HURRIED_SECONDS)
        self._ledger.measure_room()

    # --- counting --------------------------------------------------------------------------------------------------

    async def _count_all(self) -> None:
        """Once, partition by partition; of those that were counted ``_note`` counts what comes."""
        for partition in self._ledger.owned_partitions():
            for entry in trash.entries_in(self._ledger.store, partition):
                self._add(1, entry.record.size)
            self._counted = partition
            await trio.lowlevel.checkpoint()
        self._counted = PARTITION_COUNT
        self._is_counted.set()

    def _note(self, batch: Mapping[bytes, bytes | None]) -> None:
        """A batch is visible: what it takes in counts."""
        for key, value in batch.items():
            if key[2:3] == keys.TRASH and key[:1] == b"p" and value is not None and key[1] <= self._counted:
                self._add(1, decode(Trashed, value).size)

    def _add(self, files: int, size: int) -> None:
        self.files += files
        self.size += size
        self._ledger.trash_bytes = self.size
