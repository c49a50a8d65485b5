"""An in-memory filesystem straight on pyfuse3: the ceiling of what any mount served from Python can reach.

It does the least that the benchmark's operations need, with no translation and no durability. Started as
``python bench/ceiling/memfs.py DIRECTORY``; prints "ready" when mounted, ends when it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio
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


class MemoryFiles(pyfuse3.Operations):
    """Inodes in a dict, names in dicts, bytes in bytearrays."""

    def __init__(self) -> None:
        super().__init__()
        self._serial = 0
        self._entries: dict[int, EntryAttributes] = {}
        self._names: dict[int, dict[bytes, int]] = {}
        self._data: dict[int, bytearray] = {}
        self._absent = EntryAttributes()
        self._absent.st_ino = InodeT(0)
        self._make(stat.S_IFDIR | 0o755)

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        ino = self._names[parent_inode].get(name)
        return self._absent if ino is None else self._entries[ino]

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entries[inode]

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        entry = self._entries[inode]
        if fields.update_size:
            data = self._data[inode]
            del data[attr.st_size :]
            data.extend(bytes(attr.st_size - len(data)))
            entry.st_size = attr.st_size
        if fields.update_mode:
            entry.st_mode = attr.st_mode
        return entry

    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return self._enter(parent_inode, name, mode)

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        entry = self._enter(parent_inode, name, mode)
        return FileInfo(fh=FileHandleT(entry.st_ino)), entry

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        ino = self._names[parent_inode].pop(name)
        del self._entries[ino]
        del self._data[ino]

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        self._names[parent_inode_new][name_new] = self._names[parent_inode_old].pop(name_old)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        ino = self._names[parent_inode].pop(name)
        del self._entries[ino]
        del self._names[ino]

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self._data[inode].clear()
            self._entries[inode].st_size = 0
        return FileInfo(fh=FileHandleT(inode))

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(memoryview(self._data[fh])[off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        data = self._data[fh]
        data.extend(bytes(max(0, off - len(data))))
        data[off : off + len(buf)] = buf
        self._entries[fh].st_size = len(data)
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        pass

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        for index, (name, ino) in enumerate(list(self._names[fh].items())[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, FileNameT(name), self._entries[ino], index):
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 28
        data.f_namemax = 255
        return data

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        raise FUSEError(errno.ENODATA)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        pass

    def _make(self, mode: int) -> EntryAttributes:
        self._serial += 1
        entry = EntryAttributes()
        entry.st_ino = InodeT(self._serial)
        entry.st_mode = ModeT(mode)
        if stat.S_ISDIR(mode):
            self._names[entry.st_ino] = {}
        else:
            self._data[entry.st_ino] = bytearray()
        self._entries[entry.st_ino] = entry
        return entry

    def _enter(self, parent: int, name: bytes, mode: int) -> EntryAttributes:
        entry = self._make(mode)
        self._names[parent][name] = entry.st_ino
        return entry


def main(directory: str) -> None:
    """Mount and serve."""
    pyfuse3.init(MemoryFiles(), directory, {"fsname=memfs", "default_permissions"})
    print("ready", flush=True)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(sys.argv[1])
