"""What does a file take in the metadata? Bytes of its records, and of LMDB's pages, by what kind of file it is.

Records: keys, values, and the 10 bytes that LMDB adds to each. Pages: how much LMDB grew. What pages have over records
is room that splitting leaves in them, and the levels above.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio
import xxhash

from siltstone.core.object_types import PutAttributes
from siltstone.core.objects import Objects
from siltstone.core.volume import Volume
from siltstone.limits import KIB
from siltstone.types import ROOT_INO

NODE_BYTES = 10
"""LMDB's header of a node (8), and its place in the page's list (2)."""

KINDS = {b"i": "inode", b"d": "entry", b"e": "extent", b"b": "object"}
SPACE_KINDS = {b"r": "reference", b"l": "reference", b"T": "stripe", b"K": "checksums"}


class FileBytes(NamedTuple):
    """Bytes of metadata for a file of one kind."""

    kind: str
    records: dict[str, float]
    """By kind of record."""
    pages: float

    @property
    def fill(self) -> float:
        """How full LMDB's pages are."""
        return round(sum(self.records.values()) / self.pages, 3)


def record_bytes(volume: Volume) -> dict[str, int]:
    """Bytes of all records there are, by kind."""
    total: dict[str, int] = {}
    for key, value in volume.ledger.store.scan(b"", b"\xff"):
        kind = KINDS.get(key[2:3]) if key[:1] == b"p" else SPACE_KINDS.get(key[1:2])
        total[kind or "other"] = total.get(kind or "other", 0) + len(key) + len(value) + NODE_BYTES
    return total


async def measure_sizes(volume: Volume, count: int) -> list[FileBytes]:
    """Make so many of each kind."""
    objects = Objects(volume)
    await objects.create_bucket("sizes", owner="me")

    async def make(directory: bytes, name: Callable[[int], bytes], size: int) -> None:
        parent = (await volume.mkdir(ROOT_INO, directory, mode=0o755, uid=1000, gid=1000)).ino
        for number in range(count):
            ino = (await volume.create(parent, name(number), mode=0o100644, uid=1000, gid=1000)).ino
            if size:
                await volume.write(ino, 0, bytes(size))
                await volume.flush(ino)
            await trio.lowlevel.checkpoint()

    async def put(number: int) -> None:
        writer = await objects.begin_put("sizes", b"photos/2026/11/IMG_%06d.jpg" % number)
        await writer.write(bytes(4 * KIB))
        digest = b"%032x" % xxhash.xxh3_128_intdigest(number.to_bytes(8, "big"))
        checksums = {"CRC64NVME": "AAAAAAAAAAA="}
        await writer.commit(
            PutAttributes(
                etag=digest.decode(),
                owner="me",
                headers={"content-type": "image/jpeg"},
                checksums=checksums,
                checksum_type="FULL_OBJECT",
            )
        )

    async def put_all() -> None:
        for first in range(0, count, 64):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(first + 64, count)):
                    nursery.start_soon(put, number)
        await volume.settle()

    def camera(number: int) -> bytes:
        return b"IMG_%06d.jpg" % number

    def hashed(number: int) -> bytes:
        return b"%016x" % xxhash.xxh3_64_intdigest(number.to_bytes(8, "big"))

    async def settled() -> None:
        await make(b"settled", camera, 4 * KIB)
        await volume.settle()

    kinds: dict[str, Callable[[], Awaitable[None]]] = {
        "empty, names ascend": lambda: make(b"ascending", camera, 0),
        "empty, names in no order": lambda: make(b"mixed", hashed, 0),
        "100 bytes, inline": lambda: make(b"inline", camera, 100),
        "4 KiB, settled": settled,
        "4 KiB object, settled": put_all,
    }
    return [await _measure(volume, kind, work, count) for kind, work in kinds.items()]


async def _measure(volume: Volume, kind: str, work: Callable[[], Awaitable[None]], count: int) -> FileBytes:
    store = volume.ledger.store
    await store.checkpoint()
    before, pages = record_bytes(volume), store.statistics().space.used_bytes
    await work()
    await volume.sync()
    await store.checkpoint()
    after = record_bytes(volume)
    grown = {name: round((size - before.get(name, 0)) / count, 1) for name, size in after.items()}
    grown = {name: size for name, size in grown.items() if size >= 0.1}
    return FileBytes(kind, grown, round((store.statistics().space.used_bytes - pages) / count, 1))
