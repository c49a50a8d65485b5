"""`siltstone settle`: move what lives in the log into stripes now."""

from __future__ import annotations

import argparse
import contextlib

from siltstone.commands.parser import Subparsers, add_command, add_home
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine, format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `settle`."""
    parser = add_command(
        commands,
        "settle",
        run,
        summary="move small writes from the log into stripes now",
        text="Move everything that lives in the log into erasure-coded stripes now, not in the background by and by.",
        example="siltstone settle ~/volume",
    )
    add_home(parser)


def run(options: argparse.Namespace) -> int:
    """Settle; shows progress."""
    with contextlib.closing(ProgressLine("settling")) as line:
        done = perform(Home(options.home), "settle", report=line)
    print(f"settled {format_bytes(done['settled_bytes'])}; {format_bytes(done['log_live_bytes'])} stay in the log")
    return 0
