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
        text="Show and change how the metadata of a volume is spread over processes: one for everything, which is\n"
        "what a volume begins with, or several.",
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
        summary="spread the metadata over so many processes",
        text="Have N shards, each a process, share all 256 partitions evenly. Those that are not there yet are made.\n"
        "The volume stays in use: each partition is held back for some milliseconds, and the bytes of its files\n"
        "follow in the background; shards that are left over end when theirs have (meta status says what they wait\n"
        "for).\n"
        "From then on partitions go from a busy shard to an idle one by themselves (not with balance_shards false in\n"
        "volume.json).",
        example="siltstone meta shards 3 ~/volume\nsiltstone meta shards 2 ~/volume --wait",
    )
    shards.add_argument("count", type=int, metavar="N", help="how many; 1 is the same as `meta single`")
    add_home(shards)
    _add_wait(shards)
    single = add_command(
        actions,
        "single",
        run_single,
        summary="have one process, the owner's, have everything",
        text="Have the first shard, which is in the process of the volume's owner, have all 256 partitions. The\n"
        "others end, and what they took of the disks is given back, when the bytes of all files have come as well.",
        example="siltstone meta single ~/volume\nsiltstone meta single ~/volume --wait",
    )
    add_home(single)
    _add_wait(single)
    auto = add_command(
        actions,
        "auto",
        run_auto,
        summary="let the volume have up to so many shards by itself",
        text="Let the volume have up to N shards by itself: one more when all have been busy for a minute and there\n"
        "is a processor for it, one fewer when all have had little to do for half an hour. 0, as it begins: never.\n"
        "`siltstone meta status` shows what was decided, and why.",
        example="siltstone meta auto 4 ~/volume",
    )
    auto.add_argument("shards_max", type=int, metavar="N", help="how many at the most; 0: only by hand")
    add_home(auto)


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


def run_auto(options: argparse.Namespace) -> int:
    """Set how many shards the volume may have by itself."""
    perform(Home(options.home), "meta_auto", {"shards_max": options.shards_max})
    limit = options.shards_max
    print(f"up to {limit} shards, by load" if limit else "the number of shards changes only by hand")
    return 0


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="return when shards that are left over have ended, too")


def _spread(options: argparse.Namespace, count: int) -> int:
    with contextlib.closing(ProgressLine("moving")) as line:
        done = perform(Home(options.home), "meta_spread", {"shards": count, "wait": options.wait}, report=line)
    print(f"{done['moved']} partitions went; {count} {'shard has' if count == 1 else 'shards have'} all of them now")
    if done["shards"] > count:
        print(f"{done['shards'] - count} more end when all bytes have come: see siltstone meta status")
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
    if meta.get("waits_for"):
        lines.append(f"waiting: {meta['waits_for']}")
    if meta.get("shards_max"):
        lines.append(f"by itself: up to {meta['shards_max']} shards")
    lines += [f"moved: {decision}" for decision in meta.get("decisions", ())]
    return lines
