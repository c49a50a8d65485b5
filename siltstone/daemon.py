"""The process that owns a volume: opens its doors, answers the control socket, and shuts everything down in order.

Order of the end: doors first (the mount is gone, S3 requests in flight are finished), then the volume (everything
durable), then the lock. A signal while the volume is still opening gives up opening; a second signal leaves at once.
This process never touches a path below its own mount: it would wait for itself.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import trio

from siltstone.config import check_s3_workers
from siltstone.control import serve_control
from siltstone.core.object_store import ObjectStore
from siltstone.engine.disk.system import SystemRandom
from siltstone.errors import InvalidArgument, SiltstoneError, Unavailable
from siltstone.failure import describe, expected
from siltstone.fuse import mountpoint
from siltstone.fuse.handles import Handles
from siltstone.fuse.mount import serve_mount
from siltstone.fuse.options import parse_options
from siltstone.home import Home
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS, LoopDelay
from siltstone.mounts import source_of
from siltstone.operations import Arguments, Report, perform_here
from siltstone.owner import Owner, open_owner
from siltstone.s3_workers import S3Workers
from siltstone.s3gw.server import serve_s3
from siltstone.sharded_mount import keep_mount_process, serve_sharded_mount
from siltstone.sharded_s3 import serve_sharded_s3
from siltstone.watchdog import Watchdog

FORCED_EXIT_STATUS = 130

logger = logging.getLogger("siltstone")

Announce = Callable[[str], None]
Watch = Callable[[Handles], object]


class Door:
    """One way into the volume: a mount or an S3 endpoint. ``place`` is where the kernel lists the mount."""

    def __init__(self, kind: str, place: str = "") -> None:
        self.kind = kind
        self.place = place
        self.address = ""
        self.workers: S3Workers | None = None
        """Where several processes serve it."""
        self.handles: Handles | None = None
        """What the kernel holds of a mount that this process serves."""
        self.scope = trio.CancelScope()
        self.closed = trio.Event()

    def __str__(self) -> str:
        return f"{self.kind} {self.address}"

    def watch(self, handles: Handles) -> None:
        """The mount has begun."""
        self.handles = handles

    def status(self) -> dict[str, Any]:
        """As JSON has it."""
        workers = [] if self.workers is None else self.workers.status()
        held = self.handles
        return {"kind": self.kind, "address": self.address, "workers": workers} | (
            {} if held is None else {"known_inodes": held.known_count, "open_files": len(held.files)}
        )


class Daemon:
    """Doors and operations of an open volume. ``stopping`` is set when it is to end."""

    def __init__(self, owner: Owner, nursery: trio.Nursery, delay: LoopDelay, stopping: trio.Event) -> None:
        self.stopping = stopping
        self.ends_with_last_door = False
        self.doors: list[Door] = []
        self._owner = owner
        self._nursery = nursery
        self._delay = delay
        self._objects = ObjectStore(owner.volume)
        self._mounts_here = False
        self._opening_shard = trio.Lock()

    async def open_mount(self, directory: str, options: str = "") -> Door:
        """Mount the volume; returns when files can be used. Raises Refused, with nothing mounted.

        ``options`` are as in /etc/fstab. The first mount is served here, any other one by a process of its own.
        """
        parse_options(options)
        place = await trio.to_thread.run_sync(os.path.realpath, directory)  # before it is mounted
        door = Door("mount", place)
        if self._mounts_here:
            await self._serve_shard()
            serve_door = functools.partial(keep_mount_process, self._owner.home, directory, options)
        else:
            self._mounts_here = True
            serve_door = functools.partial(self._serve_mount_here, door.watch, directory, options)
        return await self._open(door, serve_door, lambda started: directory)

    async def open_s3(self, host: str, port: int, workers: int = 1) -> Door:
        """Serve S3, with several processes if ``workers`` is more than one; returns when the endpoint answers. Raises
        Refused when the address is not to be had, or several processes are."""
        owner = self._owner
        check_s3_workers(workers, owner.config)
        if workers > 1:
            door = Door("s3")
            door.workers = S3Workers(owner.home, workers, owner.clock)
            return await self._open(door, functools.partial(door.workers.serve, host, port), _url_of)
        if owner.config.shards > 1:
            serve_door = functools.partial(
                serve_sharded_s3, owner.home, owner.shards.partitions, owner.keys.lookup, random=SystemRandom()
            )
        else:
            serve_door = functools.partial(serve_s3, self._objects, owner.keys.lookup)
        serve_door = functools.partial(serve_door, host=host, port=port, clock=owner.clock, workers=owner.workers)
        return await self._open(Door("s3"), serve_door, _url_of)

    async def perform(self, operation: str, arguments: Arguments, report: Report) -> object:
        """Answer one request of the control socket."""
        match operation:
            case "status":
                status = await self._owner.status()
                status["process"] |= {
                    "doors": [door.status() for door in self.doors],
                    "loop_delay_ms": self._delay.statistics(),
                }
                return status
            case "mount":
                door = await self.open_mount(_text(arguments, "directory"), _text(arguments, "options", ""))
                return f"ready {door}"
            case "s3":
                host, port, workers = _text(arguments, "host"), arguments.get("port"), arguments.get("workers", 1)
                if not isinstance(port, int) or not isinstance(workers, int):
                    raise InvalidArgument("want a port, and a number of workers")
                return f"ready {await self.open_s3(host, port, workers)}"
            case "sync":
                await self._owner.all_shards.ask("sync")
                return {"pid": os.getpid()}
            case "closed":
                return await self._wait_closed(_text(arguments, "directory"))
            case "stop":
                self.stopping.set()
                return {"pid": os.getpid()}
            case _:
                return await perform_here(self._owner, operation, arguments, report)

    async def _wait_closed(self, directory: str) -> object:
        for door in list(self.doors):
            if door.kind == "mount" and door.place == directory:
                await door.closed.wait()
        await self._owner.all_shards.ask("sync")
        return {"ending": self.stopping.is_set()}

    async def _open(
        self, door: Door, serve_door: Callable[..., Awaitable[object]], address_of: Callable[[Any], str]
    ) -> Door:
        try:
            await self._nursery.start(self._keep_open, door, serve_door, address_of)
        except BaseExceptionGroup as group:
            error = expected(group)
            if error is None:
                raise
            raise error from None
        logger.info("ready %s", door)
        return door

    async def _serve_mount_here(
        self, watch: Watch, directory: str, options: str, *, task_status: trio.TaskStatus[str]
    ) -> None:
        owner = self._owner
        try:
            if owner.config.shards > 1:
                await serve_sharded_mount(
                    owner.home,
                    owner.shards.partitions,
                    owner.clock,
                    self._nursery,
                    directory,
                    options,
                    watch=watch,
                    task_status=task_status,
                )
            else:
                await serve_mount(
                    owner.volume,
                    directory,
                    options=parse_options(options),
                    source=source_of(owner.home),
                    watch=watch,
                    task_status=task_status,
                )
        finally:
            self._mounts_here = False

    async def _serve_shard(self) -> None:
        """Have this process's shard answer front-ends in other processes."""
        async with self._opening_shard:
            if not self._owner.own_shard.is_serving:
                await self._nursery.start(self._owner.own_shard.serve_alone)

    async def _keep_open(
        self,
        door: Door,
        serve_door: Callable[..., Awaitable[object]],
        address_of: Callable[[Any], str],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        daemon = self

        class Opened:
            """What the door tells when it is open."""

            def started(self, value: Any = None) -> None:
                door.address = address_of(value)
                daemon.doors.append(door)
                task_status.started()

        try:
            with door.scope:
                await serve_door(task_status=Opened())
        except Exception as group:
            error = expected(group)
            if error is None or door not in self.doors:
                raise
            logger.error("%s failed: %s", door, describe(error))
        finally:
            if door in self.doors:
                self.doors.remove(door)
                door.closed.set()
                logger.info("closed %s", door)
                if not self.doors and self.ends_with_last_door:
                    self.stopping.set()


class WantedDoors(NamedTuple):
    """The doors that are opened at once."""

    mounts: tuple[str, ...] = ()
    mount_options: str = ""
    """Of all of them."""
    s3: tuple[str, int] | None = None
    s3_workers: int = 1


async def serve(home: Home, wanted: WantedDoors, announce: Announce, all_ready: Callable[[], None]) -> None:
    """Own the volume, open the doors that are asked for, and serve until a signal, `stop`, or the last door's end.

    ``announce`` gets a line for each door when it is ready, ``all_ready`` is called after the last. Raises what kept
    the volume or a door from opening; then everything is closed again.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    shutdown = Shutdown()
    async with _signals(home, shutdown):
        with shutdown.opening:
            async with open_owner(home) as owner:
                shutdown.opened = True
                # What is there now stays: a full collection then takes 1 ms of the loop's time, not 12.
                gc.collect()
                gc.freeze()
                await _serve_doors(owner, shutdown.stopping, wanted, announce, all_ready)
        if shutdown.opening.cancelled_caught:
            raise Unavailable(f"told to stop while {home.path} was being opened")


class Shutdown:
    """What a signal sets in motion: before the volume is open it gives up opening, afterwards it stops in order."""

    def __init__(self) -> None:
        self.stopping = trio.Event()
        self.opening = trio.CancelScope()
        self.opened = False


async def _serve_doors(
    owner: Owner, stopping: trio.Event, wanted: WantedDoors, announce: Announce, all_ready: Callable[[], None]
) -> None:
    delay = LoopDelay(owner.clock)
    what, limit = f"process {os.getpid()}, which serves {owner.home.path}", owner.config.disk_timeout
    watchdog = Watchdog(lambda: delay.beats, what=what, limit_seconds=limit)
    with watchdog.watching():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delay.run)
            daemon = Daemon(owner, nursery, delay, stopping)
            await _open_doors(daemon, wanted, announce)
            await nursery.start(serve_control, owner.home, daemon.perform)
            all_ready()
            await stopping.wait()
            logger.info("shutting down")
            for door in list(daemon.doors):
                door.scope.cancel()
            for door in list(daemon.doors):
                await door.closed.wait()
            nursery.cancel_scope.cancel()


async def _open_doors(daemon: Daemon, wanted: WantedDoors, announce: Announce) -> None:
    for directory in wanted.mounts:
        announce(f"ready {await daemon.open_mount(directory, wanted.mount_options)}")
    if wanted.s3 is not None:
        announce(f"ready {await daemon.open_s3(*wanted.s3, wanted.s3_workers)}")
    daemon.ends_with_last_door = bool(daemon.doors)


@contextlib.asynccontextmanager
async def _signals(home: Home, shutdown: Shutdown) -> AsyncIterator[None]:
    """Turn SIGTERM and Ctrl-C into a shutdown, the second one into an exit at once."""

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as arriving:
            task_status.started()
            signals = 0  # `stopping` may be set without one: by `siltstone stop`, or with the last door
            async for _ in arriving:
                signals += 1
                if signals > 1:
                    _leave_at_once(home)
                shutdown.stopping.set()
                if not shutdown.opened:
                    shutdown.opening.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        yield
        nursery.cancel_scope.cancel()


def _leave_at_once(home: Home) -> None:
    """End without closing anything: what was promised durable is, the next start recovers. Leaves no dead mount."""
    logger.warning("second signal: leaving at once")
    for mounted in mountpoint.parse_mountinfo(os.fsdecode(mountpoint.MOUNTINFO.read_bytes())):
        if mounted.source == source_of(home):
            with contextlib.suppress(SiltstoneError):
                mountpoint.unmount(mounted.directory, lazy=True)
    os._exit(FORCED_EXIT_STATUS)


def _url_of(started: tuple[str, int]) -> str:
    host, port = started
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _text(arguments: Arguments, name: str, default: str | None = None) -> str:
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"want {name!r} as a text")
    return value
