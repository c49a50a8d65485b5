"""Which HOME a mount shows: its source, as `df` and the kernel's list of mounts have it."""

from __future__ import annotations

import os

from siltstone.errors import Refused
from siltstone.fuse.mountpoint import FILESYSTEM_TYPE, Mounted, find_mounted
from siltstone.home import Home

SOURCE_PREFIX = "siltstone:"


def source_of(home: Home) -> str:
    """What a mount of this volume shows as its source."""
    return SOURCE_PREFIX + str(home.path)


def home_of(mounted: Mounted) -> Home:
    """The HOME of a Siltstone mount."""
    return Home(mounted.source.removeprefix(SOURCE_PREFIX))


def find_siltstone(directory: str) -> Mounted:
    """The Siltstone mount on a directory. Raises Refused when there is none."""
    # A dead mount answers nobody, so the directory itself is looked at only when the kernel lists no mount there.
    parent, name = os.path.split(os.path.abspath(directory))
    mounted = find_mounted(os.path.join(os.path.realpath(parent), name)) or find_mounted(os.path.realpath(directory))
    if mounted is None or mounted.filesystem_type != FILESYSTEM_TYPE or not mounted.source.startswith(SOURCE_PREFIX):
        raise Refused(f"{directory} is not a mount of a Siltstone volume")
    return mounted
