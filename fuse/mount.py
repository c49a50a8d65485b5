"""Serves a volume as a mount, from the checks of the directory to a clean unmount."""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable

import pyfuse3
import trio
from pyfuse3 import FileNameT, InodeT

from siltstone.core.tree import Tree
from siltstone.core.turns import Turn, Turns
from siltstone.errors import Refused, SiltstoneError
from siltstone.fuse import mountpoint as mountpoints
from siltstone.fuse.forgetting import Forgetter
from siltstone.fuse.invalidate import Invalidator
from siltstone.fuse.operations import Operations
from siltstone.fuse.options import DEFAULTS, AccessTimes, MountOptions
from siltstone.fuse.reader import Reader, fuse_descriptors, taking_turns, watched
from siltstone.types import Ino

READ_AHEAD_KIB = 4096
"""Readahead of the mount when it can be set: four requests of 1 MiB under way keep the disks of a stripe busy."""

MAX_BACKGROUND = 64
"""Readahead and writeback requests that the kernel keeps under way; its default of 12 is for slow media."""

READY_SECONDS = 30.0
UNMOUNT_SECONDS = 30.0
"""How long the kernel may write back before a mount is taken away from under its users."""

NOBODY_WAITS = (os.strerror(errno.ENOENT),)
"""What the kernel says to an answer that nobody waits for any more: the caller was killed, or the mount is gone."""

INC_EPOCH = struct.pack("=IiQ", 16, 8, 0)
"""A notification (struct fuse_out_header: length, FUSE_NOTIFY_INC_EPOCH, to no request) that libfuse 3.14 cannot send:
what names led to, or that they led nowhere, is to be asked for anew. Linux has it from 6.16 on."""

logger = logging.getLogger("siltstone.fuse")


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether what pyfuse3 logs as an error is one: it tells of each answer that came after its caller's end."""
    return not ("fuse_reply_*" in str(record.msg) and record.args == NOBODY_WAITS)


async def serve_mount(
    volume: Tree,
    mountpoint: str,
    *,
    options: MountOptions = DEFAULTS,
    source: str = mountpoints.SUBTYPE,
    watch: Callable[[ServedMount], object] = lambda mount: None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount the volume and serve it until it is unmounted (by us, on cancel, or by umount(8)).

    ``source`` is what `df` shows first. ``watch`` is given the mount when it has begun. ``task_status`` is
    told the real path when files can be used. On cancel the kernel's data is written back and the mount taken away,
    lazily if programs still use it; the volume is not closed.
    Raises Refused, with nothing mounted, when the directory is missing, not a directory, not empty, or the system does
    not let us mount. One mount per process, as pyfuse3 has it.
    """
    path = await _prepare(mountpoint)
    kernel = KernelCache()
    operations = Operations(volume, options, kernel.invalidate_attributes)
    handles = operations.handles
    forgetter = Forgetter(volume, handles, kernel, options.known_inodes_max)
    invalidator = Invalidator(operations, handles.knows, kernel)
    mount = ServedMount(volume, operations, forgetter, invalidator, kernel)
    reader = Reader()
    words = kernel_options(options, source, is_root=os.geteuid() == 0)
    sessions = fuse_descriptors()
    logging.getLogger("pyfuse3").addFilter(is_worth_a_line)
    try:
        pyfuse3.init(watched(operations, reader, mount.turns), path, words)
    except RuntimeError as error:
        raise Refused(f"cannot mount on {mountpoint}: {error}; libfuse has told why on stderr") from error
    (session,) = fuse_descriptors() - sessions
    reader.attach(session)
    kernel.attach(session)
    mount.begin()
    watch(mount)
    try:
        with taking_turns(reader):
            async with trio.open_nursery() as nursery:
                ended = trio.Event()
                nursery.start_soon(_serve, ended)
                nursery.start_soon(invalidator.run)
                nursery.start_soon(forgetter.run)
                try:
                    await _become_ready(path)
                    task_status.started(path)
                    await ended.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await _unmount(path, ended, reader)
                nursery.cancel_scope.cancel()
    finally:
        # Only now, with no thread at work that uses the session.
        pyfuse3.close(unmount=True)
        mount.end()


class ServedMount:
    """A mount as this process serves it, of one tree or another of the same volume."""

    def __init__(
        self, tree: Tree, operations: Operations, forgetter: Forgetter, invalidator: Invalidator, kernel: KernelCache
    ) -> None:
        self.handles = operations.handles
        """What the kernel holds."""
        self.turns = Turns()
        self._tree = tree
        self._operations = operations
        self._forgetter = forgetter
        self._invalidator = invalidator
        self._kernel = kernel
        self._is_over = False

    def begin(self) -> None:
        """Hear what changes, and be asked what is held."""
        self._tree.register_holder(self.handles)
        self._listen()

    def end(self) -> None:
        """The kernel holds nothing any more."""
        self._is_over = True
        self._tree.unsubscribe(self._invalidator.hear)
        self._tree.unregister_holder(self.handles)
        self.handles.close()

    def use(self, tree: Tree, options: MountOptions) -> Turn:
        """Serve another tree from this turn of the loop on; the requests that began before."""
        if self._is_over:
            return Turn()
        before, self._tree = self._tree, tree
        before.unsubscribe(self._invalidator.hear)
        self._listen()
        tree.register_holder(self.handles)
        before.unregister_holder(self.handles)
        self._operations.use(tree, options)
        self._forgetter.volume = tree
        # What it was told before may be remembered for longer than what this tree says should be.
        self._kernel.forget_names()
        return self.turns.turn_over()

    def _listen(self) -> None:
        self._tree.subscribe(
            self._invalidator.hear,
            wait_seen=self._invalidator.wait_seen,
            on_missed=lambda: self._invalidator.miss(self.handles.known()),
        )


class _Word(str):
    """A word for libfuse, which pyfuse3 wants to be ASCII; names of files need not be."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        """As the system has names."""
        return os.fsencode(str(self))


def kernel_options(options: MountOptions, source: str, *, is_root: bool) -> set[str]:
    """What libfuse is told of a mount. The kernel keeps no access times of FUSE's: that word is only shown."""
    name = _Word("fsname=" + source.replace("\\", "\\\\").replace(",", "\\,"))
    words = {"default_permissions", f"subtype={mountpoints.SUBTYPE}", name, *options.kernel}
    if options.access_times is AccessTimes.NEVER:
        words.add("noatime")
    if is_root and "allow_root" not in words:
        # Others may ask only root to look into their mounts; a mount made by root is for everybody, like any disk.
        words.add("allow_other")
    return words


class KernelCache:
    """The kernel's cache of this mount; see invalidate.Kernel. To be attached before it is told anything."""

    def __init__(self) -> None:
        self._session = -1

    def attach(self, session: int) -> None:
        """Where the kernel is told what pyfuse3 cannot say: the open file of the session."""
        self._session = session

    def forget_names(self) -> bool:
        """Ask for all names anew."""
        try:
            os.write(self._session, INC_EPOCH)
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a kernel that does not know it
                logger.info("the kernel was not told to ask for names anew: %s", error)
            return False
        return True

    def invalidate_entry(self, parent: Ino, name: bytes) -> bool:
        """Forget a name."""
        try:
            pyfuse3.invalidate_entry(InodeT(parent), FileNameT(name))
        except OSError as error:
            return _missing(error)
        return True

    def invalidate_attributes(self, ino: Ino) -> bool:
        """Forget attributes. Takes no lock, so it may be called in the loop."""
        return self._invalidate_inode(ino, attr_only=True)

    def invalidate_data(self, ino: Ino) -> bool:
        """Forget attributes and pages."""
        return self._invalidate_inode(ino, attr_only=False)

    def _invalidate_inode(self, ino: Ino, *, attr_only: bool) -> bool:
        try:
            pyfuse3.invalidate_inode(InodeT(ino), attr_only=attr_only)
        except OSError as error:
            return _missing(error)
        return True


def _missing(error: OSError) -> bool:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        # The mount is being taken away; there is no cache any more.
        logger.info("an invalidation failed: %s", error)
    return False


async def _prepare(mountpoint: str) -> str:
    """The checks of the directory, in a thread: this very loop may serve what is mounted there."""
    with trio.move_on_after(READY_SECONDS):
        return await trio.to_thread.run_sync(mountpoints.prepare, mountpoint, abandon_on_cancel=True)
    raise Refused(f"cannot mount on {mountpoint}: what is mounted there does not answer")


async def _serve(ended: trio.Event) -> None:
    """Answer requests until the mount is gone. Shielded: unmounting needs answers too."""
    try:
        with trio.CancelScope(shield=True):
            await pyfuse3.main()
    finally:
        ended.set()


async def _become_ready(path: str) -> None:
    with trio.move_on_after(READY_SECONDS) as scope:
        await trio.to_thread.run_sync(os.stat, path, abandon_on_cancel=True)
    if scope.cancelled_caught:
        raise Refused(f"the mount on {path} does not answer")
    await trio.to_thread.run_sync(_tune, path)


def _tune(path: str) -> None:
    if os.geteuid() == 0:
        failures = mountpoints.tune(path, read_ahead_kib=READ_AHEAD_KIB, max_background=MAX_BACKGROUND)
        if failures:
            logger.info("the mount keeps some of the kernel's settings: %s", "; ".join(failures))


async def _unmount(path: str, ended: trio.Event, reader: Reader) -> None:
    """Take the mount away and end ``_serve``, which answers the kernel's last writes meanwhile."""
    if ended.is_set():
        return
    with trio.move_on_after(UNMOUNT_SECONDS):
        try:
            if await trio.to_thread.run_sync(_take_away, path, abandon_on_cancel=True):
                await ended.wait()
        except SiltstoneError as error:
            logger.warning("unmounting: %s", error)
    if not ended.is_set():
        # Requests that have begun are still answered; pyfuse3.close() takes away what is left of the mount.
        pyfuse3.terminate()
        reader.end()
        await ended.wait()


def _take_away(path: str) -> bool:
    """Unmount with everything written back. False: programs use the mount, so it is only taken off the tree."""
    try:
        mountpoints.unmount(path)
    except Refused as error:
        logger.warning("%s; its open files end with the mount", error)
        mountpoints.write_back(path)
        mountpoints.unmount(path, lazy=True)
        return False
    return True
