"""Limits of how fast a tree is used: whoever is too fast waits, at whichever door.

Each limit is a token bucket that holds a second's worth: it notes when the last of what was let through would be paid
for, and lets the next through a second before that at the earliest. All that limit a tree, nested ones included, are
paid at once, and the longest wait is waited. A volume of one shard is served by one process, whatever front-ends there
are, so nothing is shared out.
"""

from __future__ import annotations

from siltstone.core.ledger import Ledger
from siltstone.types import Ino

BURST_NS = 1_000_000_000
"""What a tree that was idle may use at once: as much as in such a time."""


class Rates:
    """The limits that are in force, and what is left of each."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._usage = ledger.usage
        self._clock = ledger.clock
        self._paid_ns: dict[tuple[Ino, str], int] = {}

    def limits(self, ino: Ino) -> bool:
        """Whether what is in a directory, or a file, is used at a limited rate."""
        return self._usage.has_rates and any(
            quota.read_bytes or quota.write_bytes or quota.operations
            for _, quota in self._usage.quotas_over(self._usage.home_of(ino))
        )

    async def wait(self, ino: Ino, *, read_bytes: int = 0, write_bytes: int = 0, operations: int = 1) -> None:
        """Return when a file, or what is in a directory, may be used so much."""
        if not self._usage.has_rates:
            return
        now_ns = self._clock.monotonic_ns()
        wait_ns = 0
        for limited, quota in self._usage.quotas_over(self._usage.home_of(ino)):
            for name, rate, amount in (
                ("read", quota.read_bytes, read_bytes),
                ("write", quota.write_bytes, write_bytes),
                ("operations", quota.operations, operations),
            ):
                if rate and amount:
                    wait_ns = max(wait_ns, self._pay(limited, name, amount * 10**9 // rate, now_ns))
        if wait_ns > 0:
            self._ledger.waits += 1
            await self._clock.sleep(wait_ns / 1e9)

    def _pay(self, limited: Ino, name: str, cost_ns: int, now_ns: int) -> int:
        """Take something out of a bucket; how long it takes until it is there."""
        start_ns = max(self._paid_ns.get((limited, name), 0), now_ns - BURST_NS)
        self._paid_ns[limited, name] = start_ns + cost_ns
        return start_ns - now_ns
