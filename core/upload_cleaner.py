"""What finished uploads leave behind: their parts are let go of in steps, also after a restart.

An upload is finished when it is completed or aborted, and when its bucket is gone, whichever door removed that.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.orphans import Orphans
from siltstone.meta import inodes, keys
from siltstone.meta.records import Part, Upload, decode, decode_inode
from siltstone.meta.store.port import Reader
from siltstone.types import Ino, partition_of

REMOVE_STEP_PARTS = 500
"""Parts that one batch lets go of at the most."""


def parts_of(reader: Reader, bucket_ino: Ino, upload_id: bytes, after: int) -> Iterator[tuple[int, Part]]:
    """The parts of an upload with numbers above ``after``, in order."""
    start, end = keys.prefix_range(keys.parts(partition_of(bucket_ino), upload_id))
    if after:
        start = keys.part(partition_of(bucket_ino), upload_id, after) + b"\0"
    for key, value in reader.scan(start, end):
        yield keys.part_number(key), decode(Part, value)


class UploadCleaner:
    """Removes the records and parts of uploads that are finished."""

    def __init__(self, ledger: Ledger, orphans: Orphans) -> None:
        self._ledger = ledger
        self._orphans = orphans
        self._wakeup = trio.Event()
        self._wakeup.set()

    def wake(self) -> None:
        """An upload was finished, or what may be a bucket was removed."""
        self._wakeup.set()

    async def run(self) -> None:
        """Clean up after every finished upload, for ever; begins with what a crash left."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while (found := self._find_finished()) is not None:
                while not await self._remove_step(*found):
                    await trio.lowlevel.checkpoint()

    def _find_finished(self) -> tuple[Ino, bytes, bytes] | None:
        for partition in self._ledger.owned_partitions():
            for key, value in self._ledger.store.scan(*keys.prefix_range(b"p" + bytes((partition,)) + b"m")):
                bucket_ino = Ino(int.from_bytes(key[3:11], "big"))
                if decode(Upload, value).finished or self._is_gone(bucket_ino):
                    return bucket_ino, *keys.upload_parts(key)
        return None

    def _is_gone(self, bucket_ino: Ino) -> bool:
        value = self._ledger.store.get(keys.inode(bucket_ino))
        return value is None or decode_inode(value).nlink == 0

    async def _remove_step(self, bucket_ino: Ino, key: bytes, upload_id: bytes) -> bool:
        await self._ledger.admit()
        transaction = self._ledger.begin()
        parts = list(islice(parts_of(transaction, bucket_ino, upload_id, 0), REMOVE_STEP_PARTS))
        for number, part in parts:
            transaction.delete(keys.part(partition_of(bucket_ino), upload_id, number))
            inodes.mark_orphan(transaction, Ino(part.ino))
        done = len(parts) < REMOVE_STEP_PARTS
        if done:
            transaction.delete(keys.upload(bucket_ino, key, upload_id))
        self._ledger.commit(transaction)
        for _, part in parts:
            self._orphans.add(Ino(part.ino))
        return done
