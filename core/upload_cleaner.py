"""What finished uploads leave behind: their parts are let go of in steps, also after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import trio

from siltstone.core.ledger import Ledger
from siltstone.core.orphans import Orphans
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import inodes, keys
from siltstone.meta.records import Part, Upload, decode, encode
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
    """Removes the records and parts of uploads that are completed or aborted."""

    def __init__(self, ledger: Ledger, orphans: Orphans) -> None:
        self._ledger = ledger
        self._orphans = orphans
        self._wakeup = trio.Event()
        self._wakeup.set()

    def wake(self) -> None:
        """An upload was finished."""
        self._wakeup.set()

    def finish_all(self, bucket_ino: Ino) -> None:
        """Abort every upload of a bucket that is being deleted."""
        transaction = self._ledger.begin()
        for key, value in list(transaction.scan(*keys.prefix_range(keys.uploads(bucket_ino)))):
            record = decode(Upload, value)
            if not record.finished:
                record.finished = True
                transaction.put(key, encode(record))
        self._ledger.commit(transaction)
        self.wake()

    async def run(self) -> None:
        """Clean up after every finished upload, for ever; begins with what a crash left."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while (found := self._find_finished()) is not None:
                while not await self._remove_step(*found):
                    pass

    def _find_finished(self) -> tuple[Ino, bytes, bytes] | None:
        for partition in range(PARTITION_COUNT):
            for key, value in self._ledger.store.scan(*keys.prefix_range(b"p" + bytes((partition,)) + b"m")):
                if decode(Upload, value).finished:
                    return Ino(int.from_bytes(key[3:11], "big")), *keys.upload_parts(key)
        return None

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
