"""The kernel's list of mounts: which directory is a Siltstone mount, and of which HOME."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from siltstone.errors import Refused, Unavailable
from siltstone.home import Home

SOURCE_PREFIX = "siltstone:"
MOUNTINFO = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    """One mount: where it is, and the source that it shows."""

    directory: str
    source: str


def source_of(home: Home) -> str:
    """What a mount of this volume shows as its source in `df` and `mount`."""
    return SOURCE_PREFIX + str(home.path)


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts in the text of /proc/self/mountinfo, in its order: a later one covers an earlier one."""
    mounts = []
    for line in text.splitlines():
        fields, _, after = line.partition(" - ")
        mounts.append(Mount(_unescape(fields.split(" ")[4]), _unescape(after.split(" ")[1])))
    return mounts


def find_mount(directory: str) -> Mount:
    """The Siltstone mount on a directory. Raises Refused when there is none."""
    mounted = {mount.directory: mount for mount in parse_mountinfo(os.fsdecode(MOUNTINFO.read_bytes()))}
    # A dead mount answers nobody, so the directory itself is looked at only when the kernel lists no mount there.
    parent, name = os.path.split(os.path.abspath(directory))
    mount = mounted.get(os.path.join(os.path.realpath(parent), name)) or mounted.get(os.path.realpath(directory))
    if mount is None or not mount.source.startswith(SOURCE_PREFIX):
        raise Refused(f"{directory} is not a mount of a Siltstone volume")
    return mount


def home_of(mount: Mount) -> Home:
    """The HOME that a Siltstone mount shows."""
    return Home(mount.source.removeprefix(SOURCE_PREFIX))


def unmount(mount: Mount, *, lazy: bool = False) -> None:
    """Take a mount away. ``lazy``: also while programs use it. Raises Refused when they do, Unavailable otherwise."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), mount.directory]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(f"cannot run fusermount3: {error.strerror} (it is in the package fuse3)") from error
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        raise Refused(f"{mount.directory} is in use by some program; nothing was unmounted")
    raise Unavailable(f"cannot unmount {mount.directory}: {done.stderr.strip()}")


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
