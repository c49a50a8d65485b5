"""`siltstone set`: settings of a volume that may be changed while it is in use."""

from __future__ import annotations

import argparse
import json

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform


def add_parser(commands: Subparsers) -> None:
    """Add `set`."""
    parser = add_command(
        commands,
        "set",
        run,
        summary="show and change settings of a volume in use",
        text="Show the settings of a volume that may be changed while it is in use, or change those that are given.\n"
        "They hold from then on, also after a restart.",
        example="siltstone set ~/volume\nsiltstone set ~/volume --feed-hours 72 --trash-days 30",
    )
    add_home(parser)
    parser.add_argument(
        "--feed-hours",
        metavar="N",
        type=float,
        help="how long changes can be read back by `siltstone watch --from`; they take at most 1/256 of the pool",
    )
    parser.add_argument(
        "--trash-days",
        metavar="N",
        type=float,
        help="how long what is removed is kept and can be brought back by `siltstone trash`; 0: not at all",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Change what is given, and print what holds."""
    wanted = {"feed_hours": options.feed_hours, "trash_days": options.trash_days}
    found = perform(Home(options.home), "set", {name: value for name, value in wanted.items() if value is not None})
    if options.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        print(f"{name:12} {value:g}")
    return 0
