"""HOME is lost with two of six disks, right after `kill -9`: the command brings everything back."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.config import Config

from sim.command import PATIENCE_SECONDS, siltstone, succeed
from sim.mounted import KIND, KINDS


class Place(NamedTuple):
    """Directories of one test."""

    home: Path
    mount: Path
    disks: list[Path]
    daemons: list[subprocess.Popen[str]]


class Daemon:
    """`siltstone serve` with both doors."""

    def __init__(self, place: Place) -> None:
        command = [sys.executable, "-P", "-m", "siltstone", "serve", str(place.home), "--mount", str(place.mount)]
        self.process = subprocess.Popen(
            [*command, "--s3", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        place.daemons.append(self.process)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready mount")
        self.url = self.process.stdout.readline().removeprefix("ready s3 ").strip()

    def client(self, key: dict[str, str]) -> Any:
        """An S3 client that signs with a key."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=key["access"],
            aws_secret_access_key=key["secret"],
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
        )

    def kill(self, place: Place) -> None:
        """End it without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_SECONDS)
        subprocess.run(["fusermount3", "-u", "-z", "-q", place.mount], check=False)


SHARDS = {"disks": 1, "shards": 2}
IN_BOTH_MODES = pytest.mark.parametrize("place", [SHARDS[kind] for kind in KINDS], indirect=True)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A small volume on six disks that takes full snapshots often, and a mount point. The parameter says how many
    shards it has."""
    shards = getattr(request, "param", SHARDS[KIND])
    place = Place(tmp_path / "home", tmp_path / "mount", [tmp_path / f"disk{index}" for index in range(6)], [])
    place.mount.mkdir()
    disks = [argument for disk in place.disks for argument in ("--disk", disk)]
    succeed("init", place.home, *disks, "--disk-size", "256M", "--shards", str(shards))
    settings = json.loads((place.home / "volume.json").read_text())
    (place.home / "volume.json").write_text(json.dumps({**settings, "snapshot_bytes_min": 1000}))
    yield place
    siltstone("stop", place.home)
    for process in place.daemons:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    subprocess.run(["fusermount3", "-u", "-z", "-q", place.mount], check=False)


def churn(place: Place, files: dict[str, bytes], source: random.Random, count: int) -> None:
    """Write files, new ones and others over old ones, and remove some."""
    for _ in range(count):
        name = f"d{source.randrange(5)}/f{source.randrange(60)}"
        (place.mount / name).parent.mkdir(exist_ok=True)
        files[name] = source.randbytes(source.choice((0, 10, 900, 5000, 60_000, 400_000)))
        (place.mount / name).write_bytes(files[name])
    for name in source.sample(sorted(files), len(files) // 5):
        (place.mount / name).unlink()
        del files[name]


def found(place: Place) -> dict[str, bytes]:
    """All files in the mount."""
    return {str(path.relative_to(place.mount)): path.read_bytes() for path in place.mount.rglob("*") if path.is_file()}


@IN_BOTH_MODES
def test_a_volume_comes_back_after_kill_9_without_home_and_two_disks(place: Place) -> None:
    source = random.Random(1)
    files: dict[str, bytes] = {}
    daemon = Daemon(place)
    key = json.loads(succeed("key", "add", place.home, "--json"))
    for _ in range(4):
        churn(place, files, source, 80)
        succeed("settle", place.home)
        time.sleep(1.5)
    snapshots = json.loads(succeed("status", place.home, "--json"))["volume"]["snapshots"]
    assert snapshots["newest_lsn"] > 0 and snapshots["newest_copies"] == 3
    churn(place, files, source, 80)
    time.sleep(1.5)  # by now all of it is durable
    s3 = daemon.client(key)
    for number in range(10):
        files[f"d0/object{number}"] = source.randbytes(20_000)
        s3.put_object(Bucket="d0", Key=f"object{number}", Body=files[f"d0/object{number}"])  # and so is this at once
    etags = {item["Key"]: item["ETag"] for item in s3.list_objects_v2(Bucket="d0")["Contents"]}
    daemon.kill(place)

    shutil.rmtree(place.home)
    for index in (0, 3):
        shutil.rmtree(place.disks[index])
    kept = [argument for index in (1, 2, 4, 5) for argument in ("--disk", place.disks[index])]
    report = json.loads(succeed("import", place.home, *kept, "--json"))
    assert any(shard["snapshot_lsn"] > 0 for shard in report["shards"]) and report["is_settled"]
    assert report["keys"] == 1 and len(report["missing"]) == 2
    daemon = Daemon(place)
    assert found(place) == files
    s3 = daemon.client(key)
    assert {item["Key"]: item["ETag"] for item in s3.list_objects_v2(Bucket="d0")["Contents"]} == etags
    assert s3.get_object(Bucket="d0", Key="object3")["Body"].read() == files["d0/object3"]
    churn(place, files, source, 40)
    assert found(place) == files
    daemon.kill(place)
    assert succeed("fsck", place.home, "--deep") == "no findings\n"


def test_an_import_beside_a_daemon_that_lives_on_without_home_is_refused(place: Place) -> None:
    daemon = Daemon(place)
    (place.mount / "file").write_bytes(b"bytes")
    succeed("status", place.home)  # it has finished starting
    shutil.rmtree(place.home)
    disks = [argument for disk in place.disks for argument in ("--disk", disk)]
    refused = siltstone("import", place.home, *disks)
    assert daemon.process.poll() is None
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "another process uses this disk" in refused.stderr
    assert not place.home.exists()
    time.sleep(1.5)
    daemon.kill(place)
    succeed("import", place.home, *disks)
    Daemon(place)
    assert found(place) == {"file": b"bytes"}


def test_an_import_that_is_killed_is_done_again(place: Place) -> None:
    daemon = Daemon(place)
    files: dict[str, bytes] = {}
    churn(place, files, random.Random(2), 100)
    succeed("settle", place.home)
    daemon.kill(place)
    shutil.rmtree(place.home)
    disks = [argument for disk in place.disks for argument in ("--disk", disk)]
    command = [sys.executable, "-P", "-m", "siltstone", "import", str(place.home), *map(str, disks)]
    for attempt in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.4 + 0.15 * attempt)
        process.kill()
        process.wait()
        if (place.home / "volume.json").exists():
            break
    else:
        succeed("import", place.home, *disks)
    Daemon(place)
    assert found(place) == files
