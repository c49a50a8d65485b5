"""An in-memory log for the store, whose test decides what becomes durable, and when."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from siltstone.engine.format.frame import FRAME_HEADER_BYTES, Frame, frame_bytes
from siltstone.types import Buffer, Lsn


class FakeLog:
    """Frames in a list. ``automatic``: whoever waits makes everything durable; otherwise ``make_durable`` does."""

    def __init__(self, start: Lsn = Lsn(0), *, automatic: bool = True) -> None:  # noqa: B008
        self.frames: list[Frame] = []
        self.payloads: list[bytes] = []
        self.automatic = automatic
        self.next_lsn = start
        self.durable_lsn = start
        self.failure: Exception | None = None
        """Raised by ``wait_durable`` when set."""
        self._moved = trio.Event()

    @property
    def next_payload_lsn(self) -> Lsn:
        """Where the payload of the next frame starts."""
        return Lsn(self.next_lsn + FRAME_HEADER_BYTES)

    def append_nowait(self, kind: int, payload: Sequence[Buffer], body: Buffer) -> Lsn:
        """Append a frame and return its end."""
        data = b"".join(payload)
        end_lsn = Lsn(self.next_lsn + frame_bytes(len(data), len(body)))
        self.frames.append(Frame(self.next_lsn, end_lsn, kind, self.next_payload_lsn, len(data), bytes(body)))
        self.payloads.append(data)
        self.next_lsn = end_lsn
        return end_lsn

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return when everything before ``lsn`` is durable."""
        assert lsn <= self.next_lsn, f"LSN {lsn} was never appended"
        await trio.lowlevel.checkpoint()
        while True:
            if self.failure is not None:
                raise self.failure
            if self.automatic:
                self.make_durable(lsn)
            if self.durable_lsn >= lsn:
                return
            await self._moved.wait()

    def make_durable(self, lsn: Lsn) -> None:
        """Everything before ``lsn`` is durable, if it was not yet."""
        self.durable_lsn = max(self.durable_lsn, lsn)
        self._moved.set()
        self._moved = trio.Event()

    def payload(self, address: Lsn, size: int) -> bytes:
        """Bytes that were attached to a batch."""
        for frame, data in zip(self.frames, self.payloads, strict=True):
            if frame.payload_lsn <= address < frame.end_lsn:
                start = address - frame.payload_lsn
                return data[start : start + size]
        raise AssertionError(f"no payload at {address}")

    def crash(self, survivors: int = 0) -> FakeLog:
        """The log after a crash: its durable frames, and ``survivors`` more that happened to be written."""
        log = FakeLog(self.frames[0].lsn if self.frames else self.next_lsn, automatic=self.automatic)
        for frame, data in zip(self.frames, self.payloads, strict=True):
            if frame.end_lsn > self.durable_lsn:
                if survivors == 0:
                    break
                survivors -= 1
            log.frames.append(frame)
            log.payloads.append(data)
            log.next_lsn = log.durable_lsn = frame.end_lsn
        return log
