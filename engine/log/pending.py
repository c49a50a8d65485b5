"""What was appended and is not durable yet: frames in memory, cut into batches that are written in one go.

Frames keep their buffers, not copies. A batch is the unit of the group commit: everybody who waits for one of its
frames waits on its one event. Whoever commits takes the oldest batch; appends meanwhile go to the newest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import trio

from siltstone.engine.format.frame import (
    FRAME_HEADER_BYTES,
    body_checksum,
    frame_bytes,
    pack_header,
    payload_checksum,
)
from siltstone.limits import KIB, MIB, ROW_BYTES
from siltstone.types import Buffer, Lsn

BATCH_BYTES_MAX = 4 * MIB
"""A batch takes no further frame past this, so that a flush stays short and recovery knows how far one may reach."""

JOIN_BYTES_MAX = 32 * KIB
"""Shorter buffers are joined into one before a write: one copy is cheaper than an iovec on every disk."""


class PendingFrame:
    """A frame that waits to be durable."""

    __slots__ = ("body", "body_bytes", "body_sum", "end_lsn", "kind", "lsn", "payload", "payload_bytes", "payload_sum")

    def __init__(self, lsn: Lsn, kind: int, payload: Sequence[Buffer], body: Buffer, seed: int) -> None:
        self.lsn = lsn
        self.kind = kind
        self.payload = payload
        self.body = body
        self.payload_bytes = sum(map(len, payload))
        self.body_bytes = len(body)
        self.end_lsn = Lsn(lsn + frame_bytes(self.payload_bytes, self.body_bytes))
        self.payload_sum = payload_checksum(payload, seed)
        self.body_sum = body_checksum(body, seed)

    def append_to(self, parts: list[Buffer], *, epoch: int, durable_lsn: Lsn, seed: int) -> None:
        """Add the bytes of the frame, as they go on a disk, to ``parts``."""
        parts.append(
            pack_header(
                kind=self.kind,
                epoch=epoch,
                payload_bytes=self.payload_bytes,
                body_bytes=self.body_bytes,
                lsn=self.lsn,
                durable_lsn=durable_lsn,
                payload_checksum=self.payload_sum,
                body_checksum=self.body_sum,
                seed=seed,
            )
        )
        parts += self.payload
        parts.append(self.body)
        padding = self.end_lsn - self.lsn - FRAME_HEADER_BYTES - self.payload_bytes - self.body_bytes
        if padding:
            parts.append(bytes(padding))


class Batch:
    """Frames that are committed together. ``done`` is set when their fate is decided; ``waiters`` wait for that."""

    __slots__ = ("done", "end_lsn", "frames", "lsn", "waiters")

    def __init__(self, lsn: Lsn) -> None:
        self.lsn = lsn
        self.end_lsn = lsn
        self.frames: list[PendingFrame] = []
        self.done = trio.Event()
        self.waiters = 0


class Pending:
    """The batches, oldest first."""

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()
        self._taken: Batch | None = None

    def append(self, frame: PendingFrame) -> None:
        """Add a frame that starts where the last one ended."""
        end_lsn = frame.end_lsn
        batch = self.batches[-1] if self.batches else None
        if batch is None or batch is self._taken or end_lsn - batch.lsn > BATCH_BYTES_MAX:
            assert batch is None or batch.end_lsn == frame.lsn
            batch = Batch(frame.lsn)
            self.batches.append(batch)
        batch.frames.append(frame)
        batch.end_lsn = end_lsn

    def take(self) -> Batch:
        """The oldest batch; it takes no more frames, and stays here until ``drop_taken``."""
        self._taken = self.batches[0]
        return self._taken

    def drop_taken(self) -> None:
        """Forget the batch taken last: it is durable."""
        batch = self.batches.popleft()
        assert batch is self._taken
        self._taken = None

    def batch_of(self, lsn: Lsn) -> Batch:
        """The batch whose commit makes everything before ``lsn`` durable."""
        for batch in self.batches:
            if lsn <= batch.end_lsn:
                return batch
        raise AssertionError(f"LSN {lsn} was never appended")

    def payload(self, lsn: Lsn, size: int) -> bytes | None:
        """Bytes of a pending frame's payload, or None if the range is not all in one."""
        for batch in self.batches:
            if lsn < batch.end_lsn:
                break
        else:
            return None
        index = bisect_right(batch.frames, lsn, key=_frame_lsn) - 1
        if index < 0:
            return None
        frame = batch.frames[index]
        offset = lsn - frame.lsn - FRAME_HEADER_BYTES
        if offset < 0 or offset + size > frame.payload_bytes:
            return None
        return _slice(frame.payload, offset, size)


def joined(parts: Sequence[Buffer], file_offset: int) -> list[Buffer]:
    """Few buffers with the bytes of ``parts``, then zeros up to the end of the last page of the file.

    The zeros make every page that a batch touches first a page that it writes whole, so that the kernel never has to
    read a page of a recycled file before it can change it; what they overwrite is past the end of the log.
    """
    size = sum(map(len, parts))
    tail = -(file_offset + size) % ROW_BYTES
    few: list[Buffer] = []
    small: list[Buffer] = []
    for part in (*parts, bytes(tail)):
        if len(part) < JOIN_BYTES_MAX:
            small.append(part)
            continue
        if small:
            few.append(b"".join(small))
            small = []
        few.append(part)
    few.append(b"".join(small))
    return few


def _frame_lsn(frame: PendingFrame) -> Lsn:
    return frame.lsn


def _slice(buffers: Sequence[Buffer], offset: int, size: int) -> bytes:
    pieces: list[Buffer] = []
    for buffer in buffers:
        if offset >= len(buffer):
            offset -= len(buffer)
            continue
        if size == 0:
            break
        piece = memoryview(buffer)[offset : offset + size]
        pieces.append(piece)
        size -= len(piece)
        offset = 0
    assert size == 0
    return b"".join(pieces)
