"""`siltstone snapshot`: read-only pictures of a directory with all below it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine, format_bytes

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def add_parser(commands: Subparsers) -> None:
    """Add `snapshot` and its actions."""
    parser = commands.add_parser(
        "snapshot",
        help="make, list or delete read-only snapshots of a directory",
        description="Read-only snapshots of a directory with all below it. They are under .snapshots/NAME in that\n"
        "directory, which no listing shows; `siltstone clone` brings one back.",
        epilog="example:\n  siltstone snapshot create ~/volume /bucket/project before-the-upgrade",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="create|list|delete", required=True)
    create = add_command(
        actions,
        "create",
        run_create,
        summary="make a snapshot",
        text="Make a snapshot of a directory as it is at one moment; others go on meanwhile. No bytes are moved: what\n"
        "is not changed later is shared. It is read under .snapshots/NAME of the directory, through the mount, and\n"
        "through S3 by the owner of the bucket; nothing in it can be changed. It is there when the command ends, or\n"
        "not at all. Snapshots go with the directory when that is renamed, and keep it from being removed.",
        example="siltstone snapshot create ~/volume /bucket/project before-the-upgrade\n"
        "siltstone snapshot create ~/volume /bucket        # named after the time",
    )
    add_home(create)
    _add_path(create)
    create.add_argument("name", metavar="NAME", nargs="?", help="its name, without / (default: the time, UTC)")
    add_json(create)
    show = add_command(
        actions,
        "list",
        run_list,
        summary="list the snapshots of a directory",
        text="List the snapshots of a directory with their times, and what is in them.",
        example="siltstone snapshot list ~/volume /bucket/project",
    )
    add_home(show)
    _add_path(show)
    add_json(show)
    delete = add_command(
        actions,
        "delete",
        run_delete,
        summary="delete a snapshot",
        text="Delete a snapshot. It is gone at once; the space that nothing else needs comes back in the background,\n"
        "which goes on after a restart.",
        example="siltstone snapshot delete ~/volume /bucket/project before-the-upgrade\n"
        "siltstone snapshot delete --wait ~/volume /bucket/project before-the-upgrade",
    )
    add_home(delete)
    _add_path(delete)
    delete.add_argument("name", metavar="NAME", help="its name")
    delete.add_argument("--wait", action="store_true", help="return when the space is free again; shows progress")
    add_json(delete)


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the directory: a path from the root of the volume")


def _arguments(options: argparse.Namespace) -> dict[str, str]:
    return {"path": os.fsencode(options.path).hex()}


def run_create(options: argparse.Namespace) -> int:
    """Make one; shows progress."""
    began = time.monotonic()
    name = time.strftime(TIME_FORMAT, time.gmtime()) if options.name is None else options.name
    arguments = _arguments(options) | {"name": os.fsencode(name).hex()}
    with contextlib.closing(ProgressLine("copying the tree")) as line:
        made = perform(Home(options.home), "snapshot_create", arguments, report=line)
    if options.json:
        print(json.dumps(made | {"seconds": round(time.monotonic() - began, 3)}))
    else:
        print(
            f"snapshot {made['name']} is there: {made['entries']:,} files and directories, "
            f"{format_bytes(made['bytes'])}, as of LSN {made['lsn']}"
        )
    return 0


def run_list(options: argparse.Namespace) -> int:
    """Show them, one a line."""
    found = perform(Home(options.home), "snapshot_list", _arguments(options))
    if options.json:
        print(json.dumps(found))
        return 0
    for one in found:
        made = time.strftime(TIME_FORMAT, time.gmtime(one["created_ns"] // 1_000_000_000))
        print(f"{made}  {one['entries']:>10,} files  {format_bytes(one['bytes']):>10}  {one['name']}")
    if not found:
        print("no snapshots")
    return 0


def run_delete(options: argparse.Namespace) -> int:
    """Delete one; with --wait shows progress."""
    arguments = _arguments(options) | {"name": os.fsencode(options.name).hex()}
    with contextlib.closing(ProgressLine("giving the space back")) as line:
        done = perform(Home(options.home), "snapshot_delete", arguments | {"wait": options.wait}, report=line)
    if options.json:
        print(json.dumps(done))
    else:
        what = "are purged" if options.wait else "are purged in the background"
        print(f"the snapshot is gone; {done['files']:,} files and directories {what}")
    return 0
