"""What commands ask of a volume, with a running owner or without one.

``perform`` sends an operation to the owner over the control socket. Where nobody owns the volume, this process does for
as long as the operation takes; for access keys it need not even open the disks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
import trio

from siltstone.control import NoOwner, request
from siltstone.core.cloning import ClonesHere, ClonesOverShards, clone_path, path_names
from siltstone.core.feed_encoding import TYPES
from siltstone.core.object_store import ObjectStore
from siltstone.core.opening import ONLY_SHARD
from siltstone.core.quotas import Quotas
from siltstone.core.scrub_report import sum_of_reports
from siltstone.core.sharded_objects import ShardedObjects
from siltstone.core.trash import Trash
from siltstone.core.types import Progress
from siltstone.engine.disk.system import SystemRandom
from siltstone.errors import InvalidArgument, NotSupported, Unavailable
from siltstone.failure import expected
from siltstone.home import Home
from siltstone.keys import KeyRing
from siltstone.lifecycle import lifecycle_of
from siltstone.membership import Membership
from siltstone.owner import Owner, open_owner
from siltstone.s3gw.store import Store
from siltstone.sharded_tree import sharded_tree
from siltstone.snapshot_operations import snapshot_create, snapshot_delete, snapshot_list

REMAINS_LOOK_SECONDS = 1.0
REMAINS_LOOKS_MAX = 5
"""How often the end of a process is looked for after that of its main thread, which takes no time if nothing hangs."""

ANSWER_SECONDS = 15.0
"""A process that does not say how it stands for so long is stuck."""

Report = Callable[[Progress], None]
Arguments = Mapping[str, Any]


def perform(
    home: Home, operation: str, arguments: Arguments | None = None, report: Report = lambda progress: None
) -> Any:
    """Carry out one operation and return its result, as JSON has it. Raises what the operation raises."""
    arguments = {} if arguments is None else arguments
    home.load_config()
    try:
        limit = ANSWER_SECONDS if operation == "status" else None  # the others may take long, or say how far they are
        return request(home, operation, arguments, report, limit_seconds=limit)
    except NoOwner:
        pass
    if operation in KEY_OPERATIONS:
        with home.owned():
            return msgspec.to_builtins(KEY_OPERATIONS[operation](KeyRing.load(home.keys_file), arguments))
    return trio.run(functools.partial(_perform_alone, home, operation, arguments, report))


def stop(home: Home) -> int:
    """End the owner and return its pid when it has ended. Raises NoOwner."""
    home.load_config()
    pid: int = request(home, "stop")["pid"]
    wait_for_end(pid)
    return pid


def wait_for_end(pid: int) -> None:
    """Return when the process is no more. Raises Unavailable when nothing but a call that does not return is left."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        remains = 0
        while not select.select([process], [], [], REMAINS_LOOK_SECONDS)[0]:
            remains = remains + 1 if _has_left(pid) else 0
            if remains > REMAINS_LOOKS_MAX:
                raise Unavailable(
                    f"process {pid} has ended, but a call to a disk that hangs keeps it from going; until that "
                    "returns, or the machine is restarted, nobody else can open the volume"
                )
    finally:
        os.close(process)


def _has_left(pid: int) -> bool:
    """Whether the main thread of a process has ended while others are still there."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


async def _perform_alone(home: Home, operation: str, arguments: Arguments, report: Report) -> object:
    async with open_owner(home) as owner:
        return msgspec.to_builtins(await perform_here(owner, operation, arguments, report))


async def perform_here(owner: Owner, operation: str, arguments: Arguments, report: Report) -> object:
    """Carry out one operation in the process that owns the volume. Raises InvalidArgument for an unknown one."""
    if operation in KEY_OPERATIONS:
        result = KEY_OPERATIONS[operation](owner.keys, arguments)
        if operation != "key_list":
            owner.change_config(lambda config: config)
            await owner.publish()
        return result
    if operation in VOLUME_OPERATIONS:
        return await VOLUME_OPERATIONS[operation](owner, arguments, report)
    raise InvalidArgument(f"this version of siltstone has no operation {operation!r}")


# --- one function an operation ------------------------------------------------------------------------------------


async def _status(owner: Owner, arguments: Arguments, report: Report) -> object:
    return await owner.status()


async def _settle(owner: Owner, arguments: Arguments, report: Report) -> object:
    done = (await owner.all_shards.ask("settle", progress=report)).values()
    return {
        "settled_bytes": sum(part.settled_bytes for part in done),
        "log_live_bytes": sum(part.log_live_bytes for part in done),
    }


async def _scrub(owner: Owner, arguments: Arguments, report: Report) -> object:
    return sum_of_reports(list((await owner.all_shards.ask("scrub", progress=report)).values()))


async def _fsck(owner: Owner, arguments: Arguments, report: Report) -> object:
    try:
        findings = await owner.all_shards.fsck(deep=bool(arguments.get("deep")), progress=report)
    except BaseExceptionGroup as group:
        raise expected(group) or group from None
    return [{"invariant": f.invariant, "subject": f.subject, "message": f.message} for f in findings]


def _key_add(keys: KeyRing, arguments: Arguments) -> object:
    rules = arguments.get("policy")
    return keys.add(
        email=str(arguments.get("email") or ""),
        rules="" if rules is None else json.dumps(rules),
        access=arguments.get("access"),
        secret=arguments.get("secret"),
        owner=arguments.get("owner"),
        display_name=arguments.get("display_name"),
    )


def _key_list(keys: KeyRing, arguments: Arguments) -> object:
    return [
        {
            "access": key.access,
            "owner": key.owner,
            "display_name": key.display_name,
            "email": key.email,
            "policy": json.loads(key.rules) if key.rules else None,
        }
        for key in keys.list()
    ]


def _key_remove(keys: KeyRing, arguments: Arguments) -> object:
    keys.remove(str(arguments["access"]))
    return None


async def _rebuild(owner: Owner, arguments: Arguments, report: Report) -> object:
    return (await owner.all_shards.ask("rebuild", progress=report))[ONLY_SHARD]


async def _clone(owner: Owner, arguments: Arguments, report: Report) -> object:
    source, target = bytes.fromhex(str(arguments["source"])), bytes.fromhex(str(arguments["target"]))
    async with owner.resizer.turn:
        is_alone = owner.config.shards == 1
        owner.clones += is_alone
    if is_alone:
        try:
            return await clone_path(owner.volume, ClonesHere(owner.volume), source, target, report)
        finally:
            owner.clones -= 1
    async with sharded_tree(owner.home, owner.shards.partitions, owner.clock) as (caller, tree):
        return await clone_path(tree, ClonesOverShards(caller.call, tree), source, target, report)


async def _lifecycle(owner: Owner, arguments: Arguments, report: Report) -> object:
    """For as long as nobody else has the volume. A daemon has its own who does it."""
    if owner.config.shards == 1:
        return await _carry_out_rules(owner, ObjectStore(owner.volume))
    async with sharded_tree(owner.home, owner.shards.partitions, owner.clock) as (caller, tree):
        return await _carry_out_rules(owner, ShardedObjects(caller, tree, owner.shards.partitions, SystemRandom()))


async def _carry_out_rules(owner: Owner, store: Store) -> object:
    lifecycle = lifecycle_of(owner.config, store, owner.clock)
    await lifecycle.make_pass()
    return lifecycle.status


async def _set(owner: Owner, arguments: Arguments, report: Report) -> object:
    wanted: dict[str, Any] = {}
    if "feed_hours" in arguments:
        wanted["feed_window"] = 3600 * float(arguments["feed_hours"])
    if "trash_days" in arguments:
        wanted["trash_days"] = float(arguments["trash_days"])
    if wanted:
        changed = msgspec.structs.replace(owner.config, **wanted)
        changed.check()
        await owner.save(lambda config: msgspec.structs.replace(config, **wanted))
        owner.volume.follow_settings(owner.config)
    return {"feed_hours": owner.config.feed_window / 3600, "trash_days": owner.config.trash_days}


async def _trash_list(owner: Owner, arguments: Arguments, report: Report) -> object:
    items = await _trash(owner).items(_path(arguments, "path"))
    return [
        {
            "path": None if item.path is None else item.path.decode(errors="replace"),
            "path_hex": None if item.path is None else item.path.hex(),
            "name": item.name.decode(errors="replace"),
            "removed_ns": item.removed_ns,
            "type": TYPES.get(stat.S_IFMT(item.mode), "file"),
            "size": item.size,
            "ino": item.ino,
            "was_cut": item.is_cut,
        }
        for item in items
    ]


async def _trash_restore(owner: Owner, arguments: Arguments, report: Report) -> object:
    target = _path(arguments, "target") if arguments.get("target") is not None else None
    return await _trash(owner).restore(_path(arguments, "path"), before_ns=arguments.get("before_ns"), target=target)


async def _trash_empty(owner: Owner, arguments: Arguments, report: Report) -> object:
    return await _trash(owner).empty(_path(arguments, "path"), before_ns=arguments.get("before_ns"))


def _trash(owner: Owner) -> Trash:
    if owner.config.shards > 1:
        raise NotSupported("a volume that is spread over several shards has no trash yet")
    return owner.volume.trash


def _path(arguments: Arguments, name: str) -> bytes:
    """A path with a slash before each name; empty: the root."""
    return b"".join(b"/" + each for each in path_names(bytes.fromhex(str(arguments[name]))))


@contextlib.asynccontextmanager
async def _quotas(owner: Owner) -> AsyncIterator[Quotas]:
    """The quotas of a volume that does not become one of several shards meanwhile."""
    async with owner.resizer.turn:
        yield Quotas(owner.volume)


async def _du(owner: Owner, arguments: Arguments, report: Report) -> object:
    async with _quotas(owner) as quotas:
        return await quotas.usage(_path(arguments, "path"))


async def _quota_set(owner: Owner, arguments: Arguments, report: Report) -> object:
    async with _quotas(owner) as quotas:
        return await quotas.set(_path(arguments, "path"), {str(k): int(v) for k, v in arguments["limits"].items()})


async def _quota_get(owner: Owner, arguments: Arguments, report: Report) -> object:
    async with _quotas(owner) as quotas:
        return await quotas.get(_path(arguments, "path"))


async def _quota_list(owner: Owner, arguments: Arguments, report: Report) -> object:
    async with _quotas(owner) as quotas:
        return await quotas.all()


async def _quota_remove(owner: Owner, arguments: Arguments, report: Report) -> object:
    async with _quotas(owner) as quotas:
        await quotas.remove(_path(arguments, "path"))
    return None


async def _meta_spread(owner: Owner, arguments: Arguments, report: Report) -> object:
    if owner.config.trash_days and int(arguments["shards"]) > 1:
        raise NotSupported("a volume over several shards has no trash yet: `siltstone set HOME --trash-days 0` first")
    placer = owner.shards.placer
    assert placer is not None
    moved = await placer.spread(int(arguments["shards"]), report)
    if arguments.get("wait"):
        await placer.wait_gone(report)
    return {"moved": moved, "shards": owner.config.shards}


async def _meta_auto(owner: Owner, arguments: Arguments, report: Report) -> object:
    if owner.config.trash_days and int(arguments["shards_max"]) > 1:
        raise NotSupported("a volume over several shards has no trash yet: `siltstone set HOME --trash-days 0` first")
    await owner.ground.save(shards_max=int(arguments["shards_max"]))
    return None


async def _disk_list(owner: Owner, arguments: Arguments, report: Report) -> object:
    return await Membership(owner.disks).shown()


async def _disk_add(owner: Owner, arguments: Arguments, report: Report) -> object:
    return await Membership(owner.disks).add(str(arguments["path"]), int(arguments.get("bytes_max", 0)))


async def _disk_drain(owner: Owner, arguments: Arguments, report: Report) -> object:
    members, disk_id = Membership(owner.disks), int(arguments["disk_id"])
    if arguments.get("cancel"):
        await members.cancel_drain(disk_id)
        return None
    await members.start_drain(disk_id)
    if arguments.get("wait"):
        await members.wait_drained(disk_id, report)
    return None


async def _disk_remove(owner: Owner, arguments: Arguments, report: Report) -> object:
    members, disk_id = Membership(owner.disks), int(arguments["disk_id"])
    if arguments.get("lost"):
        await members.declare_lost(disk_id, accept_loss=bool(arguments.get("accept_loss")))
        await members.wait_drained(disk_id, report)
    await members.remove(disk_id)
    return None


async def _disk_replace(owner: Owner, arguments: Arguments, report: Report) -> object:
    disk_id, path = int(arguments["disk_id"]), str(arguments["path"])
    return await Membership(owner.disks).replace(disk_id, path, report, accept_loss=bool(arguments.get("accept_loss")))


KEY_OPERATIONS: dict[str, Callable[[KeyRing, Arguments], object]] = {
    "key_add": _key_add,
    "key_list": _key_list,
    "key_remove": _key_remove,
}
VOLUME_OPERATIONS: dict[str, Callable[[Owner, Arguments, Report], Awaitable[object]]] = {
    "status": _status,
    "settle": _settle,
    "scrub": _scrub,
    "fsck": _fsck,
    "rebuild": _rebuild,
    "clone": _clone,
    "lifecycle": _lifecycle,
    "set": _set,
    "trash_list": _trash_list,
    "trash_restore": _trash_restore,
    "trash_empty": _trash_empty,
    "snapshot_create": snapshot_create,
    "snapshot_list": snapshot_list,
    "snapshot_delete": snapshot_delete,
    "du": _du,
    "quota_set": _quota_set,
    "quota_get": _quota_get,
    "quota_list": _quota_list,
    "quota_remove": _quota_remove,
    "meta_spread": _meta_spread,
    "meta_auto": _meta_auto,
    "disk_list": _disk_list,
    "disk_add": _disk_add,
    "disk_drain": _disk_drain,
    "disk_remove": _disk_remove,
    "disk_replace": _disk_replace,
}
