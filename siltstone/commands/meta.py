"""`siltstone meta`: how the metadata of a volume is spread over processes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform


def add_parser(commands: Subparsers) -> None:
    """Add `meta` and its commands."""
    parser = add_command(
        commands,
        "meta",
        lambda options: 0,
        summary="show how the metadata is spread over processes",
        text="Show how the metadata of a volume is spread over processes (siltstone init --shards N).",
        example="siltstone meta status ~/volume",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    status = add_command(
        actions,
        "status",
        run,
        summary="show the shards: process, state, restarts, partitions, load",
        text="Show the shards of the volume, each a process with a part of the namespace: how they are, how often\n"
        "they were started anew, how many of the 256 partitions they have, and what they do.",
        example="siltstone meta status ~/volume\nsiltstone meta status ~/volume --json | jq .shards",
    )
    add_home(status)
    add_json(status)


def run(options: argparse.Namespace) -> int:
    """Show the shards."""
    meta = perform(Home(options.home), "status")["meta"]
    print(json.dumps(meta) if options.json else "\n".join(describe_shards(meta)))
    return 0


def describe_shards(meta: dict[str, Any]) -> list[str]:
    """A line for each shard."""
    lines = []
    for shard in meta["shards"]:
        line = (
            f"shard {shard['shard']:<4} {shard['state']:<8} process {shard['pid'] or 'none'}, "
            f"{shard['partitions']} partitions, {shard['restarts']} restarts"
        )
        if (load := shard["load"]) is not None:
            line += (
                f"; {load['inodes']:,} inodes, {shard['calls_per_second']:,.0f} calls/s, "
                f"{100 * shard['processor_share']:.0f} % of a processor"
            )
        lines.append(f"{line}; {shard['reason']}" if shard["reason"] else line)
    return lines
