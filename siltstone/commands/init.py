"""`siltstone init`: make a volume."""

from __future__ import annotations

import argparse
import sys

import msgspec
import trio

from siltstone.birth import Plan, check_answers, make_volume, plan_volume
from siltstone.commands.parser import Subparsers, add_command, add_home
from siltstone.config import DAY_SECONDS
from siltstone.geometry import parse_code, parse_size
from siltstone.home import Home
from siltstone.progress import format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `init`."""
    parser = add_command(
        commands,
        "init",
        run,
        summary="make a volume",
        text="Make a volume on the given disks: directories, normally mount points of one physical disk each, that\n"
        "are empty or not there yet. Without --disk: six directories under HOME, to try things out.",
        example="siltstone init ~/volume\n"
        "siltstone init ~/volume --disk /mnt/a --disk /mnt/b --disk /mnt/c --disk /mnt/d --ec 2+2 --disk-size 500G\n"
        "siltstone init ~/volume --shards 2",
    )
    add_home(parser)
    parser.add_argument("--disk", metavar="DIR", action="append", default=[], help="a disk; repeat it for each")
    parser.add_argument(
        "--ec",
        metavar="K+M",
        help="K data units, any M disks may be lost (default: 4+2 from six disks on, otherwise the widest K+2 or K+1 "
        "that the disks allow)",
    )
    parser.add_argument("--disk-size", metavar="SIZE", help="use at most this of a disk, e.g. 10G (default: all)")
    parser.add_argument(
        "--shards", metavar="N", type=int, default=1, help="processes to spread the metadata over (default: 1)"
    )
    parser.add_argument(
        "--lifecycle-day",
        metavar="SECONDS",
        type=float,
        default=DAY_SECONDS,
        help="for tests: how long a day of lifecycle rules is (default: a day)",
    )
    parser.add_argument(
        "--trash-days",
        metavar="N",
        type=float,
        default=0.0,
        help="keep what is removed for so long, to be brought back by `siltstone trash` (default: not at all; "
        "`siltstone set` changes it)",
    )
    parser.add_argument("--force-single", action="store_true", help="allow one or two disks")


def run(options: argparse.Namespace) -> int:
    """Make the volume, and say aloud what it can and cannot do."""
    code = None if options.ec is None else parse_code(options.ec)
    bytes_max = 0 if options.disk_size is None else parse_size(options.disk_size)
    home = Home(options.home)
    trio.run(check_answers, home, options.disk)
    plan = plan_volume(
        home,
        options.disk,
        code=code,
        bytes_max=bytes_max,
        few_disks_allowed=options.force_single,
        shards=options.shards,
        lifecycle_day=options.lifecycle_day,
    )
    plan = plan._replace(config=msgspec.structs.replace(plan.config, trash_days=options.trash_days))
    plan.config.check()
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    trio.run(make_volume, home, plan)
    print("\n".join(describe(home, plan)))
    return 0


def describe(home: Home, plan: Plan) -> list[str]:
    """What was made, in lines for people."""
    code, config = plan.code, plan.config
    lost = f"any {code.parity_units} of them may be lost" if code.parity_units else "none may be lost"
    amplification = (code.data_units + code.parity_units) / code.data_units
    chosen = " (chosen for them)" if plan.code_was_chosen else ""
    lines = [
        f"volume {home.path}: {len(config.disks)} disks, erasure code {code}{chosen}, {lost}, "
        f"data takes {amplification:.2f} times its size"
    ]
    lines += [
        f"  disk {disk.disk_id}: {disk.path}" + (f", up to {format_bytes(disk.bytes_max)}" if disk.bytes_max else "")
        for disk in config.disks
    ]
    if config.shards > 1:
        return [*lines, f"  metadata in {config.shards} processes", f"next: siltstone serve {home.path}"]
    return [*lines, f"next: siltstone mount {home.path} DIR"]
