"""One shard's side of a check, in steps; core/fsck.py says in which order, and carries what goes between shards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from siltstone.core.check.buckets import check_buckets
from siltstone.core.check.findings import Finding, Findings
from siltstone.core.check.names import NameCheck, NamePage, NameWalk
from siltstone.core.check.reading import Reading
from siltstone.core.check.space import SpaceCheck
from siltstone.core.check.transactions import TransactionRecords, read_transactions
from siltstone.core.check.tree_snapshots import check_tree_snapshots
from siltstone.core.check.usage import check_usage
from siltstone.core.types import ProgressListener
from siltstone.core.volume import Volume
from siltstone.limits import PARTITION_COUNT
from siltstone.meta import keys
from siltstone.types import PartitionId

_NAMESPACE = {keys.DENTRY: "names", keys.ORPHAN: "orphans", keys.PART: "parts of uploads", keys.VERSION: "versions"}
"""What only the owner of a partition has."""


class ShardCheck:
    """The check of one shard. ``open_transactions``: how many of several shards have not ended here."""

    def __init__(self, volume: Volume, open_transactions: Callable[[], int] = lambda: 0) -> None:
        self._volume = volume
        self._reader = volume.ledger.store
        self._open_transactions = open_transactions
        self._findings = Findings()
        self._owned: list[PartitionId] = []
        self._held = trio.Event()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold every change back as long as the context lasts. Those of other shards' transactions go on until there
        are none (``open_operations``)."""
        async with self._volume.quiesced():
            self._owned = [*self._volume.ledger.owned_partitions()]
            self._names = NameCheck(self._reader, self._owned, self._findings)
            self._walk = NameWalk(self._reader, self._owned, self._names)
            self._held.set()
            try:
                yield
            finally:
                self._held = trio.Event()

    @property
    def is_held(self) -> bool:
        """Whether changes are held back."""
        return self._held.is_set()

    async def wait_held(self) -> list[int]:
        """Return when changes are held back, with the partitions that the shard owns."""
        await self._held.wait()
        return [*self._owned]

    def open_operations(self) -> int:
        """Operations that had begun before changes were held back, and transactions that have not ended."""
        return self._volume.ledger.performing + self._open_transactions()

    async def transactions(self) -> TransactionRecords:
        """What there is of transactions now that all should have ended."""
        await self._volume.write_back.wait_landed()  # what waited for the end of one has gone on
        try:
            return read_transactions(self._reader)
        except msgspec.MsgspecError as error:
            self._findings.report("I1", "transactions", f"a record does not parse: {error}")
            return TransactionRecords([], [], {})

    async def next_names(self) -> NamePage:
        """The next part of what names say of inodes in other partitions, and of directories."""
        return await self._walk.next_page(self._findings)

    def take_names(self, facts: dict[int, bytes]) -> None:
        """What names in other shards say of inodes here."""
        self._names.take(facts)

    async def check(self, progress: ProgressListener | None = None) -> list[Finding]:
        """Everything in this shard; all names were taken."""
        self._findings.progress = progress
        self._check_partitions()
        await self._names.check()
        await check_buckets(self._reader, self._owned, self._findings)
        await check_tree_snapshots(self._reader, self._owned, self._findings)
        await SpaceCheck(self._volume, self._findings).check()
        await check_usage(self._volume, self._findings)
        return self._findings.all()

    def _check_partitions(self) -> None:
        """Whether there are names where nobody looks for them."""
        for partition in map(PartitionId, range(PARTITION_COUNT)):
            for kind, what in {} if partition in self._owned else _NAMESPACE.items():
                if next(iter(self._reader.scan(*keys.prefix_range(keys.all_of(kind, partition)))), None) is not None:
                    message = f"there are {what} of it here, and another shard has it"
                    self._findings.report("I15", f"partition {partition}", message)


async def read_everything(volume: Volume, progress: ProgressListener | None = None) -> list[Finding]:
    """What is wrong with the bytes of one shard, which stays in use."""
    findings = Findings()
    await Reading(volume, findings, progress).read()
    return findings.all()
