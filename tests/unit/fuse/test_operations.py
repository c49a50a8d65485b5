"""The handlers against a volume in memory, without a kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.types import Attributes, SetAttributes, VolumeSpace
from siltstone.fuse.attributes import changes_of, entry_of, is_access_to_note, statvfs_of
from siltstone.fuse.operations import Operations
from siltstone.fuse.options import TIMEOUT_SECONDS, AccessTimes, MountOptions, parse_options
from siltstone.types import ROOT_INO, Ino
from sim.memory_volume import MemoryVolume

ROOT: Any = ROOT_INO
CONTEXT: Any = SimpleNamespace(uid=7, gid=8, umask=0)
RDWR: Any = os.O_RDWR


def with_operations(body: Callable[[Any, MemoryVolume], Awaitable[None]], options: str = "") -> None:
    """Run ``body`` on handlers of a new volume, with mount options."""

    async def main() -> None:
        volume = MemoryVolume()
        operations = Operations(volume, parse_options(options))
        volume.register_holder(operations.handles)
        await body(operations, volume)

    trio.run(main)


async def errno_from(answer: Awaitable[object]) -> int:
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await answer
    return raised.value.errno


def fields(**wanted: bool) -> Any:
    names = ("atime", "mtime", "ctime", "mode", "uid", "gid", "size")
    return SimpleNamespace(**{f"update_{name}": wanted.get(name, False) for name in names})


numbers = st.integers(0, 2**31 - 1)
times = st.integers(0, 2**34 * 10**9)


@given(
    st.builds(
        Attributes,
        st.just(Ino(5)),
        numbers,
        numbers,
        numbers,
        numbers,
        st.integers(0, 2**62),
        st.integers(0, 2**62),
        st.integers(0, 2**20),
        times,
        times,
        times,
        numbers,
        st.just(0),
        st.just(b""),
    )
)
def test_attributes_reach_the_kernel_unchanged(attributes: Attributes) -> None:
    entry = entry_of(attributes)
    assert (entry.st_ino, entry.st_mode, entry.st_nlink) == (attributes.ino, attributes.mode, attributes.nlink)
    assert (entry.st_uid, entry.st_gid, entry.st_rdev) == (attributes.uid, attributes.gid, attributes.rdev)
    assert entry.st_size == attributes.size
    assert entry.st_blocks == -(-attributes.allocated_bytes // 512)
    assert (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) == (
        attributes.atime_ns,
        attributes.mtime_ns,
        attributes.ctime_ns,
    )
    assert (entry.entry_timeout, entry.attr_timeout, entry.generation) == (TIMEOUT_SECONDS, TIMEOUT_SECONDS, 0)


def test_the_timeout_that_is_asked_for_is_the_one_that_the_kernel_gets() -> None:
    attributes = Attributes(Ino(5), stat.S_IFREG, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
    entry = entry_of(attributes, MountOptions(entry_seconds=1.5, attribute_seconds=2))
    assert (entry.entry_timeout, entry.attr_timeout) == (1.5, 2)


def test_a_truncate_leaves_the_times_to_the_volume_and_utimens_does_not() -> None:
    wanted: Any = pyfuse3.EntryAttributes()
    wanted.st_size, wanted.st_mtime_ns, wanted.st_atime_ns = 10, 111, 222
    assert changes_of(wanted, fields(size=True, mtime=True)) == SetAttributes(size=10)
    assert changes_of(wanted, fields(atime=True, mtime=True)) == SetAttributes(atime_ns=222, mtime_ns=111)


def test_chmod_carries_permission_bits_only() -> None:
    wanted: Any = pyfuse3.EntryAttributes()
    wanted.st_mode = stat.S_IFREG | 0o6755
    assert changes_of(wanted, fields(mode=True)) == SetAttributes(mode=0o6755)


def test_statfs_tells_used_inodes_and_room_in_blocks() -> None:
    data = statvfs_of(VolumeSpace(40960, 20480, 8192, 33))
    assert (data.f_blocks, data.f_bfree, data.f_bavail, data.f_namemax) == (10, 5, 2, 255)
    assert data.f_files - data.f_ffree == 33


def test_an_absent_name_is_an_answer_that_may_be_remembered() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        entry = await operations.lookup(ROOT, b"nothing", CONTEXT)
        assert entry.st_ino == 0
        assert entry.entry_timeout == TIMEOUT_SECONDS
        assert await errno_from(operations.lookup(ROOT, b"n" * 256, CONTEXT)) == errno.ENAMETOOLONG

    with_operations(body)


def test_create_of_a_name_that_appeared_elsewhere_has_the_kernel_look_again_unless_exclusive() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        await volume.create(ROOT_INO, b"f", mode=stat.S_IFREG | 0o600, uid=0, gid=0)
        again = operations.create(ROOT, b"f", 0o100644, os.O_RDWR | os.O_CREAT, CONTEXT)
        assert await errno_from(again) == errno.ESTALE
        exclusive = operations.create(ROOT, b"f", 0o100644, os.O_RDWR | os.O_CREAT | os.O_EXCL, CONTEXT)
        assert await errno_from(exclusive) == errno.EEXIST

    with_operations(body)


def test_a_file_belongs_to_who_makes_it_and_is_open_when_made() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        info, entry = await operations.create(ROOT, b"f", 0o100640, RDWR, CONTEXT)
        assert (entry.st_uid, entry.st_gid, entry.st_mode) == (7, 8, 0o100640)
        assert info.keep_cache and not info.direct_io
        assert await operations.write(info.fh, 0, b"abc") == 3
        assert await operations.read(info.fh, 1, 10) == b"bc"

    with_operations(body)


def test_open_with_o_trunc_truncates_and_open_of_what_is_gone_is_stale() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        info, entry = await operations.create(ROOT, b"f", 0o100640, RDWR, CONTEXT)
        await operations.write(info.fh, 0, b"abc")
        await operations.release(info.fh)
        info = await operations.open(entry.st_ino, os.O_WRONLY | os.O_TRUNC, CONTEXT)
        assert (await operations.getattr(entry.st_ino, CONTEXT)).st_size == 0
        await operations.release(info.fh)
        await operations.unlink(ROOT, b"f", CONTEXT)
        assert await errno_from(operations.open(entry.st_ino, RDWR, CONTEXT)) == errno.ESTALE
        assert await errno_from(operations.open(entry.st_ino, os.O_TRUNC | os.O_WRONLY, CONTEXT)) == errno.ESTALE
        assert not operations.handles.files

    with_operations(body)


def test_a_file_that_is_open_outlives_its_name_and_goes_when_closed_and_forgotten() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        info, entry = await operations.create(ROOT, b"f", 0o100640, RDWR, CONTEXT)
        await operations.unlink(ROOT, b"f", CONTEXT)
        await operations.write(info.fh, 0, b"still here")
        assert await operations.read(info.fh, 0, 99) == b"still here"
        assert (await operations.getattr(entry.st_ino, CONTEXT)).st_nlink == 0
        await operations.release(info.fh)
        await operations.forget([(entry.st_ino, 1)])
        assert entry.st_ino not in volume

    with_operations(body)


def test_a_file_that_is_known_outlives_what_others_do_to_its_name_and_goes_when_forgotten() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        entry = await operations.mknod(ROOT, b"f", 0o100644, 0, CONTEXT)
        await volume.unlink(ROOT_INO, b"f")
        info = await operations.open(entry.st_ino, RDWR, CONTEXT)
        await operations.forget([(entry.st_ino, 1)])
        assert entry.st_ino in volume
        await operations.release(info.fh)
        assert entry.st_ino not in volume

    with_operations(body)


def test_a_directory_that_is_known_outlives_its_name_and_goes_when_forgotten() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        entry = await operations.mkdir(ROOT, b"d", 0o40755, CONTEXT)
        await operations.rmdir(ROOT, b"d", CONTEXT)
        assert (await operations.getattr(entry.st_ino, CONTEXT)).st_nlink == 0
        making = operations.create(entry.st_ino, b"f", 0o100644, RDWR, CONTEXT)
        assert await errno_from(making) == errno.ENOENT
        await operations.forget([(entry.st_ino, 1)])
        assert entry.st_ino not in volume

    with_operations(body)


def test_forget_never_raises_whatever_the_kernel_says() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        await operations.forget([(12345, 7), (ROOT, 1)])

    with_operations(body)


def test_close_flushes_what_could_be_written_and_nothing_else() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        info, entry = await operations.create(ROOT, b"f", 0o100640, os.O_WRONLY, CONTEXT)
        await operations.flush(info.fh)
        reading = await operations.open(entry.st_ino, os.O_RDONLY, CONTEXT)
        await operations.flush(reading.fh)
        assert volume.flushes == [entry.st_ino]

    with_operations(body)


@pytest.mark.parametrize(("flags", "durable"), [(os.O_SYNC, True), (os.O_DSYNC, True), (0, False)])
def test_a_synchronous_write_is_durable_when_it_answers(flags: int, durable: bool) -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        info, entry = await operations.create(ROOT, b"f", 0o100640, os.O_WRONLY | flags, CONTEXT)
        await operations.write(info.fh, 0, b"x")
        assert volume.fsyncs == ([entry.st_ino] if durable else [])

    with_operations(body)


def test_fsync_of_files_and_directories_reaches_the_volume() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        info, entry = await operations.create(ROOT, b"f", 0o100640, os.O_WRONLY, CONTEXT)
        await operations.fsync(info.fh, False)
        fh = await operations.opendir(ROOT, CONTEXT)
        await operations.fsyncdir(fh, False)
        await operations.releasedir(fh)
        assert volume.fsyncs == [entry.st_ino, ROOT_INO]

    with_operations(body)


def test_rename_knows_two_flags_and_refuses_others() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        a = await operations.mknod(ROOT, b"a", 0o100644, 0, CONTEXT)
        b = await operations.mknod(ROOT, b"b", 0o100644, 0, CONTEXT)
        assert await errno_from(operations.rename(ROOT, b"a", ROOT, b"b", 1, CONTEXT)) == errno.EEXIST
        await operations.rename(ROOT, b"a", ROOT, b"b", 2, CONTEXT)
        assert (await volume.lookup(ROOT_INO, b"a")).ino == b.st_ino
        assert (await volume.lookup(ROOT_INO, b"b")).ino == a.st_ino
        assert await errno_from(operations.rename(ROOT, b"a", ROOT, b"c", 4, CONTEXT)) == errno.EINVAL

    with_operations(body)


def test_the_mounts_own_changes_carry_its_origin() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        origins: list[object] = []
        volume.subscribe(lambda origin, change: origins.append(origin))
        info, entry = await operations.create(ROOT, b"f", 0o100640, RDWR, CONTEXT)
        await operations.write(info.fh, 0, b"x")
        await operations.open(entry.st_ino, os.O_TRUNC | os.O_WRONLY, CONTEXT)
        attributes: Any = pyfuse3.EntryAttributes()
        await operations.setattr(entry.st_ino, attributes, fields(mode=True, size=True), None, CONTEXT)
        await operations.mkdir(ROOT, b"d", 0o40755, CONTEXT)
        await operations.mknod(ROOT, b"p", stat.S_IFIFO | 0o600, 0, CONTEXT)
        await operations.symlink(ROOT, b"s", b"f", CONTEXT)
        await operations.link(entry.st_ino, ROOT, b"l", CONTEXT)
        await operations.rename(ROOT, b"l", ROOT, b"m", 0, CONTEXT)
        await operations.setxattr(entry.st_ino, b"user.x", b"1", CONTEXT)
        await operations.removexattr(entry.st_ino, b"user.x", CONTEXT)
        await operations.unlink(ROOT, b"m", CONTEXT)
        await operations.rmdir(ROOT, b"d", CONTEXT)
        assert origins and all(origin is operations for origin in origins)

    with_operations(body)


def test_extended_attributes_are_refused_with_what_linux_expects() -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        entry = await operations.mknod(ROOT, b"a", 0o100644, 0, CONTEXT)
        ino = entry.st_ino
        assert await errno_from(operations.getxattr(ino, b"security.capability", CONTEXT)) == errno.ENODATA
        acl = operations.setxattr(ino, b"system.posix_acl_access", b"", CONTEXT)
        assert await errno_from(acl) == errno.ENOTSUP
        await operations.setxattr(ino, b"user.x", b"", CONTEXT)
        assert await operations.getxattr(ino, b"user.x", CONTEXT) == b""
        assert await operations.listxattr(ino, CONTEXT) == [b"user.x"]

    with_operations(body)


def test_owner_group_and_permissions_are_shown_as_the_options_say() -> None:
    attributes = Attributes(Ino(5), stat.S_IFDIR | 0o4700, 1, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, b"")
    entry = entry_of(attributes, parse_options("uid=1000,gid=1001,umask=027"))
    assert (entry.st_uid, entry.st_gid, entry.st_mode) == (1000, 1001, stat.S_IFDIR | 0o750)
    entry = entry_of(attributes, parse_options("gid=1001"))
    assert (entry.st_uid, entry.st_gid, entry.st_mode) == (5, 1001, stat.S_IFDIR | 0o4700)


@pytest.mark.parametrize(
    "rule, atime, changed, now, noted",
    [
        (AccessTimes.NEVER, 0, 1, 2, False),
        (AccessTimes.ALWAYS, 5, 1, 6, True),
        (AccessTimes.RELATIVE, 5, 5, 6, True),
        (AccessTimes.RELATIVE, 5, 4, 6, False),
        (AccessTimes.RELATIVE, 5, 4, 5 + 24 * 3600 * 10**9, True),
    ],
)
def test_access_times_follow_their_rule(rule: AccessTimes, atime: int, changed: int, now: int, noted: bool) -> None:
    for mtime, ctime in ((changed, 0), (0, changed)):
        attributes = Attributes(Ino(5), stat.S_IFREG, 1, 0, 0, 0, 0, 0, atime, mtime, ctime, 0, 0, b"")
        assert is_access_to_note(attributes, rule, now) == noted


@pytest.mark.parametrize(
    "options, flags, noted",
    [
        ("", os.O_RDONLY, False),
        ("strictatime", os.O_RDONLY, True),
        ("relatime", os.O_RDWR, True),
        ("strictatime", os.O_WRONLY, False),
        ("strictatime", os.O_RDONLY | os.O_NOATIME, False),
        ("strictatime,ro", os.O_RDONLY, False),
    ],
)
def test_opening_for_reading_moves_the_access_time_and_no_other(options: str, flags: Any, noted: bool) -> None:
    async def body(operations: Any, volume: MemoryVolume) -> None:
        ino = (await volume.create(ROOT_INO, b"f", mode=stat.S_IFREG | 0o644, uid=0, gid=0)).ino
        before = await volume.attributes(ino)
        await operations.open(ino, flags, CONTEXT)
        after = await volume.attributes(ino)
        assert (after.atime_ns > before.atime_ns) == noted
        assert (after.mtime_ns, after.ctime_ns) == (before.mtime_ns, before.ctime_ns)

    with_operations(body, options)
