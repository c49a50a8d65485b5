"""Since when disks are away, through restarts: the grace time of a disk must not begin anew with every one.

While the process lives the monotonic clock counts. What it has counted stands in a metadata record as a time of the
wall clock, which goes on while nobody runs. The record is written when a disk goes or returns, and when the wall clock
was seen to jump. A jump that nobody saw makes the time at most as much longer or shorter, and never longer than one
that begins anew: a time in the future counts as now.
"""

from __future__ import annotations

from collections.abc import Set

from siltstone.core.ledger import Ledger
from siltstone.meta import space
from siltstone.types import DiskId

JUMP_NS = 10_000_000_000
"""The wall clock has jumped when it is so far from where the monotonic clock would have it."""


class AwayTimes:
    """How long each disk is away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._since: dict[DiskId, int] | None = None  # by the monotonic clock; None before the record was read
        self._recorded: dict[DiskId, int] = {}

    async def note(self, away: Set[DiskId]) -> None:
        """These disks are away now and no others are. Remembered durably within the commit interval."""
        clock = self._ledger.clock
        since = self._read() if self._since is None else self._since
        now_ns = clock.monotonic_ns()
        self._since = {disk_id: since.get(disk_id, now_ns) for disk_id in away}
        if self._is_recorded():
            return
        await self._ledger.wait_changes_go()
        offset_ns = clock.now_ns() - clock.monotonic_ns()
        self._recorded = {disk_id: since_ns + offset_ns for disk_id, since_ns in sorted(self._since.items())}
        transaction = self._ledger.begin()
        space.put_away(transaction, self._recorded)
        self._ledger.commit(transaction)

    def seconds(self, disk_id: DiskId) -> float:
        """How long a disk is away; 0 if it is not."""
        now_ns = self._ledger.clock.monotonic_ns()
        return (now_ns - (self._since or {}).get(disk_id, now_ns)) / 1e9

    def _read(self) -> dict[DiskId, int]:
        clock = self._ledger.clock
        self._recorded = space.get_away(self._ledger.store)
        now_ns, wall_ns = clock.monotonic_ns(), clock.now_ns()
        return {disk_id: now_ns - max(0, wall_ns - since_ns) for disk_id, since_ns in self._recorded.items()}

    def _is_recorded(self) -> bool:
        assert self._since is not None
        if self._since.keys() != self._recorded.keys():
            return False
        offset_ns = self._ledger.clock.now_ns() - self._ledger.clock.monotonic_ns()
        return all(abs(self._since[id_] + offset_ns - wall_ns) <= JUMP_NS for id_, wall_ns in self._recorded.items())
