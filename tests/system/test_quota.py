"""Quotas and usage by the command, held at the mount and through S3; with a process that serves and without."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from sim.command import siltstone, succeed
from sim.mounted import is_mounted
from sim.served import served

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


def refused(*arguments: str | Path) -> str:
    """What a command says that fails, in one line."""
    done = siltstone(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    return done.stderr


def test_a_tree_is_limited_at_both_doors(tmp_path: Path) -> None:
    home, mountpoint = tmp_path / "home", tmp_path / "mnt"
    mountpoint.mkdir()
    with served(home) as server:
        succeed("mount", home, mountpoint)
        try:
            s3 = server.s3()
            s3.create_bucket(Bucket="bucket")
            tree = mountpoint / "bucket" / "tree"
            tree.mkdir()
            limited = json.loads(
                succeed("quota", "set", "--json", home, "/bucket/tree", "--bytes", "1M", "--files", "4")
            )
            assert (limited["bytes"], limited["used_files"]) == (1 << 20, 0)
            (tree / "a").write_bytes(bytes(600_000))
            with pytest.raises(OSError) as caught:
                (tree / "b").write_bytes(bytes(448_577))
            assert caught.value.errno == errno.EDQUOT
            with pytest.raises(ClientError) as answered:
                s3.put_object(Bucket="bucket", Key="tree/c", Body=bytes(1 << 20))
            assert answered.value.response["Error"]["Code"] == "QuotaExceeded"
            assert answered.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
            (tree / "b").unlink()
            s3.put_object(Bucket="bucket", Key="tree/c", Body=bytes(448_576))
            (mountpoint / "bucket" / "d").write_bytes(b"d")
            with pytest.raises(OSError) as caught:
                (mountpoint / "bucket" / "d").rename(tree / "d")
            assert caught.value.errno == errno.EDQUOT
            assert json.loads(succeed("du", "--json", home, "/bucket/tree", "/")) == [
                {"path": "/bucket/tree", "bytes": 1 << 20, "files": 2, "directories": 0},
                {"path": "/", "bytes": (1 << 20) + 1, "files": 3, "directories": 2},
            ]
            assert "already" in refused("quota", "set", home, "/bucket", "--bytes", "1M")
            assert "1.0 MiB of 1.0 MiB" in succeed("quota", "get", home, "/bucket/tree/a")
            succeed("quota", "set", home, "/", "--bytes", "100M")
            assert os.statvfs(mountpoint).f_blocks * os.statvfs(mountpoint).f_frsize == 100 << 20
            succeed("umount", mountpoint)
        finally:
            if is_mounted(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
    assert [quota["path"] for quota in json.loads(succeed("quota", "list", "--json", home))] == ["/", "/bucket/tree"]
    assert "has quotas" in refused("meta", "shards", "2", home)
