"""Bytes of one file that are written but not yet committed: a pure map of ranges, newest bytes winning.

Pieces are sorted by offset and never overlap. A piece is either a buffer that the writer gave away (kept as it is: no
copy) or a bytearray of ours that gathers small contiguous writes, which would otherwise become thousands of pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from siltstone.types import Buffer

GATHER_WRITE_BYTES_MAX = 64 * 1024
"""Longer writes are kept as they are; shorter ones are copied behind the piece that they continue."""

GATHER_PIECE_BYTES_MAX = 1024 * 1024
"""A gathering piece takes no more when it has reached this."""


class Run(NamedTuple):
    """Contiguous dirty bytes: ``size`` bytes at ``offset``, in ``buffers`` one after the other."""

    offset: int
    size: int
    buffers: tuple[Buffer, ...]

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.size


class DirtyMap:
    """The dirty ranges of one file."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[Buffer] = []
        self.size = 0
        """Sum of the lengths of all pieces, in bytes."""

    def __len__(self) -> int:
        return len(self._starts)

    def write(self, offset: int, data: Buffer) -> None:
        """Lay ``data`` over what is there. The caller gives the buffer away: it must not change afterwards."""
        size = len(data)
        if size == 0:
            return
        index = bisect_right(self._starts, offset)
        if index and not self._covers_past(index, offset, offset + size):
            last = self._pieces[index - 1]
            contiguous = self._starts[index - 1] + len(last) == offset
            if (
                contiguous
                and isinstance(last, bytearray)
                and size < GATHER_WRITE_BYTES_MAX
                and len(last) < GATHER_PIECE_BYTES_MAX
            ):
                last += data
                self.size += size
                return
        index = self._clear(offset, offset + size)
        gathers = size < GATHER_WRITE_BYTES_MAX
        self._starts.insert(index, offset)
        self._pieces.insert(index, bytearray(data) if gathers else data)
        self.size += size

    def truncate(self, size: int) -> None:
        """Forget everything at and after offset ``size``."""
        if self._starts:
            self._clear(size, max(size, self._starts[-1] + len(self._pieces[-1])))

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) is dirty."""
        index = bisect_right(self._starts, start)
        if index and self._starts[index - 1] + len(self._pieces[index - 1]) > start:
            return True
        return index < len(self._starts) and self._starts[index] < end

    def holds(self, start: int, end: int) -> bool:
        """Whether every byte of [start, end) is dirty."""
        index = bisect_right(self._starts, start) - 1
        at = start
        while at < end:
            if not 0 <= index < len(self._starts):
                return False
            low, high = self._starts[index], self._starts[index] + len(self._pieces[index])
            if not low <= at < high:
                return False
            at = high
            index += 1
        return True

    def write_under(self, run: Run) -> None:
        """Give back a run that was taken: its bytes become dirty again where nothing newer is."""
        data = memoryview(joined(run))
        at = run.offset
        for newer in self.runs():
            if newer.end > at and newer.offset < run.end:
                if at < newer.offset:
                    self.write(at, data[at - run.offset : newer.offset - run.offset])
                at = newer.end
        if at < run.end:
            self.write(at, data[at - run.offset :])

    def between(self, start: int, end: int) -> list[Run]:
        """The pieces that overlap [start, end), in order; what is returned never changes any more."""
        pieces: list[Run] = []
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < end:
            at, piece = self._starts[index], self._pieces[index]
            low, high = max(at, start), min(at + len(piece), end)
            if low < high:
                pieces.append(Run(low, high - low, (_cut(piece, low - at, high - at),)))
            index += 1
        return pieces

    def runs(self) -> list[Run]:
        """The contiguous runs, in order. The map is unchanged."""
        runs: list[Run] = []
        buffers: list[Buffer] = []
        begin = end = -1
        for start, piece in zip(self._starts, self._pieces, strict=True):
            if start != end:
                if buffers:
                    runs.append(Run(begin, end - begin, tuple(buffers)))
                begin, end, buffers = start, start, []
            buffers.append(piece)
            end += len(piece)
        if buffers:
            runs.append(Run(begin, end - begin, tuple(buffers)))
        return runs

    def take(self, start: int, end: int) -> Run:
        """Remove the bytes [start, end), all of which are dirty, and return them as one run.

        What is returned never changes any more: gathering pieces are cut off from the map.
        """
        self._split(start)
        self._split(end)
        low = bisect_right(self._starts, start) - 1
        high = bisect_right(self._starts, end - 1)
        assert low >= 0 and self._starts[low] == start
        buffers = tuple(self._pieces[low:high])
        run = Run(start, end - start, buffers)
        assert sum(len(piece) for piece in buffers) == run.size, "the range has holes"
        del self._starts[low:high]
        del self._pieces[low:high]
        self.size -= run.size
        return run

    def _covers_past(self, index: int, offset: int, end: int) -> bool:
        """Whether bytes of [offset, end) are dirty, given the piece before ``index`` starts at or before offset."""
        before = self._starts[index - 1] + len(self._pieces[index - 1])
        return before > offset or (index < len(self._starts) and self._starts[index] < end)

    def _split(self, offset: int) -> None:
        """Make ``offset`` a border between pieces if it lies inside one."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return
        start, piece = self._starts[index], self._pieces[index]
        inner = offset - start
        if 0 < inner < len(piece):
            self._pieces[index] = _cut(piece, 0, inner)
            self._starts.insert(index + 1, offset)
            self._pieces.insert(index + 1, _cut(piece, inner, len(piece)))

    def _clear(self, start: int, end: int) -> int:
        """Remove [start, end); return the index at which a piece that starts at ``start`` belongs."""
        self._split(start)
        self._split(end)
        low = bisect_right(self._starts, start - 1)
        high = bisect_right(self._starts, end - 1)
        for piece in self._pieces[low:high]:
            self.size -= len(piece)
        del self._starts[low:high]
        del self._pieces[low:high]
        return low


def _cut(piece: Buffer, start: int, end: int) -> Buffer:
    """Part of a piece, without a copy where nobody may append to it."""
    if isinstance(piece, bytearray):
        return bytes(memoryview(piece)[start:end])
    return memoryview(piece)[start:end]


def joined(run: Run) -> Buffer:
    """A run's bytes as one buffer; a copy only if it has several."""
    return run.buffers[0] if len(run.buffers) == 1 else b"".join(run.buffers)


def read_run_into(run: Run, target: bytearray | memoryview, offset: int) -> None:
    """Copy what a run has of [offset, offset + len(target)) over ``target``."""
    at = run.offset
    end = offset + len(target)
    for buffer in run.buffers:
        low, high = max(at, offset), min(at + len(buffer), end)
        if low < high:
            target[low - offset : high - offset] = memoryview(buffer)[low - at : high - at]
        at += len(buffer)
