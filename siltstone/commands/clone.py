"""`siltstone clone`: a copy of a tree or a file that shares its bytes."""

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


def add_parser(commands: Subparsers) -> None:
    """Add `clone`."""
    parser = add_command(
        commands,
        "clone",
        run,
        summary="copy a tree or a file at once, sharing its bytes",
        text="Make DST a copy of SRC, a directory with all that is in it or a file. No bytes are moved: both share\n"
        "them, and a write to either is not seen in the other. DST appears when all of it is there, or not at all.\n"
        "SRC and DST are paths from the root of the volume (the first name is a bucket); DST must not exist, and the\n"
        "directory that it is to be in must. Owners, modes, times, attributes, links and ETags are kept.",
        example="siltstone clone ~/volume /bucket/project /bucket/project-before\n"
        "siltstone clone --json ~/volume /bucket/disk.img /bucket/disk-2.img",
    )
    add_home(parser)
    parser.add_argument("source", metavar="SRC", help="what is cloned: a path from the root of the volume")
    parser.add_argument("target", metavar="DST", help="what it becomes: a path that does not exist yet")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Clone; shows progress."""
    began = time.monotonic()
    paths = {"source": os.fsencode(options.source).hex(), "target": os.fsencode(options.target).hex()}
    with contextlib.closing(ProgressLine("cloning")) as line:
        done = perform(Home(options.home), "clone", paths, report=line)
    if options.json:
        print(json.dumps(done | {"seconds": round(time.monotonic() - began, 3)}))
    else:
        print(f"cloned {done['entries']:,} files and directories; {format_bytes(done['bytes'])} are shared")
    return 0
