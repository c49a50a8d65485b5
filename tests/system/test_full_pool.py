"""A small volume is filled to the brim: what was said to be free is what can be written, and nothing gets stuck."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

SILTSTONE = [sys.executable, "-P", "-m", "siltstone"]
PATIENCE_SECONDS = 60.0
MIB = 1024 * 1024
DATA = random.Random(0).randbytes(4 * MIB)
LOGIN = ("AKFULL", "secret-of-full")

AGREEMENT_SHARE_MAX = 0.001
"""Of the pool, that two who ask may be told differently, since the log goes on meanwhile."""

ERROR_SHARE_MAX = 0.01
"""Of the pool, that free and writable may differ by."""


class FullVolume:
    """A served volume with a mount, an S3 client, and what was written to it."""

    def __init__(self, place: Path, disk_size: str) -> None:
        self.home, self.mount = place / "home", place / "mount"
        self.mount.mkdir()
        disks = [argument for index in range(6) for argument in ("--disk", str(place / f"disk{index}"))]
        self.succeed("init", self.home, *disks, "--disk-size", disk_size)
        self.succeed("key", "add", self.home, "--access", LOGIN[0], "--secret", LOGIN[1], "--owner", "me")
        command = [*SILTSTONE, "serve", str(self.home), "--mount", str(self.mount), "--s3", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        ready = [self.process.stdout.readline(), self.process.stdout.readline()]
        self.s3: Any = boto3.client(
            "s3",
            endpoint_url=next(line.split()[2] for line in ready if line.startswith("ready s3")),
            aws_access_key_id=LOGIN[0],
            aws_secret_access_key=LOGIN[1],
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
        )
        self.files: dict[Path, bytes] = {}

    def close(self) -> None:
        """Shut down in order."""
        self.s3.close()
        self.process.terminate()
        try:
            assert self.process.wait(PATIENCE_SECONDS) == 0
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            subprocess.run(["fusermount3", "-u", "-z", "-q", self.mount], check=False)

    def succeed(self, *arguments: object) -> str:
        """Run a command that must work; what it printed."""
        command = [*SILTSTONE, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def free_bytes(self) -> int:
        """What statfs says, when it has settled down: room is measured each second."""
        time.sleep(2.2)
        state = os.statvfs(self.mount)
        return state.f_bavail * state.f_frsize

    def reported_bytes(self) -> int:
        """What `siltstone df` says that users can write."""
        return int(json.loads(self.succeed("df", self.home, "--json"))["available_bytes"])

    def total_bytes(self) -> int:
        """What statfs says of the pool."""
        state = os.statvfs(self.mount)
        return state.f_blocks * state.f_frsize

    def write(self, name: str, size: int) -> bool:
        """Write a file and fsync it; False, with nothing left of it, when there is no room for it."""
        path, data = self.mount / name, DATA[:size]
        try:
            with path.open("wb", buffering=0) as file:
                left = memoryview(data)
                while left:  # what fits of the last write is written, and the next one is refused
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
        except OSError as error:
            assert error.errno == errno.ENOSPC
            path.unlink(missing_ok=True)
            return False
        self.files[path] = data
        return True

    def compare(self) -> None:
        """Every file is as it was written."""
        for path, data in self.files.items():
            assert path.read_bytes() == data

    def put(self, key: str, size: int) -> int:
        """PUT an object; the HTTP status."""
        try:
            answer = self.s3.put_object(Bucket="bucket", Key=key, Body=DATA[:size])
        except ClientError as error:
            answer = error.response
        return int(answer["ResponseMetadata"]["HTTPStatusCode"])


@pytest.fixture
def volume(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FullVolume]:
    """A small volume, on disks of 128 MiB if a test does not say else."""
    volume = FullVolume(tmp_path, getattr(request, "param", "128M"))
    try:
        yield volume
    finally:
        volume.close()


def test_what_is_said_to_be_free_can_be_written_and_a_full_pool_goes_on(volume: FullVolume) -> None:
    total = volume.total_bytes()
    written, said = 0, []
    levels = iter([0.2, 0.45, 0.7, 0.8, 2.0])
    level = next(levels)
    number = 0
    while True:
        if written > level * total:
            level = next(levels)
            said.append((written, volume.free_bytes()))
            assert abs(volume.reported_bytes() - said[-1][1]) <= AGREEMENT_SHARE_MAX * total
        # None so small that it rides in the log, which would need one segment after the other.
        size = (4 * MIB, 1 * MIB, 300_000)[number % 3]
        if not volume.write(f"f{number}", size):
            break
        written += size
        number += 1
    assert len(said) == 4
    assert volume.free_bytes() <= ERROR_SHARE_MAX * total
    # The rest, in smaller pieces: the last large file did not fit.
    while volume.write(f"g{number}", 300_000):
        written += 300_000
        number += 1
    for before, free in said:
        assert abs(before + free - written) <= ERROR_SHARE_MAX * total, (said, written)
    while volume.write(f"small{number}", 20_000):
        number += 1
    volume.succeed("settle", volume.home)
    volume.compare()
    # Names change, files shrink and go, though nothing can be added.
    paths = list(volume.files)
    os.rename(paths[0], volume.mount / "renamed")
    volume.files[volume.mount / "renamed"] = volume.files.pop(paths[0])
    os.truncate(paths[7], 1000)
    volume.files[paths[7]] = volume.files[paths[7]][:1000]
    freed = 0
    for path in paths[8:60]:
        freed += len(volume.files.pop(path))
        path.unlink()
    # And what came free can be written again, without a restart.
    free = volume.free_bytes()
    again = 0
    while volume.write(f"again{again}", MIB):
        again += 1
    assert abs(again * MIB - free) <= ERROR_SHARE_MAX * total, (again, free)
    assert again * MIB > freed * 0.7, (again, freed)
    volume.compare()
    volume.succeed("fsck", volume.home, "--deep")


@pytest.mark.parametrize("volume", ["512M"], indirect=True)
def test_what_is_said_to_be_free_on_larger_disks_can_be_written(volume: FullVolume) -> None:
    total = volume.total_bytes()
    written, said = 0, [(0, volume.free_bytes())]
    while volume.write(f"f{len(volume.files)}", 4 * MIB):
        written += 4 * MIB
        if written > len(said) * total // 4:
            said.append((written, volume.free_bytes()))
    while volume.write(f"g{len(volume.files)}", MIB):
        written += MIB
    assert len(said) == 4
    for before, free in said:
        assert abs(before + free - written) <= ERROR_SHARE_MAX * total, (said, written)
    assert volume.reported_bytes() <= ERROR_SHARE_MAX * total


def test_a_full_pool_tells_s3_so_and_goes_on_when_objects_go(volume: FullVolume) -> None:
    volume.s3.create_bucket(Bucket="bucket")
    number = 0
    while (status := volume.put(f"o{number}", 4 * MIB)) == 200:
        number += 1
    assert status == 507
    while (status := volume.put(f"small{number}", 30_000)) == 200:
        number += 1
    assert status == 507
    for deleted in range(10):
        volume.s3.delete_object(Bucket="bucket", Key=f"o{deleted}")
    assert volume.free_bytes() > 4 * MIB
    assert volume.put("o0", 4 * MIB) == 200
    volume.succeed("settle", volume.home)
    assert volume.s3.get_object(Bucket="bucket", Key="o11")["Body"].read() == DATA
    volume.succeed("fsck", volume.home, "--deep")
