"""The volume: the one way in for the mount, the S3 door and everything after them.

Methods that look answer without waiting where the namespace is not spread over shards. Mutating methods may wait for
room; what they changed is visible when they return, and durable after fsync, sync or the commit interval. ``origin``
names the front-end that asks, so that it can ignore the news of its own changes.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import trio

from siltstone.config import VolumeConfig
from siltstone.core.carrier import Carrier
from siltstone.core.dirty import read_run_into
from siltstone.core.events import Subscribers
from siltstone.core.feed import Feed
from siltstone.core.ledger import Ledger
from siltstone.core.mount_versions import keep_removed, moved
from siltstone.core.mover import Mover
from siltstone.core.orphans import Orphans
from siltstone.core.pool_members import PoolMembers
from siltstone.core.rates import Rates
from siltstone.core.reader import Reader
from siltstone.core.relocate import Relocator
from siltstone.core.room import Room
from siltstone.core.scrub import Scrubber
from siltstone.core.scrub_report import ScrubReport
from siltstone.core.settle import Settler
from siltstone.core.snapshots import Snapshots
from siltstone.core.status import Parts, VolumeStatus, volume_status
from siltstone.core.types import (
    Attributes,
    AttributesChanged,
    DataChanged,
    DirEntry,
    EntryChanged,
    Found,
    ProgressListener,
    SetAttributes,
    VolumeSpace,
    attributes_of,
)
from siltstone.core.upload_cleaner import UploadCleaner
from siltstone.core.write_back import WriteBack
from siltstone.engine.labels import Labels
from siltstone.errors import InvalidArgument, IsADirectory, SiltstoneError
from siltstone.meta import attributes, counters, inodes, keys, names, rename, xattrs
from siltstone.meta.directories import DirectoryIndex
from siltstone.meta.records import Inode
from siltstone.meta.rename import Renamed
from siltstone.meta.shards.messages import Change
from siltstone.meta.store.port import Reader as StoreReader
from siltstone.meta.store.transaction import Transaction
from siltstone.meta.usage import TreeUsage
from siltstone.types import ROOT_INO, Buffer, Ino

if TYPE_CHECKING:
    from siltstone.core.trash import Trash

_make_entry = partial(tuple.__new__, DirEntry)
"""What ``DirEntry`` does, in a third of the time: a listing makes one for each name."""

READ_BYTES_MAX = 8 * 1024 * 1024
"""Longest single read; a front-end that wants more asks again."""


class _Unlinked(NamedTuple):
    """An inode that lost a name. ``dies``: it was the last; ``purged``: it is gone with that."""

    ino: Ino
    dies: bool
    purged: bool


class Volume:
    """Files, directories and their bytes. Opened by ``siltstone.core.opening.open_volume``."""

    def __init__(
        self,
        ledger: Ledger,
        write_back: WriteBack,
        reader: Reader,
        carrier: Carrier,
        orphans: Orphans,
        settler: Settler,
        upload_cleaner: UploadCleaner,
        room: Room,
        scrubber: Scrubber,
        mover: Mover,
        relocator: Relocator,
        snapshots: Snapshots,
        labels: Labels,
        members: PoolMembers,
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
        self.directories = DirectoryIndex()
        """Where whole paths lead, as committed."""
        ledger.store.watch(self.directories.forget)
        self.snapshots = snapshots
        self.feed = Feed(ledger, snapshots)
        self.trash: Trash
        """Set by whoever makes a volume (core/opening.py)."""
        self.keep_before_cut: Callable[[Ino, int], Awaitable[None]]
        self.labels = labels
        self.members = members
        self._checking = trio.Lock()
        self.rates = Rates(ledger)
        """How fast trees may be used."""
        self.reader = reader
        self.carrier = carrier
        self._subscribers = subscribers
        self.subscribe = subscribers.subscribe
        self.unsubscribe = subscribers.unsubscribe
        self.wait_seen = subscribers.wait_seen
        self.register_holder = orphans.register_holder
        self.unregister_holder = orphans.unregister_holder
        self.released = orphans.released
        self.publish = subscribers.publish

    # --- looking ---------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Attributes:
        """The inode that a directory has under a name. Raises NotFound, NotADirectory, NameTooLong."""
        return self._seen(*await self.ledger.look(lambda reader: names.lookup(reader, parent, name)))

    async def attributes(self, ino: Ino) -> Attributes:
        """An inode's attributes, with what is written but not yet committed. Raises NotFound."""
        return self._seen(ino, await self.ledger.look(lambda reader: inodes.get_inode(reader, ino)))

    async def find(self, parent: Ino, name: bytes) -> Found:
        """What a directory of this shard has under a name: the attributes too, if the inode is this shard's.

        Raises as ``lookup`` does.
        """

        def question(reader: StoreReader) -> tuple[Ino, Inode | None]:
            entry = names.get_dentry(reader, parent, name)
            if entry is not None and not self.ledger.owns(Ino(entry.ino)):
                return Ino(entry.ino), None
            return names.lookup(reader, parent, name)

        return self._found(*await self.ledger.look(question))

    async def find_many(self, ino: Ino, after: bytes | None, limit: int) -> list[tuple[bytes, Found]]:
        """The same of up to ``limit`` entries of a directory, in the order of their names, behind ``after``."""

        def question(reader: StoreReader) -> list[tuple[bytes, Ino, Inode | None]]:
            owns = self.ledger.owns
            return [
                (name, entry, inodes.get_inode(reader, entry) if owns(entry) else None)
                for name, entry in _entries(reader, ino, after, limit)
            ]

        return [(name, self._found(ino, inode)) for name, ino, inode in await self.ledger.look(question)]

    async def attributes_of_many(self, wanted: Sequence[Ino]) -> list[Attributes | None]:
        """The attributes of inodes; None for one that is not there (any more)."""

        def question(reader: StoreReader) -> list[Inode | None]:
            return [inodes.find_inode(reader, ino) for ino in wanted]

        found = zip(wanted, await self.ledger.look(question), strict=True)
        return [None if inode is None else self._seen(ino, inode) for ino, inode in found]

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

    async def readlink(self, ino: Ino) -> bytes:
        """The target of a symbolic link. Raises NotFound, InvalidArgument."""
        inode = await self.ledger.look(lambda reader: inodes.get_inode(reader, ino))
        if not stat.S_ISLNK(inode.mode):
            raise InvalidArgument(f"inode {ino} is not a symbolic link")
        return inode.target

    async def list_directory(self, ino: Ino, *, after: bytes | None, limit: int) -> list[DirEntry]:
        """Up to ``limit`` entries in the order of their names, from behind ``after`` on; without . and .. ."""

        def question(reader: StoreReader) -> tuple[list[bytes], list[Ino], list[Inode]]:
            found = names.list_directory(reader, ino, after=after, limit=limit)
            inos = cast("list[Ino]", [entry.ino for _, entry in found])
            return [name for name, _ in found], inos, inodes.get_inodes(reader, inos)

        found, inos, records = await self.ledger.look(question)
        dirty = self.write_back.files  # hardly ever one of these: asked here, not by a call for each
        for index, entry in enumerate(inos):
            if entry in dirty:
                records[index] = self.seen(entry, records[index])
        return list(map(_make_entry, zip(found, inos, map(attributes_of, inos, records), strict=True)))

    async def parent_of(self, ino: Ino) -> Ino:
        """The directory that holds a directory; the root holds itself."""
        return await self.ledger.look(lambda reader: names.parent_of(reader, ino))

    async def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        """The value of an extended attribute. Raises NoSuchAttribute."""
        return await self.ledger.look(lambda reader: xattrs.get_xattr(reader, ino, name))

    async def list_xattrs(self, ino: Ino) -> list[bytes]:
        """The names of an inode's extended attributes."""
        return await self.ledger.look(lambda reader: xattrs.list_xattrs(reader, ino))

    async def space(self) -> VolumeSpace:
        """Room in usable bytes, or what the quotas of the root leave of it."""
        return self.space_in(ROOT_INO)

    def space_in(self, ino: Ino) -> VolumeSpace:
        """The same inside a tree: what the quotas over an inode leave."""
        available_bytes = self.room.available_bytes()
        stripes = self.ledger.stripes.space()
        inode_count = counters.read_totals(self.ledger.store, self.ledger.owned_partitions()).inodes
        space = VolumeSpace(
            total_bytes=stripes.usable_total_bytes,
            free_bytes=self.room.free_for_users() + self.ledger.hole_bytes,
            available_bytes=available_bytes,
            inodes=inode_count,
            in_slabs_bytes=stripes.data_free_bytes,
        )
        return within_quotas(space, self.ledger.usage, ino)

    # --- names -----------------------------------------------------------------------------------------------------

    async def create(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = 0, origin: object = None
    ) -> Attributes:
        """Make a file, fifo, socket or device; the type is in ``mode``."""
        return await self._make(
            parent,
            name,
            partial(names.create, parent=parent, name=name, mode=mode, uid=uid, gid=gid, rdev=rdev),
            origin,
        )

    async def mkdir(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """Make a directory."""
        return await self._make(
            parent, name, partial(names.mkdir, parent=parent, name=name, mode=mode, uid=uid, gid=gid), origin
        )

    async def symlink(
        self, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """Make a symbolic link."""
        mode = stat.S_IFLNK | 0o777
        return await self._make(
            parent,
            name,
            partial(names.create, parent=parent, name=name, mode=mode, uid=uid, gid=gid, target=target),
            origin,
        )

    async def _make(
        self, parent: Ino, name: bytes, make: Callable[..., tuple[Ino, Inode]], origin: object
    ) -> Attributes:
        await self.rates.wait(parent)
        await self.ledger.admit(1)
        now_ns = self.ledger.clock.now_ns()
        ino, inode = await self.ledger.perform(
            lambda transaction: make(transaction, now_ns=now_ns),
            lambda made: self._subscribers.publish(origin, EntryChanged(parent, name, made[0], False)),
        )
        return attributes_of(ino, inode)

    async def create_anonymous(self, near: Ino, *, mode: int) -> Ino:
        """A file without a name in the partition of ``near``, which is one of this shard's; held until the caller lets
        go of it."""
        await self.ledger.admit(1)
        # No operation of the namespace: nothing of others is read or changed.
        transaction = self.ledger.begin()
        now_ns = self.ledger.clock.now_ns()
        ino, _ = inodes.create_anonymous(transaction, near, mode=mode, uid=0, gid=0, now_ns=now_ns)
        self.ledger.commit(transaction)
        self.orphans.hold(ino)
        self.orphans.add(ino)
        return ino

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, origin: object = None) -> Attributes:
        """Give an inode another name; a name for an anonymous inode makes it an ordinary one.

        Its dirty bytes are committed first, so that the name never shows less than was written before it.
        """
        await self.rates.wait(parent)
        await self.write_back.flush(ino)
        await self.ledger.admit(1)
        now_ns = self.ledger.clock.now_ns()

        def committed(inode: Inode) -> None:
            self.orphans.adopted(ino)
            self._subscribers.publish(origin, EntryChanged(parent, name, ino, False))
            self._subscribers.publish(origin, AttributesChanged(ino))

        await self.ledger.perform(
            lambda transaction: names.link(transaction, ino, parent, name, now_ns=now_ns), committed
        )
        return await self.attributes(ino)

    async def unlink(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """Take a name away; the inode goes with its last name when nobody holds it, or into the trash."""
        await self.rates.wait(parent)
        await self._flush_for_trash(parent, name)
        await self.ledger.admit()
        now_ns = self.ledger.clock.now_ns()

        def change(transaction: Transaction) -> _Unlinked:
            kept = keep_removed(transaction, parent, name, now_ns, leaves_marker=True)
            if kept is not None:
                return _Unlinked(kept, dies=False, purged=False)
            ino, inode = names.unlink(transaction, parent, name, now_ns=now_ns)
            return self._unlinked(transaction, ino, inode)

        def committed(unlinked: _Unlinked) -> None:
            self._let_go(unlinked)
            self._subscribers.publish(origin, EntryChanged(parent, name, unlinked.ino, True))
            if not unlinked.purged:
                self._subscribers.publish(origin, AttributesChanged(unlinked.ino))

        await self.ledger.perform(change, committed)

    async def rmdir(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """Remove an empty directory."""
        await self.rates.wait(parent)
        await self.ledger.admit()
        now_ns = self.ledger.clock.now_ns()

        def change(transaction: Transaction) -> _Unlinked:
            ino, inode = names.rmdir(transaction, parent, name, now_ns=now_ns)
            return self._unlinked(transaction, ino, inode)

        def committed(unlinked: _Unlinked) -> None:
            self._let_go(unlinked)
            if parent == ROOT_INO:
                self.upload_cleaner.wake()
            self._subscribers.publish(origin, EntryChanged(parent, name, unlinked.ino, True))

        await self.ledger.perform(change, committed)

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
        await self.rates.wait(parent)
        await self._flush_entry(parent, name)
        if exchange:
            await self._flush_entry(new_parent, new_name)
        else:
            await self._flush_for_trash(new_parent, new_name)
        await self.ledger.admit()
        now_ns = self.ledger.clock.now_ns()

        def change(transaction: Transaction) -> tuple[Renamed, _Unlinked | None]:
            kept = None
            if not exchange and not no_replace:
                kept = self._keep_replaced(transaction, parent, name, new_parent, new_name, now_ns)
            renamed = rename.rename(
                transaction,
                parent,
                name,
                new_parent,
                new_name,
                exchange=exchange,
                no_replace=no_replace,
                now_ns=now_ns,
            )
            if renamed.moved:
                moved(transaction, renamed.ino, parent, name, now_ns, leaves_marker=renamed.exchanged is None)
                if renamed.exchanged is not None:
                    moved(transaction, renamed.exchanged, new_parent, new_name, now_ns, leaves_marker=False)
            if kept is not None:
                return renamed, _Unlinked(kept, dies=False, purged=False)
            if renamed.replaced is None or renamed.replaced_inode is None:
                return renamed, None
            return renamed, self._unlinked(transaction, renamed.replaced, renamed.replaced_inode)

        def committed(result: tuple[Renamed, _Unlinked | None]) -> None:
            renamed, replaced = result
            if not renamed.moved:
                return
            if replaced is not None:
                self._let_go(replaced)
                was_bucket = renamed.replaced_inode is not None and renamed.replaced_inode.is_directory
                if replaced.dies and new_parent == ROOT_INO and was_bucket:
                    self.upload_cleaner.wake()
            if renamed.exchanged is not None:
                self._subscribers.publish(origin, EntryChanged(parent, name, renamed.exchanged, False))
            else:
                self._subscribers.publish(origin, EntryChanged(parent, name, renamed.ino, True))
            self._subscribers.publish(origin, EntryChanged(new_parent, new_name, renamed.ino, False))
            if replaced is not None and not replaced.purged:
                self._subscribers.publish(origin, AttributesChanged(replaced.ino))

        await self.ledger.perform(change, committed)

    # --- attributes ------------------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, changes: SetAttributes, *, origin: object = None) -> Attributes:
        """Change attributes; a size cuts or extends the file."""
        await self.rates.wait(ino)
        if changes.size is not None:
            await self._set_size(ino, changes.size, origin)
        rest = (changes.mode, changes.uid, changes.gid, changes.atime_ns, changes.mtime_ns)
        if any(value is not None for value in rest):
            await self.ledger.admit()
            now_ns = self.ledger.clock.now_ns()

            def change(transaction: Transaction) -> None:
                attributes.set_attributes(
                    transaction,
                    ino,
                    mode=changes.mode,
                    uid=changes.uid,
                    gid=changes.gid,
                    atime_ns=changes.atime_ns,
                    mtime_ns=changes.mtime_ns,
                    keeps_ctime=changes.keeps_ctime,
                    now_ns=now_ns,
                )

            def committed(_: None) -> None:
                file = self.write_back.files.get(ino)
                if file is not None and not changes.keeps_ctime:
                    # What is flushed later must not take the new times back.
                    file.ctime_ns = now_ns
                    if changes.mtime_ns is not None:
                        file.mtime_ns = changes.mtime_ns
                self._subscribers.publish(origin, AttributesChanged(ino))

            await self.ledger.perform(change, committed)
        return await self.attributes(ino)

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
        now_ns = self.ledger.clock.now_ns()
        await self.ledger.perform(
            lambda transaction: xattrs.set_xattr(
                transaction, ino, name, value, create=create, replace=replace, now_ns=now_ns
            ),
            lambda _: self._subscribers.publish(origin, AttributesChanged(ino)),
        )

    async def remove_xattr(self, ino: Ino, name: bytes, *, origin: object = None) -> None:
        """Remove an extended attribute. Raises NoSuchAttribute."""
        await self.ledger.admit()
        now_ns = self.ledger.clock.now_ns()
        await self.ledger.perform(
            lambda transaction: xattrs.remove_xattr(transaction, ino, name, now_ns=now_ns),
            lambda _: self._subscribers.publish(origin, AttributesChanged(ino)),
        )

    # --- bytes -----------------------------------------------------------------------------------------------------

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; short at the end of the file. Never bytes that fail their checksum."""
        if offset < 0 or size < 0:
            raise InvalidArgument(f"inode {ino}: a read of {size} bytes at {offset}")
        if self.ledger.usage.has_rates:
            there = self.seen(ino, inodes.get_inode(self.ledger.store, ino)).size - offset
            await self.rates.wait(ino, read_bytes=max(0, min(size, READ_BYTES_MAX, there)))
        inode = inodes.get_inode(self.ledger.store, ino)
        if inode.is_directory:
            raise IsADirectory(f"inode {ino} is a directory")
        file = self.write_back.files.get(ino)
        size = min(size, READ_BYTES_MAX, (inode.size if file is None else file.size) - offset)
        if size <= 0:
            return b""
        if file is None or not self.write_back.covers(file, offset, offset + size):
            return await self.reader.read(ino, offset, size)
        # The layers are taken before the committed bytes are looked up, without an await between: what lands while
        # the read waits is in the layers, so the result is the file as it was at this moment.
        layers = self.write_back.layers(file, offset, offset + size)
        if file.dirty.holds(offset, offset + size):
            target = bytearray(size)
        else:
            target = bytearray(await self.reader.read(ino, offset, size))
        for run in layers:
            read_run_into(run, target, offset)
        return bytes(target)

    async def write(self, ino: Ino, offset: int, data: Buffer, *, origin: object = None) -> int:
        """Write ``data``, which must not change afterwards (it is not copied); returns its length."""
        if self.ledger.usage.has_rates:
            await self.rates.wait(ino, write_bytes=len(data))
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

    def follow_settings(self, config: VolumeConfig) -> None:
        """Settings that may change in use are these from now on."""
        self.snapshots.feed_window = config.feed_window
        self.trash.days = config.trash_days

    def share_room(self, shards: int) -> None:
        """So many shards share the disks from now on: leave the reserve of all of them free."""
        self.ledger.stripes.slabs.disk_room.share_reserve(shards)

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

    async def scrub_snapshots(self) -> None:
        """Read all copies of the snapshots of the metadata and mend them; what is whole nowhere is replaced."""
        for snapshot in list(self.snapshots.files.snapshots):
            await self.snapshots.check(snapshot)
        if any(snapshot.is_rotten for snapshot in self.snapshots.files.snapshots):
            await self.snapshots.take(is_hurried=True)

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
                self.snapshots,
                self.trash,
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

    def applied(self, changes: Sequence[Change]) -> None:
        """Another shard's transaction has changed records here: what hangs on that, in the turn of the commit."""
        for change in changes:
            match keys.kind_of(change.key):
                case keys.ORPHAN if change.new is None:
                    self.orphans.adopted(keys.orphan_ino(change.key))
                case keys.ORPHAN:
                    self.orphans.add(keys.orphan_ino(change.key))
                    self._wake_cleaner(keys.orphan_ino(change.key))
                case keys.INODE:
                    self.write_back.look_again(keys.inode_ino(change.key))
                    self._subscribers.publish(None, AttributesChanged(keys.inode_ino(change.key)))
                case _:
                    pass

    # --- inside ----------------------------------------------------------------------------------------------------

    def _wake_cleaner(self, ino: Ino) -> None:
        """Another shard has taken an inode's last name away: if it was a bucket's, uploads may be over."""
        inode = inodes.find_inode(self.ledger.store, ino)
        if inode is not None and inode.is_directory:
            self.upload_cleaner.wake()

    async def _set_size(self, ino: Ino, size: int, origin: object) -> None:
        await self.keep_before_cut(ino, size)
        await self.ledger.admit()
        await self.write_back.set_size(ino, size)
        self._subscribers.publish(origin, DataChanged(ino, size, 0))

    def _keep_replaced(
        self, transaction: Transaction, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, now_ns: int
    ) -> Ino | None:
        """See ``keep_removed``, of what a rename is about to replace."""
        source = names.get_dentry(transaction, parent, name)
        target = names.get_dentry(transaction, new_parent, new_name)
        if source is None or target is None or source.ino == target.ino or stat.S_ISDIR(source.kind):
            return None
        return keep_removed(transaction, new_parent, new_name, now_ns, leaves_marker=False)

    def _found(self, ino: Ino, inode: Inode | None) -> Found:
        return Found(ino, None if inode is None else self._seen(ino, inode))

    def _seen(self, ino: Ino, inode: Inode) -> Attributes:
        return attributes_of(ino, self.seen(ino, inode))

    async def _flush_for_trash(self, parent: Ino, name: bytes) -> None:
        """The same of what is about to be removed, if it is kept: as far as that can be, for it goes in any case."""
        if self.ledger.store.keeps_trash:
            with suppress(SiltstoneError):
                await self._flush_entry(parent, name)

    async def _flush_entry(self, parent: Ino, name: bytes) -> None:
        """Commit the dirty bytes of what a directory has under a name. Raises what a lookup does."""
        await self.write_back.flush((await self.find(parent, name)).ino)

    def _unlinked(self, transaction: Transaction, ino: Ino, inode: Inode) -> _Unlinked:
        """What is to be done about an inode that lost a name in this batch; a small one goes with it."""
        dies = inode.nlink == 0
        return _Unlinked(ino, dies, dies and self.orphans.purge_within(transaction, ino))

    def _let_go(self, unlinked: _Unlinked) -> None:
        """The batch that took the name away was committed."""
        if unlinked.dies:
            self.orphans.lost_its_name(unlinked.ino, purged=unlinked.purged)


def within_quotas(space: VolumeSpace, usage: TreeUsage, ino: Ino) -> VolumeSpace:
    """What the quotas that limit an inode leave of some room: the least of all."""
    if not usage.has_quotas:
        return space
    total, free, available = space.total_bytes, space.free_bytes, space.available_bytes
    inodes, inodes_max = space.inodes, 0
    for limited, quota in usage.quotas_over(usage.home_of(ino)):
        size, files = usage.held(limited)
        if quota.bytes:
            left = max(0, quota.bytes - size)
            total, free, available = min(total, quota.bytes), min(free, left), min(available, left)
        if quota.files and (not inodes_max or quota.files - files < inodes_max - inodes):
            inodes, inodes_max = files, quota.files
    return space._replace(
        total_bytes=total, free_bytes=free, available_bytes=available, inodes=inodes, inodes_max=inodes_max
    )


def _entries(reader: StoreReader, ino: Ino, after: bytes | None, limit: int) -> list[tuple[bytes, Ino]]:
    """Names of a directory and where they lead."""
    return [(name, Ino(entry.ino)) for name, entry in names.list_directory(reader, ino, after=after, limit=limit)]


__all__ = ["ROOT_INO", "Volume"]
