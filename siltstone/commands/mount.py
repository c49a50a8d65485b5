"""`siltstone mount`: mount a volume, with the process that owns it or a new one in the background."""

from __future__ import annotations

import argparse
import os

from siltstone.background import start_owner
from siltstone.commands.parser import Subparsers, add_command, add_home, add_mount_options
from siltstone.control import NoOwner, request
from siltstone.fuse.options import parse_options
from siltstone.home import Home


def add_parser(commands: Subparsers) -> None:
    """Add `mount`."""
    parser = add_command(
        commands,
        "mount",
        run,
        summary="mount the volume on a directory",
        text="Mount the volume on an empty directory. Asks the process that owns the volume, or starts one in the\n"
        "background that ends when its last door is closed; its log is HOME/daemon.log. A volume may be mounted on\n"
        "several directories. The dead mount of a process that was killed is replaced.",
        example="siltstone mount ~/volume ~/files\nsiltstone mount ~/volume /srv/files -o ro,allow_other",
    )
    add_home(parser)
    parser.add_argument("directory", metavar="DIR", help="empty directory to mount on")
    add_mount_options(parser)


def run(options: argparse.Namespace) -> int:
    """Mount; returns when files can be used."""
    print("\n".join(mount(Home(options.home), options.directory, ",".join(options.mount_options))))
    return 0


def mount(home: Home, directory: str, options: str) -> list[str]:
    """Mount with options as in /etc/fstab; the lines that say what is ready. Raises Refused, Unavailable."""
    parse_options(options)
    directory = os.path.abspath(directory)
    home.load_config()
    try:
        return [request(home, "mount", {"directory": directory, "options": options})]
    except NoOwner:
        return start_owner(home, ["--mount", directory, *(["-o", options] if options else [])])
