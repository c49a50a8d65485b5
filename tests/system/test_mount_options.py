"""Mount options on real mounts: one volume, mounted once more for each test with the options that it is about."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sim.mounted import SILTSTONE, MountedVolume, is_mounted, mounted

PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    with mounted(tmp_path_factory.mktemp("options")) as volume:
        yield volume


MountWith = Callable[..., Path]


@pytest.fixture(scope="module")
def mount_with(volume: MountedVolume, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountWith]:
    """Mount the volume once more; tests that want the same options share a mount."""
    place = tmp_path_factory.mktemp("mounts")
    directories: dict[tuple[str, ...], Path] = {}

    def mount(*options: str) -> Path:
        if options not in directories:
            directory = directories[options] = place / str(len(directories))
            directory.mkdir()
            arguments = [argument for option in options for argument in ("-o", option)]
            subprocess.run([*SILTSTONE, "mount", volume.home, directory, *arguments], check=True, capture_output=True)
        return directories[options]

    yield mount
    for directory in directories.values():
        done = subprocess.run([*SILTSTONE, "umount", directory], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not is_mounted(directory)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name in the volume that is this test's."""
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:100]


def wait_until(condition: Callable[[], bool]) -> None:
    """What one mount does the others show a moment later."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_as(user: int, directory: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a directory as somebody else."""
    other = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    return subprocess.run(other, cwd=directory, capture_output=True)


def shown_options(directory: Path) -> set[str]:
    """What the kernel's list of mounts says of one."""
    lines = Path("/proc/mounts").read_text().splitlines()
    (options,) = [line.split()[3] for line in lines if line.split()[1] == str(directory)]
    return set(options.split(","))


def test_ro_refuses_every_change_and_shows_what_others_do(
    volume: MountedVolume, mount_with: MountWith, name: str
) -> None:
    directory = mount_with("ro")
    assert "ro" in shown_options(directory)
    (volume.directory / name).write_bytes(b"one")
    wait_until((directory / name).exists)
    changes: list[Callable[[], object]] = [
        lambda: (directory / name).write_bytes(b"x"),
        lambda: (directory / "new").mkdir(),
        lambda: (directory / name).unlink(),
        lambda: (directory / name).chmod(0o600),
        lambda: os.utime(directory / name),
        lambda: os.setxattr(directory / name, "user.x", b""),
        lambda: os.truncate(directory / name, 0),
    ]
    for change in changes:
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    assert (directory / name).read_bytes() == b"one"


@pytest.mark.parametrize("options", ["nosuid,nodev,noexec", "suid,dev,exec"])
def test_the_kernels_own_options_reach_it(mount_with: MountWith, options: str) -> None:
    shown = shown_options(mount_with(options))
    for option in options.split(","):
        assert (option in shown) == option.startswith("no")
    assert "default_permissions" in shown and "allow_other" in shown


def test_noexec_and_exec_are_obeyed(volume: MountedVolume, mount_with: MountWith, name: str) -> None:
    program = volume.directory / name
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    directory = mount_with("nosuid,nodev,noexec")
    wait_until((directory / name).exists)
    with pytest.raises(PermissionError):
        subprocess.run([directory / name], check=True)
    assert subprocess.run([program], check=True, capture_output=True).stdout == b"ran\n"


def test_sync_makes_every_write_durable_before_it_returns(mount_with: MountWith, name: str) -> None:
    directory = mount_with("sync")
    assert "sync" in shown_options(directory)
    (directory / name).write_bytes(b"x" * 10_000)
    assert (directory / name).read_bytes() == b"x" * 10_000


def test_owner_group_and_permissions_are_shown_as_asked(
    volume: MountedVolume, mount_with: MountWith, name: str
) -> None:
    directory = mount_with("uid=1000,gid=1001", "umask=027")
    file = volume.directory / name
    file.write_bytes(b"x")
    file.chmod(0o600)
    wait_until((directory / name).exists)
    for shown in ((directory / name).stat(), directory.stat()):
        assert (shown.st_uid, shown.st_gid, stat.S_IMODE(shown.st_mode)) == (1000, 1001, 0o750)
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
    # The kernel checks by what is shown: the owner may read what in the volume is root's alone.
    assert run_as(1000, directory, "cat", name).stdout == b"x"
    assert run_as(1002, directory, "cat", name).returncode != 0


def test_allow_root_keeps_others_out(mount_with: MountWith, name: str) -> None:
    directory = mount_with("allow_root")
    (directory / name).write_bytes(b"x")
    assert run_as(1002, directory, "cat", name).returncode != 0
    assert (directory / name).read_bytes() == b"x"


def test_names_and_attributes_are_kept_no_longer_than_asked(
    volume: MountedVolume, mount_with: MountWith, name: str
) -> None:
    directory = mount_with("entry_timeout=0,attr_timeout=0,negative_timeout=0")
    assert not (directory / name).exists()
    (volume.directory / name).write_bytes(b"one")
    assert (directory / name).stat().st_size == 3
    (volume.directory / name).write_bytes(b"three")
    assert (directory / name).stat().st_size == 5


def times_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns


def read_one_way(path: Path) -> None:
    """Read a file, list a directory, or read a link."""
    if path.is_symlink():
        path.readlink()
    elif path.is_dir():
        list(path.iterdir())
    else:
        path.read_bytes()


@pytest.fixture(params=["file", "directory", "link"])
def readable(request: pytest.FixtureRequest, volume: MountedVolume, name: str) -> str:
    """The name of something to read."""
    path = volume.directory / name
    if request.param == "file":
        path.write_bytes(b"x")
    elif request.param == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    return name


def test_noatime_is_the_default(volume: MountedVolume, readable: str) -> None:
    path = volume.directory / readable
    before = path.lstat().st_atime_ns
    read_one_way(path)
    assert path.lstat().st_atime_ns == before
    assert "noatime" in shown_options(volume.directory)


def test_relatime_notes_the_first_read_after_a_change(mount_with: MountWith, readable: str) -> None:
    path = mount_with("relatime") / readable
    wait_until(lambda: os.path.lexists(path))

    def atime_after_read() -> int:
        read_one_way(path)
        return path.lstat().st_atime_ns

    before = path.lstat()
    first = atime_after_read()
    assert first > before.st_atime_ns
    assert (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert atime_after_read() == first


def test_strictatime_notes_every_read(mount_with: MountWith, readable: str) -> None:
    path = mount_with("strictatime") / readable
    wait_until(lambda: os.path.lexists(path))
    times = []
    for _ in range(3):
        read_one_way(path)
        times.append(path.lstat().st_atime_ns)
    assert times[0] < times[1] < times[2]


def test_reading_without_atime_is_possible_for_backups(mount_with: MountWith, name: str) -> None:
    path = mount_with("strictatime") / name
    path.write_bytes(b"x")
    before = path.stat().st_atime_ns
    descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
    os.read(descriptor, 10)
    os.close(descriptor)
    assert path.stat().st_atime_ns == before


def test_writeback_gathers_writes_and_loses_none(volume: MountedVolume, mount_with: MountWith, name: str) -> None:
    path = mount_with("writeback") / name
    with path.open("wb", buffering=0) as file:
        for number in range(1000):
            file.write(number.to_bytes(2, "big"))
        os.fsync(file.fileno())
    expected = b"".join(number.to_bytes(2, "big") for number in range(1000))
    assert path.read_bytes() == expected
    wait_until(lambda: (volume.directory / name).read_bytes() == expected)


@pytest.mark.parametrize("option", ["bogus", "uid=me"])
def test_an_option_that_is_not_understood_is_one_line_and_nothing_is_mounted(
    volume: MountedVolume, tmp_path: Path, option: str
) -> None:
    command = [*SILTSTONE, "mount", str(volume.home), str(tmp_path), "-o", f"rw,{option}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and option.partition("=")[0] in done.stderr
    assert not is_mounted(tmp_path)


def test_home_may_have_any_name(tmp_path: Path) -> None:
    place = tmp_path / "bücher, back\\slash"
    place.mkdir()
    with contextlib.closing(_Served(place)) as served:
        (served.directory / "file").write_bytes(b"x")
        served.umount()
        served.mount()
        assert (served.directory / "file").read_bytes() == b"x"


class _Served:
    """A volume of its own, mounted and taken away by commands."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.directory = path / "mnt"
        self.directory.mkdir()
        self._command("init", self.home)
        self.mount()

    def mount(self) -> None:
        self._command("mount", self.home, self.directory)

    def umount(self) -> None:
        self._command("umount", self.directory)
        assert not os.path.ismount(self.directory)

    def close(self) -> None:
        if os.path.ismount(self.directory):
            self.umount()

    def _command(self, *arguments: str | Path) -> None:
        done = subprocess.run([*SILTSTONE, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
