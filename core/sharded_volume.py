"""The volume as front-ends see it when the namespace is spread over shards: each call goes where it belongs.

An operation on a name goes to the shard of the directory, which asks others where it must (docs/decisions/0011); what
is about a file's bytes or attributes goes to the shard of its inode, which has its dirty bytes. A shard answers for an
entry whose inode is another's with the number only, and that one is asked then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

from siltstone.core.calls import Nameless, News, Spread
from siltstone.core.disk_access import DiskAccess
from siltstone.core.events import Subscribers
from siltstone.core.far_files import FarFiles
from siltstone.core.status_sum import sum_of_spaces
from siltstone.core.tree import Tree
from siltstone.core.types import (
    Attributes,
    AttributesChanged,
    Change,
    DataChanged,
    DirEntry,
    EntryChanged,
    Found,
    Holder,
    SetAttributes,
    VolumeSpace,
)
from siltstone.errors import NotFound, SiltstoneError
from siltstone.meta.shards.map import MapView
from siltstone.meta.shards.messages import PeerLost
from siltstone.ports import Clock
from siltstone.types import Buffer, Ino, ShardId, partition_of

T = TypeVar("T")

LOOKUP_ATTEMPTS_MAX = 100
"""How often a name is looked up again because what it led to was gone by the time it was asked for."""

CHANGED_MAX = 4096
"""Inodes of which it is remembered when they changed."""

POLL_AGAIN_SECONDS = 0.1
"""How long is waited before a shard that is away is asked for news again."""


def _none(answer: object) -> Iterable[Ino]:
    """It says nothing of inodes."""
    return ()


class Calls(Protocol):
    """The way to the shards (core/caller.py)."""

    async def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Have a method of the volume carried out by the shard that has the inode which is its first argument."""

    async def call_on(self, shard: ShardId, name: str) -> Any:
        """Have a method that is about no inode carried out by one shard."""

    async def call_all(self, name: str) -> None:
        """Have a method that is about no inode carried out by every shard."""

    async def poll(self, shard: ShardId, session: int, seen: int, let_go: list[Ino]) -> News:
        """Hear from a shard what has changed there. Raises PeerLost."""

    async def end_reads(self, shard: ShardId, leases: list[int]) -> None:
        """Tell a shard of leases that are not needed any more. Raises PeerLost."""

    def forget(self, shard: ShardId) -> None:
        """A shard is gone for good."""


class Here(NamedTuple):
    """The shard in the process of the front-end. ``client``: what changes carry that the front-end makes there."""

    shard: ShardId
    volume: Tree
    client: bytes


class ShardedVolume:
    """Routes, for one front-end. What each method does is told where ``Volume`` defines it.

    ``origin`` says nothing here: the shards know each front-end, and tell it only what others do.
    """

    def __init__(
        self,
        calls: Calls,
        partitions: MapView,
        clock: Clock,
        disks: DiskAccess | None = None,
        *,
        here: Here | None = None,
    ) -> None:
        """``disks``: to read from; without them everything is read by the shards. ``here``: the shard that is in this
        process, if one is: it needs no polls."""
        self._calls = calls
        self.files = FarFiles(calls, disks, clock)
        self._here = here
        self._call = calls.call
        self._partitions = partitions
        self._clock = clock
        self._subscribers = Subscribers()
        self._holders: list[Holder] = []
        self._held: dict[ShardId, set[Ino]] = {}
        """Nameless inodes that a shard has asked about, and that were held then."""
        self._let_go: dict[ShardId, list[Ino]] = {}
        self._letting_go: dict[ShardId, trio.CancelScope] = {}
        self._heard: dict[ShardId, trio.Event] = {}
        """Set when a shard has answered for the first time."""
        self._listening: dict[ShardId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._changes = 0
        """Changes heard of."""
        self._changed: dict[Ino, int] = {}
        """Which of them was the last of an inode, in order; up to ``_forgotten`` it is not known of which they were."""
        self._forgotten = 0
        self.unsubscribe = self._subscribers.unsubscribe
        self.subscribe = self._subscribers.subscribe
        self.follow_shards()

    async def run(self) -> None:
        """Hear of what others change, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.files.run)
            self._nursery = nursery
            for shard in self._held:
                nursery.start_soon(self._listen, shard)
            if self._here is not None:
                self._here.volume.subscribe(self._hear_here, wait_seen=self._subscribers.wait_seen)
            try:
                await trio.sleep_forever()
            finally:
                if self._here is not None:
                    self._here.volume.unsubscribe(self._hear_here)

    def follow_shards(self) -> None:
        """Listen to all shards that there are by the map, and to no others."""
        shards = self._partitions().shards()
        for shard in shards:
            if shard in self._held or (self._here is not None and shard == self._here.shard):
                continue
            self._held[shard], self._let_go[shard], self._heard[shard] = set(), [], trio.Event()
            if self._nursery is not None:
                self._nursery.start_soon(self._listen, shard)
        for shard in [shard for shard in self._held if shard not in shards]:
            del self._held[shard], self._let_go[shard]
            self._heard.pop(shard).set()
            if shard in self._listening:
                self._listening.pop(shard).cancel()
            self._calls.forget(shard)

    async def wait_heard(self) -> None:
        """Return when every shard has answered: nothing that it changes is missed from then on."""
        for heard in list(self._heard.values()):
            await heard.wait()

    def register_holder(self, holder: Holder) -> None:
        """See Volume."""
        self._holders.append(holder)
        if self._here is not None:
            self._here.volume.register_holder(holder)

    def unregister_holder(self, holder: Holder) -> None:
        """See Volume."""
        self._holders.remove(holder)
        if self._here is not None:
            self._here.volume.unregister_holder(holder)
        for held in self._held.values():
            for ino in list(held):
                self.released(ino)

    def released(self, ino: Ino) -> None:
        """See Volume. Shards that have asked are told: the one that has it now, and perhaps another that had it."""
        if self._here is not None:
            self._here.volume.released(ino)
        for shard, held in self._held.items():
            if ino in held and not self._holds(ino):
                held.discard(ino)
                self._let_go[shard].append(ino)
                if shard in self._letting_go:
                    self._letting_go[shard].cancel()  # the poll that waits there is sent anew, with this

    # --- looking ---------------------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Attributes:
        """See Volume."""
        for _ in range(LOOKUP_ATTEMPTS_MAX):
            found: Found = await self._asked(
                self._call("find", parent, name),
                EntryChanged(parent, name, parent, True),
                lambda answer: (answer.ino,),
            )
            if found.attributes is not None:
                return found.attributes
            try:
                return await self.attributes(found.ino)
            except NotFound:
                continue  # the name led there a moment ago: now it leads elsewhere, or is gone
        raise NotFound(f"{name!r} in directory {parent} leads to inode {found.ino}, which is not there; run fsck")

    async def attributes(self, ino: Ino) -> Attributes:
        """See Volume."""
        result: Attributes = await self._asked(self._call("attributes", ino), AttributesChanged(ino))
        return result

    async def readlink(self, ino: Ino) -> bytes:
        """See Volume."""
        result: bytes = await self._call("readlink", ino)
        return result

    async def list_directory(self, ino: Ino, *, after: bytes | None, limit: int) -> list[DirEntry]:
        """See Volume. An entry whose inode goes while the shards are asked is left out, as if it had gone before."""
        began = self._changes
        entries = await self._list(ino, after, limit)
        if self._changes != began:
            for entry in entries:
                self._tell_again(began, EntryChanged(ino, entry.name, entry.ino, True))
                self._tell_again(began, AttributesChanged(entry.ino))
        return entries

    async def _list(self, ino: Ino, after: bytes | None, limit: int) -> list[DirEntry]:
        found: list[tuple[bytes, Found]] = await self._call("find_many", ino, after, limit)
        elsewhere: dict[ShardId, list[Ino]] = {}
        for _, (entry, attributes) in found:
            if attributes is None:
                elsewhere.setdefault(self._owner(entry), []).append(entry)
        known: dict[Ino, Attributes | None] = {}

        async def ask(shard: ShardId, wanted: list[Ino]) -> None:
            known.update(zip(wanted, await self._call("attributes_of_many", wanted), strict=True))

        async with trio.open_nursery() as nursery:
            for shard, wanted in elsewhere.items():
                nursery.start_soon(ask, shard, wanted)
        entries = ((name, entry, attributes or known[entry]) for name, (entry, attributes) in found)
        return [DirEntry(name, entry, attributes) for name, entry, attributes in entries if attributes is not None]

    async def parent_of(self, ino: Ino) -> Ino:
        """See Volume."""
        result: Ino = await self._call("parent_of", ino)
        return result

    async def get_xattr(self, ino: Ino, name: bytes) -> bytes:
        """See Volume."""
        result: bytes = await self._call("get_xattr", ino, name)
        return result

    async def list_xattrs(self, ino: Ino) -> list[bytes]:
        """See Volume."""
        result: list[bytes] = await self._call("list_xattrs", ino)
        return result

    # --- names -----------------------------------------------------------------------------------------------------

    async def create(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = 0, origin: object = None
    ) -> Attributes:
        """See Volume."""
        result: Attributes = await self._call("create", parent, name, mode=mode, uid=uid, gid=gid, rdev=rdev)
        return result

    async def mkdir(
        self, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """See Volume."""
        result: Attributes = await self._call("mkdir", parent, name, mode=mode, uid=uid, gid=gid)
        return result

    async def symlink(
        self, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int, origin: object = None
    ) -> Attributes:
        """See Volume."""
        result: Attributes = await self._call("symlink", parent, name, target, uid=uid, gid=gid)
        return result

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, origin: object = None) -> Attributes:
        """See Volume."""
        result: Attributes = await self._call("link", ino, parent, name)
        return result

    async def unlink(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """See Volume."""
        await self._call("unlink", parent, name)

    async def rmdir(self, parent: Ino, name: bytes, *, origin: object = None) -> None:
        """See Volume."""
        await self._call("rmdir", parent, name)

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
        await self._call("rename", parent, name, new_parent, new_name, exchange=exchange, no_replace=no_replace)

    # --- attributes and bytes --------------------------------------------------------------------------------------

    async def set_attributes(self, ino: Ino, changes: SetAttributes, *, origin: object = None) -> Attributes:
        """See Volume."""
        with self._changing(ino):
            result: Attributes = await self._call("set_attributes", ino, changes)
        return result

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
        await self._call("set_xattr", ino, name, value, create=create, replace=replace)

    async def remove_xattr(self, ino: Ino, name: bytes, *, origin: object = None) -> None:
        """See Volume."""
        await self._call("remove_xattr", ino, name)

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """See Volume."""
        return await self._asked(self.files.read(ino, offset, size), DataChanged(ino, 0, 0))

    async def write(self, ino: Ino, offset: int, data: Buffer, *, origin: object = None) -> int:
        """See Volume."""
        with self._changing(ino):
            result: int = await self._call("write", ino, offset, data)
        return result

    async def flush(self, ino: Ino) -> None:
        """See Volume."""
        await self._call("flush", ino)

    async def fsync(self, ino: Ino, *, data_only: bool = False) -> None:
        """See Volume."""
        await self._call("fsync", ino, data_only=data_only)

    async def sync(self) -> None:
        """See Volume."""
        await self._calls.call_all("sync")

    async def space(self) -> VolumeSpace:
        """See Volume; of all shards together."""
        shards = self._partitions().shards()
        found: list[VolumeSpace] = [await self._calls.call_on(shard, "space") for shard in shards]
        return sum_of_spaces(found)

    # --- news ------------------------------------------------------------------------------------------------------

    def _holds(self, ino: Ino) -> bool:
        return any(holder.holds(ino) for holder in self._holders)

    def _hear_here(self, origin: object, change: Change) -> None:
        """The shard in this process has changed something, but for what came through this front-end."""
        assert self._here is not None
        if origin != self._here.client:
            self._note(change)
            self._subscribers.publish(None, change)

    async def _listen(self, shard: ShardId) -> None:
        with trio.CancelScope() as scope:
            self._listening[shard] = scope
            await self._hear_from(shard)

    async def _hear_from(self, shard: ShardId) -> None:
        session = seen = 0
        while True:
            let_go, self._let_go[shard] = self._let_go[shard], []
            news: News | None = None
            try:
                with trio.CancelScope() as scope:
                    if not let_go:
                        self._letting_go[shard] = scope
                    news = await self._calls.poll(shard, session, seen, let_go)
            except PeerLost:
                self._let_go[shard] = let_go + self._let_go[shard]
                await self._clock.sleep(POLL_AGAIN_SECONDS)
                continue
            finally:
                self._letting_go.pop(shard, None)
            if news is None:
                continue
            self._heard[shard].set()
            if news.session != session:
                if session:
                    self.files.forget_all()
                    self._subscribers.missed()
                session = news.session
                self._held[shard].clear()
            for item in news.items:
                self._take(shard, item)
            if shard not in self._held:
                return
            await self._subscribers.wait_seen()
            seen = news.number

    def _take(self, shard: ShardId, item: Change | Nameless | Spread) -> None:
        if isinstance(item, Spread):
            self._partitions.learn(item.placements)
            self._partitions.resize(item.count)
            self.follow_shards()
        elif not isinstance(item, Nameless):
            self._note(item)
            self._subscribers.publish(None, item)
        elif self._holds(item.ino):
            self._held[shard].add(item.ino)
        else:
            self._let_go[shard].append(item.ino)

    def _note(self, change: Change) -> None:
        self._changes += 1
        for ino in (change.ino, change.parent) if isinstance(change, EntryChanged) else (change.ino,):
            self._changed.pop(ino, None)
            self._changed[ino] = self._changes
            self.files.forget(ino)
        while len(self._changed) > CHANGED_MAX:
            self._forgotten = self._changed.pop(next(iter(self._changed)))

    async def _asked(self, ask: Awaitable[T], before: Change, inodes_of: Callable[[T], Iterable[Ino]] = _none) -> T:
        """An answer, which may be older than news that came before it: who has dropped what he cached of it then, and
        caches it now, is told again. ``before``: what the answer is about; ``inodes_of``: and what it says."""
        began = self._changes
        try:
            answer = await ask
        except SiltstoneError:
            self._tell_again(began, before)  # that there is no such name is cached, too
            raise
        if self._changes != began:
            self._tell_again(began, before)
            for ino in inodes_of(answer):
                self._tell_again(began, AttributesChanged(ino))
        return answer

    def _tell_again(self, began: int, change: Change) -> None:
        subject = change.parent if isinstance(change, EntryChanged) else change.ino
        if self._forgotten > began or self._changed.get(subject, 0) > began:
            self._subscribers.publish(None, change)

    # --- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self, ino: Ino) -> Iterator[None]:
        """While this front-end changes a file, of which it is told nothing: what is read behind it sees it."""
        self.files.forget(ino)
        try:
            yield
        finally:
            self.files.forget(ino)

    def _owner(self, ino: Ino) -> ShardId:
        return self._partitions().owner(partition_of(ino))

    async def _flush_elsewhere(self, parent: Ino, name: bytes) -> None:
        """Commit the dirty bytes of an entry's inode where the shard of the directory cannot. Raises as a lookup."""
        found: Found = await self._call("find", parent, name)
        if found.attributes is None:
            await self._call("flush", found.ino)
