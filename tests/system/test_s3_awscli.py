"""The aws command line as users have it, against a server process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.served import KINDS, MAIN, PATIENCE_SECONDS, Served, served

AWS = Path(sys.executable).parent / "aws"


@pytest.fixture(scope="module", params=KINDS, ids=str)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("volume") / "home", request.param) as running:
        yield running


def aws(server: Served, *arguments: str | Path) -> str:
    """Run a command that must succeed; returns what it printed."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(server.home.parent),
        "AWS_ACCESS_KEY_ID": MAIN.access,
        "AWS_SECRET_ACCESS_KEY": MAIN.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    command = [str(AWS), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tree_goes_up_and_comes_back(server: Served, tmp_path: Path) -> None:
    up = tmp_path / "up"
    (up / "sub dir").mkdir(parents=True)
    files = {
        "small.txt": b"small",
        "empty": b"",
        "sub dir/ü+.bin": os.urandom(300_000),
        "large": os.urandom(20_000_000),
    }
    for name, data in files.items():
        (up / name).write_bytes(data)
    aws(server, "s3", "mb", "s3://tree")
    aws(server, "s3", "sync", up, "s3://tree/root")
    listed = aws(server, "s3", "ls", "--recursive", "s3://tree")
    assert all(f"root/{name}" in listed for name in files)
    assert "PRE root/" in aws(server, "s3", "ls", "s3://tree")
    aws(server, "s3", "cp", "s3://tree/root/large", "s3://tree/copy")
    aws(server, "s3", "mv", "s3://tree/copy", "s3://tree/root/moved")
    down = tmp_path / "down"
    aws(server, "s3", "sync", "s3://tree/root", down)
    for name, data in {**files, "moved": files["large"]}.items():
        assert (down / name).read_bytes() == data
    assert aws(server, "s3", "sync", up, "s3://tree/root") == ""
    aws(server, "s3", "rm", "--recursive", "s3://tree")
    aws(server, "s3", "rb", "s3://tree")


def test_api_commands_and_presigned_links_work(server: Served, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"data")
    aws(server, "s3api", "create-bucket", "--bucket", "api")
    aws(server, "s3api", "put-object", "--bucket", "api", "--key", "k", "--body", tmp_path / "data")
    assert '"ContentLength": 4' in aws(server, "s3api", "head-object", "--bucket", "api", "--key", "k")
    aws(server, "s3api", "get-object", "--bucket", "api", "--key", "k", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"data"
    assert "FULL_CONTROL" in aws(server, "s3api", "get-bucket-acl", "--bucket", "api")
    assert "null" in aws(server, "s3api", "get-bucket-location", "--bucket", "api")
