"""Starts processes of shards and workers, watches them, starts anew what died; all end with the owner (child.py)."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from siltstone.child import ENDED_EARLY, ask_to_stop, start_child, tell_child, wait_ready
from siltstone.core.calls import AskLoad, Load
from siltstone.core.orders import FarShard
from siltstone.errors import Unavailable
from siltstone.home import Home
from siltstone.meta.shards.messages import PeerLost
from siltstone.ports import Clock
from siltstone.shard_service import link_to
from siltstone.types import PartitionId, ShardId

PAUSE_SECONDS = 0.05
PAUSE_SECONDS_MAX = 10.0
"""How long is waited before a process is started again: a time that doubles with each death,"""

SOUND_SECONDS = 30.0
"""and is short again for one that has served so long."""

STOP_SECONDS = 90.0
"""How long the end in order may take; longer than closing a volume waits for anything."""

LOOK_SECONDS = 1.0
"""How often shards are asked for their load."""

SILENT_SECONDS = 5.0
"""One that does not say it within so long is silent. It is left alone: its loop may be busy, or its process stopped."""

_ask = msgspec.msgpack.encode(AskLoad())
_decode = msgspec.msgpack.Decoder(Load).decode

logger = logging.getLogger("siltstone.shards")


class ProcessState(enum.Enum):
    """Where a process stands: starting -> serving <-> silent, from each of these -> pausing -> starting, and
    from all -> ended."""

    STARTING = "starting"
    SERVING = "serving"
    SILENT = "silent"
    PAUSING = "pausing"
    """It died, and is started again soon."""
    ENDED = "ended"


class KeptProcess:
    """A process in one life after the other: ``python -m MODULE ARGUMENTS``, called ``name``."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], home: Home, clock: Clock) -> None:
        self.name = name
        self.state = ProcessState.STARTING
        self.restarts = 0
        self.reason = ""
        """Why it does not serve, or did not before it was started again."""
        self._module = module
        self._arguments = arguments
        self._home = home
        self._clock = clock
        self._process: trio.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return 0 if self._process is None else self._process.pid

    async def keep(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep it running; started when it serves for the first time. Raises Unavailable if it does not come so far."""
        pause = PAUSE_SECONDS
        has_served = False
        while not self._stopping:
            self.state = ProcessState.STARTING
            failure = await self._start()
            begun_ns = self._clock.monotonic_ns()
            if not failure:
                self.state = ProcessState.SERVING
                if not has_served:
                    has_served = True
                    task_status.started()
            ended = await self._wait_end()
            if self._stopping:
                break
            self.reason = failure or ended
            if not has_served:
                raise Unavailable(f"{self.name} does not start: {self.reason}")
            self.state = ProcessState.PAUSING
            if not failure and self._clock.monotonic_ns() - begun_ns > SOUND_SECONDS * 1e9:
                pause = PAUSE_SECONDS
            logger.warning("%s: %s; it is started again in %g s", self.name, self.reason, pause)
            self.restarts += 1
            await self._clock.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
        self.state = ProcessState.ENDED

    async def stop(self) -> None:
        """End it in order, or by force when that takes too long."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with trio.move_on_after(STOP_SECONDS):
            await ask_to_stop(process)
            await process.wait()
            return
        logger.error("%s: process %d does not end; it is killed", self.name, process.pid)
        self.kill()

    async def tell(self, word: str) -> None:
        """Say a word to it, if it is there; one that is started later begins with what there is then."""
        if self._process is not None:
            await tell_child(self._process, word)

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()

    async def _wait_end(self) -> str:
        """Return when the process is gone, with how it went."""
        process = self._process
        if process is None:  # it could not be started
            return ""
        status = await process.wait()
        self._process = None
        assert process.stdin is not None
        await process.stdin.aclose()
        return f"process {process.pid} ended with status {status}"

    async def _start(self) -> str:
        """Start a process; returns when it serves, with nothing, or has failed, with why."""
        try:
            self._process = await start_child(self._module, *self._arguments)
        except Unavailable as error:
            return str(error)
        failure = await wait_ready(self._process)
        return f"{failure} (see {self._home.log_file})" if failure == ENDED_EARLY else failure


class ShardProcess(KeptProcess):
    """One shard's process."""

    def __init__(self, home: Home, shard: ShardId, clock: Clock) -> None:
        super().__init__(f"shard {shard}", "siltstone.shard_process", [str(home.path), str(shard)], home, clock)
        self.shard = shard
        self.meter = Meter()
        self._link = link_to(home, clock, shard)
        self.asked = FarShard(self._link, clock)
        """For orders of the owner (``watch`` keeps the connection)."""
        self._watching = trio.CancelScope()

    def unwatch(self) -> None:
        """End ``watch``: the shard is gone for good."""
        self._watching.cancel()

    async def watch(self) -> None:
        """Ask for its load, for ever."""
        with self._watching:
            await self._watch()

    async def _watch(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run)
            while True:
                try:
                    with trio.move_on_after(SILENT_SECONDS) as asking:
                        load = _decode(await self._link.call(_ask))
                        self.meter.note(load, self._clock.monotonic_ns(), processor_seconds(self.pid))
                except PeerLost:
                    self.meter.lose()
                else:
                    self._note_silence(is_silent=asking.cancelled_caught)
                await self._clock.sleep(LOOK_SECONDS)

    def _note_silence(self, *, is_silent: bool) -> None:
        if is_silent and self.state is ProcessState.SERVING:
            self.state = ProcessState.SILENT
            self.reason = f"process {self.pid} gives no answer for {SILENT_SECONDS:g} s"
            self.meter.lose()
            logger.warning("shard %d: %s", self.shard, self.reason)
        elif not is_silent and self.state is ProcessState.SILENT:
            self.state = ProcessState.SERVING
            self.reason = ""
            logger.info("shard %d: process %d answers again", self.shard, self.pid)


class Meter:
    """What a shard does in a second."""

    def __init__(self) -> None:
        self.load: Load | None = None
        self.calls_per_second = 0.0
        self.processor_share = 0.0
        self.partition_calls: dict[PartitionId, float] = {}
        """A second."""
        self._before: tuple[Load | None, int, float] | None = None

    def note(self, load: Load | None, now_ns: int, processor_seconds: float) -> None:
        """What was counted by now. ``load``: None of the only shard of a volume, whose calls nobody counts."""
        if self._before is not None:
            before, then_ns, processor_before = self._before
            seconds = max(now_ns - then_ns, 1) / 1e9
            self.processor_share = max(0.0, processor_seconds - processor_before) / seconds
            if load is not None and before is not None:
                self.calls_per_second = max(0, load.calls - before.calls) / seconds
                self.partition_calls = {
                    PartitionId(partition): max(0, calls - before.partition_calls.get(partition, 0)) / seconds
                    for partition, calls in load.partition_calls.items()
                }
        self._before = (load, now_ns, processor_seconds)
        self.load = load

    def lose(self) -> None:
        """Nobody answers."""
        self.load = self._before = None
        self.calls_per_second = self.processor_share = 0.0
        self.partition_calls = {}

    def shown(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "calls_per_second": round(self.calls_per_second, 1),
            "processor_share": round(self.processor_share, 3),
            "load": None if self.load is None else _shown(self.load),
        }


def _shown(load: Load) -> dict[str, Any]:
    shown = msgspec.structs.asdict(load)
    del shown["partition_calls"]  # 256 numbers that nobody reads
    return shown


def processor_seconds(pid: int) -> float:
    """What a process has used of the processors; 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
