"""Clones of files and directories, as a shard makes them: batch by batch, at the word of whoever clones a tree
(core/cloning.py).

All bytes that a file has when its batch is made are in its clone: what is dirty is committed before, and a file with
dirty bytes in the turn of the batch is cloned on its own, while its writers wait. Batches take some milliseconds, so
that others go on.
"""

from __future__ import annotations

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.types import EntryChanged
from siltstone.core.volume import Volume
from siltstone.errors import NoSpace, NotADirectory, NotFound
from siltstone.meta import clones, counters, extents, inodes, names
from siltstone.meta.clones import PAGE_ENTRIES, PAGE_EXTENTS, ClonedFile, Page
from siltstone.meta.records import Inode, InodeFlag
from siltstone.meta.store.port import Reader
from siltstone.meta.store.transaction import Transaction
from siltstone.types import Ino

META_ROOM_SHARE = 16
"""No clone, nor snapshot, is made when less than one part in so many of the metadata's limit is free: it is nothing but
metadata, and when that is full the volume stops."""


async def admit_copies(ledger: Ledger) -> None:
    """Wait until a batch of copies may be made. Raises NoSpace when the metadata, or the pool, has no room for more."""
    await ledger.wait_quiet()
    await ledger.admit(1)
    space = ledger.store.statistics().space
    if space.used_bytes > space.max_bytes - space.max_bytes // META_ROOM_SHARE:
        raise NoSpace(
            f"the metadata takes {space.used_bytes} of its {space.max_bytes} bytes, too much for a copy of a tree; "
            "raise lmdb_bytes_max in volume.json"
        )


class Clones:
    """Makes clones in one shard, or in a volume without shards. Inodes that it returns nameless are held."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._ledger = volume.ledger

    async def begin_clone(self, source: Ino) -> Ino:
        """A copy of a directory without its entries and without a name; held until the caller lets go of it.

        Raises NotFound, NotADirectory, NoSpace.
        """
        await admit_copies(self._ledger)
        inode = inodes.get_inode(self._ledger.store, source)
        if not inode.is_directory:
            raise NotADirectory(f"inode {source} is not a directory")
        # No operation of the namespace: it is here alone.
        transaction = self._ledger.begin()
        target, copied = clones.copy_nameless(transaction, source, inode, now_ns=self._ledger.clock.now_ns())
        copied.parent = source
        inodes.put_inode(transaction, target, copied)
        self._ledger.commit(transaction)
        self._hold(target)
        return target

    async def clone_entries(self, source: Ino, target: Ino, after: bytes | None) -> Page:
        """See ``siltstone.meta.clones``. Raises NotFound when the clone has gone, NoSpace."""
        await self._flush_entries(source, after)
        await admit_copies(self._ledger)
        files = self._volume.write_back.files
        now_ns = self._ledger.clock.now_ns()

        def change(transaction: Transaction) -> Page:
            return clones.clone_entries(transaction, source, target, after, is_busy=files.__contains__, now_ns=now_ns)

        return await self._ledger.perform(change)

    async def clone_file(self, source: Ino, parent: Ino, name: bytes, is_last: bool) -> ClonedFile:
        """Let the clone of anything but a directory have a name. ``is_last``: with that it is to be
        seen, in a directory that others use; else in a clone.

        Raises NotFound, NoSpace, and what ``Volume.link`` raises.
        """
        clone = await self.copy_file(source)
        size = inodes.get_inode(self._ledger.store, clone).size
        try:
            await self._name(clone, parent, name, is_last=is_last)
        finally:
            self._volume.orphans.let_go(clone)
        return ClonedFile(clone, size)

    async def link_clone(self, clone: Ino, parent: Ino, name: bytes) -> None:
        """A further name of a file's clone, in the clone of a directory."""
        await admit_copies(self._ledger)
        await self._name(clone, parent, name, is_last=False)

    async def name_clone(self, clone: Ino, source: Ino, parent: Ino, name: bytes, subdirectories: int) -> None:
        """Give the clone of a directory its name, when all is there. Raises AlreadyExists and what ``Volume.mkdir``
        raises, NotFound when the clone has gone."""
        await admit_copies(self._ledger)
        now_ns = self._ledger.clock.now_ns()

        def change(transaction: Transaction) -> None:
            clones.name_tree(transaction, clone, source, parent, name, subdirectories=subdirectories, now_ns=now_ns)

        def committed(_: None) -> None:
            self._volume.orphans.adopted(clone)
            self._volume.publish(None, EntryChanged(parent, name, clone, False))

        await self._ledger.perform(change, committed)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _hold(self, ino: Ino) -> None:
        self._volume.orphans.hold(ino)
        self._volume.orphans.add(ino)

    async def _flush_entries(self, source: Ino, after: bytes | None) -> None:
        """Commit what is dirty of the files that the next batch is about."""
        files = self._volume.write_back.files
        if not files:
            return

        def question(reader: Reader) -> list[Ino]:
            entries = names.list_directory(reader, source, after=after, limit=PAGE_ENTRIES)
            return [Ino(entry.ino) for _, entry in entries]

        try:
            wanted = await self._ledger.look(question)
        except NotFound:
            return  # it has gone: it has no entries
        for ino in wanted:
            if ino in files:
                await self._volume.flush(ino)

    async def _name(self, clone: Ino, parent: Ino, name: bytes, *, is_last: bool) -> None:
        if is_last:
            await self._volume.link(clone, parent, name)
            return

        def committed(_: None) -> None:
            self._volume.orphans.adopted(clone)

        await self._ledger.wait_changes_go()
        await self._ledger.perform(lambda transaction: clones.enter_clone(transaction, clone, parent, name), committed)

    async def copy_file(self, source: Ino) -> Ino:
        """A clone without a name, which is held: the file as it is at one moment."""
        await admit_copies(self._ledger)
        inode = inodes.get_inode(self._ledger.store, source)
        if not inode.is_file:
            return self._copy_at_once(source)
        if inode.flags & InodeFlag.SNAPSHOT:
            return await self._copy_clean(source)  # nobody writes to it
        async with self._volume.write_back.held(source):
            return await self._copy_clean(source)

    async def _copy_clean(self, source: Ino) -> Ino:
        """The same of a file with nothing dirty."""
        inode = inodes.get_inode(self._ledger.store, source)
        if extents.find_all(self._ledger.store, source, inode, PAGE_EXTENTS) is not None:
            return self._copy_at_once(source)
        return await self._copy_in_steps(source)

    def _copy_at_once(self, source: Ino) -> Ino:
        """In one batch. Plain: atomic between tasks."""
        transaction = self._ledger.begin()
        target, _ = self._copy_into(transaction, source)
        self._ledger.commit(transaction)
        self._hold(target)
        return target

    def _copy_into(self, transaction: Transaction, source: Ino, *, is_whole: bool = True) -> tuple[Ino, Inode]:
        inode = inodes.get_inode(transaction, source)
        size, allocated, found = inode.size, inode.allocated_bytes, None
        if is_whole:
            found = extents.find_all(transaction, source, inode, PAGE_EXTENTS)
            assert found is not None
        target, copied = clones.copy_nameless(transaction, source, inode, now_ns=self._ledger.clock.now_ns())
        if found is not None:
            extents.share(transaction, target, found)
            copied.size, copied.allocated_bytes = size, allocated
            counters.add_bytes(transaction, target, allocated)
        inodes.put_inode(transaction, target, copied)
        return target, copied

    async def _copy_in_steps(self, source: Ino) -> Ino:
        """In many batches; writers of the source wait."""
        transaction = self._ledger.begin()
        target, _ = self._copy_into(transaction, source, is_whole=False)
        size = inodes.get_inode(transaction, source).size
        self._ledger.commit(transaction)
        self._hold(target)
        try:
            done = 0
            while done < size:
                await trio.lowlevel.checkpoint()
                await admit_copies(self._ledger)
                transaction = self._ledger.begin()
                copied = inodes.get_inode(transaction, target)
                version = copied.version
                done += extents.clone_range(
                    transaction,
                    source,
                    done,
                    size - done,
                    target,
                    copied,
                    done,
                    transaction.freed,
                    limit=PAGE_EXTENTS,
                )
                copied.version = version
                inodes.put_inode(transaction, target, copied)
                self._ledger.commit(transaction)
        except BaseException:
            self._volume.orphans.let_go(target)
            raise
        return target
