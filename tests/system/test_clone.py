"""Clones by the command, seen through the mount and through S3, with and without a process that serves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from sim.command import siltstone, succeed
from sim.mounted import is_mounted
from sim.served import KINDS, Kind, served

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")

MIB = 1024 * 1024


def make_tree(top: Path) -> None:
    """Files of all sizes, links, attributes."""
    (top / "a" / "b").mkdir(parents=True)
    for number in range(140):
        (top / "a" / f"small{number}").write_bytes(b"%d" % number * number)
    (top / "a" / "b" / "large").write_bytes(os.urandom(5 * MIB))
    os.link(top / "a" / "b" / "large", top / "linked")
    (top / "symlink").symlink_to("a/b/large")
    os.mkfifo(top / "fifo", 0o600)
    os.setxattr(top / "linked", "user.note", b"kept")
    (top / "linked").chmod(0o4711)
    os.utime(top / "a" / "small7", ns=(1_000_000_001, 2_000_000_002))
    os.utime(top / "a", ns=(1, 3_000_000_003))


def described(top: Path) -> dict[str, object]:
    """What there is below a directory, but for inode numbers and ctime."""
    found: dict[str, object] = {}
    firsts: dict[int, str] = {}
    for folder, directories, files in os.walk(top):
        for name in sorted([*directories, *files]):
            path = Path(folder) / name
            at = str(path.relative_to(top))
            seen = path.lstat()
            kind = stat.S_IFMT(seen.st_mode)
            data: object = None
            if kind == stat.S_IFREG:
                data = path.read_bytes(), {key: os.getxattr(path, key) for key in os.listxattr(path)}
            elif kind == stat.S_IFLNK:
                data = os.readlink(path)
            first = firsts.setdefault(seen.st_ino, at)
            found[at] = (seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_mtime_ns, data, first)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_tree_is_cloned_under_the_mount_and_s3(kind: Kind, tmp_path: Path) -> None:
    home, mountpoint = tmp_path / "home", tmp_path / "mnt"
    mountpoint.mkdir()
    with served(home, kind) as server:
        succeed("mount", home, mountpoint)
        try:
            s3 = server.s3()
            s3.create_bucket(Bucket="bucket")
            top = mountpoint / "bucket"
            make_tree(top)
            etag = s3.put_object(Bucket="bucket", Key="a/object", Body=b"by S3", Metadata={"k": "v"})["ETag"]
            with (top / "a" / "open").open("wb", buffering=0) as file:
                file.write(b"not closed")
                assert not (mountpoint / "copy").exists(), "so that the kernel remembers that"
                report = json.loads(succeed("clone", "--json", home, "/bucket", "/copy"))
            expected = described(top)
            assert described(mountpoint / "copy") == expected
            assert report["entries"] == len(expected) + 1
            assert report["bytes"] >= 5 * MIB
            head = s3.head_object(Bucket="copy", Key="a/object")
            assert (head["ETag"], head["Metadata"], head["ContentLength"]) == (etag, {"k": "v"}, 5)
            (mountpoint / "copy" / "linked").write_bytes(b"another")
            s3.put_object(Bucket="copy", Key="a/object", Body=b"other")
            assert described(top) == expected
            assert s3.get_object(Bucket="bucket", Key="a/object")["Body"].read() == b"by S3"
            succeed("clone", home, "bucket/a/b/large", "bucket/a/b/alone")
            assert (top / "a" / "b" / "alone").read_bytes() == (top / "linked").read_bytes()
            for source, target, words in (
                ("/bucket", "/copy", "there already"),
                ("/absent", "/new", "absent"),
            ):
                refused = siltstone("clone", home, source, target)
                assert refused.returncode == 1 and refused.stderr.count("\n") == 1
                assert words in refused.stderr, refused.stderr
            if kind.shards > 1:
                refused = siltstone("watch", home, "/")
                assert refused.returncode == 1 and "meta single" in refused.stderr, refused.stderr
            assert {entry.name for entry in mountpoint.iterdir()} == {"bucket", "copy"}
            expected = described(top)
            succeed("umount", mountpoint)
        finally:
            if is_mounted(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
    assert "files and directories" in succeed("clone", home, "/bucket", "/stopped")
    succeed("mount", home, mountpoint)
    try:
        assert described(mountpoint / "stopped") == expected
        succeed("umount", mountpoint)
        succeed("fsck", home, "--deep")
    finally:
        if is_mounted(mountpoint):
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
