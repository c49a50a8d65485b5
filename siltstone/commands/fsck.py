"""`siltstone fsck`: check every invariant of a volume."""

from __future__ import annotations

import argparse
import contextlib
import json

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine


def add_parser(commands: Subparsers) -> None:
    """Add `fsck`."""
    parser = add_command(
        commands,
        "fsck",
        run,
        summary="check every invariant of the volume",
        text="Check every invariant between names, inodes, extents, stripes, slabs and log. Changes nothing.\n"
        "Exit status 1 and one line for each finding, 0 when there is none.",
        example="siltstone fsck ~/volume --deep",
    )
    add_home(parser)
    parser.add_argument("--deep", action="store_true", help="read and verify every unit of every stripe, too")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check; shows progress."""
    with contextlib.closing(ProgressLine("checking")) as line:
        findings = perform(Home(options.home), "fsck", {"deep": options.deep}, report=line)
    if options.json:
        print(json.dumps({"findings": findings}))
    else:
        for finding in findings:
            print(" ".join(f"{finding['invariant']} {finding['subject']}: {finding['message']}".split()))
        if not findings:
            print("no findings")
    return 1 if findings else 0
