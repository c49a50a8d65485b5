"""Several processes that serve S3 at one port: all see the same, and one that dies comes back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sim.command import PATIENCE_SECONDS, siltstone
from sim.served import MAIN, Kind, Login, Served, served

WORKERS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("workers") / "home", Kind("workers", 2, WORKERS)) as running:
        yield running


def client_of(server: Served, login: Login = MAIN) -> Any:
    """A client with a connection of its own, so with any of the workers."""
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=login.access,
        aws_secret_access_key=login.secret,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
    )


def workers_of(server: Served) -> list[dict[str, Any]]:
    shown = siltstone("status", server.home, "--json")
    assert shown.returncode == 0, shown
    (door,) = json.loads(shown.stdout)["process"]["doors"]
    workers: list[dict[str, Any]] = door["workers"]
    return workers


def test_what_one_worker_has_answered_all_show(server: Served) -> None:
    clients = [client_of(server) for _ in range(2 * WORKERS)]
    for number, client in enumerate(clients[:3]):
        bucket = f"bucket-{number}"
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="a/key", Body=b"%d" % number)
        for other in clients:
            assert other.get_object(Bucket=bucket, Key="a/key")["Body"].read() == b"%d" % number
        client.delete_object(Bucket=bucket, Key="a/key")
        assert "Contents" not in clients[0].list_objects_v2(Bucket=bucket)
        client.delete_bucket(Bucket=bucket)
        for other in clients:
            for missing in (other.head_bucket, other.list_objects_v2):
                with pytest.raises(ClientError, match=r"404|NoSuchBucket"):
                    missing(Bucket=bucket)


def test_keys_are_known_and_forgotten_by_all_at_once(server: Served) -> None:
    clients = [client_of(server, Login("AKNEW", "a-new-secret")) for _ in range(2 * WORKERS)]
    added = siltstone("key", "add", server.home, "--access", "AKNEW", "--secret", "a-new-secret")
    assert added.returncode == 0, added
    for client in clients:
        client.list_buckets()
    assert siltstone("key", "remove", server.home, "AKNEW").returncode == 0
    for client in clients:
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            client.list_buckets()


def test_a_worker_that_dies_comes_back_and_the_others_serve_meanwhile(server: Served) -> None:
    client_of(server).create_bucket(Bucket="kept")
    before = workers_of(server)
    assert [worker["state"] for worker in before] == ["serving"] * WORKERS
    os.kill(before[0]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while [(worker["state"], worker["restarts"]) for worker in workers_of(server)] != [("serving", 1)] + [
        ("serving", 0)
    ] * (WORKERS - 1):
        assert time.monotonic() < deadline, workers_of(server)
        try:
            client_of(server).head_bucket(Bucket="kept")
        except BotoCoreError:
            continue  # the kernel had given the connection to the worker that died
    assert "started again 1 times" in siltstone("status", server.home).stdout
    for _ in range(3 * WORKERS):
        client_of(server).head_bucket(Bucket="kept")


def test_workers_are_refused_where_they_make_no_sense_and_an_address_is_not_shared_with_another_volume(
    server: Served, tmp_path: Path
) -> None:
    host, port = server.address
    assert siltstone("init", tmp_path / "one").returncode == 0
    refused = siltstone("s3", tmp_path / "one", "--listen", "127.0.0.1:0", "--s3-workers", "2")
    assert refused.returncode == 1 and "volumes of several shards" in refused.stderr
    assert siltstone("init", tmp_path / "two", "--shards", "2").returncode == 0
    refused = siltstone("s3", tmp_path / "two", "--listen", f"{host}:{port}", "--s3-workers", "2")
    assert refused.returncode == 1 and "cannot listen" in refused.stderr, refused
    assert len(refused.stderr.splitlines()) == 1
