"""`siltstone watch`: what is done below a path, as it happens."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

import msgspec

from siltstone.commands.parser import Subparsers, add_command, add_home
from siltstone.control import stream
from siltstone.core.feed_encoding import FeedEvent
from siltstone.errors import ConfigInvalid
from siltstone.home import Home


def add_parser(commands: Subparsers) -> None:
    """Add `watch`."""
    parser = add_command(
        commands,
        "watch",
        run,
        summary="stream what is changed below a path",
        text="Stream what is done below PATH, through the mount and through S3, in the order in which it happened: an\n"
        "event for each file that is made, written, renamed, removed. Each has an LSN, the place of the change in\n"
        "the volume's log: whoever begins again with the LSN of the last event misses nothing. What an event tells\n"
        "is durable. How long changes can be read back is the setting feed_window (`siltstone set`, one day);\n"
        "from before that is an error, and whoever follows a tree has to read it anew.\n"
        "Lines with the event `mark` say how far the feed has come: one at the beginning, and when nothing happens.\n"
        "An event with `more` is followed by others of the same change: who ends there goes on from the LSN before.\n"
        "A directory that moved has moved with all that is below it; one with the event `clone` came with all of it.",
        example="siltstone watch ~/volume /bucket\n"
        "siltstone watch ~/volume /bucket --from 123456 --json | jq -r .path\n"
        "siltstone watch ~/volume / --from oldest --no-follow --json",
    )
    add_home(parser)
    parser.add_argument("path", metavar="PATH", help="a path from the root of the volume; / is everything")
    parser.add_argument(
        "--from",
        dest="after",
        metavar="LSN",
        type=_position,
        help="tell what was done behind this LSN (or `oldest`: as far back as can be read); by default from now on",
    )
    parser.add_argument("--no-follow", action="store_true", help="end with what is done now, wait for nothing")
    parser.add_argument("--json", action="store_true", help="print each event as a line of JSON")


def _position(text: str) -> int | str:
    if text == "oldest":
        return text
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: want an LSN, a number from 0 up, or `oldest`")
    return number


def run(options: argparse.Namespace) -> int:
    """Print events until interrupted, or the end."""
    home = Home(options.home)
    home.load_config()
    arguments = {
        "path": os.fsencode(options.path).hex(),
        "after": None if options.after == "oldest" else options.after,
        "oldest": options.after == "oldest",
        "follow": not options.no_follow,
    }
    if not options.path:
        raise ConfigInvalid("want a PATH, as / or /bucket")
    for line in stream(home, "watch", arguments):
        if options.json:
            sys.stdout.write(line.decode() + "\n")
        elif not line.startswith(b'{"event":"mark"'):
            print(_shown(msgspec.json.decode(line, type=FeedEvent)))
        sys.stdout.flush()
    return 0


def _shown(event: FeedEvent) -> str:
    time = datetime.fromtimestamp(event.time_ns // 10**9, UTC).isoformat().replace("+00:00", "Z")
    parts = [f"{event.lsn:>12}", time, f"{event.event:10}", repr(event.path)[1:-1]]
    if event.to is not None:
        parts += "->", repr(event.to)[1:-1]
    if event.size is not None:
        parts.append(f"{event.size:,} bytes")
    if event.version_id:
        parts.append(f"version {event.version_id}")
    return " ".join(parts)
