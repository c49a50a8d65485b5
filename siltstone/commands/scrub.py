"""`siltstone scrub`: read everything that is on the disks, and mend what is not as it was written."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine, format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `scrub`."""
    parser = add_command(
        commands,
        "scrub",
        run,
        summary="read everything on the disks and mend what is damaged",
        text="Read every unit, every copy of the log and every superblock, and mend what is not as it was written.\n"
        "The volume stays in use; a pass that was broken off goes on where it was.\n"
        "Exit status 1 when something could not be mended.",
        example="siltstone scrub ~/volume",
    )
    add_home(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Scrub; shows progress."""
    with contextlib.closing(ProgressLine("scrubbing")) as line:
        report = perform(Home(options.home), "scrub", report=line)
    unmended = [disk for disk in report["disks"] if any(disk[name] for name in disk if name.startswith("unmended"))]
    if options.json:
        print(json.dumps(report))
    else:
        for disk in report["disks"]:
            print(_describe(disk))
        for message in report["lost"]:
            print(message)
    return 1 if unmended or report["lost_count"] else 0


def _describe(disk: dict[str, Any]) -> str:
    skipped = ("disk_id", "units", "read_bytes")
    found = [f"{count} {name.replace('_', ' ')}" for name, count in disk.items() if name not in skipped and count]
    read = f"disk {disk['disk_id']}: {format_bytes(disk['read_bytes'])} read, {disk['units']} units"
    return f"{read}; {', '.join(found) or 'all sound'}"
