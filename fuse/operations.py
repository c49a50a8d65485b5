"""The request handlers: translate, call the volume, translate back.

Nothing here knows how files are stored. The kernel checks permissions (``default_permissions``), applies the umask,
clears set-user-id bits and keeps locks; it caches names, attributes and pages until it is told otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from siltstone.core.tree import Tree
from siltstone.core.types import Attributes, DirEntry, SetAttributes
from siltstone.errors import AlreadyExists, NotFound, SiltstoneError
from siltstone.fuse.attributes import (
    absent_entry,
    changes_of,
    changes_of_emptying,
    directory_stub,
    entry_of,
    is_access_to_note,
    show,
    statvfs_of,
)
from siltstone.fuse.errors import answered, answered_of_inode
from siltstone.fuse.handles import Handles
from siltstone.fuse.options import DEFAULTS, AccessTimes, MountOptions
from siltstone.types import Ino

RENAME_NOREPLACE = int(pyfuse3.RENAME_NOREPLACE)
RENAME_EXCHANGE = int(pyfuse3.RENAME_EXCHANGE)

logger = logging.getLogger("siltstone.fuse")


class Operations(pyfuse3.Operations):
    """The handlers of one mount. The object itself is the ``origin`` of the changes that come through it.

    With ``options.writeback`` the kernel gathers writes in its page cache and sends them later; small sequential writes
    get faster, errors surface only at fsync and close.
    """

    supports_dot_lookup = True
    enable_acl = False

    def __init__(
        self,
        volume: Tree,
        options: MountOptions = DEFAULTS,
        forget_attributes: Callable[[Ino], object] = lambda ino: None,
    ) -> None:
        """``forget_attributes`` has the kernel forget those of an inode; must not block."""
        super().__init__()
        self.enable_writeback_cache = options.writeback
        self.handles = Handles(self._released)
        self._forget_attributes = forget_attributes
        self.use(volume, options)
        self._notes_access = options.access_times is not AccessTimes.NEVER and not options.is_read_only

    def use(self, volume: Tree, options: MountOptions) -> None:
        """Ask another tree of the same volume from now on."""
        self._volume = volume
        self._options = options
        self._absent = absent_entry(options)

    # --- names -----------------------------------------------------------------------------------------------------

    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """Find a name; that there is none is an answer which the kernel remembers too."""
        try:
            attributes = await self._volume.lookup(Ino(parent_inode), name)
        except NotFound:
            return self._absent
        return self._enter(attributes)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Count lookups back. Must not raise."""
        try:
            self.handles.forget(inode_list)
        except Exception:
            logger.exception("forget failed unexpectedly")

    @answered
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a file, fifo, socket or device."""
        return self._enter(
            await self._volume.create(
                Ino(parent_inode), name, mode=mode, uid=ctx.uid, gid=ctx.gid, rdev=rdev, origin=self
            )
        )

    @answered
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        """Make a directory."""
        return self._enter(
            await self._volume.mkdir(Ino(parent_inode), name, mode=mode, uid=ctx.uid, gid=ctx.gid, origin=self)
        )

    @answered
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a symbolic link."""
        return self._enter(
            await self._volume.symlink(Ino(parent_inode), name, target, uid=ctx.uid, gid=ctx.gid, origin=self)
        )

    @answered
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Give a file another name."""
        return self._enter(await self._volume.link(Ino(inode), Ino(new_parent_inode), new_name, origin=self))

    @answered
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Take a name away.

        What is neither a file nor a symbolic link the kernel opens without asking us: that it knows a fifo may mean
        that somebody has it open, so it stays until it is forgotten.
        """
        parent = Ino(parent_inode)
        attributes = await self._volume.lookup(parent, name)
        is_opened_here = stat.S_ISREG(attributes.mode) or stat.S_ISLNK(attributes.mode)
        with self.handles.unlinking(attributes.ino) if is_opened_here else contextlib.nullcontext():
            await self._volume.unlink(parent, name, origin=self)

    @answered
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        await self._volume.rmdir(Ino(parent_inode), name, origin=self)

    @answered
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """Move an entry. RENAME_WHITEOUT, which overlay filesystems want of their upper layer, is refused."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise FUSEError(errno.EINVAL)
        await self._volume.rename(
            Ino(parent_inode_old),
            name_old,
            Ino(parent_inode_new),
            name_new,
            exchange=bool(flags & RENAME_EXCHANGE),
            no_replace=bool(flags & RENAME_NOREPLACE),
            origin=self,
        )

    @answered_of_inode
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """A symbolic link's target."""
        target = await self._volume.readlink(Ino(inode))
        if self._notes_access:
            await self._note_access(await self._volume.attributes(Ino(inode)))
        return FileNameT(target)

    # --- attributes ------------------------------------------------------------------------------------------------

    @answered_of_inode
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """An inode's attributes, with what is written but not yet committed."""
        return entry_of(await self._volume.attributes(Ino(inode)), self._options)

    @answered_of_inode
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """chmod, chown, utimensat, truncate."""
        changed = await self._volume.set_attributes(Ino(inode), changes_of(attr, fields), origin=self)
        return entry_of(changed, self._options)

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Room of the volume."""
        return statvfs_of(await self._volume.space())

    @answered_of_inode
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """The value of an extended attribute. The kernel asks for security.capability before every write."""
        return await self._volume.get_xattr(Ino(inode), name)

    @answered_of_inode
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute; pyfuse3 has checked XATTR_CREATE and XATTR_REPLACE by a getxattr."""
        await self._volume.set_xattr(Ino(inode), name, value, origin=self)

    @answered_of_inode
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """The names of an inode's extended attributes."""
        return [XAttrNameT(name) for name in await self._volume.list_xattrs(Ino(inode))]

    @answered_of_inode
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        await self._volume.remove_xattr(Ino(inode), name, origin=self)

    # --- file data -------------------------------------------------------------------------------------------------

    @answered
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make a file and open it.

        The kernel sends this for names that it takes for absent. If another front-end has just made one, ESTALE has it
        look again and then open the file with its usual checks of permission, which are not ours to repeat.
        """
        try:
            attributes = await self._volume.create(
                Ino(parent_inode), name, mode=mode, uid=ctx.uid, gid=ctx.gid, origin=self
            )
        except AlreadyExists:
            if flags & os.O_EXCL:
                raise
            raise FUSEError(errno.ESTALE) from None
        fh = self.handles.open_file(attributes.ino, flags)
        return FileInfo(fh=FileHandleT(fh)), self._enter(attributes)

    @answered_of_inode
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Open a file; O_TRUNC is ours to carry out (libfuse turns atomic_o_trunc on).

        Pages stay cached from one open to the next, as every change from elsewhere invalidates them. O_DIRECT needs
        nothing: the kernel then passes by its cache; ``direct_io`` would only forbid shared mappings.
        """
        ino = Ino(inode)
        attributes = await self._volume.attributes(ino)
        if flags & os.O_ACCMODE != os.O_RDONLY and attributes.is_read_only:
            raise FUSEError(errno.EROFS)
        if flags & os.O_TRUNC:
            changes = changes_of_emptying(attributes.mode, ctx.uid)
            attributes = await self._volume.set_attributes(ino, changes, origin=self)
        if self._notes_access and flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_NOATIME:
            await self._note_access(attributes)
        return FileInfo(fh=FileHandleT(self.handles.open_file(ino, flags)))

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Bytes of a file; short at its end only."""
        return await self._volume.read(self.handles.files[fh].ino, off, size)

    @answered
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write at an offset that the kernel has chosen, also for O_APPEND, under its lock of the inode.

        The offset is not questioned for handles with O_APPEND: the kernel may write back pages of a shared mapping
        through any handle of the file, and those must land where they belong. ``buf`` is nobody else's: not copied.
        """
        handle = self.handles.files[fh]
        size = await self._volume.write(handle.ino, off, buf, origin=self)
        if handle.synchronous:
            await self._volume.fsync(handle.ino)
        return size

    @answered
    async def flush(self, fh: FileHandleT) -> None:
        """A close(2): what was written is committed, though not yet durable, and what went wrong is told."""
        handle = self.handles.files[fh]
        if handle.writable:
            await self._volume.flush(handle.ino)

    @answered
    async def release(self, fh: FileHandleT) -> None:
        """The last user of an open file has gone."""
        self.handles.close_file(fh)

    @answered
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Make a file durable."""
        await self._volume.fsync(self.handles.files[fh].ino, data_only=datasync)

    # --- directories -----------------------------------------------------------------------------------------------

    @answered_of_inode
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """Open a directory."""
        await self._volume.attributes(Ino(inode))
        return FileHandleT(self.handles.open_directory(Ino(inode)))

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """List entries with their attributes. Each that finds room counts as a lookup; "." and ".." do not."""
        handle = self.handles.directories[fh]
        volume, handles, options = self._volume, self.handles, self._options
        if self._notes_access and start_id == 0:
            await self._note_access(await volume.attributes(handle.ino))

        async def fetch(after: bytes | None, limit: int) -> list[DirEntry]:
            return await volume.list_directory(handle.ino, after=after, limit=limit)

        async def emit_dot(name: bytes, cookie: int) -> bool:
            ino = handle.ino if name == b"." else await volume.parent_of(handle.ino)
            return pyfuse3.readdir_reply(token, FileNameT(name), directory_stub(ino), cookie)

        def emit(entries: Sequence[DirEntry], cookies: Iterable[int]) -> int:
            reply, shown = pyfuse3.readdir_reply, EntryAttributes()
            emitted = 0
            for (name, _, attributes), cookie in zip(entries, cookies):  # noqa: B905 (numbers without an end)
                # What was shown is copied at once, so that one object will do for all.
                if not reply(token, FileNameT(name), show(attributes, shown, options), cookie):
                    break
                emitted += 1
            handles.listed(entries[:emitted])
            return emitted

        await handle.serve(start_id, fetch, emit_dot, emit)

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        """The last user of an open directory has gone."""
        self.handles.close_directory(fh)

    @answered
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Make a directory's changes durable: they are in the log before this moment, as everything is."""
        await self._volume.fsync(self.handles.directories[fh].ino, data_only=datasync)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _released(self, ino: Ino) -> None:
        self._volume.released(ino)

    async def _note_access(self, attributes: Attributes) -> None:
        """What has these attributes is read. That a full or failing pool cannot note it fails no read."""
        now_ns = time.time_ns()
        if is_access_to_note(attributes, self._options.access_times, now_ns):
            changes = SetAttributes(atime_ns=now_ns, keeps_ctime=True)
            with contextlib.suppress(SiltstoneError):
                await self._volume.set_attributes(attributes.ino, changes, origin=self)
            # Of this change the kernel knows nothing when it has the pages, and so does not ask for them.
            self._forget_attributes(attributes.ino)

    def _enter(self, attributes: Attributes) -> EntryAttributes:
        """Answer with an entry, which counts as a lookup of its inode."""
        self.handles.looked_up(attributes.ino)
        return entry_of(attributes, self._options)
