"""`siltstone disk`: which disks a volume has; they are added, drained, removed and replaced while it is in use."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from typing import Any

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.errors import InvalidArgument
from siltstone.geometry import parse_size
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine, format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `disk` and what it can do."""
    parser = add_command(
        commands,
        "disk",
        lambda options: 0,
        summary="list, add, drain, remove or replace disks",
        text="Show and change the disks of a volume. All of it works while the volume is in use, goes on after a\n"
        "restart, and moves data no faster than leaves half of the disks' speed to users.",
        example="siltstone disk list ~/volume\nsiltstone disk replace ~/volume 3 /mnt/new",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = add_command(
        actions,
        "list",
        _list,
        summary="show every disk",
        text="Show every disk: its state and since when, why, where it is, what it holds, and its errors.",
        example="siltstone disk list ~/volume",
    )
    add_home(listing)
    add_json(listing)
    adding = add_command(
        actions,
        "add",
        _add,
        summary="make a directory another disk of the volume",
        text="Make an empty directory, normally the mount point of a disk, another disk of the volume. It takes new\n"
        "data first, and gets its share of the old in the background.",
        example="siltstone disk add ~/volume /mnt/disk7",
    )
    add_home(adding)
    adding.add_argument("directory", metavar="DIR", help="an empty directory, or one to be made")
    adding.add_argument("--size", metavar="SIZE", default="0", help="use so much of it at most, as in 500G")
    draining = add_command(
        actions,
        "drain",
        _drain,
        summary="move all data away from a disk",
        text="Move everything that a disk holds to others, and wait for it. Interrupting stops the waiting only.",
        example="siltstone disk drain ~/volume 3\nsiltstone disk drain ~/volume 3 --cancel",
    )
    add_home(draining)
    _add_disk_id(draining)
    draining.add_argument("--cancel", action="store_true", help="use the disk again as before")
    draining.add_argument("--no-wait", action="store_true", help="return at once; `disk list` and `status` tell more")
    removing = add_command(
        actions,
        "remove",
        _remove,
        summary="let go of a drained or lost disk",
        text="Let go of a disk that is drained; its directory is empty afterwards. With --lost, of a disk that is\n"
        "gone for good: what it held is rebuilt on others first. That is refused while so many others are away that\n"
        "something could not be read without it; --accept-loss gives that up, and `siltstone scrub` names it then.",
        example="siltstone disk remove ~/volume 3\nsiltstone disk remove ~/volume 3 --lost",
    )
    add_home(removing)
    _add_disk_id(removing)
    removing.add_argument("--lost", action="store_true", help="the disk will not come back: rebuild it now")
    _add_accept_loss(removing)
    replacing = add_command(
        actions,
        "replace",
        _replace,
        summary="put a new disk in the place of another",
        text="Add a directory as a disk, move everything from an old disk to it and the others, or rebuild it if the\n"
        "old one cannot be read, and let go of the old one.",
        example="siltstone disk replace ~/volume 3 /mnt/new",
    )
    add_home(replacing)
    _add_disk_id(replacing)
    replacing.add_argument("directory", metavar="DIR", help="an empty directory, or one to be made")
    _add_accept_loss(replacing)


def _add_disk_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("disk_id", metavar="ID", type=int, help="number of the disk, as `disk list` shows it")


def _add_accept_loss(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-loss", action="store_true", help="even if something cannot be read without the disk: it is lost"
    )


def _list(options: argparse.Namespace) -> int:
    disks = perform(Home(options.home), "disk_list")
    print(json.dumps(disks) if options.json else "\n".join(map(_describe, disks)))
    return 0


def _describe(disk: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(disk["since_ns"] / 1e9))
    line = (
        f"disk {disk['disk_id']:<4} {disk['state']:<9} since {since}  {disk['chunk_files']:,} chunk files, "
        f"{format_bytes(disk['free_bytes'])} free of {format_bytes(disk['total_bytes'])}  {disk['path']}"
    )
    if disk["errors"] or disk["mismatches"]:
        line += f"  {disk['errors']} errors, {disk['mismatches']} blocks that did not match"
    return f"{line}  ({disk['reason']})" if disk["reason"] else line


def _add(options: argparse.Namespace) -> int:
    arguments = {"path": os.path.abspath(options.directory), "bytes_max": parse_size(options.size)}
    disk_id = perform(Home(options.home), "disk_add", arguments)
    print(f"disk {disk_id} added; it takes new data first and gets its share of the old in the background")
    return 0


def _drain(options: argparse.Namespace) -> int:
    arguments = {"disk_id": options.disk_id, "cancel": options.cancel, "wait": not options.no_wait}
    with contextlib.closing(ProgressLine(f"draining disk {options.disk_id}")) as line:
        perform(Home(options.home), "disk_drain", arguments, line)
    if options.cancel:
        print(f"disk {options.disk_id} is used again")
    elif options.no_wait:
        print(f"disk {options.disk_id} is being drained")
    else:
        print(f"disk {options.disk_id} is empty; take it out with: siltstone disk remove HOME {options.disk_id}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    if options.accept_loss and not options.lost:
        raise InvalidArgument("--accept-loss is for a disk that is gone for good: say --lost, too")
    arguments = {"disk_id": options.disk_id, "lost": options.lost, "accept_loss": options.accept_loss}
    with contextlib.closing(ProgressLine(f"rebuilding what disk {options.disk_id} held")) as line:
        perform(Home(options.home), "disk_remove", arguments, line)
    print(f"disk {options.disk_id} does not belong to the volume any more")
    return 0


def _replace(options: argparse.Namespace) -> int:
    path = os.path.abspath(options.directory)
    arguments = {"disk_id": options.disk_id, "path": path, "accept_loss": options.accept_loss}
    with contextlib.closing(ProgressLine(f"replacing disk {options.disk_id}")) as line:
        new_id = perform(Home(options.home), "disk_replace", arguments, line)
    print(f"disk {new_id} has taken the place of disk {options.disk_id}")
    return 0
