"""The word to systemd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from siltstone.notify import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_whoever_asked_for_it_hears_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(address if kind == "path" else "\0" + address[1:])
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
        assert receiving.recv(100) == b"READY=1"


def test_nobody_need_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
