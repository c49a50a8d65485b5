"""`siltstone rebuild`: rebuild what lost disks held, now."""

from __future__ import annotations

import argparse
import contextlib

from siltstone.commands.parser import Subparsers, add_command, add_home
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine


def add_parser(commands: Subparsers) -> None:
    """Add `rebuild`."""
    parser = add_command(
        commands,
        "rebuild",
        run,
        summary="rebuild what missing disks held, now",
        text="Rebuild what disks that are missing or have failed held, on the others, now and not when the grace time\n"
        "is over; empty draining disks as well. The volume stays in use. Interrupting stops the waiting only.",
        example="siltstone rebuild ~/volume",
    )
    add_home(parser)


def run(options: argparse.Namespace) -> int:
    """Rebuild; shows progress."""
    with contextlib.closing(ProgressLine("rebuilding")) as line:
        perform(Home(options.home), "rebuild", report=line)
    print("everything has its full redundancy on disks that are there")
    return 0
