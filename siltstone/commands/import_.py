"""`siltstone import`: bring a volume back from its disks alone."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
from pathlib import Path

import msgspec
import trio

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.importing import ImportPlan, ImportReport, ShardImport, import_volume, plan_import
from siltstone.progress import ProgressLine, format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `import`."""
    parser = add_command(
        commands,
        "import",
        run,
        summary="bring a volume back from its disks when HOME is lost",
        text="Make HOME anew from the disks of a volume: settings, access keys and all metadata, up to the last\n"
        "change that was durable. Up to M disks of a K+M volume may be missing; the others may be at other places\n"
        "than before. HOME must be empty or not there. Until it has ended nothing counts: it can be done again.",
        example="siltstone import ~/volume --disk /mnt/a --disk /mnt/b --disk /mnt/c --disk /mnt/d",
    )
    add_home(parser)
    parser.add_argument(
        "--disk", metavar="DIR", action="append", required=True, help="a disk of the volume; repeat it for each"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Import; shows progress."""
    home = Home(options.home)
    disks = [Path(os.path.abspath(disk)) for disk in options.disk]
    with contextlib.closing(ProgressLine("loading the metadata")) as line:
        plan, report = trio.run(functools.partial(_import, home, disks, line))
    for warning in [*report.damaged, *(f"{disk} is missing" for disk in plan.missing)]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(msgspec.to_builtins(report)) if options.json else "\n".join(describe(home, report)))
    return 0


async def _import(home: Home, disks: list[Path], line: ProgressLine) -> tuple[ImportPlan, ImportReport]:
    plan = await plan_import(home, disks)
    return plan, await import_volume(home, plan, line)


def describe(home: Home, report: ImportReport) -> list[str]:
    """What was done, in lines for people."""
    settled = [] if report.is_settled else ["what was under way over several shards goes on when the volume is opened"]
    return [
        f"volume {home.path}: {report.inodes:,} files and directories with {format_bytes(report.file_bytes)}, "
        f"{report.keys} access keys",
        *(_describe_shard(shard, part, len(report.shards)) for shard, part in enumerate(report.shards)),
        f"{report.disks - len(report.missing)} of {report.disks} disks are there",
        *settled,
        f"next: siltstone mount {home.path} DIR",
    ]


def _describe_shard(shard: int, part: ShardImport, shards: int) -> str:
    who = f"shard {shard}: " if shards > 1 else ""
    base = f"the snapshot of LSN {part.snapshot_lsn}" if part.snapshot_lsn else "no full snapshot"
    return (
        f"{who}from {base}, {part.increments} increments up to LSN {part.applied_lsn}, and the log up to {part.log_lsn}"
    )
