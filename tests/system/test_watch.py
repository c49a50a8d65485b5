"""The change feed by the command: both doors, going on from an LSN, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.command import siltstone, succeed
from sim.mounted import is_mounted
from sim.served import served

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


def events(text: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, text.splitlines()) if event["event"] != "mark"]


def use_trash(home: Path, mountpoint: Path, s3: Any) -> None:
    """What is removed through either door is listed, and comes back."""
    tree = mountpoint / "bucket" / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").write_bytes(b"by the mount" * 10_000)
    (tree / "cut").write_bytes(b"before")
    with (tree / "cut").open("wb") as file:
        file.write(b"after")
    s3.put_object(Bucket="bucket", Key="tree/object", Body=b"by S3", Metadata={"k": "v"})
    etag = s3.head_object(Bucket="bucket", Key="tree/object")["ETag"]
    s3.delete_object(Bucket="bucket", Key="tree/object")
    shutil.rmtree(tree)
    listed = json.loads(succeed("trash", "list", home, "/bucket/tree", "--json"))
    assert [(item["path"], item["type"], item["was_cut"]) for item in listed] == [
        ("/bucket/tree", "directory", False),
        ("/bucket/tree/cut", "file", True),
        ("/bucket/tree/cut", "file", False),
        ("/bucket/tree/inner", "directory", False),
        ("/bucket/tree/inner/file", "file", False),
        ("/bucket/tree/object", "file", False),
    ]
    assert "/bucket/tree/inner/file" in succeed("trash", "list", home)
    assert "trash" in succeed("df", home) and "trash" in succeed("status", home)
    assert "brought back 5" in succeed("trash", "restore", home, "/bucket/tree")
    assert (tree / "inner" / "file").read_bytes() == b"by the mount" * 10_000
    assert (tree / "cut").read_bytes() == b"after"
    head = s3.head_object(Bucket="bucket", Key="tree/object")
    assert (head["ETag"], head["Metadata"]) == (etag, {"k": "v"})
    succeed("trash", "restore", home, "/bucket/tree/cut", "--to", "/bucket/old")
    assert (mountpoint / "bucket" / "old").read_bytes() == b"before"
    (tree / "cut").unlink()
    assert json.loads(succeed("trash", "empty", home, "--json"))["entries"] >= 1
    assert json.loads(succeed("trash", "list", home, "--json")) == []


def test_what_both_doors_do_is_watched_and_read_back(tmp_path: Path) -> None:
    home, mountpoint = tmp_path / "home", tmp_path / "mnt"
    mountpoint.mkdir()
    with served(home) as server:
        succeed("mount", home, mountpoint)
        command = [sys.executable, "-P", "-m", "siltstone", "watch", str(home), "/bucket", "--json"]
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert watching.stdout is not None
            begin = json.loads(watching.stdout.readline())
            assert begin["event"] == "mark"
            s3 = server.s3()
            s3.create_bucket(Bucket="bucket")
            s3.put_object(Bucket="bucket", Key="a/object", Body=b"by S3")
            (mountpoint / "bucket" / "a" / "file").write_bytes(b"by the mount")
            (mountpoint / "bucket" / "a").rename(mountpoint / "bucket" / "b")
            s3.delete_object(Bucket="bucket", Key="b/object")
            (mountpoint / "bucket" / "b" / "file").unlink()
            (mountpoint / "bucket" / "b").rmdir()
            lines = [json.loads(watching.stdout.readline()) for _ in range(9)]
        finally:
            watching.kill()
            watching.communicate()
        told = [(event["event"], event["path"]) for event in lines if event["event"] not in ("mark", "attributes")]
        assert told[:8] == [
            ("mkdir", "/bucket"),
            ("mkdir", "/bucket/a"),
            ("put", "/bucket/a/object"),
            ("create", "/bucket/a/file"),
            ("write", "/bucket/a/file"),
            ("rename", "/bucket/a"),
            ("delete", "/bucket/b/object"),
            ("unlink", "/bucket/b/file"),
        ]
        again = events(succeed("watch", home, "/bucket", "--json", "--no-follow", "--from", str(begin["lsn"])))
        assert again[: len(lines)] == lines
        last = str(again[-2]["lsn"])
        assert events(succeed("watch", home, "/", "--json", "--no-follow", "--from", last)) == again[-1:]
        assert "rename" in succeed("watch", home, "/", "--no-follow", "--from", "oldest")
        chosen = {"feed_hours": 2.0, "trash_days": 3.0}
        assert json.loads(succeed("set", home, "--feed-hours", "2", "--trash-days", "3", "--json")) == chosen
        use_trash(home, mountpoint, s3)
        for arguments, words in (
            (("watch", home, "/", "--from", "9999999999999"), "yet to come"),
            (("watch", home, "/a/../b"), ".."),
            (("set", home, "--feed-hours", "-1"), "negative"),
            (("trash", "restore", home, "/nothing"), "nothing of it"),
            (("meta", "shards", "2", home), "no trash yet"),
        ):
            refused = siltstone(*arguments)
            assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
            assert words in refused.stderr
        succeed("umount", mountpoint)
        assert not is_mounted(mountpoint)
    refused = siltstone("watch", home, "/")
    assert refused.returncode == 1 and "nobody serves" in refused.stderr
