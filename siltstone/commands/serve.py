"""`siltstone serve`: own a volume and open its doors, in the foreground."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys

import trio

from siltstone.commands.parser import (
    Subparsers,
    add_command,
    add_home,
    add_mount_options,
    add_s3_options,
    s3_options,
)
from siltstone.failure import describe
from siltstone.fuse.options import parse_options
from siltstone.home import Home
from siltstone.notify import notify


def add_parser(commands: Subparsers) -> None:
    """Add `serve`."""
    parser = add_command(
        commands,
        "serve",
        run,
        summary="serve the volume in the foreground: a mount, an S3 endpoint, or both",
        text="Own the volume and serve it. Prints `ready mount DIR` and `ready s3 http://HOST:PORT` for its doors.\n"
        "SIGTERM or Ctrl-C shut down cleanly and unmount, a second one at once; SIGHUP has the certificate of S3 read\n"
        "again. Ends by itself when the last of the\n"
        "doors given here is closed; without any it waits for `siltstone mount` and `siltstone s3`.",
        example="siltstone serve ~/volume --mount ~/files --s3 127.0.0.1:9000",
    )
    add_home(parser)
    parser.add_argument(
        "--mount",
        metavar="DIR",
        action="append",
        default=[],
        help="mount the volume on this empty directory; repeatable",
    )
    add_mount_options(parser)
    parser.add_argument("--s3", metavar="HOST:PORT", help="serve S3 at this address (port 0 takes a free one)")
    add_s3_options(parser)
    parser.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop. ``--detached`` is for `mount` and `s3`, which read our first lines from a pipe."""
    from siltstone.daemon import WantedDoors, serve  # only this command needs the doors' libraries

    home = Home(options.home)
    wanted = WantedDoors(
        mounts=tuple(os.path.abspath(directory) for directory in options.mount),
        mount_options=",".join(options.mount_options),
        s3=None if options.s3 is None else s3_options(options, options.s3),
    )
    parse_options(wanted.mount_options)
    # What ends this process without a Python error (a fault in a library) leaves its stacks in the log.
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)

    def announce(line: str) -> None:
        print(line, flush=True)

    def all_ready() -> None:
        notify("READY=1")
        if options.detached:
            print("ready", flush=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    try:
        trio.run(serve, home, wanted, announce, all_ready)
    except (Exception, BaseExceptionGroup) as error:
        if options.detached:
            print("failed " + describe(error), flush=True)
        raise
    return 0
