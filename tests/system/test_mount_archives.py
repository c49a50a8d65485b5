"""Programs that carry whole trees (git, rsync, tar), and LMDB under kill -9; each tells by its own checks how it is.

On one kind of mount; `make programs` runs them on several shards.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from sim.mounted import MountedVolume, mounted

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    with mounted(tmp_path_factory.mktemp("archives")) as volume:
        yield volume


@pytest.fixture
def here(volume: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """A directory of the mount for one test."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    directory = volume.directory / name[:100]
    directory.mkdir()
    return directory


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def make_tree(root: Path) -> None:
    """A tree with everything that an archive has to carry."""
    for number in range(40):
        directory = root / f"directory-{number % 7}" / "below"
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"file {number} é"
        file.write_bytes(bytes([number]) * number * 997)
        file.chmod(0o600 + number % 64)
        os.utime(file, ns=(10**18 + number, 10**18 + number * 1_000_003))
        if number % 3 == 0:
            os.link(file, root / f"link-{number}")
        if number % 5 == 0:
            (root / f"symlink-{number}").symlink_to(f"directory-{number % 7}/nowhere")
            os.setxattr(file, "user.number", b"%d" % number)
            os.setxattr(directory, "user.empty", b"")
    os.mkfifo(root / "fifo")
    os.truncate(root / "link-0", 3_000_000)
    (root / "empty").mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(root / "empty", 12, 34)
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def picture(root: Path) -> dict[str, object]:
    """Everything that an archive has to carry, by path."""
    found: dict[str, object] = {}
    first_names: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        xattrs = {} if path.is_symlink() else {key: os.getxattr(path, key) for key in os.listxattr(path)}
        found[name] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_rdev, content, xattrs),
            first_names.setdefault(status.st_ino, name),
            status.st_mtime_ns if path.is_file() and not path.is_symlink() else 0,
        )
    return found


def test_git_clones_commits_collects_and_checks(here: Path, tmp_path: Path) -> None:
    settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"]
    source = tmp_path / "source"
    shutil.copytree(ROOT / "core", source / "core")
    run("git", *settings, "-C", source, "init", "-q")
    for folder in ("meta", "engine", "docs"):
        shutil.copytree(ROOT / folder, source / folder)
        run("git", *settings, "-C", source, "add", ".")
        run("git", *settings, "-C", source, "commit", "-q", "-m", folder)
    place, back = here / "clone", tmp_path / "back"
    run("git", *settings, "clone", "-q", "--no-local", source, place)
    git = ["git", *settings, "-C", str(place)]
    run(*git, "checkout", "-q", "-b", "branch", "HEAD~1")
    (place / "core" / "volume.py").write_text("changed\n")
    run(*git, "commit", "-q", "-a", "-m", "changed")
    run(*git, "merge", "-q", "-m", "merged", "main")
    run(*git, "gc", "-q", "--prune=now")
    assert run(*git, "fsck", "--full", "--strict") == ""
    assert run(*git, "status", "--porcelain") == ""
    run("git", *settings, "clone", "-q", place, back)
    assert run("git", *settings, "-C", back, "rev-parse", "HEAD^{tree}") == run(*git, "rev-parse", "HEAD^{tree}")


def test_tar_carries_links_attributes_and_holes_both_ways(here: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    make_tree(tmp_path / "tree")
    wanted = picture(tmp_path / "tree")
    options = ["--xattrs", "--xattrs-include=user.*", "--numeric-owner", "--sparse", "--format=posix"]
    run("tar", *options, "-C", tmp_path / "tree", "-cf", here / "one.tar", ".")
    (here / "tree").mkdir()
    run("tar", *options, "-C", here / "tree", "-xpf", here / "one.tar")
    assert picture(here / "tree") == wanted
    run("tar", *options, "-C", here / "tree", "-cf", tmp_path / "two.tar", ".")
    (tmp_path / "back").mkdir()
    run("tar", *options, "-C", tmp_path / "back", "-xpf", tmp_path / "two.tar")
    assert picture(tmp_path / "back") == wanted


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_carries_everything_both_ways_and_then_has_nothing_to_do(here: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    make_tree(tmp_path / "tree")
    wanted = picture(tmp_path / "tree")
    run("rsync", "-aHAXS", f"{tmp_path}/tree/", f"{here}/tree/")
    assert picture(here / "tree") == wanted
    run("rsync", "-aHAXS", f"{here}/tree/", f"{tmp_path}/back/")
    assert picture(tmp_path / "back") == wanted
    for source, target in ((tmp_path / "tree", here / "tree"), (here / "tree", tmp_path / "back")):
        assert run("rsync", "-aHAXSi", "--checksum", "--delete", f"{source}/", f"{target}/") == ""
    (tmp_path / "tree" / "link-3").write_bytes(b"changed")
    (tmp_path / "tree" / "fifo").unlink()
    run("rsync", "-aHAX", "--delete", "--inplace", f"{tmp_path}/tree/", f"{here}/tree/")
    assert picture(here / "tree") == picture(tmp_path / "tree")


LMDB_WRITER = """
import lmdb, sys
with lmdb.open(sys.argv[1], map_size=64 << 20, writemap=sys.argv[2] == "writemap") as database:
    with database.begin() as transaction:
        number = transaction.stat()["entries"]
    while True:
        with database.begin(write=True) as transaction:
            transaction.put(b"%08d" % number, b"%d" % number * (number % 200))
        number += 1
        print(number, flush=True)
"""


@pytest.mark.parametrize("killed", ["program", "daemon"])
def test_lmdb_keeps_what_it_committed(tmp_path: Path, killed: str) -> None:
    with mounted(tmp_path) as volume:
        place = volume.directory / "database"
        place.mkdir()
        for mode, wanted in (("writes", 30), ("writemap", 80)):
            writer = subprocess.Popen(
                [sys.executable, "-c", LMDB_WRITER, place, mode], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert writer.stdout is not None
            committed = 0
            while committed < wanted:
                committed = int(writer.stdout.readline())
            if killed == "daemon":
                volume.kill()
            writer.kill()
            for line in writer.stdout.read().split(b"\n")[:-1]:
                committed = int(line)
            writer.wait()
            writer.stdout.close()
            if killed == "daemon":
                volume.start()
            with lmdb.open(str(place), map_size=64 << 20) as database, database.begin() as transaction:
                entries = list(transaction.cursor())
            assert len(entries) in (committed, committed + 1)
            assert entries == [(b"%08d" % n, b"%d" % n * (n % 200)) for n in range(len(entries))]
