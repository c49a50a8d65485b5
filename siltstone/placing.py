"""Which shard should have which partition, and how many shards there should be: as somebody says, and meanwhile as the
load says.

The controller looks at what each shard's process does. One that is busy, while another is not, gives a partition away:
the busiest that is not too much for the other. Where it may (``shards_max``), it adds a shard when all are busy, and
gives one back when there is little to do. It decides rarely, and tells why (``siltstone meta status``).
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from siltstone.core.all_shards import AllShards
from siltstone.core.resizing import Ground, Resizer
from siltstone.core.types import Progress
from siltstone.errors import SiltstoneError, Unavailable
from siltstone.meta.shards.map import MapView, PartitionMap, Placement
from siltstone.ports import Clock
from siltstone.types import PartitionId, ShardId

LOOK_SECONDS = 5.0
"""How often the controller looks."""

BUSY_SHARE = 0.6
"""A shard that uses so much of a processor is busy,"""

GAP_SHARE = 0.2
"""and gives something away if another one uses so much less. Where all do all they can but for that, there are too few
of them: this is 1 less what VolumeConfig.grow_share begins with."""

LOOKS_BUSY = 3
"""So often in a row that must have been so."""

REST_SECONDS = 120.0
"""A partition that was moved stays where it is for so long."""

TIDY_SECONDS = 1.0
"""How often it is looked whether shards that are not wanted can go."""

DECISIONS_MAX = 16

MOVES_TOGETHER = 2
"""Each waits for the disks several times, and holds only its own partition back."""

ATTEMPTS_MAX = 60
ATTEMPT_SECONDS = 0.5
"""How often it is tried to move a partition, and how long is waited in between: its bytes may be on their way yet."""

logger = logging.getLogger("siltstone.shards")


class Move(NamedTuple):
    """A partition that should go to a shard."""

    partition: PartitionId
    to: ShardId


class ShardLoad(NamedTuple):
    """What a shard's process does: of one processor, and calls about each partition a second."""

    processor_share: float
    calls: Mapping[PartitionId, float]


def plan_even(partitions: PartitionMap, count: int) -> list[Move]:
    """The fewest moves after which the first ``count`` shards have as many partitions as each other, or one more, and
    all others none."""
    wanted = sorted(
        map(ShardId, range(count)), key=lambda shard: (-len(partitions.partitions_of(shard)), shard)
    )  # who has most gets what is left over
    size, over = divmod(len(partitions.owners), count)
    shares = {shard: size + (index < over) for index, shard in enumerate(wanted)}
    spare: list[PartitionId] = []
    for shard in {ShardId(owner) for owner in partitions.owners}:
        spare += partitions.partitions_of(shard)[shares.get(shard, 0) :]
    spare.sort()
    moves: list[Move] = []
    for shard, share in sorted(shares.items()):
        missing = max(0, share - len(partitions.partitions_of(shard)))
        moves += [Move(partition, shard) for partition in spare[:missing]]
        del spare[:missing]
    return moves


def plan_relief(loads: Mapping[ShardId, ShardLoad], resting: Sequence[PartitionId]) -> tuple[Move, str] | None:
    """What should be moved because of how busy shards are, and why; None if nothing should."""
    if len(loads) < 2:
        return None
    busiest = max(loads, key=lambda shard: loads[shard].processor_share)
    idlest = min(loads, key=lambda shard: loads[shard].processor_share)
    busy, idle = loads[busiest], loads[idlest]
    gap = busy.processor_share - idle.processor_share
    calls = sum(busy.calls.values())
    if busy.processor_share < BUSY_SHARE or gap < GAP_SHARE or not calls:
        return None
    # What a partition does of the shard's work, by its calls; more than half of the gap would turn it round.
    shares = {partition: busy.processor_share * rate / calls for partition, rate in busy.calls.items()}
    fitting = [partition for partition, share in shares.items() if 0 < share <= gap / 2 and partition not in resting]
    if not fitting:
        return None
    partition = max(fitting, key=lambda partition: (shares[partition], -partition))
    why = (
        f"shard {busiest} uses {busy.processor_share:.0%} of a processor, shard {idlest} {idle.processor_share:.0%}; "
        f"partition {partition} takes about {shares[partition]:.0%}"
    )
    return Move(partition, idlest), why


def plan_count(
    loads: Mapping[ShardId, ShardLoad], *, limit: int, processors: int, grow_share: float, shrink_share: float
) -> tuple[int, str]:
    """How many shards there should be by what those do that there are, and why; as many as there are for no reason.
    ``limit``: how many there may be; the shares: see VolumeConfig."""
    count = len(loads)
    shares = [load.processor_share for load in loads.values()]
    if sum(shares) >= grow_share * count and count < min(limit, processors):
        used = f"{sum(shares) / count:.0%} of a processor" + (" on average" if count > 1 else "")
        return count + 1, f"{count} in use {'use' if count > 1 else 'uses'} {used}, and there are {processors}"
    if count > 1 and sum(shares) <= shrink_share * (count - 1):
        return count - 1, f"all {count} together use {sum(shares):.0%} of a processor"
    return count, ""


class Placer:
    """Moves the partitions of an open volume. ``loads``: what shards do."""

    def __init__(
        self,
        shards: AllShards,
        partitions: MapView,
        clock: Clock,
        loads: Callable[[], Mapping[ShardId, ShardLoad]],
        ground: Ground,
        resizer: Resizer,
        *,
        processors: int | None = None,
    ) -> None:
        """``processors``: that there are; None: those of this machine."""
        self._processors = processors or os.cpu_count() or 1
        self._shards = shards
        self._partitions = partitions
        self._clock = clock
        self._loads = loads
        self._ground = ground
        self._resizer = resizer
        self._moved_ns: dict[PartitionId, int] = {}
        self._spreading = trio.Lock()
        self.decisions: deque[str] = deque(maxlen=DECISIONS_MAX)
        """What was decided lately, and why."""

    @property
    def used(self) -> int:
        """The first so many shards are to have something."""
        config = self._ground.config
        return config.shards_wanted or config.shards

    async def spread(self, count: int, report: Callable[[Progress], None]) -> int:
        """Have ``count`` shards, made now if there are fewer, share all partitions evenly; how many went. The volume
        stays in use. Those that are left over end when their bytes are where their partitions are (``tidy``).

        Raises InvalidArgument, Refused, Unavailable where that cannot be, or one does not go, with what went before.
        """
        return await self._spread(count, report, "by hand")

    async def wait_gone(self, report: Callable[[Progress], None]) -> None:
        """Return when there are no more shards than are wanted, and what the others had is taken away, if it can be."""
        count = self._ground.config.shards - self.used
        while True:
            left = self._ground.config.shards - self.used
            if not left and (self._resizer.state or not self._ground.config.shards_void):
                return
            report(Progress(count - left, count, "shards"))
            await self._clock.sleep(TIDY_SECONDS / 4)

    async def run(self) -> None:
        """Relieve shards that are busy, for ever."""
        relief_looks = count_looks = 0
        wanted = 0
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            config = self._ground.config
            loads = {shard: load for shard, load in self._loads().items() if shard < self.used}
            if self._spreading.locked() or len(loads) < self.used:
                continue
            relief = self._plan_relief(loads) if config.balance_shards else None
            relief_looks = 0 if relief is None else relief_looks + 1
            if relief is not None and relief_looks >= LOOKS_BUSY:
                relief_looks = 0
                await self._relieve(*relief)
            if not config.shards_max:
                continue
            count, why = plan_count(
                loads,
                limit=config.shards_max,
                processors=self._processors,
                grow_share=config.grow_share,
                shrink_share=config.shrink_share,
            )
            count_looks = 0 if not why or count != wanted else count_looks + 1
            wanted = count
            seconds = config.grow_seconds if count > len(loads) else config.shrink_seconds
            if why and count_looks * LOOK_SECONDS >= seconds:
                count_looks = 0
                try:
                    await self._spread(count, lambda progress: None, why)
                except SiltstoneError as error:
                    self._note(f"{count} shards were wanted, and it did not go: {error} ({why})")

    async def tidy(self) -> None:
        """Have shards go that are not wanted, for ever; goes on with what a crash interrupted."""
        is_known = False
        while True:
            config = self._ground.config
            if (config.shards > self.used or config.shards_void) and not self._spreading.locked():
                try:
                    async with self._spreading:
                        if config.shards > 1 and not is_known:
                            await self._resizer.look()
                            is_known = True
                        await self._bring_home()
                    await self._resizer.retire()
                except SiltstoneError as error:
                    self._resizer.state = str(error)
            await self._clock.sleep(TIDY_SECONDS)

    def shown(self) -> dict[str, Any]:
        """As JSON has it."""
        config = self._ground.config
        return {
            "used": self.used,
            "waits_for": self._resizer.state,
            "decisions": [*self.decisions],
            "shards_max": config.shards_max,
            "thresholds": {
                "busy_share": BUSY_SHARE,
                "gap_share": GAP_SHARE,
                "rest_seconds": REST_SECONDS,
                "grow_share": config.grow_share,
                "grow_seconds": config.grow_seconds,
                "shrink_share": config.shrink_share,
                "shrink_seconds": config.shrink_seconds,
            },
        }

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _spread(self, count: int, report: Callable[[Progress], None], why: str) -> int:
        async with self._spreading:
            before = self._ground.config.shards
            await self._resizer.grow(count)
            now = self._ground.config.shards
            if now > before:
                self._note(f"{now - before} shards were added, there are {now}: {why}")
            if now == 1:
                return 0
            await self._resizer.look()
            moves = plan_even(self._partitions(), count)
            self._note(f"{len(moves)} partitions: {why}, for {count} of {now} shards")
            await self._move_all(moves, report)
        return len(moves)

    async def _bring_home(self) -> None:
        """Have shards that are not wanted give away what they still have."""
        if any(owner >= self.used for owner in self._partitions().owners):
            moves = plan_even(self._partitions(), self.used)
            self._note(f"{len(moves)} partitions: {self.used} shards are wanted")
            await self._move_all(moves, lambda progress: None)

    async def _move_all(self, moves: Sequence[Move], report: Callable[[Progress], None]) -> None:
        report(Progress(0, len(moves), "partitions"))
        todo = iter(moves)
        done = 0
        failures: list[SiltstoneError] = []

        async def work() -> None:
            nonlocal done
            for move in todo:
                try:
                    await self._move(move)
                except SiltstoneError as error:
                    failures.append(error)
                    return
                done += 1
                report(Progress(done, len(moves), "partitions"))

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(MOVES_TOGETHER):
                    nursery.start_soon(work)
        finally:
            with trio.CancelScope(shield=True):
                await self._ground.save(**self._partitions().settings)
        if failures:
            raise failures[0]

    def _plan_relief(self, loads: Mapping[ShardId, ShardLoad]) -> tuple[Move, str] | None:
        limit_ns = self._clock.monotonic_ns() - round(REST_SECONDS * 1e9)
        resting = [partition for partition, moved_ns in self._moved_ns.items() if moved_ns > limit_ns]
        return plan_relief(loads, resting)

    async def _relieve(self, move: Move, why: str) -> None:
        try:
            await self._move(move, attempts=1)
        except SiltstoneError as error:
            self._note(f"partition {move.partition} stays: {error} ({why})")
        else:
            self._note(f"partition {move.partition} went to shard {move.to}: {why}")
            await self._ground.save(**self._partitions().settings)

    async def _move(self, move: Move, *, attempts: int = ATTEMPTS_MAX) -> None:
        """Raises Unavailable if it does not go."""
        for attempt in range(1, attempts + 1):
            owner = self._partitions().owner(move.partition)
            if owner == move.to:
                return
            try:
                placement: Placement = await self._shards.shards[owner].ask("give", move.partition, move.to)
            except Unavailable:
                if attempt == attempts:
                    raise
                await self._clock.sleep(ATTEMPT_SECONDS)
                continue
            self._partitions.learn([placement])
            self._moved_ns[move.partition] = self._clock.monotonic_ns()

    def _note(self, decision: str) -> None:
        logger.info("%s", decision)
        self.decisions.append(decision)
