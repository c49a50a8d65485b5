"""`mount.siltstone SOURCE DIR [-sfnv] [-o ...]`: what mount(8) runs for ``mount -t siltstone`` and lines of /etc/fstab.

SOURCE is HOME, or ``siltstone:HOME`` as the kernel's list of mounts has it. Exit status as mount(8) wants it: 1 for a
call that is wrong, 32 for a mount that failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from siltstone.commands.mount import mount
from siltstone.errors import InvalidArgument, SiltstoneError
from siltstone.failure import describe
from siltstone.fuse.options import known_only, parse_options
from siltstone.home import Home
from siltstone.mounts import SOURCE_PREFIX

USAGE = 1
FAILED = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Mount; the exit status."""
    parser = argparse.ArgumentParser(
        prog="mount.siltstone",
        description="Mount a Siltstone volume for mount(8).",
        epilog="example:\n  mount -t siltstone siltstone:/srv/volume /srv/files -o relatime",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="HOME", help="HOME of the volume, or siltstone:HOME")
    parser.add_argument("directory", metavar="DIR", help="empty directory to mount on")
    parser.add_argument("-o", dest="options", metavar="OPTIONS", default="", help="mount options (docs/mount.md)")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="pass over options that are not known")
    parser.add_argument("-f", dest="fake", action="store_true", help="only look whether the call is right")
    parser.add_argument("-n", action="store_true", help=argparse.SUPPRESS)  # there is no mtab
    parser.add_argument("-v", dest="verbose", action="store_true", help="say what is mounted")
    parser.add_argument("-t", metavar="TYPE", help=argparse.SUPPRESS)
    wanted = parser.parse_intermixed_args(arguments)
    words = wanted.options.split(",")
    if "remount" in words:
        return _remount(wanted.directory, [word for word in words if word != "remount"])
    try:
        options = known_only(wanted.options) if wanted.sloppy else wanted.options
        parse_options(options)
    except InvalidArgument as error:
        return _fail(str(error), USAGE)
    if wanted.fake:
        return 0
    try:
        lines = mount(Home(wanted.source.removeprefix(SOURCE_PREFIX)), wanted.directory, options)
    except SiltstoneError as error:
        return _fail(describe(error), FAILED)
    if wanted.verbose:
        print("\n".join(lines))
    return 0


def _remount(directory: str, words: list[str]) -> int:
    """Flags of the mount are the kernel's to change (-i: without asking us again)."""
    options = ",".join(["remount", *words])
    return subprocess.run(["mount", "-i", "-o", options, directory]).returncode


def _fail(message: str, status: int) -> int:
    print("mount.siltstone:", message, file=sys.stderr)
    return status
