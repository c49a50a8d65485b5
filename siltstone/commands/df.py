"""`siltstone df`: what the space of a volume is used for."""

from __future__ import annotations

import argparse
import json
from typing import Any

from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import format_bytes

FIELDS = (
    "live_bytes",
    "log_live_bytes",
    "dead_bytes",
    "raw_used_bytes",
    "log_raw_bytes",
    "utilisation",
    "utilisation_with_log",
    "usable_total_bytes",
    "usable_free_bytes",
    "available_bytes",
    "trash_files",
    "trash_bytes",
    "write_amplification",
)


def add_parser(commands: Subparsers) -> None:
    """Add `df`."""
    parser = add_command(
        commands,
        "df",
        run,
        summary="show what the space is used for",
        text="Show how much of the disks holds living data with its parity, how much waits to be reclaimed, and how\n"
        "many bytes were written to the disks for each byte that users wrote.",
        example="siltstone df ~/volume",
    )
    add_home(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show the space."""
    status = perform(Home(options.home), "status")
    volume, shards = status["volume"], status.get("volumes", {})
    if options.json:
        each = {number: {name: shard[name] for name in FIELDS} for number, shard in shards.items()}
        print(json.dumps({name: volume[name] for name in FIELDS} | ({"shards": each} if each else {})))
        return 0
    lines = describe(volume)
    lines += [_describe_shard(number, shard) for number, shard in shards.items()]
    lines += [f"warning      {text}" for text in volume["warnings"] if "not in these sums" in text]
    print("\n".join(lines))
    return 0


def _describe_shard(number: str, shard: dict[str, Any]) -> str:
    return (
        f"shard {number:<6} {format_bytes(shard['live_bytes'])} live and {format_bytes(shard['dead_bytes'])} dead in "
        f"stripes of {format_bytes(shard['raw_used_bytes'])}, {format_bytes(shard['log_live_bytes'])} live in the log"
    )


def describe(volume: dict[str, Any]) -> list[str]:
    """The lines for people."""
    written = volume["write_amplification"]
    available, total = format_bytes(volume["available_bytes"]), format_bytes(volume["usable_total_bytes"])
    lines = [
        f"live         {format_bytes(volume['live_bytes'])} in stripes, "
        f"{format_bytes(volume['log_live_bytes'])} in the log",
        f"dead         {format_bytes(volume['dead_bytes'])} in stripes that live on, to be filled or moved together",
        f"raw          {format_bytes(volume['raw_used_bytes'])} in stripes with parity, "
        f"{format_bytes(volume['log_raw_bytes'])} in the log with its copies",
        f"utilisation  {100 * volume['utilisation']:.1f} % of what stripes take holds living data and its parity; "
        f"with the log and its copies on both sides {100 * volume['utilisation_with_log']:.1f} %",
        f"free         {available} for users of {total}",
    ]
    if volume["trash_files"]:
        lines.append(
            f"trash        {format_bytes(volume['trash_bytes'])} of that in {volume['trash_files']:,} removed files"
        )
    if written["user_bytes"]:
        tiers = ", ".join(f"{name} {format_bytes(size)}" for name, size in written["stripe_bytes"].items() if size)
        lines.append(
            f"written      {format_bytes(written['user_bytes'])} by users since the start; on disks "
            f"{written['total']:.2f} times that, {written['engine']:.2f} times what log and parity need "
            f"(log {format_bytes(written['log_bytes'])}{', ' if tiers else ''}{tiers})"
        )
    return lines
