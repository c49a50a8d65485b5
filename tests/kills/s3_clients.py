"""Clients of the S3 door whose requests must survive `kill -9` of shards, workers and the owner.

Each sends a request until it is answered with success, on keys of its own: so what must be there is known exactly.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sim.served import MAIN

BUCKET = "kills"
SIZES = (0, 100, 5_000, 200_000, 3_000_000)
PAUSE_SECONDS = 0.1
"""Before a request is sent again."""

PATIENCE_SECONDS = 300
"""How long one may be sent in vain."""

_PATTERN = random.Random(1).randbytes(2 * max(SIZES))


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class S3Clients:
    """Threads that put, copy, read and delete until they are told to stop."""

    def __init__(self, port: int, count: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest_seconds = 0.0
        self._url = f"http://127.0.0.1:{port}"
        self._count = count
        self._seed = seed
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._kept: list[dict[str, str]] = [{} for _ in range(count)]
        """What must be there: the MD5 of the body by key."""

    def start(self) -> None:
        """Begin."""
        self._insist(self._client(), "create_bucket", Bucket=BUCKET)
        for number in range(self._count):
            thread = threading.Thread(target=self._run, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let each come to the end of its request."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE_SECONDS)
        if self._failures:
            raise self._failures[0]
        assert not any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        """Everything that was answered is there, and nothing else."""
        client = self._client()
        kept = {key: digest for own in self._kept for key, digest in own.items()}
        found = [
            entry["Key"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            for entry in page.get("Contents", [])
        ]
        assert found == sorted(kept), set(found) ^ set(kept)
        for key, digest in kept.items():
            assert hashlib.md5(self._read(client, key)).hexdigest() == digest, key

    def _run(self, number: int) -> None:
        try:
            client, chance = self._client(), random.Random(f"{self._seed} {number}")
            while not self._over.is_set():
                begun = time.monotonic()
                self._step(client, chance, number)
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
        except BaseException as error:
            self._failures.append(error)
            raise

    def _step(self, client: Any, chance: random.Random, number: int) -> None:
        kept = self._kept[number]
        key = f"d{chance.randrange(5)}/e{chance.randrange(3)}/c{number}-{chance.randrange(6)}"
        kind = chance.choices(["put", "copy", "get", "delete"], [50, 10, 20, 20])[0]
        kind = "put" if not kept or (kind == "copy" and [*kept] == [key]) else kind
        self.counts[f"s3 {kind}s"] += 1
        if kind == "put":
            size, at = chance.choice(SIZES), chance.randrange(max(SIZES))
            body = _PATTERN[at : at + size]
            self._insist(client, "put_object", Bucket=BUCKET, Key=key, Body=body)
            kept[key] = hashlib.md5(body).hexdigest()
        elif kind == "copy":
            source = chance.choice(sorted(kept.keys() - {key}))
            self._insist(client, "copy_object", Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": source})
            kept[key] = kept[source]
        elif kind == "get":
            key = chance.choice(sorted(kept))
            assert hashlib.md5(self._read(client, key)).hexdigest() == kept[key], key
        else:
            self._insist(client, "delete_object", Bucket=BUCKET, Key=key)
            kept.pop(key, None)

    def _read(self, client: Any, key: str) -> bytes:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._insist(client, "get_object", Bucket=BUCKET, Key=key)
            try:
                body: bytes = answer["Body"].read()
                return body
            except (BotoCoreError, OSError):
                assert time.monotonic() < deadline, f"{key} cannot be read"
                time.sleep(PAUSE_SECONDS)

    def _insist(self, client: Any, method: str, **arguments: Any) -> Any:
        """Send a request until it succeeds. What is refused is a failure; what is not answered is sent again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return getattr(client, method)(**arguments)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou":
                    return None
                # A body that came late is no longer waited for: the client, or what it talks to, was stopped so long.
                if status < 500 and error.response["Error"]["Code"] != "RequestTimeout":
                    raise
                if time.monotonic() > deadline:
                    raise
            except (BotoCoreError, OSError):
                if time.monotonic() > deadline:
                    raise
            self.counts["s3 requests sent again"] += 1
            time.sleep(PAUSE_SECONDS)

    def _client(self) -> Any:
        config = Config(
            retries={"max_attempts": 0},
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=90,
        )
        return boto3.client(
            "s3",
            endpoint_url=self._url,
            aws_access_key_id=MAIN.access,
            aws_secret_access_key=MAIN.secret,
            region_name="us-east-1",
            config=config,
        )
