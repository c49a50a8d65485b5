"""All shards of a volume, of which the owner asks what Administration can do: each does its part, and one answer comes
of it. With a single shard nothing is added to what that says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import trio

from siltstone.core.administration import Administration
from siltstone.core.calls import error_of, failed
from siltstone.core.check.findings import Finding
from siltstone.core.fsck import AskedShard, SumOfProgress, fsck_shards
from siltstone.core.status import VolumeStatus
from siltstone.core.types import ProgressListener
from siltstone.errors import SiltstoneError
from siltstone.meta.shards.messages import Failed, PeerLost
from siltstone.ports import Clock
from siltstone.types import ShardId

STATUS_SECONDS = 2.0


class AllShards:
    """``own``: the shard in this process; ``others``: those that are elsewhere."""

    def __init__(self, own: Administration, others: Mapping[ShardId, AskedShard], clock: Clock) -> None:
        self.shards: dict[ShardId, AskedShard] = {ShardId(0): own} | dict(others)
        self._asking = 0
        self._checking = trio.Lock()
        self._checks = itertools.count(clock.monotonic_ns())

    async def ask(self, method: str, *arguments: Any, progress: ProgressListener | None = None) -> dict[ShardId, Any]:
        """Have every shard carry out a method; what each returned.

        All are carried out to their end. Raises what one raised, or all that went wrong in one error of the first's
        class; where there are several shards it says whose they are.
        """
        answers: dict[ShardId, Any] = {}
        failures: dict[ShardId, SiltstoneError] = {}
        sums = SumOfProgress(progress)

        async def ask(shard: ShardId, asked: AskedShard) -> None:
            try:
                answers[shard] = await asked.ask(method, *arguments, progress=sums.of(shard))
            except SiltstoneError as error:
                failures[shard] = error

        self._asking += 1
        try:
            async with trio.open_nursery() as nursery:
                for shard, asked in self.shards.items():
                    nursery.start_soon(ask, shard, asked)
        finally:
            self._asking -= 1
        self._raise(failures)
        return {shard: answers[shard] for shard in sorted(answers)}

    @property
    def is_busy(self) -> bool:
        """Whether all shards are at something that they were asked for together."""
        return self._asking > 0

    def steady(self) -> AbstractAsyncContextManager[None]:
        """A context in which no check is under way: shards may be added and removed."""
        return self._checking

    async def statuses(self) -> dict[ShardId, VolumeStatus]:
        """The status of each shard that answers within STATUS_SECONDS; whoever looks must not wait for one that is
        stuck."""
        found: dict[ShardId, VolumeStatus] = {}

        async def look(shard: ShardId, asked: AskedShard) -> None:
            with trio.move_on_after(STATUS_SECONDS), suppress(PeerLost):
                found[shard] = await asked.ask("status")

        async with trio.open_nursery() as nursery:
            for shard, asked in self.shards.items():
                nursery.start_soon(look, shard, asked)
        return {shard: found[shard] for shard in self.shards if shard in found}

    async def fsck(self, *, deep: bool, progress: ProgressListener | None) -> list[Finding]:
        """Check the volume."""
        async with self._checking:  # two would wait for each other's shards for ever
            return await fsck_shards(self.shards, next(self._checks), deep=deep, progress=progress)

    def _raise(self, failures: Mapping[ShardId, SiltstoneError]) -> None:
        """Raise what went wrong, if anything did."""
        if not failures:
            return
        first = next(iter(failures.values()))
        if len(self.shards) == 1:
            raise first
        message = "; ".join(f"shard {shard}: {error}" for shard, error in sorted(failures.items()))
        raise error_of(Failed(failed(first).kind, message)) from first
