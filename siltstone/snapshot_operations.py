"""What `siltstone snapshot` asks of a volume."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from siltstone.core.cloning import find_path
from siltstone.core.tree_snapshots import SnapshotInfo, TreeSnapshots
from siltstone.core.types import Progress
from siltstone.errors import NotSupported
from siltstone.owner import Owner
from siltstone.types import Ino

Report = Callable[[Progress], None]
Arguments = Mapping[str, Any]


async def snapshot_create(owner: Owner, arguments: Arguments, report: Report) -> object:
    """Make a snapshot of a directory."""
    async with _alone(owner):
        info = await TreeSnapshots(owner.volume).create(await _directory(owner, arguments), _name(arguments), report)
    return _shown(info)


async def snapshot_list(owner: Owner, arguments: Arguments, report: Report) -> object:
    """The snapshots of a directory, by name."""
    async with _alone(owner):
        return [_shown(info) for info in await TreeSnapshots(owner.volume).list(await _directory(owner, arguments))]


async def snapshot_delete(owner: Owner, arguments: Arguments, report: Report) -> object:
    """Delete a snapshot; with ``wait``: and all that was only in it."""
    async with _alone(owner):
        snapshots = TreeSnapshots(owner.volume)
        files = await snapshots.delete(await _directory(owner, arguments), _name(arguments))
        if arguments.get("wait"):
            await snapshots.wait_purged(files, report)
    return {"files": files}


async def _directory(owner: Owner, arguments: Arguments) -> Ino:
    return (await find_path(owner.volume, bytes.fromhex(str(arguments["path"])))).ino


def _name(arguments: Arguments) -> bytes:
    return bytes.fromhex(str(arguments["name"]))


def _shown(info: SnapshotInfo) -> object:
    return {
        "name": info.name.decode(errors="replace"),
        "lsn": info.lsn,
        "created_ns": info.created_ns,
        "entries": info.entries,
        "bytes": info.bytes,
    }


@contextlib.asynccontextmanager
async def _alone(owner: Owner) -> AsyncIterator[None]:
    """The volume stays one process as long as the context lasts. Raises NotSupported when it is spread over shards."""
    async with owner.resizer.turn:
        if owner.config.shards != 1:
            raise NotSupported(
                f"a volume of {owner.config.shards} shards makes, lists and deletes no snapshots of trees yet; "
                "`siltstone meta single --wait HOME` has it be one process again, which does"
            )
        owner.clones += 1
    try:
        yield
    finally:
        owner.clones -= 1
