"""Snapshots by the command, seen through the mount and S3, with and without a process that serves."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from siltstone.cli import main
from sim.command import succeed
from sim.mounted import is_mounted
from sim.served import ALT, MAIN, Served, served

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


def command(*arguments: str | Path) -> tuple[int, str]:
    """Run `siltstone snapshot ...` or another command in this process: its status, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(list(map(str, arguments)))
    return status, said.getvalue()


def done(*arguments: str | Path) -> str:
    """What a command says that must be done."""
    status, said = command(*arguments)
    assert status == 0, said
    return said


def contents(top: Path) -> dict[str, object]:
    """What there is below a directory, as a program copies it."""
    found: dict[str, object] = {}
    for folder, directories, files in os.walk(top):
        for name in sorted([*directories, *files]):
            path = Path(folder) / name
            seen = path.lstat()
            data = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(top))] = (seen.st_mode, seen.st_nlink, seen.st_mtime_ns, data)
    return found


def test_snapshots_by_the_command_under_the_mount_and_s3(tmp_path: Path) -> None:
    home, mountpoint = tmp_path / "home", tmp_path / "mnt"
    mountpoint.mkdir()
    with served(home) as server:
        succeed("mount", home, mountpoint)
        try:
            expected = look_at_snapshots(server, home, mountpoint, tmp_path)
            succeed("umount", mountpoint)
        finally:
            if is_mounted(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
    assert "before is there" in done("snapshot", "create", home, "/bucket/a", "before")
    assert "before" in done("snapshot", "list", home, "/bucket/a")
    done("snapshot", "delete", "--wait", home, "/bucket/a", "before")
    assert done("snapshot", "list", home, "/bucket/a") == "no snapshots\n"
    done("clone", home, "/bucket/.snapshots/first", "/restored")
    succeed("mount", home, mountpoint)
    try:
        assert contents(mountpoint / "restored") == expected
        (mountpoint / "restored" / "a" / "file").write_bytes(b"can be written")
        succeed("umount", mountpoint)
        done("fsck", home, "--deep")
    finally:
        if is_mounted(mountpoint):
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)


def look_at_snapshots(server: Served, home: Path, mountpoint: Path, scratch: Path) -> dict[str, object]:
    """What users and programs see; returns what is in the snapshot that is left."""
    s3, other = server.s3(MAIN), server.s3(ALT)
    s3.create_bucket(Bucket="bucket")
    top = mountpoint / "bucket"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "file").write_bytes(b"old")
    (top / "a" / "b" / "large").write_bytes(os.urandom(3_000_000))
    os.link(top / "a" / "b" / "large", top / "linked")
    (top / "symlink").symlink_to("a/b/large")
    etag = s3.put_object(Bucket="bucket", Key="a/object", Body=b"by S3", Metadata={"k": "v"})["ETag"]
    assert not (top / ".snapshots").exists(), "so that the kernel remembers that"
    with (top / "a" / "open").open("wb", buffering=0) as file:
        file.write(b"not closed")
        made = json.loads(done("snapshot", "create", "--json", home, "/bucket", "first"))
    expected = contents(top)
    first = top / ".snapshots" / "first"
    assert contents(first) == expected
    assert made["entries"] == len(expected)
    assert os.listdir(top / ".snapshots") == ["first"]
    assert ".snapshots" not in os.listdir(top)
    assert (top.stat().st_nlink, top.stat().st_size) == (3, 3)
    assert os.path.samefile(first / "a" / "..", first)
    assert os.path.samefile(first / ".." / "..", top)
    assert (first / "a" / "file").stat().st_ino != (top / "a" / "file").stat().st_ino
    number = (first / "a" / "file").stat().st_ino
    (top / "a" / "file").write_bytes(b"new")
    (top / "a" / "b" / "large").unlink()
    shutil.rmtree(top / "a" / "b")
    s3.put_object(Bucket="bucket", Key="a/object", Body=b"other")
    assert contents(first) == expected
    assert (first / "a" / "file").stat().st_ino == number
    refuse_writes(top, first)
    subprocess.run(["cp", "-a", first, scratch / "copied"], check=True)
    assert contents(scratch / "copied") == expected

    head = s3.head_object(Bucket="bucket", Key=".snapshots/first/a/object")
    assert (head["ETag"], head["Metadata"], head["ContentLength"]) == (etag, {"k": "v"}, 5)
    assert s3.get_object(Bucket="bucket", Key=".snapshots/first/a/file")["Body"].read() == b"old"
    listed = {entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    assert listed == {"a/file", "a/object", "a/open", "linked"}
    after = s3.list_objects_v2(Bucket="bucket", StartAfter=".snapshots-")["Contents"]
    assert {entry["Key"] for entry in after} == listed
    inside = s3.list_objects_v2(Bucket="bucket", Prefix=".snapshots/first/a/")["Contents"]
    assert {entry["Key"] for entry in inside} == {
        f".snapshots/first/a/{name}" for name in ("b/large", "file", "object", "open")
    }
    s3.put_bucket_policy(
        Bucket="bucket",
        Policy=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": "*",
                        "Action": "s3:*",
                        "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"],
                    }
                ],
            }
        ),
    )
    assert other.get_object(Bucket="bucket", Key="a/file")["Body"].read() == b"new"
    denied: list[Callable[[], object]] = [
        lambda: other.get_object(Bucket="bucket", Key=".snapshots/first/a/file"),
        lambda: other.list_objects_v2(Bucket="bucket", Prefix=".snapshots/"),
        lambda: s3.put_object(Bucket="bucket", Key=".snapshots/first/a/file", Body=b"x"),
        lambda: s3.put_object(Bucket="bucket", Key=".snapshots/second", Body=b"x"),
        lambda: s3.put_object(Bucket="bucket", Key=".snapshots/first/", Body=b""),
        lambda: s3.delete_object(Bucket="bucket", Key=".snapshots/first/a/file"),
        lambda: s3.put_object_tagging(
            Bucket="bucket", Key=".snapshots/first/a/object", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]}
        ),
    ]
    for attempt in denied:
        with pytest.raises(ClientError) as refused:
            attempt()
        assert refused.value.response["Error"]["Code"] == "AccessDenied"
    copied = s3.copy_object(
        Bucket="bucket", Key="back", CopySource={"Bucket": "bucket", "Key": ".snapshots/first/a/object"}
    )
    assert copied["CopyObjectResult"]["ETag"] == etag
    (top / "back").write_bytes(b"an ordinary file")
    (top / "back").unlink()
    assert contents(first) == expected

    for arguments, words in (
        (("create", home, "/bucket", "first"), "already"),
        (("create", home, "/bucket/.snapshots/first", "x"), "snapshot"),
        (("create", home, "/bucket", "a/b"), "name"),
        (("create", home, "/absent", "x"), "absent"),
        (("delete", home, "/bucket", "absent"), "absent"),
        (("list", home, "/bucket/a/file"), "not a directory"),
    ):
        status, said = command("snapshot", *map(str, arguments))
        assert status == 1 and said.count("\n") == 1
        assert words in said
    done("snapshot", "create", home, "bucket")
    names = [one["name"] for one in json.loads(done("snapshot", "list", "--json", home, "bucket"))]
    assert len(names) == 2 and "first" in names
    done("snapshot", "delete", "--wait", home, "bucket", next(name for name in names if name != "first"))
    assert os.listdir(top / ".snapshots") == ["first"]
    done("snapshot", "create", home, "bucket", "seen")
    assert contents(top / ".snapshots" / "seen").keys() == contents(top).keys()
    done("snapshot", "delete", "--wait", home, "bucket", "seen")
    assert json.loads(done("status", "--json", home))["volume"]["orphans"] == 0, "the kernel keeps what it has seen"
    os.rename(mountpoint / "bucket", mountpoint / "renamed")
    assert contents(mountpoint / "renamed" / ".snapshots" / "first") == expected
    os.rename(mountpoint / "renamed", mountpoint / "bucket")
    return expected


def refuse_writes(top: Path, first: Path) -> None:
    """Whatever a program tries below .snapshots, it is a read-only filesystem; and the directory cannot be removed."""
    writes: list[Callable[[], object]] = [
        lambda: (first / "a" / "file").write_bytes(b"x"),
        lambda: os.open(first / "a" / "file", os.O_WRONLY),
        lambda: os.truncate(first / "a" / "file", 0),
        lambda: (first / "a" / "new").touch(),
        lambda: (first / "new").mkdir(),
        lambda: (top / ".snapshots" / "second").mkdir(),
        lambda: (first / "a" / "file").unlink(),
        lambda: os.rename(first / "a", first / "c"),
        lambda: os.rename(first / "a" / "file", top / "file"),
        lambda: os.link(first / "a" / "file", top / "file"),
        lambda: (first / "a").chmod(0o700),
        lambda: os.utime(first / "a" / "file"),
        lambda: os.setxattr(first / "a", "user.x", b"x"),
        lambda: os.rename(top / ".snapshots", top / "elsewhere"),
    ]
    for attempt in writes:
        with pytest.raises(OSError) as refused:
            attempt()
        assert refused.value.errno == errno.EROFS, refused.value
    for attempt in (lambda: (first / "a").rmdir(), lambda: (top / ".snapshots").rmdir(), lambda: first.rmdir()):
        with pytest.raises(OSError) as refused:
            attempt()
        assert refused.value.errno in (errno.EROFS, errno.ENOTEMPTY)
    with pytest.raises(FileExistsError):
        (top / ".snapshots").mkdir()
