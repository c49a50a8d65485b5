"""The same data through both doors of one volume: what one has answered, the other shows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from sim.mounted import is_mounted
from sim.served import KINDS, served

MIB = 1024 * 1024


class Doors(NamedTuple):
    """A client of the S3 door, a bucket, and the bucket's directory in the mount."""

    s3: Any
    bucket: str
    directory: Path

    def put(self, key: str, body: bytes) -> str:
        """PUT an object; its ETag."""
        return str(self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)["ETag"])

    def get(self, key: str, **conditions: str) -> bytes:
        """GET an object."""
        body: bytes = self.s3.get_object(Bucket=self.bucket, Key=key, **conditions)["Body"].read()
        return body

    def etag(self, key: str) -> str:
        """The object's ETag."""
        return str(self.s3.head_object(Bucket=self.bucket, Key=key)["ETag"])

    def keys(self) -> list[str]:
        """All keys of the bucket."""
        return [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def opened(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Any, Path]]:
    """A volume that is served through both."""
    assert os.path.exists("/dev/fuse"), "system tests need /dev/fuse: run them where FUSE is to be had"
    place = tmp_path_factory.mktemp("doors")
    mountpoint = place / "mnt"
    mountpoint.mkdir()
    siltstone = [sys.executable, "-P", "-m", "siltstone"]
    with served(place / "home", request.param) as server:
        try:
            subprocess.run([*siltstone, "mount", place / "home", mountpoint], check=True, capture_output=True)
            s3 = server.s3()
            with contextlib.closing(s3):
                yield s3, mountpoint
            subprocess.run([*siltstone, "umount", mountpoint], check=True, capture_output=True)
        finally:
            if is_mounted(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)


@pytest.fixture
def doors(opened: tuple[Any, Path], request: pytest.FixtureRequest) -> Doors:
    """A bucket of its own for one test."""
    s3, mountpoint = opened
    name = "b-" + hashlib.sha1(request.node.name.encode()).hexdigest()[:20]
    s3.create_bucket(Bucket=name)
    assert (mountpoint / name).is_dir()
    return Doors(s3, name, mountpoint / name)


def test_an_object_is_a_file_as_soon_as_its_put_is_answered(doors: Doors) -> None:
    for number in range(50):
        file = doors.directory / f"object-{number}"
        assert not file.exists()
        doors.put(f"object-{number}", b"body %d" % number)
        assert file.read_bytes() == b"body %d" % number


def test_an_overwrite_is_seen_as_soon_as_it_is_answered(doors: Doors) -> None:
    for number in range(50):
        body = b"v%d" % number * (number + 1)
        doors.put("key", body)
        assert (doors.directory / "key").read_bytes() == body
        assert (doors.directory / "key").stat().st_size == len(body)


def test_a_deleted_object_is_no_file_any_more_and_a_deleted_file_no_object(doors: Doors) -> None:
    doors.put("dir/key", b"x")
    assert (doors.directory / "dir" / "key").exists()
    doors.s3.delete_object(Bucket=doors.bucket, Key="dir/key")
    assert not (doors.directory / "dir" / "key").exists()
    doors.put("other", b"x")
    (doors.directory / "other").unlink()
    with pytest.raises(ClientError, match="404"):
        doors.s3.head_object(Bucket=doors.bucket, Key="other")


@pytest.mark.parametrize("size", [1000, 300_000, 20 * MIB])
def test_bytes_are_the_same_through_both_doors(doors: Doors, size: int) -> None:
    one, two = random.Random(size).randbytes(size), random.Random(-size).randbytes(size)
    doors.put("object", one)
    assert (doors.directory / "object").read_bytes() == one
    (doors.directory / "file").write_bytes(two)
    assert doors.get("file") == two


def test_a_write_through_the_mount_changes_the_etag_and_conditional_reads_notice(doors: Doors) -> None:
    before = doors.put("key", b"a" * 10_000)
    with (doors.directory / "key").open("r+b") as file:
        file.seek(5000)
        file.write(b"b")
    after = doors.etag("key")
    assert after != before
    body = doors.get("key", IfNoneMatch=before)
    assert body == b"a" * 5000 + b"b" + b"a" * 4999
    with pytest.raises(ClientError, match="304"):
        doors.get("key", IfNoneMatch=after)


def test_what_an_open_file_has_written_is_in_the_object_at_once(doors: Doors) -> None:
    with (doors.directory / "growing").open("wb", buffering=0) as file:
        for number in range(5):
            file.write(b"%d" % number * 1000)
            assert len(doors.get("growing")) == (number + 1) * 1000


def test_files_and_directories_made_by_the_mount_are_keys(doors: Doors) -> None:
    (doors.directory / "a" / "b").mkdir(parents=True)
    (doors.directory / "a" / "b" / "file").write_bytes(b"x")
    (doors.directory / "top").write_bytes(b"y")
    assert sorted(doors.keys()) == ["a/b/file", "top"]
    (doors.directory / "a").rename(doors.directory / "z")
    assert sorted(doors.keys()) == ["top", "z/b/file"]
    assert doors.get("z/b/file") == b"x"


def test_mount_readers_of_a_key_that_is_overwritten_all_the_time_see_one_version_whole(doors: Doors) -> None:
    versions = [b"%06d" % number * 5000 for number in range(150)]
    doors.put("key", versions[0])
    file = doors.directory / "key"
    stop = threading.Event()
    failures: list[object] = []
    reads = [0, 0]

    def read_on(reader: int) -> None:
        while not stop.is_set():
            try:
                data = file.read_bytes()
            except OSError as error:
                failures.append(error)
                continue
            if data != data[:6] * 5000:
                failures.append(len(data))
            reads[reader] += 1

    threads = [threading.Thread(target=read_on, args=(reader,)) for reader in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in versions[1:]:
            doors.put("key", version)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == [] and all(reads)
    assert file.read_bytes() == versions[-1]


def test_s3_readers_of_a_file_that_is_replaced_all_the_time_see_one_version_whole(doors: Doors) -> None:
    file, new = doors.directory / "key", doors.directory / "new"
    file.write_bytes(b"%06d" % 0 * 5000)
    stop = threading.Event()

    def replace_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            new.write_bytes(b"%06d" % number * 5000)
            new.rename(file)

    thread = threading.Thread(target=replace_on)
    thread.start()
    try:
        for _ in range(150):
            data = doors.get("key")
            assert data == data[:6] * 5000
    finally:
        stop.set()
        thread.join()


class Pairs:
    """Operations of each door on the file ``key`` of a directory that has just been made, open in the mount."""

    def __init__(self, doors: Doors, number: int) -> None:
        self.s3, self.bucket = doors.s3, doors.bucket
        self.prefix = f"{number}/"
        self.key = self.prefix + "key"
        self.before, self.put, self.renamed = (bytes([serial]) * 20_000 for serial in (1, 2, 3))
        self.patched = self.before[:5000] + b"patch" + self.before[5005:]
        self.s3.put_object(Bucket=self.bucket, Key=self.key, Body=self.before)
        self.s3.put_object(Bucket=self.bucket, Key=self.prefix + "source", Body=self.put)
        self.directory = doors.directory / f"{number}"
        self.file = self.directory / "key"
        (self.directory / "beside").write_bytes(self.renamed)
        self.opened = os.open(self.file, os.O_RDWR)
        self.read: list[bytes] = []

    def body(self, key: str) -> bytes:
        """GET; boto3 compares with the checksum that it is told."""
        found: bytes = self.s3.get_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")["Body"].read()
        return found

    def s3_calls(self) -> dict[str, Callable[[], object]]:
        """What the S3 door is asked for."""
        to_key, to_copy = {"Bucket": self.bucket, "Key": self.key}, {"Bucket": self.bucket, "Key": self.prefix + "copy"}
        source = {"Bucket": self.bucket, "Key": self.prefix + "source"}
        return {
            "overwrite": lambda: self.s3.put_object(**to_key, Body=self.put),
            "new": lambda: self.s3.put_object(Bucket=self.bucket, Key=self.prefix + "new", Body=self.put),
            "delete": lambda: self.s3.delete_object(**to_key),
            "complete": self._multipart,
            "copy onto": lambda: self.s3.copy_object(**to_key, CopySource=source),
            "copy of": lambda: self.s3.copy_object(**to_copy, CopySource=to_key),
            "get": lambda: self.read.append(self.body(self.key)),
            "head": lambda: self.s3.head_object(**to_key),
            "list": lambda: self.s3.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix),
        }

    def mount_calls(self) -> dict[str, Callable[[], object]]:
        """What a program does in the mount."""
        directory, file = self.directory, self.file
        return {
            "write": lambda: os.pwrite(self.opened, b"patch", 5000),
            "truncate": lambda: os.truncate(self.opened, 9000),
            "rename over": lambda: (directory / "beside").rename(file),
            "rename away": lambda: file.rename(directory / "away"),
            "unlink": file.unlink,
            "create": lambda: (directory / "made").write_bytes(b"made"),
            "read": lambda: self.read.append(os.pread(self.opened, 30_000, 0)),
            "open and read": lambda: self.read.append(file.read_bytes()),
            "list": lambda: os.listdir(directory),
            "stat": file.stat,
        }

    def check(self, s3: str, mount: str) -> None:
        """What was read is whole, and both doors show the same now."""
        whole = [self.before, self.put, self.renamed, self.patched, self.before[:9000]]
        assert all(body in whole for body in self.read), "a mix was read"
        opened = {"write": self.patched, "truncate": self.before[:9000]}.get(mount, self.before)
        assert os.pread(self.opened, 30_000, 0) == opened
        os.close(self.opened)
        page = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix)
        listed = {entry["Key"].removeprefix(self.prefix): entry for entry in page["Contents"]}
        assert sorted(listed) == sorted(os.listdir(self.directory))
        assert "key" in listed or s3 == "delete" or mount in ("rename away", "unlink")
        for name, entry in listed.items():
            if name in ("source", "beside"):
                continue
            body = (self.directory / name).read_bytes()
            assert self.body(self.prefix + name) == body
            is_digest = len(entry["ETag"]) == 34 and "-" not in entry["ETag"]
            assert not is_digest or entry["ETag"].strip('"') == hashlib.md5(body).hexdigest()
            assert entry["Size"] == len(body)

    def _multipart(self) -> None:
        at = {"Bucket": self.bucket, "Key": self.key}
        at["UploadId"] = self.s3.create_multipart_upload(**at)["UploadId"]
        part = {"PartNumber": 1, "ETag": self.s3.upload_part(**at, PartNumber=1, Body=self.put)["ETag"]}
        self.s3.complete_multipart_upload(**at, MultipartUpload={"Parts": [part]})


def test_every_pair_of_operations_at_the_same_time(doors: Doors, request: pytest.FixtureRequest) -> None:
    """What may fail is what finds that the file is gone. Over shards every third pair: tests/stateful/test_two_doors.py
    has all of them, and more orders of events."""
    step = 1 if request.node.callspec.params["opened"] == KINDS[0] else 3

    def run(call: Callable[[], object]) -> None:
        with suppress(FileNotFoundError):
            try:
                call()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                    raise

    with ThreadPoolExecutor(2) as both:
        number = 0
        first = Pairs(doors, number)
        os.close(first.opened)
        for s3 in first.s3_calls():
            for mount in first.mount_calls():
                number += 1
                if number % step:
                    continue
                pair = Pairs(doors, number)
                calls = (pair.s3_calls()[s3], pair.mount_calls()[mount])
                try:
                    list(both.map(run, calls))
                    pair.check(s3, mount)
                except BaseException as error:
                    error.add_note(f"{s3} in S3, {mount} in the mount")
                    raise
