"""What goes wrong with a simulated disk, and how often it did: a fault that never fired proves nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class FaultKind(enum.Enum):
    """What happens to the operation that a fault strikes."""

    ERROR = "the operation fails without an effect (EIO)"
    FULL = "the operation fails for want of room (ENOSPC)"
    LOST = "the write reports success and does nothing"
    MISDIRECTED = "the write lands at another offset of the file"
    SLOW = "the operation takes longer"
    HANG = "the operation gives no answer; its effect comes late, or never"


@dataclass(eq=False)
class Fault:
    """Strikes operations on files whose name starts with ``prefix``.

    ``operation``: "read", "write", "flush", "create", "delete", "rename", "list", "punch", "replace", "space", "probe",
    or "*". The first ``skip`` matches are spared, then ``count`` are struck (None: all).
    """

    kind: FaultKind
    operation: str
    prefix: str = ""
    skip: int = 0
    count: int | None = 1
    cause: str = ""
    seconds: float = 0.0
    offset: int = 0
    fired: int = field(default=0, init=False)
    _matched: int = field(default=0, init=False)

    def would_strike(self, operation: str, name: str) -> bool:
        """Whether the next such operation would be struck."""
        if self.operation not in ("*", operation) or not name.startswith(self.prefix):
            return False
        return self._matched >= self.skip and (self.count is None or self.fired < self.count)

    def strikes(self, operation: str, name: str) -> bool:
        """Whether this operation is struck; counts it."""
        if self.operation not in ("*", operation) or not name.startswith(self.prefix):
            return False
        hit = self.would_strike(operation, name)
        self._matched += 1
        self.fired += hit
        return hit
