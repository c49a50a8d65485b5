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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import trio

from siltstone.control import StreamSink, serve_control
from siltstone.core.cloning import path_names
from siltstone.core.object_store import ObjectStore
from siltstone.core.switching_objects import SwitchingObjects
from siltstone.core.tree import Tree
from siltstone.core.turns import Turn
from siltstone.engine.disk.system import SystemRandom
from siltstone.errors import InvalidArgument, NotSupported, SiltstoneError, Unavailable
from siltstone.failure import describe, expected
from siltstone.file_limit import raise_file_limit
from siltstone.fuse import mountpoint
from siltstone.fuse.mount import ServedMount, serve_mount
from siltstone.fuse.options import MountOptions, parse_options
from siltstone.home import Home
from siltstone.lifecycle import calendar_of, lifecycle_of
from siltstone.loop_delay import SWITCH_INTERVAL_SECONDS, LoopDelay
from siltstone.mounts import source_of
from siltstone.near_front import NearFront
from siltstone.operations import Arguments, Report, perform_here
from siltstone.owner import Owner, open_owner
from siltstone.s3_options import S3Options
from siltstone.s3_workers import S3Workers
from siltstone.s3gw.counters import Counters
from siltstone.s3gw.server import serve_s3
from siltstone.s3gw.tls import Tls
from siltstone.sharded_mount import TIMEOUT_SECONDS_MAX, keep_mount_process
from siltstone.types import Lsn
from siltstone.watchdog import Watchdog

FORCED_EXIT_STATUS = 130

logger = logging.getLogger("siltstone")

Announce = Callable[[str], None]
HEARD_SECONDS = 10.0
"""How long a door waits for the word of all shards before it is opened; one that has just died delays it so long."""


class Door:
    """One way into the volume: a mount or an S3 endpoint. ``place`` is where the kernel lists the mount."""

    def __init__(self, kind: str, place: str = "") -> None:
        self.kind = kind
        self.place = place
        self.address = ""
        self.workers: S3Workers | None = None
        """Where several processes serve it."""
        self.counters: Counters | None = None
        """What happened, of S3 that this process serves."""
        self.tls: Tls | None = None
        """Where S3 is encrypted."""
        self.mount: ServedMount | None = None
        """Where this process serves it."""
        self.options = MountOptions()
        """What was asked of a mount."""
        self.store: SwitchingObjects | None = None
        """What S3 asks, where this process serves it."""
        self.front: NearFront | None = None
        """The way to all shards, once there are several."""
        self.scope = trio.CancelScope()
        self.closed = trio.Event()

    def __str__(self) -> str:
        return f"{self.kind} {self.address}"

    def watch(self, mount: ServedMount) -> None:
        """The mount has begun."""
        self.mount = mount

    @property
    def is_here(self) -> bool:
        """Whether this process serves it."""
        return self.mount is not None or self.store is not None

    def use_shards(self) -> Turn | None:
        """Ask all shards from now on; what began before."""
        assert self.front is not None
        if self.mount is not None:
            return self.mount.use(self.front.tree, self.options.limited(TIMEOUT_SECONDS_MAX))
        return None if self.store is None else self.store.use(self.front.objects)

    def use_volume(self, owner: Owner) -> Turn | None:
        """Ask the only shard's volume from now on; what began before."""
        if self.mount is not None:
            return self.mount.use(owner.volume, self.options)
        return None if self.store is None else self.store.use(None)

    def status(self) -> dict[str, Any]:
        """As JSON has it."""
        workers = [] if self.workers is None else self.workers.status()
        held = None if self.mount is None else self.mount.handles
        found: dict[str, Any] = {"kind": self.kind, "address": self.address, "workers": workers}
        if held is not None:
            found |= {"known_inodes": held.known_count, "open_files": len(held.files)}
        if self.tls is not None:
            found["tls"] = self.tls.status()
        if self.counters is not None:
            found["counters"] = self.counters.shown()
        return found


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
        self._inner = Door("lifecycle")
        """What carries out lifecycle rules comes in as the S3 door does, and is not shown as a door."""
        self._inner.store = SwitchingObjects(self._objects)
        self.lifecycle = lifecycle_of(owner.config, self._inner.store, owner.clock)
        owner.ground.doors = self

    async def open_mount(self, directory: str, options: str = "") -> Door:
        """Mount the volume; returns when files can be used. Raises Refused, with nothing mounted.

        ``options`` are as in /etc/fstab. The first mount is served here, any other one by a process of its own.
        """
        place = await trio.to_thread.run_sync(os.path.realpath, directory)  # before it is mounted
        door = Door("mount", place)
        door.options = parse_options(options)
        if self._mounts_here:
            await self._owner.shards.serve()
            serve_door = functools.partial(keep_mount_process, self._owner.home, directory, options)
        else:
            self._mounts_here = True
            serve_door = functools.partial(self._serve_mount_here, door, directory)
        return await self._open(door, serve_door, lambda started: directory)

    async def open_s3(self, options: S3Options) -> Door:
        """Serve S3, with several processes if ``workers`` is more than one; returns when the endpoint answers. Raises
        Refused when the address is not to be had, or several processes are, ConfigInvalid for no certificate."""
        owner = self._owner
        options.check()
        if owner.keys.make_server_key():
            owner.change_config(lambda config: config)
            await owner.publish()
        door = Door("s3")
        door.tls = options.make_tls()
        if options.workers > 1:
            await owner.shards.serve()  # which the only shard of a volume does not by itself
            door.workers = S3Workers(owner.home, options, owner.clock)
            return await self._open(door, door.workers.serve, options.url)
        return await self._open(door, functools.partial(self._serve_s3_here, door, options), options.url)

    async def reload(self) -> None:
        """Have the S3 doors read their certificates again. One that cannot be taken is logged, and changes nothing."""
        for door in list(self.doors):
            if door.tls is not None and door.tls.reload() and door.workers is not None:
                await door.workers.reload()

    async def perform(self, operation: str, arguments: Arguments, report: Report) -> object:
        """Answer one request of the control socket."""
        match operation:
            case "status":
                status = await self._owner.status()
                status["process"] |= {
                    "doors": [door.status() for door in self.doors],
                    "loop_delay_ms": self._delay.statistics(),
                }
                status["lifecycle"] = msgspec.to_builtins(self.lifecycle.status)
                if self.lifecycle.status.last_error:
                    status["volume"]["warnings"].append(f"lifecycle rules: {self.lifecycle.status.last_error}")
                return status
            case "mount":
                door = await self.open_mount(_text(arguments, "directory"), _text(arguments, "options", ""))
                return f"ready {door}"
            case "s3":
                return f"ready {await self.open_s3(S3Options.of_request(dict(arguments)))}"
            case "sync":
                await self._owner.all_shards.ask("sync")
                return {"pid": os.getpid()}
            case "closed":
                return await self._wait_closed(_text(arguments, "directory"))
            case "lifecycle":
                await self.lifecycle.make_pass()
                return self.lifecycle.status
            case "stop":
                self.stopping.set()
                return {"pid": os.getpid()}
            case _:
                return await perform_here(self._owner, operation, arguments, report)

    async def watch(self, arguments: Arguments, sink: StreamSink) -> None:
        """Stream what is done below a path. Raises NotSupported over shards, and what ``Feed.watch`` raises."""
        owner = self._owner
        if owner.config.shards > 1:
            raise NotSupported(
                f"the volume is spread over {owner.config.shards} shards, whose changes are not one feed yet: "
                f"`siltstone meta single {owner.home.path}` makes it one again"
            )
        path = b"".join(b"/" + name for name in path_names(bytes.fromhex(_text(arguments, "path"))))
        after, oldest = arguments.get("after"), arguments.get("oldest")
        feed = owner.volume.feed
        if oldest:
            after = feed.log.start
        if after is not None and (not isinstance(after, int) or after < 0):
            raise InvalidArgument("want an LSN, a number from 0 up")
        await feed.watch(path, None if after is None else Lsn(after), sink, follow=bool(arguments.get("follow", True)))

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
            async with self._owner.resizer.turn:  # meanwhile no shard comes or goes
                await self._nursery.start(self._keep_open, door, serve_door, address_of)
        except BaseExceptionGroup as group:
            error = expected(group)
            if error is None:
                raise
            raise error from None
        logger.info("ready %s", door)
        return door

    async def _serve_mount_here(self, door: Door, directory: str, *, task_status: trio.TaskStatus[str]) -> None:
        owner = self._owner
        try:
            if owner.config.shards > 1:
                tree: Tree = (await self._front_of(door)).tree
                options = door.options.limited(TIMEOUT_SECONDS_MAX)
            else:
                tree, options = owner.volume, door.options
            await serve_mount(
                tree,
                directory,
                options=options,
                source=source_of(owner.home),
                watch=door.watch,
                task_status=task_status,
            )
        finally:
            self._mounts_here = False
            await self._end_front(door)

    async def _serve_s3_here(
        self, door: Door, options: S3Options, *, task_status: trio.TaskStatus[tuple[str, int]]
    ) -> None:
        owner = self._owner
        store = door.store = SwitchingObjects(self._objects)
        door.counters = Counters()
        try:
            if owner.config.shards > 1:
                store.use((await self._front_of(door)).objects)
            await serve_s3(
                store,
                owner.keys.lookup,
                users=owner.keys,
                server=owner.keys,
                calendar=calendar_of(owner.config),
                host=options.host,
                port=options.port,
                domains=options.domains,
                tls=door.tls,
                counters=door.counters,
                clock=owner.clock,
                random=SystemRandom(),
                workers=owner.workers,
                task_status=task_status,
            )
        finally:
            await self._end_front(door)

    async def carry_out_rules(self) -> None:
        """Carry out lifecycle rules, for ever."""
        inner, owner = self._inner, self._owner
        assert inner.store is not None
        try:
            async with owner.resizer.turn:  # meanwhile no shard comes or goes
                if owner.config.shards > 1:
                    inner.store.use((await self._front_of(inner)).objects)
            await self.lifecycle.run()
        finally:
            await self._end_front(inner)

    # --- doors and shards ------------------------------------------------------------------------------------------

    async def follow_shards(self) -> None:
        """See Ground."""
        for door in self._all_doors():
            if door.front is not None:
                door.front.tree.follow_shards()
        for door in self._all_doors():
            if door.front is not None:
                await door.front.tree.wait_heard()

    async def use_shards(self) -> None:
        """See Ground."""
        turns: list[Turn | None] = []
        for door in self._all_doors():
            if door.is_here:
                await self._front_of(door)
                turns.append(door.use_shards())
        await _wait_over(turns)

    async def use_volume(self) -> None:
        """See Ground."""
        await _wait_over([door.use_volume(self._owner) for door in self._all_doors()])

    def _all_doors(self) -> list[Door]:
        return [*self.doors, self._inner]

    async def _front_of(self, door: Door) -> NearFront:
        """The way to all shards, which have answered."""
        if door.front is None:
            # Beside the door, not in it: when that is closed there is something to be written back.
            door.front = NearFront(self._owner, hears=door.kind == "mount")
            self._nursery.start_soon(door.front.run)
        with trio.move_on_after(HEARD_SECONDS):
            await door.front.tree.wait_heard()
        return door.front

    async def _end_front(self, door: Door) -> None:
        if door.front is not None:
            await door.front.end(writes_back=door.kind == "mount")

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
    s3: S3Options | None = None


async def serve(home: Home, wanted: WantedDoors, announce: Announce, all_ready: Callable[[], None]) -> None:
    """Own the volume, open the doors that are asked for, and serve until a signal, `stop`, or the last door's end.

    ``announce`` gets a line for each door when it is ready, ``all_ready`` is called after the last. Raises what kept
    the volume or a door from opening; then everything is closed again.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    raise_file_limit()
    shutdown = Shutdown()
    async with _signals(home, shutdown):
        with shutdown.opening:
            async with open_owner(home) as owner:
                shutdown.opened = True
                # What is there now stays: a full collection then takes 1 ms of the loop's time, not 12.
                gc.collect()
                gc.freeze()
                await _serve_doors(owner, shutdown, wanted, announce, all_ready)
        if shutdown.opening.cancelled_caught:
            raise Unavailable(f"told to stop while {home.path} was being opened")


class Shutdown:
    """What a signal sets in motion: before the volume is open it gives up opening, afterwards it stops in order."""

    def __init__(self) -> None:
        self.stopping = trio.Event()
        self.reload = trio.Event()
        """Set by each SIGHUP; whoever acts on it makes another."""
        self.opening = trio.CancelScope()
        self.opened = False


async def _serve_doors(
    owner: Owner, shutdown: Shutdown, wanted: WantedDoors, announce: Announce, all_ready: Callable[[], None]
) -> None:
    stopping = shutdown.stopping
    delay = LoopDelay(owner.clock)
    what, limit = f"process {os.getpid()}, which serves {owner.home.path}", owner.config.disk_timeout
    watchdog = Watchdog(lambda: delay.beats, what=what, limit_seconds=limit)
    with watchdog.watching():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delay.run)
            daemon = Daemon(owner, nursery, delay, stopping)
            await _open_doors(daemon, wanted, announce)
            nursery.start_soon(daemon.carry_out_rules)
            nursery.start_soon(_reload_on_signal, daemon, shutdown)
            await nursery.start(serve_control, owner.home, daemon.perform, {"watch": daemon.watch})
            all_ready()
            await stopping.wait()
            logger.info("shutting down")
            for door in list(daemon.doors):
                door.scope.cancel()
            for door in list(daemon.doors):
                await door.closed.wait()
            nursery.cancel_scope.cancel()


async def _reload_on_signal(daemon: Daemon, shutdown: Shutdown) -> None:
    while True:
        await shutdown.reload.wait()
        shutdown.reload = trio.Event()
        await daemon.reload()


async def _open_doors(daemon: Daemon, wanted: WantedDoors, announce: Announce) -> None:
    for directory in wanted.mounts:
        announce(f"ready {await daemon.open_mount(directory, wanted.mount_options)}")
    if wanted.s3 is not None:
        announce(f"ready {await daemon.open_s3(wanted.s3)}")
    daemon.ends_with_last_door = bool(daemon.doors)


@contextlib.asynccontextmanager
async def _signals(home: Home, shutdown: Shutdown) -> AsyncIterator[None]:
    """Turn SIGTERM and Ctrl-C into a shutdown, the second one into an exit at once; SIGHUP is for certificates."""

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as arriving:
            task_status.started()
            signals = 0  # `stopping` may be set without one: by `siltstone stop`, or with the last door
            async for number in arriving:
                if number == signal.SIGHUP:
                    shutdown.reload.set()
                    continue
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


async def _wait_over(turns: Iterable[Turn | None]) -> None:
    for turn in turns:
        if turn is not None:
            await turn.wait_over()


def _text(arguments: Arguments, name: str, default: str | None = None) -> str:
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"want {name!r} as a text")
    return value
