"""One file of a simulated disk: what readers see, what is durable, and what is left after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from siltstone.ports import Random
from siltstone.types import Buffer

SECTOR_BYTES = 512
"""A disk writes this much whole or not at all."""

BLOCK_BYTES = 4096
"""Room is taken and given back in this step."""


_ZEROS = bytes(BLOCK_BYTES)


class PendingWrite(NamedTuple):
    """A change of the contents that no flush has covered yet."""

    offset: int
    data: bytes


class Range(NamedTuple):
    """Bytes [start, stop) of a file."""

    start: int
    stop: int


class SimFile:
    """``data`` is what readers see; ``_durable`` what every crash leaves; ``_pending`` leads from one to the other."""

    def __init__(self, data: Buffer = b"") -> None:
        self.data = bytearray(data)
        self._durable = bytearray(data)
        self._pending: list[PendingWrite] = []
        self._blocks = bytearray(b"\1" * (-(-len(data) // BLOCK_BYTES)))
        self._punched: set[int] = set()
        """Blocks that were given back and that a crash could bring back."""

    @property
    def allocated_bytes(self) -> int:
        """Room that the file takes."""
        return self._blocks.count(1) * BLOCK_BYTES

    @property
    def held_bytes(self) -> int:
        """The same with what a crash could bring back."""
        return self.allocated_bytes + len(self._punched) * BLOCK_BYTES

    @property
    def pending_writes(self) -> int:
        """Writes and punches that no flush has covered."""
        return len(self._pending)

    def bytes_to_allocate(self, offset: int, size: int) -> int:
        """Room that a write there would take beyond what the file has."""
        if not size:
            return 0
        first, last = offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)
        return (last - first - self._blocks[first:last].count(1)) * BLOCK_BYTES

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Change what readers see; extends the file when it passes its end."""
        data = b"".join(buffers)
        if not data:
            return
        end = offset + len(data)
        _put(self.data, offset, data)
        first, last = offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if len(self._blocks) < last:
            self._blocks.extend(bytes(last - len(self._blocks)))
        self._blocks[first:last] = b"\1" * (last - first)
        self._punched.difference_update(range(first, last))
        self._pending.append(PendingWrite(offset, data))

    def punch(self, offset: int, size: int) -> None:
        """Zeros for readers; whole blocks of the range are given back."""
        size = min(size, len(self.data) - offset)
        if size <= 0:
            return
        zeros = bytes(size)
        self.data[offset : offset + size] = zeros
        first, last = -(-offset // BLOCK_BYTES), (offset + size) // BLOCK_BYTES
        self._punched.update(block for block in range(first, last) if self._blocks[block])
        if last > first:
            self._blocks[first:last] = bytes(last - first)
        self._pending.append(PendingWrite(offset, zeros))

    def settle_punches(self) -> None:
        """Blocks that were given back do not come back."""
        if self._punched:
            zeroed = [Range(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES) for block in self._punched]
            _zero(self._durable, 0, zeroed)
            self._pending = [_without(write, zeroed) for write in self._pending]
            self._punched.clear()

    def begin_flush(self) -> int:
        """What a flush that begins now covers; hand it to ``end_flush``."""
        return len(self._pending)

    def end_flush(self, covered: int) -> None:
        """Make durable what was written before ``begin_flush``."""
        for write in self._pending[:covered]:
            _put(self._durable, write.offset, write.data)
        del self._pending[:covered]

    def rot(self, offset: int, size: int) -> None:
        """Invert stored bytes, for readers now and after every crash."""
        for content in (self.data, self._durable):
            for index in range(offset, min(offset + size, len(content))):
                content[index] ^= 0xFF

    def crash(self, random: Random) -> None:
        """Decide what is left: each sector on its own is as flushed, or as one of the writes since then left it."""
        if not self._pending:
            return
        running = bytearray(self._durable)
        versions: dict[int, list[bytes]] = {}
        for write in self._pending:
            _put(running, write.offset, write.data)
            first = write.offset - write.offset % SECTOR_BYTES
            whole = bytes(
                memoryview(running)[first : -(-(write.offset + len(write.data)) // SECTOR_BYTES) * SECTOR_BYTES]
            )
            for at in range(0, len(whole), SECTOR_BYTES):
                sector = whole[at : at + SECTOR_BYTES]
                if first + at in versions:
                    versions[first + at].append(sector)
                else:
                    versions[first + at] = [sector]
        durable, below = self._durable, random.below
        for offset, candidates in versions.items():
            if below(2):
                sector = candidates[-1 - below(len(candidates))]
                if offset <= len(durable):
                    durable[offset : offset + len(sector)] = sector
                else:
                    _put(durable, offset, sector)
        self.data = bytearray(self._durable)
        self._pending.clear()
        self._punched.clear()
        self._allocate_what_came_back()

    def _allocate_what_came_back(self) -> None:
        count = -(-len(self.data) // BLOCK_BYTES)
        del self._blocks[count:]
        self._blocks.extend(bytes(count - len(self._blocks)))
        for block in range(count):
            if not self._blocks[block] and not _ZEROS.startswith(
                self.data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            ):
                self._blocks[block] = 1


def _without(write: PendingWrite, zeroed: Sequence[Range]) -> PendingWrite:
    """A write with zeros in some ranges of the file."""
    end = write.offset + len(write.data)
    if not any(start < end and write.offset < stop for start, stop in zeroed):
        return write
    data = bytearray(write.data)
    _zero(data, write.offset, zeroed)
    return write._replace(data=bytes(data))


def _zero(content: bytearray, offset: int, zeroed: Sequence[Range]) -> None:
    """Zeros in some ranges of a file, of which ``content`` begins at ``offset``."""
    for start, stop in zeroed:
        low, high = max(start - offset, 0), min(stop - offset, len(content))
        if low < high:
            content[low:high] = bytes(high - low)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    """Lay bytes over a content, with zeros up to there when it is shorter."""
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
