"""A backing in memory: crash-consistent, and with a gate if the test wants to decide when an apply finishes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import trio

from siltstone.errors import NoSpace
from siltstone.meta.store.port import BackingSpace
from siltstone.types import Lsn


class SimBacking:
    """A dict and a sorted list. What it ``holds`` is what a crash leaves.

    With ``gated``, an apply waits until ``open_gate`` is called (once for each apply). ``bytes_max`` bounds what it
    takes; ``failure``, when set, is raised by the next applies instead of doing anything.
    """

    def __init__(self, *, gated: bool = False, bytes_max: int = 1 << 40) -> None:
        self.holds: dict[bytes, bytes] = {}
        self.gated = gated
        self.bytes_max = bytes_max
        self.failure: Exception | None = None
        self.closed = False
        self._keys: list[bytes] = []
        self._applied_lsn = Lsn(0)
        self._gate = trio.Event()
        self._arrived = trio.Event()

    @property
    def applied_lsn(self) -> Lsn:
        """The LSN that came with the last apply."""
        return self._applied_lsn

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None when there is none."""
        assert not self.closed
        return self.holds.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool, limit: int) -> list[tuple[bytes, bytes]]:
        """The first entries (the last ones, if reverse) in the range."""
        assert not self.closed
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]
        if reverse:
            keys.reverse()
        return [(key, self.holds[key]) for key in keys[:limit]]

    async def apply(self, items: Iterable[tuple[bytes, bytes | None]], applied_lsn: Lsn) -> None:
        """Put and delete; see Backing."""
        assert not self.closed
        assert applied_lsn >= self._applied_lsn
        self._arrived.set()
        if self.gated:
            await self._gate.wait()
            self._gate = trio.Event()
        else:
            await trio.lowlevel.checkpoint()
        self._arrived = trio.Event()
        if self.failure is not None:
            raise self.failure
        after = dict(self.holds)
        for key, value in items:
            if value is None:
                after.pop(key, None)
            else:
                after[key] = value
        used = sum(len(key) + len(value) for key, value in after.items())
        if used > self.bytes_max:
            raise NoSpace(f"{used} bytes of metadata: the backing holds {self.bytes_max}")
        self.holds, self._keys, self._applied_lsn = after, sorted(after), applied_lsn

    async def wait_applying(self) -> None:
        """Return when an apply is under way."""
        await self._arrived.wait()

    def open_gate(self) -> None:
        """Let one apply finish: the one under way, or the next."""
        self._gate.set()

    async def warm(self) -> None:
        """It is in memory."""
        await trio.lowlevel.checkpoint()

    def space(self) -> BackingSpace:
        """How full it is."""
        return BackingSpace(sum(len(key) + len(value) for key, value in self.holds.items()), self.bytes_max)

    def close(self) -> None:
        """No calls after that."""
        self.closed = True

    def crash(self) -> SimBacking:
        """What a new process finds."""
        backing = SimBacking(gated=self.gated, bytes_max=self.bytes_max)
        backing.holds, backing._keys, backing._applied_lsn = dict(self.holds), list(self._keys), self._applied_lsn
        return backing
