"""The read path: from a file's range to verified bytes.

Fast when it can be: bytes at hand (page cache, log memory, inline) are read without a checkpoint. Otherwise the read is
fenced, so that the places it looks at are not used again under it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio
import xxhash

from siltstone.core.ledger import Ledger, StripeInfo
from siltstone.errors import Corrupt, SiltstoneError
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.meta import extents
from siltstone.meta.records import Extent, Place
from siltstone.types import Buffer, Ino, Lsn, ShardId, StripeId

CHECKSUM_BYTES = 8

FETCHES_TOGETHER = 8
"""Places of a file that one read waits for at the same time. More would keep a disk from everybody else."""


def payload_checksums(payload: Buffer) -> bytes:
    """xxh3-64 of every 16 KiB of a payload, little endian, one after the other."""
    if len(payload) <= CHECKSUM_BLOCK_BYTES:
        return xxhash.xxh3_64_intdigest(payload).to_bytes(8, "little")
    view = memoryview(payload)
    return b"".join(
        xxhash.xxh3_64_intdigest(view[at : at + CHECKSUM_BLOCK_BYTES]).to_bytes(8, "little")
        for at in range(0, len(view), CHECKSUM_BLOCK_BYTES)
    )


class LogSlice:
    """The whole checksum blocks of a logged payload that cover a range of an extent."""

    def __init__(self, extent: Extent, offset: int, size: int) -> None:
        start = extent.skip + offset
        self.first = start // CHECKSUM_BLOCK_BYTES * CHECKSUM_BLOCK_BYTES
        end = min(extent.span, -(-(start + size) // CHECKSUM_BLOCK_BYTES) * CHECKSUM_BLOCK_BYTES)
        self.address = Lsn(extent.address + self.first)
        self.size = end - self.first
        block = self.first // CHECKSUM_BLOCK_BYTES
        count = -(-self.size // CHECKSUM_BLOCK_BYTES)
        self._checksums = extent.blob[block * CHECKSUM_BYTES : (block + count) * CHECKSUM_BYTES]
        self._inner = start - self.first
        self._wanted = size

    def verify(self, data: Buffer) -> bool:
        """Whether the blocks read are what was written."""
        return len(data) == self.size and payload_checksums(data) == self._checksums

    def cut(self, data: bytes) -> bytes:
        """The bytes that were asked for."""
        if self._inner == 0 and self._wanted == len(data):
            return data
        return data[self._inner : self._inner + self._wanted]


class _Late(NamedTuple):
    """Bytes [offset, offset + size) of an extent, which are not at hand, and their place in what is read."""

    extent: Extent
    info: StripeInfo | None
    offset: int
    size: int
    place: int


class Reader:
    """Reads committed bytes of files."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.borrow: Callable[[ShardId, Ino, int, int], Awaitable[bytes]] | None = None
        """How bytes are read that another shard still has (meta/shards/borrowing.py)."""

    async def read(self, ino: Ino, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset``; holes are zeros. The caller has clipped the range to the file's size.

        Raises Corrupt (StripeUnreadable) when redundancy cannot mend what is damaged, Unavailable when too many
        disks are away.
        """
        found = extents.find(self._ledger.store, ino, offset, offset + size)
        if len(found) == 1:
            start, extent = found[0]
            if start <= offset and offset + size <= start + extent.length:
                data = self._fetch_nowait(extent, offset - start, size)
                if data is not None:
                    return data
        era = self._ledger.fence.enter()
        try:
            # Looked up before anything is awaited: the fence keeps the bytes where they are, not the records.
            places = [(start, extent, self._info(extent)) for start, extent in found]
            return await self._assemble(places, offset, size)
        finally:
            self._ledger.fence.leave(era)

    async def fetch(self, extent: Extent, offset: int, size: int) -> bytes:
        """``size`` verified bytes of one extent from its ``offset`` on. The caller holds the fence, and has looked the
        extent up without an await since."""
        return await self._fetch(extent, self._info(extent), offset, size)

    def _info(self, extent: Extent) -> StripeInfo | None:
        return self._ledger.stripe_info(StripeId(extent.address)) if extent.place == Place.STRIPE else None

    async def _fetch(self, extent: Extent, info: StripeInfo | None, offset: int, size: int) -> bytes:
        data = self._at_hand(extent, info, offset, size)
        return await self._wait_for(extent, info, offset, size) if data is None else data

    def _at_hand(self, extent: Extent, info: StripeInfo | None, offset: int, size: int) -> bytes | None:
        """The bytes if that needs no waiting."""
        if info is None:
            return self._fetch_nowait(extent, offset, size)
        stripe_id, at = StripeId(extent.address), extent.skip + offset
        return self._ledger.stripes.read_nowait(info.slab, stripe_id, info.stripe, info.checksums, at, size)

    async def _wait_for(self, extent: Extent, info: StripeInfo | None, offset: int, size: int) -> bytes:
        """What is not at hand."""
        if info is not None:
            stripe_id, at = StripeId(extent.address), extent.skip + offset
            return await self._ledger.stripes.read(info.slab, stripe_id, info.stripe, info.checksums, at, size)
        if extent.place == Place.REMOTE:
            if self.borrow is None:
                raise Corrupt(f"an extent record names shard {extent.address}, and there are no shards; run fsck")
            return await self.borrow(ShardId(extent.address), Ino(extent.span), extent.skip + offset, size)
        piece = LogSlice(extent, offset, size)
        return piece.cut(await self._ledger.log.read(piece.address, piece.size, piece.verify))

    def _fetch_nowait(self, extent: Extent, offset: int, size: int) -> bytes | None:
        if extent.place == Place.STRIPE:
            stripe_id = StripeId(extent.address)
            info = self._ledger.stripe_info(stripe_id)
            return self._ledger.stripes.read_nowait(
                info.slab, stripe_id, info.stripe, info.checksums, extent.skip + offset, size
            )
        if extent.place == Place.LOG:
            piece = LogSlice(extent, offset, size)
            data = self._ledger.log.read_nowait(piece.address, piece.size)
            return piece.cut(data) if data is not None and piece.verify(data) else None
        if extent.place == Place.INLINE:
            return extent.blob[offset : offset + size]
        if extent.place == Place.REMOTE:
            return None
        raise Corrupt(f"an extent record names place {extent.place}, which this version does not know; run fsck")

    async def _assemble(self, places: Sequence[tuple[int, Extent, StripeInfo | None]], offset: int, size: int) -> bytes:
        if len(places) == 1:
            start, extent, info = places[0]
            if start <= offset and offset + size <= start + extent.length:
                return await self._fetch(extent, info, offset - start, size)
        result = bytearray(size)
        late: list[_Late] = []
        for start, extent, info in places:
            low, high = max(start, offset), min(start + extent.length, offset + size)
            data = self._at_hand(extent, info, low - start, high - low)
            if data is None:
                late.append(_Late(extent, info, low - start, high - low, low - offset))
            else:
                result[low - offset : high - offset] = data
        if late:
            await self._fetch_together(late, result)
        return bytes(result)

    async def _fetch_together(self, late: Sequence[_Late], result: bytearray) -> None:
        """Fetch pieces into their places in ``result``, some side by side. Raises what the first that fails raises."""
        todo = iter(late)
        failures: list[SiltstoneError] = []

        async def fetch(scope: trio.CancelScope) -> None:
            for extent, info, offset, size, place in todo:
                try:
                    result[place : place + size] = await self._wait_for(extent, info, offset, size)
                except SiltstoneError as error:
                    failures.append(error)
                    scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(FETCHES_TOGETHER, len(late))):
                nursery.start_soon(fetch, nursery.cancel_scope)
        if failures:
            raise failures[0]
