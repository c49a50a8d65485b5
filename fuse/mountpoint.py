"""The directory that a volume is mounted on: what it must be, who has mounted what there, and taking a mount away.

All of this blocks and belongs in a worker thread: what is mounted on a directory may be slow to answer, or served by
the loop that asks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from siltstone.errors import Refused, Unavailable

FILESYSTEM_TYPE = "fuse.siltstone"
SUBTYPE = "siltstone"
DEVICE = "/dev/fuse"
MOUNTINFO = Path("/proc/self/mountinfo")


class Mounted(NamedTuple):
    """One line of the kernel's list of mounts; ``device`` is "major:minor", ``source`` what `df` shows first."""

    directory: str
    device: str
    filesystem_type: str
    source: str


def parse_mountinfo(text: str) -> list[Mounted]:
    """The mounts in the text of /proc/self/mountinfo, in its order: a later one covers an earlier one."""
    mounts = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        filesystem_type, source = tail.split(" ")[:2]
        mounts.append(Mounted(_unescape(fields[4]), fields[2], filesystem_type, _unescape(source)))
    return mounts


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def find_mounted(directory: str) -> Mounted | None:
    """What is mounted on a directory (a real path), without touching it: a dead mount does not answer."""
    mounts = parse_mountinfo(os.fsdecode(MOUNTINFO.read_bytes()))
    return next((mounted for mounted in reversed(mounts) if mounted.directory == directory), None)


def prepare(mountpoint: str) -> str:
    """Make sure that a volume can be mounted here and return the directory's real path. Raises Refused.

    The dead mount of a daemon that was killed is taken away: it serves nobody. Anything else stays as it is.
    """
    parent, name = os.path.split(os.path.abspath(mountpoint))
    path = os.path.join(os.path.realpath(parent), name)
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        # A dead mount's attributes may still be cached; statfs is always asked of who serves it.
        os.statvfs(path)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise Refused(f"cannot mount on {mountpoint}: {error.strerror}") from error
        path = os.path.realpath(path)
        mounted = find_mounted(path)
        if mounted is None or mounted.filesystem_type != FILESYSTEM_TYPE:
            raise Refused(f"cannot mount on {mountpoint}: a dead mount of something else is there") from error
        unmount(path, lazy=True)
        return prepare(mountpoint)
    if not is_directory:
        raise Refused(f"cannot mount on {mountpoint}: it is not a directory")
    path = os.path.realpath(path)
    mounted = find_mounted(path)
    if mounted is not None and mounted.filesystem_type == FILESYSTEM_TYPE:
        raise Refused(f"cannot mount on {mountpoint}: a Siltstone volume is mounted there already")
    try:
        is_empty = not os.listdir(path)
    except OSError as error:
        raise Refused(f"cannot mount on {mountpoint}: {error.strerror}") from error
    if not is_empty:
        raise Refused(f"cannot mount on {mountpoint}: the directory is not empty")
    if not os.path.exists(DEVICE):
        raise Refused(f"cannot mount on {mountpoint}: {DEVICE} does not exist (no FUSE in this kernel or container)")
    return path


def unmount(path: str, *, lazy: bool = False) -> None:
    """Take the mount on a directory away. Raises Refused while programs use it (never when ``lazy``), else Unavailable.

    Whoever serves the mount must go on serving meanwhile: the kernel first writes back what it has.
    """
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), path]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(f"cannot run fusermount3: {error.strerror} (it is in the package fuse3)") from error
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        raise Refused(f"{path} is in use by some program")
    raise Unavailable(f"cannot unmount {path}: {done.stderr.strip()}")


def write_back(path: str) -> None:
    """Have the kernel send what it still has of shared mappings. Raises Unavailable."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    try:
        if libc.syncfs(descriptor) != 0:
            raise Unavailable(f"syncfs {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def tune(path: str, *, read_ahead_kib: int, max_background: int) -> list[str]:
    """Let the kernel read further ahead and keep more requests under way; returns what could not be set, and why.

    Without it reads come as 128 KiB at the most. Only root may, and the second needs fusectl mounted.
    """
    mounted = find_mounted(path)
    if mounted is None:
        return [f"{path} is not in the list of mounts"]
    minor = mounted.device.partition(":")[2]
    connection = Path("/sys/fs/fuse/connections", minor)
    settings = [
        (Path("/sys/class/bdi", mounted.device, "read_ahead_kb"), read_ahead_kib),
        (connection / "max_background", max_background),
        (connection / "congestion_threshold", max_background * 3 // 4),
    ]
    failures = []
    for file, value in settings:
        try:
            file.write_text(str(value))
        except OSError as error:
            failures.append(f"{file}: {error.strerror}")
    return failures
