"""The volume as front-ends see it when the namespace is spread over shards: each call goes where it belongs.

An operation on a name goes to the shard of the directory, which asks others where it must (docs/decisions/0011); what
is about a file's bytes or attributes goes to the shard of its inode, which has its dirty bytes. A shard answers for an
entry whose inode is another's with the number only, and that one is asked then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import trio

from siltstone.core.types import Attributes, DirEntry, Found, SetAttributes
from siltstone.errors import NotFound
from siltstone.meta.shards.map import PartitionMap
from siltstone.types import Buffer, Ino, ShardId, partition_of

LOOKUP_ATTEMPTS_MAX = 100
"""How often a name is looked up again because what it led to was gone by the time it was asked for."""


class ShardVolume(Protocol):
    """What a shard offers: the methods of ``Volume`` that are about one directory or one inode of its own."""

    async def find(self, parent: Ino, name: bytes) -> Found: ...
    async def find_many(self, ino: Ino, after: bytes | None, limit: int) -> list[tuple[bytes, Found]]: ...
    async def attributes(self, ino: Ino) -> Attributes: ...
    async def attributes_of_many(self, wanted: Sequence[Ino]) -> list[Attributes | None]: ...
    async def readlink(self, ino: Ino) -> bytes: ...
    async def parent_of(self, ino: Ino) -> Ino: ...
    async def get_xattr(self, ino: Ino, name: bytes) -> bytes: ...
    async def list_xattrs(self, ino: Ino) -> list[bytes]: ...
    async def create(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = ..., origin: object = ...
    ) -> Attributes: ...
    async def mkdir(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, origin: object = ...
    ) -> Attributes: ...
    async def symlink(
        self, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int, origin: object = ...
    ) -> Attributes: ...
    async def link(self, ino: Ino, parent: Ino, name: bytes, *, origin: object = ...) -> Attributes: ...
    async def unlink(self, parent: Ino, name: bytes, *, origin: object = ...) -> None: ...
    async def rmdir(self, parent: Ino, name: bytes, *, origin: object = ...) -> None: ...
    async def rename(
        self,
        parent: Ino,
        name: bytes,
        new_parent: Ino,
        new_name: bytes,
        *,
        exchange: bool = ...,
        no_replace: bool = ...,
        origin: object = ...,
    ) -> None: ...
    async def set_attributes(self, ino: Ino, changes: SetAttributes, *, origin: object = ...) -> Attributes: ...
    async def set_xattr(
        self, ino: Ino, name: bytes, value: bytes, *, create: bool = ..., replace: bool = ..., origin: object = ...
    ) -> None: ...
    async def remove_xattr(self, ino: Ino, name: bytes, *, origin: object = ...) -> None: ...
    async def read(self, ino: Ino, offset: int, size: int) -> bytes: ...
    async def write(self, ino: Ino, offset: int, data: Buffer, *, origin: object = ...) -> int: ...
    async def flush(self, ino: Ino) -> None: ...
    async def fsync(self, ino: Ino, *, data_only: bool = ...) -> None: ...
    async def sync(self) -> None: ...


class ShardedVolume:
    """Routes. What each method does is told where ``Volume`` defines it."""

    def __init__(self, shards: Mapping[ShardId, ShardVolume], partitions: Callable[[], PartitionMap]) -> None:
        self._shards = shards
        self._partitions = partitions

    # --- looking ---------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Attributes:
        """See Volume."""
        for _ in range(LOOKUP_ATTEMPTS_MAX):
            ino, attributes = await self._of(parent).find(parent, name)
            if attributes is not None:
                return attributes
            try:
                return await self._of(ino).attributes(ino)
            except NotFound:
                continue  # the name led there a moment ago: now it leads elsewhere, or is gone
        raise NotFound(f"{name!r} in directory {parent} leads to inode {ino}, which is not there; run fsck")

    async def attributes(self, ino: Ino) -> Attributes:
        """See Volume."""
        return await self._of(ino).attributes(ino)

    async def readlink(self, ino: Ino) -> bytes:
        """See Volume."""
        return await self._of(ino).readlink(ino)

    async def list_directory(self, ino: Ino, *, after: bytes | None, limit: int) -> list[DirEntry]:
        """See Volume. An entry whose inode goes while the shards are asked is left out, as if it had gone before."""
        found = await self._of(ino).find_many(ino, after, limit)
        elsewhere: dict[ShardId, list[Ino]] = {}
        for _, (entry, attributes) in found:
            if attributes is None:
                elsewhere.setdefault(self._owner(entry), []).append(entry)
        known: dict[Ino, Attributes | None] = {}

        async def ask(shard: ShardId, wanted: list[Ino]) -> None:
            known.update(zip(wanted, await self._shards[shard].attributes_of_many(wanted), strict=True))

        async with trio.open_nursery() as nursery:
            for shard, wanted in elsewhere.items():
                nursery.start_soon(ask, shard, wanted)
        entries = ((name, entry, attributes or known[entry]) for name, (entry, attributes) in found)
        return [DirEntry(name, entry, attributes) for name, entry, attributes in entries if attributes is not None]

    async def parent_of(self, ino: Ino) -> Ino:
        """See Volume."""
        return await self._of(ino).parent_of(ino)

    async def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        """See Volume."""
        return await self._of(ino).get_xattr(ino, name)

    async def list_xattrs(self, ino: Ino) -> list[bytes]:
        """See Volume."""
        return await self._of(ino).list_xattrs(ino)

    # --- names -----------------------------------------------------------------------------------------------------

    async def create(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = 0, origin: object = None
    ) -> Attributes:
        """See Volume."""
        return await self._of(parent).create(parent, name, mode=mode, uid=uid, gid=gid, rdev=rdev, origin=origin)

    async def mkdir(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """See Volume."""
        return await self._of(parent).mkdir(parent, name, mode=mode, uid=uid, gid=gid, origin=origin)

    async def symlink(
        self, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """See Volume."""
        return await self._of(parent).symlink(parent, name, target, uid=uid, gid=gid, origin=origin)

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, origin: object = None) -> Attributes:
        """See Volume."""
        await self._of(ino).flush(ino)
        linked = await self._of(parent).link(ino, parent, name, origin=origin)
        return linked if self._owner(ino) == self._owner(parent) else await self.attributes(ino)

    async def unlink(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """See Volume."""
        await self._of(parent).unlink(parent, name, origin=origin)

    async def rmdir(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """See Volume."""
        await self._of(parent).rmdir(parent, name, origin=origin)

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
        """See Volume. What is moved has its inode changed in its shard, behind its dirty bytes in that shard's log."""
        await self._flush_elsewhere(parent, name)
        if exchange:
            await self._flush_elsewhere(new_parent, new_name)
        await self._of(parent).rename(
            parent, name, new_parent, new_name, exchange=exchange, no_replace=no_replace, origin=origin
        )

    # --- attributes and bytes --------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, changes: SetAttributes, *, origin: object = None) -> Attributes:
        """See Volume."""
        return await self._of(ino).set_attributes(ino, changes, origin=origin)

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
        """See Volume."""
        await self._of(ino).set_xattr(ino, name, value, create=create, replace=replace, origin=origin)

    async def remove_xattr(self, ino: Ino, name: bytes, *, origin: object = None) -> None:
        """See Volume."""
        await self._of(ino).remove_xattr(ino, name, origin=origin)

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """See Volume."""
        return await self._of(ino).read(ino, offset, size)

    async def write(self, ino: Ino, offset: int, data: Buffer, *, origin: object = None) -> int:
        """See Volume."""
        return await self._of(ino).write(ino, offset, data, origin=origin)

    async def flush(self, ino: Ino) -> None:
        """See Volume."""
        await self._of(ino).flush(ino)

    async def fsync(self, ino: Ino, *, data_only: bool = False) -> None:
        """See Volume."""
        await self._of(ino).fsync(ino, data_only=data_only)

    async def sync(self) -> None:
        """See Volume."""
        async with trio.open_nursery() as nursery:
            for shard in self._shards.values():
                nursery.start_soon(shard.sync)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _owner(self, ino: Ino) -> ShardId:
        return self._partitions().owner(partition_of(ino))

    def _of(self, ino: Ino) -> ShardVolume:
        return self._shards[self._owner(ino)]

    async def _flush_elsewhere(self, parent: Ino, name: bytes) -> None:
        """Commit the dirty bytes of an entry's inode where the shard of the directory cannot. Raises as a lookup."""
        ino, attributes = await self._of(parent).find(parent, name)
        if attributes is None:
            await self._of(ino).flush(ino)
