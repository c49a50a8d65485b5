"""Copies of a tree that follow it while it changes, until there is a moment at which they are what it is.

The tree is copied as a clone is: new inodes, the same extents, page by page from the top down (``MirrorBatch.scan``).
Each batch that is committed meanwhile tells the mirror its keys (``Mirror.note``); what they say of inodes that were
copied is copied again (``MirrorBatch.follow``), record by record, so that a long file costs what was changed of it.
When the last batch has followed all that is noted, the copies are the tree as of that batch.

A copy without a name is an orphan; it stays so while its source moves from one directory to another. The copies agree
with themselves (I2 - I6) after each batch, and no directory of theirs is below itself.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

from siltstone.meta import counters, extents, keys
from siltstone.meta.clones import PAGE_ENTRIES, PAGE_EXTENTS, copy_records
from siltstone.meta.inodes import find_inode, get_inode, mark_orphan, put_inode
from siltstone.meta.names import SNAPSHOTS_NAME, forget_place, get_dentry, list_directory
from siltstone.meta.records import Dentry, Inode, InodeFlag, encode, file_kind
from siltstone.meta.store.port import Reader
from siltstone.meta.store.store import Transaction
from siltstone.types import Ino, partition_of

_PARTITION_KEY = ord("p")
_FOLLOWED = frozenset(kind[0] for kind in (keys.DENTRY, keys.EXTENT, keys.INODE, keys.OBJECT, keys.XATTR))
"""Kinds of records that copies have as well; each key has the inode in the same place."""

_DENTRY, _EXTENT, _XATTR = keys.DENTRY[0], keys.EXTENT[0], keys.XATTR[0]


class Mirror:
    """What is known of the copies of one tree. Kept in memory: some 250 bytes for each inode."""

    def __init__(self) -> None:
        self.copies: dict[Ino, Ino] = {}
        """Of each inode that was copied its copy,"""
        self.sources: dict[Ino, Ino] = {}
        """and of each copy of a file what it is a copy of."""
        self._is_own = False
        self.todo: deque[tuple[Ino, bytes | None]] = deque()
        """Directories whose entries are still to be copied, those behind a name."""
        self.growing: dict[Ino, int] = {}
        """Files of whose extents not all are copied yet, and from which offset on."""
        self.changed: dict[Ino, set[bytes]] = {}
        """Keys of what was copied and has been changed since, by inode."""
        self.pending = 0
        """How many keys these are."""
        self.entries = 0
        self.bytes = 0
        """Names of copies, and bytes of files that have one."""
        self.links: dict[Ino, int] = {}
        """Directories among the copies that have no name: what their nlink would be with one."""

    def note(self, writes: Mapping[bytes, object]) -> None:
        """A batch that writes these keys is visible from now on.

        Bytes that only move (settling, relocation) move for the copies by themselves: then the extents of source and
        copy differ at these offsets, whichever has changed.
        """
        if self._is_own:
            return
        copies, sources = self.copies, self.sources
        for key in writes:
            if key[0] == _PARTITION_KEY and key[2] in _FOLLOWED:
                ino = keys.inode_ino(key)
                if ino in copies:
                    self._add(ino, key)
                elif key[2] == _EXTENT and (source := sources.get(ino)) is not None:
                    self._add(source, keys.extent(source, keys.extent_offset(key)))

    @contextmanager
    def own_batch(self) -> Iterator[None]:
        """What is committed in this context are the mirror's own changes."""
        self._is_own = True
        try:
            yield
        finally:
            self._is_own = False

    def _add(self, ino: Ino, key: bytes) -> None:
        found = self.changed.setdefault(ino, set())
        self.pending += key not in found
        found.add(key)

    def add(self, ino: Ino, missed: Iterable[bytes]) -> None:
        """These are to be followed later."""
        for key in missed:
            self._add(ino, key)

    def take(self, limit: int) -> dict[Ino, set[bytes]]:
        """Some of what is to be followed: about ``limit`` keys. Of a file all, as its extents belong together."""
        taken: dict[Ino, set[bytes]] = {}
        count = 0
        while self.changed and count < limit:
            ino, found = next(iter(self.changed.items()))
            names = [key for key in islice(found, limit) if key[2] == _DENTRY] if len(found) > limit else []
            if names:
                found.difference_update(names)
                taken[ino] = set(names)
            else:
                taken[ino] = self.changed.pop(ino)
            count += len(taken[ino])
            self.pending -= len(taken[ino])
            if names:
                break
        return taken

    @property
    def is_level(self) -> bool:
        """Whether everything was copied, and nothing has changed since."""
        return not (self.todo or self.growing or self.changed)


class MirrorBatch:
    """Work of one batch on the copies. Commit it in the same turn, after ``end``."""

    def __init__(self, mirror: Mirror, transaction: Transaction) -> None:
        self._mirror = mirror
        self._transaction = transaction
        self._tally = counters.Tally(transaction)
        self._inodes: dict[Ino, Inode] = {}
        self._extents_left = PAGE_EXTENTS
        self.lost: list[Ino] = []
        """Copies that have no name from now on."""
        self.found: list[Ino] = []
        """Those that have one again."""

    # --- what a batch does -----------------------------------------------------------------------------------------

    def begin(self, source: Ino) -> Ino:
        """The copy of the tree's top, which has no name. Raises NotFound."""
        top = self._copy(source, get_inode(self._transaction, source))
        mark_orphan(self._transaction, top)
        return top

    def scan(self) -> None:
        """Copy some entries of the next directory: files with their bytes, directories empty."""
        source, after = self._mirror.todo.popleft()
        inode = find_inode(self._transaction, source)
        target = self._mirror.copies.get(source)
        if inode is None or target is None:
            return  # it has been removed meanwhile, and had to be empty for that
        page = list_directory(self._transaction, source, after=after, limit=PAGE_ENTRIES)
        last = after
        for name, _ in page:
            if self._extents_left <= 0:
                break
            self._follow_name(source, inode.flags, target, name)
            last = name
        else:
            if len(page) < PAGE_ENTRIES:
                return
        self._mirror.todo.appendleft((source, last))

    def follow(self, changed: Mapping[Ino, set[bytes]], *, limit: int = PAGE_EXTENTS) -> None:
        """Let the copies of some inodes have what these have at these keys by now; names first, and of them those
        first that are gone. What is too much is left for later."""
        sources = {source: find_inode(self._transaction, source) for source in changed}
        for is_coming in (False, True):
            for source, found in changed.items():
                inode, target = sources[source], self._mirror.copies.get(source)
                if target is None:
                    continue
                flags = 0 if inode is None else inode.flags
                for key in sorted(key for key in found if key[2] == _DENTRY):
                    self._follow_name(source, flags, target, keys.dentry_name(key), is_coming=is_coming)
        for source, found in changed.items():
            inode, target = sources[source], self._mirror.copies.get(source)
            if target is None:
                continue
            if inode is None:
                del self._mirror.copies[source]  # its copy has lost its names, or does with a later batch
                self._mirror.sources.pop(target, None)
                self._mirror.growing.pop(source, None)
                continue
            self._follow_inode(source, inode, target, found, limit)

    def grow(self, *, limit: int = PAGE_EXTENTS) -> None:
        """Copy some extents of the next file that has many."""
        source = next(iter(self._mirror.growing))
        inode, target = find_inode(self._transaction, source), self._mirror.copies.get(source)
        if inode is None or target is None:
            del self._mirror.growing[source]
            return
        self._follow_inode(source, inode, target, (), limit)

    def end(self) -> None:
        """Put what the batch has counted."""
        self.lost = [ino for ino in self.lost if not self._inodes[ino].nlink]
        self.found = [ino for ino in self.found if self._inodes[ino].nlink]
        self._tally.end()
        for ino, inode in self._inodes.items():
            put_inode(self._transaction, ino, inode)

    # --- names -----------------------------------------------------------------------------------------------------

    def _follow_name(self, source: Ino, flags: int, target: Ino, name: bytes, *, is_coming: bool | None = None) -> None:
        """Let a name in a directory's copy lead to the copy of what it leads to. ``is_coming``: only that, or only away
        from what it led to."""
        entry = get_dentry(self._transaction, source, name)
        if entry is not None and name == SNAPSHOTS_NAME and flags & InodeFlag.HAS_SNAPSHOTS:
            entry = None
        there = get_dentry(self._transaction, target, name)
        known = None if entry is None else self._mirror.copies.get(Ino(entry.ino))
        if there is not None:
            if there.ino == known:
                return
            if is_coming is not True:
                self._leave(target, name, there)
        if entry is None or is_coming is False:
            return
        child = self._copy_of(Ino(entry.ino)) if known is None else known
        if known is not None and stat.S_ISDIR(entry.kind) and self._is_below(target, child):
            # What is above the one it goes to goes elsewhere: in a batch to come, which will find this as well.
            self._mirror.add(source, [keys.dentry(source, name)])
            return
        self._enter(target, name, child, is_new=known is None)

    def _enter(self, directory: Ino, name: bytes, child: Ino, *, is_new: bool) -> None:
        mirror, inode = self._mirror, self._inode(child)
        if inode.is_directory:
            if inode.nlink:
                self._leave(Ino(inode.parent), inode.name, Dentry(child, stat.S_IFDIR))
            inode.nlink = mirror.links.pop(child)
            self._count_links(directory, 1)
            is_first = True
        else:
            is_first = inode.nlink == 0
            inode.nlink += 1
            if is_first and inode.is_file:
                mirror.bytes += inode.size
        if is_first and not is_new:
            self._transaction.delete(keys.orphan(child))
            self.found.append(child)
        inode.parent, inode.name = directory, name
        self._transaction.put(keys.dentry(directory, name), encode(Dentry(child, file_kind(inode.mode))))
        self._inode(directory).size += 1
        mirror.entries += 1

    def _leave(self, directory: Ino, name: bytes, entry: Dentry) -> None:
        mirror, child = self._mirror, Ino(entry.ino)
        inode = self._inode(child)
        self._transaction.delete(keys.dentry(directory, name))
        self._inode(directory).size -= 1
        mirror.entries -= 1
        if inode.is_directory:
            mirror.links[child], inode.nlink = inode.nlink, 0
            self._count_links(directory, -1)
        else:
            inode.nlink -= 1
            if inode.nlink == 0 and inode.is_file:
                mirror.bytes -= inode.size
        if inode.nlink == 0:
            mark_orphan(self._transaction, child)
            self.lost.append(child)
            inode.parent, inode.name = directory, name
        else:
            forget_place(inode, directory, name)

    def _count_links(self, directory: Ino, delta: int) -> None:
        """A directory's copy has got a subdirectory, or lost one."""
        if directory in self._mirror.links:
            self._mirror.links[directory] += delta
        else:
            self._inode(directory).nlink += delta

    def _is_below(self, directory: Ino, above: Ino) -> bool:
        """Whether a copy is ``above``, or lies below it."""
        while directory != above:
            if directory in self._mirror.links:
                return False
            directory = Ino(self._inode(directory).parent)
        return True

    # --- inodes ----------------------------------------------------------------------------------------------------

    def _copy_of(self, source: Ino) -> Ino:
        """A copy of what was not copied yet; the caller gives it a name."""
        inode = get_inode(self._transaction, source)
        if inode.is_directory:
            return self._copy(source, inode)
        found = extents.find_all(self._transaction, source, inode, PAGE_EXTENTS)
        target = self._copy(source, inode)
        if found is None:
            self._mirror.growing[source] = 0
            return target
        self._extents_left -= len(found)
        extents.share(self._transaction, target, found)
        size = sum(placed.extent.length for placed in found)
        self._inode(target).allocated_bytes = size
        self._tally.add_bytes(partition_of(target), size)
        return target

    def _copy(self, source: Ino, inode: Inode) -> Ino:
        """A copy without bytes, entries and a name."""
        target = self._tally.take_ino(partition_of(source), 0)
        copied = _with_flags(inode)
        copy_records(self._transaction, source, copied, target)
        copied.flags |= InodeFlag.SNAPSHOT
        copied.nlink = copied.allocated_bytes = copied.parent = copied.home = 0
        copied.name = b""
        if inode.is_directory:
            copied.size = 0
            self._mirror.links[target] = 2
            self._mirror.todo.append((source, None))
        elif inode.is_file:
            self._mirror.sources[target] = source
        self._mirror.copies[source] = target
        self._inodes[target] = copied
        return target

    def _follow_inode(self, source: Ino, inode: Inode, target: Ino, found: Iterable[bytes], limit: int) -> None:
        """Let a copy have what its source has now; of extents and attributes, what it has at some keys."""
        transaction, copied = self._transaction, self._inode(target)
        offsets: set[int] = set()
        for key in found:
            if key[2] == _EXTENT:
                offsets.add(keys.extent_offset(key))
            elif key[2] == _XATTR:
                _put(transaction, keys.xattr(target, keys.xattr_name(key)), transaction.get(key))
        if (inode.flags | copied.flags) & InodeFlag.HAS_OBJECT:
            _put(transaction, keys.object_(target), transaction.get(keys.object_(source)))
        now = _with_flags(inode)
        now.nlink, now.parent, now.name, now.home = copied.nlink, copied.parent, copied.name, 0
        now.allocated_bytes = copied.allocated_bytes
        if inode.is_directory:
            now.size = copied.size
        elif inode.is_file:
            now.size = self._follow_extents(source, inode, target, now, copied.size, offsets, limit)
            if now.nlink:
                self._mirror.bytes += now.size - copied.size
        now.flags |= InodeFlag.SNAPSHOT
        self._inodes[target] = now

    def _follow_extents(
        self, source: Ino, inode: Inode, target: Ino, now: Inode, size: int, offsets: set[int], limit: int
    ) -> int:
        """The same of a file's extents; returns the size that the copy has then."""
        mirror, transaction = self._mirror, self._transaction
        start = mirror.growing.get(source)
        if start is not None:
            some = islice(transaction.scan(keys.extent(source, start), keys.after(keys.extents(source))), limit)
            more = [keys.extent_offset(key) for key, _ in some]
            offsets.update(more)
            if len(more) < limit:
                del mirror.growing[source]
            else:
                mirror.growing[source] = more[-1] + 1
        delta, left = extents.mirror(transaction, source, target, offsets, transaction.freed, limit=limit)
        now.allocated_bytes += delta
        self._tally.add_bytes(partition_of(target), delta)
        if left:
            mirror.add(source, [keys.extent(source, offset) for offset in left])
            return max(size, inode.size)  # extents that are to go may still be there
        return inode.size

    def _inode(self, ino: Ino) -> Inode:
        """A copy, to be changed."""
        found = self._inodes.get(ino)
        if found is None:
            found = self._inodes[ino] = get_inode(self._transaction, ino)
        return found


def _with_flags(inode: Inode) -> Inode:
    """A value of its own, of a copy, whose flags are to be completed."""
    copied = Inode(*(getattr(inode, name) for name in inode.__struct_fields__))
    copied.flags &= ~(InodeFlag.SNAPSHOT | InodeFlag.HAS_SNAPSHOTS)
    return copied


def _put(transaction: Transaction, key: bytes, value: bytes | None) -> None:
    """Let a record be as another; None: there is none."""
    if value is None:
        transaction.delete(key)
    else:
        transaction.put(key, value)


def tally(reader: Reader, directory: Ino, linked: set[Ino]) -> tuple[int, int, list[Ino]]:
    """How many names are in a copy of a directory, the bytes of its files, and the directories in it. ``linked``: files
    with several names that were counted, to which those found here are added."""
    entries = size = 0
    below: list[Ino] = []
    after: bytes | None = None
    while page := list_directory(reader, directory, after=after, limit=PAGE_ENTRIES):
        for _, entry in page:
            entries += 1
            ino = Ino(entry.ino)
            if stat.S_ISDIR(entry.kind):
                below.append(ino)
            elif (inode := find_inode(reader, ino)) is not None and inode.is_file and ino not in linked:
                size += inode.size
                if inode.nlink > 1:
                    linked.add(ino)
        after = page[-1][0]
    return entries, size, below
