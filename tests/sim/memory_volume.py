"""A volume in memory with the interface of ``core.volume.Volume``: for tests of front-ends, and to measure them alone.

It keeps POSIX's rules of names and link counts, tells listeners of changes and asks holders before it purges, and knows
nothing of disks: what is written is there, fsync only counts.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from siltstone.core.types import (
    Attributes,
    AttributesChanged,
    Change,
    DataChanged,
    DirEntry,
    EntryChanged,
    Holder,
    Listener,
    SetAttributes,
    VolumeSpace,
)
from siltstone.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSuchAttribute,
    NotADirectory,
    NotFound,
    NotPermitted,
    NotSupported,
)
from siltstone.types import ROOT_INO, Buffer, Ino


@dataclass(slots=True)
class Node:
    """One inode."""

    ino: Ino
    mode: int
    uid: int
    gid: int
    now_ns: int
    rdev: int = 0
    target: bytes = b""
    nlink: int = 1
    parent: Ino = ROOT_INO
    entries: dict[bytes, Ino] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    version: int = 0


class MemoryVolume:
    """Files in dicts. Time is a counter of nanoseconds that grows with every change."""

    def __init__(self) -> None:
        self._nodes: dict[Ino, Node] = {}
        self._serial = 0
        self._now_ns = 1_700_000_000_000_000_000
        self._listeners: list[Listener] = []
        self._muted = False
        self._waits: dict[Listener, Callable[[], Awaitable[None]]] = {}
        self._holders: list[Holder] = []
        self.flushes: list[Ino] = []
        self.fsyncs: list[Ino] = []
        root = self._make(stat.S_IFDIR | 0o755, 0, 0)
        root.nlink = 2
        assert root.ino == ROOT_INO

    def __contains__(self, ino: Ino) -> bool:
        return ino in self._nodes

    # --- looking ---------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Attributes:
        return self._lookup(parent, name)

    async def attributes(self, ino: Ino) -> Attributes:
        return self._attributes(ino)

    async def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        return self._get_xattr(ino, name)

    def _lookup(self, parent: Ino, name: bytes) -> Attributes:
        directory = self._directory(parent)
        if len(name) > 255:
            raise NameTooLong(f"a name of {len(name)} bytes")
        if name in (b".", b".."):
            return self._attributes(parent if name == b"." else directory.parent)
        ino = directory.entries.get(name)
        if ino is None:
            raise NotFound("no such name")
        return self._attributes(ino)

    def _attributes(self, ino: Ino) -> Attributes:
        node = self._node(ino)
        size = len(node.entries) if node.mode & 0o170000 == 0o040000 else len(node.data) or len(node.target)
        return Attributes(
            ino,
            node.mode,
            node.nlink,
            node.uid,
            node.gid,
            size,
            len(node.data),
            node.rdev,
            node.atime_ns,
            node.mtime_ns,
            node.ctime_ns,
            node.version,
            0,
            node.target,
        )

    async def readlink(self, ino: Ino) -> bytes:
        return self._node(ino).target

    async def parent_of(self, ino: Ino) -> Ino:
        return self._directory(ino).parent

    async def list_directory(self, ino: Ino, *, after: bytes | None, limit: int) -> list[DirEntry]:
        names = sorted(name for name in self._directory(ino).entries if after is None or name > after)
        entries = self._nodes[ino].entries
        return [DirEntry(name, entries[name], self._attributes(entries[name])) for name in names[:limit]]

    def _get_xattr(self, ino: Ino, name: bytes) -> bytes:
        value = self._node(ino).xattrs.get(name)
        if value is None:
            raise NoSuchAttribute("no such attribute")
        return value

    async def list_xattrs(self, ino: Ino) -> list[bytes]:
        return sorted(self._node(ino).xattrs)

    async def space(self) -> VolumeSpace:
        return VolumeSpace(1 << 40, 1 << 39, 1 << 38, len(self._nodes))

    # --- names -----------------------------------------------------------------------------------------------------

    async def create(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = 0, origin: object = None
    ) -> Attributes:
        return self._enter_new(parent, name, mode, uid, gid, origin, rdev=rdev)

    async def mkdir(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        return self._enter_new(parent, name, stat.S_IFDIR | mode, uid, gid, origin)

    async def symlink(
        self, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        return self._enter_new(parent, name, stat.S_IFLNK | 0o777, uid, gid, origin, target=target)

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, origin: object = None) -> Attributes:
        node, directory = self._node(ino), self._free(parent, name)
        if stat.S_ISDIR(node.mode):
            raise NotPermitted("a directory has one name")
        node.nlink += 1
        node.ctime_ns = self._touch(directory)
        directory.entries[name] = ino
        self._publish(origin, EntryChanged(parent, name, ino, False))
        return self._attributes(ino)

    async def unlink(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        directory = self._directory(parent)
        node = self._node(self._lookup(parent, name).ino)
        if stat.S_ISDIR(node.mode):
            raise IsADirectory("a directory")
        del directory.entries[name]
        node.ctime_ns = self._touch(directory)
        self._drop_link(node)
        self._publish(origin, EntryChanged(parent, name, node.ino, True))

    async def rmdir(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        directory = self._directory(parent)
        node = self._directory(self._lookup(parent, name).ino)
        if node.entries:
            raise DirectoryNotEmpty("not empty")
        del directory.entries[name]
        directory.nlink -= 1
        self._touch(directory)
        self._drop_link(node)
        self._publish(origin, EntryChanged(parent, name, node.ino, True))

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
        source, target = self._directory(parent), self._directory(new_parent)
        node = self._node(self._lookup(parent, name).ino)
        other = self._nodes.get(target.entries.get(new_name, Ino(0)))
        if no_replace and other is not None:
            raise AlreadyExists("the name is taken")
        if exchange and other is None:
            raise NotFound("nothing to exchange with")
        if other is node:
            return
        if other is not None and not exchange:
            self._check_replaceable(node, other)
        self._move(node, source, name, target, new_name)
        if other is not None and exchange:
            self._move(other, target, None, source, name)
        elif other is not None:
            if stat.S_ISDIR(other.mode):
                target.nlink -= 1
            self._drop_link(other)
        self._publish(origin, EntryChanged(parent, name, node.ino, not exchange))
        self._publish(origin, EntryChanged(new_parent, new_name, node.ino, False))

    # --- attributes ------------------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, changes: SetAttributes, *, origin: object = None) -> Attributes:
        node = self._node(ino)
        if not changes.keeps_ctime:
            node.ctime_ns = self._tick()
        if changes.size is not None:
            node.mtime_ns = node.ctime_ns
            del node.data[changes.size :]
            node.data.extend(bytes(changes.size - len(node.data)))
            self._publish(origin, DataChanged(ino, changes.size, 0))
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | changes.mode
        for name in ("uid", "gid", "atime_ns", "mtime_ns"):
            value = getattr(changes, name)
            if value is not None:
                setattr(node, name, value)
        self._publish(origin, AttributesChanged(ino))
        return self._attributes(ino)

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
        if not name.startswith((b"user.", b"trusted.", b"security.")):
            raise NotSupported("no such namespace")
        self._node(ino).xattrs[name] = value
        self._publish(origin, AttributesChanged(ino))

    async def remove_xattr(self, ino: Ino, name: bytes, *, origin: object = None) -> None:
        self._get_xattr(ino, name)
        del self._node(ino).xattrs[name]
        self._publish(origin, AttributesChanged(ino))

    # --- bytes -----------------------------------------------------------------------------------------------------

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        return bytes(memoryview(self._node(ino).data)[offset : offset + size])

    async def write(self, ino: Ino, offset: int, data: Buffer, *, origin: object = None) -> int:
        node = self._node(ino)
        if offset > len(node.data):
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.mtime_ns = node.ctime_ns = self._tick()
        node.version += 1
        self._publish(origin, DataChanged(ino, offset, len(data)))
        return len(data)

    async def flush(self, ino: Ino) -> None:
        self.flushes.append(ino)

    async def fsync(self, ino: Ino, *, data_only: bool = False) -> None:
        self.fsyncs.append(ino)

    async def sync(self) -> None:
        self.fsyncs.append(ROOT_INO)

    # --- holders and listeners -------------------------------------------------------------------------------------

    def subscribe(
        self,
        listener: Listener,
        *,
        wait_seen: Callable[[], Awaitable[None]] | None = None,
        on_missed: Callable[[], None] | None = None,
    ) -> None:
        self._listeners.append(listener)
        if wait_seen is not None:
            self._waits[listener] = wait_seen

    def unsubscribe(self, listener: Listener) -> None:
        self._listeners.remove(listener)
        self._waits.pop(listener, None)

    def mute(self) -> None:
        """Tell nobody of anything any more."""
        self._muted = True

    async def wait_seen(self) -> None:
        for wait_seen in self._waits.values():
            await wait_seen()

    def register_holder(self, holder: Holder) -> None:
        self._holders.append(holder)

    def unregister_holder(self, holder: Holder) -> None:
        self._holders.remove(holder)

    def released(self, ino: Ino) -> None:
        node = self._nodes.get(ino)
        if node is not None and node.nlink == 0 and not any(holder.holds(ino) for holder in self._holders):
            del self._nodes[ino]

    # --- inside ----------------------------------------------------------------------------------------------------

    def _publish(self, origin: object, change: Change) -> None:
        if not self._muted:
            for listener in self._listeners:
                listener(origin, change)

    def _tick(self) -> int:
        self._now_ns += 1
        return self._now_ns

    def _touch(self, directory: Node) -> int:
        directory.mtime_ns = directory.ctime_ns = self._tick()
        return directory.ctime_ns

    def _node(self, ino: Ino) -> Node:
        node = self._nodes.get(ino)
        if node is None:
            raise NotFound("no such inode")
        return node

    def _directory(self, ino: Ino) -> Node:
        node = self._node(ino)
        if not stat.S_ISDIR(node.mode):
            raise NotADirectory("not a directory")
        return node

    def _free(self, parent: Ino, name: bytes) -> Node:
        directory = self._directory(parent)
        if directory.nlink == 0:
            raise NotFound("the directory is removed")
        if len(name) > 255:
            raise NameTooLong(f"a name of {len(name)} bytes")
        if name in directory.entries:
            raise AlreadyExists("the name is taken")
        return directory

    def _make(self, mode: int, uid: int, gid: int) -> Node:
        self._serial += 1
        now_ns = self._tick()
        node = Node(Ino(self._serial), mode, uid, gid, now_ns, atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns)
        self._nodes[node.ino] = node
        return node

    def _enter_new(
        self,
        parent: Ino,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        origin: object,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Attributes:
        directory = self._free(parent, name)
        node = self._make(mode if stat.S_IFMT(mode) else stat.S_IFREG | mode, uid, gid)
        node.rdev, node.target = rdev, target
        if stat.S_ISDIR(mode):
            node.nlink, node.parent = 2, parent
            directory.nlink += 1
        directory.entries[name] = node.ino
        self._touch(directory)
        self._publish(origin, EntryChanged(parent, name, node.ino, False))
        return self._attributes(node.ino)

    def _check_replaceable(self, node: Node, other: Node) -> None:
        if stat.S_ISDIR(node.mode):
            if self._directory(other.ino).entries:
                raise DirectoryNotEmpty("not empty")
        elif stat.S_ISDIR(other.mode):
            raise IsADirectory("a directory is in the way")

    def _move(self, node: Node, source: Node, name: bytes | None, target: Node, new_name: bytes) -> None:
        if stat.S_ISDIR(node.mode):
            ancestor = target
            while ancestor.ino != ROOT_INO:
                if ancestor is node:
                    raise InvalidArgument("a directory cannot go below itself")
                ancestor = self._nodes[ancestor.parent]
            source.nlink -= 1
            target.nlink += 1
            node.parent = target.ino
        if name is not None:
            del source.entries[name]
        target.entries[new_name] = node.ino
        self._touch(source)
        node.ctime_ns = self._touch(target)

    def _drop_link(self, node: Node) -> None:
        node.nlink = 0 if stat.S_ISDIR(node.mode) else node.nlink - 1
        self.released(node.ino)
