"""boto3 as users have it, against a server process."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from sim.command import succeed
from sim.served import ALT, KINDS, MAIN, Login, Served, served

MIB = 1024 * 1024


@pytest.fixture(scope="module", params=KINDS, ids=str)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("volume") / "home", request.param) as running:
        yield running


def client_of(server: Served, login: Login = MAIN) -> Any:
    config = Config(signature_version="s3v4", retries={"max_attempts": 0}, s3={"addressing_style": "path"})
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=login.access,
        aws_secret_access_key=login.secret,
        region_name="us-east-1",
        config=config,
    )


@pytest.fixture
def s3(server: Served) -> Iterator[Any]:
    client = client_of(server)
    yield client
    client.close()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = "b-" + hashlib.sha1(request.node.name.encode()).hexdigest()[:20]
    s3.create_bucket(Bucket=name)
    return name


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def random_bytes(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(b"%d" % seed).digest(size)


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000, 1 * MIB, 3 * MIB + 1])
def test_what_is_put_is_got(s3: Any, bucket: str, size: int) -> None:
    data = random_bytes(size)
    put = s3.put_object(Bucket=bucket, Key="dir/k ü", Body=data, Metadata={"a": "b"}, ContentType="x/y")
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = s3.get_object(Bucket=bucket, Key="dir/k ü")
    assert got["Body"].read() == data
    assert (got["ContentType"], got["Metadata"], got["ContentLength"]) == ("x/y", {"a": "b"}, size)
    if size > 10:
        part = s3.get_object(Bucket=bucket, Key="dir/k ü", Range=f"bytes=5-{size - 3}")
        assert part["Body"].read() == data[5 : size - 2]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_each_checksum_is_stored_and_verified_by_the_client(s3: Any, bucket: str, algorithm: str) -> None:
    data = random_bytes(100_000)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert put[f"Checksum{algorithm}"] == head[f"Checksum{algorithm}"]
    assert s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["Body"].read() == data


def test_transfers_in_parts_come_back_whole(s3: Any, bucket: str, tmp_path: Path) -> None:
    data = random_bytes(23 * MIB + 17)
    (tmp_path / "up").write_bytes(data)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    s3.upload_file(str(tmp_path / "up"), bucket, "big", Config=config)
    assert s3.head_object(Bucket=bucket, Key="big")["ETag"].endswith('-3"')
    s3.download_file(bucket, "big", str(tmp_path / "down"), Config=config)
    assert (tmp_path / "down").read_bytes() == data
    part = s3.get_object(Bucket=bucket, Key="big", PartNumber=3)
    assert part["Body"].read() == data[16 * MIB :] and part["PartsCount"] == 3
    s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == data
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_an_upload_can_be_listed_and_aborted(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=7, Body=b"x")
    assert [part["PartNumber"] for part in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"]] == [7]
    assert [found["UploadId"] for found in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    with pytest.raises(ClientError) as caught:
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=7, Body=b"x")
    assert code(caught) == "NoSuchUpload"


def test_listings_page_through_everything_in_byte_order(s3: Any, bucket: str) -> None:
    names = sorted(f"{folder}/{index:03}" for folder in ("a", "a.b", "ü +") for index in range(40))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: s3.put_object(Bucket=bucket, Key=name, Body=b"x"), [*names, "z"]))
    names = sorted([*names, "z"], key=str.encode)
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == names
        pages = s3.get_paginator(operation).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2})
        found = list(pages)
        folded = [entry["Prefix"] for page in found for entry in page.get("CommonPrefixes", [])]
        assert folded == sorted(("a/", "a.b/", "ü +/"), key=str.encode)
        assert [entry["Key"] for page in found for entry in page.get("Contents", [])] == ["z"]
    objects = [{"Key": name} for name in names]
    assert len(s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})["Deleted"]) == len(names)
    s3.delete_bucket(Bucket=bucket)


def test_lifecycle_rules_are_carried_out_by_the_command(server: Served, s3: Any, bucket: str) -> None:
    kept = {"ID": "later", "Filter": {"Prefix": "later/"}, "Status": "Enabled", "Expiration": {"Days": 1}}
    past = {"ID": "past", "Filter": {"Prefix": "past/"}, "Status": "Enabled", "Expiration": {"Date": "2001-01-01"}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [kept, past]})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0] == kept
    for key in ("later/a", "past/a", "past/b/c", "other"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"bytes")
    assert 'rule-id="later"' in s3.head_object(Bucket=bucket, Key="later/a")["Expiration"]
    done = json.loads(succeed("lifecycle", server.home, "--json"))
    assert (done["expired"], done["last_error"]) == (2, "")
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["later/a", "other"]


def test_conditions_hold(s3: Any, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert code(caught) == "PreconditionFailed"
    s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=first)
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", IfMatch=first)
    assert code(caught) == "PreconditionFailed"
    second = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=second)
    assert code(caught) == "304"
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="missing", Body=b"", IfMatch=second)
    assert code(caught) == "NoSuchKey"


def test_one_of_many_writers_that_must_be_first_is_first(s3: Any, bucket: str) -> None:
    def attempt(index: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="lock", Body=b"%d" % index, IfNoneMatch="*")
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_presigned_requests_work_without_a_client(s3: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "a b"}
    put = s3.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(put, data=b"data", method="PUT")) as answer:
        assert answer.status == 200
    get = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"data"
    for wrong in (get.replace("a%20b", "c"), get.partition("?")[0]):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(wrong)
        assert caught.value.code == 403
        caught.value.close()


def test_owners_do_not_see_each_other(server: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"mine")
    other = client_of(server, ALT)
    assert bucket not in [found["Name"] for found in other.list_buckets()["Buckets"]]
    attempts: list[Callable[[], object]] = [
        lambda: other.get_object(Bucket=bucket, Key="k"),
        lambda: other.put_object(Bucket=bucket, Key="k", Body=b"yours"),
        lambda: other.list_objects_v2(Bucket=bucket),
        lambda: other.delete_bucket(Bucket=bucket),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError) as caught:
            attempt()
        assert code(caught) == "AccessDenied"
    other.close()
    stranger = client_of(server, Login("nobody", "no-secret"))
    with pytest.raises(ClientError) as caught:
        stranger.list_buckets()
    assert code(caught) == "InvalidAccessKeyId"
    stranger.close()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"mine"


def test_readers_see_the_old_or_the_new_object_whole_while_it_is_overwritten(s3: Any, bucket: str) -> None:
    versions = [bytes((index,)) * (2 * MIB) for index in range(4)]
    s3.put_object(Bucket=bucket, Key="k", Body=versions[0])

    def read(_: int) -> bool:
        data = s3.get_object(Bucket=bucket, Key="k")["Body"].read()
        return data in versions

    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read, index) for index in range(12)]
        for version in versions:
            s3.put_object(Bucket=bucket, Key="k", Body=version)
        assert all(done.result() for done in reads)


def test_an_upload_that_breaks_off_leaves_no_object(server: Served, s3: Any, bucket: str) -> None:
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    path = url.removeprefix(server.url)
    with socket.create_connection(server.address) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: {server.url.removeprefix('http://')}\r\nContent-Length: 4000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(3_000_000))
        connection.shutdown(socket.SHUT_WR)
        assert b"IncompleteBody" in b"".join(iter(lambda: connection.recv(65536), b""))
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


class Zeros(io.RawIOBase):
    """A file of zeros that takes no memory."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._position)
        buffer[:count] = bytes(count)
        self._position += count
        return count


def test_a_large_object_needs_no_more_memory_than_a_small_one(server: Served, s3: Any, bucket: str) -> None:
    def both_ways(size: int) -> int:
        url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=600)
        headers = {"Content-Length": str(size)}
        request = urllib.request.Request(url, data=Zeros(size), headers=headers, method="PUT")
        with urllib.request.urlopen(request):
            pass
        body = s3.get_object(Bucket=bucket, Key="k")["Body"]
        received = 0
        while piece := body.read(1 * MIB):
            received += len(piece)
        assert received == size
        return server.resident_bytes_max()

    small = both_ways(96 * MIB)
    large = both_ways(512 * MIB)
    assert large - small < 48 * MIB
