"""fsck: every invariant between namespace, extents, stripes, slabs and log, checked against each other.

Read only. The metadata is walked while writers wait, since a check of a moving target would report its own races;
reading the units (``deep``) then runs beside everything else. docs/invariants.md numbers what is checked, and findings
cite the numbers.

Over several shards all hold changes back at the same time, and those that had begun are waited for. Each shard checks
what is its own; what names say of inodes in other shards is carried there, and who holds which directory is put
together here (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import trio

from siltstone.core.administration import Administration
from siltstone.core.check.findings import Finding
from siltstone.core.check.loops import Tree
from siltstone.core.check.names import NamePage, edges_in
from siltstone.core.check.transactions import check_transactions
from siltstone.core.types import Progress, ProgressListener
from siltstone.core.volume import Volume
from siltstone.limits import PARTITION_COUNT
from siltstone.types import Ino, ShardId

QUIET_SECONDS = 15.0
"""How long is waited for what had begun before changes were held back; then it is a finding that it does not end."""

QUIET_LOOK_SECONDS = 0.02
QUIET_LOOK_SECONDS_MAX = 0.5

LOOP_NAMED_MAX = 10
"""Directories of a circle that are named."""


class AskedShard(Protocol):
    """A shard, wherever it is, that carries out the methods of Administration."""

    async def ask(self, method: str, *arguments: Any, progress: ProgressListener | None = None) -> Any:
        """What a method returns. Raises what it raises, and PeerLost."""


async def fsck(volume: Volume, *, deep: bool = False, progress: ProgressListener | None = None) -> list[Finding]:
    """Check a volume of one shard; returns what is wrong. With ``deep`` every unit and every payload in the log is read
    too."""
    return await fsck_shards({ShardId(0): Administration(volume)}, 0, deep=deep, progress=progress)


async def fsck_shards(
    shards: Mapping[ShardId, AskedShard], number: int, *, deep: bool = False, progress: ProgressListener | None = None
) -> list[Finding]:
    """The same of all shards of a volume. ``number``: another one each time; one at a time."""
    check = _Check(shards, number, progress)
    await check.check()
    if deep:
        await check.read_everything()
    return check.findings()


class SumOfProgress:
    """How far several have come, together."""

    def __init__(self, progress: ProgressListener | None) -> None:
        self._progress = progress
        self._latest: dict[ShardId, Progress] = {}

    def of(self, shard: ShardId) -> ProgressListener | None:
        """What is told of one of them."""
        if self._progress is None:
            return None
        told = self._progress

        def listen(progress: Progress) -> None:
            self._latest[shard] = progress
            latest = self._latest.values()
            told(Progress(sum(one.done for one in latest), sum(one.total for one in latest), progress.unit))

        return listen


class _Check:
    """One check of a volume."""

    def __init__(self, shards: Mapping[ShardId, AskedShard], number: int, progress: ProgressListener | None) -> None:
        self._shards = shards
        self._number = number
        self._progress = progress
        self._found: dict[ShardId, list[Finding]] = {shard: [] for shard in shards}
        self._of_all: list[Finding] = []
        self._owners: dict[int, ShardId] = {}

    def findings(self) -> list[Finding]:
        """All that was found; where there are several shards each says whose it is."""
        if len(self._shards) == 1:
            return [*self._of_all, *next(iter(self._found.values()))]
        named = [
            Finding(finding.invariant, f"shard {shard} {finding.subject}", finding.message)
            for shard, found in self._found.items()
            for finding in found
        ]
        return [*self._of_all, *named]

    async def check(self) -> None:
        """Check the metadata while changes are held back everywhere."""
        async with trio.open_nursery() as holding:
            for asked in self._shards.values():
                holding.start_soon(asked.ask, "hold_check", self._number)
            self._note_owners(await self._ask_all("wait_check_held"))
            await self._wait_quiet()
            for shard, finding in check_transactions(await self._ask_all("check_transactions")):
                self._found[shard].append(finding)
            await self._check_tree()
            sums = SumOfProgress(self._progress)
            await self._collect(lambda shard, asked: asked.ask("check", self._number, progress=sums.of(shard)))
            holding.cancel_scope.cancel()

    async def read_everything(self) -> None:
        """Check the bytes, in use."""
        sums = SumOfProgress(self._progress)
        await self._collect(lambda shard, asked: asked.ask("check_bytes", progress=sums.of(shard)))

    def _note_owners(self, owned: Mapping[ShardId, Sequence[int]]) -> None:
        owners: dict[int, list[ShardId]] = {partition: [] for partition in range(PARTITION_COUNT)}
        for shard, partitions in owned.items():
            for partition in partitions:
                owners[partition].append(shard)
        for partition, found in owners.items():
            if len(found) == 1:
                self._owners[partition] = found[0]
                continue
            message = f"shards {', '.join(map(str, found))} have it" if found else "no shard has it"
            self._of_all.append(Finding("I15", f"partition {partition}", message))

    async def _wait_quiet(self) -> None:
        """Return when nothing is under way any more, or does not end."""
        pause, left = QUIET_LOOK_SECONDS, 0
        with trio.move_on_after(QUIET_SECONDS):
            while left := sum((await self._ask_all("check_open_operations")).values()):
                await trio.sleep(pause)
                pause = min(2 * pause, QUIET_LOOK_SECONDS_MAX)
        if left:
            message = f"{left} operations and parts of transactions have not ended within {QUIET_SECONDS:g} s"
            self._of_all.append(Finding("I14", "transactions", message))

    async def _check_tree(self) -> None:
        """Carry what names say to where their inodes are; what they say of directories is looked at here."""
        tree = Tree()

        async def carry(shard: ShardId, asked: AskedShard) -> None:
            is_last = False
            while not is_last:
                page: NamePage = await asked.ask("check_names", self._number)
                is_last = page.is_last
                for ino, directory in edges_in(page):
                    tree.add(ino, directory)
                facts: dict[ShardId, dict[int, bytes]] = {}
                for partition, packed in page.facts.items():
                    if partition in self._owners:
                        facts.setdefault(self._owners[partition], {})[partition] = packed
                for owner, told in facts.items():
                    await self._shards[owner].ask("check_take_names", self._number, told)

        async with trio.open_nursery() as nursery:
            for shard, asked in self._shards.items():
                nursery.start_soon(carry, shard, asked)
        for circle in await tree.loops():
            self._of_all.append(Finding("I3", f"inode {circle[0]}", f"directory is below itself: {_named(circle)}"))

    async def _collect(self, ask: Callable[[ShardId, AskedShard], Any]) -> None:
        """Have all shards give their findings."""

        async def collect(shard: ShardId, asked: AskedShard) -> None:
            self._found[shard] += await ask(shard, asked)

        async with trio.open_nursery() as nursery:
            for shard, asked in self._shards.items():
                nursery.start_soon(collect, shard, asked)

    async def _ask_all(self, method: str) -> dict[ShardId, Any]:
        answers: dict[ShardId, Any] = {}

        async def ask(shard: ShardId, asked: AskedShard) -> None:
            answers[shard] = await asked.ask(method, self._number)

        async with trio.open_nursery() as nursery:
            for shard, asked in self._shards.items():
                nursery.start_soon(ask, shard, asked)
        return {shard: answers[shard] for shard in self._shards}


def _named(circle: Sequence[Ino]) -> str:
    some = " in ".join(map(str, circle[:LOOP_NAMED_MAX]))
    return f"{some} in {circle[0]}" if len(circle) <= LOOP_NAMED_MAX else f"{some}, and so on"
