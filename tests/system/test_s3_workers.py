"""Several processes that serve S3 at one port, by TLS and under a domain: all see the same, and one that dies comes
back."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sim.certificates import write_certificate
from sim.command import PATIENCE_SECONDS, siltstone
from sim.served import ALT, MAIN, Kind, Login, Served, served

WORKERS = 3
DOMAIN = "s3.siltstone.test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("workers")
    files = write_certificate(folder, domains=[DOMAIN])
    options = ["--tls-cert", files.chain, "--tls-key", files.key, "--domain", "other.test", "--domain", DOMAIN]
    with served(folder / "home", Kind("workers", 2, WORKERS), options) as running:
        yield running


def client_of(server: Served, login: Login = MAIN) -> Any:
    """A client with a connection of its own, so with any of the workers."""
    return server.s3(login, verify=str(chain_of(server)))


def chain_of(server: Served) -> Path:
    """The certificate that clients trust."""
    return server.home.parent / "chain.pem"


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


def test_a_policy_counts_at_once_at_every_worker(server: Served) -> None:
    main = client_of(server)
    others = [client_of(server, ALT) for _ in range(2 * WORKERS)]
    main.create_bucket(Bucket="policies")
    main.put_object(Bucket="policies", Key="key", Body=b"bytes", Tagging="a=b")
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObjectTagging",
        "Resource": "arn:aws:s3:::policies/*",
    }

    def all_are_refused() -> None:
        for other in others:
            with pytest.raises(ClientError, match="AccessDenied"):
                other.get_object_tagging(Bucket="policies", Key="key")

    for _ in range(3):
        all_are_refused()  # so that each of them knows the bucket as it is now
        main.put_bucket_policy(Bucket="policies", Policy=json.dumps({"Statement": [statement]}))
        for other in others:
            assert other.get_object_tagging(Bucket="policies", Key="key")["TagSet"] == [{"Key": "a", "Value": "b"}]
        main.delete_bucket_policy(Bucket="policies")
    all_are_refused()


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


def test_an_address_is_not_shared_with_another_volume_and_the_number_of_workers_has_a_limit(
    server: Served, tmp_path: Path
) -> None:
    host, port = server.address
    refused = siltstone("s3", server.home, "--listen", "127.0.0.1:0", "--s3-workers", "65")
    assert refused.returncode == 1 and "--s3-workers 65: want 1 to 64" in refused.stderr
    assert siltstone("init", tmp_path / "two", "--shards", "2").returncode == 0
    refused = siltstone("s3", tmp_path / "two", "--listen", f"{host}:{port}", "--s3-workers", "2")
    assert refused.returncode == 1 and "cannot listen" in refused.stderr, refused
    assert len(refused.stderr.splitlines()) == 1


def test_a_bucket_is_a_name_under_the_domain(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    find = socket.getaddrinfo
    asked = []

    def find_here(host: str, *more: Any, **named: Any) -> Any:
        asked.append(host)
        return find("127.0.0.1", *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", find_here)
    client = boto3.client(
        "s3",
        endpoint_url=f"https://{DOMAIN}:{server.address[1]}",
        aws_access_key_id=MAIN.access,
        aws_secret_access_key=MAIN.secret,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "virtual"}),
        verify=str(chain_of(server)),
    )
    client.create_bucket(Bucket="virtual")
    client.put_object(Bucket="virtual", Key="virtual/a key", Body=b"x")
    assert f"virtual.{DOMAIN}" in asked
    assert client_of(server).get_object(Bucket="virtual", Key="virtual/a key")["Body"].read() == b"x"
    url = client.generate_presigned_url("get_object", Params={"Bucket": "virtual", "Key": "virtual/a key"})
    assert url.startswith(f"https://virtual.{DOMAIN}:")
    client.delete_object(Bucket="virtual", Key="virtual/a key")
    client.delete_bucket(Bucket="virtual")


def test_the_aws_command_speaks_tls(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(9_000_000))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": MAIN.access,
        "AWS_SECRET_ACCESS_KEY": MAIN.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_CA_BUNDLE": str(chain_of(server)),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = Path(sys.executable).parent / "aws"
    for arguments in (["mb", "s3://tls"], ["cp", file, "s3://tls/file"], ["cp", "s3://tls/file", tmp_path / "back"]):
        done = subprocess.run(
            [command, "s3", *arguments], capture_output=True, text=True, env=environment, timeout=PATIENCE_SECONDS
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def serial_of(stream: ssl.SSLSocket) -> str:
    """Which certificate a connection has."""
    found = stream.getpeercert(binary_form=True)
    assert found is not None
    return hashlib.sha256(found).hexdigest()


def connect(server: Served) -> ssl.SSLSocket:
    """A connection by hand."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(server.address, timeout=PATIENCE_SECONDS))


def test_a_hangup_signal_has_all_workers_take_the_new_certificate_and_closes_nothing(server: Served) -> None:
    def ask(stream: ssl.SSLSocket) -> bytes:
        stream.sendall(b"HEAD /nothing HTTP/1.1\r\nHost: s3\r\n\r\n")
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += stream.recv(4096)
        return received[:12]

    with connect(server) as old:
        assert ask(old) == b"HTTP/1.1 404"
        before = serial_of(old)
        good = chain_of(server).read_bytes()
        chain_of(server).write_bytes(b"nonsense")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not a certificate" in siltstone("status", server.home, "--json").stdout)
        with connect(server) as stream:
            assert serial_of(stream) == before
        chain_of(server).write_bytes(good)
        write_certificate(server.home.parent, domains=[DOMAIN])
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(has_another(server, before) for _ in range(8 * WORKERS)))
        assert "not a certificate" not in siltstone("status", server.home, "--json").stdout
        assert ask(old) == b"HTTP/1.1 404"


def has_another(server: Served, before: str) -> bool:
    """Whether a new connection, to whichever worker, has another certificate than before."""
    with connect(server) as stream:
        return serial_of(stream) != before


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
