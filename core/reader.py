"""The read path: from a file's range to verified bytes.

Fast when it can be: bytes at hand (page cache, log memory, inline) are read without a checkpoint. Otherwise the read is
fenced, so that the places it looks at are not used again under it.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from siltstone.core.ledger import Ledger, StripeInfo
from siltstone.errors import Corrupt
from siltstone.limits import CHECKSUM_BLOCK_BYTES
from siltstone.meta import extents
from siltstone.meta.records import Extent, Place
from siltstone.types import Buffer, Ino, Lsn, StripeId

CHECKSUM_BYTES = 8


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


class Reader:
    """Reads committed bytes of files."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

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
        if info is not None:
            stripe_id, at = StripeId(extent.address), extent.skip + offset
            data = self._ledger.stripes.read_nowait(info.slab, stripe_id, info.stripe, info.checksums, at, size)
            if data is None:
                data = await self._ledger.stripes.read(info.slab, stripe_id, info.stripe, info.checksums, at, size)
            return data
        data = self._fetch_nowait(extent, offset, size)
        if data is not None:
            return data
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
        raise Corrupt(f"an extent record names place {extent.place}, which this version does not know; run fsck")

    async def _assemble(self, places: Sequence[tuple[int, Extent, StripeInfo | None]], offset: int, size: int) -> bytes:
        if len(places) == 1:
            start, extent, info = places[0]
            if start <= offset and offset + size <= start + extent.length:
                return await self._fetch(extent, info, offset - start, size)
        result = bytearray(size)
        for start, extent, info in places:
            low, high = max(start, offset), min(start + extent.length, offset + size)
            result[low - offset : high - offset] = await self._fetch(extent, info, low - start, high - low)
        return bytes(result)
