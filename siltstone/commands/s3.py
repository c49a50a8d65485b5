"""`siltstone s3`: serve a volume by S3, with the process that owns it or a new one in the background."""

from __future__ import annotations

import argparse

from siltstone.background import start_owner
from siltstone.commands.parser import Subparsers, add_command, add_home, add_s3_workers, parse_address
from siltstone.config import check_s3_workers
from siltstone.control import NoOwner, request
from siltstone.home import Home


def add_parser(commands: Subparsers) -> None:
    """Add `s3`."""
    parser = add_command(
        commands,
        "s3",
        run,
        summary="serve the volume by S3",
        text="Serve the volume by S3. Asks the process that owns the volume, or starts one in the background; its log\n"
        "is HOME/daemon.log, and `siltstone stop` ends it. Clients sign with a key made by `siltstone key add`.",
        example="siltstone s3 ~/volume --listen 127.0.0.1:9000\n"
        "siltstone s3 ~/sharded --listen 0.0.0.0:9000 --s3-workers 4",
    )
    add_home(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", required=True, help="where to listen (port 0: a free one)")
    add_s3_workers(parser)


def run(options: argparse.Namespace) -> int:
    """Serve; returns when the endpoint answers."""
    home = Home(options.home)
    host, port = parse_address(options.listen)
    check_s3_workers(options.s3_workers, home.load_config())
    try:
        lines = [request(home, "s3", {"host": host, "port": port, "workers": options.s3_workers})]
    except NoOwner:
        lines = start_owner(home, ["--s3", options.listen, "--s3-workers", str(options.s3_workers)])
    print("\n".join(lines))
    return 0
