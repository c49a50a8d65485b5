"""The shards of an open volume: the first in the owner's process, each other in one of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import trio

from siltstone.config import VolumeConfig
from siltstone.core.opening import ONLY_SHARD
from siltstone.core.shard import Shard
from siltstone.failure import expected
from siltstone.home import Home
from siltstone.meta.shards.map import MapView, map_of
from siltstone.placing import Placer, ShardLoad
from siltstone.ports import Clock
from siltstone.shard_service import ShardService
from siltstone.supervisor import LOOK_SECONDS, Meter, ProcessState, ShardProcess, processor_seconds
from siltstone.types import ShardId


class Shards:
    """All of them. ``processes``: those beside the owner's own."""

    def __init__(self, config: VolumeConfig, processes: list[ShardProcess]) -> None:
        self.processes = processes
        self.own_meter = Meter()
        self.partitions = MapView(map_of(config))
        """What the doors of this process know of where partitions are."""
        self.placer: Placer | None = None
        """There is one if there are several shards."""

    def loads(self) -> dict[ShardId, ShardLoad]:
        """What each shard does that answers."""
        meters = {ONLY_SHARD: self.own_meter} | {process.shard: process.meter for process in self.processes}
        return {
            shard: ShardLoad(meter.processor_share, meter.partition_calls)
            for shard, meter in meters.items()
            if meter.load is not None
        }

    def status(self) -> dict[str, Any]:
        """As JSON has it."""
        own = self._shown(ONLY_SHARD, self.own_meter)
        others = [
            self._shown(process.shard, process.meter)
            | {
                "pid": process.pid,
                "state": process.state.value,
                "reason": process.reason,
                "restarts": process.restarts,
            }
            for process in self.processes
        ]
        placer = {} if self.placer is None else self.placer.shown()
        return {**placer, "map_version": self.partitions().version, "shards": [own, *others]}

    def _shown(self, shard: ShardId, meter: Meter) -> dict[str, Any]:
        """What is shown of every shard, as of the owner's."""
        return {
            "shard": shard,
            "pid": os.getpid(),
            "state": ProcessState.SERVING.value,
            "reason": "",
            "restarts": 0,
            "partitions": len(self.partitions().partitions_of(shard)),
            **meter.shown(),
        }


@contextlib.asynccontextmanager
async def running_shards(home: Home, config: VolumeConfig, own: ShardService, clock: Clock) -> AsyncIterator[Shards]:
    """Serve the owner's shard and start the others; with one there is nothing to serve or to start. Raises Unavailable
    when a shard does not start.

    Order of the end: the others, durably, then the owner's. If the body raises, all end at once.
    """
    if config.shards == 1:
        yield Shards(config, [])
        return
    processes = [ShardProcess(home, ShardId(shard), clock) for shard in range(1, config.shards)]
    shards = Shards(config, processes)
    failure: BaseException | None = None
    try:
        async with own.serving(), trio.open_nursery() as nursery:
            try:
                async with trio.open_nursery() as starting:
                    for process in processes:
                        starting.start_soon(nursery.start, process.keep)
                for process in processes:
                    nursery.start_soon(process.watch)
                nursery.start_soon(_watch_own, own.side, shards.own_meter, clock)
                yield shards
            except BaseException as error:
                failure = error
                for process in processes:
                    process.kill()
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as stopping:
                    for process in processes:
                        stopping.start_soon(process.stop)
            nursery.cancel_scope.cancel()
    finally:
        for process in processes:
            process.kill()
    if failure is not None:
        raise expected(failure) or failure


async def _watch_own(own: Shard, meter: Meter, clock: Clock) -> None:
    while True:
        meter.note(own.load(), clock.monotonic_ns(), processor_seconds(os.getpid()))
        await clock.sleep(LOOK_SECONDS)
