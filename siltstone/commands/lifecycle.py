"""`siltstone lifecycle`: carry out the lifecycle rules of all buckets now."""

from __future__ import annotations

import argparse
import json

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform


def add_parser(commands: Subparsers) -> None:
    """Add `lifecycle`."""
    parser = add_command(
        commands,
        "lifecycle",
        run,
        summary="delete now what lifecycle rules of buckets say is due",
        text="Carry out the lifecycle rules of all buckets, as the process that owns the volume does by itself each\n"
        "midnight (UTC). Exit status 1 when something could not be done.",
        example="siltstone lifecycle ~/volume",
    )
    add_home(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Make a pass, and say what was done since the owner began."""
    done = perform(Home(options.home), "lifecycle")
    if options.json:
        print(json.dumps(done))
    else:
        print(
            f"{done['looked_at']:,} versions looked at, {done['expired']:,} expired, "
            f"{done['noncurrent_expired']:,} old ones and {done['markers_removed']:,} delete markers removed, "
            f"{done['uploads_aborted']:,} uploads aborted; {done['locked']:,} are locked, "
            f"{done['changed']:,} changed meanwhile"
        )
        if done["last_error"]:
            print(done["last_error"])
    return 1 if done["last_error"] else 0
