"""Which shard should have which partition: as somebody says, and meanwhile as the load says.

The controller looks at what each shard's process does. One that is busy, while another is not, gives a partition away:
the busiest that is not too much for the other. It decides rarely, and tells why (``siltstone meta status``).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import trio

from siltstone.core.all_shards import AllShards
from siltstone.core.types import Progress
from siltstone.errors import InvalidArgument, SiltstoneError, Unavailable
from siltstone.meta.shards.map import MapView, PartitionMap, Placement
from siltstone.ports import Clock
from siltstone.types import PartitionId, ShardId

LOOK_SECONDS = 5.0
"""How often the controller looks."""

BUSY_SHARE = 0.6
"""A shard that uses so much of a processor is busy,"""

GAP_SHARE = 0.3
"""and gives something away if another one uses so much less."""

LOOKS_BUSY = 3
"""So often in a row that must have been so."""

REST_SECONDS = 120.0
"""A partition that was moved stays where it is for so long."""

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


class Placer:
    """Moves the partitions of an open volume. ``loads``: what shards do; ``save``: notes the map in the settings."""

    def __init__(
        self,
        shards: AllShards,
        partitions: MapView,
        clock: Clock,
        loads: Callable[[], Mapping[ShardId, ShardLoad]],
        save: Callable[[PartitionMap], None],
    ) -> None:
        self._shards = shards
        self._partitions = partitions
        self._clock = clock
        self._loads = loads
        self._save = save
        self._moved_ns: dict[PartitionId, int] = {}
        self.decisions: deque[str] = deque(maxlen=DECISIONS_MAX)
        """What was decided lately, and why."""
        self.used = 0
        """The controller uses the first so many shards; 0: all."""

    async def spread(self, count: int, report: Callable[[Progress], None]) -> int:
        """Have the first ``count`` shards share all partitions evenly; how many went. The volume stays in use.

        Raises InvalidArgument for shards that there are not, Unavailable where one does not go, with what went before.
        """
        known = len(self._partitions().shards())
        if not 1 <= count <= known:
            raise InvalidArgument(
                f"{count} shards: the volume has {known} processes for shards (siltstone init --shards)"
            )
        self.used = count
        moves = plan_even(self._partitions(), count)
        self._note(f"{len(moves)} partitions: by hand, for {count} of {known} shards")
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
            self._save(self._partitions())
        if failures:
            raise failures[0]
        return len(moves)

    async def run(self) -> None:
        """Relieve shards that are busy, for ever."""
        looks = 0
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            loads = self._loads()
            if self.used:
                loads = {shard: load for shard, load in loads.items() if shard < self.used}
            limit_ns = self._clock.monotonic_ns() - round(REST_SECONDS * 1e9)
            resting = [partition for partition, moved_ns in self._moved_ns.items() if moved_ns > limit_ns]
            planned = plan_relief(loads, resting)
            looks = 0 if planned is None else looks + 1
            if planned is None or looks < LOOKS_BUSY:
                continue
            looks = 0
            move, why = planned
            try:
                await self._move(move, attempts=1)
            except SiltstoneError as error:
                self._note(f"partition {move.partition} stays: {error} ({why})")
            else:
                self._note(f"partition {move.partition} went to shard {move.to}: {why}")
                self._save(self._partitions())

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

    def shown(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "used": self.used or len(self._partitions().shards()),
            "decisions": [*self.decisions],
            "thresholds": {"busy_share": BUSY_SHARE, "gap_share": GAP_SHARE, "rest_seconds": REST_SECONDS},
        }


def settings_with(partitions: PartitionMap) -> Callable[[Any], Any]:
    """An edit of the settings that notes where partitions are."""
    return lambda config: msgspec.structs.replace(config, **partitions.settings)
