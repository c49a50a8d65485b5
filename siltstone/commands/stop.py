"""`siltstone stop`: end the process that serves a volume."""

from __future__ import annotations

import argparse

from siltstone.commands.parser import Subparsers, add_command, add_home
from siltstone.home import Home
from siltstone.operations import stop


def add_parser(commands: Subparsers) -> None:
    """Add `stop`."""
    parser = add_command(
        commands,
        "stop",
        run,
        summary="end the process that serves the volume",
        text="Unmount, stop serving S3, and end the process that owns the volume. Returns when it has ended.",
        example="siltstone stop ~/volume",
    )
    add_home(parser)


def run(options: argparse.Namespace) -> int:
    """Stop the owner and wait for its end."""
    print(f"stopped process {stop(Home(options.home))}")
    return 0
