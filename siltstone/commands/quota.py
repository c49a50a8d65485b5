"""`siltstone quota`: limits of directory trees."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.errors import InvalidArgument
from siltstone.geometry import parse_size
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `quota` and its actions."""
    parser = commands.add_parser(
        "quota",
        help="limit what is in a directory tree, and how fast it is used",
        description="Limits of directory trees: bytes, files, and how much is read, written and asked for a second.\n"
        "Quotas nest, and go with a directory that is renamed. What passes one fails with EDQUOT in the mount and\n"
        "QuotaExceeded through S3; who is too fast waits.",
        epilog="example:\n  siltstone quota set ~/volume /bucket/alice --bytes 100G --files 1000000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="set|get|list|remove", required=True)
    change = add_command(
        actions,
        "set",
        run_set,
        summary="limit a tree",
        text="Limit a directory tree. Limits that are not given stay as they are; 0 takes one away. A limit below\n"
        "what is there already is refused. Bytes are those of files by their size, old versions of objects included;\n"
        "files counts directories too. Sizes may have K, M, G or T behind them.",
        example="siltstone quota set ~/volume /bucket/alice --bytes 100G --files 1000000\n"
        "siltstone quota set ~/volume /bucket --read-bytes 200M --write-bytes 50M --operations 2000",
    )
    _add_path(change)
    for name, metavar, text in (
        ("bytes", "SIZE", "bytes in the tree"),
        ("files", "N", "files and directories in the tree"),
        ("read-bytes", "SIZE", "bytes read a second"),
        ("write-bytes", "SIZE", "bytes written a second"),
        ("operations", "N", "operations a second: reads, writes, and changes of names and attributes"),
    ):
        change.add_argument(f"--{name}", metavar=metavar, help=f"at most so many {text}")
    add_json(change)
    show = add_command(
        actions,
        "get",
        run_get,
        summary="show the quotas that limit a path",
        text="Show every quota that limits what is at PATH, the nearest first, and how much of it is used.",
        example="siltstone quota get ~/volume /bucket/alice/work",
    )
    _add_path(show)
    add_json(show)
    every = add_command(
        actions,
        "list",
        run_list,
        summary="show all quotas",
        text="Show all quotas of the volume, and how much of them is used.",
        example="siltstone quota list ~/volume",
    )
    add_home(every)
    add_json(every)
    remove = add_command(
        actions,
        "remove",
        run_remove,
        summary="take the quota of a tree away",
        text="Take all limits of a tree away.",
        example="siltstone quota remove ~/volume /bucket/alice",
    )
    _add_path(remove)


def run_set(options: argparse.Namespace) -> int:
    """Set limits."""
    given = {
        "bytes": options.bytes,
        "files": options.files,
        "read_bytes": options.read_bytes,
        "write_bytes": options.write_bytes,
        "operations": options.operations,
    }
    limits = {name: _number(name, text) for name, text in given.items() if text is not None}
    quota = perform(Home(options.home), "quota_set", _path(options) | {"limits": limits})
    if options.json:
        print(json.dumps(quota))
    else:
        _print(quota)
    return 0


def run_get(options: argparse.Namespace) -> int:
    """Show what limits a path."""
    return _show(options, perform(Home(options.home), "quota_get", _path(options)))


def run_list(options: argparse.Namespace) -> int:
    """Show all quotas."""
    return _show(options, perform(Home(options.home), "quota_list"))


def run_remove(options: argparse.Namespace) -> int:
    """Take a quota away."""
    perform(Home(options.home), "quota_remove", _path(options))
    return 0


def _add_path(parser: argparse.ArgumentParser) -> None:
    add_home(parser)
    parser.add_argument("path", metavar="PATH", help="a directory: a path from the root of the volume")


def _path(options: argparse.Namespace) -> dict[str, object]:
    return {"path": os.fsencode(options.path).hex()}


def _number(name: str, text: str) -> int:
    if name in ("files", "operations"):
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise InvalidArgument(f"--{name} {text!r}: want a number")
        return int(text)
    return parse_size(text)


def _show(options: argparse.Namespace, quotas: list[dict[str, Any]]) -> int:
    if options.json:
        print(json.dumps(quotas))
    else:
        for quota in quotas:
            _print(quota)
    return 0


def _print(quota: dict[str, Any]) -> None:
    """One line: path, and each limit with what is used of it."""
    parts = []
    if quota["bytes"]:
        parts.append(f"{format_bytes(quota['used_bytes'])} of {format_bytes(quota['bytes'])}")
    if quota["files"]:
        parts.append(f"{quota['used_files']:,} of {quota['files']:,} files")
    for name, text in (("read_bytes", "read"), ("write_bytes", "written")):
        if quota[name]:
            parts.append(f"{format_bytes(quota[name])}/s {text}")
    if quota["operations"]:
        parts.append(f"{quota['operations']:,} operations/s")
    print(f"{quota['path']}\t{', '.join(parts) or 'no limits'}")
