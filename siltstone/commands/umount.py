"""`siltstone umount`: take a mount away, with everything in it durable."""

from __future__ import annotations

import argparse

from siltstone.commands.parser import Subparsers, add_command
from siltstone.control import NoOwner, request
from siltstone.errors import Unavailable
from siltstone.fuse.mountpoint import unmount
from siltstone.mounts import find_siltstone, home_of
from siltstone.operations import wait_for_end


def add_parser(commands: Subparsers) -> None:
    """Add `umount`."""
    parser = add_command(
        commands,
        "umount",
        run,
        summary="unmount a directory",
        text="Unmount. Returns when everything written is durable and, if that was its last door, the process has\n"
        "ended. Refused while a program uses the directory.",
        example="siltstone umount ~/files",
    )
    parser.add_argument("directory", metavar="DIR", help="where the volume is mounted")


def run(options: argparse.Namespace) -> int:
    """Unmount and wait for the owner to be done with it."""
    mounted = find_siltstone(options.directory)
    home = home_of(mounted)
    try:
        pid = request(home, "sync")["pid"]
    except NoOwner:
        unmount(mounted.directory, lazy=True)  # the owner is dead: what the kernel still shows answers nobody
        return 0
    unmount(mounted.directory)
    try:
        is_ending = request(home, "closed", {"directory": mounted.directory})["ending"]
    except Unavailable:  # it was the last door: the owner ends, and may have hung up already
        is_ending = True
    if is_ending:
        wait_for_end(pid)
    return 0
