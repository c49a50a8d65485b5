"""`siltstone mount`: mount a volume, with the process that owns it or a new one in the background."""

from __future__ import annotations

import argparse
import os

from siltstone.background import start_owner
from siltstone.commands.parser import Subparsers, add_command, add_home
from siltstone.control import NoOwner, request
from siltstone.home import Home


def add_parser(commands: Subparsers) -> None:
    """Add `mount`."""
    parser = add_command(
        commands,
        "mount",
        run,
        summary="mount the volume on a directory",
        text="Mount the volume on an empty directory. Asks the process that owns the volume, or starts one in the\n"
        "background that ends when its last door is closed; its log is HOME/daemon.log.",
        example="siltstone mount ~/volume ~/files",
    )
    add_home(parser)
    parser.add_argument("directory", metavar="DIR", help="empty directory to mount on")


def run(options: argparse.Namespace) -> int:
    """Mount; returns when files can be used."""
    home, directory = Home(options.home), os.path.abspath(options.directory)
    home.load_config()
    try:
        lines = [request(home, "mount", {"directory": directory})]
    except NoOwner:
        lines = start_owner(home, ["--mount", directory])
    print("\n".join(lines))
    return 0
