"""`siltstone s3`: serve a volume by S3, with the process that owns it or a new one in the background."""

from __future__ import annotations

import argparse

import msgspec

from siltstone.background import start_owner
from siltstone.commands.parser import Subparsers, add_command, add_home, add_s3_options, s3_options
from siltstone.control import NoOwner, request
from siltstone.home import Home
from siltstone.s3_options import S3Options


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
        "siltstone s3 ~/sharded --listen 0.0.0.0:9000 --s3-workers 4\n"
        "siltstone s3 ~/volume --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem --domain s3.example.org",
    )
    add_home(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", required=True, help="where to listen (port 0: a free one)")
    add_s3_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve; returns when the endpoint answers."""
    home = Home(options.home)
    wanted = s3_options(options, options.listen)
    home.load_config()
    wanted.check()
    try:
        lines = [request(home, "s3", msgspec.to_builtins(wanted))]
    except NoOwner:
        lines = start_owner(home, ["--s3", options.listen, *_again(wanted)])
    print("\n".join(lines))
    return 0


def _again(wanted: S3Options) -> list[str]:
    """The same options, for `siltstone serve`."""
    arguments = ["--s3-workers", str(wanted.workers)]
    if wanted.tls_cert:
        arguments += ["--tls-cert", wanted.tls_cert, "--tls-key", wanted.tls_key]
    for domain in wanted.domains:
        arguments += ["--domain", domain]
    return arguments
