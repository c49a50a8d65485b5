"""The volume: the one way in for the mount, the S3 door and everything after them.

Plain methods answer at once. Mutating methods may wait for room; what they changed is visible when they return, and
durable after fsync, sync or the commit interval. ``origin`` names the front-end that asks, so that it can ignore the
news of its own changes.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from siltstone.core.dirty import read_run_into
from siltstone.core.events import Subscribers
from siltstone.core.ledger import Ledger
from siltstone.core.mover import Mover
from siltstone.core.orphans import Orphans
from siltstone.core.reader import Reader
from siltstone.core.relocate import Relocator
from siltstone.core.room import Room
from siltstone.core.scrub import Scrubber
from siltstone.core.scrub_report import ScrubReport
from siltstone.core.settle import Settler
from siltstone.core.status import Parts, VolumeStatus, volume_status
from siltstone.core.types import (
    Attributes,
    AttributesChanged,
    DataChanged,
    DirEntry,
    EntryChanged,
    ProgressListener,
    SetAttributes,
    VolumeSpace,
    attributes_of,
)
from siltstone.core.upload_cleaner import UploadCleaner
from siltstone.core.write_back import WriteBack
from siltstone.errors import InvalidArgument, IsADirectory
from siltstone.meta import attributes, counters, inodes, names, rename, xattrs
from siltstone.meta.extents import FreedStripe
from siltstone.meta.records import Inode
from siltstone.types import ROOT_INO, Buffer, Ino

READ_BYTES_MAX = 8 * 1024 * 1024
"""Longest single read; a front-end that wants more asks again."""


class Volume:
    """Files, directories and their bytes. Opened by ``siltstone.core.opening.open_volume``."""

    def __init__(
        self,
        ledger: Ledger,
        write_back: WriteBack,
        reader: Reader,
        orphans: Orphans,
        settler: Settler,
        upload_cleaner: UploadCleaner,
        room: Room,
        scrubber: Scrubber,
        mover: Mover,
        relocator: Relocator,
        subscribers: Subscribers,
    ) -> None:
        self.ledger = ledger
        self.write_back = write_back
        self.orphans = orphans
        self.settler = settler
        self.upload_cleaner = upload_cleaner
        self.room = room
        self.scrubber = scrubber
        self.mover = mover
        self.relocator = relocator
        self._checking = trio.Lock()
        self._reader = reader
        self._subscribers = subscribers
        self.subscribe = subscribers.subscribe
        self.unsubscribe = subscribers.unsubscribe
        self.wait_seen = subscribers.wait_seen
        self.register_holder = orphans.register_holder
        self.unregister_holder = orphans.unregister_holder
        self.released = orphans.released
        self.publish = subscribers.publish

    # --- looking ---------------------------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> Attributes:
        """The inode that a directory has under a name. Raises NotFound, NotADirectory, NameTooLong."""
        ino, inode = names.lookup(self.ledger.store, parent, name)
        return self._seen(ino, inode)

    def attributes(self, ino: Ino) -> Attributes:
        """An inode's attributes, with what is written but not yet committed. Raises NotFound."""
        return self._seen(ino, inodes.get_inode(self.ledger.store, ino))

    def seen(self, ino: Ino, inode: Inode) -> Inode:
        """A record that was just read, with what is written but not yet committed laid over it."""
        file = self.write_back.files.get(ino)
        if file is not None:
            inode.size = file.size
            inode.mtime_ns = file.mtime_ns
            inode.ctime_ns = max(inode.ctime_ns, file.ctime_ns)
            inode.allocated_bytes += file.dirty.size
            inode.version += 1
        return inode

    def readlink(self, ino: Ino) -> bytes:
        """The target of a symbolic link. Raises NotFound, InvalidArgument."""
        inode = inodes.get_inode(self.ledger.store, ino)
        if not stat.S_ISLNK(inode.mode):
            raise InvalidArgument(f"inode {ino} is not a symbolic link")
        return inode.target

    def list_directory(self, ino: Ino, *, after: bytes | None, limit: int) -> list[DirEntry]:
        """Up to ``limit`` entries in the order of their names, from behind ``after`` on; without . and .. ."""
        store = self.ledger.store
        return [
            DirEntry(name, Ino(dentry.ino), self._seen(Ino(dentry.ino), inodes.get_inode(store, Ino(dentry.ino))))
            for name, dentry in names.list_directory(store, ino, after=after, limit=limit)
        ]

    def parent_of(self, ino: Ino) -> Ino:
        """The directory that holds a directory; the root holds itself."""
        return Ino(inodes.get_directory(self.ledger.store, ino).parent)

    def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        """The value of an extended attribute. Raises NoSuchAttribute."""
        return xattrs.get_xattr(self.ledger.store, ino, name)

    def list_xattrs(self, ino: Ino) -> list[bytes]:
        """The names of an inode's extended attributes."""
        return xattrs.list_xattrs(self.ledger.store, ino)

    def space(self) -> VolumeSpace:
        """Room in usable bytes."""
        stripes = self.ledger.stripes.space()
        inode_count = counters.read_totals(self.ledger.store).inodes
        free_bytes = self.room.free_for_users() + self.ledger.hole_bytes
        return VolumeSpace(
            total_bytes=stripes.usable_total_bytes,
            free_bytes=free_bytes,
            available_bytes=min(self.ledger.room_bytes + self.ledger.hole_bytes, free_bytes),
            inodes=inode_count,
        )

    # --- names -----------------------------------------------------------------------------------------------------

    async def create(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = 0, origin: object = None
    ) -> Attributes:
        """Make a file, fifo, socket or device; the type is in ``mode``."""
        await self.ledger.admit(1)
        transaction = self.ledger.begin()
        now_ns = self.ledger.clock.now_ns()
        ino, inode = names.create(
            transaction, parent, name, mode=mode, uid=uid, gid=gid, rdev=rdev, target=b"", now_ns=now_ns
        )
        self.ledger.commit(transaction)
        self._subscribers.publish(origin, EntryChanged(parent, name, ino, False))
        return attributes_of(ino, inode)

    async def mkdir(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """Make a directory."""
        await self.ledger.admit(1)
        transaction = self.ledger.begin()
        now_ns = self.ledger.clock.now_ns()
        ino, inode = names.mkdir(transaction, parent, name, mode=mode, uid=uid, gid=gid, now_ns=now_ns)
        self.ledger.commit(transaction)
        self._subscribers.publish(origin, EntryChanged(parent, name, ino, False))
        return attributes_of(ino, inode)

    async def symlink(
        self, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """Make a symbolic link."""
        await self.ledger.admit(1)
        transaction = self.ledger.begin()
        now_ns = self.ledger.clock.now_ns()
        ino, inode = names.create(
            transaction, parent, name, mode=stat.S_IFLNK | 0o777, uid=uid, gid=gid, target=target, now_ns=now_ns
        )
        self.ledger.commit(transaction)
        self._subscribers.publish(origin, EntryChanged(parent, name, ino, False))
        return attributes_of(ino, inode)

    async def create_anonymous(self, near: Ino, *, mode: int) -> Ino:
        """A file without a name in the partition of ``near``, with its owner; held until the caller lets go of it."""
        await self.ledger.admit(1)
        transaction = self.ledger.begin()
        owner = inodes.get_inode(transaction, near)
        now_ns = self.ledger.clock.now_ns()
        ino, _ = inodes.create_anonymous(transaction, near, mode=mode, uid=owner.uid, gid=owner.gid, now_ns=now_ns)
        self.ledger.commit(transaction)
        self.orphans.hold(ino)
        self.orphans.add(ino)
        return ino

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, origin: object = None) -> Attributes:
        """Give an inode another name; a name for an anonymous inode makes it an ordinary one.

        Its dirty bytes are committed first, so that the name never shows less than was written before it.
        """
        await self.write_back.flush(ino)
        await self.ledger.admit(1)
        transaction = self.ledger.begin()
        names.link(transaction, ino, parent, name, now_ns=self.ledger.clock.now_ns())
        self.ledger.commit(transaction)
        self.orphans.adopted(ino)
        self._subscribers.publish(origin, EntryChanged(parent, name, ino, False))
        self._subscribers.publish(origin, AttributesChanged(ino))
        return self.attributes(ino)

    async def unlink(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """Take a name away; the inode goes with its last name when nobody holds it."""
        await self.ledger.admit()
        transaction = self.ledger.begin()
        freed: list[FreedStripe] = []
        ino, inode = names.unlink(transaction, parent, name, now_ns=self.ledger.clock.now_ns())
        purged = inode.nlink == 0 and self.orphans.purge_within(transaction, ino, freed)
        self.ledger.commit(transaction, freed)
        if inode.nlink == 0 and not purged:
            self.orphans.add(ino)
        self._subscribers.publish(origin, EntryChanged(parent, name, ino, True))
        if not purged:
            self._subscribers.publish(origin, AttributesChanged(ino))

    async def rmdir(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """Remove an empty directory."""
        await self.ledger.admit()
        transaction = self.ledger.begin()
        freed: list[FreedStripe] = []
        ino, _ = names.rmdir(transaction, parent, name, now_ns=self.ledger.clock.now_ns())
        purged = self.orphans.purge_within(transaction, ino, freed)
        self.ledger.commit(transaction, freed)
        if not purged:
            self.orphans.add(ino)
        if parent == ROOT_INO:
            self.upload_cleaner.wake()
        self._subscribers.publish(origin, EntryChanged(parent, name, ino, True))

    async def rename(
        self,
        parent: Ino,
        name: bytes,
        new_parent: Ino,
        new_name: bytes,
        *,
        exchange: bool = False,
        no_replace: bool = False,
        origin: object = None,
    ) -> None:
        """Give an entry another place, atomically; what had the new name goes, or takes the old one's (exchange).

        The dirty bytes of what gets a new name are committed first: write-then-rename never leaves an empty file after
        a crash.
        """
        await self.write_back.flush(names.lookup(self.ledger.store, parent, name)[0])
        if exchange:
            await self.write_back.flush(names.lookup(self.ledger.store, new_parent, new_name)[0])
        await self.ledger.admit()
        transaction = self.ledger.begin()
        freed: list[FreedStripe] = []
        renamed = rename.rename(
            transaction,
            parent,
            name,
            new_parent,
            new_name,
            exchange=exchange,
            no_replace=no_replace,
            now_ns=self.ledger.clock.now_ns(),
        )
        if not renamed.moved:
            return
        replaced, victim = renamed.replaced, renamed.replaced_inode
        dies = replaced is not None and victim is not None and victim.nlink == 0
        purged = dies and replaced is not None and self.orphans.purge_within(transaction, replaced, freed)
        self.ledger.commit(transaction, freed)
        if dies and not purged and replaced is not None:
            self.orphans.add(replaced)
        if dies and new_parent == ROOT_INO:
            self.upload_cleaner.wake()
        if renamed.exchanged is not None:
            self._subscribers.publish(origin, EntryChanged(parent, name, renamed.exchanged, False))
        else:
            self._subscribers.publish(origin, EntryChanged(parent, name, renamed.ino, True))
        self._subscribers.publish(origin, EntryChanged(new_parent, new_name, renamed.ino, False))
        if replaced is not None and not purged:
            self._subscribers.publish(origin, AttributesChanged(replaced))

    # --- attributes ------------------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, changes: SetAttributes, *, origin: object = None) -> Attributes:
        """Change attributes; a size cuts or extends the file."""
        if changes.size is not None:
            await self._set_size(ino, changes.size, origin)
        rest = (changes.mode, changes.uid, changes.gid, changes.atime_ns, changes.mtime_ns)
        if any(value is not None for value in rest):
            await self.ledger.admit()
            transaction = self.ledger.begin()
            now_ns = self.ledger.clock.now_ns()
            attributes.set_attributes(
                transaction,
                ino,
                mode=changes.mode,
                uid=changes.uid,
                gid=changes.gid,
                atime_ns=changes.atime_ns,
                mtime_ns=changes.mtime_ns,
                now_ns=now_ns,
            )
            self.ledger.commit(transaction)
            file = self.write_back.files.get(ino)
            if file is not None:
                # What is flushed later must not take the new times back.
                file.ctime_ns = now_ns
                if changes.mtime_ns is not None:
                    file.mtime_ns = changes.mtime_ns
            self._subscribers.publish(origin, AttributesChanged(ino))
        return self.attributes(ino)

    async def set_xattr(
        self,
        ino: Ino,
        name: bytes,
        value: bytes,
        *,
        create: bool = False,
        replace: bool = False,
        origin: object = None,
    ) -> None:
        """Set an extended attribute. Raises AlreadyExists (create), NoSuchAttribute (replace), ValueTooLarge."""
        await self.ledger.admit(1)
        transaction = self.ledger.begin()
        xattrs.set_xattr(
            transaction, ino, name, value, create=create, replace=replace, now_ns=self.ledger.clock.now_ns()
        )
        self.ledger.commit(transaction)
        self._subscribers.publish(origin, AttributesChanged(ino))

    async def remove_xattr(self, ino: Ino, name: bytes, *, origin: object = None) -> None:
        """Remove an extended attribute. Raises NoSuchAttribute."""
        await self.ledger.admit()
        transaction = self.ledger.begin()
        xattrs.remove_xattr(transaction, ino, name, now_ns=self.ledger.clock.now_ns())
        self.ledger.commit(transaction)
        self._subscribers.publish(origin, AttributesChanged(ino))

    # --- bytes -----------------------------------------------------------------------------------------------------

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; short at the end of the file. Never bytes that fail their checksum."""
        if offset < 0 or size < 0:
            raise InvalidArgument(f"inode {ino}: a read of {size} bytes at {offset}")
        inode = inodes.get_inode(self.ledger.store, ino)
        if inode.is_directory:
            raise IsADirectory(f"inode {ino} is a directory")
        file = self.write_back.files.get(ino)
        size = min(size, READ_BYTES_MAX, (inode.size if file is None else file.size) - offset)
        if size <= 0:
            return b""
        if file is None or not self.write_back.covers(file, offset, offset + size):
            return await self._reader.read(ino, offset, size)
        # The layers are taken before the committed bytes are looked up, without an await between: what lands while
        # the read waits is in the layers, so the result is the file as it was at this moment.
        layers = self.write_back.layers(file, offset, offset + size)
        if file.dirty.holds(offset, offset + size):
            target = bytearray(size)
        else:
            target = bytearray(await self._reader.read(ino, offset, size))
        for run in layers:
            read_run_into(run, target, offset)
        return bytes(target)

    async def write(self, ino: Ino, offset: int, data: Buffer, *, origin: object = None) -> int:
        """Write ``data``, which must not change afterwards (it is not copied); returns its length."""
        size = await self.write_back.write(ino, offset, data)
        if size:
            self._subscribers.publish(origin, DataChanged(ino, offset, size))
        return size

    async def flush(self, ino: Ino) -> None:
        """Commit the file's dirty bytes; errors of earlier background writes are raised here. Not durable yet."""
        await self.write_back.flush(ino)

    async def fsync(self, ino: Ino, *, data_only: bool = False) -> None:
        """Return when all that was done to the file, and every batch before, is on three disks or in stripes.

        ``data_only`` is allowed to promise less; here both cost the same: the log is one.
        """
        await self.write_back.flush(ino)
        await self.ledger.sync()

    async def sync(self) -> None:
        """Return when everything that was done to the volume is durable.

        What can be made durable is, before the error of a file that cannot be written is raised.
        """
        try:
            await self.write_back.flush_all()
        finally:
            await self.ledger.sync()

    async def wait_done(self) -> None:
        """Return when every batch so far is durable and every front-end shows it: a change may be answered then."""
        await self.ledger.sync()
        await self.wait_seen()

    # --- as a whole ------------------------------------------------------------------------------------------------

    async def settle(self, progress: ProgressListener | None = None) -> None:
        """Move everything that is in the log now into stripes and let the log's segments go."""
        await self.write_back.flush_all()
        await self.settler.settle(progress)

    async def rebuild(self, progress: ProgressListener | None = None) -> None:
        """Move everything that lies on disks which are away, or draining, to others now. Raises Refused when some of
        it finds no disk."""
        await self.mover.rebuild(progress)

    async def scrub(self, progress: ProgressListener | None = None, *, bytes_per_second: int = 0) -> ScrubReport:
        """Read and mend everything on the disks, beside everything else (see Scrubber)."""
        return await self.scrubber.scrub(progress, bytes_per_second=bytes_per_second)

    def status(self) -> VolumeStatus:
        """A picture of the volume now."""
        return volume_status(
            Parts(
                self.ledger,
                self.write_back,
                self.orphans,
                self.settler,
                self.room,
                self.scrubber,
                self.mover,
                self.relocator,
            )
        )

    @asynccontextmanager
    async def quiesced(self) -> AsyncIterator[None]:
        """Hold every change back for as long as the context lasts; reads go on."""
        async with self._checking, self.settler.paused():
            self.ledger.hold_changes(True)
            try:
                await self.write_back.wait_landed()
                yield
            finally:
                self.ledger.hold_changes(False)

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _set_size(self, ino: Ino, size: int, origin: object) -> None:
        await self.ledger.admit()
        await self.write_back.set_size(ino, size)
        self._subscribers.publish(origin, DataChanged(ino, size, 0))

    def _seen(self, ino: Ino, inode: Inode) -> Attributes:
        return attributes_of(ino, self.seen(ino, inode))


__all__ = ["ROOT_INO", "Volume"]
