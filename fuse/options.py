"""Mount options, as they stand after ``-o`` on a command line or in the fourth field of /etc/fstab. Pure.

What the kernel's mount(2) knows goes there; what is about names, owners, times and caches is ours; what only mount(8)
and systemd read (``auto``, ``_netdev``, ``x-...``) is passed over. Anything else is an error that names it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from siltstone.errors import InvalidArgument

TIMEOUT_SECONDS = 300.0
"""How long the kernel may keep names and attributes. Changes made elsewhere are invalidated one by one (invalidate.py),
so the time only bounds how long a lost invalidation could matter."""

TIMEOUT_SECONDS_MAX = 365 * 24 * 3600.0

ID_MAX = (1 << 32) - 2
"""The highest user or group: -1 is nobody's."""

KNOWN_INODES_MAX = 1_000_000
KNOWN_INODES_LEAST = 100

KERNEL_FLAGS = frozenset({
    *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync"),
    *("allow_other", "allow_root", "default_permissions"),
})  # fmt: skip
"""Passed on as they are."""

PASSED_OVER = frozenset({
    *("defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "silent"),
    *("nodiratime", "diratime", "nolazytime", "lazytime", "atime", "loud"),
})  # fmt: skip
"""For mount(8) and systemd, or without a meaning here: access times of files and directories go together."""

PASSED_OVER_PREFIXES = ("x-", "X-", "comment=")


class AccessTimes(enum.Enum):
    """When reading changes the access time. The kernel reads from its cache without a word, so what counts is the
    opening of a file for reading, the listing of a directory, the reading of a link."""

    NEVER = "noatime"
    RELATIVE = "relatime"
    """When it is older than the last change, or than a day."""
    ALWAYS = "strictatime"


class MountOptions(NamedTuple):
    """What is asked of a mount."""

    kernel: frozenset[str] = frozenset()
    """Words for mount(2)."""
    entry_seconds: float = TIMEOUT_SECONDS
    attribute_seconds: float = TIMEOUT_SECONDS
    negative_seconds: float = TIMEOUT_SECONDS
    """How long the kernel may remember that a name is absent."""
    access_times: AccessTimes = AccessTimes.NEVER
    uid: int | None = None
    """Whose all files are shown as."""
    gid: int | None = None
    umask: int | None = None
    """Permission bits that no file has; all others every file has."""
    writeback: bool = False
    known_inodes_max: int = KNOWN_INODES_MAX
    """So many inodes may be in the kernel's cache before it is asked to forget some: each costs memory here, too."""

    @property
    def is_read_only(self) -> bool:
        """Whether nothing can be changed through this mount."""
        return "ro" in self.kernel

    def limited(self, seconds: float) -> MountOptions:
        """The same with no time of the kernel's cache above ``seconds``."""
        return self._replace(
            entry_seconds=min(self.entry_seconds, seconds),
            attribute_seconds=min(self.attribute_seconds, seconds),
            negative_seconds=min(self.negative_seconds, seconds),
        )


DEFAULTS = MountOptions()

_OPPOSITES = (
    ("ro", "rw"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("exec", "noexec"),
    ("sync", "async"),
    ("allow_other", "allow_root"),
)


def parse_options(text: str) -> MountOptions:
    """Options between commas; where two contradict each other the last one counts. Raises InvalidArgument."""
    options = DEFAULTS
    for word in filter(None, text.split(",")):
        options = _with(options, word)
    return options


def known_only(text: str) -> str:
    """The same options without those that are not understood."""
    return ",".join(word for word in text.split(",") if _is_understood(word))


def _is_understood(word: str) -> bool:
    try:
        parse_options(word)
    except InvalidArgument:
        return False
    return True


def _with(options: MountOptions, word: str) -> MountOptions:
    name, is_setting, value = word.partition("=")
    if word in KERNEL_FLAGS:
        gone = next((pair for pair in _OPPOSITES if word in pair), ())
        return options._replace(kernel=options.kernel.difference(gone) | {word})
    if word in PASSED_OVER or word.startswith(PASSED_OVER_PREFIXES):
        return options
    if word in (mode.value for mode in AccessTimes):
        return options._replace(access_times=AccessTimes(word))
    if word == "writeback":
        return options._replace(writeback=True)
    setting = _SETTINGS.get(name)
    if setting is None:
        raise InvalidArgument(f"mount option {word!r} is unknown")
    if not is_setting or not value:
        raise InvalidArgument(f"mount option {name!r} wants a value, as in {setting.example}")
    try:
        return options._replace(**{setting.field: setting.parse(value)})
    except ValueError:
        raise InvalidArgument(f"mount option {word!r}: want {setting.wanted}, as in {setting.example}") from None


class _Setting(NamedTuple):
    """An option with a value."""

    field: str
    parse: Callable[[str], Any]
    """Raises ValueError."""
    wanted: str
    example: str


def _seconds(value: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        raise ValueError
    return min(float(value), TIMEOUT_SECONDS_MAX)


def _id(value: str) -> int:
    number = int(value) if re.fullmatch(r"\d{1,10}", value) else ID_MAX + 1
    if number > ID_MAX:
        raise ValueError
    return number


def _permissions(value: str) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", value) or int(value, 8) > 0o777:
        raise ValueError
    return int(value, 8)


def _known_inodes(value: str) -> int:
    number = int(value) if re.fullmatch(r"\d{1,10}", value) else 0
    if number < KNOWN_INODES_LEAST:
        raise ValueError
    return number


_SETTINGS = {
    "entry_timeout": _Setting("entry_seconds", _seconds, "seconds", "entry_timeout=1"),
    "attr_timeout": _Setting("attribute_seconds", _seconds, "seconds", "attr_timeout=1.5"),
    "negative_timeout": _Setting("negative_seconds", _seconds, "seconds", "negative_timeout=0"),
    "uid": _Setting("uid", _id, "a number", "uid=1000"),
    "gid": _Setting("gid", _id, "a number", "gid=1000"),
    "umask": _Setting("umask", _permissions, "permission bits in octal", "umask=022"),
    "inode_cache": _Setting(
        "known_inodes_max", _known_inodes, f"a number from {KNOWN_INODES_LEAST} on", f"inode_cache={KNOWN_INODES_MAX}"
    ),
}
