"""Shards that are started and ended under programs that use a mount and S3, in real processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import msgspec
import pytest
from botocore.config import Config
from system.test_meta import Writer

from siltstone.home import Home
from sim.command import PATIENCE_SECONDS, siltstone, succeed
from sim.mounted import SILTSTONE, MountedVolume, mounted
from sim.served import MAIN

SLOWLY_SECONDS = 0.1
PIECE = b"a piece of a body that is sent for a long time" * 1000


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[MountedVolume]:
    with mounted(tmp_path, kind="disks") as volume:
        yield volume


class S3Writer(threading.Thread):
    """Puts, gets and deletes objects of its own, and knows what must be in them."""

    def __init__(self, client: Any, bucket: str, over: threading.Event) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.objects: dict[str, bytes] = {}
        self._client = client
        self._bucket = bucket
        self._over = over
        self._chance = random.Random(1)

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._step()
        except Exception as error:
            self.errors.append(repr(error))

    def _step(self) -> None:
        chance = self._chance
        key = f"{chance.randrange(4)}/{chance.randrange(10)}"
        match chance.randrange(4):
            case 0 | 1:
                self.objects[key] = chance.randbytes(chance.choice([30, 5_000, 400_000]))
                self._client.put_object(Bucket=self._bucket, Key=key, Body=self.objects[key])
            case 2 if key in self.objects:
                assert self.read(key) == self.objects[key]
            case 3 if key in self.objects:
                self._client.delete_object(Bucket=self._bucket, Key=key)
                del self.objects[key]

    def read(self, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return body


class SlowUpload(threading.Thread):
    """A PUT of so many pieces, slowly until ``over`` is set."""

    def __init__(self, url: str, pieces: int, over: threading.Event) -> None:
        super().__init__()
        self.said = ""
        self._url = urlsplit(url)
        self._pieces = pieces
        self._over = over

    def run(self) -> None:
        assert self._url.hostname is not None
        connection = http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=PATIENCE_SECONDS)
        headers = {"Content-Length": str(self._pieces * len(PIECE))}
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            connection.request("PUT", f"{self._url.path}?{self._url.query}", body=self._body(), headers=headers)
        answer = connection.getresponse()
        self.said = f"{answer.status}: {answer.read()!r}"
        connection.close()

    def _body(self) -> Iterator[bytes]:
        for number in range(self._pieces):
            if number < self._pieces - 1:
                self._over.wait(SLOWLY_SECONDS if number < self._pieces // 2 else 10 * SLOWLY_SECONDS)
            else:
                assert self._over.is_set(), "it was sent before shards had come and gone: the test tests nothing"
            yield PIECE


def client_of(home: Path, *options: str) -> Any:
    """A client of the S3 door of a volume, which is opened."""
    if MAIN.access not in succeed("key", "list", home):
        succeed("key", "add", home, "--access", MAIN.access, "--secret", MAIN.secret)
    url = succeed("s3", home, "--listen", "127.0.0.1:0", *options).split()[-1]
    settings = Config(retries={"max_attempts": 0, "mode": "standard"}, signature_version="s3v4")
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=MAIN.access,
        aws_secret_access_key=MAIN.secret,
        region_name="us-east-1",
        config=settings,
    )


def folders_of_shards(volume: MountedVolume) -> list[Path]:
    return [*(volume.home / "disks").glob("disk*/shard-*")] + [
        path for path in (volume.home / "shards").glob("*") if path.name != "0"
    ]


def test_nothing_fails_and_nothing_is_lost_while_shards_come_and_go(volume: MountedVolume) -> None:
    client = client_of(volume.home)
    client.create_bucket(Bucket="bucket")
    over = threading.Event()
    writers = [Writer(volume.directory / str(number), number, over) for number in range(2)]
    objects = S3Writer(client, "bucket", over)
    nameless = os.open(volume.directory / "nameless", os.O_RDWR | os.O_CREAT)
    os.unlink(volume.directory / "nameless")
    os.write(nameless, PIECE)
    client.put_object(Bucket="bucket", Key="read slowly", Body=PIECE * 100)
    slow = client.get_object(Bucket="bucket", Key="read slowly")["Body"]
    slowly = [slow.read(1000)]
    where = {"Bucket": "bucket", "Key": "sent slowly"}
    sending = SlowUpload(client.generate_presigned_url("put_object", Params=where), 600, over)
    threads = [*writers, objects]
    sending.start()
    for thread in threads:
        thread.start()
    try:
        assert "3 shards have all" in succeed("meta", "shards", "3", volume.home)
        client.put_object(Bucket="bucket", Key="read slowly", Body=b"another one")
        slowly.append(slow.read(1_000_000))  # a reader who is silent for a minute is hung up on
        assert os.pread(nameless, len(PIECE), 0) == PIECE
        os.write(nameless, b"more")
        assert "1 shard has all" in succeed("meta", "single", volume.home, "--wait")
    finally:
        over.set()
        for thread in (*threads, sending):
            thread.join()
    assert sending.said == "200: b''"
    assert objects.read("sent slowly") == PIECE * 600
    assert not [*objects.errors, *(error for writer in writers for error in writer.errors)]
    assert b"".join([*slowly, slow.read()]) == PIECE * 100, "an object that was overwritten while it was read is whole"
    assert os.pread(nameless, len(PIECE) + 10, 0) == PIECE + b"more"
    os.close(nameless)
    for writer in writers:
        for path, data in writer.files.items():
            assert path.read_bytes() == data
    for key, data in objects.objects.items():
        assert objects.read(key) == data
        assert (volume.directory / "bucket" / key).read_bytes() == data
    assert not folders_of_shards(volume)
    config = Home(volume.home).load_config()
    assert (config.shards, config.shards_void) == (1, 0)
    assert succeed("fsck", volume.home, "--deep") == "no findings\n"


def test_an_owner_that_is_killed_while_shards_come_and_go_goes_on(volume: MountedVolume) -> None:
    chance = random.Random(3)
    kept: dict[Path, bytes] = {}
    for command, delay in ((["shards", "3"], 0.7), (["shards", "3"], 3.0), (["single"], 1.5)):
        for _ in range(5):
            folder = volume.directory / f"d{len(kept)}"
            folder.mkdir()
            data = kept[folder / "file"] = chance.randbytes(300_000)
            with (folder / "file").open("wb") as file:
                file.write(data)
                os.fsync(file.fileno())
        changing = subprocess.Popen([*SILTSTONE, "meta", *command, volume.home], stderr=subprocess.DEVNULL)
        time.sleep(delay)
        volume.clear()  # kill -9, wherever it is by now
        changing.wait(PATIENCE_SECONDS)
        volume.start()
        for path, data in kept.items():
            assert path.read_bytes() == data
    assert "1 shard has all" in succeed("meta", "single", volume.home, "--wait")
    for path, data in kept.items():
        assert path.read_bytes() == data
    assert not folders_of_shards(volume)
    assert succeed("fsck", volume.home, "--deep") == "no findings\n"


def test_a_stopped_volume_gets_shards_that_a_further_mount_uses_unless_a_disk_is_away(tmp_path: Path) -> None:
    home = tmp_path / "home"
    succeed("init", home)
    assert "2 shards have all" in succeed("meta", "shards", "2", home)
    first, second = tmp_path / "first", tmp_path / "second"
    try:
        for directory in (first, second):
            directory.mkdir()
            succeed("mount", home, directory)
        for number in range(20):
            (first / str(number)).mkdir()
            (first / str(number) / "file").write_text(str(number))
        (home / "disks" / "disk3").rename(tmp_path / "away")
        refused = siltstone("meta", "shards", "3", home)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "one is away: disk 3: " in refused.stderr and "disk replace" in refused.stderr
        while [*home.glob("disks/*/shard-2")]:  # wiped when it was given up
            time.sleep(0.05)
        assert Home(home).load_config().shards == 2
        (tmp_path / "away").rename(home / "disks" / "disk3")
        assert "3 shards have all" in succeed("meta", "shards", "3", home)
        assert [(second / str(number) / "file").read_text() for number in range(20)] == [*map(str, range(20))]
        for number in range(20):
            (second / str(number) / "file").write_text(f"again {number}")
        (home / "disks" / "disk3").rename(tmp_path / "away")
        assert "1 shard has all" in succeed("meta", "single", home, "--wait")
        assert "what shards had that are gone is not taken away" in succeed("meta", "status", home)
        refused = siltstone("meta", "shards", "2", home)
        assert refused.returncode == 1 and "is not taken away" in refused.stderr
        (tmp_path / "away").rename(home / "disks" / "disk3")
        while "is not taken away" in succeed("meta", "status", home):
            pass
        while [*home.glob("disks/*/shard-*")]:
            time.sleep(0.05)
        assert (first / "7" / "file").read_text() == "again 7"
        (first / "7" / "file").unlink()
        assert not (second / "7" / "file").exists()
    finally:
        siltstone("stop", home)
    assert succeed("fsck", home, "--deep") == "no findings\n"


def test_s3_workers_go_on_with_one_shard_and_begin_with_one(tmp_path: Path) -> None:
    """A volume that has given its shards back is to be served by the same command as before."""
    home = tmp_path / "home"
    succeed("init", home)
    where = {"Bucket": "bucket", "Key": "key"}
    try:
        client = client_of(home, "--s3-workers", "2")
        client.create_bucket(Bucket="bucket")
        assert "2 shards have all" in succeed("meta", "shards", "2", home)
        client.put_object(**where, Body=b"over two")
        assert "1 shard has all" in succeed("meta", "single", home, "--wait")
        assert client.get_object(**where)["Body"].read() == b"over two"
        client.put_object(**where, Body=b"over one")
        succeed("stop", home)
        assert client_of(home, "--s3-workers", "2").get_object(**where)["Body"].read() == b"over one"
    finally:
        siltstone("stop", home)
    assert succeed("fsck", home, "--deep") == "no findings\n"


def test_a_shard_comes_with_the_load_and_goes_with_it_by_itself(tmp_path: Path) -> None:
    """With thresholds that a busy machine reaches as well."""
    home = Home(tmp_path / "home")
    succeed("init", home.path)
    thresholds = {"grow_share": 0.04, "grow_seconds": 5.0, "shrink_share": 0.035, "shrink_seconds": 5.0}
    home.save_config(msgspec.structs.replace(home.load_config(), **thresholds))
    with mounted(tmp_path, kind="disks") as volume:
        assert succeed("meta", "auto", "2", home.path) == "up to 2 shards, by load\n"
        over = threading.Event()
        writer = Writer(volume.directory / "0", 1, over)
        writer.start()
        try:
            while home.load_config().shards == 1:
                time.sleep(0.2)
        finally:
            over.set()
            writer.join()
        while home.load_config().shards > 1:
            time.sleep(0.2)
        assert not writer.errors
        for path, data in writer.files.items():
            assert path.read_bytes() == data
        decisions = json.loads(succeed("meta", "status", home.path, "--json"))["decisions"]
        assert any("there are 2: 1 in use uses " in decision for decision in decisions)
        assert any("all 2 together use " in decision for decision in decisions)
