"""The mount as programs see it: one mounted volume of six directories, and what POSIX and Linux say of files.

The mount is served by a child process (sim.mounted). Without /dev/fuse these tests fail, they are not skipped.
SILTSTONE_MOUNT=memory runs them on a volume in memory, which shows whether a failure is the mount's or the core's.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.mounted import KIND, KINDS, MountedVolume, MountFailed, is_mounted, mounted

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD = -100
KIB, MIB = 1024, 1024 * 1024

ACCESS_LIST = struct.pack("<I" + "HHI" * 3, 2, *(1, 7, 2**32 - 1), *(4, 5, 2**32 - 1), *(32, 5, 2**32 - 1))
"""A POSIX access control list as setfacl writes it: user::rwx, group::r-x, other::r-x."""

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module", params=KINDS)
def volume(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[MountedVolume]:
    """One mount for all tests that leave it as they found it."""
    with mounted(tmp_path_factory.mktemp("posix"), kind=request.param) as volume:
        yield volume


@pytest.fixture
def here(volume: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """A new directory of the mount for one test."""
    directory: Path = volume.directory / request.node.name[:200].replace("/", "_")
    directory.mkdir()
    return directory


def renameat2(source: Path, target: Path, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fails_with(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == number)


def drop_page_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


# --- bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 4096, 100_000, 256 * KIB, 5 * MIB + 3])
def test_bytes_written_are_bytes_read(here: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    file = here / "file"
    file.write_bytes(data)
    assert file.stat().st_size == size
    assert file.read_bytes() == data
    drop_page_cache(file)
    assert file.read_bytes() == data


def test_truncate_cuts_extends_with_zeros_and_works_by_path_and_by_descriptor(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"0123456789")
    os.truncate(file, 4)
    assert file.read_bytes() == b"0123"
    with file.open("r+b") as opened:
        os.ftruncate(opened.fileno(), 8)
        assert os.fstat(opened.fileno()).st_size == 8
    assert file.read_bytes() == b"0123\0\0\0\0"


def test_truncate_moves_mtime_and_ctime_forward(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x" * 100)
    before = file.stat()
    os.truncate(file, 10)
    after = file.stat()
    assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns


def test_append_through_two_handles_loses_nothing(here: Path) -> None:
    file = here / "log"
    with file.open("ab", buffering=0) as one, file.open("ab", buffering=0) as two:
        for number in range(100):
            (one if number % 2 else two).write(b"%03d\n" % number)
    assert file.read_bytes() == b"".join(b"%03d\n" % number for number in range(100))


def test_append_from_several_processes_loses_nothing(here: Path) -> None:
    program = "import os,sys; f=os.open(sys.argv[1], os.O_WRONLY|os.O_APPEND|os.O_CREAT)\n" + (
        "for i in range(200): os.write(f, sys.argv[2].encode()*50+b'\\n')"
    )
    file = here / "log"
    writers = [subprocess.Popen([sys.executable, "-c", program, file, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = file.read_bytes().split(b"\n")[:-1]
    assert sorted(lines) == sorted(name * 50 for name in (b"a", b"b", b"c") for _ in range(200))


def test_o_excl_refuses_what_exists_and_o_trunc_empties_it(here: Path) -> None:
    file = here / "file"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(descriptor, b"old")
    os.close(descriptor)
    with fails_with(errno.EEXIST):
        os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(descriptor).st_size == 0
    os.close(descriptor)
    assert file.read_bytes() == b""
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(KIND == "memory", reason="the volume in memory has no holes")
def test_a_sparse_file_reads_as_zeros_and_takes_no_room(here: Path) -> None:
    file = here / "sparse"
    with file.open("wb") as opened:
        opened.seek(1 << 40)
        opened.write(b"end")
    status = file.stat()
    assert status.st_size == (1 << 40) + 3
    assert status.st_blocks * 512 < MIB
    with file.open("rb") as opened:
        assert opened.read(100_000) == bytes(100_000)
        opened.seek((1 << 40) - 5)
        assert opened.read() == bytes(5) + b"end"
    os.truncate(file, 999_999_999_999_999)
    assert file.stat().st_size == 999_999_999_999_999
    file.unlink()


def test_a_file_may_be_unlinked_while_it_is_open(here: Path) -> None:
    file = here / "file"
    with file.open("w+b", buffering=0) as opened:
        opened.write(b"before")
        file.unlink()
        assert not file.exists()
        opened.write(b" after")
        os.fsync(opened.fileno())
        assert os.fstat(opened.fileno()).st_nlink == 0
        opened.seek(0)
        assert opened.read() == b"before after"
        file.write_bytes(b"another")
        opened.seek(0)
        assert opened.read() == b"before after"


def test_a_fifo_may_be_unlinked_while_it_is_open(here: Path) -> None:
    fifo = here / "fifo"
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDWR)
    fifo.unlink()
    assert stat.S_ISFIFO(os.fstat(descriptor).st_mode) and os.fstat(descriptor).st_nlink == 0
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, b"through")
    assert os.read(descriptor, 10) == b"through"
    os.close(descriptor)


def test_a_replaced_file_stays_readable_where_it_is_open(here: Path) -> None:
    (here / "file").write_bytes(b"old" * 1000)
    with (here / "file").open("rb", buffering=0) as opened:
        (here / "new").write_bytes(b"new" * 1000)
        (here / "new").rename(here / "file")
        assert opened.read() == b"old" * 1000
    assert (here / "file").read_bytes() == b"new" * 1000


def test_a_shared_mapping_is_written_back_and_sees_writes(here: Path) -> None:
    file = here / "file"
    file.write_bytes(bytes(3 * 4096))
    with file.open("r+b", buffering=0) as opened, mmap.mmap(opened.fileno(), 0) as mapping:
        mapping[5000:5005] = b"hello"
        mapping.flush()
        assert os.pread(opened.fileno(), 5, 5000) == b"hello"
        os.pwrite(opened.fileno(), b"world", 9000)
        assert mapping[9000:9005] == b"world"
        mapping[0:4] = b"last"
    drop_page_cache(file)
    data = file.read_bytes()
    assert (data[0:4], data[5000:5005], data[9000:9005]) == (b"last", b"hello", b"world")


def test_a_mapping_written_back_lands_where_it_belongs_beside_an_append_handle(here: Path) -> None:
    file = here / "file"
    file.write_bytes(bytes(8192))
    with (
        file.open("ab", buffering=0) as appending,
        file.open("r+b", buffering=0) as opened,
        mmap.mmap(opened.fileno(), 0) as mapping,
    ):
        mapping[100:104] = b"here"
        appending.write(b"tail")
        mapping.flush()
    drop_page_cache(file)
    data = file.read_bytes()
    assert (len(data), data[100:104], data[-4:]) == (8196, b"here", b"tail")


def test_o_direct_reads_and_writes_past_the_cache(here: Path) -> None:
    file = here / "file"
    with mmap.mmap(-1, 64 * KIB) as buffer:
        buffer[:] = random.Random(3).randbytes(64 * KIB)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        assert os.pwritev(descriptor, [buffer], 0) == 64 * KIB
        assert file.read_bytes() == buffer[:]
        with mmap.mmap(-1, 64 * KIB) as back:
            assert os.preadv(descriptor, [back], 0) == 64 * KIB
            assert back[:] == buffer[:]
        os.close(descriptor)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes_and_fsync_are_accepted(here: Path, flag: int) -> None:
    descriptor = os.open(here / "file", os.O_WRONLY | os.O_CREAT | flag)
    assert os.write(descriptor, b"x" * 5000) == 5000
    os.fdatasync(descriptor)
    os.fsync(descriptor)
    os.close(descriptor)
    directory = os.open(here, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


# --- names ---------------------------------------------------------------------------------------------------------


def test_hard_links_share_bytes_and_are_counted(here: Path) -> None:
    one, two = here / "one", here / "two"
    one.write_bytes(b"shared")
    os.link(one, two)
    assert one.stat().st_ino == two.stat().st_ino and one.stat().st_nlink == 2
    two.write_bytes(b"changed")
    assert one.read_bytes() == b"changed"
    one.unlink()
    assert two.stat().st_nlink == 1 and two.read_bytes() == b"changed"
    with fails_with(errno.EPERM):
        os.link(here, here / "directory")


def test_symbolic_links_are_kept_as_they_are(here: Path) -> None:
    target = "../" * 300 + "t" * 200
    (here / "dangling").symlink_to(target)
    assert os.readlink(here / "dangling") == target
    assert (here / "dangling").lstat().st_size == len(target)
    with fails_with(errno.ENOENT):
        (here / "dangling").read_bytes()
    (here / "file").write_bytes(b"x")
    (here / "link").symlink_to("file")
    assert (here / "link").read_bytes() == b"x"


def test_rename_replaces_and_keeps_the_inode(here: Path) -> None:
    (here / "a").write_bytes(b"a")
    (here / "b").write_bytes(b"b")
    number = (here / "a").stat().st_ino
    (here / "a").rename(here / "b")
    assert sorted(os.listdir(here)) == ["b"]
    assert (here / "b").stat().st_ino == number and (here / "b").read_bytes() == b"a"


def test_rename_flags(here: Path) -> None:
    (here / "a").write_bytes(b"a")
    (here / "d").mkdir()
    (here / "d" / "inner").write_bytes(b"")
    with fails_with(errno.EEXIST):
        renameat2(here / "a", here / "d", RENAME_NOREPLACE)
    renameat2(here / "a", here / "d", RENAME_EXCHANGE)
    assert (here / "d").read_bytes() == b"a" and (here / "a" / "inner").exists()
    renameat2(here / "d", here / "e", RENAME_NOREPLACE)
    assert sorted(os.listdir(here)) == ["a", "e"]
    with fails_with(errno.ENOENT):
        renameat2(here / "e", here / "absent", RENAME_EXCHANGE)
    with fails_with(errno.EINVAL):
        renameat2(here / "e", here / "f", RENAME_WHITEOUT)


def test_rename_between_directories_obeys_the_tree(here: Path) -> None:
    (here / "a" / "b").mkdir(parents=True)
    (here / "c").mkdir()
    with fails_with(errno.EINVAL):
        (here / "a").rename(here / "a" / "b" / "a")
    (here / "c" / "full").write_bytes(b"")
    with fails_with(errno.ENOTEMPTY):
        (here / "a").rename(here / "c")
    (here / "a" / "b").rename(here / "c" / "b")
    assert (here.stat().st_nlink, (here / "a").stat().st_nlink, (here / "c").stat().st_nlink) == (4, 2, 3)
    assert os.listdir(here / "a") == []
    with fails_with(errno.ENOTDIR):
        (here / "a").rename(here / "c" / "full")
    with fails_with(errno.EISDIR):
        (here / "c" / "full").rename(here / "a")


def test_directories_are_removed_only_when_empty_and_count_their_children(here: Path) -> None:
    (here / "d" / "sub").mkdir(parents=True)
    with fails_with(errno.ENOTEMPTY):
        (here / "d").rmdir()
    with fails_with(errno.EISDIR):
        (here / "d").unlink()
    (here / "d" / "sub").rmdir()
    assert (here / "d").stat().st_nlink == 2
    (here / "d").rmdir()
    assert here.stat().st_nlink == 2


def test_nothing_can_be_made_in_a_removed_directory_that_is_in_use(here: Path) -> None:
    (here / "gone").mkdir()
    descriptor = os.open(here / "gone", os.O_RDONLY)
    (here / "gone").rmdir()
    with fails_with(errno.ENOENT):
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)


@pytest.mark.parametrize(
    "name", [b"\xff\xfe bytes", b" ", b"new\nline", "grüße-文件".encode(), b"..dots", b"-", b"\\\"'", b"n" * 255]
)
def test_names_are_any_bytes(here: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(here), name)
    with open(path, "wb") as file:
        file.write(name)
    assert os.listdir(os.fsencode(here)) == [name]
    with open(path, "rb") as file:
        assert file.read() == name


def test_names_that_are_too_long_are_refused_by_every_call(here: Path) -> None:
    long = here / ("n" * 256)
    for call in (
        lambda: long.stat(),
        lambda: long.write_bytes(b""),
        lambda: long.mkdir(),
        lambda: long.symlink_to("x"),
        lambda: long.unlink(),
        lambda: here.rename(long),
    ):
        with fails_with(errno.ENAMETOOLONG):
            call()


def test_a_missing_name_that_was_looked_for_appears_when_it_is_made(here: Path) -> None:
    for _ in range(3):
        assert not (here / "file").exists()
    (here / "file").write_bytes(b"x")
    assert (here / "file").exists()
    (here / "file").unlink()
    assert not (here / "file").exists()
    (here / "file").mkdir()
    assert (here / "file").is_dir()


def test_deep_trees_are_walked(here: Path) -> None:
    path = here
    for _ in range(100):
        path = path / "d"
        path.mkdir()
    (path / "leaf").write_bytes(b"deep")
    assert sum(len(files) for _, _, files in os.walk(here)) == 1
    shutil.rmtree(here / "d")
    assert os.listdir(here) == []


# --- listings ------------------------------------------------------------------------------------------------------


def test_a_listing_under_changes_has_all_that_stayed_exactly_once(here: Path) -> None:
    steady = {f"steady-{number:04}" for number in range(2000)}
    for name in steady:
        (here / name).write_bytes(b"")
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            name = here / f"s-{number % 50:04}-{'x' * (number % 30)}"
            name.write_bytes(b"")
            name.unlink()
            number += 1

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(5):
            listed = [entry.name for entry in os.scandir(here)]
            stayed = [name for name in listed if name in steady]
            assert len(stayed) == len(set(stayed)) == 2000
    finally:
        stop.set()
        churning.join()
    assert set(os.listdir(here)) == steady


def test_a_directory_can_be_emptied_while_it_is_listed(here: Path) -> None:
    for number in range(1000):
        (here / f"{number}").write_bytes(b"")
    with os.scandir(here) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(here) == []


def test_positions_of_a_listing_can_be_returned_to(here: Path) -> None:
    for number in range(300):
        (here / f"{number:03}").write_bytes(b"")
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir64.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(here)))

    def read_name() -> bytes | None:
        entry = libc.readdir64(stream)
        return None if not entry else ctypes.string_at(entry + 19)

    first = [(libc.telldir(stream), read_name()) for _ in range(302)]
    assert {name for _, name in first} == {b".", b"..", *(b"%03d" % number for number in range(300))}
    assert read_name() is None
    for position, name in random.Random(2).sample(first, 20):
        libc.seekdir(stream, ctypes.c_long(position))
        assert read_name() == name
    libc.rewinddir(stream)
    assert read_name() == b"."
    libc.closedir(stream)


# --- attributes ----------------------------------------------------------------------------------------------------


def test_times_are_kept_to_the_nanosecond(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x")
    before = file.stat()
    os.utime(file, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    status = file.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_987_654_321)
    assert status.st_ctime_ns > before.st_ctime_ns
    os.utime(file)
    assert abs(file.stat().st_mtime_ns - time.time_ns()) < 60 * 10**9


def test_times_set_by_hand_survive_the_commit_of_earlier_writes(here: Path) -> None:
    file = here / "file"
    with file.open("wb", buffering=0) as opened:
        opened.write(b"x" * 10_000)
        os.utime(opened.fileno(), ns=(10**18, 10**18))
    drop_page_cache(file)
    subprocess.run(["sync", "-d", file], check=True)
    assert file.stat().st_mtime_ns == 10**18


def test_mode_and_owner_change(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x")
    file.chmod(0o4755)
    assert stat.S_IMODE(file.stat().st_mode) == 0o4755
    os.chown(file, 1234, 5678)
    status = file.stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert stat.S_IMODE(status.st_mode) == 0o755, "a new owner does not get the old one's privileges"


@pytest.mark.parametrize("command", ["printf y 1<> file", "truncate -s 0 file", ": > file"])
def test_whoever_is_not_root_takes_set_user_id_away_with_the_bytes(here: Path, command: str) -> None:
    file = here / "file"
    file.write_bytes(b"x")
    for privileges, left in ((0o6777, 0o777), (0o6767, 0o2767)):
        file.chmod(privileges)
        subprocess.run(["sh", "-c", command], check=True, cwd=here, user=1234, group=0)
        assert oct(file.stat().st_mode) == oct(stat.S_IFREG | left)
        file.chmod(privileges)
        subprocess.run(["sh", "-c", command], check=True, cwd=here)
        assert oct(file.stat().st_mode) == oct(stat.S_IFREG | privileges)


@pytest.mark.skipif(KIND == "memory", reason="the volume in memory knows no set-group-id")
def test_a_set_group_id_directory_hands_its_group_on(here: Path) -> None:
    os.chown(here, 0, 4321)
    here.chmod(0o2775)
    (here / "file").write_bytes(b"")
    (here / "sub").mkdir()
    assert (here / "file").stat().st_gid == (here / "sub").stat().st_gid == 4321
    assert (here / "sub").stat().st_mode & stat.S_ISGID


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
def test_special_files_are_made(here: Path, kind: int) -> None:
    device = os.makedev(7, 300) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    os.mknod(here / "node", kind | 0o640, device)
    status = (here / "node").stat()
    assert (status.st_mode, status.st_rdev) == (kind | 0o640, device)


def test_a_fifo_connects_two_programs(here: Path) -> None:
    os.mkfifo(here / "fifo")
    writer = subprocess.Popen(["sh", "-c", f"echo hello > '{here}/fifo'"])
    assert (here / "fifo").read_bytes() == b"hello\n"
    assert writer.wait() == 0


def test_extended_attributes(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x")
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "user.large", b"v" * 60_000)
    os.setxattr(file, "trusted.t", b"t")
    assert sorted(os.listxattr(file)) == ["trusted.t", "user.empty", "user.large"]
    assert os.getxattr(file, "user.large") == b"v" * 60_000 and os.getxattr(file, "user.empty") == b""
    with fails_with(errno.EEXIST):
        os.setxattr(file, "user.empty", b"x", os.XATTR_CREATE)
    with fails_with(errno.ENODATA):
        os.setxattr(file, "user.absent", b"x", os.XATTR_REPLACE)
    os.removexattr(file, "user.large")
    with fails_with(errno.ENODATA):
        os.getxattr(file, "user.large")
    with fails_with(errno.ENOTSUP):
        os.setxattr(file, "system.posix_acl_access", ACCESS_LIST)
    os.setxattr(here, "user.on-directory", b"d")
    assert os.getxattr(here, "user.on-directory") == b"d"


def test_statvfs_tells_room_and_limits(volume: MountedVolume) -> None:
    before = os.statvfs(volume.directory)
    assert before.f_namemax == 255
    assert 0 < before.f_bavail <= before.f_bfree <= before.f_blocks
    assert 0 < before.f_ffree < before.f_files
    used = before.f_files - before.f_ffree
    for number in range(10):
        (volume.directory / f"counted-{number}").write_bytes(b"")
    after = os.statvfs(volume.directory)
    assert after.f_files - after.f_ffree == used + 10


def test_blocks_follow_what_is_written(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x" * MIB)
    assert MIB <= file.stat().st_blocks * 512 <= 2 * MIB


# --- whole trees ---------------------------------------------------------------------------------------------------


def hashes(tree: Path) -> dict[str, str]:
    found = {}
    for directory, _, names in os.walk(tree):
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                found[str(path.relative_to(tree))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_a_real_tree_copies_and_comes_back_unchanged(here: Path) -> None:
    source = Path(sysconfig.get_paths()["stdlib"]) / "email"
    shutil.copytree(source, here / "tree", symlinks=True)
    assert hashes(here / "tree") == hashes(source)
    archive = here / "tree.tar"
    subprocess.run(["tar", "-cf", archive, "-C", here / "tree", "."], check=True)
    (here / "untarred").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", here / "untarred"], check=True)
    assert hashes(here / "untarred") == hashes(source)
    shutil.rmtree(here / "tree")
    assert not (here / "tree").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_works_on_the_mount(here: Path) -> None:
    def git(*words: str) -> str:
        settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        command = ["git", *settings, "-C", str(here), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    for number in range(50):
        (here / f"{number}.txt").write_text(f"{number}\n" * 100)
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (here / "7.txt").write_text("changed\n")
    assert git("status", "--porcelain") == " M 7.txt\n"
    git("gc", "-q")
    assert git("fsck") == ""


# --- the life of a mount -------------------------------------------------------------------------------------------


def test_only_an_empty_directory_can_be_mounted_on(tmp_path: Path) -> None:
    with mounted(tmp_path, kind=KIND) as volume:
        (volume.directory / "file").write_bytes(b"x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"")
    for directory, why in ((tmp_path / "full", "not empty"), (tmp_path / "absent", "No such file")):
        refused = MountedVolume(tmp_path / "home", directory, KIND)
        with pytest.raises(MountFailed, match=why):
            refused.start()
        assert not is_mounted(directory)
    assert os.listdir(tmp_path / "full") == ["mine"]


@pytest.mark.skipif(KIND == "memory", reason="what is in memory does not outlive its process")
def test_what_was_written_is_there_after_an_unmount_in_order(tmp_path: Path) -> None:
    with mounted(tmp_path) as volume:
        (volume.directory / "small").write_bytes(b"never synced")
        (volume.directory / "large").write_bytes(b"L" * 3 * MIB)
        with (volume.directory / "mapped").open("w+b") as file:
            file.truncate(4096)
            with mmap.mmap(file.fileno(), 0) as mapping:
                mapping[:6] = b"mapped"
    with mounted(tmp_path) as volume:
        assert (volume.directory / "small").read_bytes() == b"never synced"
        assert (volume.directory / "large").read_bytes() == b"L" * 3 * MIB
        assert (volume.directory / "mapped").read_bytes()[:6] == b"mapped"


def test_a_mount_in_use_is_taken_away_all_the_same(tmp_path: Path) -> None:
    with mounted(tmp_path, kind=KIND) as volume:
        file = (volume.directory / "file").open("wb", buffering=0)
        file.write(b"x")
        volume.stop()
        with fails_with(errno.ENOTCONN):
            file.write(b"y")
        with pytest.raises(OSError):
            file.close()
    assert not is_mounted(volume.directory)


def test_an_unmount_from_outside_ends_the_serving(tmp_path: Path) -> None:
    with mounted(tmp_path, kind=KIND) as volume:
        subprocess.run(["fusermount3", "-u", volume.directory], check=True)
        if KIND == "memory":
            volume.kill()
        else:
            volume.wait()


@pytest.mark.skipif(KIND == "memory", reason="what is in memory does not outlive its process")
def test_what_was_synced_outlives_a_killed_daemon_and_its_dead_mount_is_replaced(tmp_path: Path) -> None:
    with mounted(tmp_path) as volume:
        directory = volume.directory
        contents = {f"file-{number}": random.Random(number).randbytes(number * 7000) for number in range(60)}
        for name, data in contents.items():
            with (directory / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        descriptor = os.open(directory / "synchronous", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
        os.write(descriptor, b"durable by itself")
        volume.kill()
        with pytest.raises(OSError):
            os.close(descriptor)
        with fails_with(errno.ENOTCONN):
            directory.stat()
        volume.start()
        for name, data in contents.items():
            assert (directory / name).read_bytes() == data, name
        assert (directory / "synchronous").read_bytes() == b"durable by itself"
        (directory / "new").write_bytes(b"and it goes on")


def test_a_dead_mount_is_replaced_although_the_kernel_still_answers_for_its_root(tmp_path: Path) -> None:
    with mounted(tmp_path, kind=KIND) as volume:
        volume.directory.stat()
        volume.kill()
        assert volume.directory.is_dir(), "attributes are cached"
        volume.start()
        (volume.directory / "new").write_bytes(b"it goes on")
