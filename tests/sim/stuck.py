"""System calls of real disks that hang for real, in the disks' own threads, until a test lets go of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from siltstone.engine.disk import kernel
from siltstone.types import Buffer


class Stuck:
    """Calls that hang on files of one disk, from ``hang`` to ``let_go``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._hanging: set[str] = set()
        self._go = threading.Event()
        self.entered = threading.Semaphore(0)
        """Counts the calls that have begun to hang."""
        self.begun: list[str] = []
        """The calls on this disk that were begun, hanging or not."""
        write_all, read_all, fdatasync = kernel.write_all, kernel.read_all, os.fdatasync

        def write(fd: int, offset: int, buffers: Sequence[Buffer]) -> None:
            self._pass("write", fd)
            write_all(fd, offset, buffers)

        def read(fd: int, offset: int, size: int) -> bytes:
            self._pass("read", fd)
            return read_all(fd, offset, size)

        def flush(fd: int) -> None:
            self._pass("flush", fd)
            fdatasync(fd)

        # Files in memory cannot hang, so the disks of a tmpfs would make their calls in the loop.
        monkeypatch.setattr(kernel, "is_in_memory", lambda fd: False)
        monkeypatch.setattr(kernel, "write_all", write)
        monkeypatch.setattr(kernel, "read_all", read)
        monkeypatch.setattr(os, "fdatasync", flush)

    def hang(self, *calls: str) -> None:
        """From now on these do not return."""
        self._go.clear()
        self._hanging.update(calls)

    def let_go(self) -> None:
        """All go on, late."""
        self._hanging.clear()
        self._go.set()

    def _pass(self, call: str, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not path.startswith(self._folder):
            return
        self.begun.append(f"{call} {path[len(self._folder) + 1 :]}")
        if call in self._hanging:
            self.entered.release()
            self._go.wait()
