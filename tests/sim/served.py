"""A volume of its own in a process of its own, served by S3: for tests with real clients."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Login:
    """What a client needs to know."""

    access: str
    secret: str


MAIN = Login("AKMAIN", "main-secret-key")
ALT = Login("AKALT", "alt-secret-key")


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    home: Path
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, int(port)

    def s3(self, login: Login = MAIN, **options: Any) -> Any:
        """A boto3 client that asks once."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=login.access,
            aws_secret_access_key=login.secret,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
            **options,
        )

    def resident_bytes_max(self) -> int:
        """The most memory that the process ever had in RAM."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "siltstone", *map(str, arguments)]


def _run(*arguments: str | Path) -> None:
    done = subprocess.run(_command(*arguments), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Kind:
    """How a volume is served."""

    name: str
    shards: int
    workers: int

    def __str__(self) -> str:
        return self.name


ONE_PROCESS = Kind("one process", 1, 1)
KINDS = [ONE_PROCESS, Kind("three shards", 3, 2)]
"""What behaves the same."""


def check_secrets(log: str, home: Path) -> None:
    """No secret stands in what was logged, in HOME's files, or on the disks in clear."""
    texts = [log.encode(), *((home / name).read_bytes() for name in ("keys.json", "volume.json"))]
    texts += [label.read_bytes() for label in home.glob("disks/*/label")]
    assert len(texts) > 3, "a disk has a label"
    for login in (MAIN, ALT):
        assert not any(login.secret.encode() in text for text in texts)


@contextmanager
def served(home: Path, kind: Kind = ONE_PROCESS, options: Sequence[str] = ()) -> Iterator[Served]:
    """Make a volume in ``home`` with two access keys and serve it until the end of the context. ``options``: more of
    those of `siltstone serve`."""
    _run("init", home, "--shards", str(kind.shards))
    for login, owner in ((MAIN, "main-id"), (ALT, "alt-id")):
        _run("key", "add", home, "--access", login.access, "--secret", login.secret, "--owner", owner)
    command = _command("serve", home, "--s3", "127.0.0.1:0", "--s3-workers", str(kind.workers), *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("ready s3 "):
                    break
            assert said and said[-1].startswith("ready s3 "), said
            yield Served(said[-1].split()[2], home, process)
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0, rest
            assert "Traceback" not in rest, rest
            check_secrets("".join(said) + rest, home)
        finally:
            process.kill()
