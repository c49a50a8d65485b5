"""What the parsers of the commands have in common: every help ends with an example, every HOME is described alike."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from typing import Any

from siltstone.errors import ConfigInvalid
from siltstone.s3_options import S3Options

Subparsers = Any  # argparse keeps the type of add_subparsers() private


def add_command(
    commands: Subparsers, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, text: str, example: str
) -> argparse.ArgumentParser:
    """A parser for one command; ``run`` is called with what it parsed."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_home(parser: argparse.ArgumentParser) -> None:
    """The argument HOME."""
    parser.add_argument("home", metavar="HOME", help="directory that holds the volume's settings and metadata")


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def add_s3_options(parser: argparse.ArgumentParser) -> None:
    """The options of the S3 door but for its address."""
    parser.add_argument(
        "--s3-workers",
        metavar="N",
        type=int,
        default=1,
        help="processes that share the S3 port; of use for volumes of several shards (default 1: the owner's own)",
    )
    parser.add_argument(
        "--tls-cert", metavar="FILE", help="serve S3 by TLS, with this certificate (PEM, with its chain)"
    )
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's private key; SIGHUP has both read again")
    parser.add_argument(
        "--domain",
        dest="domains",
        metavar="NAME",
        action="append",
        default=[],
        help="take BUCKET.NAME in a request's host for a bucket, beside paths; repeatable",
    )


def s3_options(options: argparse.Namespace, address: str) -> S3Options:
    """What was said of the S3 door, which listens at an address."""
    host, port = parse_address(address)
    return S3Options(
        host=host,
        port=port,
        workers=options.s3_workers,
        tls_cert=_absolute(options.tls_cert),
        tls_key=_absolute(options.tls_key),
        domains=tuple(domain.lower().strip(".") for domain in options.domains),
    )


def _absolute(path: str | None) -> str:
    return "" if path is None else os.path.abspath(path)


def add_mount_options(parser: argparse.ArgumentParser) -> None:
    """The option -o."""
    parser.add_argument(
        "-o",
        "--options",
        dest="mount_options",
        metavar="OPTION[,OPTION...]",
        action="append",
        default=[],
        help="as in /etc/fstab: ro, relatime, uid=1000, umask=022, attr_timeout=1, ... (docs/mount.md has all)",
    )


def parse_address(text: str) -> tuple[str, int]:
    """ "127.0.0.1:9000" or "[::1]:9000" -> host and port; port 0 takes a free one. Raises ConfigInvalid."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ConfigInvalid(f"address {text!r}: want HOST:PORT, as in 127.0.0.1:9000 (port 0 takes a free one)")
    return match[1] or match[2], int(match[3])
