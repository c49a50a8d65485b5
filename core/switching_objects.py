"""What the S3 door of the owner's process asks, while shards come and go: the volume itself, or the router to all.

A request asks whichever there is when it asks. A body that is being sent, and an object that is being read, may last
for hours: they change over between two calls, and nothing of them is lost (docs/decisions/0019). Back they need not:
the router goes on, and finds everything in this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from siltstone.core.object_store import ObjectStore
from siltstone.core.object_types import NO_CONDITIONS, Conditions, ObjectInfo, PartInfo, PutAttributes
from siltstone.core.objects import ObjectPut, ObjectReader
from siltstone.core.sharded_objects import RemotePartPut, RemotePut, RemoteReader, ShardedObjects
from siltstone.core.turns import Turn, Turns
from siltstone.core.uploads import PartPut
from siltstone.types import Buffer

P = ParamSpec("P")
R = TypeVar("R")
Now = TypeVar("Now")


class SwitchingObjects:
    """The port of ObjectStore and ShardedObjects (s3gw/store.py), which is one of them at a time."""

    def __init__(self, near: ObjectStore) -> None:
        self.turns = Turns()
        self.far: ShardedObjects | None = None
        """Where there are several shards."""
        self.live: set[_Lasting[Any]] = set()
        self._near = near
        counted = self._counted
        self.create_bucket = counted(lambda store: store.create_bucket)
        self.delete_bucket = counted(lambda store: store.delete_bucket)
        self.list_buckets = counted(lambda store: store.list_buckets)
        self.bucket = counted(lambda store: store.bucket)
        self.bucket_of_key = counted(lambda store: store.bucket_of_key)
        self.bucket_documents = counted(lambda store: store.bucket_documents)
        self.set_bucket_documents = counted(lambda store: store.set_bucket_documents)
        self.head = counted(lambda store: store.head)
        self.delete = counted(lambda store: store.delete)
        self.edit = counted(lambda store: store.edit)
        self.list_versions = counted(lambda store: store.list_versions)
        self.copy = counted(lambda store: store.copy)
        self.list_keys = counted(lambda store: store.list_keys)
        self.create_upload = counted(lambda store: store.create_upload)
        self.upload = counted(lambda store: store.upload)
        self.copy_part = counted(lambda store: store.copy_part)
        self.list_parts = counted(lambda store: store.list_parts)
        self.list_uploads = counted(lambda store: store.list_uploads)
        self.complete_upload = counted(lambda store: store.complete_upload)
        self.abort_upload = counted(lambda store: store.abort_upload)
        self._begin_put = counted(lambda store: store.begin_put)
        self._begin_part = counted(lambda store: store.begin_part)
        self._open = counted(lambda store: store.open)

    def use(self, far: ShardedObjects | None) -> Turn:
        """Ask the router (None: the volume) from this turn of the loop on; the calls that began before."""
        self.far = far
        old = self.turns.turn_over()
        for lasting in list(self.live):
            lasting.change_over()
        return old

    async def begin_put(self, bucket: str, key: bytes, *, size_hint: int | None = None) -> SwitchingPut:
        """See Objects."""
        return SwitchingPut(self, await self._begin_put(bucket, key, size_hint=size_hint))

    async def begin_part(self, bucket: str, key: bytes, upload_id: str, number: int) -> SwitchingPart:
        """See Uploads."""
        return SwitchingPart(self, await self._begin_part(bucket, key, upload_id, number))

    async def open(self, bucket: str, key: bytes, version_id: str | None = None) -> SwitchingReader:
        """See Objects."""
        return SwitchingReader(self, await self._open(bucket, key, version_id))

    def _counted(
        self, method: Callable[[ObjectStore], Callable[P, Awaitable[R]]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        async def call(*arguments: P.args, **named: P.kwargs) -> R:
            store: Any = self._near if self.far is None else self.far
            with self.turns.current:
                return await method(store)(*arguments, **named)

        return call


class _Lasting(Generic[Now]):
    """Something that outlasts a call. ``far``: the same over shards."""

    def __init__(self, store: SwitchingObjects, now: Now) -> None:
        self.store = store
        self.now = now
        self._is_busy = False
        store.live.add(self)
        self.change_over()  # what it comes from may have been of the turn before

    def going_on(self, far: ShardedObjects) -> None:
        """Let ``now`` be what goes on over shards, if it is not."""
        raise NotImplementedError

    def change_over(self) -> None:
        """Go on over shards if there are several, unless a call is under way: then at its end."""
        if self.store.far is not None and not self._is_busy and self in self.store.live:
            self.going_on(self.store.far)

    async def busy(self, call: Callable[[], Awaitable[R]], *, is_last: bool = False) -> R:
        """Carry out a call of ``now``."""
        self._is_busy = True
        try:
            with self.store.turns.current:
                return await call()
        finally:
            self._is_busy = False
            if is_last:
                self.store.live.discard(self)
            self.change_over()


class SwitchingPut(_Lasting[ObjectPut | RemotePut]):
    """See ObjectPut."""

    def going_on(self, far: ShardedObjects) -> None:
        """See _Lasting."""
        if isinstance(self.now, ObjectPut):
            self.now = RemotePut.going_on(far, self.now)

    async def write(self, buffer: Buffer) -> None:
        """See ObjectPut."""
        await self.busy(lambda: self.now.write(buffer))

    async def commit(self, attributes: PutAttributes, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """See ObjectPut."""
        return await self.busy(lambda: self.now.commit(attributes, conditions), is_last=True)

    async def abort(self) -> None:
        """See ObjectPut."""
        await self.busy(self.now.abort, is_last=True)


class SwitchingPart(_Lasting[PartPut | RemotePartPut]):
    """See PartPut."""

    def going_on(self, far: ShardedObjects) -> None:
        """See _Lasting."""
        if isinstance(self.now, PartPut):
            self.now = RemotePartPut.going_on(far, self.now)

    async def write(self, buffer: Buffer) -> None:
        """See PartPut."""
        await self.busy(lambda: self.now.write(buffer))

    async def commit(self, *, etag: str, checksums: dict[str, str]) -> PartInfo:
        """See PartPut."""
        return await self.busy(lambda: self.now.commit(etag=etag, checksums=checksums), is_last=True)

    async def abort(self) -> None:
        """See PartPut."""
        await self.busy(self.now.abort, is_last=True)


class SwitchingReader(_Lasting[ObjectReader | RemoteReader]):
    """See ObjectReader."""

    def going_on(self, far: ShardedObjects) -> None:
        """See _Lasting."""
        if isinstance(self.now, ObjectReader):
            self.now = RemoteReader.going_on(far, self.now)

    @property
    def info(self) -> ObjectInfo:
        """What is read."""
        return self.now.info

    async def read(self, offset: int, size: int) -> bytes:
        """See ObjectReader."""
        return await self.busy(lambda: self.now.read(offset, size))

    def close(self) -> None:
        """See ObjectReader."""
        self.store.live.discard(self)
        self.now.close()
