"""`siltstone status`: what a volume holds, how its disks are, and who serves it."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from siltstone.commands.meta import describe_shards
from siltstone.commands.parser import Subparsers, add_command, add_home, add_json
from siltstone.home import Home
from siltstone.operations import perform
from siltstone.progress import format_bytes


def add_parser(commands: Subparsers) -> None:
    """Add `status`."""
    parser = add_command(
        commands,
        "status",
        run,
        summary="show the volume, its disks and its doors",
        text="Show what the volume holds and where, how its disks are, and who serves it.",
        example="siltstone status ~/volume\nsiltstone status ~/volume --json | jq .volume",
    )
    add_home(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show the status."""
    status = perform(Home(options.home), "status")
    print(json.dumps(status) if options.json else "\n".join(describe(status)))
    return 0


def describe(status: dict[str, Any]) -> list[str]:
    """The lines for people."""
    volume, process = status["volume"], status["process"]
    lines = [
        f"volume     {status['home']}, erasure code {status['code']}, {len(volume['disks'])} disks",
        f"room       {format_bytes(volume['usable_free_bytes'])} free of {format_bytes(volume['usable_total_bytes'])}",
        f"contents   {volume['inodes']:,} files and directories, {format_bytes(volume['file_bytes'])}",
        f"log        {format_bytes(volume['log_live_bytes'])} live; {volume['log_segments']} segments hold "
        f"{format_bytes(volume['log_raw_bytes'])} with all copies",
        f"stripes    {format_bytes(volume['stripe_data_bytes'])} in {volume['stripes']:,} stripes of "
        f"{volume['slabs']:,} slabs hold {format_bytes(volume['stripe_raw_bytes'])} with parity",
        f"space      {volume['space_amplification']:.2f} times what is stored; `siltstone df` tells more",
        f"unwritten  {format_bytes(volume['dirty_bytes'])} in memory, {format_bytes(volume['log_pending_bytes'])} on "
        "their way into the log",
    ]
    lines.append(_describe_snapshots(volume["snapshots"], time.time_ns()))
    paths = status["disk_paths"]
    lines += [
        f"disk {disk['disk_id']:<5} {disk['state']:<8} {paths[str(disk['disk_id'])]} {disk['reason']}".rstrip()
        for disk in volume["disks"]
    ]
    if volume["degraded_reads"] or volume["hedged_reads"] or volume["hedged_log_reads"]:
        lines.append(
            f"reads      {volume['degraded_reads']:,} were computed from other units; {volume['hedged_reads']:,} were "
            f"late and computed meanwhile, {volume['won_hedges']:,} of them faster than they were read; "
            f"{volume['hedged_log_reads']:,} of the log were late and read from another disk"
        )
    if len(status["meta"]["shards"]) > 1:
        lines += describe_shards(status["meta"])
    if volume["trash_files"]:
        lines.append(
            f"trash      {volume['trash_files']:,} removed files with {format_bytes(volume['trash_bytes'])}, "
            "of which the oldest go first when room is short"
        )
    moves = volume["moves"]
    if moves["kind"]:
        lines.append(
            f"moving     {moves['kind']}: {moves['units_left']} chunk files from disk {moves['source']} to disk "
            f"{moves['target']}, {_describe_progress(moves)}"
        )
    if status.get("lifecycle", {}).get("passes"):
        lines.append(_describe_lifecycle(status["lifecycle"], time.time_ns()))
    if volume["scrub"]["is_running"]:
        lines.append(f"scrubbing  {_describe_progress(volume['scrub'])}")
    if "doors" in process:
        delay = process["loop_delay_ms"]
        lines.append(
            f"process    {process['pid']}, {format_bytes(process['resident_bytes'])} resident, loop delay "
            f"p99 {delay['p99']:.1f} ms, longest {delay['max_since_start']:.1f} ms"
        )
        for door in process["doors"]:
            lines.append(f"door       {door['kind']} {door['address']}")
            lines += [f"worker     {_describe_worker(worker)}" for worker in door["workers"]]
            if (counters := door.get("counters")) is not None:
                lines.append(f"requests   {_describe_requests(counters)}")
            if (tls := door.get("tls")) is not None:
                lines.append(f"tls        {tls['certificate']}, expires {tls['expires']}")
                lines += [f"tls        the files could not be read again: {tls['error']}"] if tls["error"] else []
    else:
        lines.append("process    none; `siltstone mount` or `siltstone serve` starts one")
    return lines + [f"warning    {warning}" for warning in volume["warnings"]]


def _describe_lifecycle(lifecycle: dict[str, Any], now_ns: int) -> str:
    """What lifecycle rules have done since the process began."""
    hours = max(0, now_ns - lifecycle["last_pass_ns"]) / 3.6e12
    gone = lifecycle["expired"] + lifecycle["noncurrent_expired"] + lifecycle["markers_removed"]
    return (
        f"lifecycle  last pass {hours:.1f} h ago; {gone:,} objects, versions and markers deleted, "
        f"{lifecycle['uploads_aborted']:,} uploads aborted, {lifecycle['locked']:,} locked"
    )


def _describe_progress(work: dict[str, Any]) -> str:
    """How far something is, how fast, and when it will be over."""
    left = "-" if work["seconds_left"] is None else f"{work['seconds_left']:.0f} s"
    return (
        f"{format_bytes(work['done_bytes'])} of {format_bytes(work['total_bytes'])} at "
        f"{format_bytes(work['bytes_per_second'])}/s, {left} left"
    )


def _describe_requests(counters: dict[str, Any]) -> str:
    text = f"{counters['requests']} on {counters['connections_taken']} connections, {counters['connections']} open"
    broken = [
        f"{counters[name]} {words}"
        for name, words in (
            ("heads_refused", "heads refused"),
            ("bodies_broken", "bodies broken off"),
            ("replies_broken", "replies broken off"),
            ("connections_refused", "connections that had to wait"),
            ("log_records_lost", "log records lost"),
        )
        if counters[name]
    ]
    return ", ".join([text, *broken])


def _describe_worker(worker: dict[str, Any]) -> str:
    restarts = f", started again {worker['restarts']} times: {worker['reason']}" if worker["restarts"] else ""
    return f"process {worker['pid']} {worker['state']}{restarts}"


def _describe_snapshots(snapshots: dict[str, Any], now_ns: int) -> str:
    """What there is of the metadata on the pool, were HOME lost."""
    since = f"{snapshots['increments']} increments with {format_bytes(snapshots['increment_bytes'])}, and the log"
    if not snapshots["newest_created_ns"]:
        return f"snapshots  none needed yet; {since}"
    hours = max(0, now_ns - snapshots["newest_created_ns"]) / 3.6e12
    return (
        f"snapshots  {format_bytes(snapshots['newest_bytes'])} of LSN {snapshots['newest_lsn']:,} on "
        f"{snapshots['newest_copies']} disks, {hours:.1f} h old; {since}"
    )
