"""The command `siltstone`: finds the command's module, runs it, and turns every error into one line and an exit status.

0: done. 1: failed, or fsck found something. 2: the command line is wrong. 130: interrupted. No traceback is ever shown,
unless SILTSTONE_TRACEBACK=1 asks for the one of an internal error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from siltstone import __version__
from siltstone.commands import (
    clone,
    df,
    disk,
    du,
    fsck,
    import_,
    init,
    key,
    lifecycle,
    meta,
    mount,
    quota,
    rebuild,
    s3,
    scrub,
    serve,
    set_,
    settle,
    snapshot,
    status,
    stop,
    trash,
    umount,
    watch,
)
from siltstone.failure import describe, leaves

COMMANDS = (
    init,
    import_,
    serve,
    mount,
    umount,
    s3,
    key,
    status,
    df,
    du,
    quota,
    clone,
    trash,
    watch,
    set_,
    snapshot,
    disk,
    meta,
    settle,
    rebuild,
    scrub,
    lifecycle,
    fsck,
    stop,
)

EPILOG = """examples:
  siltstone init ~/volume                              make a volume of six directories, 4+2
  siltstone serve ~/volume --mount ~/files --s3 127.0.0.1:9000
  siltstone COMMAND --help                             every command has its own help with an example
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    if sys.flags.optimize:
        return _fail("python -O would switch off the checks that guard your data; run siltstone without -O")
    try:
        options = _parser().parse_args(arguments)
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read our output has left; the interpreter's own flush at exit must not complain about it.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (Exception, BaseExceptionGroup) as error:
        return _report(error)
    return status


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit; a reader of --help that has left is noticed here, and not when the interpreter ends."""
        sys.stdout.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        _fail(f"{message} (see {self.prog} --help)")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="siltstone",
        description="One pool of disks, erasure coded, as a mounted filesystem and an S3 endpoint over the same data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"siltstone {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _report(error: BaseException) -> int:
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(error)):
        return _fail("interrupted", 130)
    if os.environ.get("SILTSTONE_TRACEBACK"):
        traceback.print_exception(error)
    return _fail(describe(error))


def _fail(message: str, status: int = 1) -> int:
    print("siltstone:", " ".join(message.split()), file=sys.stderr)
    return status
