"""Attributes, as the volume has them and as the kernel wants them. Pure translation."""

from __future__ import annotations

import stat

from pyfuse3 import EntryAttributes, InodeT, ModeT, SetattrFields, StatvfsData

from siltstone.core.types import Attributes, SetAttributes, VolumeSpace
from siltstone.fuse.options import DEFAULTS, AccessTimes, MountOptions
from siltstone.limits import KIB, NAME_BYTES_MAX
from siltstone.types import Ino

BLOCK_BYTES = 4 * KIB
"""Unit of the numbers of statfs."""

PREFERRED_IO_BYTES = 64 * KIB
"""st_blksize: how much buffered readers and writers (stdio, Python) take at a time. Larger asks less often, but from
128 KiB on every open file of a C program costs an mmap of its own."""

STAT_BLOCK_BYTES = 512

INODE_BYTES = 512
"""What statfs assumes that a further inode takes when it tells how many are left."""


ACCESS_TIME_AGE_NS = 24 * 3600 * 10**9
"""``relatime``: an access time that is older is renewed although nothing has changed since."""


def entry_of(attributes: Attributes, options: MountOptions = DEFAULTS) -> EntryAttributes:
    """The kernel's form of an inode's attributes. The generation stays 0: inode numbers are never used again."""
    return show(attributes, EntryAttributes(), options)


def show(attributes: Attributes, entry: EntryAttributes, options: MountOptions = DEFAULTS) -> EntryAttributes:
    """The same, in an object that is new or was used for this before; that object."""
    entry.st_ino = attributes.ino
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.nlink
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = attributes.size
    entry.st_blksize = PREFERRED_IO_BYTES
    entry.st_blocks = -(-attributes.allocated_bytes // STAT_BLOCK_BYTES)
    entry.st_atime_ns = attributes.atime_ns
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    if options is not DEFAULTS:
        # A new EntryAttributes has pyfuse3's default times, which are ours too (a test says so).
        _change_shown(entry, options)
    return entry


def _change_shown(entry: EntryAttributes, options: MountOptions) -> None:
    entry.entry_timeout = options.entry_seconds
    entry.attr_timeout = options.attribute_seconds
    if options.uid is not None:
        entry.st_uid = options.uid
    if options.gid is not None:
        entry.st_gid = options.gid
    if options.umask is not None:
        entry.st_mode = ModeT(stat.S_IFMT(entry.st_mode) | 0o777 & ~options.umask)


def absent_entry(options: MountOptions) -> EntryAttributes:
    """The answer "no such name", which the kernel may remember."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = options.negative_seconds
    return entry


def is_access_to_note(attributes: Attributes, rule: AccessTimes, now_ns: int) -> bool:
    """Whether reading what has these attributes now changes its access time."""
    if rule is AccessTimes.RELATIVE:
        atime_ns = attributes.atime_ns
        changed_ns = max(attributes.mtime_ns, attributes.ctime_ns)
        return atime_ns <= changed_ns or now_ns - atime_ns >= ACCESS_TIME_AGE_NS
    return rule is AccessTimes.ALWAYS


def directory_stub(ino: Ino) -> EntryAttributes:
    """What a listing tells of "." and "..": the kernel looks at number and type only, and counts no lookup."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(ino)
    entry.st_mode = ModeT(stat.S_IFDIR)
    return entry


def changes_of(wanted: EntryAttributes, fields: SetattrFields) -> SetAttributes:
    """What a setattr request asks the volume to change.

    A truncate brings the kernel's coarse idea of now as mtime: left out, so that the volume's own clock sets it and
    times of one file never run backwards. utimensat(2), which brings times that count, never comes with a size.
    """
    resized = fields.update_size
    return SetAttributes(
        mode=stat.S_IMODE(wanted.st_mode) if fields.update_mode else None,
        uid=wanted.st_uid if fields.update_uid else None,
        gid=wanted.st_gid if fields.update_gid else None,
        size=wanted.st_size if resized else None,
        atime_ns=wanted.st_atime_ns if fields.update_atime and not resized else None,
        mtime_ns=wanted.st_mtime_ns if fields.update_mtime and not resized else None,
    )


def changes_of_emptying(mode: int, uid: int) -> SetAttributes:
    """What opening a file of this mode with O_TRUNC changes.

    The kernel, which sees to set-user-id and set-group-id elsewhere, leaves them to us here: as with any change of the
    bytes they go unless root makes it, the second only where the group may execute.
    """
    privileges = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    if uid == 0 or not mode & privileges:
        return SetAttributes(size=0)
    return SetAttributes(size=0, mode=stat.S_IMODE(mode & ~privileges))


def statvfs_of(space: VolumeSpace) -> StatvfsData:
    """The numbers of statfs, in blocks of BLOCK_BYTES of usable space."""
    data = StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK_BYTES
    data.f_blocks = space.total_bytes // BLOCK_BYTES
    data.f_bfree = space.free_bytes // BLOCK_BYTES
    data.f_bavail = space.available_bytes // BLOCK_BYTES
    files = space.available_bytes // INODE_BYTES
    if space.inodes_max:
        files = min(files, max(0, space.inodes_max - space.inodes))
    data.f_ffree = data.f_favail = files
    data.f_files = space.inodes + data.f_ffree
    data.f_namemax = NAME_BYTES_MAX
    return data
