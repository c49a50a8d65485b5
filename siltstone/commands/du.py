"""`siltstone du`: what is in a tree, at once."""

from __future__ import annotations

import argparse
import json
import os

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `du`."""
    parser = add_command(
        commands,
        "du",
        run,
        summary="show what is in a directory tree, at once",
        text="Show how many bytes, files and directories are in trees. It is one look, however large they are: sums\n"
        "are kept, nothing is walked. PATH is from the root of the volume (the first name is a bucket). Bytes are\n"
        "those of files by their size; a file with several names counts once, in the directory that had one first.",
        example="siltstone du ~/volume /bucket/project\nsiltstone du --json ~/volume / /bucket",
    )
    add_home(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a path from the root of the volume")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show the usage of each path, one a line."""
    found = [perform(Home(options.home), "du", {"path": os.fsencode(path).hex()}) for path in options.paths]
    if options.json:
        print(json.dumps(found))
        return 0
    for usage in found:
        counts = f"{usage['files']:,} files\t{usage['directories']:,} directories"
        print(f"{format_bytes(usage['bytes'])}\t{counts}\t{usage['path']}")
    return 0
