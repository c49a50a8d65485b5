"""`siltstone meta`: how the metadata of a volume is spread over processes."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import ProgressLine


def add_parser(commands: Subparsers) -> None:
    """Add `meta` and its commands."""
    parser = add_command(
        commands,
        "meta",
        lambda options: 0,
        summary="show and change how the metadata is spread over processes",
        text="Show and change how the metadata of a volume is spread over processes (siltstone init --shards N).",
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
    shards = add_command(
        actions,
        "shards",
        run_shards,
        summary="have so many of the shards share everything evenly",
        text="Have the first N shards share all 256 partitions evenly; the others have none. The volume stays in use:\n"
        "each partition is held back for some milliseconds, and the bytes of its files follow in the background.\n"
        "From then on partitions go from a busy shard of these to an idle one by themselves (meta status says why).",
        example="siltstone meta shards 2 ~/volume",
    )
    shards.add_argument("count", type=int, metavar="N", help="how many; 1 is the same as `meta single`")
    add_home(shards)
    single = add_command(
        actions,
        "single",
        run_single,
        summary="have one shard, in the owner's process, have everything",
        text="Have the first shard, which is in the process of the volume's owner, have all 256 partitions.",
        example="siltstone meta single ~/volume",
    )
    add_home(single)


def run(options: argparse.Namespace) -> int:
    """Show the shards."""
    meta = perform(Home(options.home), "status")["meta"]
    print(json.dumps(meta) if options.json else "\n".join(describe_shards(meta)))
    return 0


def run_shards(options: argparse.Namespace) -> int:
    """Spread partitions; shows progress."""
    return _spread(options, options.count)


def run_single(options: argparse.Namespace) -> int:
    """Gather them; shows progress."""
    return _spread(options, 1)


def _spread(options: argparse.Namespace, count: int) -> int:
    with contextlib.closing(ProgressLine("moving")) as line:
        done = perform(Home(options.home), "meta_spread", {"shards": count}, report=line)
    print(f"{done['moved']} partitions went; {count} {'shard has' if count == 1 else 'shards have'} all of them now")
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
    lines += [f"moved: {decision}" for decision in meta.get("decisions", ())]
    return lines
