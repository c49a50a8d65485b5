"""What the core gives to and takes from its front-ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from siltstone.meta.records import Inode, InodeFlag
from siltstone.types import Ino


class Attributes(msgspec.Struct, frozen=True):
    """One inode as a front-end sees it: the record, with what is written but not yet committed laid over it."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    allocated_bytes: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    version: int
    flags: int
    target: bytes

    @property
    def is_read_only(self) -> bool:
        """Whether this is part of a snapshot, which never changes."""
        return bool(self.flags & InodeFlag.SNAPSHOT)


_HAS_SNAPSHOTS = int(InodeFlag.HAS_SNAPSHOTS)
"""As a member of the enumeration it costs as much as the rest of what is done for an entry of a listing."""


def attributes_of(ino: Ino, inode: Inode) -> Attributes:
    """The attributes that a record holds; of a directory without what holds its snapshots."""
    hidden = 1 if inode.flags & _HAS_SNAPSHOTS else 0
    return Attributes(
        ino,
        inode.mode,
        inode.nlink - hidden,
        inode.uid,
        inode.gid,
        inode.size - hidden,
        inode.allocated_bytes,
        inode.rdev,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.version,
        inode.flags,
        inode.target,
    )


class SetAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """A change of attributes; None leaves one as it is. ctime becomes now, unless ``keeps_ctime``: where a read moves
    atime."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    keeps_ctime: bool = False


class DirEntry(NamedTuple):
    """One name of a listing."""

    name: bytes
    ino: Ino
    attributes: Attributes


class Found(NamedTuple):
    """An inode that a name leads to, with its attributes if it is in the shard that has the name."""

    ino: Ino
    attributes: Attributes | None


class EntryChanged(msgspec.Struct, frozen=True, array_like=True, tag="entry"):
    """A name of a directory appeared, went, or names another inode."""

    parent: Ino
    name: bytes
    ino: Ino
    removed: bool


class DataChanged(msgspec.Struct, frozen=True, array_like=True, tag="data"):
    """Bytes of a file changed; ``size`` 0 means: from ``offset`` to the end (a truncate)."""

    ino: Ino
    offset: int
    size: int


class AttributesChanged(msgspec.Struct, frozen=True, array_like=True, tag="attributes"):
    """Attributes of an inode other than those that follow from its data changed."""

    ino: Ino


Change = EntryChanged | DataChanged | AttributesChanged
Listener = Callable[[object, Change], None]
"""Called as ``listener(origin, change)`` right after the change is visible; must not block."""


class Holder(Protocol):
    """A front-end that may go on using inodes that have lost their last name."""

    def holds(self, ino: Ino) -> bool:
        """Whether the inode must not be purged yet."""


class VolumeSpace(NamedTuple):
    """Room in usable bytes: raw bytes times k / (k + m). ``available_bytes`` leaves out the reserve; ``in_slabs_bytes``
    is what of it is no other shard's to take. ``inodes_max``: how many there may be, 0 where only room says so."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    inodes: int
    in_slabs_bytes: int = 0
    inodes_max: int = 0


class Progress(NamedTuple):
    """How far long work has come. ``total`` may grow while it runs."""

    done: int
    total: int
    unit: str


ProgressListener = Callable[[Progress], None]
