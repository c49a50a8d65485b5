"""`siltstone trash`: what was removed, and is kept for a time."""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import UTC, datetime

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.errors import ConfigInvalid
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `trash` and its commands."""
    parser = add_command(
        commands,
        "trash",
        lambda options: 0,
        summary="list, bring back or give up what was removed",
        text="With trash_days above 0 (`siltstone set HOME --trash-days N`, or `init`) what unlink, rename over\n"
        "something, truncation and S3's delete and overwriting take away is kept so long, and can be brought back.\n"
        "It takes room until then; when the pool fills the oldest is given up first.",
        example="siltstone trash list ~/volume /bucket",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = add_command(
        actions,
        "list",
        run_list,
        summary="show what was removed below a path",
        text="Show what was removed at and below PATH, by path and time. A path is that of the directory as it is\n"
        "now. What a file was before it was cut shorter is marked so.",
        example="siltstone trash list ~/volume /bucket\nsiltstone trash list ~/volume --json | jq -r .[].path",
    )
    add_home(listing)
    _add_path(listing, default="/")
    add_json(listing)
    restore = add_command(
        actions,
        "restore",
        run_restore,
        summary="bring back a file, or a tree",
        text="Bring back what was removed at PATH and below it: of each name the newest, or the newest that was\n"
        "removed until a time. What has its name taken by now is left in the trash; give another place with --to.\n"
        "No bytes are moved.",
        example="siltstone trash restore ~/volume /bucket/report.odt\n"
        "siltstone trash restore ~/volume /bucket/project --before 2026-11-25T12:00 --to /bucket/found",
    )
    add_home(restore)
    _add_path(restore)
    restore.add_argument("--before", metavar="TIME", type=_time_ns, help="removed until then, as 2026-11-25T12:00")
    restore.add_argument("--to", metavar="PATH", help="bring it back here, and not to where it was")
    add_json(restore)
    empty = add_command(
        actions,
        "empty",
        run_empty,
        summary="give up what was removed below a path",
        text="Give up what was removed at and below PATH, or of it what was removed so long ago. It cannot be brought\n"
        "back after that; its room comes back at once.",
        example="siltstone trash empty ~/volume\nsiltstone trash empty ~/volume /bucket --older-than 7",
    )
    add_home(empty)
    _add_path(empty, default="/")
    empty.add_argument("--older-than", metavar="DAYS", type=float, help="only what was removed so long ago")
    add_json(empty)


def _add_path(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    words = "a path from the root of the volume" + (" (default: everything)" if default else "")
    if default is None:
        parser.add_argument("path", metavar="PATH", help=words)
    else:
        parser.add_argument("path", metavar="PATH", nargs="?", default=default, help=words)


def _time_ns(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: want a time, as in 2026-11-25T12:00") from error
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e9)


def _hex(path: str) -> str:
    return os.fsencode(path).hex()


def run_list(options: argparse.Namespace) -> int:
    """List."""
    items = perform(Home(options.home), "trash_list", {"path": _hex(options.path)})
    if options.json:
        print(json.dumps(items))
        return 0
    for item in items:
        removed = datetime.fromtimestamp(item["removed_ns"] // 10**9, UTC).isoformat().replace("+00:00", "Z")
        path = "?/" + item["name"] if item["path"] is None else item["path"]
        note = " (cut shorter)" if item["was_cut"] else ""
        print(f"{removed}  {format_bytes(item['size']):>10}  {item['type']:9}  {path!r}{note}")
    return 0


def run_restore(options: argparse.Namespace) -> int:
    """Bring back."""
    arguments = {"path": _hex(options.path), "before_ns": options.before}
    if options.to is not None:
        arguments["target"] = _hex(options.to)
    done = perform(Home(options.home), "trash_restore", arguments)
    if options.json:
        print(json.dumps(done))
        return 0
    skipped = f"; {done['skipped']:,} have their names taken, and stay in the trash" if done["skipped"] else ""
    print(f"brought back {done['entries']:,} files and directories, {format_bytes(done['bytes'])}{skipped}")
    return 0


def run_empty(options: argparse.Namespace) -> int:
    """Give up."""
    before_ns = None
    if options.older_than is not None:
        if options.older_than < 0:
            raise ConfigInvalid(f"--older-than {options.older_than:g}: want days, 0 or more")
        before_ns = time.time_ns() - int(options.older_than * 24 * 3600 * 1e9)
    done = perform(Home(options.home), "trash_empty", {"path": _hex(options.path), "before_ns": before_ns})
    print(json.dumps(done) if options.json else f"gave up {done['entries']:,}, {format_bytes(done['bytes'])}")
    return 0
