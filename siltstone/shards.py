"""The shards of an open volume: the first in the owner's process, each other in one of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import trio

from siltstone.config import VolumeConfig
from siltstone.core.all_shards import AllShards
from siltstone.core.opening import ONLY_SHARD
from siltstone.failure import expected
from siltstone.home import Home
from siltstone.meta.shards.map import MapView, map_of
from siltstone.placing import Placer, ShardLoad
from siltstone.ports import Clock
from siltstone.shard_service import ShardService
from siltstone.supervisor import LOOK_SECONDS, Meter, ProcessState, ShardProcess, processor_seconds
from siltstone.types import ShardId


class Shards:
    """All of them. Made by ``running_shards``."""

    def __init__(
        self, home: Home, config: VolumeConfig, own: ShardService, clock: Clock, nursery: trio.Nursery
    ) -> None:
        self.processes: dict[ShardId, ShardProcess] = {}
        """Those beside the owner's own."""
        self.own_meter = Meter()
        self.partitions = MapView(map_of(config))
        """What the doors of this process know of where partitions are."""
        self.placer: Placer | None = None
        self.asked: AllShards | None = None
        """Where those that start are entered, and those that end are taken out."""
        self._home = home
        self._own = own
        self._clock = clock
        self._nursery = nursery
        self._serving = trio.Lock()

    async def serve(self) -> None:
        """Have the owner's shard answer other processes. Knows whether it does."""
        async with self._serving:
            if not self._own.is_serving:
                await self._nursery.start(self._own.serve_alone)

    async def start(self, shard: ShardId) -> None:
        """Start a shard's process; returns when it serves. Knows whether it runs. Raises Unavailable."""
        if shard in self.processes:
            return
        process = self.processes[shard] = ShardProcess(self._home, shard, self._clock)
        try:
            await self._nursery.start(process.keep)
        except BaseException:
            process.kill()
            del self.processes[shard]
            raise
        self._nursery.start_soon(process.watch)
        if self.asked is not None:
            self.asked.shards[shard] = process.asked

    async def stop(self, shard: ShardId) -> None:
        """End a shard's process for good, in order."""
        process = self.processes.get(shard)
        if process is not None:
            if self.asked is not None:
                self.asked.shards.pop(shard, None)
            await process.stop()
            process.unwatch()
            del self.processes[shard]

    def kill_all(self) -> None:
        """End all at once, but for the owner's."""
        for process in self.processes.values():
            process.kill()

    async def stop_all(self) -> None:
        """End all in order, but for the owner's."""
        async with trio.open_nursery() as stopping:
            for process in self.processes.values():
                stopping.start_soon(process.stop)

    async def watch_own(self) -> None:
        """See what this process does, for ever."""
        while True:
            load = self._own.side.load() if self._own.is_serving else None
            self.own_meter.note(load, self._clock.monotonic_ns(), processor_seconds(os.getpid()))
            await self._clock.sleep(LOOK_SECONDS)

    def loads(self) -> dict[ShardId, ShardLoad]:
        """What each shard does that answers."""
        meters = {ONLY_SHARD: self.own_meter} | {shard: process.meter for shard, process in self.processes.items()}
        return {
            shard: ShardLoad(meter.processor_share, meter.partition_calls)
            for shard, meter in meters.items()
            if meter.load is not None or shard == ONLY_SHARD
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
            for _, process in sorted(self.processes.items())
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
    """Serve the owner's shard and start the others, if there are others. Raises Unavailable when one does not start.

    Order of the end: the others, durably, then the owner's. If the body raises, all end at once.
    """
    failure: BaseException | None = None
    shards: Shards | None = None
    try:
        async with trio.open_nursery() as nursery:
            shards = Shards(home, config, own, clock, nursery)
            try:
                if config.shards > 1:
                    await shards.serve()
                    async with trio.open_nursery() as starting:
                        for shard in range(1, config.shards):
                            starting.start_soon(shards.start, ShardId(shard))
                nursery.start_soon(shards.watch_own)
                yield shards
            except BaseException as error:
                failure = error
                shards.kill_all()
            with trio.CancelScope(shield=True):
                await shards.stop_all()
            nursery.cancel_scope.cancel()
    finally:
        if shards is not None:
            shards.kill_all()
    if failure is not None:
        raise expected(failure) or failure
